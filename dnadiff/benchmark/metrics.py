"""Accuracy, Matthews correlation and AUROC, with intervals that respect related items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import betaincinv, ndtri, stdtrit

from dnadiff.benchmark.folds import Draw

METRICS = ("accuracy", "mcc", "auroc")
MIN_COMPONENTS = 20
"""An interval is given from this many components on: a variance cannot be estimated from fewer."""

_LOWEST = {"accuracy": 0.0, "mcc": -1.0, "auroc": 0.0}  # the highest value of each is 1
_BLOCK = 1 << 19  # resampled items at a time: what a processor's cache holds
_TAIL = 0.025
_ROUNDING = 1e-9


def score(
    labels: np.ndarray,
    probabilities: np.ndarray,
    *,
    folds: np.ndarray | None = None,
    components: np.ndarray | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> pd.DataFrame:
    """Computes the metrics of predictions, each with a 95 % interval.

    * accuracy: share of right answers, 0 to 1.
    * mcc: Matthews correlation of K classes (Gorodkin 2004), -1 to 1; 0 for a constant prediction.
    * auroc: share of pairs of a member and a non-member of a class that are in the right order,
      ties counting half, 0 to 1; the mean over classes if there are more than two. Scores of
      different models cannot be compared, so only pairs within a fold count (Forman and Scholz
      2010). NaN if there is no such pair.

    Items that overlap are not independent, so intervals are computed over components. The variance
    is that over resamples of whole components; from it follows how many independent items the data
    are worth, and from that number a beta interval (Clopper-Pearson for surveys: Korn and Graubard
    1998) on the metric scaled to 0..1. Near 0 and 1 a percentile bootstrap covers too little, since
    resamples repeat the few wrong answers that there are. Simulated for accuracies of 0.6, 0.9 and
    0.98, 20, 50 and 200 components of 1, 5, 20 or log-normally many items or with half of the items
    in one, and correlations of 0, 0.3 and 1 within them, this interval covers 0.935 to 1; it is
    conservative where wrong answers are few or one component is large.

    Intervals are NaN below MIN_COMPONENTS components (for mcc and auroc: components that hold the
    scarcest class). The same seed resamples the same items for every model.

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
    _, components = np.unique(components, return_inverse=True)
    confused = _confused(labels, probabilities)
    # With two classes, the second one's ranking is the first one's reversed.
    classes = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    rankings = [_ranking(labels == label, probabilities[:, label], folds) for label in classes]
    value = _metrics(np.ones((len(labels), 1)), confused, rankings)[0]

    evidence = _evidence(labels, probabilities.argmax(1), components)
    intervals = [(np.nan, np.nan)] * len(METRICS)
    if evidence["accuracy"].components >= MIN_COMPONENTS:
        blocks = _resamples(components, seed, resamples)
        drawn = np.concatenate([_metrics(weights, confused, rankings) for weights in blocks])
        intervals = [
            _interval(value[i], drawn[:, i], _LOWEST[name], evidence[name])
            for i, name in enumerate(METRICS)
        ]
    low, high = zip(*intervals, strict=True)
    return pd.DataFrame({"metric": METRICS, "value": value, "low": low, "high": high})


@dataclass(frozen=True)
class _Evidence:
    """What a metric's interval rests on.

    Attributes:
        limit: the number of items, where the metric cannot be known better than from that many
            independent ones; else infinite.
        components: number of components; of those with the scarcest class, where a metric compares
            classes.
        effective: how many components of equal size they are worth (Kish): (sum of sizes)^2 / sum
            of squared sizes.
        informative: number of components with a wrong answer, or with a right one if these are
            fewer.
    """

    limit: float
    components: int
    effective: float
    informative: int


def _evidence(
    labels: np.ndarray, answers: np.ndarray, components: np.ndarray
) -> dict[str, _Evidence]:
    """Returns, for each metric, what its interval rests on."""
    count = components.max() + 1
    wrong = len(np.unique(components[answers != labels]))
    right = len(np.unique(components[answers == labels]))

    sizes = np.bincount(components)
    accuracy = _Evidence(len(labels), count, _kish(sizes), min(wrong, right))

    # A correlation or a ranking is no better known than the class with the fewest components
    # allows.
    members = [np.bincount(components[labels == label]) for label in np.unique(labels)]
    scarcest = min(int((of_class > 0).sum()) for of_class in members)
    effective = min(_kish(of_class) for of_class in members)
    other = _Evidence(np.inf, scarcest, effective, min(wrong, right))
    return {"accuracy": accuracy, "mcc": other, "auroc": other}


def _kish(sizes: np.ndarray) -> float:
    """Returns the effective number of components of these sizes."""
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def _interval(
    value: float, drawn: np.ndarray, lowest: float, evidence: _Evidence
) -> tuple[float, float]:
    """Returns the 95 % interval of a metric from its values (b,) over resampled components."""
    # A resample that lacks a class has no area under the curve.
    drawn = drawn[~np.isnan(drawn)]
    if np.isnan(value) or len(drawn) < 2 or evidence.components < MIN_COMPONENTS:
        return np.nan, np.nan
    scale = 1 - lowest
    share = float(np.clip((value - lowest) / scale, 0, 1))
    at_end = min(share, 1 - share) < _ROUNDING
    # A constant prediction has the same correlation and ranking on any items.
    if not at_end and np.ptp(drawn) < _ROUNDING and np.isinf(evidence.limit):
        return value, value

    size = _effective_size(share, drawn.var() / scale**2, evidence, at_end=at_end)
    low, high = _clopper_pearson(share, size)
    return lowest + scale * low, lowest + scale * high


