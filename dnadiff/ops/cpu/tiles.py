"""Places in the rows of a sequence, and tiles: scratch memory for up to CHUNK positions by 16 channels."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import njit

from dnadiff.ops.cpu.lanes import WIDTH, prefetch, store

CHUNK = 32
TILE = CHUNK * WIDTH


class Place(NamedTuple):
    """`steps` positions of a sequence from t on, 16 channels from `column` on."""

    sequence: int
    t: int
    steps: int
    column: int


@njit
def clear(memory: Any, size: int) -> None:
    """Sets `size` numbers, a multiple of 16, to 0."""
    for i in range(0, size, WIDTH):
        store(memory, i, 0.0)


@njit
def element(source: Any, sequence: int, t: int, column: int) -> int:
    """Where the number of a sequence at position t, in the given column, lies in source.data."""
    return source.start + sequence * source.batch + t * source.step + column


@njit
def first(source: Any, place: Any) -> int:
    """Where the place begins in source.data; the next position is source.step further on."""
    return element(source, place.sequence, place.t, place.column)


@njit
def prefetch_chunk(source: Any, place: Any, chunks: int) -> None:
    """Starts to bring near the place that is so many chunks further on; it need not exist.

    Rows are far apart in memory, which the CPU's own prefetching does not see through.
    """
    at = first(source, place) + chunks * CHUNK * source.step
    for _ in range(CHUNK):
        prefetch(source.data, at)
        at += source.step
