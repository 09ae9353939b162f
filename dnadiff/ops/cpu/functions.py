"""Elementary functions on Lanes, from polynomials and the bits of a float32. NaN stays NaN.

Everything rests on 2^x = 2^floor(x) 2^(x - floor(x)): the first factor is the exponent field of a
float32, the second is a polynomial over an interval of length 1. Polynomials are minimax fits
(Lawson's iteration), with the smallest degree whose relative error is below 2^-23 = 1.2e-7, the
distance of neighbouring float32. In float32 arithmetic the results are right to about 2e-7.
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

# e^x = 2^(x log2(e)), and log(x) = log2(x) log(2).
LOG2E = np.float32(1.4426950408889634)
LN2 = np.float32(0.6931471805599453)


@njit
def exp2_product(x: Any, y: Any) -> Any:
    """Returns 2^(x y); x y must lie within +-1e8.

    The relative error is 2e-7 for x y near 0, and 6e-8 |x y| far out, where the product's own
    rounding dominates.
    """
    # Which of the two it is is known when a kernel is compiled, and the other one is left out.
    return _exp2(x * y) if has_avx512() else _exp2_of_bits(x, y)


@njit
def _exp2(x: Any) -> Any:
    """Returns 2^x in eight instructions of AVX-512.

    The polynomial of degree 5 over [0, 1] is exact at both ends (1 at 0, 2 at 1), so that the
    result is continuous where x passes a whole number. The polynomial's own relative error is 9e-8.
    """
    # Horner's scheme, from the highest coefficient down; the last one, 1, makes 2^0 exact.
    rest = fraction(x)
    p = fma(1.87931865e-3, rest, 8.9909951e-3)
    p = fma(p, rest, 5.5818676e-2)
    p = fma(p, rest, 2.40159271e-1)
    p = fma(p, rest, 6.93151739e-1)
    return times_power(fma(p, rest, 1.0), x)


# Floats from 2^23 to 2^24 lie 1 apart. Adding 1.5 * 2^23 therefore rounds x to a whole number and
# leaves it in the lowest bits of the sum (1.5 and not 1, so that negative x stay in that range).
# With 127 more, and kept between 0 and 255, those bits are the exponent field of the power of two:
# 127 is the exponent bias of float32, a field of 0 stands for zero, and one of 255 for infinity.
_ROUND = np.float32(1.5 * 2**23 + 127)
_MIN_FIELD, _MAX_FIELD = np.float32(_ROUND - 127), np.float32(_ROUND + 128)


@njit
def _exp2_of_bits(x: Any, y: Any) -> Any:
    """Returns 2^(x y) on any CPU, from the nearest whole number to x y and the rest.

    The polynomial of degree 5 is over [-1/2, 1/2], where its own relative error is 1.1e-7.
    """
    whole = fma(x, y, _ROUND)
    whole = where_greater(_MIN_FIELD, whole, _MIN_FIELD, whole)
    whole = where_greater(whole, _MAX_FIELD, _MAX_FIELD, whole)
    # x y is not rounded on its own here: the fused product minus the whole number is exact.
    rest = fma(x, y, _ROUND - whole)
    p = fma(1.3264727e-3, rest, 9.671513e-3)
    p = fma(p, rest, 5.5507336e-2)
    p = fma(p, rest, 2.4022242e-1)
    p = fma(p, rest, 6.9314700e-1)
    return fma(p, rest, 1.0) * power_of_bits(whole)


@njit
def exp(x: Any) -> Any:
    """Returns e^x, with a relative error of 2e-7 near 0 and 6e-6 at the ends of the range."""
    # Below -104 e^x is 0 and above 89 infinity; exp2_product takes no infinite arguments.
    x = where_greater(-128.0, x, -128.0, x)
    return exp2_product(where_greater(x, 128.0, 128.0, x), LOG2E)


@njit
def reciprocal(x: Any) -> Any:
    """Returns 1 / x for normal numbers, relative error 2e-7.

    A step of Newton's method doubles the 14 right bits of the CPU's estimate, for a fifth of the
    time of a division.
    """
    if not has_avx512():
        return 1.0 / x
    y = rough_reciprocal(x)
    return y * (2.0 - x * y)


@njit
def sigmoid(x: Any) -> Any:
    """Returns 1 / (1 + e^-x)."""
    # Below -87 the result stays at 1.6e-38: 1 + e^-x must be finite for `reciprocal`.
    return reciprocal(1.0 + exp(0.0 - where_greater(-87.0, x, -87.0, x)))


@njit
def softplus_slope(x: Any) -> Any:
    """Returns the softplus of x and its slope, sigmoid(x), from one exponential."""
    m = exp(0.0 - absolute(x))
    value = fma(_log1p_ratio(m), m, where_greater(0.0, x, 0.0, x))
    # sigmoid(x) is 1 / (1 + m) for positive x, and m / (1 + m) for negative x.
    share = reciprocal(1.0 + m)
    return value, where_greater(x, 0.0, share, m * share)


@njit
def softplus(x: Any) -> Any:
    """Returns log(1 + e^x) = max(x, 0) + log1p(e^-|x|).

    Written so, the exponential never overflows, and no threshold is needed above which x itself is
    returned. The relative error is 3e-7 near 0 and 6e-6 far out.
    """
    m = exp(0.0 - absolute(x))
    return fma(_log1p_ratio(m), m, where_greater(0.0, x, 0.0, x))


@njit
def _log1p_ratio(m: Any) -> Any:
    """Returns log(1 + m) / m for m in [0, 1], from a polynomial of degree 8.

    The quotient and not log(1 + m) is fitted, so that its relative error is as small near 0: 8e-8.
    """
    p = fma(5.3648204e-3, m, -3.0065777e-2)
    p = fma(p, m, 7.9204515e-2)
    p = fma(p, m, -1.3753800e-1)
    p = fma(p, m, 1.9153655e-1)
    p = fma(p, m, -2.4857163e-1)
    p = fma(p, m, 3.3321324e-1)
    p = fma(p, m, -4.9999648e-1)
    return fma(p, m, 1.0)
