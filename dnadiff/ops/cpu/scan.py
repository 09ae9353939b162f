"""The selective scan on a CPU: tensors in and out of `dnadiff.ops.cpu.scan_kernels`, for autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from dnadiff.ops.backend import needs_gradient
from dnadiff.ops.cpu import scan_kernels as kernels
from dnadiff.ops.cpu.compile import channels_last, empty_rows, rows, threads
from dnadiff.ops.cpu.functions import LOG2E
from dnadiff.ops.cpu.lanes import WIDTH
from dnadiff.ops.cpu.quads import QUAD, QUAD_WIDTH
from dnadiff.ops.cpu.scan_kernels import SLAB, Sequences, Shape, Sums, Weights
from dnadiff.ops.cpu.tiles import CHUNK
from dnadiff.ops.scan_arguments import ScanArguments


def selective_scan(given: ScanArguments) -> tuple[Tensor, Tensor]:
    """The scan of `dnadiff.ops.selective_scan_fn` for B and C that vary along the sequence, and its last state.

    u, delta and z are kept in bfloat16 where all of them are; what is computed is always float32.
    """
    u, delta, A, _, _, D, z, delta_bias, delta_softplus, reverse = given
    channels = u.shape[1]
    half = all(x is None or x.dtype == torch.bfloat16 for x in (u, delta, z))
    B, C = given.grouped()
    groups = B.shape[1]
    B, C = (channels_last(t.float().flatten(1, 2)) for t in (B, C))
    storage = torch.bfloat16 if half else torch.float32
    x, dt = (channels_last(pad_channels(t.to(storage), 1, groups)) for t in (u, delta))
    gate = None if z is None else channels_last(pad_channels(z.to(storage), 1, groups))
    zeros, A = A.new_zeros(channels), pad_channels(A.float(), 0, groups)
    D, bias = (
        pad_channels((zeros if t is None else t).float(), 0, groups) for t in (D, delta_bias)
    )
    shape = scan_shape(x, A, groups, softplus=delta_softplus, gated=gate is not None)
    out, last = _SelectiveScan.apply(
        x, dt, A, B, C, D, gate, bias, shape, reverse, needs_gradient(*given.tensors)
    )
    return unpad_channels(out, channels, 1, groups).to(u.dtype), unpad_channels(
        last, channels, 1, groups
    )


def pad_channels(x: Tensor, dim: int, groups: int = 1) -> Tensor:
    """Adds zeros after the channels (dimension `dim`) of each group, up to a multiple of 16; x itself if none lack."""
    padding = -(x.shape[dim] // groups) % WIDTH
    if padding == 0:
        return x
    behind = (0, 0) * (x.dim() - dim - 1)
    return F.pad(x.unflatten(dim, (groups, -1)), (*behind, 0, padding)).flatten(dim, dim + 1)


def unpad_channels(x: Tensor, channels: int, dim: int, groups: int = 1) -> Tensor:
    """The reverse of pad_channels, to `channels` in all groups together."""
    if x.shape[dim] == channels:
        return x
    return (
        x.unflatten(dim, (groups, -1)).narrow(dim + 1, 0, channels // groups).flatten(dim, dim + 1)
    )


class _SelectiveScan(torch.autograd.Function):
    """All tensors are float32 or, u, delta and z together, bfloat16; (batch, C, L) are padded and channels last."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor | None,
        bias: Tensor, shape: Shape, reverse: bool, keep: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        out = empty_rows(u)
        y = empty_rows(u) if keep and z is not None else out
        weights = as_blocks(shape, A, D, bias)
        sequences = as_rows(reverse, u, delta, B, C, z=z)
        borders, states = scan_forward(
            shape, sequences, weights, y, out, reverse=reverse, keep=keep
        )
        ctx.save_for_backward(u, delta, B, C, z, y, borders, *weights)
        ctx.settings = shape, reverse
        return out, _from_blocks(states, shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, B, C, z, y, borders, *weights = ctx.saved_tensors
        shape, reverse = ctx.settings
        targets = [empty_rows(u), empty_rows(delta), empty_rows(u) if z is not None else u]
        shares = [
            torch.empty(shape.slabs * shape.batch, shape.length, t.shape[1]).mT for t in (B, C)
        ]
        sums = scan_backward(
            shape, as_rows(reverse, u, delta, B, C, z=z), Weights(*weights), channels_last(dout), y, borders,
            (*targets, *shares), reverse=reverse, dlast=_to_blocks(dlast, shape),
        )  # fmt: skip
        dB, dC = (add_slabs(t, shape) for t in shares)
        dA, dD, dbias, _ = from_blocks(sums, shape)
        return (
            *targets[:2],
            dA,
            dB,
            dC,
            dD,
            None if z is None else targets[2],
            dbias,
            None,
            None,
            None,
        )


def scan_shape(
    u: Tensor, A: Tensor, groups: int = 1, *, rank: int = 0, softplus: bool, gated: bool
) -> Shape:
    """The shape of a scan of u (batch, C, L) with A (C, N), C padded."""
    batch, channels, length = u.shape
    blocks, states = channels // groups // WIDTH, A.shape[1]
    slabs, quads = -(-blocks // SLAB), -(-states // QUAD)
    return Shape(
        batch,
        length,
        -(-length // CHUNK),
        groups,
        blocks,
        slabs,
        states,
        quads,
        rank,
        softplus,
        gated,
    )


def as_rows(
    reverse: bool, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, *, z: Tensor | None = None,
    before: Tensor | None = None,
) -> Sequences:  # fmt: skip
    """(batch, C, L) tensors as the kernels take them."""
    return Sequences(*(rows(u if t is None else t, reverse) for t in (u, delta, z, B, C, before)))


def as_blocks(
    shape: Shape, A: Tensor, D: Tensor, bias: Tensor, delta: Tensor | None = None
) -> Weights:
    """Weights as the kernels take them: A (C, N), D and bias (C,), and delta (C, rank) if it has a rank."""
    D, bias = (t.detach().contiguous().view(-1, WIDTH) for t in (D, bias))
    delta = A.new_empty(len(A), 0) if delta is None else delta.detach()
    return Weights(
        _to_blocks(A, shape) * LOG2E.item(),
        D,
        bias,
        delta.unflatten(0, (-1, WIDTH)).mT.contiguous(),
    )


def from_blocks(sums: Sums, shape: Shape) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of A, D, bias and delta, from those of each sequence."""
    dA, dD, dbias, ddelta = (t.sum(0) for t in sums[:4])
    return _from_blocks(dA, shape), dD.flatten(), dbias.flatten(), ddelta.mT.flatten(0, 1)


def scan_forward(
    shape: Shape, sequences: Sequences, weights: Weights, y: Tensor, out: Tensor, *, reverse: bool, keep: bool,
    add: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Writes out, and y too if `keep`; with `add`, sequences.before is added to y.

    Returns:
        The states before each chunk, if they are to be kept, and the last states, both as blocks.
    """
    states = torch.zeros(shape.batch, shape.groups * shape.blocks, shape.quads, QUAD_WIDTH)
    borders = torch.empty(shape.batch if keep else 0, shape.chunks, *states.shape[1:])
    with threads():
        kernels.forward(
            shape, *sequences, add, *_arrays(weights), keep, rows(y, reverse), rows(out, reverse), borders.numpy(),
            states.numpy(),
        )  # fmt: skip
    return borders, states


def scan_backward(
    shape: Shape, sequences: Sequences, weights: Weights, dout: Tensor, y: Tensor, borders: Tensor,
    targets: tuple[Tensor, ...], *, reverse: bool, dlast: Tensor | None = None, with_dz: bool = True,
) -> Sums:  # fmt: skip
    """Writes the gradients of u, delta, z, B and C into `targets`, and returns those of the weights by sequence."""
    shape_A = shape.batch, *weights.A.shape
    states = torch.zeros(shape_A) if dlast is None else dlast
    D, bias, delta = (torch.zeros(shape.batch, *t.shape) for t in weights[1:])
    sums = Sums(torch.zeros(shape_A), D, bias, delta, states)
    with threads():
        kernels.backward(
            shape, *sequences, *_arrays(weights), rows(dout, reverse), rows(y, reverse), with_dz and shape.gated,
            borders.numpy(), *(rows(t, reverse) for t in targets), *_arrays(sums),
        )  # fmt: skip
    return sums


def add_slabs(shares: Tensor, shape: Shape) -> Tensor:
    """The sum of what the slabs have written, (slabs * batch, ...) to (batch, ...)."""
    return shares if shape.slabs == 1 else shares.unflatten(0, (shape.slabs, shape.batch)).sum(0)


def _arrays(tensors: tuple[Tensor, ...]) -> list[np.ndarray]:
    return [t.numpy() for t in tensors]


def _to_blocks(x: Tensor, shape: Shape) -> Tensor:
    """(..., C, N) to (..., blocks, quads, 4 states of 16 channels), filled up with zeros."""
    x = F.pad(x.detach(), (0, shape.quads * QUAD - shape.states))
    blocks = shape.groups * shape.blocks
    return x.unflatten(-2, (blocks, WIDTH)).mT.reshape(
        *x.shape[:-2], blocks, shape.quads, QUAD_WIDTH
    )


def _from_blocks(x: Tensor, shape: Shape) -> Tensor:
    """The reverse of _to_blocks."""
    x = x.view(*x.shape[:-2], shape.quads * QUAD, WIDTH)
    return x.mT.flatten(-3, -2)[..., : shape.states]
