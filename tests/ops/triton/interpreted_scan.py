"""The scan in Triton's interpreter; run by test_triton.py.

Tiles are small, because the interpreter makes only 10^4 additions per second.
"""

import pytest
import torch
from test_selective_scan import (
    SEQUENCES,
    assert_close,
    assert_same,
    channels_last,
    every_second,
    inputs,
    run,
    slice_of_wider,
)

import dnadiff.ops.triton.scan as kernels
from dnadiff.ops import selective_scan_fn


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    for name, size in {"STEPS": 4, "LANES": 4, "SPAN": 2}.items():
        monkeypatch.setattr(kernels, name, size)


def small(**changes):
    return inputs(**{"batch": 1, "channels": 6, "length": 9, "states": 2} | changes)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        {"batch": 2, "states": 3, "length": 5},
        {"length": 1, "channels": 1, "states": 1},
        {
            "length": 16,
            "channels": 4,
            "states": 1,
        },  # whole tiles, and several steps of the scan over tiles
        {"length": 5, "channels": 2, "states": 16},
        {"groups": 2, "without": ("z",)},
        {"without": ("D", "delta_bias"), "states": 1},
    ],
    ids=str,
)
def test_agrees_with_float64(reverse, shape):
    given = small(**shape)
    expected = run(given, torch.float64, "reference", delta_softplus=True, reverse=reverse)
    assert_close(
        run(given, torch.float32, "triton", delta_softplus=True, reverse=reverse), expected, 2e-6
    )


