"""Tiles, the scratch memory of kernels: up to CHUNK positions by 16 channels, in the order of the scan.

Layout, direction, storage type and odd numbers of channels all end here: what computes sees whole vectors of float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import njit

from dnadiff.ops.cpu.lanes import WIDTH, load, load_number, prefetch, store, store_number

CHUNK = 32
TILE = CHUNK * WIDTH


class Place(NamedTuple):
    """Where a tile comes from: `steps` positions of a sequence from t on, `lanes` channels from `column` on."""

    sequence: int
    t: int
    steps: int
    column: int
    lanes: int


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
def load_tile(tile: Any, source: Any, place: Any) -> None:
    """Fills the tile from rows. Lanes beyond `place.lanes` become 0."""
    at = element(source, place.sequence, place.t, place.column)
    for i in range(0, place.steps * WIDTH, WIDTH):
        if place.lanes == WIDTH:
            prefetch(source.data, at + WIDTH)
            store(tile, i, load(source.data, at))
        else:
            store(tile, i, 0.0)
            for lane in range(place.lanes):
                store_number(tile, i + lane, load_number(source.data, at + lane))
        at += source.step


@njit
def store_tile(tile: Any, target: Any, place: Any) -> None:
    """Writes the first `place.lanes` lanes of the tile to rows."""
    at = element(target, place.sequence, place.t, place.column)
    for i in range(0, place.steps * WIDTH, WIDTH):
        if place.lanes == WIDTH:
            prefetch(target.data, at + WIDTH)
            store(target.data, at, load(tile, i))
        else:
            for lane in range(place.lanes):
                store_number(target.data, at + lane, load_number(tile, i + lane))
        at += target.step
