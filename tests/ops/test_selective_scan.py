"""The selective scan: closed forms, backends against the float64 reference, layouts, bits."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnadiff.ops import selective_scan_fn

BACKENDS = ["reference", "cpu"]
SEQUENCES = ("u", "delta", "z", "B", "C")


def inputs(batch=2, channels=20, length=37, states=5, groups=None, without=(), seed=0):
    """Returns arguments in float64 whose values are exact in float32 and bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    coefficients = (batch, states, length) if groups is None else (batch, groups, states, length)
    shapes = {
        "u": (batch, channels, length), "delta": (batch, channels, length), "A": (channels, states),
        "B": coefficients, "C": coefficients, "D": (channels,), "z": (batch, channels, length),
        "delta_bias": (channels,),
    }  # fmt: skip
    given = {
        k: torch.randn(s, generator=generator).bfloat16().double()
        for k, s in shapes.items()
        if k not in without
    }
    given["A"] = -given["A"].abs() - 0.125
    return given


def run(given, dtype, backend, **options):
    """Returns output, last state and all gradients, with sequences in `dtype`."""
    leaves = {
        k: t.clone()
        .to(dtype if k in SEQUENCES or dtype == torch.float64 else torch.float32)
        .requires_grad_()
        for k, t in given.items()
    }
    out, last = selective_scan_fn(**leaves, return_last_state=True, backend=backend, **options)
    weight = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view(out.shape)
    (out.double() * weight).sum().add(last.double().square().sum()).backward()
    return {"out": out.detach(), "last": last.detach(), **{k: t.grad for k, t in leaves.items()}}


def assert_close(actual, expected, tolerance):
    assert actual.keys() == expected.keys()
    for name, x in actual.items():
        assert x.shape == expected[name].shape, name
        error = torch.linalg.vector_norm(x.double() - expected[name])
        assert error <= tolerance * torch.linalg.vector_norm(expected[name]) + 1e-12, name


