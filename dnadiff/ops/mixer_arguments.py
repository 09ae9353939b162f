"""The weights of a mixer, in the form that every backend takes."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class DirectionWeights(NamedTuple):
    """The weights of one direction, with D channels, N states, and step sizes of rank R.

    Attributes:
        conv_weight: filters (D, W).
        conv_bias: (D,), or None.
        x_proj: projection of the convolved input to dt, B and C (R + 2 N, D).
        dt_proj: projection of dt to the step sizes (D, R).
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
