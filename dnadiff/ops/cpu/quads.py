"""Four Lanes at a time, as a tuple: four states of 16 channels, or their decay rates, or their gradients.

Four is what fits in the registers beside the constants of exp2. In memory a quad is 64 numbers in a row. Where a quad
is expected four plain numbers do as well, each the same for all channels: the B or C of a position.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from dnadiff.ops.cpu.lanes import WIDTH, fma, load, load_number, store

QUAD = 4
QUAD_WIDTH = QUAD * WIDTH


@njit
def load_quad(array: Any, offset: int) -> Any:
    """The 64 numbers from `offset` on."""
    return (
        load(array, offset),
        load(array, offset + WIDTH),
        load(array, offset + 2 * WIDTH),
        load(array, offset + 3 * WIDTH),
    )


@njit
def store_quad(array: Any, offset: int, x: Any) -> None:
    """Writes 64 numbers from `offset` on."""
    store(array, offset, x[0])
    store(array, offset + WIDTH, x[1])
    store(array, offset + 2 * WIDTH, x[2])
    store(array, offset + 3 * WIDTH, x[3])


@njit
def load_numbers(array: Any, offset: int) -> Any:
    """The four numbers from `offset` on."""
    return (
        load_number(array, offset),
        load_number(array, offset + 1),
        load_number(array, offset + 2),
        load_number(array, offset + 3),
    )


@njit
def scale(x: Any, y: Any) -> Any:
    """Quad x, each times the Lanes y."""
    return x[0] * y, x[1] * y, x[2] * y, x[3] * y


@njit
def scale_add(x: Any, y: Any, z: Any) -> Any:
    """Quad x, each times the Lanes y, plus the quad z."""
    return fma(x[0], y, z[0]), fma(x[1], y, z[1]), fma(x[2], y, z[2]), fma(x[3], y, z[3])


@njit
def multiply(x: Any, y: Any) -> Any:
    """Quad times quad."""
    return x[0] * y[0], x[1] * y[1], x[2] * y[2], x[3] * y[3]


@njit
def multiply_add(x: Any, y: Any, z: Any) -> Any:
    """Quad times quad plus quad."""
    return (
        fma(x[0], y[0], z[0]),
        fma(x[1], y[1], z[1]),
        fma(x[2], y[2], z[2]),
        fma(x[3], y[3], z[3]),
    )


@njit
def dot(x: Any, y: Any, start: Any) -> Any:
    """The Lanes `start`, plus the sum of the four products of quad and quad."""
    return fma(x[0], y[0], fma(x[1], y[1], fma(x[2], y[2], fma(x[3], y[3], start))))
