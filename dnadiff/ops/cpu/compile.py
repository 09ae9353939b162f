"""Compiling, calling and feeding kernels: the disk cache, the threads, and tensors as rows of numbers."""

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
    """Compiles a function whose `numba.prange` loops run in parallel, and keeps the machine code on disk.

    See `dnadiff.kernel_cache` for where. A change in this folder or in the function's own compiles it again.
    """
    here = Path(__file__).parent
    return compile_kernel(function, sources=[here], announce=True, parallel=True)


@contextlib.contextmanager
def threads() -> Iterator[None]:
    """Inside, kernels use as many threads as PyTorch does."""
    wanted = torch.get_num_threads()
    before = numba.get_num_threads()
    if (
        torch.get_num_threads() != wanted
    ):  # Numba has just started OpenMP, which the two share, with threads of its own
        torch.set_num_threads(wanted)
    limit = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(min(wanted, limit))
    try:
        yield
    finally:
        numba.set_num_threads(before)


class Rows(NamedTuple):
    """A (batch, C, L) tensor as kernels see it: at each position a row of C numbers, one after the other.

    The row of sequence b at position t begins at data[start + b batch + t step]. A sequence that is read from right to
    left is one whose step is negative.
    """

    data: Any  # an array for those who call a kernel, a pointer inside
    start: int
    batch: int
    step: int


@numba.njit
def inside(source: Any) -> Any:
    """The same rows with a pointer in place of the array."""
    return Rows(pointer(source.data), source.start, source.batch, source.step)


def rows(tensor: Tensor, reverse: bool = False) -> Rows:
    """The rows of a (batch, C, L) tensor in float32 or bfloat16 that went through `channels_last`, without a copy."""
    if tensor.numel() == 0:
        tensor = torch.empty(
            1, 1, 1, dtype=tensor.dtype
        )  # nothing will be read; Numba needs an array all the same
    batch, _, step = tensor.stride()
    span = 1 + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    flat = tensor.detach().as_strided((span,), (1,))
    data = (flat.view(torch.int16) if flat.dtype == torch.bfloat16 else flat).numpy()
    return (
        Rows(data, (tensor.shape[2] - 1) * step, batch, -step)
        if reverse
        else Rows(data, 0, batch, step)
    )


def storable(tensor: Tensor) -> Tensor:
    """The tensor in a type that kernels can read: bfloat16 if it is that, else float32."""
    return tensor if tensor.dtype == torch.bfloat16 else tensor.float()


def channels_last(tensor: Tensor) -> Tensor:
    """The same (batch, C, L) tensor, copied only if the numbers of a row do not lie one after the other."""
    if tensor.shape[1] == 1 or tensor.stride(1) == 1:
        return tensor
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


def empty_rows(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised (batch, C, L) tensor whose rows lie one after the other."""
    batch, channels, length = like.shape
    return torch.empty(batch, length, channels, dtype=dtype or like.dtype).transpose(1, 2)
