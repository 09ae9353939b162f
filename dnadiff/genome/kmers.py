"""A set of exact k-mers, equal for both strands, that marks those found in streamed sequence."""

from __future__ import annotations

from typing import Any

import numpy as np

from dnadiff.alphabet import DNA
from dnadiff.genome.loops import LAST_LETTER, LETTER, compiled, complement_code

MAX_K = 31
"""Bases of the longest k-mer: 2 bits a base, and a 64-bit value that marks an empty slot."""

_EMPTY = np.uint64(2**64 - 1)
_BITS = np.uint64((len(DNA) - 1).bit_length())
# 2^64 over the golden ratio: the high bits of the product spread keys evenly (Knuth, vol. 3, 6.4).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FILTER_BITS = np.uint64(4)  # the filter has 2^4 bits for each slot


class KmerSet:
    """Holds the canonical k-mers of a sequence, and marks those that are seen elsewhere.

    A k-mer is a number of 2 bits a base; the smaller of its own and that of its reverse complement
    is canonical. The numbers are kept in a hash table with open addressing that is at most three
    quarters full, so answers are exact. A bitmap before the table, sixteen bits a slot, rejects
    nearly all k-mers that are not in it. Memory is 23 to 38 bytes a base.

    Args:
        codes: (n,) uint8 codes of bases (see `store.Store`). An unknown base separates windows that
            follow one another.
        k: bases, 1 to `MAX_K`.

    Raises:
        ValueError: if k is out of range.
    """

    def __init__(self, codes: np.ndarray, k: int) -> None:
        if not 1 <= k <= MAX_K:
            raise ValueError(f"k-mers of {k} bases: lengths from 1 to {MAX_K} are possible")
        # The number of slots is a power of two, so that the high bits of a product are a slot.
        bits = max(8, (4 * len(codes) // 3).bit_length())
        self.k = k
        self._shift = np.uint64(64 - bits)
        self._table = np.full(1 << bits, _EMPTY)
        self._seen = np.zeros(1 << bits, np.bool_)
        self._filter = np.zeros(1 << (bits + int(_FILTER_BITS) - 3), np.uint8)
        self._slots = np.full(len(codes), -1)
        _insert(codes, k, self._table, self._shift, self._filter, self._slots)

    def forget(self) -> None:
        """Marks all k-mers as not seen."""
        self._seen[:] = False

    def see(self, codes: np.ndarray) -> None:
        """Marks the k-mers of the set that occur in known bases, on either strand.

        Several threads may call it at once: all they write is True.

        Args:
            codes: (n,) uint8, without unknown bases.
        """
        _see(codes, self.k, self._table, self._shift, self._filter, self._seen)

    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns, for each position of the set's codes, whether a k-mer begins there and was seen.

        Returns:
            (n,) bool, a k-mer begins at the position; (n,) bool, and it has been seen.
        """
        known = self._slots >= 0
        return known, known & self._seen[self._slots]


@compiled
def _insert(codes: Any, k: Any, table: Any, shift: Any, filter_: Any, slots: Any) -> None:
    """Puts the k-mers of codes into table and filter.

    The slot of the k-mer that begins at each position goes into `slots`, where -1 stays for none.
    """
    top = _BITS * np.uint64(k - 1)
    mask = (np.uint64(1) << (_BITS * np.uint64(k))) - np.uint64(1)
    last = np.uint64(len(table) - 1)
    forward = backward = np.uint64(0)
    length = 0
    for i in range(len(codes)):
        code = codes[i] & LETTER
        if code > LAST_LETTER:
            length = 0
            continue
        # The next base enters at the low end; on the other strand its complement enters at the top.
        forward = ((forward << _BITS) | np.uint64(code)) & mask
        backward = (backward >> _BITS) | (np.uint64(complement_code(code)) << top)
        length += 1
        if length >= k:
            kmer = min(forward, backward)
            bit = (kmer * _GOLDEN) >> (shift - _FILTER_BITS)
            filter_[bit >> np.uint64(3)] |= np.uint8(1) << np.uint8(bit & np.uint64(7))
            # Linear probing: the next free slot, unless the k-mer is there already.
            slot = bit >> _FILTER_BITS
            while table[slot] != _EMPTY and table[slot] != kmer:
                slot = (slot + np.uint64(1)) & last
            table[slot] = kmer
            slots[i - k + 1] = np.int64(slot)


@compiled
def _see(codes: Any, k: Any, table: Any, shift: Any, filter_: Any, seen: Any) -> None:
    """Marks the slots of the k-mers of known bases that are in the table; see `_insert`."""
    top = _BITS * np.uint64(k - 1)
    mask = (np.uint64(1) << (_BITS * np.uint64(k))) - np.uint64(1)
    last = np.uint64(len(table) - 1)
    forward = backward = np.uint64(0)
    for i in range(len(codes)):
        code = codes[i] & LETTER
        forward = ((forward << _BITS) | np.uint64(code)) & mask
        backward = (backward >> _BITS) | (np.uint64(complement_code(code)) << top)
        if i < k - 1:
            continue
        kmer = min(forward, backward)
        bit = (kmer * _GOLDEN) >> (shift - _FILTER_BITS)
        # Most k-mers end here: the filter fits into the cache, the table does not.
        if filter_[bit >> np.uint64(3)] >> np.uint8(bit & np.uint64(7)) & np.uint8(1):
            slot = bit >> _FILTER_BITS
            while table[slot] != _EMPTY:
                if table[slot] == kmer:
                    seen[slot] = True
                    break
                slot = (slot + np.uint64(1)) & last
