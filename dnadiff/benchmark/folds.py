"""Folds that do not leak: sequences that share a stretch of DNA are never parted."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dnadiff.alphabet import DNA
from dnadiff.benchmark.kmers import canonical_kmers
from dnadiff.rng import Stream, uniform

_OTHER_STRAND = str.maketrans(DNA.letters, DNA.complement or "")


class Draw(IntEnum):
    """What a random number of the stream FOLD is for (its `step`)."""

    ORDER = 0
    SAMPLE = 1
    BOOTSTRAP = 2


def groups(sequences: Sequence[str], k: int = 31) -> np.ndarray:
    """Connected components of the graph that joins two sequences with a common k-mer, on either strand.

    k-mers with a letter that is not a base join nothing. A sequence without any whole k-mer is joined to its exact
    copies, on either strand. Time and memory are linear in the bases, but for one sort.

    Returns:
        (n,) int64, the component of each sequence, 0, 1, ...
    """
    batches = [*canonical_kmers(sequences, k)]
    kmers = np.concatenate([np.empty(0, np.uint64), *(kmers for kmers, _ in batches)])
    owner = np.concatenate([np.empty(0, np.int64), *(owner for _, owner in batches)])
    del batches
    order = np.argsort(kmers)
    same = np.flatnonzero(kmers[order[1:]] == kmers[order[:-1]])
    left, right = _copies(sequences, np.setdiff1d(np.arange(len(sequences)), owner))
    left = np.concatenate((left, owner[order[same]]))
    right = np.concatenate((right, owner[order[same + 1]]))
    joined = coo_array(
        (np.ones(left.size, np.int8), (left, right)), shape=(len(sequences), len(sequences))
    )
    return connected_components(joined, directed=False)[1].astype(np.int64)


def _copies(sequences: Sequence[str], which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (left, right) that join each of the sequences `which` to the first that equals it on either strand."""
    first: dict[str, int] = {}
    for i in which.tolist():
        first.setdefault(_canonical(sequences[i]), i)
    return np.array([first[_canonical(sequences[i])] for i in which.tolist()], np.int64), which


def _canonical(sequence: str) -> str:
    return min(sequence, sequence.translate(_OTHER_STRAND)[::-1])


def assign(labels: np.ndarray, components: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """A fold for each item, so that no component is parted and the classes are spread as evenly as that allows.

    Components are placed from the largest to the smallest, equal ones in a random order, each where its classes are
    scarcest. A component larger than a fold should be makes that fold larger; folds stay empty if there are fewer
    components than folds.

    Args:
        labels: (n,) class ids.
        components: (n,) components, as `groups` gives them.
        folds: number of folds.
        seed: of the order of equal components.

    Returns:
        (n,) int64 in 0..folds-1.
    """
    _, components = np.unique(components, return_inverse=True)
    counts = np.zeros((components.max() + 1, labels.max() + 1))
    np.add.at(counts, (components, labels), 1)
    share = counts / np.maximum(counts.sum(0), 1)
    chance = uniform(seed, Stream.FOLD, torch.arange(len(counts)), 1, step=Draw.ORDER)[:, 0].numpy()
    fold_of = np.empty(len(counts), np.int64)
    load = np.zeros((folds, counts.shape[1]))
    for i in np.lexsort((chance, -counts.sum(1))):
        fold_of[i] = np.argmin(load @ share[i])  # where the sum of squared loads grows least
        load[fold_of[i]] += share[i]
    return fold_of[components]


def spread(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Indices, in order, of a random sample of about `size` items with every class at its share, or one at least."""
    chance = uniform(seed, Stream.FOLD, torch.arange(len(labels)), 1, step=Draw.SAMPLE)[
        :, 0
    ].numpy()
    if size >= len(labels):
        return np.arange(len(labels))
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = max(1, round(size * len(members) / len(labels)))
        chosen.append(members[np.argsort(chance[members])[:count]])
    return np.sort(np.concatenate(chosen))