def _effective_size(share: float, variance: float, evidence: _Evidence, *, at_end: bool) -> float:
    """Returns how many independent items would have the interval that these components need."""
    if at_end:
        return evidence.effective
    bessel = evidence.components / (evidence.components - 1)
    # The smallest variance that floats tell from none: components may all be equally accurate.
    size = min(share * (1 - share) / max(variance * bessel, _ROUNDING**2), evidence.limit)

    # A variance that rests on few components with wrong answers is unsure: it counts for as many
    # observations as there are such components, beside one of the worst case, in which all answers
    # of a component are right or all are wrong.
    size = (evidence.informative + 1) / (evidence.informative / size + 1 / evidence.effective)

    # Student's t instead of the normal distribution, since the variance is estimated (Korn and
    # Graubard 1998, eq. 4).
    freedom = max(min(evidence.components, evidence.effective) - 1, 1)
    return float(size * (ndtri(_TAIL) / stdtrit(freedom, _TAIL)) ** 2)


def _clopper_pearson(share: float, size: float) -> tuple[float, float]:
    """Returns the exact interval of a proportion of `size` items, which need not be an integer."""
    right, wrong = share * size, (1 - share) * size
    low = betaincinv(right, wrong + 1, _TAIL) if share > _ROUNDING else 0.0
    high = betaincinv(right + 1, wrong, 1 - _TAIL) if share < 1 - _ROUNDING else 1.0
    return float(low), float(high)


def _resamples(components: np.ndarray, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """Yields blocks (n, b): how often each item counts in b resamples of the components."""
    count = components.max() + 1
    block = max(1, _BLOCK // len(components))
    for first in range(0, resamples, block):
        index = range(first, min(first + block, resamples))
        weights = np.stack([_drawn(count, (seed, Draw.BOOTSTRAP, i)) for i in index], axis=1)
        yield weights[components]


def _drawn(count: int, key: tuple[int, ...]) -> np.ndarray:
    """Returns how often each component is drawn, (count,), as a pure function of `key`."""
    drawn = np.random.default_rng(key).integers(count, size=count)
    return np.bincount(drawn, minlength=count).astype(float)


def _metrics(weights: np.ndarray, confused: np.ndarray, rankings: list[_Ranking]) -> np.ndarray:
    """Returns the metrics (b, 3) of items that count `weights` (n, b) times."""
    table = np.einsum("nij,nb->bij", confused, weights, optimize=True)
    accuracy = table.trace(axis1=1, axis2=2) / table.sum((1, 2))
    area = _mean([_auroc(weights, ranking) for ranking in rankings])
    return np.stack((accuracy, _mcc(table), area), axis=1)


def _confused(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns (n, K, K): 1 at an item's class and its most probable class, 0 elsewhere."""
    classes = probabilities.shape[1]
    confused = np.zeros((len(labels), classes, classes))
    confused[np.arange(len(labels)), labels, probabilities.argmax(1)] = 1
    return confused


def _mcc(table: np.ndarray) -> np.ndarray:
    """Returns the Matthews correlations (b,) of confusion matrices (b, K, K)."""
    total, right = table.sum((1, 2)), table.trace(axis1=1, axis2=2)
    true, predicted = table.sum(2), table.sum(1)
    covariance = right * total - (true * predicted).sum(1)
    spread_true = total**2 - (true**2).sum(1)
    spread_predicted = total**2 - (predicted**2).sum(1)
    scale = np.sqrt(spread_true * spread_predicted)
    # A constant prediction has no spread: 0 by convention.
    return np.divide(covariance, scale, out=np.zeros(len(scale)), where=scale > 0)


def _mean(areas: list[np.ndarray]) -> np.ndarray:
    """Returns the mean (b,) over the areas that are not NaN, and NaN where all are."""
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
    """Orders the items once for all resamples."""
    order = np.lexsort((scores, folds))
    new_fold = np.diff(folds[order], prepend=-1) != 0
    new_score = np.diff(scores[order], prepend=np.nan) != 0
    ties = np.flatnonzero(new_fold | new_score)
    return _Ranking(order, member[order][:, None], ties, np.flatnonzero(new_fold[ties]))


def _auroc(weights: np.ndarray, ranking: _Ranking) -> np.ndarray:
    """Returns the share (b,) of pairs of a member and a non-member in a fold that are in order."""
    ordered = weights[ranking.order]
    members = np.add.reduceat(np.where(ranking.member, ordered, 0), ranking.ties)
    others = np.add.reduceat(np.where(ranking.member, 0, ordered), ranking.ties)
    fold_members = np.add.reduceat(members, ranking.folds)
    fold_others = np.add.reduceat(others, ranking.folds)

    # Non-members below each run of ties count whole, those within it count half. The running sum
    # goes over all folds, so what lies in earlier folds is taken off again.
    below = np.cumsum(others, axis=0) - others / 2
    earlier = np.cumsum(fold_others, axis=0) - fold_others
    right = (members * below).sum(0) - (fold_members * earlier).sum(0)
    pairs = (fold_members * fold_others).sum(0)
    return np.divide(right, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
