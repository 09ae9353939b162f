"""Residual addition and normalisation on a CPU, forward and backward, one pass over the rows each.

    r = x + residual,    h = (r - mean(r)) / sqrt(var(r) + eps),    normed = weight h + bias

RMSNorm leaves the mean in. A row is copied to scratch memory, padded with zeros to whole vectors,
and stays in the first-level cache for all that is done with it, so that memory is read and written
once.

Only r is kept for the backward pass; mean and root are computed again from it. A task is 128 rows,
whatever the number of threads, and adds up its own share of the gradients of weight and bias:
results do not depend on the number of threads.
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

from dnadiff.ops.cpu.compile import Rows, channels_last, inside, kernel, rows, storable, threads
from dnadiff.ops.cpu.lanes import (
    WIDTH,
    align,
    fma,
    keep,
    load,
    load_number,
    pointer,
    shift,
    store,
    store_number,
    total,
)
from dnadiff.ops.cpu.tiles import element

_TASK = 128  # rows: enough to hide the cost of starting a task, few enough for many threads


class _Norm(NamedTuple):
    """The kind of normalisation and the size of a row, which takes `padded` numbers in scratch."""

    size: int
    padded: int
    eps: float
    rms: bool


@njit
def _load_row(row: Any, source: Any, number: int, norm: Any) -> None:
    """Copies a row of a tensor to scratch, padded with zeros."""
    at, whole = element(source, 0, number, 0), norm.size - norm.size % WIDTH
    # Whole vectors first, then the rest number by number, over a vector of zeros.
    if whole < norm.padded:
        store(row, whole, 0.0)
    for i in range(0, whole, WIDTH):
        store(row, i, load(source.data, at + i))
    for i in range(whole, norm.size):
        store_number(row, i, load_number(source.data, at + i))


@njit
def _store_row(row: Any, target: Any, number: int, norm: Any) -> None:
    """Copies a row from scratch to a tensor, without the padding."""
    at, whole = element(target, 0, number, 0), norm.size - norm.size % WIDTH
    for i in range(0, whole, WIDTH):
        store(target.data, at + i, load(row, i))
    for i in range(whole, norm.size):
        store_number(target.data, at + i, load_number(row, i))


@njit
def _mean_product(x: Any, y: Any, norm: Any) -> Any:
    """Returns the mean of x y over a row; the padding adds 0 to the sum."""
    products = load(x, 0) * load(y, 0)
    for i in range(WIDTH, norm.padded, WIDTH):
        products = fma(load(x, i), load(y, i), products)
    # Sixteen sums side by side, then one: rounding errors grow with a sixteenth of the size.
    return total(products) / np.float32(norm.size)


@njit
def _mean(x: Any, norm: Any) -> Any:
    """Returns the mean of a row."""
    numbers = load(x, 0)
    for i in range(WIDTH, norm.padded, WIDTH):
        numbers = numbers + load(x, i)
    return total(numbers) / np.float32(norm.size)


@njit
def _standardise(row: Any, norm: Any) -> Any:
    """Turns a row r into h, and returns 1 / sqrt(var(r) + eps)."""
    if not norm.rms:
        mean = _mean(row, norm)
        for i in range(0, norm.padded, WIDTH):
            store(row, i, load(row, i) - mean)
        # The padding is now -mean; it must be 0 again before squares are summed.
        for i in range(norm.size, norm.padded):
            store_number(row, i, np.float32(0.0))
    # h overwrites r: it is all that is used from here on.
    scale = np.float32(1.0) / np.sqrt(_mean_product(row, row, norm) + np.float32(norm.eps))
    for i in range(0, norm.padded, WIDTH):
        store(row, i, load(row, i) * scale)
    return scale


@njit
def _add(row: Any, other: Any, norm: Any) -> None:
    """Adds another row to a row."""
    for i in range(0, norm.padded, WIDTH):
        store(row, i, load(row, i) + load(other, i))


@njit
def _forward_rows(
    first: int,
    end: int,
    norm: Any,
    x: Any,
    residual: Any,
    add: bool,
    weight: Any,
    bias: Any,
    normed: Any,
    sums: Any,
) -> None:
    """Takes the rows `first` to `end` - 1 forward."""
    # Two rows of scratch; WIDTH numbers more let `align` move to the next cache line.
    arena = np.empty(2 * norm.padded + WIDTH, np.float32)
    row = align(pointer(arena))
    other = shift(row, norm.padded)
    for number in range(first, end):
        _load_row(row, x, number, norm)
        if add:
            _load_row(other, residual, number, norm)
            _add(row, other, norm)
        # Where r is stored in bfloat16, the rounded r is normalised: the backward pass has no
        # other.
        _store_row(row, sums, number, norm)
        _load_row(row, sums, number, norm)
        _standardise(row, norm)
        for i in range(0, norm.padded, WIDTH):
            store(row, i, fma(load(row, i), load(weight, i), load(bias, i)))
        _store_row(row, normed, number, norm)
    keep(arena)


@kernel
def _forward(
    count: int,
    norm: Any,
    x: Any,
    residual: Any,
    add: bool,
    weight: Any,
    bias: Any,
    normed: Any,
    sums: Any,
) -> None:
    """Writes the normalised rows, and the sums of x and the residual."""
    for task in numba.prange((count + _TASK - 1) // _TASK):
        first = task * _TASK
        _forward_rows(
            first, min(first + _TASK, count), norm, inside(x), inside(residual), add,
            pointer(weight), pointer(bias), inside(normed), inside(sums),
        )  # fmt: skip


@njit
def _back_row(row: Any, dnormed: Any, norm: Any, weight: Any, dweight: Any, dbias: Any) -> None:
    """Turns a row r into its gradient, and adds to those of weight and bias.

    With g = weight dnormed it is (g - mean(g) - h mean(g h)) / sqrt(var(r) + eps); RMSNorm has no
    mean(g).
    """
    scale = _standardise(row, norm)  # the row is h from here on
    for i in range(0, norm.padded, WIDTH):
        d, h = load(dnormed, i), load(row, i)
        store(dweight, i, fma(d, h, load(dweight, i)))
        store(dbias, i, load(dbias, i) + d)
        store(dnormed, i, d * load(weight, i))  # g takes the place of dnormed

    # The parts of g that change the root of r's mean square, and r's mean.
    along, mean = _mean_product(dnormed, row, norm), np.float32(0.0)
    if not norm.rms:
        mean = _mean(dnormed, norm)
    for i in range(0, norm.padded, WIDTH):
        store(row, i, scale * (load(dnormed, i) - mean - along * load(row, i)))


@njit
def _backward_rows(
    first: int,
    end: int,
    norm: Any,
    sums: Any,
    weight: Any,
    dnormed: Any,
    dsums: Any,
    dweight: Any,
    dbias: Any,
    dx: Any,
) -> None:
    """Takes the rows `first` to `end` - 1 back."""
    # Two rows of scratch, as in the forward pass.
    arena = np.empty(2 * norm.padded + WIDTH, np.float32)
    row = align(pointer(arena))
    other = shift(row, norm.padded)
    for number in range(first, end):
        _load_row(row, sums, number, norm)
        _load_row(other, dnormed, number, norm)
        _back_row(row, other, norm, weight, dweight, dbias)
        # r goes on as the residual stream, whose gradient is added.
        _load_row(other, dsums, number, norm)
        _add(row, other, norm)
        _store_row(row, dx, number, norm)
    keep(arena)


@kernel
def _backward(
    count: int,
    norm: Any,
    sums: Any,
    weight: Any,
    dnormed: Any,
    dsums: Any,
    dweight: Any,
    dbias: Any,
    dx: Any,
) -> None:
    """Writes the gradient of the sums, and each task's share of those of weight and bias."""
    for task in numba.prange((count + _TASK - 1) // _TASK):
        first, at = task * _TASK, task * norm.padded  # `at`: the task's own sums
        _backward_rows(
            first, min(first + _TASK, count), norm, inside(sums), pointer(weight), inside(dnormed),
            inside(dsums), shift(pointer(dweight), at), shift(pointer(dbias), at), inside(dx),
        )  # fmt: skip


def add_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, rms: bool
) -> tuple[Tensor, Tensor]:
    """Computes `dnadiff.ops.add_norm_fn`.

    bfloat16 tensors are read and written as they are; arithmetic is in float32.
    """
    stream = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    kept = (None if t is None else storable(t) for t in (x, residual))
    weights = (None if t is None else t.float() for t in (weight, bias))
    normed, sums = _AddNorm.apply(*kept, *weights, eps, rms)
    return normed.to(x.dtype), sums.to(stream)


