"""Canonical k-mers of many sequences at once, which are the same for both strands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dnadiff.alphabet import DNA

_BATCH_BASES = 1 << 22


def canonical_kmers(sequences: Sequence[str], k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the canonical k-mers of `sequences`, some millions of bases at a time.

    A k-mer is read as a number with one digit for each base; the canonical one is the smaller of it
    and its reverse complement. k-mers with a letter that is not a base are left out.

    Args:
        sequences: n sequences.
        k: length in bases, 1 to 31 (what 64 bits hold).

    Yields:
        kmers (m,) uint64 and owner (m,) int64, the sequence that each belongs to, in order.

    Raises:
        ValueError: if k is not in 1..31.
    """
    if not 1 <= k <= 31:
        raise ValueError(f"k must be 1 to 31 bases, got {k}")
    complement = np.array(DNA.complement_ids)
    for first, batch in _batches(sequences):
        # An unknown letter between two sequences, so that no k-mer reaches from one into the next.
        tokens = DNA.encode(DNA.unknown.join(batch))
        sizes = [len(sequence) + 1 for sequence in batch]
        owner = np.repeat(np.arange(first, first + len(batch)), sizes)

        # Unknown letters get the digit of some base; their k-mers are left out below.
        known = tokens < DNA.unknown_id
        tokens[~known] = DNA.first_id
        forward = _windows(tokens - DNA.first_id, k)
        reverse = _windows(complement[tokens][::-1] - DNA.first_id, k)[::-1]
        kmers = np.minimum(forward, reverse)
        whole = _windows_known(known, k)
        yield kmers[whole], owner[: whole.size][whole]


def _batches(sequences: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """Yields runs of sequences of about `_BATCH_BASES` bases, with the position of their first."""
    ends = np.cumsum([len(sequence) for sequence in sequences])
    first = 0
    while first < len(sequences):
        start = ends[first - 1] if first else 0
        after = max(first + 1, int(np.searchsorted(ends, start + _BATCH_BASES, side="right")))
        yield first, sequences[first:after]
        first = after


def _windows(digits: np.ndarray, k: int) -> np.ndarray:
    """Returns the number (n - k + 1,) uint64 that each window of k digits spells.

    It takes log2(k) passes over the digits.
    """
    if k == 1:
        return digits.astype(np.uint64)
    half = k // 2
    value = _windows(digits, half)
    # Two neighbouring windows of half the length make one.
    value = value[: max(0, value.size - half)] * np.uint64(len(DNA) ** half) + value[half:]
    if k % 2:
        value = value[:-1] * np.uint64(len(DNA)) + digits[k - 1 :].astype(np.uint64)
    return value


def _windows_known(known: np.ndarray, k: int) -> np.ndarray:
    """Returns whether all letters of each window of k are bases, (n - k + 1,) bool."""
    unknown = np.concatenate(([0], np.cumsum(~known)))
    return unknown[k:] == unknown[:-k]
