"""Causal depthwise convolution on a CPU, forward and backward, with SiLU in the same pass.

    pre_t = bias + sum_k w_k x_{t - (W - 1) + k},    y_t = silu(pre_t) = pre_t sigmoid(pre_t)

The layout is that of the scan (see `scan_kernels`): blocks of 16 channels fill a vector each, and
the sequence is walked in chunks of 32 positions. For each chunk and block the inputs that the
filter sees are copied to a *window*, a tile with W - 1 positions more, where rows lie side by side.
Four positions are then 64 consecutive numbers, which wide Lanes take together.

Nothing but the inputs is kept for the backward pass. With dpre_t = dy_t silu'(pre_t) it computes

    dx_t = sum_k w_k dpre_{t + (W - 1) - k},    dw_k = sum_t dpre_t x_{t - (W - 1) + k}

For dx it needs dpre of the chunk and of the W - 1 positions after it, so it computes `pre` again
for all of these. That is a tenth more work than the chunk alone, and needs no memory between
chunks.

A task is one sequence and one slab of up to 128 channels, as in the scan.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from dnadiff.ops.cpu.compile import (
    channels_last,
    empty_rows,
    inside,
    kernel,
    rows,
    storable,
    threads,
)
from dnadiff.ops.cpu.functions import sigmoid
from dnadiff.ops.cpu.lanes import (
    WIDE,
    WIDTH,
    align,
    fma,
    keep,
    load,
    load_wide,
    pointer,
    shift,
    store,
)
from dnadiff.ops.cpu.scan import pad_channels, unpad_channels
from dnadiff.ops.cpu.tiles import CHUNK, TILE, Place, clear, first, prefetch_chunk

_SLAB = 8  # blocks of a task, as in the scan


class _Shape(NamedTuple):
    """Sizes and switches of a convolution, with channels counted in blocks of 16."""

    batch: int
    length: int
    blocks: int
    slabs: int
    taps: int
    silu: bool


class _Filter(NamedTuple):
    """The filters of a block, as pointers to weight[tap, lane] and bias[lane].

    Each row of 16 lanes is stored four times side by side, to be loaded as wide Lanes.
    """

    weight: Any
    bias: Any
    taps: int
    silu: bool


@njit
def _place(shape: Any, sequence: int, block: int, start: int, end: int) -> Any:
    """Returns the positions from start to end, as far as they are in the sequence."""
    t = max(start, 0)
    # A window that lies wholly after the end has no positions, and not a negative number.
    return Place(sequence, t, max(min(end, shape.length) - t, 0), block * WIDTH)


@njit
def _load_window(
    tile: Any, source: Any, shape: Any, sequence: int, block: int, start: int, end: int
) -> None:
    """Copies the positions from start to end to the tile; those outside the sequence are 0."""
    place = _place(shape, sequence, block, start, end)
    before = (place.t - start) * WIDTH
    clear(tile, before)

    # The present chunk was prefetched one chunk ago; now the next one is.
    prefetch_chunk(source, place, 1)
    at = first(source, place)
    for i in range(before, before + place.steps * WIDTH, WIDTH):
        store(tile, i, load(source.data, at))
        at += source.step

    after = before + place.steps * WIDTH
    clear(shift(tile, after), (end - start) * WIDTH - after)


@njit
def _apply(filtering: Any, window: Any, i: int) -> Any:
    """Returns `pre` at four positions; the first one's first tap is at element i of the window.

    The next tap of all four is one row of 16 further on.
    """
    y = load_wide(filtering.bias, 0)
    # Tap k of position t is row t + k, because the window begins W - 1 positions early.
    for tap in range(filtering.taps):
        y = fma(load_wide(window, i + tap * WIDTH), load_wide(filtering.weight, tap * WIDE), y)
    return y


@njit
def _filter(block: int, shape: Any, weight: Any, bias: Any) -> Any:
    """Returns the filters of a block."""
    # WIDE and not WIDTH: each row of the filters is there four times.
    weight, bias = shift(weight, block * shape.taps * WIDE), shift(bias, block * WIDE)
    return _Filter(weight, bias, shape.taps, shape.silu)


@njit
def _forward_task(number: int, shape: Any, x: Any, weight: Any, bias: Any, out: Any) -> None:
    """Convolves one slab of one sequence."""
    sequence, slab = number // shape.slabs, number % shape.slabs
    before = shape.taps - 1  # positions that the filter sees before the present one
    arena = np.empty((2 * CHUNK + before + 1) * WIDTH, np.float32)
    y = align(pointer(arena))
    window = shift(y, TILE)

    for t in range(0, shape.length, CHUNK):
        for block in range(slab * _SLAB, min((slab + 1) * _SLAB, shape.blocks)):
            _load_window(window, x, shape, sequence, block, t - before, t + CHUNK)
            filtering = _filter(block, shape, weight, bias)
            place = _place(shape, sequence, block, t, t + CHUNK)
            # Four positions at once; at the end of the sequence up to three of them are not used.
            for i in range(0, place.steps * WIDTH, WIDE):
                pre = _apply(filtering, window, i)
                store(y, i, pre * sigmoid(pre) if shape.silu else pre)

            # Rows of the output are a whole row of channels apart, so they are written one by one.
            at = first(out, place)
            prefetch_chunk(out, place, 1)
            for i in range(0, place.steps * WIDTH, WIDTH):
                store(out.data, at, load(y, i))
                at += out.step
    keep(arena)


@kernel
def _forward(shape: Any, x: Any, weight: Any, bias: Any, out: Any) -> None:
    """Writes the output, task by task."""
    for number in numba.prange(shape.batch * shape.slabs):
        _forward_task(number, shape, inside(x), pointer(weight), pointer(bias), inside(out))


@njit
def _back_silu(dpre: Any, window: Any, filtering: Any, size: int) -> None:
    """Multiplies the output's gradients by silu'(pre) = s + pre s (1 - s), in place."""
    for i in range(0, size, WIDE):
        pre = _apply(filtering, window, i)  # computed again: forward kept nothing
        s = sigmoid(pre)
        store(dpre, i, load_wide(dpre, i) * fma(pre * s, 1.0 - s, s))


@njit
def _back_filter(dpre: Any, filtering: Any, dx: Any, add: bool, place: Any) -> None:
    """Writes the gradient of x, or adds to it: the filter runs the other way round over dpre."""
    at, last = first(dx, place), filtering.taps - 1
    prefetch_chunk(dx, place, 1)
    for i in range(0, place.steps * WIDTH, WIDTH):
        # x_t enters pre_t by the last tap, pre_{t+1} by the one before, and so on.
        d = load(dpre, i) * load(filtering.weight, last * WIDE)
        for tap in range(last):
            d = fma(load(filtering.weight, tap * WIDE), load(dpre, i + (last - tap) * WIDTH), d)
        store(dx.data, at, d + load(dx.data, at) if add else d)
        at += dx.step


@njit
def _back_weight(dpre: Any, window: Any, taps: int, dweight: Any, dbias: Any, size: int) -> None:
    """Adds to the gradients of the weight and the bias.

    Even and odd positions have a sum each, so that an addition need not wait for the one before.
    """
    for tap in range(0, taps * WIDTH, WIDTH):
        even, odd = load(dweight, tap), 0.0 * load(dweight, tap)  # a zero of type Lanes
        for i in range(0, size, 2 * WIDTH):
            even = fma(load(dpre, i), load(window, i + tap), even)
            odd = fma(load(dpre, i + WIDTH), load(window, i + WIDTH + tap), odd)
        store(dweight, tap, even + odd)

    total = load(dbias, 0)
    for i in range(0, size, WIDTH):
        total = total + load(dpre, i)
    store(dbias, 0, total)


@njit
def _backward_task(
    number: int,
    shape: Any,
    x: Any,
    weight: Any,
    bias: Any,
    dout: Any,
    dx: Any,
    add: bool,
    dweight: Any,
    dbias: Any,
) -> None:
    """Computes the gradients of one slab of one sequence."""
    sequence, slab = number // shape.slabs, number % shape.slabs
    margin = shape.taps - 1  # positions that the filter sees besides the present one
    size = (TILE + margin * WIDTH + WIDE - 1) // WIDE * WIDE  # whole groups of four positions
    arena = np.zeros(2 * size + (margin + 1) * WIDTH, np.float32)
    dpre = align(pointer(arena))
    window = shift(dpre, size)

    for t in range(0, shape.length, CHUNK):
        for block in range(slab * _SLAB, min((slab + 1) * _SLAB, shape.blocks)):
            filtering = _filter(block, shape, weight, bias)
            place = _place(shape, sequence, block, t, t + CHUNK)
            # The window reaches W - 1 positions before the chunk for the taps of its first
            # position, and as many after it, where `pre` is needed too.
            _load_window(window, x, shape, sequence, block, t - margin, t + CHUNK + margin)
            _load_window(dpre, dout, shape, sequence, block, t, t + CHUNK + margin)
            if shape.silu:
                _back_silu(dpre, window, filtering, size)
            _back_filter(dpre, filtering, dx, add, place)
            # The weight's gradient takes the chunk alone: the positions after it belong to the
            # next.
            at = (sequence * shape.blocks + block) * WIDTH
            _back_weight(
                dpre, window, shape.taps, shift(dweight, at * shape.taps), shift(dbias, at), TILE
            )
    keep(arena)


@kernel
def _backward(
    shape: Any,
    x: Any,
    weight: Any,
    bias: Any,
    dout: Any,
    dx: Any,
    add: bool,
    dweight: Any,
    dbias: Any,
) -> None:
    """Writes the gradient of x, or adds to it, and adds to those of the weight and the bias.

    The latter two are kept for each sequence apart, and PyTorch adds them up in a fixed order.
    """
    for number in numba.prange(shape.batch * shape.slabs):
        _backward_task(
            number, shape, inside(x), pointer(weight), pointer(bias), inside(dout), inside(dx), add,
            pointer(dweight), pointer(dbias),
        )  # fmt: skip


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool
) -> Tensor:
    """Computes `dnadiff.ops.causal_conv1d_fn`.

    bfloat16 tensors are read and written as they are; arithmetic is in float32.
    """
    channels = x.shape[1]
    padded = channels_last(pad_channels(storable(x), 1))
    weight = pad_channels(weight.float(), 0)
    bias = weight.new_zeros(weight.shape[0]) if bias is None else pad_channels(bias.float(), 0)
    out = _CausalConv.apply(padded, weight, bias, silu, reverse)
    return unpad_channels(out, channels, 1).to(x.dtype)


class _CausalConv(torch.autograd.Function):
    """The convolution for autograd.

    x is float32 or bfloat16, channels last and padded; weight and bias are float32.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, silu: bool, reverse: bool
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.settings = silu, reverse
        return conv_forward(x, weight, bias, silu=silu, reverse=reverse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        silu, reverse = ctx.settings
        dx = empty_rows(x)
        dweight, dbias = conv_backward(
            x, weight, bias, channels_last(dout), dx, silu=silu, reverse=reverse
        )
        return dx, dweight, dbias, None, None


def conv_forward(x: Tensor, weight: Tensor, bias: Tensor, *, silu: bool, reverse: bool) -> Tensor:
    """Returns the convolution (batch, C, L) of x, with float32 weight (C, W) and bias (C,).

    x is channels last and padded.
    """
    out = empty_rows(x)
    with threads():
        _forward(*_arguments(x, weight, bias, silu, reverse), rows(out, reverse))
    return out


def conv_backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    dout: Tensor,
    dx: Tensor,
    *,
    silu: bool,
    reverse: bool,
    add: bool = False,
) -> tuple[Tensor, Tensor]:
    """Writes the gradient of x into dx, or adds to it; returns those of the weight and the bias."""
    arguments = _arguments(x, weight, bias, silu, reverse)
    shape = arguments[0]
    dweight = torch.zeros(shape.batch, shape.blocks, shape.taps, WIDTH)
    dbias = torch.zeros(shape.batch, shape.blocks, WIDTH)
    with threads():
        _backward(
            *arguments, rows(dout, reverse), rows(dx, reverse), add, dweight.numpy(), dbias.numpy()
        )
    return dweight.sum(0).mT.flatten(0, 1), dbias.sum(0).flatten()


def _arguments(
    x: Tensor, weight: Tensor, bias: Tensor, silu: bool, reverse: bool
) -> tuple[Any, ...]:
    """Returns the arguments of both kernels, with the weights laid out as `_Filter` says."""
    batch, channels, length = x.shape
    blocks, taps = channels // WIDTH, weight.shape[1]
    shape = _Shape(batch, length, blocks, -(-blocks // _SLAB), taps, silu)
    copies = WIDE // WIDTH
    weights = weight.detach().view(blocks, WIDTH, taps).mT.repeat(1, 1, copies)
    biases = bias.detach().view(blocks, WIDTH).repeat(1, copies)
    return shape, rows(x, reverse), weights.numpy(), biases.numpy()
