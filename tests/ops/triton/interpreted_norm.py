"""Add and norm in Triton's interpreter; run by test_triton.py."""

import pytest
import torch
from test_add_norm import assert_close, inputs, run

import dnadiff.ops.triton.norm as kernels
from dnadiff.ops import add_norm_fn


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("shape", [(2, 37, 118), (16,), (1, 3), (300, 32), (2, 2, 2, 17)], ids=str)
@pytest.mark.parametrize("without", [(), ("bias",), ("residual",)])
def test_agrees_with_float64(rms, shape, without):
    given = inputs(*shape, without=without)
    expected = run(given, torch.float64, "reference", rms=rms)
    assert_close(run(given, torch.float32, "triton", rms=rms), expected, 3e-6)


def test_a_row_longer_than_a_tile(monkeypatch):
    monkeypatch.setattr(kernels, "TILE", 64)
    monkeypatch.setattr(kernels, "TASK", 4)
    given = inputs(9, 118)
    assert_close(run(given, torch.float32, "triton"), run(given, torch.float64, "reference"), 3e-6)


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("stream", [torch.float32, torch.bfloat16])
def test_bfloat16(rms, stream):
    given = inputs(4, 37, 118)
    actual = run(given, torch.bfloat16, "triton", stream, rms=rms)
    assert actual["normed"].dtype == actual["x"].dtype == torch.bfloat16
    assert actual["total"].dtype == actual["residual"].dtype == stream
    assert actual["weight"].dtype == torch.float32
    assert_close(actual, run(given, torch.float64, "reference", rms=rms), 8e-3)


def test_layout_does_not_matter():
    given = {k: t.float() for k, t in inputs(2, 37, 20).items()}
    expected = add_norm_fn(**given, backend="triton")
    wide = torch.full((2, 37, 50), torch.nan)
    wide[..., 7:27] = given["x"]
    crossed = given["x"].transpose(0, 2).contiguous().transpose(0, 2)
    for laid_out in (wide[..., 7:27], crossed):
        actual = add_norm_fn(**given | {"x": laid_out}, backend="triton")
        assert torch.equal(actual[0], expected[0])
        assert torch.equal(actual[1], expected[1])


def test_a_row_does_not_depend_on_the_others():
    given = {k: t.float() for k, t in inputs(5, 200, 118).items()}
    normed, _ = add_norm_fn(**given, backend="triton")
    alone, _ = add_norm_fn(
        **{k: t[3:4] if t.dim() == 3 else t for k, t in given.items()}, backend="triton"
    )
    assert torch.equal(alone[0], normed[3])


def test_empty_input():
    got = run(inputs(0, 20), torch.float32, "triton", rms=False)
    assert got["normed"].shape == got["x"].shape == (0, 20)
    assert not got["weight"].any()
    assert not got["bias"].any()


def test_unused_output_contributes_no_gradient():
    given = {k: t.float().requires_grad_() for k, t in inputs(3, 20).items()}
    _, total = add_norm_fn(**given, backend="triton")
    total.sum().backward()
    assert torch.equal(given["x"].grad, torch.ones(3, 20))
    assert not given["weight"].grad.any()


def test_float64_is_refused():
    with pytest.raises(
        ValueError, match="'triton': it computes in float32 and a tensor is float64"
    ):
        add_norm_fn(**inputs(3, 20), backend="triton")
