"""The share of G and C, of the whole sequence and of every window of some length."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from dnadiff.alphabet import Alphabet
from dnadiff.errors import InputError, UsageError

_SLACK = 1e-9  # 0.6 of 50 bases is 30 of them, whatever the rounding of 0.6


class Share(NamedTuple):
    """Bounds on the share of G and C in every window of `window` bases, or in the whole sequence where that is None."""

    name: str
    low: float
    high: float
    window: int | None


class Shares(NamedTuple):
    """Shares for the kernels. A window that is longer than the sequence is the sequence.

    Attributes:
        sizes, low, high: (G,) int64, bases in a window and the bounds on its number of G and C.
        least, most: (B, G, L) int32, how many G and C the window that begins here will have.
        gc, others: the letters G and C, and all others, as sets.
    """

    sizes: np.ndarray
    low: np.ndarray
    high: np.ndarray
    least: np.ndarray
    most: np.ndarray
    gc: int
    others: int


def parse_share(text: str) -> Share:
    """A share from "LOW:HIGH" or "LOW:HIGH:WINDOW".

    Raises:
        UsageError: if it is neither, or the bounds are not in order within 0 to 1.
    """
    match = re.fullmatch(r"(\d*\.?\d+):(\d*\.?\d+)(?::([1-9]\d*))?", text)
    if match is None or not float(match[1]) <= float(match[2]) <= 1:
        raise UsageError(
            f"--gc {text}: LOW:HIGH or LOW:HIGH:WINDOW is needed, shares from 0 to 1, e.g. 0.4:0.6:50"
        )
    return Share(
        f"--gc {text}", float(match[1]), float(match[2]), int(match[3]) if match[3] else None
    )


def compile_shares(shares: Sequence[Share], rows: int, length: int, alphabet: Alphabet) -> Shares:
    """The shares for (rows, length) sequences in which every letter is open.

    Raises:
        InputError: naming a share that no number of letters has.
    """
    gc = sum(1 << i for i, letter in enumerate(alphabet.letters) if letter in "GC")
    sizes = np.array([min(share.window or length, length) for share in shares], np.int64)
    bounds = [
        (math.ceil(share.low * size - _SLACK), math.floor(share.high * size + _SLACK))
        for share, size in zip(shares, sizes.tolist(), strict=True)
    ]
    for share, size, (low, high) in zip(shares, sizes.tolist(), bounds, strict=True):
        if low > high:
            raise InputError(
                f"{share.name}: no number of G and C in {size} bases has such a share; widen it"
            )
    low, high = np.array(bounds, np.int64).reshape(-1, 2).T
    least = np.zeros((rows, len(sizes), length), np.int32)
    most = np.broadcast_to(sizes[:, None].astype(np.int32), least.shape).copy()
    return Shares(sizes, low.copy(), high.copy(), least, most, gc, (1 << len(alphabet)) - 1 - gc)


@njit
def forbidden(shares: Any, row: int, letters: int, place: int) -> int:
    """G and C, or the others, where one more would leave no way to keep the bounds; `letters` are still open there."""
    found = 0
    if (
        letters & shares.gc == 0 or letters & shares.others == 0
    ):  # it has been counted as the one or the other already
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
    """Counts anew when the set of letters at `place` changes."""
    least = int(after & shares.others == 0) - int(before & shares.others == 0)
    most = int(after & shares.gc != 0) - int(before & shares.gc != 0)
    if least == 0 and most == 0:
        return
    for g in range(len(shares.sizes)):
        size = shares.sizes[g]
        for i in range(max(0, place - size + 1), min(place, shares.least.shape[2] - size) + 1):
            shares.least[row, g, i] += least
            shares.most[row, g, i] += most


def culprits(
    shares: Shares, names: Sequence[str], row: int, letters: int, place: int
) -> Iterator[tuple[str, int]]:
    """Name of each share, and the letters that it forbids at `place`, where `letters` are still open."""
    for g, name in enumerate(names):
        one = shares._replace(
            sizes=shares.sizes[g : g + 1],
            low=shares.low[g : g + 1],
            high=shares.high[g : g + 1],
            least=shares.least[:, g : g + 1],
            most=shares.most[:, g : g + 1],
        )
        yield name, forbidden.py_func(one, row, letters, place)
