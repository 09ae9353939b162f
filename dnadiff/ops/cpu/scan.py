"""The selective scan on a CPU: tensors in and out of `dnadiff.ops.cpu.scan_kernels`, for autograd."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from dnadiff.ops.cpu.compile import channels_last, empty_rows, rows, threads
from dnadiff.ops.cpu.functions import LOG2E
from dnadiff.ops.cpu.lanes import WIDTH
from dnadiff.ops.cpu.quads import QUAD, QUAD_WIDTH
from dnadiff.ops.cpu.scan_kernels import SLAB, Shape, backward, forward
from dnadiff.ops.cpu.tiles import CHUNK


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """The scan of `dnadiff.ops.selective_scan_fn` for B and C that vary along the sequence, and its last state.

    u, delta and z are kept in bfloat16 where all of them are; what is computed is always float32.
    """
    half = all(x is None or x.dtype == torch.bfloat16 for x in (u, delta, z))
    x, dt, gate = (
        None if t is None else channels_last(t.to(torch.bfloat16 if half else torch.float32)) for t in (u, delta, z)
    )
    B, C = (t.float()[:, None] if t.dim() == 3 else t.float() for t in (B, C))
    groups = math.lcm(B.shape[1], C.shape[1])
    B, C = (channels_last(t.repeat_interleave(groups // t.shape[1], 1).flatten(1, 2)) for t in (B, C))
    D, bias = (None if t is None else t.float() for t in (D, delta_bias))
    keep = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (u, delta, A, B, C, D, z, delta_bias)
    )
    out, last = _SelectiveScan.apply(x, dt, A.float(), B, C, D, gate, bias, delta_softplus, reverse, groups, keep)
    return out.to(u.dtype), last


class _SelectiveScan(torch.autograd.Function):
    """All tensors are float32 or, u, delta and z together, bfloat16; (batch, C, L) tensors are channels last."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
        bias: Tensor | None, delta_softplus: bool, reverse: bool, groups: int, keep: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        inputs = u, delta, A, B, C, D, z, bias
        shape = _shape(u, A, groups)
        out = empty_rows(u)
        states = torch.zeros(shape.batch, groups * shape.blocks, shape.quads, QUAD_WIDTH)
        borders = torch.empty(shape.batch if keep else 0, shape.chunks, *states.shape[1:])
        ctx.settings = shape, delta_softplus, reverse
        ctx.save_for_backward(*inputs, borders)
        with threads():
            forward(*_arguments(inputs, *ctx.settings), rows(out, reverse), keep, borders.numpy(), states.numpy())
        return out, _from_blocks(states, shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, borders = ctx.saved_tensors
        u, delta, _, B, C, D, z, bias = inputs
        shape, _, reverse = ctx.settings
        sequences = empty_rows(u), empty_rows(delta), empty_rows(u if z is None else z)
        shares = [torch.empty(shape.slabs * shape.batch, shape.length, t.shape[1]).transpose(1, 2) for t in (B, C)]
        states = _to_blocks(dlast, shape)
        weights = torch.zeros_like(states), *states.new_zeros(2, *states.shape[:2], WIDTH)
        targets = [rows(t, reverse) for t in (*sequences, *shares)] + [t.numpy() for t in (*weights, states)]
        with threads():
            backward(*_arguments(inputs, *ctx.settings), rows(channels_last(dout), reverse), borders.numpy(), *targets)
        dB, dC = (t.unflatten(0, (shape.slabs, shape.batch)).sum(0) for t in shares)
        dA, dD, dbias = (t.sum(0) for t in weights)
        return (
            *sequences[:2], _from_blocks(dA, shape), dB, dC,
            None if D is None else _vector_from_blocks(dD, shape), None if z is None else sequences[2],
            None if bias is None else _vector_from_blocks(dbias, shape), None, None, None, None,
        )  # fmt: skip


def _shape(u: Tensor, A: Tensor, groups: int) -> Shape:
    batch, channels, length = u.shape
    channels //= groups
    blocks = -(-channels // WIDTH)
    states = A.shape[1]
    return Shape(
        batch, length, -(-length // CHUNK), groups, channels, blocks, -(-blocks // SLAB), states, -(-states // QUAD)
    )


def _arguments(inputs: Any, shape: Shape, delta_softplus: bool, reverse: bool) -> tuple[Any, ...]:
    """What both kernels take."""
    u, delta, A, B, C, D, z, bias = inputs
    varying = [rows(t, reverse) for t in (u, delta, u if z is None else z, B, C)]
    weights = [_to_blocks(A, shape) * LOG2E.item(), _vector_to_blocks(D, shape), _vector_to_blocks(bias, shape)]
    return shape, *varying, delta_softplus, z is not None, *(t.numpy() for t in weights)


def _to_blocks(x: Tensor, shape: Shape) -> Tensor:
    """(..., D, N) to (..., blocks, quads, 4 states of 16 channels), filled up with zeros."""
    x = x.detach().reshape(*x.shape[:-2], shape.groups, shape.channels, shape.states)
    x = F.pad(x, (0, shape.quads * QUAD - shape.states, 0, shape.blocks * WIDTH - shape.channels))
    x = x.unflatten(-2, (shape.blocks, WIDTH)).transpose(-1, -2).contiguous()
    return x.view(*x.shape[:-4], shape.groups * shape.blocks, shape.quads, QUAD_WIDTH)


def _from_blocks(x: Tensor, shape: Shape) -> Tensor:
    """The reverse of _to_blocks."""
    x = x.view(*x.shape[:-3], shape.groups, shape.blocks, shape.quads * QUAD, WIDTH).transpose(-1, -2)
    return x.flatten(-3, -2)[..., : shape.channels, : shape.states].flatten(-3, -2)


def _vector_to_blocks(x: Tensor | None, shape: Shape) -> Tensor:
    """(D,) to (blocks, 16), filled up with zeros; zeros if there is no vector."""
    if x is None:
        return torch.zeros(shape.groups * shape.blocks, WIDTH)
    padding = shape.blocks * WIDTH - shape.channels
    return F.pad(x.detach().view(shape.groups, shape.channels), (0, padding)).view(-1, WIDTH)


def _vector_from_blocks(x: Tensor, shape: Shape) -> Tensor:
    return x.view(shape.groups, shape.blocks * WIDTH)[:, : shape.channels].flatten()
