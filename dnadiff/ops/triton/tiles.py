"""What the kernels share: how they see tensors, how they are launched, and functions that Triton lacks."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

# Whether a product and a sum may be rounded once. Triton's default changes from yes to no after 3.9; yes is faster.
OPTIONS = {"enable_fp_fusion": True}


class Rows(NamedTuple):
    """A (batch, C, L) tensor as kernels see it: any strides, nothing is copied.

    The number of sequence b and channel c at position t is data[start + b batch + c channel + t step]. A sequence that
    is read from right to left is one whose step is negative.
    """

    data: Any  # a tensor for those who launch a kernel, a pointer inside
    start: int
    batch: int
    channel: int
    step: int


def rows(tensor: Tensor | None, reverse: bool = False) -> Rows | None:
    """The tensor as kernels take it."""
    if tensor is None:
        return None
    batch, channel, step = tensor.stride()
    if reverse:
        return Rows(tensor.detach(), (tensor.shape[2] - 1) * step, batch, channel, -step)
    return Rows(tensor.detach(), 0, batch, channel, step)


@triton.jit
def pointers(
    source: Rows, sequence: tl.tensor, first: tl.tensor, step: tl.tensor, channel: tl.tensor
) -> tl.tensor:
    """Pointers (S, C) to the positions first + step of a sequence and the given channels.

    The sequence, the first position and the channels are int64: a tensor may have more than 2^31 numbers.
    """
    start = source.data + source.start + sequence * source.batch + first * source.step
    return start + step[:, None] * source.step + channel[None, :] * source.channel


@triton.jit
def silu(x: tl.tensor) -> tl.tensor:
    """SiLU, x sigmoid(x)."""
    return x * tl.sigmoid(x)


@triton.jit
def dsilu(x: tl.tensor) -> tl.tensor:
    """The derivative of silu: s + x s (1 - s) with s = sigmoid(x)."""
    s = tl.sigmoid(x)
    return s + x * s * (1.0 - s)


@triton.jit
def softplus(x: tl.tensor) -> tl.tensor:
    """log(1 + e^x) = max(x, 0) + log1p(m) with m = e^-|x|.

    log(w) with w = 1 + m lacks what rounding took from m. That is m - (w - 1), to the last bit.
    """
    m = tl.exp(-tl.abs(x))
    w = 1.0 + m
    return tl.maximum(x, 0.0) + (tl.log(w) + (m - (w - 1.0)))
