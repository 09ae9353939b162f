"""Folds that do not leak: sequences that share a stretch of DNA are always in the same one."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dnadiff.alphabet import DNA
from dnadiff.benchmark.kmers import canonical_kmers
from dnadiff.genome.labelled import fingerprint
from dnadiff.rng import Stream, uniform


class Draw(IntEnum):
    """What a random number of the stream FOLD is for (its `step`)."""

    ORDER = 0
    SAMPLE = 1
    BOOTSTRAP = 2


def groups(sequences: Sequence[str], k: int = 31) -> np.ndarray:
    """Finds the connected components of sequences that share a k-mer on either strand.

    k-mers with a letter that is not a base join nothing. A sequence without any whole k-mer is
    joined to its exact copies, on either strand. Time and memory are linear in the number of bases,
    except for one sort.

    Returns:
        (n,) int64, the component of each sequence, 0, 1, ...
    """
    batches = [*canonical_kmers(sequences, k)]
    kmers = np.concatenate([np.empty(0, np.uint64), *(kmers for kmers, _ in batches)])
    owner = np.concatenate([np.empty(0, np.int64), *(owner for _, owner in batches)])
    # The lists hold as much as the arrays do: for a large task, gigabytes.
    del batches

    # Sorting brings equal k-mers together; it is enough to join each to the next.
    order = np.argsort(kmers)
    same = np.flatnonzero(kmers[order[1:]] == kmers[order[:-1]])
    without = np.setdiff1d(np.arange(len(sequences)), owner)
    left = np.concatenate((_first_copies(sequences, without), owner[order[same]]))
    right = np.concatenate((without, owner[order[same + 1]]))

    edges = (np.ones(left.size, np.int8), (left, right))
    joined = coo_array(edges, shape=(len(sequences), len(sequences)))
    return connected_components(joined, directed=False)[1].astype(np.int64)


def _first_copies(sequences: Sequence[str], which: np.ndarray) -> np.ndarray:
    """Returns, for each of the sequences `which`, the first that equals it on either strand."""
    first: dict[bytes, int] = {}
    found = []
    for i in which.tolist():
        key = fingerprint(torch.from_numpy(DNA.encode(sequences[i])))
        found.append(first.setdefault(key, i))
    return np.array(found, np.int64)


def assign(labels: np.ndarray, components: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Assigns a fold to each item, keeping components whole and classes as even as that allows.

    Components are placed from the largest to the smallest, equal ones in a random order, each in
    the fold where its classes are rarest. A component that is larger than a fold makes its fold
    larger than the others; folds stay empty if there are fewer components than folds.

    Args:
        labels: (n,) class ids.
        components: (n,) components, as `groups` returns them.
        folds: number of folds.
        seed: of the order of equal components.

    Returns:
        (n,) int64 in 0..folds-1.
    """
    _, components = np.unique(components, return_inverse=True)
    counts = np.zeros((components.max() + 1, labels.max() + 1))
    np.add.at(counts, (components, labels), 1)
    # In shares of each class, so that a rare class counts as much as a frequent one.
    share = counts / np.maximum(counts.sum(0), 1)

    chance = _chances(len(counts), seed, Draw.ORDER)
    fold_of = np.empty(len(counts), np.int64)
    load = np.zeros((folds, counts.shape[1]))
    for i in np.lexsort((chance, -counts.sum(1))):
        # The fold where the sum of squared loads grows least.
        fold_of[i] = np.argmin(load @ share[i])
        load[fold_of[i]] += share[i]
    return fold_of[components]


def spread(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Draws a sample of about `size` items, with every class at its share, but one item at least.

    Args:
        labels: (n,) class ids.
        size: how many items; all of them are taken if there are no more.
        seed: of the sample.

    Returns:
        Indices (m,) in ascending order.
    """
    if size >= len(labels):
        return np.arange(len(labels))
    chance = _chances(len(labels), seed, Draw.SAMPLE)
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        # At least one, since every class must be there to fit and to score.
        count = max(1, round(size * len(members) / len(labels)))
        chosen.append(members[np.argsort(chance[members])[:count]])
    return np.sort(np.concatenate(chosen))


def _chances(count: int, seed: int, draw: Draw) -> np.ndarray:
    """Returns uniform random numbers (count,)."""
    return uniform(seed, Stream.FOLD, torch.arange(count), 1, step=draw)[:, 0].numpy()
