"""Compiles kernels, sets their number of threads, and passes tensors to them as rows of numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numba
import torch
from torch import Tensor

from dnadiff.kernel_cache import compile_kernel
from dnadiff.ops.cpu.lanes import pointer


def kernel(function: Callable) -> Any:
    """Compiles a function whose `numba.prange` loops run in parallel.

    `dnadiff.kernel_cache` keeps the machine code on disk. A change to a file of this folder, or of
    the function's own, compiles it again.
    """
    here = Path(__file__).parent
    return compile_kernel(function, sources=[here], announce=True, parallel=True)


@contextlib.contextmanager
def threads() -> Iterator[None]:
    """Lets kernels use as many threads as PyTorch does, within the block."""
    wanted = torch.get_num_threads()
    before = numba.get_num_threads()
    # The first call of Numba's function starts OpenMP, which Numba and PyTorch share, with Numba's
    # number of threads.
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)
    limit = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(min(wanted, limit))
    try:
        yield
    finally:
        numba.set_num_threads(before)


class Rows(NamedTuple):
    """A (batch, C, L) tensor as kernels see it: at each position a row of C consecutive numbers.

    The row of sequence b at position t begins at data[start + b batch + t step]. A negative step
    reads the sequence from right to left, without a copy.
    """

    data: Any  # an array outside of kernels, a pointer inside
    start: int
    batch: int
    step: int


@numba.njit
def inside(source: Any) -> Any:
    """Returns the same rows with a pointer in place of the array."""
    return Rows(pointer(source.data), source.start, source.batch, source.step)


def rows(tensor: Tensor, reverse: bool = False) -> Rows:
    """Returns the rows of a (batch, C, L) tensor without a copy.

    The tensor is float32 or bfloat16 and channels last, as `channels_last` returns it.
    """
    if tensor.numel() == 0:  # nothing is read from an empty tensor, but Numba needs an array
        tensor = torch.empty(1, 1, 1, dtype=tensor.dtype)

    # All numbers from the tensor's first to its last, as one flat array.
    batch, _, step = tensor.stride()
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    span = 1 + sum((size - 1) * stride for size, stride in sizes)
    flat = tensor.detach().as_strided((span,), (1,))
    if flat.dtype == torch.bfloat16:  # NumPy has no bfloat16; kernels take its bits
        flat = flat.view(torch.int16)

    if reverse:
        return Rows(flat.numpy(), (tensor.shape[2] - 1) * step, batch, -step)
    return Rows(flat.numpy(), 0, batch, step)


def storable(tensor: Tensor) -> Tensor:
    """Returns the tensor in a type that kernels read: unchanged in bfloat16, else as float32."""
    return tensor if tensor.dtype == torch.bfloat16 else tensor.float()


def channels_last(tensor: Tensor) -> Tensor:
    """Returns the same (batch, C, L) tensor, copied only if rows are not consecutive in memory."""
    if tensor.shape[1] == 1 or tensor.stride(1) == 1:
        return tensor
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


def empty_rows(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Returns an uninitialised (batch, C, L) tensor that is channels last."""
    batch, channels, length = like.shape
    return torch.empty(batch, length, channels, dtype=dtype or like.dtype).transpose(1, 2)
