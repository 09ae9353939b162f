"""The kernels compiled for a GPU that may be absent; run by test_triton.py.

The interpreter accepts code that the compiler refuses, and shows nothing of layouts. So every
launch of the public functions is compiled here with its real arguments, and what the kernels'
documentation says about the machine code is checked.
"""

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime import jit

from dnadiff.ops.scan_arguments import ScanArguments
from dnadiff.ops.triton.conv import causal_conv
from dnadiff.ops.triton.norm import add_norm
from dnadiff.ops.triton.scan import selective_scan

pytestmark = pytest.mark.skipif(
    not hasattr(jit.JITFunction, "_pack_args"),
    reason="this version of Triton does not show how it prepares a launch",
)


@pytest.fixture
def compiled(monkeypatch):
    """Compiles launched kernels for a Hopper GPU instead of running them; code by kernel name."""
    target = GPUTarget("cuda", 90, 32)
    backend = make_backend(target)
    kernels = {}

    def compile_only(self, *arguments, grid, warmup, **options):
        bind = jit.create_function_from_signature(self.signature, self.params, backend)
        bound, specialization, options = bind(*arguments, debug=False, **options)
        options, signature, constants, attributes = self._pack_args(
            backend, options, bound, specialization, None
        )
        source = ASTSource(self, signature, constants, attributes)
        kernels[self.__name__] = triton.compile(source, target=target, options=options.__dict__).asm

    monkeypatch.setattr(jit.JITFunction, "run", compile_only)
    return kernels


def sequences(channels, dtype, channels_last=True):
    shape = (2, 40, channels) if channels_last else (2, channels, 40)
    x = torch.ones(shape, dtype=dtype)
    return (x.transpose(1, 2) if channels_last else x).requires_grad_()


@pytest.mark.parametrize(
    ("channels", "dtype", "channels_last", "reverse"),
    [(236, torch.float32, True, True), (256, torch.bfloat16, False, False)],
    ids=str,
)
def test_scans_along_a_tile_use_no_other_lane(compiled, channels, dtype, channels_last, reverse):
    u, delta, z = (sequences(channels, dtype, channels_last) for _ in range(3))
    B, C = (sequences(16, dtype) for _ in range(2))
    A, D, bias = (-torch.ones(channels, *n, requires_grad=True) for n in ((16,), (), ()))
    selective_scan(ScanArguments(u, delta, A, B, C, D, z, bias, True, reverse))[0].sum().backward()
    assert set(compiled) == {"_tile_states", "_carry", "_outputs", "_tile_gradients", "_gradients"}
    for name in ("_carry", "_outputs"):
        assert "shfl" not in compiled[name]["ptx"], name
        assert ".shared" not in compiled[name]["ptx"], name
    for name, code in compiled.items():
        assert "threadsPerWarp = [1, 32]" in code["ttgir"], name
        assert "atom" not in code["ptx"], name


def test_scan_without_optional_arguments(compiled):
    u, delta = (sequences(6, torch.float32) for _ in range(2))
    B, C = (sequences(3, torch.float32) for _ in range(2))
    selective_scan(ScanArguments(u, delta, -torch.ones(6, 3), B, C))[0].sum().backward()
    assert len(compiled) == 5


@pytest.mark.parametrize(
    ("channels", "dtype", "silu"),
    [(236, torch.float32, False), (256, torch.bfloat16, True)],
    ids=str,
)
def test_convolution(compiled, channels, dtype, silu):
    bias = torch.ones(channels) if silu else None
    causal_conv(
        sequences(channels, dtype), torch.ones(channels, 4), bias, silu, silu
    ).sum().backward()
    assert set(compiled) == {"_forward", "_backward"}
    assert "atom" not in compiled["_backward"]["ptx"]


@pytest.mark.parametrize("rms", [False, True])
def test_norm(compiled, rms):
    x = torch.ones(40, 118, dtype=torch.bfloat16, requires_grad=True)
    residual, bias = (None, None) if rms else (torch.ones(40, 118), torch.ones(118))
    normed, total = add_norm(x, residual, torch.ones(118), bias, 1e-5, rms)
    (normed.sum() + total.sum()).backward()
    assert set(compiled) == {"_forward", "_backward"}
