"""Kernels as compiled functions, and tensors as rows."""

from pathlib import Path

import numba
import numpy as np
import pytest
import torch

from dnadiff import kernel_cache
from dnadiff.ops.cpu import compile as compiling
from dnadiff.ops.cpu import conv


def test_a_kernel_runs():
    @compiling.kernel
    def double(x):
        for i in numba.prange(x.size):
            x[i] *= 2

    x = np.ones(3)
    double(x)
    assert (x == 2).all()


def test_a_kernel_depends_on_every_file_of_its_folder():
    cache = conv._forward._cache
    assert isinstance(cache, kernel_cache.KernelCache)
    assert cache._sources == [Path(conv.__file__).parent]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reverse", [False, True])
def test_rows(dtype, reverse):
    storage = torch.arange(2 * 5 * 7).view(2, 5, 7).to(dtype)
    tensor = storage[:, 1:4, 2:6].transpose(1, 2)  # (2, 4, 3)
    data, start, batch, step = compiling.rows(tensor, reverse)
    data = torch.from_numpy(data).view(dtype)
    for b in range(2):
        for t in range(3):
            row = data[start + b * batch + t * step :][:4]
            assert torch.equal(row, tensor[b, :, 2 - t if reverse else t])