@pytest.mark.parametrize("join", ["_earlier", "_state", "_decayed", "_gradient"])
def test_joining_stretches_is_associative(join):
    """The interpreter joins stretches from left to right, and a GPU in the order of a tree."""
    function = getattr(kernels, join).fn
    size = function.__code__.co_argcount // 2
    first, second, third = torch.randn(
        3, size, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    from_left = function(*function(*first, *second), *third)
    from_right = function(*first, *function(*second, *third))
    for x, y in zip(from_left, from_right, strict=True):
        torch.testing.assert_close(x, y)


def test_without_softplus():
    given = small(without=("delta_bias",))
    given["delta"] = given["delta"].abs()
    assert_close(run(given, torch.float32, "triton"), run(given, torch.float64, "reference"), 2e-6)


def test_large_and_small_step_sizes():
    """Tests where float32 loses digits of softplus: far to the left, and near the identity."""
    given = small(channels=4)
    given["delta_bias"] = torch.tensor([-40.0, -12.0, 0.0, 30.0], dtype=torch.float64)
    expected = run(given, torch.float64, "reference", delta_softplus=True)
    actual = run(given, torch.float32, "triton", delta_softplus=True)
    for channel in range(4):  # each for itself, as small ones would not count in a norm of all
        one = {k: (actual[k][:, channel], expected[k][:, channel]) for k in ("last", "delta")}
        assert_close({k: a for k, (a, _) in one.items()}, {k: e for k, (_, e) in one.items()}, 1e-5)


def test_tiles_of_their_real_size(monkeypatch):
    monkeypatch.undo()
    assert (kernels.STEPS, kernels.LANES) == (16, 32)
    given = small(length=17, channels=33, states=1)
    expected = run(given, torch.float64, "reference", delta_softplus=True)
    assert_close(run(given, torch.float32, "triton", delta_softplus=True), expected, 2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    given = small()
    actual = run(given, dtype, "triton", delta_softplus=True)
    assert actual["out"].dtype == actual["u"].dtype == actual["B"].dtype == dtype
    assert actual["last"].dtype == actual["A"].dtype == torch.float32
    assert_close(actual, run(given, torch.float64, "reference", delta_softplus=True), 8e-3)


def test_mixed_dtypes_give_the_dtype_of_u():
    given = small()
    mixed = {k: t.bfloat16() if k in ("u", "C") else t.float() for k, t in given.items()}
    y = selective_scan_fn(**mixed, delta_softplus=True, backend="triton")
    assert y.dtype == torch.bfloat16
    expected = selective_scan_fn(**given, delta_softplus=True)
    assert_close({"out": y}, {"out": expected}, 8e-3)


def test_groups_of_B_and_C_may_differ():
    given = small(groups=2) | {"C": small(groups=3)["C"]}
    expected = run(given, torch.float64, "reference", delta_softplus=True)
    assert_close(run(given, torch.float32, "triton", delta_softplus=True), expected, 2e-6)


def test_layout_does_not_matter():
    given = {k: t.float() for k, t in small().items()}
    expected = selective_scan_fn(**given, delta_softplus=True, reverse=True, backend="triton")
    for lay_out in (channels_last, slice_of_wider, every_second):
        laid_out = {k: lay_out(t) if k in SEQUENCES else t for k, t in given.items()}
        y = selective_scan_fn(**laid_out, delta_softplus=True, reverse=True, backend="triton")
        assert torch.equal(y, expected), lay_out
    assert y.shape == expected.shape


def test_channels_last_in_channels_last_out():
    given = {
        k: slice_of_wider(t.float()) if k in SEQUENCES else t.float()
        for k, t in small(states=1).items()
    }
    y = selective_scan_fn(**given, delta_softplus=True, backend="triton")
    assert y.transpose(1, 2).is_contiguous()


def test_expanded_inputs_and_gradients():
    given = small(batch=2, length=5)
    for name, dim in (("u", 0), ("delta", 1), ("z", 2), ("B", 2), ("C", 0)):
        given[name] = given[name].narrow(dim, 0, 1).expand_as(given[name])
    leaves = {k: t.float().requires_grad_() for k, t in given.items()}
    exact = {k: t.clone().requires_grad_() for k, t in given.items()}
    selective_scan_fn(
        **leaves, delta_softplus=True, backend="triton"
    ).sum().backward()  # an expanded gradient, too
    selective_scan_fn(**exact, delta_softplus=True, backend="reference").sum().backward()
    assert_close(
        {k: t.grad for k, t in leaves.items()}, {k: t.grad for k, t in exact.items()}, 2e-6
    )


def test_a_sequence_does_not_depend_on_its_batch():
    given = small(batch=2)
    together = run(given, torch.float32, "triton", delta_softplus=True)
    alone = {k: (t[1:] if k in SEQUENCES else t).float().requires_grad_() for k, t in given.items()}
    y, last = selective_scan_fn(
        **alone, delta_softplus=True, return_last_state=True, backend="triton"
    )
    weight = torch.linspace(-1, 2, together["out"].numel(), dtype=torch.float64).view(
        together["out"].shape
    )
    (y.double() * weight[1:]).sum().add(last.double().square().sum()).backward()
    assert_same(
        {"out": y[0], **{k: alone[k].grad[0] for k in SEQUENCES}},
        {k: t[1] for k, t in together.items()},
    )


@pytest.mark.parametrize("shape", [{"batch": 0}, {"length": 0}], ids=str)
def test_empty_input(shape):
    given = small(**shape)
    got = run(given, torch.float32, "triton", delta_softplus=True)
    assert got["out"].shape == given["u"].shape
    assert not got["last"].any()
    assert not got["A"].any()
    assert not got["D"].any()


@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "C", "D", "z", "delta_bias"])
def test_nan_propagates(name):
    given = {k: t.float() for k, t in small(batch=2, channels=5, length=5, states=1).items()}
    given[name].view(-1)[0] = torch.nan
    y = selective_scan_fn(**given, delta_softplus=True, backend="triton")
    assert y[0, 0].isnan().any()
    assert not y[1, 1:].isnan().any()


def test_gradients_of_some_inputs_only():
    given = {k: t.float() for k, t in small(without=("z",)).items()}
    given["B"].requires_grad_()
    selective_scan_fn(**given, delta_softplus=True, backend="triton").sum().backward()
    assert given["B"].grad.shape == given["B"].shape
    assert given["u"].grad is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.zeros(1, 6, 9).double()}, "it computes in float32 and a tensor is float64"),
        ({"B": torch.zeros(6, 2)}, "B and C must vary along the sequence"),
    ],
)
def test_unsupported_arguments(change, message):
    with pytest.raises(ValueError, match=f"'triton': {message}"):
        selective_scan_fn(**{k: t.float() for k, t in small().items()} | change, backend="triton")


def test_auto_does_not_choose_the_interpreter(monkeypatch):
    monkeypatch.setattr(kernels, "selective_scan", None)
    given = {k: t.float() for k, t in small().items()}
    compiled = selective_scan_fn(**given, delta_softplus=True, backend="cpu")
    assert torch.equal(selective_scan_fn(**given, delta_softplus=True), compiled)
