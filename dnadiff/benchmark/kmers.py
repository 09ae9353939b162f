"""k-mers of many sequences at once, each the same for both strands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dnadiff.alphabet import DNA

_BATCH_BASES = 1 << 22
_COMPLEMENT = np.array([DNA.complement_ids[i] - DNA.first_id for i in DNA.ids])


def canonical_kmers(sequences: Sequence[str], k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The canonical k-mers of `sequences`, some millions of bases at a time.

    A k-mer is read as a number with one digit for each base; the canonical one is the smaller of it and its reverse
    complement. k-mers with a letter that is not a base are left out.

    Args:
        sequences: n sequences.
        k: length in bases, 1 to 31 (what 64 bits hold).

    Yields:
        kmers (m,) uint64 and owner (m,) int64, the sequence that each belongs to, in order.

    Raises:
        ValueError: if k is not in 1..31.
    """
    if not 1 <= k <= 31:
        raise ValueError(f"k-mers of {k} bases: 1 to 31 are possible")
    for first, batch in _batches(sequences):
        digits = (
            DNA.encode(DNA.unknown.join(batch)) - DNA.first_id
        )  # the letter between two sequences parts them
        owner = np.repeat(
            np.arange(first, first + len(batch)), [len(sequence) + 1 for sequence in batch]
        )
        known = digits < len(DNA)
        digits[~known] = 0
        kmers = np.minimum(_windows(digits, k), _windows(_COMPLEMENT[digits][::-1], k)[::-1])
        whole = _windows_known(known, k)
        yield kmers[whole], owner[: whole.size][whole]


def _batches(sequences: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """Consecutive runs of sequences of about `_BATCH_BASES` bases, each with the place of its first."""
    ends = np.cumsum([len(sequence) for sequence in sequences])
    first = 0
    while first < len(sequences):
        start = ends[first - 1] if first else 0
        after = max(first + 1, int(np.searchsorted(ends, start + _BATCH_BASES, side="right")))
        yield first, sequences[first:after]
        first = after


def _windows(digits: np.ndarray, k: int) -> np.ndarray:
    """The number that each window of k digits spells, (n - k + 1,) uint64. By doubling: log2 k passes."""
    if k == 1:
        return digits.astype(np.uint64)
    half = k // 2
    value = _windows(digits, half)
    value = value[: max(0, value.size - half)] * np.uint64(len(DNA) ** half) + value[half:]
    return value[:-1] * np.uint64(len(DNA)) + digits[k - 1 :].astype(np.uint64) if k % 2 else value


def _windows_known(known: np.ndarray, k: int) -> np.ndarray:
    """Whether all of each window of k letters are bases, (n - k + 1,) bool."""
    unknown = np.concatenate(([0], np.cumsum(~known)))
    return unknown[k:] == unknown[:-k]
