"""GC content, of the whole sequence and of every window of some length."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from dnadiff.alphabet import Alphabet
from dnadiff.errors import InputError, UsageError

_SLACK = 1e-9  # 0.6 of 50 bases is 30 bases, whatever the rounding error of 0.6


class Share(NamedTuple):
    """A range of the GC content, of every window of `window` bases or (None) of the sequence."""

    name: str
    low: float
    high: float
    window: int | None


class Shares(NamedTuple):
    """Ranges of the GC content for the kernels. A window longer than the sequence is the sequence.

    Attributes:
        sizes: (G,) int64, bases of a window.
        low: (G,) int64, the smallest number of G and C in a window.
        high: (G,) int64, the largest.
        least: (B, G, L) int32, how many G and C the window that begins here has at least.
        most: (B, G, L) int32, how many it can have at most.
        gc: the letters G and C, as a set.
        others: all other letters, as a set.
    """

    sizes: np.ndarray
    low: np.ndarray
    high: np.ndarray
    least: np.ndarray
    most: np.ndarray
    gc: int
    others: int


def parse_share(text: str) -> Share:
    """Reads a range of the GC content from "LOW:HIGH" or "LOW:HIGH:WINDOW".

    Raises:
        UsageError: if it is neither, or if the bounds are not in order within 0 to 1.
    """
    match = re.fullmatch(r"(\d*\.?\d+):(\d*\.?\d+)(?::([1-9]\d*))?", text)
    if match is None or not float(match[1]) <= float(match[2]) <= 1:
        raise UsageError(
            f"gc {text}: write LOW:HIGH or LOW:HIGH:WINDOW with shares from 0 to 1, as in"
            " 0.4:0.6:50"
        )
    window = int(match[3]) if match[3] else None
    return Share(f"gc {text}", float(match[1]), float(match[2]), window)


def compile_shares(shares: Sequence[Share], rows: int, length: int, alphabet: Alphabet) -> Shares:
    """Returns the ranges for (rows, length) sequences in which every position is open.

    Raises:
        InputError: naming a range that no whole number of bases falls into.
    """
    gc = sum(1 << i for i, letter in enumerate(alphabet.letters) if letter in "GC")
    sizes = np.array([min(share.window or length, length) for share in shares], np.int64)

    bounds = np.zeros((len(shares), 2), np.int64)
    for row, share, size in zip(bounds, shares, sizes.tolist(), strict=True):
        low, high = math.ceil(share.low * size - _SLACK), math.floor(share.high * size + _SLACK)
        if low > high:
            raise InputError(
                f"{share.name}: no number of G and C in {size} bases has such a share; widen it"
            )
        row[:] = low, high

    # While every position is open a window has at least none and at most all of its bases G or C.
    least = np.zeros((rows, len(sizes), length), np.int32)
    most = np.broadcast_to(sizes[:, None].astype(np.int32), least.shape).copy()
    others = (1 << len(alphabet)) - 1 - gc
    return Shares(sizes, bounds[:, 0].copy(), bounds[:, 1].copy(), least, most, gc, others)


@njit
def forbidden(shares: Any, row: int, letters: int, place: int) -> int:
    """Returns the letters, G and C or the others, of which one more would violate a range.

    Args:
        shares: the ranges.
        row: of the batch.
        letters: the letters that are still open at `place`.
        place: the position.
    """
    found = 0
    # A position with letters of one kind only has been counted as that kind already.
    if letters & shares.gc == 0 or letters & shares.others == 0:
        return found
    for g in range(len(shares.sizes)):
        size = shares.sizes[g]
        for i in range(max(0, place - size + 1), min(place, shares.least.shape[2] - size) + 1):
            if shares.least[row, g, i] >= shares.high[g]:
                found |= shares.gc
            if shares.most[row, g, i] <= shares.low[g]:
                found |= shares.others
    return found


@njit
def change(shares: Any, row: int, place: int, before: int, after: int) -> None:
    """Updates the counts when the set of letters at `place` changes."""
    # A position counts towards `least` if only G and C are left, towards `most` if either is.
    least = int(after & shares.others == 0) - int(before & shares.others == 0)
    most = int(after & shares.gc != 0) - int(before & shares.gc != 0)
    if least == 0 and most == 0:
        return
    for g in range(len(shares.sizes)):
        size = shares.sizes[g]
        for i in range(max(0, place - size + 1), min(place, shares.least.shape[2] - size) + 1):
            shares.least[row, g, i] += least
            shares.most[row, g, i] += most


def violated(
    shares: Shares, names: Sequence[str], row: int, letters: int, place: int
) -> Iterator[tuple[str, int]]:
    """Yields the name of each range and the letters that it forbids at a position.

    Args:
        shares: the ranges.
        names: of each range.
        row: of the batch.
        letters: the letters that are still open at `place`.
        place: the position.
    """
    # The kernel reports the letters that any range forbids, so it is called with one at a time.
    for g, name in enumerate(names):
        one = shares._replace(
            sizes=shares.sizes[g : g + 1],
            low=shares.low[g : g + 1],
            high=shares.high[g : g + 1],
            least=shares.least[:, g : g + 1],
            most=shares.most[:, g : g + 1],
        )
        yield name, forbidden.py_func(one, row, letters, place)
