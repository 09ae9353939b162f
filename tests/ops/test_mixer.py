"""The mixer: the compiled one against float64, in every shape that a backbone can have."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnadiff.ops import DirectionWeights, MixerState, mamba_mixer_fn, mamba_mixer_step

BOTH = (False, True)


def arguments(
    batch=2,
    length=37,
    width=6,
    channels=20,
    states=5,
    rank=2,
    taps=4,
    reverse=BOTH,
    biases=True,
    seed=0,
):
    """Returns leaves in float64 by name, and which directions are reversed."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0):
        return scale * torch.randn(shape, generator=generator, dtype=torch.float64)

    leaves = {
        "x": normal(batch, length, width),
        "in_weight": normal(2 * channels, width, scale=width**-0.5),
        "out_weight": normal(width, channels, scale=channels**-0.5),
    }
    if biases:
        leaves |= {"in_bias": normal(2 * channels), "out_bias": normal(width)}
    for i in range(len(reverse)):
        leaves |= {
            f"conv_weight{i}": normal(channels, taps, scale=0.5),
            f"x_proj{i}": normal(rank + 2 * states, channels, scale=channels**-0.5),
            f"dt_proj{i}": normal(channels, rank),
            f"dt_bias{i}": normal(channels) - 2,
            f"A{i}": -normal(channels, states).abs() - 0.1,
            f"D{i}": normal(channels),
        }
        if biases:
            leaves[f"conv_bias{i}"] = normal(channels)
    return leaves, reverse


def weights(leaves, reverse):
    """Returns the projections, and the directions."""
    directions = [
        DirectionWeights(
            *(leaves.get(f"{name}{i}") for name in DirectionWeights._fields if name != "reverse"),
            backwards,
        )
        for i, backwards in enumerate(reverse)
    ]
    return (
        leaves["in_weight"],
        leaves.get("in_bias"),
        leaves["out_weight"],
        leaves.get("out_bias"),
    ), directions


def mix(leaves, reverse, backend):
    projections, directions = weights(leaves, reverse)
    return mamba_mixer_fn(leaves["x"], *projections, directions, backend=backend)


def run(leaves, reverse, dtype, backend):
    """Returns the output, and the gradients of a weighted sum of it."""
    leaves = {k: t.clone().to(dtype).requires_grad_() for k, t in leaves.items()}
    out = mix(leaves, reverse, backend)
    weight = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view(out.shape)
    (out.double() * weight).sum().backward()
    gradients = {k: torch.zeros_like(t) if t.grad is None else t.grad for k, t in leaves.items()}
    return {"out": out.detach(), **gradients}


def assert_close(actual, expected, tolerance):
    for name, x in actual.items():
        error = torch.linalg.vector_norm(x.double() - expected[name])
        assert error <= tolerance * torch.linalg.vector_norm(expected[name]) + 1e-12, (name, error)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"length": 0},
        {"length": 1},
        {"length": 32},
        {"length": 65, "channels": 32, "states": 16, "rank": 8},
        {
            "channels": 236,
            "width": 118,
            "states": 16,
            "rank": 8,
            "batch": 1,
        },  # the paper's, two slabs
        {"reverse": (False,)},
        {"reverse": (True,)},
        {"reverse": (True, False)},
        {"reverse": (False, True, True)},
        {"biases": False},
        {"taps": 1},
        {"taps": 7, "length": 5},
        {"rank": 1, "states": 1},
        {"channels": 3, "rank": 11},
    ],
    ids=str,
)
def test_agrees_with_float64(shape):
    leaves, reverse = arguments(**shape)
    expected = run(leaves, reverse, torch.float64, "reference")
    assert_close(run(leaves, reverse, torch.float32, "cpu"), expected, 4e-6)


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 70),
    channels=st.integers(1, 40),
    states=st.integers(1, 9),
    rank=st.integers(1, 5),
    taps=st.integers(1, 5),
)
def test_any_shape(batch, length, channels, states, rank, taps):
    leaves, reverse = arguments(batch, length, 3, channels, states, rank, taps)
    expected = run(leaves, reverse, torch.float64, "reference")
    actual = run(leaves, reverse, torch.float32, "cpu")
    assert_close({"out": actual.pop("out")}, expected, 1e-5)
    # One number's gradient may be a sum whose terms cancel, so errors are measured against the norm
    # of all gradients together.
    size = torch.linalg.vector_norm(torch.cat([expected[name].flatten() for name in actual]))
    for name, gradient in actual.items():
        assert (
            torch.linalg.vector_norm(gradient.double() - expected[name]) <= 1e-5 * size + 1e-12
        ), name


