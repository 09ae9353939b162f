"""Compiled loops that place windows in a genome and copy their bases.

A window costs a few random numbers and one pass over its bases. What remains is moving bytes: one
is read and eight are written for each base.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dnadiff.alphabet import DNA
from dnadiff.genome.store import SOFT_MASK
from dnadiff.kernel_cache import compile_kernel

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_FIRST_ID = np.int64(DNA.first_id)
_MASKED = np.uint8(SOFT_MASK)

LETTER = np.uint8(SOFT_MASK - 1)
"""Bits of a code that hold the letter, without the soft mask."""

LAST_LETTER = np.uint8(len(DNA) - 1)
"""Code of the last letter; a code above it is unknown."""

# `complement_code` relies on the order of the letters: the complement is as far from the end as the
# letter is from the beginning. Such arithmetic is vectorised by the compiler, a table would not be.
assert DNA.complement == DNA.letters[::-1]


def compiled(function: Callable) -> Any:
    """Compiles a function to machine code that is kept on disk and runs without the GIL."""
    return compile_kernel(function, nogil=True)


@compiled
def complement_code(code: Any) -> Any:
    """Returns the code of the complement of a letter, which must be known."""
    return LAST_LETTER - code


# ---- random numbers


@compiled
def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Returns four 32-bit words for a counter and a key, all uint64; see `dnadiff.rng.philox`."""
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & _LOW, (k1 + np.uint64(0xBB67AE85)) & _LOW
    return c0, c1, c2, c3


@compiled
def chances(seed: Any, stream: Any, index: Any) -> Any:
    """Returns the two numbers of ``rng.uniform(seed, stream, index, 2)``, for uint64 arguments."""
    high = (stream << np.uint64(24)) | (index >> _HALF)
    a, b, c, d = philox(np.uint64(0), np.uint64(0), index & _LOW, high, seed & _LOW, seed >> _HALF)
    return _chance(a, b), _chance(c, d)


@compiled
def _chance(high: Any, low: Any) -> Any:
    """Returns a float64 in (0, 1) from two 32-bit words: 52 bits, and half a unit to exclude 0."""
    return (np.float64((high << np.uint64(20)) | (low >> np.uint64(12))) + 0.5) * 2.0**-52


@compiled
def shuffled(place: Any, size: Any, seed: Any, stream: Any, turn: Any) -> Any:
    """Returns the number at `place` in a random order of 0..size-1, without making the list.

    A Feistel network permutes the numbers of 2b bits, whatever its round function (Luby and Rackoff
    1988); b is the least for which they are enough. A result beyond the list is permuted again
    until it is inside (cycle walking, Black and Rogaway 2002), which leaves a permutation of the
    list.

    Args:
        place: from 0 to size - 1.
        size: length of the list.
        seed: of the run.
        stream: what the order is for.
        turn: number of the order. All arguments are uint64.
    """
    bits = np.uint64(1)
    while (size - np.uint64(1)) >> (np.uint64(2) * bits):
        bits += np.uint64(1)
    mask = (np.uint64(1) << bits) - np.uint64(1)
    tag = (stream << np.uint64(24)) | (turn >> _HALF)
    while True:
        left, right = place >> bits, place & mask
        for r in range(1, 5):
            word = philox(right, np.uint64(r), turn & _LOW, tag, seed & _LOW, seed >> _HALF)[0]
            left, right = right, left ^ (word & mask)
        place = (left << bits) | right
        if place < size:
            return place


# ---- windows


@compiled
def draw(
    index: Any, seed: Any, streams: Any, through: Any, density: Any, low: Any, high: Any
) -> Any:
    """Draws row and start of random windows.

    Args:
        index: (B,) uint64, numbers of windows.
        seed: uint64.
        streams: (2,) uint64, streams of places and of strands.
        through: (n,) float64, cumulative weight of the rows.
        density: (n,) float64, weight of each start of a row.
        low: (n,) int64, first start of each row.
        high: (n,) int64, one more than its last start.

    Returns:
        row (B,) int64, start (B,) int64, and reverse (B,) bool, True for the "-" strand.
    """
    row, start, reverse = _places(len(index))
    for i in range(len(index)):
        weight = chances(seed, streams[0], index[i])[0] * through[-1]
        # Rounding may carry the weight to the very end of the last row: both are clamped.
        j = min(np.searchsorted(through, weight, "right"), len(low) - 1)
        before = through[j - 1] if j else 0.0
        row[i] = j
        start[i] = min(low[j] + np.int64((weight - before) / density[j]), high[j] - 1)
        reverse[i] = chances(seed, streams[1], index[i])[0] < 0.5
    return row, start, reverse


@compiled
def deal(
    index: Any,
    seed: Any,
    streams: Any,
    through: Any,
    first: Any,
    step: Any,
    jitter: Any,
    low: Any,
    high: Any,
) -> Any:
    """Draws row and start of tiles, each once in every ``through[-1]`` consecutive numbers.

    Args:
        index: (B,) uint64, numbers of windows.
        seed: uint64.
        streams: (2,) uint64, streams of places and of strands.
        through: (n,) int64, cumulative number of tiles of the rows.
        first: (n,) int64, start of the first tile of each row.
        step: from one tile of a row to the next.
        jitter: largest shift of a tile, in bases; it stays in low..high-1 of its row.
        low: (n,) int64, as in `draw`.
        high: (n,) int64, as in `draw`.

    Returns:
        As `draw`.
    """
    row, start, reverse = _places(len(index))
    total = np.uint64(through[-1])
    for i in range(len(index)):
        # Each pass over all tiles has an order of its own.
        rank = np.int64(shuffled(index[i] % total, total, seed, streams[0], index[i] // total))
        j = np.searchsorted(through, rank, "right")
        shift = np.int64(chances(seed, streams[0], index[i])[1] * (2 * jitter + 1)) - jitter
        before = through[j - 1] if j else 0
        row[i] = j
        start[i] = min(max(first[j] + (rank - before) * step + shift, low[j]), high[j] - 1)
        reverse[i] = chances(seed, streams[1], index[i])[0] < 0.5
    return row, start, reverse


@compiled
def _places(count: int) -> Any:
    """Returns uninitialised rows, starts and strands for `count` windows."""
    return np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.bool_)


@compiled
def gather(codes: Any, start: Any, reverse: Any, tokens: Any) -> None:
    """Writes the token ids of windows.

    Args:
        codes: (bases,) uint8; see `store.Store`.
        start: (B,) int64, flat positions of their first bases.
        reverse: (B,) bool, whether to take the reverse complement.
        tokens: (B, L) int64, for the result.
    """
    length = tokens.shape[1]
    for i in range(len(start)):
        window = codes[start[i] : start[i] + length]
        if reverse[i]:
            for j in range(length):
                code = window[j] & LETTER
                # An unknown base is its own complement.
                if code <= LAST_LETTER:
                    code = complement_code(code)
                tokens[i, length - 1 - j] = _FIRST_ID + np.int64(code)
        else:
            for j in range(length):
                tokens[i, j] = _FIRST_ID + np.int64(window[j] & LETTER)


@compiled
def gather_weights(codes: Any, start: Any, reverse: Any, masked: Any, weights: Any) -> None:
    """Writes weights (B, L) float32: `masked` for a soft-masked base, else 1; see `gather`."""
    length = weights.shape[1]
    for i in range(len(start)):
        window = codes[start[i] : start[i] + length]
        for j in range(length):
            place = length - 1 - j if reverse[i] else j
            weight = masked if window[j] & _MASKED else np.float32(1.0)
            weights[i, place] = weight
