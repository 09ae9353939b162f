"""The self-checks pass on this machine, and find kernels that are wrong."""

import pytest
import torch

from dnadiff.ops.causal_conv import causal_conv_reference
from dnadiff.ops.check import TOLERANCE, check_kernels


@pytest.fixture(scope="module")
def checks():
    return {(c.kernel, c.backend): c for c in check_kernels("cpu")}


def test_checks_cover_every_backend_of_every_kernel(checks):
    scan = {("selective_scan_fn", name) for name in ("cpu", "triton", "reference", "mamba_ssm")}
    conv = {("causal_conv1d_fn", name) for name in ("cpu", "triton", "reference", "mamba_ssm")}
    mixer = {("mamba_mixer_fn", name) for name in ("cpu", "triton", "reference", "mamba_ssm")}
    assert set(checks) == scan | conv | mixer | {
        ("add_norm_fn", name) for name in ("cpu", "triton", "reference")
    }


@pytest.mark.parametrize(
    "kernel", ["selective_scan_fn", "causal_conv1d_fn", "mamba_mixer_fn", "add_norm_fn"]
)
def test_kernels_of_this_machine_pass(checks, kernel):
    for backend in ("cpu", "reference"):
        one = checks[kernel, backend]
        assert not one.wrong
        assert one.error < 1e-6
        assert one.automatic == (backend == "cpu")
    triton = checks[kernel, "triton"]
    assert triton.unsupported_reason
    assert triton.error is None
    assert not triton.wrong


def with_wrong_gradient(x, weight, bias, silu, reverse):
    """Computes a convolution whose output is right, and whose gradient is wrong by 1 %."""
    y = causal_conv_reference(x, weight, bias, silu, reverse)
    return y.detach() + 1.01 * (y - y.detach())


def without_reverse(x, weight, bias, silu, reverse):
    """Computes a convolution that ignores `reverse`."""
    return causal_conv_reference(x, weight, bias, silu, False)


def undefined(x, weight, bias, silu, reverse):
    return without_reverse(x, weight, bias, silu, reverse) * torch.nan


def broken(x, weight, bias, silu, reverse):
    raise RuntimeError("no kernel image\nis available")


@pytest.mark.parametrize(
    ("convolution", "failure"),
    [
        (with_wrong_gradient, None),
        (without_reverse, None),
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
