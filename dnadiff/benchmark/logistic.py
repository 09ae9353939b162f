"""Logistic regression whose regularisation strength is chosen on the training items alone."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, make_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from dnadiff.benchmark.folds import assign, spread

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse L2 penalties to choose from, as scikit-learn's C."""

INNER_FOLDS = 3
_SELECTION_ITEMS = 20_000  # enough to choose a strength by; the final fit is on all items
_MAX_ITERATIONS = 500


def fit_logistic(
    features: np.ndarray, labels: np.ndarray, components: np.ndarray, seed: int
) -> Pipeline:
    """Fits a logistic regression (multinomial for more than two classes) on standardised features.

    Its inverse L2 penalty is the one of STRENGTHS with the smallest mean log loss over three
    grouped inner folds, and of equal ones the smallest. Without an inner fold, because the items
    are too few or all joined, it is 1.

    Args:
        features: (n, d).
        labels: (n,) class ids, each of at least one item.
        components: (n,) items that no inner fold may separate.
        seed: of the inner folds.

    Returns:
        A scaler and a classifier, fitted.
    """
    # One thread: the sums, and so the numbers, are then the same everywhere; and a busy machine is
    # no slower for it.
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        # A weakly penalised fit that is stopped early only acts as if it had one more penalty, and
        # is validated as such.
        warnings.simplefilter("ignore", ConvergenceWarning)
        sample = spread(labels, _SELECTION_ITEMS, seed)
        strength = _strength(features[sample], labels[sample], components[sample], seed)
        return _model(strength).fit(features, labels)


def _model(strength: float) -> Pipeline:
    """Returns a scaler and a classifier, not fitted yet."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=_MAX_ITERATIONS))


def _strength(features: np.ndarray, labels: np.ndarray, components: np.ndarray, seed: int) -> float:
    """Returns the best of STRENGTHS over the inner folds; 1, scikit-learn's default, without."""
    folds = _inner_folds(labels, components, seed)
    if not folds:
        return 1.0
    # The classes are named, since a fold to validate on may lack one.
    loss = make_scorer(
        log_loss,
        greater_is_better=False,
        response_method="predict_proba",
        labels=np.unique(labels),
    )
    grid = {"logisticregression__C": STRENGTHS}
    search = GridSearchCV(_model(1.0), grid, scoring=loss, cv=folds, refit=False)
    search.fit(features, labels)
    return float(search.cv_results_["param_logisticregression__C"][search.best_index_])


def _inner_folds(
    labels: np.ndarray, components: np.ndarray, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Indices to fit on and to validate on, for each fold that leaves every class to fit on."""
    fold = assign(labels, components, INNER_FOLDS, seed)
    classes = len(np.unique(labels))
    found = []
    for inner in range(INNER_FOLDS):
        train, valid = np.flatnonzero(fold != inner), np.flatnonzero(fold == inner)
        if valid.size and len(np.unique(labels[train])) == classes:
            found.append((train, valid))
    return found
