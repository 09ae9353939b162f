"""Elementary functions on Lanes, from polynomials and the bits of a float32. NaN stays NaN.

The polynomials are minimax fits (Lawson's iteration) over the interval named at each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from dnadiff.ops.cpu.lanes import absolute, add_to_exponent, fma, where_greater

LOG2E = np.float32(1.4426950408889634)
LN2 = np.float32(0.6931471805599453)
_ROUND = np.float32(1.5 * 2**23 + 127)
_ZERO = np.float32(1.5 * 2**23)  # the rounded sum at which the power of two is 0
_INFINITY = np.float32(1.5 * 2**23 + 255)


@njit
def exp2_product(x: Any, y: Any) -> Any:
    """2^(x y), relative error 2e-7; 0 below -126.5, infinity above 127.5; x y must lie within +-1e8.

    Adding 1.5 * 2^23 rounds x y to a whole number, which is then found in the lowest bits; 127 more, and those bits are
    the exponent field of that power of two, with 0 for zero and 255 for infinity. What is left of x y lies within half
    a unit of 0. Both x y are inside a fused multiply-add, so that they are not rounded.
    """
    shifted = fma(x, y, _ROUND)
    shifted = where_greater(_ZERO, shifted, _ZERO, shifted)
    shifted = where_greater(shifted, _INFINITY, _INFINITY, shifted)
    rest = fma(x, y, _ROUND - shifted)
    p = fma(1.3264727e-3, rest, 9.671513e-3)
    p = fma(p, rest, 5.5507336e-2)
    p = fma(p, rest, 2.4022242e-1)
    p = fma(p, rest, 6.9314700e-1)
    return add_to_exponent(fma(p, rest, 1.0), shifted)


@njit
def exp(x: Any) -> Any:
    """e^x, relative error 2e-7 near 0 and 1.3e-6 at the ends; 0 below -87.7, infinity above 88.4."""
    x = where_greater(-128.0, x, -128.0, x)
    return exp2_product(where_greater(x, 128.0, 128.0, x), LOG2E)


@njit
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x)."""
    return 1.0 / (1.0 + exp(0.0 - x))


@njit
def softplus(x: Any) -> Any:
    """log(1 + e^x) = max(x, 0) + log1p(m) with m = e^-|x|, relative error 3e-7 near 0 and 1.3e-6 far out.

    log1p(m) = 2 artanh(s), s = m / (2 + m) in [0, 1/3]; the odd series of artanh in s^2 keeps its precision for small m.
    """
    m = exp(0.0 - absolute(x))
    s = m / (2.0 + m)
    s2 = s * s
    p = fma(2.8012015e-1, s2, 2.8001803e-1)
    p = fma(p, s2, 4.0021527e-1)
    p = fma(p, s2, 6.6666418e-1)
    p = fma(p, s2, 2.0)
    return fma(p, s, where_greater(0.0, x, 0.0, x))
