"""The weights of a mixer, in the form that every backend takes."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class DirectionWeights(NamedTuple):
    """The weights of one direction: D channels, R the rank of the step size, N states.

    Attributes:
        conv_weight: filters (D, W).
        conv_bias: (D,), or None.
        x_proj: to the step size's R numbers, B and C (R + 2 N, D).
        dt_proj: from those R numbers to the step sizes (D, R).
        dt_bias: (D,).
        A: decay rates (D, N), negative.
        D: skip weights (D,).
        reverse: whether this direction runs right to left.
    """

    conv_weight: Tensor
    conv_bias: Tensor | None
    x_proj: Tensor
    dt_proj: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor
    reverse: bool
