"""The self-checks find what is wrong."""

import pytest
import torch

from dnadiff.ops.causal_conv import causal_conv_reference
from dnadiff.ops.check import TOLERANCE, check_kernels


@pytest.fixture(scope="module")
def checks():
    return {(c.kernel, c.backend): c for c in check_kernels("cpu")}


def test_every_backend_of_every_kernel_is_there(checks):
    scan = {("selective_scan_fn", name) for name in ("cpu", "triton", "reference", "mamba_ssm")}
    conv = {("causal_conv1d_fn", name) for name in ("cpu", "triton", "reference", "mamba_ssm")}
    mixer = {("mamba_mixer_fn", name) for name in ("cpu", "triton", "reference", "mamba_ssm")}
    assert set(checks) == scan | conv | mixer | {
        ("add_norm_fn", name) for name in ("cpu", "triton", "reference")
    }


@pytest.mark.parametrize(
    "kernel", ["selective_scan_fn", "causal_conv1d_fn", "mamba_mixer_fn", "add_norm_fn"]
)
def test_this_machine_is_right(checks, kernel):
    for backend in ("cpu", "reference"):
        one = checks[kernel, backend]
        assert not one.wrong
        assert one.error < 1e-6
        assert one.automatic == (backend == "cpu")
    triton = checks[kernel, "triton"]
    assert triton.unsupported_reason
    assert triton.error is None
    assert not triton.wrong


def tilted(x, weight, bias, silu, reverse):
    """A convolution whose output is right, and whose gradient is not."""
    y = causal_conv_reference(x, weight, bias, silu, reverse)
    return y.detach() + 1.01 * (y - y.detach())


def backwards(x, weight, bias, silu, reverse):
    """One that does not know right to left."""
    return causal_conv_reference(x, weight, bias, silu, False)


def undefined(x, weight, bias, silu, reverse):
    return backwards(x, weight, bias, silu, reverse) * torch.nan


def broken(x, weight, bias, silu, reverse):
    raise RuntimeError("no kernel image\nis available")


@pytest.mark.parametrize(
    ("convolution", "failure"),
    [
        (tilted, None),
        (backwards, None),
        (undefined, "a result is not a number"),
        (broken, "RuntimeError: no kernel image is available"),
    ],
)
def test_a_wrong_kernel_is_found(monkeypatch, convolution, failure):
    monkeypatch.setattr("dnadiff.ops.cpu.conv.causal_conv", convolution)
    (wrong,) = (c for c in check_kernels("cpu") if c.wrong)
    assert (wrong.kernel, wrong.backend) == ("causal_conv1d_fn", "cpu")
    assert wrong.failure == failure
    assert wrong.error is None if failure else wrong.error > TOLERANCE
