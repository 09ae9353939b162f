"""Quads: four Lanes as a tuple, e.g. four states of 16 channels, their decay rates, or gradients.

One vector at a time would leave the CPU waiting, since each instruction of a recurrence needs the
result of the one before; four independent ones fill the wait. More than four do not fit in the
registers beside the constants of exp2. In memory a quad is 64 consecutive numbers. Where a function
takes a quad it also takes four plain numbers, each the same for all channels: B or C at a position.

The tuples are written out, because Numba unrolls no loop over a tuple of Lanes.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from dnadiff.ops.cpu.lanes import WIDTH, fma, load, load_number, store

QUAD = 4  # Lanes
QUAD_WIDTH = QUAD * WIDTH  # numbers


@njit
def load_quad(array: Any, offset: int) -> Any:
    """Returns the quad in the 64 numbers from `offset` on."""
    return (
        load(array, offset),
        load(array, offset + WIDTH),
        load(array, offset + 2 * WIDTH),
        load(array, offset + 3 * WIDTH),
    )


@njit
def store_quad(array: Any, offset: int, x: Any) -> None:
    """Writes the 64 numbers of a quad from `offset` on."""
    store(array, offset, x[0])
    store(array, offset + WIDTH, x[1])
    store(array, offset + 2 * WIDTH, x[2])
    store(array, offset + 3 * WIDTH, x[3])


@njit
def load_numbers(array: Any, offset: int) -> Any:
    """Returns the four plain numbers from `offset` on."""
    return (
        load_number(array, offset),
        load_number(array, offset + 1),
        load_number(array, offset + 2),
        load_number(array, offset + 3),
    )


@njit
def scale(x: Any, y: Any) -> Any:
    """Returns the quad x, each of its Lanes times the Lanes y."""
    return x[0] * y, x[1] * y, x[2] * y, x[3] * y


@njit
def scale_add(x: Any, y: Any, z: Any) -> Any:
    """Returns the quad x, each of its Lanes times the Lanes y, plus the quad z."""
    return fma(x[0], y, z[0]), fma(x[1], y, z[1]), fma(x[2], y, z[2]), fma(x[3], y, z[3])


@njit
def multiply(x: Any, y: Any) -> Any:
    """Returns quad times quad."""
    return x[0] * y[0], x[1] * y[1], x[2] * y[2], x[3] * y[3]


@njit
def multiply_add(x: Any, y: Any, z: Any) -> Any:
    """Returns quad times quad plus quad."""
    return (
        fma(x[0], y[0], z[0]),
        fma(x[1], y[1], z[1]),
        fma(x[2], y[2], z[2]),
        fma(x[3], y[3], z[3]),
    )


@njit
def dot(x: Any, y: Any, start: Any) -> Any:
    """Returns the Lanes `start` plus the sum of the four products of quad and quad."""
    # In a fixed order, as every sum of these kernels, so that results are the same in each run.
    return fma(x[0], y[0], fma(x[1], y[1], fma(x[2], y[2], fma(x[3], y[3], start))))
