"""The mixer on a CPU: both directions between one pair of projections, with as few passes through memory as may be.

Channels are padded to a multiple of 16 by padding the weights, so that no activation is copied and every vector is
whole. What is kept for the backward pass, per position and layer with D padded channels, R the rank and N the states:
the projected input (2 D), and for each direction the convolved input (D), its projection (R + 2 N) and the states at
chunk borders (N D / 32, float32), and once the ungated and the gated output (D each).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from dnadiff.ops.backend import needs_gradient
from dnadiff.ops.cpu.compile import empty_rows, storable
from dnadiff.ops.cpu.conv import conv_backward, conv_forward
from dnadiff.ops.cpu.scan import (
    Weights,
    add_slabs,
    as_blocks,
    as_rows,
    from_blocks,
    pad_channels,
    scan_backward,
    scan_forward,
    scan_shape,
)
from dnadiff.ops.mixer_arguments import DirectionWeights


def mixer(
    x: Tensor,
    in_weight: Tensor,
    in_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    directions: Sequence[DirectionWeights],
) -> Tensor:
    """`dnadiff.ops.mamba_mixer_fn`."""
    weights = [w for direction in directions for w in _padded(direction)]
    in_weight, out_weight = pad_channels(in_weight, 0, 2), pad_channels(out_weight, 1)
    in_bias = None if in_bias is None else pad_channels(in_bias, 0, 2)
    reverse = tuple(direction.reverse for direction in directions)
    keep = needs_gradient(x, in_weight, in_bias, *weights)

    def mix(x: Tensor) -> Tensor:
        projected = F.linear(x, in_weight, in_bias)
        y = _Inner.apply(storable(projected), reverse, keep, *weights)
        return F.linear(y.to(projected.dtype), out_weight, out_bias)

    if keep:
        return mix(x)
    return torch.cat([mix(rows) for rows in x.split(max(1, _PIECE // max(1, x.shape[1])))])


def _padded(w: DirectionWeights) -> tuple[Tensor, ...]:
    conv_bias = torch.zeros_like(w.D) if w.conv_bias is None else w.conv_bias
    channels = (
        pad_channels(t.float(), 0)
        for t in (w.conv_weight, conv_bias, w.dt_proj, w.dt_bias, w.A, w.D)
    )
    return *channels, pad_channels(w.x_proj.float(), 1)


_WEIGHTS = 7  # of each direction
_SAVED = 3 + len(
    Weights._fields
)  # what else is kept of each: c, low, borders and the weights as blocks
_PIECE = 16_384  # positions that are mixed together where nothing is kept: less memory, and nearer


class _Inner(torch.autograd.Function):
    """From the projected input (batch, L, 2 D) in float32 or bfloat16 to the gated output (batch, L, D)."""

    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, reverse: tuple[bool, ...], keep: bool, *weights: Tensor
    ) -> Tensor:
        x, z = projected.mT.chunk(2, 1)
        out = empty_rows(x)
        y = empty_rows(x) if keep else out
        saved: list[Tensor] = []
        for i, backwards in enumerate(reverse):
            conv_weight, conv_bias, dt_weight, dt_bias, A, D, x_proj = weights[
                i * _WEIGHTS : (i + 1) * _WEIGHTS
            ]
            last = i == len(reverse) - 1
            c = conv_forward(x, conv_weight, conv_bias, silu=True, reverse=backwards)
            low = (c.mT @ x_proj.to(c.dtype).mT).float()
            shape = scan_shape(c, A, rank=dt_weight.shape[1], softplus=True, gated=last)
            blocks = as_blocks(shape, A, D, dt_bias, dt_weight)
            sequences = as_rows(backwards, c, *_split(low, shape), z=z, before=y)
            target = out if last else y
            borders, _ = scan_forward(
                shape, sequences, blocks, y, target, reverse=backwards, keep=keep, add=i > 0
            )
            if keep:
                saved += [c, low, borders, *blocks]
        ctx.save_for_backward(projected, y, *weights, *saved)
        ctx.reverse = reverse
        return out.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        projected, y, *tensors = ctx.saved_tensors
        count = len(ctx.reverse)
        weights, saved = tensors[: count * _WEIGHTS], tensors[count * _WEIGHTS :]
        dprojected = torch.empty_like(projected)
        (x, z), (dx, dz) = projected.mT.chunk(2, 1), dprojected.mT.chunk(2, 1)
        grads: list[Tensor] = []
        for i, backwards in enumerate(ctx.reverse):
            conv_weight, conv_bias, dt_weight, _, A, _, x_proj = weights[
                i * _WEIGHTS : (i + 1) * _WEIGHTS
            ]
            c, low, borders, *blocks = saved[i * _SAVED : (i + 1) * _SAVED]
            shape = scan_shape(c, A, rank=dt_weight.shape[1], softplus=True, gated=True)
            dc, shares = empty_rows(c), torch.empty(shape.slabs * shape.batch, *low.shape[1:])
            ddelta, dB, dC = _split(shares, shape)
            sums = scan_backward(
                shape, as_rows(backwards, c, *_split(low, shape), z=z), Weights(*blocks), dout.mT, y, borders,
                (dc, ddelta, dz, dB, dC), reverse=backwards, with_dz=i == 0,
            )  # fmt: skip
            dA, dD, dbias, ddt_weight = from_blocks(sums, shape)
            dlow = add_slabs(shares, shape).to(c.dtype).flatten(0, 1)
            flat = c.mT.flatten(0, 1)
            dx_proj = (dlow.mT @ flat).float()
            dc.mT.view(flat.shape).addmm_(dlow, x_proj.to(c.dtype))
            dconv = conv_backward(
                x, conv_weight, conv_bias, dc, dx, silu=True, reverse=backwards, add=i > 0
            )
            grads += [*dconv, ddt_weight, dbias, dA, dD, dx_proj]
        return dprojected, None, None, *grads


def _split(low: Tensor, shape: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The numbers of the step sizes, B and C, each (batch, C, L), of (batch, L, R + 2 N)."""
    delta, B, C = low.mT.split([shape.rank, shape.states, shape.states], 1)
    return delta, B, C
