"""Residual addition and normalisation on a GPU, forward and backward, one pass over the rows each.

    r = x + residual,    h = (r - mean(r)) / sqrt(var(r) + eps),    normed = weight h + bias

RMSNorm leaves the mean in. Only r is kept for the backward pass; mean and root are computed again
from it. A program of the backward pass has 128 rows, some at a time, and writes its shares of the
gradients of weight and bias, which PyTorch adds up: nothing is added atomically, so results are the
same in every run.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from dnadiff.ops.triton.tiles import OPTIONS

TASK = 128  # rows of a program of the backward pass: one share of the gradients for all of them
TILE = 4096  # numbers that a program has in registers at once, unless a row is longer


class _Norm(NamedTuple):
    """The number of rows and the numbers of a row."""

    rows: int
    size: int


class _Matrix(NamedTuple):
    """A (rows, size) tensor as kernels see it, with its two strides."""

    data: Any  # a tensor outside of kernels, a pointer inside
    row: int
    column: int


@triton.jit
def _pointers(matrix: _Matrix, row: tl.tensor, column: tl.tensor) -> tl.tensor:
    """Returns pointers (R, C) to the numbers in some rows and columns."""
    # int64, because a tensor may have more than 2^31 numbers.
    return matrix.data + row[:, None].to(tl.int64) * matrix.row + column[None, :] * matrix.column


@triton.jit
def _load(source: _Matrix, row: tl.tensor, column: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """Returns some rows in float32, 0 where they are not inside."""
    return tl.load(_pointers(source, row, column), inside, 0.0).to(tl.float32)


@triton.jit
def _standardise(
    total: tl.tensor, inside: tl.tensor, size: tl.tensor, eps: tl.tensor, RMS: tl.constexpr
) -> tuple:
    """Returns h of some rows r, and 1 / sqrt(var(r) + eps) (R, 1)."""
    if not RMS:
        # Columns that are not inside must stay 0: they are summed as well.
        total = tl.where(inside, total - (tl.sum(total, 1) / size)[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(total * total, 1) / size + eps)[:, None]
    return total * scale, scale


@triton.jit
def _forward(
    norm: _Norm, x: _Matrix, residual: _Matrix, weight: tl.tensor, bias: tl.tensor, normed: _Matrix,
    total: _Matrix, eps: tl.tensor, RMS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    """Writes the sums and the normalised rows, ROWS of them."""
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    there = column < norm.size
    inside = (row < norm.rows)[:, None] & there[None, :]

    sums = _load(x, row, column, inside)
    if residual is not None:
        sums += _load(residual, row, column, inside)
    sums = sums.to(total.data.dtype.element_ty)
    tl.store(_pointers(total, row, column), sums, inside)

    # Where r is stored in bfloat16, the rounded r is normalised: the backward pass has no other.
    y, _ = _standardise(sums.to(tl.float32), inside, norm.size, eps, RMS)
    y *= tl.load(weight + column, there, 0.0)[None, :]
    if bias is not None:
        y += tl.load(bias + column, there, 0.0)[None, :]
    tl.store(_pointers(normed, row, column), y, inside)


@triton.jit
def _backward(
    norm: _Norm, total: _Matrix, weight: tl.tensor, dnormed: _Matrix, dtotal: _Matrix, dx: _Matrix,
    dweight: tl.tensor, dbias: tl.tensor, eps: tl.tensor,
    RMS: tl.constexpr, TASK: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    """Writes the gradient of r, and this program's shares of those of weight and bias.

    With g = weight dnormed it is (g - mean(g) - h mean(g h)) / sqrt(var(r) + eps), to which the
    gradient of the residual stream is added; RMSNorm has no mean(g).
    """
    column = tl.arange(0, WIDTH)
    there = column < norm.size
    w = tl.load(weight + column, there, 0.0)[None, :]
    sum_weight, sum_bias = tl.zeros((WIDTH,), tl.float32), tl.zeros((WIDTH,), tl.float32)

    for first in range(0, TASK, ROWS):
        row = tl.program_id(0) * TASK + first + tl.arange(0, ROWS)
        inside = (row < norm.rows)[:, None] & there[None, :]
        h, scale = _standardise(_load(total, row, column, inside), inside, norm.size, eps, RMS)
        g = _load(dnormed, row, column, inside)
        # These two need dnormed itself, before it is multiplied by the weight.
        sum_weight += tl.sum(g * h, 0)
        sum_bias += tl.sum(g, 0)
        g *= w
        d = g - h * (tl.sum(g * h, 1) / norm.size)[:, None]
        if not RMS:
            d -= (tl.sum(g, 1) / norm.size)[:, None]
        tl.store(_pointers(dx, row, column), d * scale + _load(dtotal, row, column, inside), inside)

    share = tl.program_id(0).to(tl.int64) * norm.size + column
    tl.store(dweight + share, sum_weight, there)
    tl.store(dbias + share, sum_bias, there)


def add_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, rms: bool
) -> tuple[Tensor, Tensor]:
    """Computes `dnadiff.ops.add_norm_fn`.

    x and residual are read as they are; arithmetic is in float32.
    """
    flat = (None if t is None else t.reshape(-1, x.shape[-1]) for t in (x, residual))
    weights = (None if t is None else t.float().contiguous() for t in (weight, bias))
    normed, total = _AddNorm.apply(*flat, *weights, eps, rms)
    return normed.view(x.shape), total.view(x.shape)


class _AddNorm(torch.autograd.Function):
    """The normalisation for autograd.

    x and residual are (rows, size); weight and bias are float32 and contiguous.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        eps: float,
        rms: bool,
    ) -> tuple[Tensor, Tensor]:
        stream = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
        normed, total = x.new_empty(x.shape), x.new_empty(x.shape, dtype=stream)
        norm, mode = _launch(x, rms)
        inputs = _matrix(x), None if residual is None else _matrix(residual), weight, bias
        with torch.cuda.device_of(x):
            grid = (triton.cdiv(norm.rows, mode["ROWS"]),)
            _forward[grid](norm, *inputs, _matrix(normed), _matrix(total), eps, **mode)
        ctx.save_for_backward(total, weight)
        residual_dtype = None if residual is None else residual.dtype
        ctx.settings = eps, rms, x.dtype, residual_dtype, bias is not None
        return normed, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dnormed: Tensor, dtotal: Tensor) -> tuple[Tensor | None, ...]:
        total, weight = ctx.saved_tensors
        eps, rms, x_dtype, residual_dtype, with_bias = ctx.settings
        norm, mode = _launch(total, rms)
        programs = triton.cdiv(norm.rows, TASK)
        dx = torch.empty_like(total)
        dweight, dbias = weight.new_empty(2, programs, norm.size)
        gradients = _matrix(dnormed), _matrix(dtotal), _matrix(dx), dweight, dbias
        with torch.cuda.device_of(total):
            _backward[(programs,)](norm, _matrix(total), weight, *gradients, eps, TASK=TASK, **mode)
        # x and the residual have the same gradient, that of their sum.
        dresidual = None if residual_dtype is None else dx.to(residual_dtype)
        bias_gradient = dbias.sum(0) if with_bias else None
        return dx.to(x_dtype), dresidual, dweight.sum(0), bias_gradient, None, None


def _matrix(x: Tensor) -> _Matrix:
    """Returns a (rows, size) tensor as kernels take it."""
    return _Matrix(x.detach(), *x.stride())


def _launch(x: Tensor, rms: bool) -> tuple[_Norm, dict]:
    """Returns sizes and constants of both kernels."""
    width = triton.next_power_of_2(x.shape[1])  # the only sizes that Triton's tiles have
    rows = min(max(TILE // width, 1), TASK)
    return _Norm(*x.shape), {"RMS": rms, "ROWS": rows, "WIDTH": width, **OPTIONS}
