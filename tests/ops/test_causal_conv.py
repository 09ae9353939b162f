"""The causal convolution: closed forms, backends against the float64 reference, layouts, bits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnadiff.ops import causal_conv1d_fn

BACKENDS = ["reference", "cpu"]


def inputs(batch=2, channels=20, length=37, width=4, seed=0):
    """Returns arguments in float64 whose values are exact in float32 and bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"x": (batch, channels, length), "weight": (channels, width), "bias": (channels,)}
    return {k: torch.randn(s, generator=generator).bfloat16().double() for k, s in shapes.items()}


def run(given, dtype, backend, **options):
    """Returns the output and all gradients of a weighted sum of it, with x in `dtype`."""
    weights = torch.float64 if dtype == torch.float64 else torch.float32
    leaves = {
        k: t.clone().to(dtype if k == "x" else weights).requires_grad_() for k, t in given.items()
    }
    out = causal_conv1d_fn(**leaves, backend=backend, **options)
    weight = torch.linspace(-1, 2, given["x"].numel(), dtype=torch.float64).view(out.shape)
    (out.double() * weight).sum().backward()
    return {"out": out.detach(), **{k: t.grad for k, t in leaves.items()}}


def assert_close(actual, expected, tolerance):
    assert actual.keys() == expected.keys()
    for name, x in actual.items():
        assert x.shape == expected[name].shape, name
        error = torch.linalg.vector_norm(x.double() - expected[name])
        assert error <= tolerance * torch.linalg.vector_norm(expected[name]) + 1e-12, name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("reverse", "expected"), [(False, [1, 12, 123, 234]), (True, [321, 432, 43, 4])]
)
def test_closed_form(backend, reverse, expected):
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(1, 2, 4)
    weight = torch.tensor([[100.0, 10.0, 1.0], [200.0, 20.0, 2.0]])
    y = causal_conv1d_fn(x, weight, torch.tensor([0.5, 0.0]), reverse=reverse, backend=backend)
    expected = torch.tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(y, torch.stack((expected + 0.5, 2 * expected))[None])


@pytest.mark.parametrize("backend", BACKENDS)
def test_silu(backend):
    x = torch.tensor([[[-1.0, 0.0, 1.0]]])
    y = causal_conv1d_fn(x, torch.ones(1, 1), activation="silu", backend=backend)
    torch.testing.assert_close(y, torch.tensor([[[-0.2689414, 0.0, 0.7310586]]]))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_gradcheck_of_the_reference(reverse, activation):
    given = [t.requires_grad_() for t in inputs(1, 3, 4, 3).values()]

    def convolve(*tensors):
        return causal_conv1d_fn(*tensors, activation, reverse=reverse, backend="reference")

    assert torch.autograd.gradcheck(convolve, given)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"length": 0},
        {"length": 1},
        {"length": 64},
        {"length": 3, "width": 7},
        {"channels": 1, "width": 1},
        {"channels": 150, "batch": 1},  # more than a slab
    ],
    ids=str,
)
def test_agrees_with_float64(backend, reverse, activation, shape):
    given = inputs(**shape)
    options = {"activation": activation, "reverse": reverse}
    expected = run(given, torch.float64, "reference", **options)
    assert_close(run(given, torch.float32, backend, **options), expected, 2e-6)
    actual = run(given, torch.bfloat16, backend, **options)
    assert actual["out"].dtype == torch.bfloat16
    assert_close(actual, expected, 6e-3)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(0, 3),
    channels=st.integers(1, 40),
    length=st.integers(1, 70),
    width=st.integers(1, 6),
    reverse=st.booleans(),
)
def test_any_shape(batch, channels, length, width, reverse):
    given = inputs(batch, channels, length, width)
    expected = run(given, torch.float64, "reference", activation="silu", reverse=reverse)
    assert_close(
        run(given, torch.float32, "cpu", activation="silu", reverse=reverse), expected, 1e-4
    )


def test_layout_does_not_matter():
    given = {k: t.float() for k, t in inputs().items()}
    y = causal_conv1d_fn(**given, backend="cpu")
    assert y.stride(1) == 1
    wide = torch.full((2, 37, 50), torch.nan)
    wide[..., 7:27] = given["x"].transpose(1, 2)
    assert torch.equal(
        causal_conv1d_fn(**given | {"x": wide[..., 7:27].transpose(1, 2)}, backend="cpu"), y
    )
    constant = given["x"][:1, :1, :1].expand(2, 20, 37)
    expected = causal_conv1d_fn(**given | {"x": constant.contiguous()}, backend="cpu")
    assert torch.equal(causal_conv1d_fn(**given | {"x": constant}, backend="cpu"), expected)


def test_a_sequence_does_not_depend_on_its_batch_nor_on_threads():
    given = inputs(batch=5, channels=150)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run(given, torch.float32, "cpu", activation="silu")
        torch.set_num_threads(2)
        two = run(given, torch.float32, "cpu", activation="silu")
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one[k], two[k]) for k in one)
    x = given["x"][3:4].float().requires_grad_()
    y = causal_conv1d_fn(x, given["weight"].float(), given["bias"].float(), "silu", backend="cpu")
    weight = torch.linspace(-1, 2, given["x"].numel(), dtype=torch.float64).view(given["x"].shape)
    (y.double() * weight[3:4]).sum().backward()
    assert torch.equal(y[0], one["out"][3])
    assert torch.equal(x.grad[0], one["x"][3])


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_bias(backend):
    given = {k: t for k, t in inputs().items() if k != "bias"}
    assert_close(run(given, torch.float32, backend), run(given, torch.float64, "reference"), 2e-6)


def test_auto_takes_the_compiled_convolution_where_it_can():
    given = inputs()
    single = {k: t.float() for k, t in given.items()}
    assert torch.equal(causal_conv1d_fn(**single), causal_conv1d_fn(**single, backend="cpu"))
    assert causal_conv1d_fn(**given).dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x": torch.zeros(20, 37)},
            r"x must be \(batch, D, L\) in floating point, got \(20, 37\)",
        ),
        ({"x": torch.zeros(2, 20, 37).long()}, r"in torch.int64"),
        (
            {"weight": torch.zeros(19, 4)},
            r"weight must be \(D, W\) with D = 20 as in x, got \(19, 4\)",
        ),
        ({"weight": torch.zeros(20, 0)}, r"weight must be .* got \(20, 0\)"),
        ({"bias": torch.zeros(4)}, r"bias must have the shape \(20,\), got \(4,\)"),
        ({"activation": "relu"}, r"activation 'relu' is unknown; choose None or 'silu'"),
        (
            {"backend": "triton"},
            r"backend 'triton': (triton is|it runs on cuda and a tensor is on cpu)",
        ),
        (
            {"backend": "mamba_ssm"},
            r"backend 'mamba_ssm': (causal_conv1d is|it runs on cuda).*usable here: cpu, reference",
        ),
    ],
)
def test_errors_name_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        causal_conv1d_fn(**{k: t.float() for k, t in inputs().items()} | change)
