"""The default precision: what a measurement decides, how it is kept, and what it costs."""

import json
import time
from pathlib import Path

import pytest
import torch

from dnadiff.ops import precision
from dnadiff.ops.precision import MIN_SPEEDUP, choose_precision, prefers_bf16


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder for each test."""
    monkeypatch.setenv("DNADIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "precision"


@pytest.fixture
def measured(monkeypatch):
    """Replaces the measurement by one that returns the numbers of a list, in turn."""

    def install(*speedups):
        remaining = list(speedups)
        monkeypatch.setattr(precision, "_measure_speedup", lambda d_model: remaining.pop(0))
        return remaining

    return install


@pytest.mark.parametrize(
    ("products", "layer", "expected"),
    [
        (8.0, 1.6, "bf16-mixed"),  # AMX
        (1.9, 1.55, "bf16-mixed"),  # AVX512-BF16 without AMX
        (1.9, 1.05, "32-true"),  # within noise
        (1.0, None, "32-true"),  # the layer is not even tried
        (0.3, None, "32-true"),  # emulated
    ],
)
def test_the_faster_precision_is_chosen(monkeypatch, products, layer, expected):
    outcomes = iter([products] if layer is None else [products, layer])
    monkeypatch.setattr(precision, "_paired_speedup", lambda run: next(outcomes))
    choice = choose_precision("cpu")
    assert choice.precision == expected
    assert choice.speedup == (products if layer is None else layer)
    assert next(outcomes, None) is None
    assert prefers_bf16("cpu") == (expected == "bf16-mixed")


def test_the_choice_names_what_was_measured(measured):
    measured(1.553, 0.346)
    assert str(choose_precision("cpu")) == "bf16-mixed (1.55 times faster than 32-true)"
    assert str(choose_precision("cpu", d_model=64)) == (
        "32-true (bf16-mixed measured 0.35 times as fast, 1.15 needed)"
    )


def test_a_measurement_is_kept(measured):
    remaining = measured(1.5, 0.5)
    assert prefers_bf16("cpu")
    assert prefers_bf16("cpu")
    assert remaining == [0.5]


def change_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)


def change_torch(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "99.0")


def change_cpu(monkeypatch):
    monkeypatch.setattr(precision, "_cpu", lambda: ["another"])


@pytest.mark.parametrize("change", [change_threads, change_torch, change_cpu])
def test_another_machine_measures_again(measured, monkeypatch, change):
    remaining = measured(1.5, 0.5)
    assert prefers_bf16("cpu")
    change(monkeypatch)
    assert not prefers_bf16("cpu")
    assert remaining == []


def test_another_width_measures_again(measured):
    measured(1.5, 0.5)
    assert prefers_bf16("cpu", d_model=118)
    assert not prefers_bf16("cpu", d_model=256)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "\x00" * 100,
        lambda text: "[1.5]",
        lambda text: json.dumps(json.loads(text) | {"speedup": "1.5"}),
        lambda text: json.dumps(json.loads(text) | {"speedup": float("nan")}),
        lambda text: json.dumps(json.loads(text) | {"speedup": -1.5}),
        lambda text: json.dumps(json.loads(text) | {"machine": {}}),
    ],
    ids=["empty", "cut", "binary", "list", "text", "NaN", "negative", "other machine"],
)
def test_a_damaged_file_is_replaced(measured, cache, damage):
    remaining = measured(1.5, 1.4, 0.5)
    choose_precision("cpu")
    (file,) = cache.iterdir()
    file.write_text(damage(file.read_text()))
    assert choose_precision("cpu").speedup == 1.4
    assert choose_precision("cpu").speedup == 1.4
    assert remaining == [0.5]


def test_unwritable_cache_folder(measured, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DNADIFF_CACHE", str(tmp_path / "file"))
    measured(1.5, 1.6)
    assert choose_precision("cpu").speedup == 1.5
    assert choose_precision("cpu").speedup == 1.6


def test_user_without_a_home_folder(measured, monkeypatch):
    monkeypatch.delenv("DNADIFF_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", without_home)
    measured(1.5)
    assert choose_precision("cpu").speedup == 1.5


def without_home():
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize(
    ("single", "half", "expected"),
    [
        ([3, 3, 3, 3, 3, 3, 3], [2, 2, 2, 2, 2, 2, 2], 1.5),
        ([3, 3, 3, 3, 3, 3, 3], [3, 3, 1, 3, 3, 3, 3], 1.0),  # one lucky run of bfloat16
        ([9, 9, 9, 9, 9, 3, 3], [3, 3, 3, 3, 3, 3, 3], 1.0),  # float32 was disturbed for a while
    ],
)
def test_noise_does_not_favour_bfloat16(monkeypatch, single, half, expected):
    times = {torch.float32: iter(single), torch.bfloat16: iter(half)}
    monkeypatch.setattr(precision, "_seconds", lambda run, dtype: next(times[dtype]) / 100)
    assert precision._paired_speedup(lambda dtype: None) == pytest.approx(expected)


def test_slow_runs_are_not_repeated(monkeypatch):
    calls = []

    def slow(run, dtype):
        calls.append(dtype)
        return 10.0

    monkeypatch.setattr(precision, "_seconds", slow)
    assert precision._paired_speedup(lambda dtype: None) == 1.0
    assert len(calls) == 6


def test_measurement_is_short_and_does_not_change_random_numbers():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    precision._layer_pass(118)(torch.float32)  # compiles
    precision._layer_pass(118)(torch.bfloat16)
    start = time.perf_counter()
    choice = choose_precision("cpu")
    assert time.perf_counter() - start < 30  # 1.2 seconds on two idle cores
    assert choice.precision == ("bf16-mixed" if choice.speedup >= MIN_SPEEDUP else "32-true")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("native", [True, False])
def test_gpus_need_instructions_for_bfloat16(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    choice = choose_precision("cuda")
    assert choice.precision == ("bf16-mixed" if native else "32-true")


def test_other_devices_take_float32():
    assert not prefers_bf16("mps")
