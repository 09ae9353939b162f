"""Causal depthwise convolution on a GPU, forward and backward, with SiLU in the same pass.

    pre_t = bias + sum_k w_k x_{t - (W - 1) + k},    y_t = silu(pre_t)

A program has a tile of 32 positions by 64 channels. It reads the tile once for each tap, shifted by
one position each time; all but the first reading are served by the first-level cache.

The backward pass keeps only the inputs. It computes `pre` again, for the tile and the W - 1
positions after it, whose gradients reach back into the tile. Each program writes its shares of the
gradients of weight and bias, and PyTorch adds them up: nothing is added atomically, so results are
the same in every run.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from dnadiff.ops.triton.tiles import OPTIONS, Rows, dsilu, pointers, rows, silu

STEPS, LANES = 32, 64  # positions and channels of a tile


class _Shape(NamedTuple):
    """Sizes of a convolution."""

    length: int
    channels: int
    tiles: int


class _Place(NamedTuple):
    """The tile that a program works on."""

    sequence: Any
    first: Any  # position
    channel: Any  # (LANES,)
    there: Any  # (LANES,), whether there is such a channel


@triton.jit
def _place(shape: _Shape, STEPS: tl.constexpr, LANES: tl.constexpr) -> _Place:
    """Returns the tile of this program; the grid is (tiles, blocks of channels)."""
    # int64, because a tensor may have more than 2^31 numbers.
    sequence = (tl.program_id(0) // shape.tiles).to(tl.int64)
    first = (tl.program_id(0) % shape.tiles).to(tl.int64) * STEPS
    channel = (tl.program_id(1) * LANES + tl.arange(0, LANES)).to(tl.int64)
    return _Place(sequence, first, channel, channel < shape.channels)


@triton.jit
def _load(
    source: Rows, shape: _Shape, place: _Place, shift: tl.tensor, STEPS: tl.constexpr
) -> tl.tensor:
    """Returns the tile `shift` positions further on, in float32, 0 outside the sequence."""
    step = tl.arange(0, STEPS) + shift
    inside = (place.first + step >= 0) & (place.first + step < shape.length)
    at = pointers(source, place.sequence, place.first, step, place.channel)
    return tl.load(at, inside[:, None] & place.there[None, :], 0.0).to(tl.float32)


@triton.jit
def _tap(weight: tl.tensor, shape: _Shape, place: _Place, k: tl.tensor) -> tl.tensor:
    """Returns weight k of each channel's filter (1, LANES), from (W, D)."""
    return tl.load(weight + k * shape.channels + place.channel, place.there, 0.0)[None, :]


@triton.jit
def _filter(
    x: Rows, weight: tl.tensor, bias: tl.tensor, shape: _Shape, place: _Place, shift: tl.tensor,
    TAPS: tl.constexpr, STEPS: tl.constexpr, LANES: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Returns `pre` of the tile `shift` positions further on."""
    y = tl.zeros((STEPS, LANES), tl.float32)
    if bias is not None:
        y += _tap(bias, shape, place, 0)
    for k in tl.static_range(TAPS):
        y += _tap(weight, shape, place, k) * _load(x, shape, place, shift + k - (TAPS - 1), STEPS)
    return y


@triton.jit
def _forward(
    shape: _Shape, x: Rows, weight: tl.tensor, bias: tl.tensor, out: Rows,
    SILU: tl.constexpr, TAPS: tl.constexpr, STEPS: tl.constexpr, LANES: tl.constexpr,
) -> None:  # fmt: skip
    """Writes a tile of the output."""
    place = _place(shape, STEPS, LANES)
    y = _filter(x, weight, bias, shape, place, 0, TAPS, STEPS, LANES)
    if SILU:
        y = silu(y)
    step = tl.arange(0, STEPS)
    inside = (place.first + step < shape.length)[:, None] & place.there[None, :]
    tl.store(pointers(out, place.sequence, place.first, step, place.channel), y, inside)


@triton.jit
def _backward(
    shape: _Shape, x: Rows, weight: tl.tensor, bias: tl.tensor, dout: Rows, dx: Rows,
    dweight: tl.tensor, dbias: tl.tensor, SILU: tl.constexpr, TAPS: tl.constexpr,
    STEPS: tl.constexpr, LANES: tl.constexpr,
) -> None:  # fmt: skip
    """Writes the gradient of a tile of x, and its shares of those of the weight and the bias."""
    place = _place(shape, STEPS, LANES)
    sums = tl.zeros((STEPS, LANES), tl.float32)
    share = tl.program_id(0).to(tl.int64)

    # x_t enters pre_t by the last tap, pre_{t+1} by the one before, and so on.
    for ahead in tl.static_range(TAPS):
        dy = _load(dout, shape, place, ahead, STEPS)
        if SILU:
            dy *= dsilu(_filter(x, weight, bias, shape, place, ahead, TAPS, STEPS, LANES))
        sums += _tap(weight, shape, place, TAPS - 1 - ahead) * dy
        # The tile's own dpre also gives its shares of the other two gradients.
        if ahead == 0:
            for k in tl.static_range(TAPS):
                part = tl.sum(dy * _load(x, shape, place, k - (TAPS - 1), STEPS), 0)
                tl.store(
                    dweight + (share * TAPS + k) * shape.channels + place.channel, part, place.there
                )
            if bias is not None:
                tl.store(dbias + share * shape.channels + place.channel, tl.sum(dy, 0), place.there)

    step = tl.arange(0, STEPS)
    inside = (place.first + step < shape.length)[:, None] & place.there[None, :]
    tl.store(pointers(dx, place.sequence, place.first, step, place.channel), sums, inside)


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool
) -> Tensor:
    """Computes `dnadiff.ops.causal_conv1d_fn`: x is read as it is, arithmetic is in float32."""
    # Filters as (W, D): a tap of neighbouring channels is then one contiguous load.
    bias = None if bias is None else bias.float().contiguous()
    return _CausalConv.apply(x, weight.float().T.contiguous(), bias, silu, reverse)


class _CausalConv(torch.autograd.Function):
    """The convolution for autograd.

    weight is (W, D); weight and bias are float32 and contiguous.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.settings = silu, reverse
        shape, grid, mode = _launch(x, weight, silu)
        out = torch.empty_like(x)
        with torch.cuda.device_of(x):
            _forward[grid](shape, rows(x, reverse), weight, bias, rows(out, reverse), **mode)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        silu, reverse = ctx.settings
        shape, grid, mode = _launch(x, weight, silu)
        dx = torch.empty_like(x)
        # One share for each tile along the sequence.
        dweight = weight.new_empty(grid[0], *weight.shape)
        dbias = weight.new_empty(grid[0], shape.channels)
        inputs = rows(x, reverse), weight, bias, rows(dout, reverse)
        with torch.cuda.device_of(x):
            _backward[grid](shape, *inputs, rows(dx, reverse), dweight, dbias, **mode)
        return dx, dweight.sum(0), None if bias is None else dbias.sum(0), None, None


def _launch(x: Tensor, weight: Tensor, silu: bool) -> tuple[_Shape, tuple[int, int], dict]:
    """Returns sizes, grid and constants of both kernels."""
    batch, channels, length = x.shape
    tiles = triton.cdiv(length, STEPS)
    mode = {"SILU": silu, "TAPS": weight.shape[0], "STEPS": STEPS, "LANES": LANES, **OPTIONS}
    return _Shape(length, channels, tiles), (batch * tiles, triton.cdiv(channels, LANES)), mode