def assert_same(actual, expected):
    for name, x in actual.items():
        assert torch.equal(x, expected[name]), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("A", "dt", "expected"),
    [
        (0.0, 1.0, [1.0, 3.0, 6.0, 10.0]),  # no decay: the running sum
        (
            -1.0,
            0.6931471805599453,
            [0.6931472, 1.7328680, 2.9458755, 4.2455265],
        ),  # halved at each step, times dt
        (-1e6, 1.0, [1.0, 2.0, 3.0, 4.0]),  # all forgotten
    ],
)
def test_closed_form(backend, A, dt, expected):
    u = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(1, 3, 4)
    one = torch.ones(1, 2, 4)
    y, last = selective_scan_fn(
        u,
        torch.full((1, 3, 4), dt),
        torch.full((3, 2), A),
        one,
        one / 2,
        return_last_state=True,
        backend=backend,
    )
    torch.testing.assert_close(y, torch.tensor(expected).expand(1, 3, 4))
    torch.testing.assert_close(last, torch.full((1, 3, 2), expected[-1]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_skip_bias_softplus_and_gate(backend):
    u = torch.tensor([[[2.0]]])
    one = torch.ones(1, 1, 1)
    A, D, bias = torch.zeros(1, 1), torch.tensor([5.0]), torch.tensor([0.5])
    y = selective_scan_fn(u, 0 * one, A, one, 3 * one, D, one, bias, True, backend=backend)
    softplus, silu = 0.9740769841801067, 0.7310585786300049
    torch.testing.assert_close(y, torch.tensor([[[(softplus * 2 * 3 + 5 * 2) * silu]]]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("groups", [None, 4])
def test_reverse_is_flip_scan_flip(backend, groups):
    given = inputs(groups=groups)
    flipped = {k: t.flip(-1) if k in SEQUENCES else t for k, t in given.items()}
    straight = {k: t.float() for k, t in flipped.items()}
    y, last = selective_scan_fn(
        **straight, delta_softplus=True, return_last_state=True, backend=backend
    )
    backward = {k: t.float() for k, t in given.items()}
    y_reverse, last_reverse = selective_scan_fn(
        **backward, delta_softplus=True, return_last_state=True, reverse=True, backend=backend
    )
    tolerance = (
        {"rtol": 0, "atol": 0} if backend == "cpu" else {}
    )  # PyTorch's own exp differs with the memory order
    torch.testing.assert_close(y_reverse, y.flip(-1), **tolerance)
    torch.testing.assert_close(last_reverse, last, **tolerance)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("constant", [(), ("B",), ("C",), ("B", "C")])
def test_gradcheck_of_the_reference(reverse, constant):
    given = inputs(1, 4, 3, 2, groups=2)
    given |= {name: given["A"] * 2 for name in constant}
    names = list(given)

    def scan(*tensors):
        options = {"delta_softplus": True, "return_last_state": True, "reverse": reverse}
        arguments = dict(zip(names, tensors, strict=True))
        return selective_scan_fn(**arguments, **options, backend="reference")

    assert torch.autograd.gradcheck(scan, [t.clone().requires_grad_() for t in given.values()])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"length": 1},
        {"length": 32},
        {"length": 65, "states": 16},
        {"channels": 16, "states": 4},
        {"channels": 3, "states": 70, "length": 33},
        {"channels": 1, "states": 1},
        {"channels": 150, "length": 33, "batch": 1},  # more than a slab
        {"channels": 300, "length": 5, "batch": 1, "groups": 2},
        {"groups": 1},
        {"groups": 4},
        {"without": ("z",)},
        {"without": ("D", "delta_bias")},
        {"without": ("D", "z", "delta_bias"), "groups": 20},
    ],
    ids=str,
)
@pytest.mark.parametrize("softplus", [False, True])
def test_agrees_with_float64(backend, reverse, shape, softplus):
    given = inputs(**shape)
    if not softplus:  # step sizes must be positive, or states grow without bound
        given |= {k: given[k].abs() for k in ("delta", "delta_bias") if k in given}
    options = {"delta_softplus": softplus, "reverse": reverse}
    expected = run(given, torch.float64, "reference", **options)
    assert_close(run(given, torch.float32, backend, **options), expected, 2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [{}, {"channels": 32}, {"without": ("z",)}], ids=str)
def test_bfloat16(backend, shape):
    given = inputs(**shape)
    actual = run(given, torch.bfloat16, backend, delta_softplus=True)
    assert actual["out"].dtype == actual["u"].dtype == torch.bfloat16
    assert actual["last"].dtype == actual["A"].dtype == torch.float32
    assert_close(actual, run(given, torch.float64, "reference", delta_softplus=True), 6e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_mixed_dtypes_give_the_dtype_of_u(backend):
    given = inputs() | {"u": inputs()["u"].bfloat16()}
    given = {k: t if k == "u" else t.float() for k, t in given.items()}
    y = selective_scan_fn(**given, delta_softplus=True, backend=backend)
    assert y.dtype == torch.bfloat16


def test_cpu_groups_of_B_and_C_may_differ():
    given = inputs(groups=2) | {"C": inputs(groups=4)["C"]}
    expected = run(given, torch.float64, "reference", delta_softplus=True)
    assert_close(run(given, torch.float32, "cpu", delta_softplus=True), expected, 2e-6)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(0, 3),
    groups=st.integers(1, 3),
    channels=st.integers(1, 40),
    length=st.integers(1, 70),
    states=st.integers(1, 9),
    reverse=st.booleans(),
)
def test_any_shape(batch, groups, channels, length, states, reverse):
    given = inputs(batch, groups * channels, length, states, groups)
    options = {"delta_softplus": True, "reverse": reverse}
    expected = run(given, torch.float64, "reference", **options)
    assert_close(
        run(given, torch.float32, "cpu", **options), expected, 1e-4
    )  # sums of few terms may cancel


def channels_last(x):
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


def slice_of_wider(x):
    wide = torch.full((x.shape[0], x.shape[2], x.shape[1] + 7), torch.nan, dtype=x.dtype)
    wide[..., 3 : 3 + x.shape[1]] = x.transpose(1, 2)
    return wide[..., 3 : 3 + x.shape[1]].transpose(1, 2)


def every_second(x):
    wide = torch.full((*x.shape[:2], 2 * x.shape[2]), torch.nan, dtype=x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


@pytest.mark.parametrize("lay_out", [channels_last, slice_of_wider, every_second])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layout_does_not_matter(lay_out, dtype):
    given = {k: t.to(dtype) if k in SEQUENCES else t.float() for k, t in inputs().items()}
    y = selective_scan_fn(**given, delta_softplus=True, backend="cpu")
    laid_out = {k: lay_out(t) if k in SEQUENCES else t for k, t in given.items()}
    assert torch.equal(selective_scan_fn(**laid_out, delta_softplus=True, backend="cpu"), y)


@pytest.mark.parametrize("backend", BACKENDS)
def test_expanded_inputs(backend):
    given = inputs()
    for name, dim in (("u", 0), ("delta", 1), ("z", 2), ("B", 2), ("C", 0)):
        given[name] = given[name].narrow(dim, 0, 1).expand_as(given[name])
    expected = run(given, torch.float64, "reference", delta_softplus=True)
    y = selective_scan_fn(
        **{k: t.float() for k, t in given.items()}, delta_softplus=True, backend=backend
    )
    assert_close({"out": y}, {"out": expected["out"]}, 2e-6)


def test_channels_last_in_channels_last_out_without_a_copy():
    from dnadiff.ops.cpu.compile import channels_last as lay_out
    from dnadiff.ops.cpu.compile import rows

    given = {
        k: slice_of_wider(t.float()) if k in SEQUENCES else t.float()
        for k, t in inputs(channels=32).items()
    }
    assert lay_out(given["u"]) is given["u"]
    assert rows(given["u"]).data.ctypes.data == given["u"].data_ptr()
    y = selective_scan_fn(**given, delta_softplus=True, backend="cpu")
    assert y.stride(1) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sequence_does_not_depend_on_its_batch(dtype):
    given = inputs(batch=5, channels=150, length=40)
    together = run(given, dtype, "cpu", delta_softplus=True)
    for i in (0, 3):
        alone = {k: t[i : i + 1] if k in SEQUENCES else t for k, t in given.items()}
        leaves = {
            k: t.to(dtype if k in SEQUENCES else torch.float32).requires_grad_()
            for k, t in alone.items()
        }
        y, last = selective_scan_fn(
            **leaves, delta_softplus=True, return_last_state=True, backend="cpu"
        )
        weight = torch.linspace(-1, 2, together["out"].numel(), dtype=torch.float64).view(
            together["out"].shape
        )
        (y.double() * weight[i : i + 1]).sum().add(last.double().square().sum()).backward()
        assert torch.equal(y[0], together["out"][i])
        for name in SEQUENCES:
            assert torch.equal(leaves[name].grad[0], together[name][i]), name


@pytest.mark.parametrize("batch", [1, 3])
def test_same_numbers_for_one_and_two_threads(batch):
    given = inputs(batch=batch, channels=300, length=70, states=16)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run(given, torch.float32, "cpu", delta_softplus=True)
        torch.set_num_threads(2)
        assert_same(run(given, torch.float32, "cpu", delta_softplus=True), one)
    finally:
        torch.set_num_threads(threads)


def test_number_of_threads_does_not_change():
    """Not even by the first kernel of a process, which makes Numba start OpenMP."""
    code = """
import torch
from dnadiff.ops import selective_scan_fn
torch.set_num_threads(1)
x, B = torch.ones(1, 4, 8), torch.ones(1, 2, 8)
selective_scan_fn(x, x, -torch.ones(4, 2), B, B, backend="cpu")
import numba
assert torch.get_num_threads() == 1
assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch_has_empty_output_and_zero_gradients(backend):
    got = run(inputs(batch=0), torch.float32, backend, delta_softplus=True)
    assert got["out"].shape == (0, 20, 37)
    assert got["last"].shape == (0, 20, 5)
    assert not got["A"].any()
    assert not got["D"].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "C", "D", "z", "delta_bias"])
def test_nan_propagates(backend, name):
    given = {k: t.float() for k, t in inputs(channels=4).items()}
    given[name].view(-1)[0] = torch.nan
    y = selective_scan_fn(**given, delta_softplus=True, backend=backend)
    assert y[0, 0].isnan().any()
    assert not y[1, 1:].isnan().any()


def test_gradients_of_some_inputs_only():
    given = {k: t.float() for k, t in inputs(without=("z",)).items()}
    given["B"].requires_grad_()
    selective_scan_fn(**given, delta_softplus=True, backend="cpu").sum().backward()
    assert given["B"].grad.shape == given["B"].shape
    assert given["u"].grad is None


def test_auto_takes_the_compiled_scan_where_it_can():
    given = inputs(length=5)
    single = {k: t.float() for k, t in given.items()}
    compiled = selective_scan_fn(**single, delta_softplus=True, backend="cpu")
    assert torch.equal(selective_scan_fn(**single, delta_softplus=True), compiled)
    assert selective_scan_fn(**given, delta_softplus=True).dtype == torch.float64
    constant = single | {"B": single["A"]}
    expected = selective_scan_fn(**constant, delta_softplus=True, backend="reference")
    assert torch.equal(selective_scan_fn(**constant, delta_softplus=True), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.zeros(2, 3)}, r"u must be \(batch, D, L\), got \(2, 3\)"),
        (
            {"delta": torch.zeros(2, 20, 36)},
            r"delta must have the shape of u \(2, 20, 37\), got \(2, 20, 36\)",
        ),
        ({"z": torch.zeros(2, 20, 1)}, r"z must have the shape of u"),
        ({"A": torch.zeros(19, 5)}, r"A must be \(D, N\) with D = 20 as in u, got \(19, 5\)"),
        ({"B": torch.zeros(2, 4, 37)}, r"B must be .* got \(2, 4, 37\)"),
        (
            {"C": torch.zeros(2, 3, 5, 37)},
            r"C has 3 groups, which must divide the 20 channels of u",
        ),
        ({"D": torch.zeros(21)}, r"D must have the shape \(20,\), got \(21,\)"),
        ({"delta_bias": torch.zeros(1)}, r"delta_bias must have the shape \(20,\)"),
        (
            {"A": torch.zeros(20, 5, dtype=torch.complex64)},
            r"A must be real floating point, got torch.complex64",
        ),
        ({"u": torch.zeros(2, 20, 37, dtype=torch.int64)}, r"u must be real floating point"),
        (
            {"backend": "gpu"},
            r"backend 'gpu' is unknown; choose from auto, reference, cpu, triton, mamba_ssm",
        ),
        (
            {"backend": "triton"},
            r"backend 'triton': (triton is|it runs on cuda).*usable here: cpu, reference",
        ),
        (
            {"backend": "mamba_ssm"},
            r"backend 'mamba_ssm': (mamba_ssm is|it runs on cuda).*usable here: cpu, reference",
        ),
        (
            {"backend": "cpu", "u": torch.zeros(2, 20, 37).double()},
            r"a tensor is float64; usable here: reference",
        ),
        ({"backend": "cpu", "B": torch.zeros(20, 5)}, r"B and C must vary along the sequence"),
    ],
)
def test_errors_name_what_is_wrong(change, message):
    given = {k: t.float() for k, t in inputs().items()}
    with pytest.raises(ValueError, match=message):
        selective_scan_fn(**(given | change))


def test_importing_ops_imports_no_compiler():
    code = """
import sys, dnadiff.ops
sys.exit(any(name in sys.modules for name in ("numba", "triton", "mamba_ssm")))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
