"""The mixer on a CPU: all directions between one pair of projections, in few passes through memory.

    u, z = in_weight x                                        once
    c = silu(conv(u)),   low = x_proj c = (dt, B, C)          for each direction
    y = y + scan(c, dt_proj dt, A, B, C) + D c                for each direction
    out = out_weight (y silu(z))                              once

The scan of each direction adds to the y of the one before, and that of the last one applies the
gate as well. dt_proj is multiplied inside the scan (see `rank` in `scan_kernels`).

Channels are padded to a multiple of 16 by padding the weights, so that no activation is copied. All
of this is one autograd function rather than four, so that it alone decides what is kept. Per
position, with D padded channels, R the rank of dt and N states, that is u and z (2 D); for each
direction c (D), low (R + 2 N) and the states at chunk borders (N D / 32, always float32); and y
(D). The gated output (D) is kept by the last projection, in addition.
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
    """Computes `dnadiff.ops.mamba_mixer_fn`."""
    weights = [w for direction in directions for w in _padded(direction)]
    in_weight, out_weight = pad_channels(in_weight, 0, 2), pad_channels(out_weight, 1)
    in_bias = None if in_bias is None else pad_channels(in_bias, 0, 2)
    reverse = tuple(direction.reverse for direction in directions)
    keep = needs_gradient(x, in_weight, in_bias, *weights)

    def mix(x: Tensor) -> Tensor:
        """Mixes some of the sequences."""
        projected = F.linear(x, in_weight, in_bias)
        y = _Inner.apply(storable(projected), reverse, keep, *weights)
        return F.linear(y.to(projected.dtype), out_weight, out_bias)

    if keep:
        return mix(x)
    sequences = max(1, _PIECE // max(1, x.shape[1]))
    return torch.cat([mix(part) for part in x.split(sequences)])


def _padded(w: DirectionWeights) -> tuple[Tensor, ...]:
    """Returns the weights of a direction as _Inner takes them: float32, channels padded."""
    conv_bias = torch.zeros_like(w.D) if w.conv_bias is None else w.conv_bias
    by_channel = w.conv_weight, conv_bias, w.dt_proj, w.dt_bias, w.A, w.D
    padded = [pad_channels(t.float(), 0) for t in by_channel]
    return *padded, pad_channels(w.x_proj.float(), 1)


_WEIGHTS = 7  # tensors that `_padded` returns for each direction
_SAVED = 3 + len(Weights._fields)  # further tensors kept for each: c, low, borders, and blocks
_PIECE = 16_384  # positions mixed at once where nothing is kept: intermediates stay in the cache


class _Inner(torch.autograd.Function):
    """What is between the projections, for autograd.

    It takes the projected input (batch, L, 2 D) in float32 or bfloat16, and returns the gated
    output (batch, L, D) of the same type.
    """

    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, reverse: tuple[bool, ...], keep: bool, *weights: Tensor
    ) -> Tensor:
        x, z = projected.mT.chunk(2, 1)
        out = empty_rows(x)
        y = empty_rows(x) if keep else out
        saved: list[Tensor] = []
        for i, right_to_left in enumerate(reverse):
            own = weights[i * _WEIGHTS : (i + 1) * _WEIGHTS]
            conv_weight, conv_bias, dt_weight, dt_bias, A, D, x_proj = own
            last = i == len(reverse) - 1

            c = conv_forward(x, conv_weight, conv_bias, silu=True, reverse=right_to_left)
            low = (c.mT @ x_proj.to(c.dtype).mT).float()

            # The first scan begins y, those after it add to y, and the last one writes the output.
            shape = scan_shape(c, A, rank=dt_weight.shape[1], softplus=True, gated=last)
            blocks = as_blocks(shape, A, D, dt_bias, dt_weight)
            sequences = as_rows(right_to_left, c, *_split(low, shape), z=z, before=y)
            target = out if last else y
            borders, _ = scan_forward(
                shape, sequences, blocks, y, target, reverse=right_to_left, keep=keep, add=i > 0
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
        # The gradients of u and z are written into the two halves of one tensor: no copy joins
        # them.
        dprojected = torch.empty_like(projected)
        (x, z), (dx, dz) = projected.mT.chunk(2, 1), dprojected.mT.chunk(2, 1)
        grads: list[Tensor] = []
        for i, right_to_left in enumerate(ctx.reverse):
            own = weights[i * _WEIGHTS : (i + 1) * _WEIGHTS]
            conv_weight, conv_bias, dt_weight, _, A, _, x_proj = own
            c, low, borders, *blocks = saved[i * _SAVED : (i + 1) * _SAVED]

            # The gate multiplies the sum of the directions. So each scan's output has the same
            # gradient, and the gradient of z is written only once, with the first direction.
            shape = scan_shape(c, A, rank=dt_weight.shape[1], softplus=True, gated=True)
            dc, shares = empty_rows(c), torch.empty(shape.slabs * shape.batch, *low.shape[1:])
            ddelta, dB, dC = _split(shares, shape)
            sequences = as_rows(right_to_left, c, *_split(low, shape), z=z)
            sums = scan_backward(
                shape, sequences, Weights(*blocks), dout.mT, y, borders, (dc, ddelta, dz, dB, dC),
                reverse=right_to_left, with_dz=i == 0,
            )  # fmt: skip
            dA, dD, dbias, ddt_weight = from_blocks(sums, shape)

            # c has a gradient from the scan, to which that of its projection is added in place.
            dlow = add_slabs(shares, shape).to(c.dtype).flatten(0, 1)
            flat = c.mT.flatten(0, 1)
            dx_proj = (dlow.mT @ flat).float()
            dc.mT.view(flat.shape).addmm_(dlow, x_proj.to(c.dtype))

            dconv = conv_backward(
                x, conv_weight, conv_bias, dc, dx, silu=True, reverse=right_to_left, add=i > 0
            )
            grads += [*dconv, ddt_weight, dbias, dA, dD, dx_proj]
        return dprojected, None, None, *grads


def _split(low: Tensor, shape: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Splits (batch, L, R + 2 N) into dt (batch, R, L), B and C (batch, N, L), without a copy."""
    delta, B, C = low.mT.split([shape.rank, shape.states, shape.states], 1)
    return delta, B, C