class _AddNorm(torch.autograd.Function):
    """The normalisation for autograd.

    x and residual are float32 or bfloat16, weight and bias are float32.
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
        other = x if residual is None else residual
        normed = torch.empty(x.shape, dtype=x.dtype)
        sums = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, other.dtype))
        ctx.save_for_backward(sums, weight)
        ctx.settings = eps, rms
        ctx.dtypes = x.dtype, None if residual is None else residual.dtype, bias is not None
        with threads():
            _forward(
                *_sizes(x, eps, rms), _rows(x), _rows(other), residual is not None, *_padded(weight,
                bias), _rows(normed), _rows(sums),
            )  # fmt: skip
        return normed, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dnormed: Tensor, dsums: Tensor) -> tuple[Tensor | None, ...]:
        sums, weight = ctx.saved_tensors
        x_dtype, residual_dtype, with_bias = ctx.dtypes
        count, norm = _sizes(sums, *ctx.settings)
        # x and the residual have the same gradient, that of their sum.
        dx = torch.empty_like(sums, memory_format=torch.contiguous_format)
        weights, _ = _padded(weight, None)
        dweight, dbias = torch.zeros(2, -(-count // _TASK), norm.padded)
        with threads():
            _backward(
                count,
                norm,
                _rows(sums),
                weights,
                _rows(dnormed),
                _rows(dsums),
                dweight.numpy(),
                dbias.numpy(),
                _rows(dx),
            )
        dweight, dbias = (t.sum(0)[: norm.size] for t in (dweight, dbias))
        dresidual = None if residual_dtype is None else dx.to(residual_dtype)
        return dx.to(x_dtype), dresidual, dweight, dbias if with_bias else None, None, None


def _sizes(x: Tensor, eps: float, rms: bool) -> tuple[int, _Norm]:
    """Returns the number of rows, and how each is normalised."""
    size = x.shape[-1]
    return x.numel() // size, _Norm(size, size + -size % WIDTH, eps, rms)


def _rows(x: Tensor) -> Rows:
    """Returns all rows of x as one sequence."""
    # `rows` takes (batch, C, L): one sequence, whose positions are the rows of x.
    return rows(channels_last(x.detach().reshape(-1, x.shape[-1]).T[None]))


def _padded(weight: Tensor, bias: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns weight and bias (zeros if there is none), padded with zeros to whole vectors."""
    padding = (0, -weight.numel() % WIDTH)
    bias = torch.zeros_like(weight) if bias is None else bias.detach()
    return F.pad(weight.detach(), padding).numpy(), F.pad(bias, padding).numpy()
