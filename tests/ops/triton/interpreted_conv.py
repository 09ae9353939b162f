"""The convolution in Triton's interpreter; run by test_triton.py."""

import pytest
import torch
from test_causal_conv import assert_close, inputs, run

from dnadiff.ops import causal_conv1d_fn


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"length": 1},
        {"length": 32, "channels": 70, "batch": 1},  # one whole tile beside a part of one
        {"length": 3, "width": 5},
        {"channels": 1, "width": 1},
    ],
    ids=str,
)
def test_agrees_with_float64(reverse, activation, shape):
    given = inputs(**shape)
    options = {"activation": activation, "reverse": reverse}
    expected = run(given, torch.float64, "reference", **options)
    assert_close(run(given, torch.float32, "triton", **options), expected, 2e-6)
    actual = run(given, torch.bfloat16, "triton", **options)
    assert actual["out"].dtype == actual["x"].dtype == torch.bfloat16
    assert_close(actual, expected, 8e-3)


def test_without_bias():
    given = {k: t for k, t in inputs().items() if k != "bias"}
    assert_close(run(given, torch.float32, "triton"), run(given, torch.float64, "reference"), 2e-6)


@pytest.mark.parametrize("reverse", [False, True])
def test_layout_does_not_matter(reverse):
    given = {k: t.float() for k, t in inputs().items()}
    options = {"reverse": reverse, "backend": "triton"}
    expected = causal_conv1d_fn(**given, **options)
    wide = torch.full((2, 37, 50), torch.nan)
    wide[..., 7:27] = given["x"].transpose(1, 2)
    y = causal_conv1d_fn(**given | {"x": wide[..., 7:27].transpose(1, 2)}, **options)
    assert torch.equal(y, expected)
    assert y.transpose(1, 2).is_contiguous()
    constant = given["x"][:1, :1, :1].expand(2, 20, 37).requires_grad_()
    y = causal_conv1d_fn(**given | {"x": constant}, **options)
    assert torch.equal(
        y, causal_conv1d_fn(**given | {"x": constant.detach().contiguous()}, **options)
    )
    y.sum().backward()
    assert constant.grad.shape == constant.shape


@pytest.mark.parametrize("shape", [{"batch": 0}, {"length": 0}], ids=str)
def test_empty_input(shape):
    got = run(inputs(**shape), torch.float32, "triton", activation="silu")
    assert got["out"].numel() == got["x"].numel() == 0
    assert not got["weight"].any()
    assert not got["bias"].any()


def test_a_sequence_does_not_depend_on_its_batch():
    given = {k: t.float() for k, t in inputs(batch=3).items()}
    y = causal_conv1d_fn(**given, activation="silu", backend="triton")
    alone = causal_conv1d_fn(**given | {"x": given["x"][1:2]}, activation="silu", backend="triton")
    assert torch.equal(alone[0], y[1])


def test_float64_is_refused():
    with pytest.raises(
        ValueError, match="'triton': it computes in float32 and a tensor is float64"
    ):
        causal_conv1d_fn(**inputs(), backend="triton")
