"""The selective scan on a CPU: passes tensors to `scan_kernels` and makes the scan differentiable.

Kernels take 16 channels at a time, so channels are padded with zeros to a multiple of 16 in each
group. A padded channel has A = D = 0 and u = 0, and so its states, outputs and gradients are 0.
"""

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
    """Computes `dnadiff.ops.selective_scan_fn` for B and C that vary along the sequence.

    u, delta and z are read in bfloat16 if all of them are; arithmetic is always in float32.

    Returns:
        The output and the last state.
    """
    u, delta, A, _, _, D, z, delta_bias, delta_softplus, reverse = given
    channels = u.shape[1]
    all_half = all(x is None or x.dtype == torch.bfloat16 for x in (u, delta, z))
    storage = torch.bfloat16 if all_half else torch.float32

    # B and C have few numbers per position, and take float32 in every case.
    B, C = given.grouped()
    groups = B.shape[1]
    B, C = (channels_last(t.float().flatten(1, 2)) for t in (B, C))

    x, dt = (channels_last(pad_channels(t.to(storage), 1, groups)) for t in (u, delta))
    gate = None if z is None else channels_last(pad_channels(z.to(storage), 1, groups))
    zeros, A = A.new_zeros(channels), pad_channels(A.float(), 0, groups)
    D = pad_channels((zeros if D is None else D).float(), 0, groups)
    bias = pad_channels((zeros if delta_bias is None else delta_bias).float(), 0, groups)

    shape = scan_shape(x, A, groups, softplus=delta_softplus, gated=gate is not None)
    keep = needs_gradient(*given.tensors)
    out, last = _SelectiveScan.apply(x, dt, A, B, C, D, gate, bias, shape, reverse, keep)
    out = unpad_channels(out, channels, 1, groups).to(u.dtype)
    return out, unpad_channels(last, channels, 1, groups)