def test_autocast_keeps_bfloat16():
    leaves, reverse = arguments(channels=32, length=65)
    with torch.autocast("cpu", torch.bfloat16):
        actual = run(leaves, reverse, torch.float32, "cpu")
    assert actual["out"].dtype == torch.bfloat16
    assert actual["A0"].dtype == torch.float32
    assert_close(actual, run(leaves, reverse, torch.float64, "reference"), 3e-2)


def test_bfloat16_weights_and_input():
    leaves, reverse = arguments(channels=32, length=65)
    leaves = {k: t.bfloat16().double() for k, t in leaves.items()}
    actual = run(leaves, reverse, torch.bfloat16, "cpu")
    assert actual["out"].dtype == actual["A0"].dtype == torch.bfloat16
    assert_close(actual, run(leaves, reverse, torch.float64, "reference"), 3e-2)


def test_without_gradients_it_is_the_same():
    leaves, reverse = arguments(length=65)
    leaves = {k: t.float() for k, t in leaves.items()}
    out = mix(leaves, reverse, "cpu")
    leaves["A1"].requires_grad_()
    assert torch.equal(mix(leaves, reverse, "cpu"), out)


def test_a_sequence_does_not_depend_on_what_the_next_one_holds():
    leaves, reverse = arguments(batch=3, channels=150, length=40)
    leaves = {k: t.float() for k, t in leaves.items()}
    out = mix(leaves, reverse, "cpu")
    leaves["x"][1:] = torch.nan
    assert torch.equal(mix(leaves, reverse, "cpu")[0], out[0])


@pytest.mark.parametrize("name", arguments()[0])
def test_gradient_of_one_tensor_alone(name):
    leaves, reverse = arguments()
    gradients = []
    for dtype, backend in ((torch.float32, "cpu"), (torch.float64, "reference")):
        given = {k: t.to(dtype) for k, t in leaves.items()}
        leaf = given[name].requires_grad_()
        mix(given, reverse, backend).square().sum().backward()
        gradients.append({name: leaf.grad})
    assert_close(*gradients, 1e-5)


def test_an_empty_batch():
    leaves, reverse = arguments(batch=0)
    assert run(leaves, reverse, torch.float32, "cpu")["A0"].eq(0).all()


def test_errors():
    leaves, reverse = arguments()
    with pytest.raises(ValueError, match="at least one direction"):
        mix(leaves, (), "auto")
    with pytest.raises(ValueError, match="float64"):
        mix(leaves, reverse, "cpu")
    with pytest.raises(ValueError, match="unknown"):
        mix(leaves, reverse, "tpu")


@pytest.mark.parametrize(
    "options", [{}, {"taps": 1, "biases": False}, {"states": 1, "length": 1}], ids=str
)
def test_steps_equal_the_whole_mixer(options):
    leaves, reverse = arguments(reverse=(False,), **options)
    projections, (direction,) = weights(leaves, reverse)
    state, out = MixerState.empty(2, direction), []
    for x in leaves["x"].unbind(1):
        y, state = mamba_mixer_step(x, state, *projections, direction)
        out.append(y)
    torch.testing.assert_close(
        torch.stack(out, 1), mix(leaves, reverse, "reference"), rtol=1e-10, atol=1e-10
    )


def test_steps_refuse_a_reversed_direction():
    leaves, reverse = arguments(reverse=(True,))
    projections, (direction,) = weights(leaves, reverse)
    with pytest.raises(ValueError, match="right to left"):
        mamba_mixer_step(leaves["x"][:, 0], MixerState.empty(2, direction), *projections, direction)
