"""The compiled loops: the same random numbers as `dnadiff.rng`, and orders without lists."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from dnadiff.genome.loops import chances, shuffled
from dnadiff.rng import Stream, uniform

seeds = st.integers(0, 2**64 - 1)


@settings(max_examples=200, deadline=None)
@given(seeds, st.sampled_from(Stream), st.integers(0, 2**56 - 1))
def test_chances_are_the_numbers_of_rng(seed, stream, index):
    expected = uniform(seed, stream, torch.tensor([index]), 2)[0].tolist()
    assert list(chances(np.uint64(seed), np.uint64(stream), np.uint64(index))) == expected


def order(size, seed, turn):
    words = [np.uint64(value) for value in (size, seed, Stream.WINDOW, turn)]
    return [int(shuffled(np.uint64(place), *words)) for place in range(size)]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), seeds, st.integers(0, 2**40))
def test_a_shuffled_list_has_everything_once(size, seed, turn):
    assert sorted(order(size, seed, turn)) == list(range(size))


def test_orders_differ_and_repeat():
    assert order(100, 1, 0) == order(100, 1, 0)
    assert (
        len({tuple(order(100, seed, turn)) for seed in (1, 2, 2**40) for turn in (0, 1, 2**33)})
        == 9
    )


@pytest.mark.parametrize("size", [5, 16, 33])
def test_every_place_goes_everywhere(size):
    turns = 200 * size
    where = np.array(
        [shuffled(*(np.uint64(v) for v in (3, size, 7, Stream.WINDOW, t))) for t in range(turns)]
    )
    assert chisquare(np.bincount(where.astype(int), minlength=size)).pvalue > 0.001


def test_neighbours_are_parted():
    steps = np.diff(order(1000, 0, 0))
    assert (np.abs(steps) < 10).mean() < 0.04  # 2 % by chance
