"""Places in the rows of a sequence, and tiles of scratch memory.

A tile holds one quantity for CHUNK positions by 16 channels, position after position. CHUNK is 32:
shorter chunks mean more states at borders to write and read, and longer ones mean tiles, decays and
states that no longer fit in the first-level cache together (8 KiB each for a quad of 32 positions).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import njit

from dnadiff.ops.cpu.lanes import WIDTH, prefetch, store

CHUNK = 32  # positions
TILE = CHUNK * WIDTH  # numbers


class Place(NamedTuple):
    """The positions t to t + steps - 1 of a sequence, in the 16 channels from `column` on."""

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
    """Returns the offset in source.data of a sequence's number at position t in a column."""
    return source.start + sequence * source.batch + t * source.step + column


@njit
def first(source: Any, place: Any) -> int:
    """Returns the offset in source.data of a place; the next position is source.step further on."""
    return element(source, place.sequence, place.t, place.column)


@njit
def prefetch_chunk(source: Any, place: Any, chunks: int) -> None:
    """Prefetches the place that is `chunks` chunks further on; it need not exist.

    The CPU's own prefetching follows neighbouring cache lines, but two rows of a block are a whole
    row of channels apart. A row of 16 float32 numbers is one cache line, so one request a row does.
    """
    at = first(source, place) + chunks * CHUNK * source.step
    for _ in range(CHUNK):
        prefetch(source.data, at)
        at += source.step
