"""Logistic regression whose strength is chosen on the training items alone."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from dnadiff.benchmark.folds import assign, spread

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
INNER_FOLDS = 3
_SELECTION_ITEMS = (
    20_000  # as many as tell the strengths apart; the chosen one is fitted on all items
)
_MOST_ITERATIONS = 500


def fit_logistic(
    features: np.ndarray, labels: np.ndarray, components: np.ndarray, seed: int
) -> Pipeline:
    """A logistic regression (multinomial for more than two classes) on standardised features.

    Its inverse L2 penalty is the one of STRENGTHS with the smallest log loss over three grouped inner folds.

    Args:
        features: (n, d).
        labels: (n,) class ids, each of at least one item.
        components: (n,) items that no inner fold may part.
        seed: of the inner folds.
    """
    # One thread: the sums, and so the numbers, are then the same everywhere; and a busy machine is no slower for it.
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        # A weakly penalised fit that is stopped early has only one more penalty, and is validated as it is.
        warnings.simplefilter("ignore", ConvergenceWarning)
        sample = spread(labels, _SELECTION_ITEMS, seed)
        strength = _strength(features[sample], labels[sample], components[sample], seed)
        model = LogisticRegression(C=strength, max_iter=_MOST_ITERATIONS)
        return make_pipeline(StandardScaler(), model).fit(features, labels)


def _strength(features: np.ndarray, labels: np.ndarray, components: np.ndarray, seed: int) -> float:
    """The best of STRENGTHS, tried from the strongest penalty on until one is no better than the last.

    Without an inner fold, because the items are too few or all joined, it is the 1 that is the library's own.
    """
    folds = _inner_folds(features, labels, components, seed)
    if not folds:
        return 1.0
    best, least = STRENGTHS[0], np.inf
    models = [LogisticRegression(max_iter=_MOST_ITERATIONS, warm_start=True) for _ in folds]
    for strength in STRENGTHS:
        loss = 0.0
        for model, (x, y, x_valid, y_valid) in zip(models, folds, strict=True):
            model.set_params(C=strength).fit(x, y)
            loss += log_loss(y_valid, model.predict_proba(x_valid), labels=model.classes_)
        if loss >= least:
            break
        best, least = strength, loss
    return best


_Fold = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _inner_folds(
    features: np.ndarray, labels: np.ndarray, components: np.ndarray, seed: int
) -> list[_Fold]:
    """Standardised features and labels to fit on, and to validate on, for each fold that has all that is needed."""
    fold = assign(labels, components, INNER_FOLDS, seed)
    found = []
    for inner in range(INNER_FOLDS):
        train, valid = fold != inner, fold == inner
        if valid.any() and len(np.unique(labels[train])) == len(np.unique(labels)):
            scaler = StandardScaler().fit(features[train])
            found.append(
                (
                    scaler.transform(features[train]),
                    labels[train],
                    scaler.transform(features[valid]),
                    labels[valid],
                )
            )
    return found
