"""Elementary functions on Lanes, from polynomials and the bits of a float32. NaN stays NaN.

The polynomials are minimax fits (Lawson's iteration) over the interval named at each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from dnadiff.ops.cpu.lanes import absolute, fma, minus, times_power, where_greater, whole_product

LOG2E = np.float32(1.4426950408889634)
LN2 = np.float32(0.6931471805599453)


@njit
def exp2_product(x: Any, y: Any) -> Any:
    """2^(x y), relative error 2e-7 for a normal result; x y must lie within +-1e8.

    What is left of x y beside a whole number lies within half a unit of 0, and there 2^rest is a polynomial. Both times
    x y is inside a fused multiply-add, so that it is not rounded.
    """
    whole = whole_product(x, y)
    rest = fma(x, y, minus(whole))
    p = fma(1.3264727e-3, rest, 9.671513e-3)
    p = fma(p, rest, 5.5507336e-2)
    p = fma(p, rest, 2.4022242e-1)
    p = fma(p, rest, 6.9314700e-1)
    return times_power(fma(p, rest, 1.0), whole)


@njit
def exp(x: Any) -> Any:
    """e^x, relative error 2e-7 near 0 and 1.3e-6 at the ends; 0 below -104, infinity above 89."""
    x = where_greater(-128.0, x, -128.0, x)
    return exp2_product(where_greater(x, 128.0, 128.0, x), LOG2E)


@njit
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x)."""
    return 1.0 / (1.0 + exp(0.0 - x))


@njit
def softplus(x: Any) -> Any:
    """log(1 + e^x) = max(x, 0) + log1p(m) with m = e^-|x|, relative error 3e-7 near 0 and 1.3e-6 far out.

    log1p(m) / m is a polynomial over [0, 1], which costs less than a division.
    """
    m = exp(0.0 - absolute(x))
    p = fma(5.3648204e-3, m, -3.0065777e-2)
    p = fma(p, m, 7.9204515e-2)
    p = fma(p, m, -1.3753800e-1)
    p = fma(p, m, 1.9153655e-1)
    p = fma(p, m, -2.4857163e-1)
    p = fma(p, m, 3.3321324e-1)
    p = fma(p, m, -4.9999648e-1)
    return fma(fma(p, m, 1.0), m, where_greater(0.0, x, 0.0, x))
