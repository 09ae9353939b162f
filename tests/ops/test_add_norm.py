"""Add and norm: closed forms, backends against the float64 reference, layouts, bits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnadiff.ops import add_norm_fn

BACKENDS = ["reference", "cpu"]


def inputs(*shape, without=(), seed=0):
    """Returns arguments in float64 whose values are exact in float32 and bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"x": shape, "residual": shape, "weight": shape[-1:], "bias": shape[-1:]}
    given = {k: torch.randn(s, generator=generator).bfloat16().double() for k, s in shapes.items()}
    return {k: t for k, t in given.items() if k not in without} | dict.fromkeys(
        {"residual"} & set(without)
    )


def run(given, dtype, backend, residual_dtype=None, **options):
    """Returns both outputs and all gradients of a weighted sum of them, with x in `dtype`."""
    dtypes = {"x": dtype, "residual": residual_dtype or dtype}
    weights = torch.float64 if dtype == torch.float64 else torch.float32
    leaves = {
        k: None if t is None else t.clone().to(dtypes.get(k, weights)).requires_grad_()
        for k, t in given.items()
    }
    normed, total = add_norm_fn(**leaves, backend=backend, **options)
    weight = torch.linspace(-1, 2, total.numel(), dtype=torch.float64).view(total.shape)
    (normed.double() * weight + total.double() * weight.flip(-1)).sum().backward()
    gradients = {k: t.grad for k, t in leaves.items() if t is not None}
    return {"normed": normed.detach(), "total": total.detach(), **gradients}


def assert_close(actual, expected, tolerance):
    assert actual.keys() == expected.keys()
    for name, x in actual.items():
        assert x.shape == expected[name].shape, name
        error = torch.linalg.vector_norm(x.double() - expected[name])
        assert error <= tolerance * torch.linalg.vector_norm(expected[name]) + 1e-12, name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("rms", "expected"),
    [(True, [6 / 5 + 1, 8 / 5 + 1]), (False, [-2 + 1, 2 + 1])],
)
def test_closed_form(backend, rms, expected):
    x, residual = torch.tensor([[1.0, 4.0]]), torch.tensor([[2.0, 0.0]])  # the sum is 3, 4
    scale = 2.0 if not rms else 2.0 * (12.5**0.5) / 5.0
    normed, total = add_norm_fn(
        x, residual, torch.full((2,), scale), torch.ones(2), 0.0, rms=rms, backend=backend
    )
    torch.testing.assert_close(total, torch.tensor([[3.0, 4.0]]))
    torch.testing.assert_close(normed, torch.tensor([expected], dtype=torch.float32))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rms", [False, True])
def test_agrees_with_pytorch(backend, rms):
    given = {k: t.float() for k, t in inputs(3, 5, 24).items()}
    normed, total = add_norm_fn(**given, rms=rms, backend=backend)
    norm = torch.nn.functional.rms_norm if rms else torch.nn.functional.layer_norm
    expected = (
        norm(given["x"] + given["residual"], (24,), given["weight"], eps=1e-5) + given["bias"]
    )
    torch.testing.assert_close(normed, expected)
    torch.testing.assert_close(total, given["x"] + given["residual"])


@pytest.mark.parametrize("rms", [False, True])
def test_gradcheck_of_the_reference(rms):
    given = [t.requires_grad_() for t in inputs(3, 4).values()]
    assert torch.autograd.gradcheck(lambda *t: add_norm_fn(*t, rms=rms, backend="reference"), given)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("shape", [(2, 37, 118), (16,), (1, 3), (300, 32), (2, 2, 2, 17)], ids=str)
@pytest.mark.parametrize("without", [(), ("bias",), ("residual",)])
def test_agrees_with_float64(backend, rms, shape, without):
    given = inputs(*shape, without=without)
    expected = run(given, torch.float64, "reference", rms=rms)
    assert_close(run(given, torch.float32, backend, rms=rms), expected, 3e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("stream", [torch.float32, torch.bfloat16])
def test_bfloat16(backend, rms, stream):
    given = inputs(4, 37, 118)
    actual = run(given, torch.bfloat16, backend, stream, rms=rms)
    assert actual["normed"].dtype == actual["x"].dtype == torch.bfloat16
    assert actual["total"].dtype == actual["residual"].dtype == stream
    assert actual["weight"].dtype == torch.float32
    assert_close(actual, run(given, torch.float64, "reference", rms=rms), 8e-3)


@settings(max_examples=25, deadline=None)
@given(count=st.integers(0, 300), size=st.integers(2, 70), rms=st.booleans())
def test_any_shape(count, size, rms):
    given = inputs(count, size)
    expected = run(given, torch.float64, "reference", rms=rms)
    assert_close(run(given, torch.float32, "cpu", rms=rms), expected, 1e-4)


@pytest.mark.parametrize("residual", [False, True])
def test_layout_does_not_matter(residual):
    given = {k: t.float() for k, t in inputs(2, 37, 20).items()}
    name = "residual" if residual else "x"
    expected = add_norm_fn(**given, backend="cpu")
    wide = torch.full((2, 37, 50), torch.nan)
    wide[..., 7:27] = given[name]
    crossed = given[name].transpose(0, 2).contiguous().transpose(0, 2)
    for laid_out in (wide[..., 7:27], crossed):
        actual = add_norm_fn(**given | {name: laid_out}, backend="cpu")
        assert torch.equal(actual[0], expected[0])
        assert torch.equal(actual[1], expected[1])


def test_a_row_does_not_depend_on_the_others_nor_on_threads():
    given = inputs(5, 200, 118)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run(given, torch.float32, "cpu")
        torch.set_num_threads(2)
        two = run(given, torch.float32, "cpu")
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one[k], two[k]) for k in one)
    alone, _ = add_norm_fn(
        *(t.float()[3:4] if t.dim() == 3 else t.float() for t in given.values()), backend="cpu"
    )
    assert torch.equal(alone[0], one["normed"][3])


def test_unused_output_contributes_no_gradient():
    given = {k: t.float().requires_grad_() for k, t in inputs(3, 20).items()}
    _, total = add_norm_fn(**given, backend="cpu")
    total.sum().backward()
    assert torch.equal(given["x"].grad, torch.ones(3, 20))
    assert not given["weight"].grad.any()


def test_auto_takes_the_compiled_norm_where_it_can():
    given = inputs(3, 20)
    single = {k: t.float() for k, t in given.items()}
    assert torch.equal(add_norm_fn(**single)[0], add_norm_fn(**single, backend="cpu")[0])
    assert add_norm_fn(**given)[0].dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.tensor(1.0)}, r"x must be \(..., D\) in floating point, got \(\)"),
        ({"x": torch.zeros(3, 20).int()}, r"in torch.int32"),
        (
            {"residual": torch.zeros(20)},
            r"residual must have the shape of x \(3, 20\), got \(20,\)",
        ),
        ({"weight": torch.zeros(19)}, r"weight must have the shape \(20,\), got \(19,\)"),
        ({"bias": torch.zeros(3, 20)}, r"bias must have the shape \(20,\), got \(3, 20\)"),
        ({"backend": "cuda"}, r"backend 'cuda' is unknown"),
        (
            {"backend": "triton"},
            r"backend 'triton': (triton is|it runs on cuda and a tensor is on cpu)",
        ),
        (
            {"backend": "mamba_ssm"},
            r"backend 'mamba_ssm': it is not available; usable here: cpu, reference",
        ),
    ],
)
def test_errors_name_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        add_norm_fn(**{k: t.float() for k, t in inputs(3, 20).items()} | change)
