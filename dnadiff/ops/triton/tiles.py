"""Parts of all Triton kernels: tensors as rows, launch options, functions that Triton lacks."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

# Lets a product and a sum be one instruction with one rounding, which is faster. It is Triton's
# default up to 3.9 and not after.
OPTIONS = {"enable_fp_fusion": True}


class Rows(NamedTuple):
    """A (batch, C, L) tensor as kernels see it, with any strides and without a copy.

    The number of sequence b and channel c at position t is data[start + b batch + c channel + t
    step]. A negative step reads the sequence from right to left.
    """

    data: Any  # a tensor outside of kernels, a pointer inside
    start: int
    batch: int
    channel: int
    step: int


def rows(tensor: Tensor | None, reverse: bool = False) -> Rows | None:
    """Returns the tensor as kernels take it."""
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
    """Returns pointers (S, C) to the positions first + step of a sequence, in some channels.

    The sequence, the first position and the channels are int64, because a tensor may have more than
    2^31 numbers.
    """
    start = source.data + source.start + sequence * source.batch + first * source.step
    return start + step[:, None] * source.step + channel[None, :] * source.channel


@triton.jit
def silu(x: tl.tensor) -> tl.tensor:
    """Returns x sigmoid(x)."""
    return x * tl.sigmoid(x)


@triton.jit
def dsilu(x: tl.tensor) -> tl.tensor:
    """Returns the derivative of silu, s + x s (1 - s) with s = sigmoid(x)."""
    s = tl.sigmoid(x)
    return s + x * s * (1.0 - s)


@triton.jit
def softplus(x: tl.tensor) -> tl.tensor:
    """Returns log(1 + e^x) = max(x, 0) + log1p(m), where m = e^-|x|.

    Triton has no log1p. log(w) with w = 1 + m lacks what m lost when the sum was rounded. For small
    m that is all of it, and m - (w - 1) is that loss exactly.
    """
    m = tl.exp(-tl.abs(x))
    w = 1.0 + m
    return tl.maximum(x, 0.0) + (tl.log(w) + (m - (w - 1.0)))
