"""Lanes: arithmetic, memory in float32 and bfloat16, sums over lanes, and elementary functions."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from numba import njit

from dnadiff.ops.cpu import functions
from dnadiff.ops.cpu.lanes import (
    absolute,
    fma,
    load,
    load_number,
    pointer,
    store,
    store_number,
    total,
    total_each,
    where_greater,
)


def apply(function, x):
    """Applies a function of Lanes to an array whose length is a multiple of 16."""

    @njit
    def over(x, y):
        for i in range(0, x.size, 16):
            store(pointer(y), i, function(load(pointer(x), i)))

    y = np.empty_like(x)
    over(x, y)
    return y


def numbers(size=64):
    return np.random.default_rng(0).normal(size=size).astype(np.float32)


@njit
def _mixed(x):
    return (1 - x * 2.5) / (absolute(x) + np.float32(0.5))


@njit
def _clamp(x):
    return where_greater(x, 0.25, 0.25, fma(x, x, 1.0))


def test_arithmetic_with_plain_numbers():
    x = numbers()
    np.testing.assert_allclose(apply(_mixed, x), (1 - x * 2.5) / (np.abs(x) + 0.5), rtol=3e-7)
    np.testing.assert_allclose(apply(_clamp, x), np.where(x > 0.25, 0.25, x * x + 1), rtol=2e-7)


@njit
def _to_bfloat16(x, bits, one_by_one):
    for i in range(0, x.size, 16):
        store(pointer(bits), i, load(pointer(x), i))
        for lane in range(16):
            store_number(pointer(one_by_one), i + lane, load_number(pointer(x), i + lane))


@njit
def _from_bfloat16(bits, x, one_by_one):
    for i in range(0, x.size, 16):
        store(pointer(x), i, load(pointer(bits), i))
        for lane in range(16):
            store_number(pointer(one_by_one), i + lane, load_number(pointer(bits), i + lane))


def test_bfloat16_rounds_as_pytorch_does():
    ties = torch.tensor(
        [0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0x7F7FFFFF, 0x7FC00000], dtype=torch.int32
    )
    x = torch.cat((torch.from_numpy(numbers(64 - 6)), ties.view(torch.float32)))
    expected = x.bfloat16()
    bits, single_bits = np.empty(64, np.int16), np.empty(64, np.int16)
    _to_bfloat16(x.numpy(), bits, single_bits)
    assert (single_bits == bits).all()
    back, single = np.empty(64, np.float32), np.empty(64, np.float32)
    _from_bfloat16(bits, back, single)
    np.testing.assert_array_equal(back, expected.float().numpy())
    np.testing.assert_array_equal(single, back)


@njit
def _totals(x, each):
    store(pointer(each), 0, total_each(pointer(x), 0))
    return total(load(pointer(x), 16))


def test_sums_over_lanes():
    x = np.arange(256, dtype=np.float32)
    each = np.empty(16, np.float32)
    assert _totals(x, each) == x[16:32].sum()
    np.testing.assert_array_equal(each, x.reshape(16, 16).sum(1))


@pytest.mark.parametrize(
    ("name", "expected", "low", "high", "tolerance"),
    [
        ("exp", np.exp, -1, 1, 3e-7),
        ("exp", np.exp, -87, 88, 6e-6),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), -87, 87, 6e-6),
        ("softplus", lambda x: np.log1p(np.exp(x)), -80, 80, 6e-6),
        ("softplus", lambda x: np.log1p(np.exp(x)), -1, 1, 5e-7),
    ],
)
def test_relative_error(name, expected, low, high, tolerance):
    x = np.linspace(low, high, 16000).astype(np.float32)
    y = apply(getattr(functions, name), x)
    assert np.abs(y / expected(x.astype(np.float64)) - 1).max() < tolerance


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("exp", [0, 0, 0, np.inf, np.inf, np.inf, np.nan, 1]),
        ("sigmoid", [0, 0, 0, 1, 1, 1, np.nan, 0.5]),
        ("softplus", [0, 0, 0, 100, 1e30, np.inf, np.nan, np.log(2)]),
    ],
)
def test_ends_of_the_range(name, expected):
    x = np.array([-100, -1e30, -np.inf, 100, 1e30, np.inf, np.nan, 0] * 2, np.float32)
    expected = np.array(expected * 2, np.float32)
    np.testing.assert_allclose(apply(getattr(functions, name), x), expected, rtol=2e-7, atol=2e-38)


@pytest.mark.parametrize(
    ("x", "y"), [(-30.0, 5.0), (30.0, 5.0), (-1e6, 100.0), (0.1, -3.0), (np.nan, 1.0)]
)
def test_exp2_product(x, y):
    @njit
    def power(a):
        return functions.exp2_product(a, np.float32(y))

    with np.errstate(over="ignore", under="ignore"):
        expected = np.exp2(np.float64(np.float32(x)) * y).astype(np.float32)
    np.testing.assert_allclose(
        apply(power, np.full(16, x, np.float32)), np.full(16, expected), rtol=3e-7, atol=1e-38
    )


def test_functions_without_avx_and_fma():
    """Repeats the tests above with code for any x86-64 or ARM, without vector extensions."""
    plain = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        __file__,
        "-k",
        "relative or ends or exp2",
    ]
    run = subprocess.run(command, env=plain, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
