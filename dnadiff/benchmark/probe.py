"""The protocol `linear`: frozen backbone, pooled embeddings, logistic regression."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dnadiff.benchmark.logistic import fit_logistic
from dnadiff.benchmark.plan import Plan, make_plan
from dnadiff.benchmark.protocol import Embed, EvaluationProtocol, out_of_fold

_CHUNK = 256


def probe(embed: Embed, plan: Plan, seed: int, progress: Callable[[int, int], None]) -> np.ndarray:
    """Fits logistic regressions on embeddings, which are computed once for all sequences.

    Args:
        embed: the model's embedding function.
        plan: the items and their folds.
        seed: of the inner folds that choose the regularisation strength.
        progress: called with (sequences done, all).

    Returns:
        (n, K) probabilities, NaN for items that are not scored.

    Raises:
        ValueError: if `embed` does not return one finite row for each sequence.
    """
    return out_of_fold(plan, embeddings(embed, plan.sequences, progress), fit_logistic, seed)


def embeddings(
    embed: Embed, sequences: list[str], progress: Callable[[int, int], None]
) -> np.ndarray:
    """Computes the embeddings (n, d) of n sequences, a few hundred at a time."""
    # Sequences of similar length go together, so that a model has little to pad.
    order = np.argsort([len(sequence) for sequence in sequences], kind="stable")
    parts = []
    for first in range(0, len(order), _CHUNK):
        chunk = order[first : first + _CHUNK]
        parts.append(_checked(embed([sequences[i] for i in chunk]), len(chunk)))
        progress(min(first + _CHUNK, len(order)), len(order))
    # The inverse permutation restores the order of the sequences.
    return np.concatenate(parts)[np.argsort(order)]


def _checked(values: np.ndarray, count: int) -> np.ndarray:
    """Returns the embeddings of `count` sequences; refuses all but one finite row for each."""
    values = np.asarray(values)
    if values.ndim != 2 or len(values) != count or not np.isfinite(values).all():
        raise ValueError(f"embeddings of {count} sequences: shape {values.shape}, or not finite")
    return values


LINEAR = EvaluationProtocol("linear", make_plan, probe)
