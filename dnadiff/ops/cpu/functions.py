"""Elementary functions on Lanes, from polynomials and the bits of a float32. NaN stays NaN.

The polynomials are minimax fits (Lawson's iteration) over the interval named at each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from dnadiff.ops.cpu.lanes import (
    absolute,
    fma,
    fraction,
    has_avx512,
    power_of_bits,
    rough_reciprocal,
    times_power,
    where_greater,
)

LOG2E = np.float32(1.4426950408889634)
LN2 = np.float32(0.6931471805599453)


@njit
def exp2_product(x: Any, y: Any) -> Any:
    """2^(x y), relative error 2e-7 for x y near 0 and 6e-8 |x y| far out; x y must lie within +-1e8."""
    return _exp2(x * y) if has_avx512() else _exp2_of_bits(x, y)


@njit
def _exp2(x: Any) -> Any:
    """2^x in eight instructions of AVX-512: a polynomial over [0, 1], exact at both ends, times a power of two."""
    rest = fraction(x)
    p = fma(1.87931865e-3, rest, 8.9909951e-3)
    p = fma(p, rest, 5.5818676e-2)
    p = fma(p, rest, 2.40159271e-1)
    p = fma(p, rest, 6.93151739e-1)
    return times_power(fma(p, rest, 1.0), x)


# Adding 1.5 * 2^23 rounds to a whole number and leaves it in the lowest bits. With 127 more, and kept between 0 and
# 255, those bits are the exponent field of the power of two, 0 standing for zero and 255 for infinity.
_ROUND = np.float32(1.5 * 2**23 + 127)
_LEAST, _MOST = np.float32(_ROUND - 127), np.float32(_ROUND + 128)


@njit
def _exp2_of_bits(x: Any, y: Any) -> Any:
    """2^(x y) on any CPU. What is left beside the next whole number lies within half a unit of 0; NaN stays NaN."""
    whole = fma(x, y, _ROUND)
    whole = where_greater(_LEAST, whole, _LEAST, whole)
    whole = where_greater(whole, _MOST, _MOST, whole)
    rest = fma(x, y, _ROUND - whole)
    p = fma(1.3264727e-3, rest, 9.671513e-3)
    p = fma(p, rest, 5.5507336e-2)
    p = fma(p, rest, 2.4022242e-1)
    p = fma(p, rest, 6.9314700e-1)
    return fma(p, rest, 1.0) * power_of_bits(whole)


@njit
def exp(x: Any) -> Any:
    """e^x, relative error 2e-7 near 0 and 6e-6 at the ends; 0 below -104, infinity above 89."""
    x = where_greater(-128.0, x, -128.0, x)
    return exp2_product(where_greater(x, 128.0, 128.0, x), LOG2E)


@njit
def reciprocal(x: Any) -> Any:
    """1 / x for normal numbers, relative error 2e-7. A step of Newton's costs a fifth of a division."""
    if not has_avx512():
        return 1.0 / x
    y = rough_reciprocal(x)
    return y * (2.0 - x * y)


@njit
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x); 1.6e-38 below -87."""
    return reciprocal(1.0 + exp(0.0 - where_greater(-87.0, x, -87.0, x)))


@njit
def softplus_slope(x: Any) -> Any:
    """The softplus of x and its slope, sigmoid(x), from one exponential."""
    m = exp(0.0 - absolute(x))
    share = reciprocal(1.0 + m)
    return fma(_log1p_ratio(m), m, where_greater(0.0, x, 0.0, x)), where_greater(
        x, 0.0, share, m * share
    )


@njit
def softplus(x: Any) -> Any:
    """log(1 + e^x) = max(x, 0) + log1p(e^-|x|), relative error 3e-7 near 0 and 6e-6 far out."""
    m = exp(0.0 - absolute(x))
    return fma(_log1p_ratio(m), m, where_greater(0.0, x, 0.0, x))


@njit
def _log1p_ratio(m: Any) -> Any:
    """log(1 + m) / m for m in [0, 1], a polynomial: less than a division costs."""
    p = fma(5.3648204e-3, m, -3.0065777e-2)
    p = fma(p, m, 7.9204515e-2)
    p = fma(p, m, -1.3753800e-1)
    p = fma(p, m, 1.9153655e-1)
    p = fma(p, m, -2.4857163e-1)
    p = fma(p, m, 3.3321324e-1)
    p = fma(p, m, -4.9999648e-1)
    return fma(p, m, 1.0)
