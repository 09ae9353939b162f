"""The backend that calls mamba_ssm and causal_conv1d, with stand-ins that check their arguments."""

import sys
from types import ModuleType

import pytest
import torch
from test_causal_conv import inputs as conv_inputs
from test_selective_scan import assert_close, inputs

import dnadiff.ops.mamba_ssm as peers
from dnadiff.ops import backend, causal_conv1d_fn, selective_scan_fn
from dnadiff.ops.scan_arguments import ScanArguments


def peer_scan(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,
    return_last_state=False,
):  # fmt: skip
    """Computes a scan of arguments that mamba_ssm takes, and fails for others."""
    varying = [t for t in (u, delta, B, C, z) if t is not None and t.dim() > 2]
    assert len({t.dtype for t in varying}) == 1
    assert all(t is None or t.dtype == torch.float32 for t in (A, D, delta_bias))
    assert all(t.dtype == torch.float32 for t in (B, C) if t.dim() == 2)
    assert B.dim() != 4 or C.dim() != 4 or B.shape == C.shape
    return selective_scan_fn(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, backend="reference"
    )  # fmt: skip


def peer_conv(
    x,
    weight,
    bias=None,
    seq_idx=None,
    initial_states=None,
    return_final_states=False,
    activation=None,
):
    assert x.is_contiguous() and weight.is_contiguous()
    assert weight.dtype == torch.float32 and (bias is None or bias.dtype == torch.float32)
    return causal_conv1d_fn(x, weight, bias, activation, backend="reference")


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    interface = ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = peer_scan
    conv = ModuleType("causal_conv1d")
    conv.causal_conv1d_fn = peer_conv
    for module in (ModuleType("mamba_ssm"), ModuleType("mamba_ssm.ops"), interface, conv):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(backend, "installed", lambda package: package in sys.modules)


def scan(given, reverse):
    return peers.selective_scan(ScanArguments(**given, delta_softplus=True, reverse=reverse))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("without", [(), ("z", "D", "delta_bias")])
@pytest.mark.parametrize("groups", [(None, None), (2, 2), (2, 4), (None, 4)], ids=str)
def test_scan(reverse, without, groups):
    given = inputs(groups=groups[0], without=without) | {"C": inputs(groups=groups[1])["C"]}
    leaves = {k: t.float().requires_grad_() for k, t in given.items()}
    exact = {k: t.clone().requires_grad_() for k, t in given.items()}
    out, last = scan(leaves, reverse)
    expected, expected_last = selective_scan_fn(
        **exact, delta_softplus=True, return_last_state=True, reverse=reverse, backend="reference"
    )
    assert_close({"out": out, "last": last}, {"out": expected, "last": expected_last}, 2e-6)
    assert not last.requires_grad
    weight = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view(out.shape)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    assert_close(
        {k: t.grad for k, t in leaves.items()}, {k: t.grad for k, t in exact.items()}, 2e-6
    )


def test_scan_with_constant_coefficients():
    given = inputs()
    given |= {"B": given["A"] * 2}
    out, _ = scan({k: t.float() for k, t in given.items()}, True)
    expected = selective_scan_fn(**given, delta_softplus=True, reverse=True, backend="reference")
    assert_close({"out": out}, {"out": expected}, 2e-6)


def test_scan_of_mixed_dtypes_gives_the_dtype_of_u():
    given = {k: t.bfloat16() if k in ("u", "B") else t.float() for k, t in inputs().items()}
    out, last = scan(given, False)
    assert out.dtype == torch.bfloat16
    assert last.dtype == torch.float32


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("silu", [False, True])
def test_convolution(reverse, silu):
    given = conv_inputs()
    channels_last = given["x"].float().transpose(1, 2).contiguous().transpose(1, 2)
    y = peers.causal_conv(
        channels_last, given["weight"].float(), given["bias"].float(), silu, reverse
    )
    activation = "silu" if silu else None
    expected = causal_conv1d_fn(
        **given, activation=activation, reverse=reverse, backend="reference"
    )
    assert_close({"out": y}, {"out": expected}, 2e-6)


@pytest.fixture
def any_device(monkeypatch):
    """Disables the check that tensors are on a CUDA device."""
    monkeypatch.setattr(backend, "_other_device", lambda kind, *tensors: None)


def test_mamba_ssm_runs_when_asked_for_by_name(any_device):
    given = {k: t.float() for k, t in inputs().items()}
    y, last = selective_scan_fn(
        **given, delta_softplus=True, return_last_state=True, backend="mamba_ssm"
    )
    expected = selective_scan_fn(
        **given, delta_softplus=True, return_last_state=True, backend="reference"
    )
    assert torch.equal(y, expected[0])
    assert torch.equal(last, expected[1])
    given = {k: t.float() for k, t in conv_inputs().items()}
    y = causal_conv1d_fn(**given, backend="mamba_ssm")
    assert torch.equal(y, causal_conv1d_fn(**given, backend="reference"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (inputs(), "it computes in float32 and a tensor is float64"),
        (
            {k: t.float().requires_grad_() for k, t in inputs().items()},
            "it has no gradient of the last state",
        ),
        ({k: t.float() for k, t in inputs(states=257).items()}, "it takes at most 256 states"),
        ({k: t.float() for k, t in inputs(batch=0).items()}, "a tensor is empty"),
    ],
)
def test_unsupported_scan_arguments(any_device, given, message):
    with pytest.raises(ValueError, match=f"'mamba_ssm': {message}"):
        selective_scan_fn(**given, return_last_state=True, backend="mamba_ssm")


def test_unsupported_convolution_arguments(any_device):
    given = {k: t.float() for k, t in conv_inputs(width=7).items()}
    with pytest.raises(ValueError, match="it takes filters of 2 to 4 positions"):
        causal_conv1d_fn(**given, backend="mamba_ssm")
