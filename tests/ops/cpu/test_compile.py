"""The disk cache of compiled kernels, and tensors as rows."""

import importlib.util

import numba
import numpy as np
import pytest
import torch

from dnadiff.ops.cpu import compile as compiling

SOURCE = """
import numba
from dnadiff.ops.cpu.compile import kernel

@kernel
def double(x):
    for i in numba.prange(x.size):
        x[i] *= 2
"""


def load_module(path):
    spec = importlib.util.spec_from_file_location("kernel_under_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def use(module):
    x = np.ones(3)
    module.double(x)
    assert (x == 2).all()
    return module.double.stats.cache_hits.total(), module.double.stats.cache_misses.total()


def test_a_kernel_is_compiled_once_until_the_sources_change(tmp_path, monkeypatch, caplog):
    path = tmp_path / "kernel_under_test.py"
    path.write_text(SOURCE)
    compiling._announce.cache_clear()
    caplog.set_level("INFO")
    assert use(load_module(path)) == (0, 1)
    assert caplog.messages == ["compiling kernels for this CPU, once: half a minute"]
    assert use(load_module(path)) == (1, 0)
    assert len(caplog.messages) == 1
    monkeypatch.setattr(compiling, "_stamp", lambda _: b"another")
    assert use(load_module(path)) == (0, 1)


def test_a_kernel_works_where_nothing_can_be_kept(monkeypatch):
    njit = numba.njit

    def nowhere(**options):
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", nowhere)

    @compiling.kernel
    def double(x):
        for i in numba.prange(x.size):
            x[i] *= 2

    x = np.ones(3)
    double(x)
    assert (x == 2).all()


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
