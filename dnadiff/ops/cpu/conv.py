"""Causal depthwise convolution on a CPU, forward and backward, with SiLU in the same pass.

Sixteen channels go abreast, and chunks of 32 positions follow one another, as in the scan. The backward pass computes
the output before SiLU again, for the chunk and the W - 1 positions after it, whose gradients reach back into the chunk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from dnadiff.ops.cpu.compile import channels_last, empty_rows, inside, kernel, rows, storable, threads
from dnadiff.ops.cpu.functions import sigmoid
from dnadiff.ops.cpu.lanes import WIDTH, align, fma, keep, load, pointer, shift, store
from dnadiff.ops.cpu.tiles import CHUNK, TILE, Place, clear, load_tile, store_tile

_SLAB = 8  # blocks of 16 channels, the work of one task for one sequence


class _Shape(NamedTuple):
    """How many there are of each."""

    batch: int
    length: int
    channels: int
    blocks: int
    slabs: int
    taps: int


class _Filter(NamedTuple):
    """Pointers to the weights of a block [tap, lane] and to its bias [lane]."""

    weight: Any
    bias: Any
    taps: int
    silu: bool


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
    clear(tile, (end - start) * WIDTH)
    load_tile(shift(tile, (place.t - start) * WIDTH), source, place)


@njit
def _apply(filtering: Any, window: Any, i: int) -> Any:
    """The filtered value at the last of the taps, the first of which is at element i of the window."""
    y = load(filtering.bias, 0)
    for tap in range(0, filtering.taps * WIDTH, WIDTH):
        y = fma(load(window, i + tap), load(filtering.weight, tap), y)
    return y


@njit
def _filter(block: int, shape: Any, weight: Any, bias: Any, silu: bool) -> Any:
    weight, bias = shift(weight, block * shape.taps * WIDTH), shift(bias, block * WIDTH)
    return _Filter(weight, bias, shape.taps, silu)


@njit
def _forward_task(number: int, shape: Any, x: Any, weight: Any, bias: Any, silu: bool, out: Any) -> None:
    sequence, slab = number // shape.slabs, number % shape.slabs
    before = shape.taps - 1
    arena = np.empty((2 * CHUNK + before + 1) * WIDTH, np.float32)
    y = align(pointer(arena))
    window = shift(y, TILE)
    for t in range(0, shape.length, CHUNK):
        for block in range(slab * _SLAB, min((slab + 1) * _SLAB, shape.blocks)):
            _load_window(window, x, shape, sequence, block, t - before, t + CHUNK)
            filtering, place = _filter(block, shape, weight, bias, silu), _place(shape, sequence, block, t, t + CHUNK)
            for i in range(0, place.steps * WIDTH, WIDTH):
                pre = _apply(filtering, window, i)
                store(y, i, pre * sigmoid(pre) if silu else pre)
            store_tile(y, out, place)
    keep(arena)


@kernel
def _forward(shape: Any, x: Any, weight: Any, bias: Any, silu: bool, out: Any) -> None:
    for number in numba.prange(shape.batch * shape.slabs):
        _forward_task(number, shape, inside(x), pointer(weight), pointer(bias), silu, inside(out))


@njit
def _back_silu(dpre: Any, window: Any, filtering: Any, size: int) -> None:
    """Turns gradients of the output into gradients of the filtered values."""
    for i in range(0, size, WIDTH):
        pre = _apply(filtering, window, i)
        s = sigmoid(pre)
        store(dpre, i, load(dpre, i) * fma(pre * s, 1.0 - s, s))


@njit
def _back_filter(dpre: Any, window: Any, filtering: Any, dx: Any, dweight: Any, dbias: Any, size: int) -> None:
    """Writes the gradient of x, and adds to those of the weight and the bias."""
    sum_bias = load(dbias, 0)
    for i in range(0, size, WIDTH):
        store(dx, i, 0.0)
        sum_bias = sum_bias + load(dpre, i)
    store(dbias, 0, sum_bias)
    for tap in range(0, filtering.taps * WIDTH, WIDTH):
        w, sum_w, ahead = load(filtering.weight, tap), load(dweight, tap), (filtering.taps - 1) * WIDTH - tap
        for i in range(0, size, WIDTH):
            store(dx, i, fma(w, load(dpre, i + ahead), load(dx, i)))
            sum_w = fma(load(dpre, i), load(window, i + tap), sum_w)
        store(dweight, tap, sum_w)


@njit
def _backward_task(
    number: int, shape: Any, x: Any, weight: Any, bias: Any, silu: bool, dout: Any, dx: Any, dweight: Any, dbias: Any
) -> None:
    sequence, slab = number // shape.slabs, number % shape.slabs
    beside = shape.taps - 1
    arena = np.empty((3 * CHUNK + 3 * beside + 1) * WIDTH, np.float32)
    tile = align(pointer(arena))
    dpre = shift(tile, TILE)
    window = shift(dpre, TILE + beside * WIDTH)
    for t in range(0, shape.length, CHUNK):
        for block in range(slab * _SLAB, min((slab + 1) * _SLAB, shape.blocks)):
            filtering, place = _filter(block, shape, weight, bias, silu), _place(shape, sequence, block, t, t + CHUNK)
            _load_window(window, x, shape, sequence, block, t - beside, t + CHUNK + beside)
            _load_window(dpre, dout, shape, sequence, block, t, t + CHUNK + beside)
            if silu:
                _back_silu(dpre, window, filtering, TILE + beside * WIDTH)
            at = (sequence * shape.blocks + block) * WIDTH
            sums = shift(dweight, at * shape.taps), shift(dbias, at)
            _back_filter(dpre, window, filtering, tile, sums[0], sums[1], place.steps * WIDTH)
            store_tile(tile, dx, place)
    keep(arena)


@kernel
def _backward(
    shape: Any, x: Any, weight: Any, bias: Any, silu: bool, dout: Any, dx: Any, dweight: Any, dbias: Any
) -> None:
    """Writes the gradient of x, and for each sequence those of the weight and the bias."""
    for number in numba.prange(shape.batch * shape.slabs):
        _backward_task(
            number, shape, inside(x), pointer(weight), pointer(bias), silu, inside(dout), inside(dx), pointer(dweight),
            pointer(dbias),
        )  # fmt: skip


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
