"""Causal depthwise convolution on a CPU, forward and backward, with SiLU in the same pass.

Sixteen channels go abreast, and chunks of 32 positions follow one another, as in the scan. The backward pass computes
the output before SiLU again, for the chunk and the W - 1 positions after it, whose gradients reach back into the chunk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from dnadiff.ops.cpu.compile import channels_last, empty_rows, kernel, rows, storable, threads
from dnadiff.ops.cpu.functions import sigmoid
from dnadiff.ops.cpu.lanes import WIDTH, fma, load, store
from dnadiff.ops.cpu.tiles import CHUNK, Place, load_tile, scratch, store_tile

_SLAB = 8  # blocks of 16 channels, the work of one task for one sequence


class _Shape(NamedTuple):
    """How many there are of each."""

    batch: int
    length: int
    channels: int
    blocks: int
    slabs: int
    taps: int


@njit
def _place(shape: Any, sequence: int, block: int, start: int, end: int) -> Any:
    """The positions from start to end, as far as they are in the sequence."""
    t = max(start, 0)
    lanes = min(WIDTH, shape.channels - block * WIDTH)
    return Place(sequence, t, max(min(end, shape.length) - t, 0), block * WIDTH, lanes)


@njit
def _load_window(tile: Any, source: Any, shape: Any, sequence: int, block: int, start: int, end: int) -> None:
    """Fills the tile with the positions from start to end; positions outside the sequence are 0."""
    place = _place(shape, sequence, block, start, end)
    tile[:] = 0
    load_tile(tile[(place.t - start) * WIDTH :], source, place)


@njit
def _filter(window: Any, t: int, weight: Any, bias: Any) -> Any:
    """The filtered value at the end of the taps that begin at position t of the window."""
    y = bias
    for tap in range(weight.shape[0]):
        y = fma(load(window, (t + tap) * WIDTH), load(weight[tap], 0), y)
    return y


@njit
def _forward_task(number: int, shape: Any, x: Any, weight: Any, bias: Any, silu: bool, out: Any) -> None:
    sequence, slab = number // shape.slabs, number % shape.slabs
    before = shape.taps - 1
    window, y = scratch(((CHUNK + before) * WIDTH,)), scratch((CHUNK * WIDTH,))
    for t in range(0, shape.length, CHUNK):
        for block in range(slab * _SLAB, min((slab + 1) * _SLAB, shape.blocks)):
            _load_window(window, x, shape, sequence, block, t - before, t + CHUNK)
            place = _place(shape, sequence, block, t, t + CHUNK)
            for step in range(place.steps):
                pre = _filter(window, step, weight[block], load(bias[block], 0))
                store(y, step * WIDTH, pre * sigmoid(pre) if silu else pre)
            store_tile(y, out, place)


@kernel
def _forward(shape: Any, x: Any, weight: Any, bias: Any, silu: bool, out: Any) -> None:
    for number in numba.prange(shape.batch * shape.slabs):
        _forward_task(number, shape, x, weight, bias, silu, out)


@njit
def _back_silu(dpre: Any, window: Any, weight: Any, bias: Any) -> None:
    """Turns gradients of the output into gradients of the filtered values."""
    for step in range(dpre.size // WIDTH):
        pre = _filter(window, step, weight, bias)
        s = sigmoid(pre)
        store(dpre, step * WIDTH, load(dpre, step * WIDTH) * fma(pre * s, 1.0 - s, s))


@njit
def _back_filter(dpre: Any, window: Any, weight: Any, dx: Any, dweight: Any, dbias: Any, steps: int) -> None:
    """Writes the gradient of x, and adds to those of the weight and the bias."""
    taps = weight.shape[0]
    for i in range(0, steps * WIDTH, WIDTH):
        store(dx, i, 0.0)
        store(dbias, 0, load(dbias, 0) + load(dpre, i))
    for tap in range(taps):
        w, sum_w = load(weight[tap], 0), load(dweight[tap], 0)
        ahead, behind = (taps - 1 - tap) * WIDTH, tap * WIDTH
        for i in range(0, steps * WIDTH, WIDTH):
            store(dx, i, fma(w, load(dpre, i + ahead), load(dx, i)))
            sum_w = fma(load(dpre, i), load(window, i + behind), sum_w)
        store(dweight[tap], 0, sum_w)


@njit
def _backward_task(
    number: int, shape: Any, x: Any, weight: Any, bias: Any, silu: bool, dout: Any, dx: Any, dweight: Any, dbias: Any
) -> None:
    sequence, slab = number // shape.slabs, number % shape.slabs
    beside = shape.taps - 1
    window, dpre = scratch(((CHUNK + 2 * beside) * WIDTH,)), scratch(((CHUNK + beside) * WIDTH,))
    tile = scratch((CHUNK * WIDTH,))
    for t in range(0, shape.length, CHUNK):
        for block in range(slab * _SLAB, min((slab + 1) * _SLAB, shape.blocks)):
            _load_window(window, x, shape, sequence, block, t - beside, t + CHUNK + beside)
            _load_window(dpre, dout, shape, sequence, block, t, t + CHUNK + beside)
            if silu:
                _back_silu(dpre, window, weight[block], load(bias[block], 0))
            place = _place(shape, sequence, block, t, t + CHUNK)
            sums = dweight[sequence, block], dbias[sequence, block]
            _back_filter(dpre, window, weight[block], tile, *sums, place.steps)
            store_tile(tile, dx, place)


@kernel
def _backward(
    shape: Any, x: Any, weight: Any, bias: Any, silu: bool, dout: Any, dx: Any, dweight: Any, dbias: Any
) -> None:
    """Writes the gradient of x, and for each sequence those of the weight and the bias."""
    for number in numba.prange(shape.batch * shape.slabs):
        _backward_task(number, shape, x, weight, bias, silu, dout, dx, dweight, dbias)


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool) -> Tensor:
    """The convolution of `dnadiff.ops.causal_conv1d_fn`. bfloat16 is kept as it is; what is computed is float32."""
    bias = None if bias is None else bias.float()
    return _CausalConv.apply(channels_last(storable(x)), weight.float(), bias, silu, reverse).to(x.dtype)


class _CausalConv(torch.autograd.Function):
    """x is float32 or bfloat16, channels last; weight and bias are float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.settings = silu, reverse
        out = empty_rows(x)
        with threads():
            _forward(*_arguments(x, weight, bias, silu, reverse), rows(out, reverse))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        _, reverse = ctx.settings
        arguments = _arguments(x, weight, bias, *ctx.settings)
        shape = arguments[0]
        dx = empty_rows(x)
        dweight = torch.zeros(shape.batch, shape.blocks, shape.taps, WIDTH)
        dbias = torch.zeros(shape.batch, shape.blocks, 1, WIDTH)
        with threads():
            _backward(
                *arguments,
                rows(channels_last(dout), reverse),
                rows(dx, reverse),
                dweight.numpy(),
                dbias[:, :, 0].numpy(),
            )
        dweight, dbias = (t.sum(0).transpose(1, 2).flatten(0, 1)[: shape.channels] for t in (dweight, dbias))
        return dx, dweight, None if bias is None else dbias[:, 0], None, None


def _arguments(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool) -> tuple[Any, ...]:
    """What both kernels take. Weights go by blocks: [block, tap, lane], the bias [block, lane]."""
    batch, channels, length = x.shape
    blocks = -(-channels // WIDTH)
    shape = _Shape(batch, length, channels, blocks, -(-blocks // _SLAB), weight.shape[1])
    padding = blocks * WIDTH - channels
    weights = F.pad(weight.detach(), (0, 0, 0, padding)).view(blocks, WIDTH, -1).transpose(1, 2).contiguous()
    offsets = torch.zeros(channels) if bias is None else bias.detach()
    return shape, rows(x, reverse), weights.numpy(), F.pad(offsets, (0, padding)).view(blocks, WIDTH).numpy(), silu
