"""A set of exact k-mers, the same for both strands, that a genome streams past."""

from __future__ import annotations

from typing import Any

import numpy as np

from dnadiff.alphabet import DNA
from dnadiff.genome.loops import LAST_LETTER, LETTER, compiled

MOST = 31
"""Bases of the longest k-mer that 64 bits hold beside the mark of an empty slot."""

_EMPTY = np.uint64(2**64 - 1)
_BITS = np.uint64((len(DNA) - 1).bit_length())
_GOLDEN = np.uint64(
    0x9E3779B97F4A7C15
)  # 2^64 over the golden ratio: the high bits of the product spread keys evenly
_SPARSE = np.uint64(4)  # bits of the filter for each slot, as a power of two


class KmerSet:
    """Canonical k-mers: each is the smaller of the numbers that it and its reverse complement spell.

    They are whole numbers of 2k bits, kept as they are, in a table with open addressing that is at most three quarters
    full: what is found is there, and what is not found is not. A bitmap before the table, sixteen bits to a slot, turns
    away nearly all k-mers that are not in it. Memory is 23 to 38 bytes for each base.

    Args:
        codes: (n,) uint8 codes of bases (see `store.Store`); an unknown one parts windows that lie one after another.
        k: bases, 1 to 31.

    Raises:
        ValueError: if k is none of these.
    """

    def __init__(self, codes: np.ndarray, k: int) -> None:
        if not 1 <= k <= MOST:
            raise ValueError(f"k-mers of {k} bases: 1 to {MOST} are possible")
        bits = max(8, (4 * len(codes) // 3).bit_length())
        self.k = k
        self._shift = np.uint64(64 - bits)
        self._table = np.full(1 << bits, _EMPTY)
        self._seen = np.zeros(1 << bits, np.bool_)
        self._filter = np.zeros(1 << (bits + int(_SPARSE) - 3), np.uint8)
        self._slots = np.full(len(codes), -1)
        _insert(codes, k, self._table, self._shift, self._filter, self._slots)

    def forget(self) -> None:
        """Begins anew: no k-mer has been seen."""
        self._seen[:] = False

    def see(self, codes: np.ndarray) -> None:
        """Streams (n,) codes of known bases past the set, which marks its k-mers that are among them, on either strand.

        Several threads may do so at once.
        """
        _see(codes, self.k, self._table, self._shift, self._filter, self._seen)

    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """For each place of the codes, (n,) bool each: whether a k-mer begins there, and whether it has been seen."""
        known = self._slots >= 0
        return known, known & self._seen[self._slots]


@compiled
def _insert(codes: Any, k: Any, table: Any, shift: Any, filter_: Any, slots: Any) -> None:
    """Puts the k-mers of codes into table and filter, and the slot of each into `slots`; -1 stays where there is none.

    A k-mer is rolled: its digits move up by one letter, and those of its reverse complement down.
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
        forward = ((forward << _BITS) | np.uint64(code)) & mask
        backward = (backward >> _BITS) | (np.uint64(LAST_LETTER - code) << top)
        length += 1
        if length >= k:
            kmer = min(forward, backward)
            bit = (kmer * _GOLDEN) >> (shift - _SPARSE)
            filter_[bit >> np.uint64(3)] |= np.uint8(1) << np.uint8(bit & np.uint64(7))
            slot = bit >> _SPARSE
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
        backward = (backward >> _BITS) | (np.uint64(LAST_LETTER - code) << top)
        if i < k - 1:
            continue
        kmer = min(forward, backward)
        bit = (kmer * _GOLDEN) >> (shift - _SPARSE)
        if filter_[bit >> np.uint64(3)] >> np.uint8(bit & np.uint64(7)) & np.uint8(1):
            slot = bit >> _SPARSE
            while table[slot] != _EMPTY:
                if table[slot] == kmer:
                    seen[slot] = True
                    break
                slot = (slot + np.uint64(1)) & last