def pad_channels(x: Tensor, dim: int, groups: int = 1) -> Tensor:
    """Returns x with zeros after the channels (dimension `dim`) of each group, to a multiple of 16.

    If no channel is missing, that is x itself.
    """
    padding = -(x.shape[dim] // groups) % WIDTH
    if padding == 0:
        return x
    inner = (0, 0) * (x.dim() - dim - 1)  # F.pad counts from the last dimension
    return F.pad(x.unflatten(dim, (groups, -1)), (*inner, 0, padding)).flatten(dim, dim + 1)


def unpad_channels(x: Tensor, channels: int, dim: int, groups: int = 1) -> Tensor:
    """Reverses pad_channels; `channels` is the number in all groups together."""
    if x.shape[dim] == channels:
        return x
    grouped = x.unflatten(dim, (groups, -1))
    return grouped.narrow(dim + 1, 0, channels // groups).flatten(dim, dim + 1)


class _SelectiveScan(torch.autograd.Function):
    """The scan for autograd.

    Tensors (batch, C, L) are padded and channels last. u, delta and z are all float32 or all
    bfloat16, the others are float32.
    """

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor |
        None, bias: Tensor, shape: Shape, reverse: bool, keep: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        out = empty_rows(u)
        # y is the output before the gate, which the backward pass needs for the gradient of z.
        # Without a gate the output is y, and without gradients y need not be kept.
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
        # Without a gate, u stands for dz, which is not written then.
        du, ddelta, dz = empty_rows(u), empty_rows(delta), u if z is None else empty_rows(u)
        rows_of_slabs = shape.slabs * shape.batch, shape.length
        dB, dC = (torch.empty(*rows_of_slabs, t.shape[1]).mT for t in (B, C))

        sequences = as_rows(reverse, u, delta, B, C, z=z)
        sums = scan_backward(
            shape, sequences, Weights(*weights), channels_last(dout), y, borders,
            (du, ddelta, dz, dB, dC), reverse=reverse, dlast=_to_blocks(dlast, shape),
        )  # fmt: skip

        dB, dC = add_slabs(dB, shape), add_slabs(dC, shape)
        dA, dD, dbias, _ = from_blocks(sums, shape)
        no_gradients = None, None, None  # of shape, reverse and keep
        return du, ddelta, dA, dB, dC, dD, None if z is None else dz, dbias, *no_gradients


def scan_shape(
    u: Tensor, A: Tensor, groups: int = 1, *, rank: int = 0, softplus: bool, gated: bool
) -> Shape:
    """Returns the shape of a scan of u (batch, C, L) with A (C, N), where C is padded."""
    batch, channels, length = u.shape
    blocks, states = channels // groups // WIDTH, A.shape[1]
    slabs, quads = -(-blocks // SLAB), -(-states // QUAD)
    chunks = -(-length // CHUNK)
    return Shape(
        batch, length, chunks, groups, blocks, slabs, states, quads, rank, softplus, gated
    )  # fmt: skip


def as_rows(
    reverse: bool, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, *, z: Tensor | None = None,
    before: Tensor | None = None,
) -> Sequences:  # fmt: skip
    """Returns (batch, C, L) tensors as the kernels take them; u stands for missing ones."""
    return Sequences(*(rows(u if t is None else t, reverse) for t in (u, delta, z, B, C, before)))


def as_blocks(
    shape: Shape, A: Tensor, D: Tensor, bias: Tensor, delta: Tensor | None = None
) -> Weights:
    """Returns weights as the kernels take them.

    They are A (C, N), D and bias (C,), and delta (C, rank) if it has a rank. A is multiplied by
    log2(e), since kernels compute powers of 2.
    """
    D, bias = (t.detach().contiguous().view(-1, WIDTH) for t in (D, bias))
    delta = A.new_empty(len(A), 0) if delta is None else delta.detach()
    delta = delta.unflatten(0, (-1, WIDTH)).mT.contiguous()
    return Weights(_to_blocks(A, shape) * LOG2E.item(), D, bias, delta)


def from_blocks(sums: Sums, shape: Shape) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of A, D, bias and delta: those of each sequence, added up."""
    dA, dD, dbias, ddelta = (t.sum(0) for t in sums[:4])
    return _from_blocks(dA, shape), dD.flatten(), dbias.flatten(), ddelta.mT.flatten(0, 1)


def scan_forward(
    shape: Shape, sequences: Sequences, weights: Weights, y: Tensor, out: Tensor, *, reverse: bool,
    keep: bool, add: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Writes `out`, and `y` as well if `keep`; with `add`, sequences.before is added to y.

    Returns:
        The states before each chunk (empty unless `keep`), and the last states, both as blocks.
    """
    # The first states are 0; the kernel turns them into the last ones, in place.
    states = torch.zeros(shape.batch, shape.groups * shape.blocks, shape.quads, QUAD_WIDTH)
    borders = torch.empty(shape.batch if keep else 0, shape.chunks, *states.shape[1:])
    with threads():
        kernels.forward(
            shape, *sequences, add, *_arrays(weights), keep, rows(y, reverse), rows(out, reverse),
            borders.numpy(), states.numpy(),
        )  # fmt: skip
    return borders, states


def scan_backward(
    shape: Shape, sequences: Sequences, weights: Weights, dout: Tensor, y: Tensor, borders: Tensor,
    targets: tuple[Tensor, ...], *, reverse: bool, dlast: Tensor | None = None,
    with_dz: bool = True,
) -> Sums:  # fmt: skip
    """Writes the gradients of u, delta, z, B and C to `targets`; returns those of the weights.

    The latter are for each sequence apart. `dlast` is the gradient of the last states, as blocks.
    """
    # Each sequence has sums of its own, so that tasks never add to the same number.
    shape_A = shape.batch, *weights.A.shape
    states = torch.zeros(shape_A) if dlast is None else dlast
    D, bias, delta = (torch.zeros(shape.batch, *t.shape) for t in weights[1:])
    sums = Sums(torch.zeros(shape_A), D, bias, delta, states)
    with threads():
        kernels.backward(
            shape, *sequences, *_arrays(weights), rows(dout, reverse), rows(y, reverse), with_dz and
            shape.gated, borders.numpy(), *(rows(t, reverse) for t in targets), *_arrays(sums),
        )  # fmt: skip
    return sums


def add_slabs(shares: Tensor, shape: Shape) -> Tensor:
    """Adds up what the slabs have written, from (slabs * batch, ...) to (batch, ...)."""
    return shares if shape.slabs == 1 else shares.unflatten(0, (shape.slabs, shape.batch)).sum(0)


def _arrays(tensors: tuple[Tensor, ...]) -> list[np.ndarray]:
    """Returns the tensors as NumPy arrays of the same memory."""
    return [t.numpy() for t in tensors]


def _to_blocks(x: Tensor, shape: Shape) -> Tensor:
    """Converts (..., C, N) to (..., blocks, quads, 64), four states of 16 channels in a row."""
    # A state that fills up a quad has A = 0 and B = C = 0, and stays 0.
    x = F.pad(x.detach(), (0, shape.quads * QUAD - shape.states))
    blocks = shape.groups * shape.blocks
    return x.unflatten(-2, (blocks, WIDTH)).mT.reshape(
        *x.shape[:-2], blocks, shape.quads, QUAD_WIDTH
    )


def _from_blocks(x: Tensor, shape: Shape) -> Tensor:
    """Reverses _to_blocks."""
    x = x.view(*x.shape[:-2], shape.quads * QUAD, WIDTH)
    return x.mT.flatten(-3, -2)[..., : shape.states]
