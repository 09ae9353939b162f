"""The loops behind windows, compiled: where window number i lies, and what letters are there.

A window costs one draw of a few random numbers and one pass over its bases. What remains is moving bytes: one read and
eight written for each base.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from dnadiff.alphabet import DNA
from dnadiff.genome.store import SOFT_MASK

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_FIRST_ID = np.int64(DNA.first_id)
_MASKED = np.uint8(SOFT_MASK)

LETTER = np.uint8(SOFT_MASK - 1)
"""The bits of a code that say which letter it is."""

LAST_LETTER = np.uint8(len(DNA) - 1)
"""Code of the last letter; what is above it is unknown."""

# The letters of DNA are in an order in which the complement is as far from the end as the letter from the beginning.
# Arithmetic is vectorised, and a table would not be.
assert DNA.complement == DNA.letters[::-1]


def compiled(function: Callable) -> Any:
    """The function as machine code that runs without the interpreter's lock; kept on disk where that is possible."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder can be written
        return numba.njit(nogil=True)(function)


# ---- random numbers ------------------------------------------------------------------------------


@compiled
def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Four 32-bit words for a counter and a key of 32-bit words, all in uint64; see `dnadiff.rng.philox`."""
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & _LOW, (k1 + np.uint64(0xBB67AE85)) & _LOW
    return c0, c1, c2, c3


@compiled
def chances(seed: Any, stream: Any, index: Any) -> Any:
    """The first two numbers of ``dnadiff.rng.uniform(seed, stream, index, 2)``, for uint64 arguments."""
    high = (stream << np.uint64(24)) | (index >> _HALF)
    a, b, c, d = philox(np.uint64(0), np.uint64(0), index & _LOW, high, seed & _LOW, seed >> _HALF)
    return _chance(a, b), _chance(c, d)


@compiled
def _chance(high: Any, low: Any) -> Any:
    return (np.float64((high << np.uint64(20)) | (low >> np.uint64(12))) + 0.5) * 2.0**-52


MAX_LISTED = 1024
"""Size of the longest order that is made as a list: see `random_order` and `shuffled`."""


@compiled
def random_order(order: Any, seed: Any, stream: Any, turn: Any) -> None:
    """Fills `order` (n,) int64 with 0..n-1 in a random order, each order equally likely.

    This is the shuffle of Fisher and Yates. `turn` is the number of the order.
    """
    tag = (stream << np.uint64(24)) | (turn >> _HALF)
    for i in range(len(order)):
        order[i] = i
    for i in range(len(order) - 1, 0, -1):
        # The second counter is not 0, so no number is one of those of `chances`.
        high, low, _, _ = philox(
            np.uint64(0), np.uint64(i), turn & _LOW, tag, seed & _LOW, seed >> _HALF
        )
        j = np.int64(_chance(high, low) * (i + 1))
        order[i], order[j] = order[j], order[i]


@compiled
def shuffled(place: Any, size: Any, seed: Any, stream: Any, turn: Any) -> Any:
    """Returns what stands at `place` in a random order of 0..size-1, without a list; all uint64.

    For long orders only: the orders of few numbers that it makes are not equally likely.

    A Feistel network permutes the numbers of 2b bits, b the least for which `size` of them are enough, whatever its
    round function (Luby and Rackoff 1988). Where it leads beyond the list it is applied again until it leads back
    (cycle walking, Black and Rogaway 2002), which leaves a permutation of the list. `turn` is the number of the order.
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


# ---- windows -------------------------------------------------------------------------------------


@compiled
def random_starts(
    index: Any, seed: Any, streams: Any, through: Any, density: Any, low: Any, high: Any
) -> Any:
    """Row and start of random windows.

    Args:
        index: (B,) uint64, numbers of windows.
        seed: uint64.
        streams: (2,) uint64, streams of places and of strands.
        through: (n,) float64, mass of the rows up to and with each.
        density: (n,) float64, mass of each start of a row.
        low: (n,) int64, first start of each row.
        high: (n,) int64, first place behind its last start.

    Returns:
        row (B,) int64, start (B,) int64, reverse (B,) bool, whether the coin of the strand fell on "-".
    """
    row, start, reverse = _places(len(index))
    for i in range(len(index)):
        mass = chances(seed, streams[0], index[i])[0] * through[-1]
        j = min(np.searchsorted(through, mass, "right"), len(low) - 1)
        before = through[j - 1] if j else 0.0
        row[i] = j
        start[i] = min(low[j] + np.int64((mass - before) / density[j]), high[j] - 1)
        reverse[i] = chances(seed, streams[1], index[i])[0] < 0.5
    return row, start, reverse


@compiled
def permuted_tiles(
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
    """Row and start of tiles, each of which comes once in every ``through[-1]`` consecutive numbers.

    Args:
        index: (B,) uint64, numbers of windows.
        seed: uint64.
        streams: (2,) uint64, streams of places and of strands.
        through: (n,) int64, number of tiles of the rows up to and with each.
        first: (n,) int64, start of the first tile of each row.
        step: from one tile of a row to the next.
        jitter: most bases by which a tile is moved; it stays in low..high-1 of its row.
        low: (n,) int64.
        high: (n,) int64.

    Returns:
        As `random_starts`.
    """
    row, start, reverse = _places(len(index))
    total = np.uint64(through[-1])
    listed = total <= MAX_LISTED
    order = np.empty(np.int64(total) if listed else 0, np.int64)
    last_turn = np.uint64(0)
    for i in range(len(index)):
        turn, place = index[i] // total, index[i] % total
        # Consecutive numbers share a turn, so a list is rarely made anew.
        if listed and (i == 0 or turn != last_turn):
            random_order(order, seed, streams[0], turn)
            last_turn = turn
        if listed:
            rank = order[place]
        else:
            rank = np.int64(shuffled(place, total, seed, streams[0], turn))

        j = np.searchsorted(through, rank, "right")
        shift = np.int64(chances(seed, streams[0], index[i])[1] * (2 * jitter + 1)) - jitter
        before = through[j - 1] if j else 0
        row[i] = j
        start[i] = min(max(first[j] + (rank - before) * step + shift, low[j]), high[j] - 1)
        reverse[i] = chances(seed, streams[1], index[i])[0] < 0.5
    return row, start, reverse


@compiled
def _places(count: int) -> Any:
    return np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.bool_)


@compiled
def gather(codes: Any, start: Any, reverse: Any, tokens: Any) -> None:
    """Writes the token ids of windows.

    Args:
        codes: (bases,) uint8; see `store.Store`.
        start: (B,) int64, places of their first bases.
        reverse: (B,) bool, whether to take the reverse complement.
        tokens: (B, L) int64, for the result.
    """
    length = tokens.shape[1]
    for i in range(len(start)):
        window = codes[start[i] : start[i] + length]
        if reverse[i]:
            for j in range(length):
                code = window[j] & LETTER
                tokens[i, length - 1 - j] = _FIRST_ID + np.int64(
                    code if code > LAST_LETTER else LAST_LETTER - code
                )
        else:
            for j in range(length):
                tokens[i, j] = _FIRST_ID + np.int64(window[j] & LETTER)


@compiled
def gather_weights(codes: Any, start: Any, reverse: Any, masked: Any, weights: Any) -> None:
    """Writes `masked` where a base is soft-masked and 1 elsewhere into `weights` (B, L) float32; else as `gather`."""
    length = weights.shape[1]
    for i in range(len(start)):
        window = codes[start[i] : start[i] + length]
        for j in range(length):
            place = length - 1 - j if reverse[i] else j
            weights[i, place] = masked if window[j] & _MASKED else np.float32(1.0)
