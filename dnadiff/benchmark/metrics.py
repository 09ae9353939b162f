"""Accuracy, Matthews correlation and area under the ROC curve, with intervals by bootstrap over components."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dnadiff.benchmark.folds import Draw

METRICS = ("accuracy", "mcc", "auroc")
_BLOCK = 1 << 19  # resampled items at a time: what a processor's cache holds


def score(
    labels: np.ndarray,
    probabilities: np.ndarray,
    *,
    folds: np.ndarray | None = None,
    components: np.ndarray | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> pd.DataFrame:
    """The metrics of predictions, each with a 95 % interval.

    * accuracy: share of right answers, 0 to 1.
    * mcc: Matthews correlation of K classes (Gorodkin 2004), -1 to 1; 0 for a constant prediction.
    * auroc: share of pairs of a member and a non-member of a class that are in the right order, ties counting half,
      0 to 1; the mean over classes if there are more than two. Scores of different models cannot be compared, so only
      pairs within a fold count (Forman and Scholz 2010). NaN if there is no such pair.

    Intervals are percentiles over resamples of whole components, because items that overlap are not independent; they
    are NaN if there is one component only. The same seed resamples the same items for every model.

    Args:
        labels: (n,) class ids.
        probabilities: (n, K).
        folds: (n,) the model that made each prediction; one if not given.
        components: (n,) what is resampled together; single items if not given.
        seed: of the resamples.
        resamples: how many.

    Returns:
        Rows of metric, value, low, high, in the order of METRICS.
    """
    folds = np.zeros(len(labels), np.int64) if folds is None else folds
    components = np.arange(len(labels)) if components is None else components
    confused = _confused(labels, probabilities)
    classes = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    rankings = [_ranking(labels == label, probabilities[:, label], folds) for label in classes]
    value = _metrics(np.ones((len(labels), 1)), confused, rankings)[0]
    drawn = [
        _metrics(weights, confused, rankings) for weights in _resamples(components, seed, resamples)
    ]
    low, high = zip(*(_interval(column) for column in np.concatenate(drawn).T), strict=True)
    return pd.DataFrame({"metric": METRICS, "value": value, "low": low, "high": high})


def _interval(values: np.ndarray) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    low, high = np.percentile(values, [2.5, 97.5]) if values.size else (np.nan, np.nan)
    return float(low), float(high)


def _resamples(components: np.ndarray, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """How often each item counts when components are drawn with replacement: blocks of weights (n, b)."""
    names, inverse = np.unique(components, return_inverse=True)
    count = len(names)
    block = max(1, _BLOCK // len(components))
    for first in range(0, resamples, block):
        index = range(first, min(first + block, resamples))
        weights = np.stack([_drawn(count, (seed, Draw.BOOTSTRAP, i)) for i in index], axis=1)
        yield weights[inverse] if count > 1 else np.full((len(components), len(index)), np.nan)


def _drawn(count: int, key: tuple[int, ...]) -> np.ndarray:
    """How often each of `count` components comes up in as many draws: (count,), a pure function of `key`."""
    return np.bincount(
        np.random.default_rng(key).integers(count, size=count), minlength=count
    ).astype(float)


def _metrics(weights: np.ndarray, confused: np.ndarray, rankings: list[_Ranking]) -> np.ndarray:
    """(b, 3): the metrics of items that count `weights` (n, b)."""
    table = np.einsum("nij,nb->bij", confused, weights, optimize=True)
    accuracy = table.trace(axis1=1, axis2=2) / table.sum((1, 2))
    return np.stack(
        (accuracy, _mcc(table), _mean([_auroc(weights, ranking) for ranking in rankings])), axis=1
    )


def _confused(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(n, K, K): one where an item's class and the likeliest class cross."""
    classes = probabilities.shape[1]
    confused = np.zeros((len(labels), classes, classes))
    confused[np.arange(len(labels)), labels, probabilities.argmax(1)] = 1
    return confused


def _mcc(table: np.ndarray) -> np.ndarray:
    """(b,) from confusion matrices (b, K, K)."""
    total, right = table.sum((1, 2)), table.trace(axis1=1, axis2=2)
    true, said = table.sum(2), table.sum(1)
    covariance = right * total - (true * said).sum(1)
    scale = np.sqrt((total**2 - (true**2).sum(1)) * (total**2 - (said**2).sum(1)))
    return np.divide(covariance, scale, out=np.where(np.isnan(scale), np.nan, 0.0), where=scale > 0)


def _mean(areas: list[np.ndarray]) -> np.ndarray:
    """(b,): the mean over those of several (b,) that are not NaN, and NaN if all are."""
    table = np.ma.masked_invalid(np.stack(areas))
    return table.mean(0).filled(np.nan)


@dataclass(frozen=True)
class _Ranking:
    """Items ordered by fold, then by score.

    Attributes:
        order: (n,) items.
        member: (n, 1) whether each, in that order, is of the class.
        ties: where runs of equal score begin.
        folds: where, among those runs, folds begin.
    """

    order: np.ndarray
    member: np.ndarray
    ties: np.ndarray
    folds: np.ndarray


def _ranking(member: np.ndarray, scores: np.ndarray, folds: np.ndarray) -> _Ranking:
    order = np.lexsort((scores, folds))
    new_fold = np.diff(folds[order], prepend=-1) != 0
    ties = np.flatnonzero(new_fold | (np.diff(scores[order], prepend=np.nan) != 0))
    return _Ranking(order, member[order][:, None], ties, np.flatnonzero(new_fold[ties]))


def _auroc(weights: np.ndarray, ranking: _Ranking) -> np.ndarray:
    """(b,): of all pairs of a member and a non-member within a fold, the share in the right order."""
    ordered = weights[ranking.order]
    members = np.add.reduceat(np.where(ranking.member, ordered, 0), ranking.ties)
    others = np.add.reduceat(np.where(ranking.member, 0, ordered), ranking.ties)
    fold_members, fold_others = (
        np.add.reduceat(counts, ranking.folds) for counts in (members, others)
    )
    earlier = np.cumsum(fold_others, axis=0) - fold_others
    below = np.cumsum(others, axis=0) - others / 2
    right = (members * below).sum(0) - (fold_members * earlier).sum(0)
    pairs = (fold_members * fold_others).sum(0)
    return np.divide(right, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
