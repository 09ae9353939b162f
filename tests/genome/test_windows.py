"""Windows: a pure function of (seed, index), uniform over the legal places of a split, and never outside it."""

import itertools
import os
import pickle
import re
import time
from collections import Counter

import numpy as np
import pyfaidx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from dnadiff.alphabet import DNA
from dnadiff.errors import InputError
from dnadiff.genome import (
    Genome,
    Interval,
    Splits,
    Windows,
    held_out,
    split_by_intervals,
    split_genome,
)
from dnadiff.genome.loops import MAX_LISTED
from dnadiff.genome.windows import MAX_INDEX
from dnadiff.rng import Stream, uniform

TEXTS = {"a": "NNNNACGTNNACGATTTNNNNNNGATTACANN", "b": "ACG", "c": "ACGTTGCATTGANNNNNNNNN"}
TRAIN = [Interval("a", 1, 32), Interval("b", 0, 3), Interval("c", 2, 21)]
LENGTH = 5


def legal(text, interval, length):
    """The starts of the windows of an interval, from the letters alone: no base of a window lies in a desert."""
    free = [True] * len(interval)
    for run in re.finditer("[^ACGTacgt]+", text[interval.start : interval.end]):
        if run.end() - run.start() >= length or run.start() == 0 or run.end() == len(interval):
            free[run.start() : run.end()] = [False] * (run.end() - run.start())
    return [
        (interval.chrom, interval.start + i)
        for i in range(len(interval) - length + 1)
        if all(free[i : i + length])
    ]


def legal_starts(texts, intervals, length=LENGTH):
    return [
        start for interval in intervals for start in legal(texts[interval.chrom], interval, length)
    ]


@pytest.fixture(scope="module")
def sources(genome_of):
    return [(genome_of(TEXTS), Splits({"train": TRAIN}, "by hand"))]


def first(count):
    return torch.arange(count)


def test_exactly_the_legal_windows_are_drawn_and_each_as_often(sources):
    windows = Windows(sources, split="train", length=LENGTH, seed=1)
    expected = legal_starts(TEXTS, TRAIN)
    places = windows.locate(first(20_000))
    drawn = [(place.chrom, place.start) for place in places]
    assert windows.total == len(expected) == 9 + 3 + 6
    assert set(drawn) == set(expected)
    assert chisquare([drawn.count(start) for start in expected]).pvalue > 0.001
    for chrom in "ac":  # wherever a window lies, its strand is a fair coin
        assert (
            chisquare(
                [sum(p.chrom == chrom and p.strand == s for p in places) for s in "+-"]
            ).pvalue
            > 0.001
        )


def test_windows_are_what_the_genome_has_where_they_are_said_to_lie(sources):
    windows = Windows(sources, split="train", length=LENGTH, seed=1)
    tokens = windows.tokens(first(300))
    assert tokens.shape == (300, LENGTH) and tokens.dtype == torch.int64
    for row, place in zip(tokens, windows.locate(first(300)), strict=True):
        assert (place.genome, place.end) == ("genome", place.start + LENGTH)
        text = TEXTS[place.chrom][place.start : place.end]
        expected = torch.from_numpy(DNA.encode(text))
        assert torch.equal(
            row, expected if place.strand == "+" else DNA.reverse_complement(expected)
        )
    assert {place.strand for place in windows.locate(first(300))} == {"+", "-"}


def test_a_window_depends_on_seed_and_index_alone(sources):
    windows = Windows(sources, split="train", length=LENGTH, seed=1)
    whole = windows.tokens(first(64))
    order = torch.tensor(np.random.default_rng(0).permutation(64))
    assert torch.equal(windows.tokens(order), whole[order])
    assert torch.equal(torch.cat([windows.tokens(part) for part in first(64).split(7)]), whole)
    assert torch.equal(
        Windows(sources, split="train", length=LENGTH, seed=1).tokens(first(64)), whole
    )
    assert not torch.equal(
        Windows(sources, split="train", length=LENGTH, seed=2).tokens(first(64)), whole
    )
    assert windows.tokens(first(0)).shape == (0, LENGTH)


def test_the_place_does_not_depend_on_the_strand(sources):
    both = Windows(sources, split="train", length=LENGTH, seed=1).locate(first(50))
    forward = Windows(
        sources, split="train", length=LENGTH, seed=1, reverse_complement=False
    ).locate(first(50))
    assert [place._replace(strand="+") for place in both] == forward


def test_short_and_empty_intervals_are_skipped_and_counted(genome_of):
    genome = genome_of({"a": "ACGTACGT", "n": "NNNNNNNN", "edge": "NNACGTANN"})
    intervals = [
        Interval("a", 0, 8),
        Interval("a", 0, 4),
        Interval("n", 0, 8),
        Interval("edge", 0, 9),
    ]
    windows = Windows(
        [(genome, Splits({"train": intervals}, "by hand"))], split="train", length=5, seed=0
    )
    assert windows.skipped == 2
    assert windows.total == 4 + 1


def test_a_window_as_long_as_its_interval(genome_of):
    genome = genome_of({"a": "GGACGTTGG"})
    windows = Windows(
        [(genome, Splits({"test": [Interval("a", 2, 7)]}, "by hand"))],
        split="test",
        length=5,
        seed=0,
    )
    assert {DNA.decode(row) for row in windows.tokens(first(50))} == {"ACGTT", "AACGT"}


def test_genomes_weigh_what_they_have_of_legal_starts(genome_of):
    texts = [{"x": "A" * 34}, {"x": "C" * 14, "y": "C" * 4}, {"z": "G" * 4}]
    sources = [
        (genome_of(t), Splits({"train": [Interval(c, 0, len(s)) for c, s in t.items()]}, ""))
        for t in texts
    ]
    windows = Windows(sources, split="train", length=5, seed=3, reverse_complement=False)
    assert (windows.total, windows.skipped) == (30 + 10, 2)
    letters = [DNA.decode(row) for row in windows.tokens(first(4000))]
    assert chisquare([letters.count("A" * 5), letters.count("C" * 5)], [3000, 1000]).pvalue > 0.001


@pytest.mark.parametrize(
    "options, error, message",
    [
        (
            {"length": 30},
            InputError,
            r"a window of 30 bases .* none of the 3 train intervals .the longest, a:2-32, has 31",
        ),
        ({"split": "valid"}, InputError, r"the valid split has no interval \(by hand\)"),
        ({"split": "dev"}, ValueError, "split 'dev' is not one of"),
        ({"length": 0}, ValueError, "window must be at least 1 base, got 0"),
    ],
)
def test_windows_that_cannot_be(sources, options, error, message):
    for make in (Windows, lambda *a, **k: held_out(*a, **k, limit=5)):
        with pytest.raises(error, match=message) as caught:
            make(sources, **{"split": "train", "length": 5, "seed": 0} | options)
        assert "\n" not in str(caught.value)


def test_a_negative_index(sources):
    with pytest.raises(ValueError, match="window -2: an index cannot be negative"):
        Windows(sources, split="train", length=5, seed=0).tokens(torch.tensor([3, -2]))


@st.composite
def cases(draw):
    text = st.lists(
        st.sampled_from(["ACGT", "A", "N", "NNNN", "RNN", "acg"]), min_size=1, max_size=20
    ).map("".join)
    texts = {f"c{i}": t for i, t in enumerate([*draw(st.lists(text, max_size=3)), "ACGTACGTAC"])}
    intervals = []
    for chrom, letters in texts.items():
        cuts = sorted(draw(st.sets(st.integers(0, len(letters)), max_size=6)))
        intervals += [Interval(chrom, *pair) for pair in zip(cuts[::2], cuts[1::2], strict=False)]
    return texts, intervals, draw(st.integers(1, 12))


@settings(max_examples=200, deadline=None)
@given(cases(), st.integers(0, 2**63))
def test_any_windows_lie_in_their_split_and_know_a_base(genome_of, case, seed):
    texts, intervals, length = case
    sources = [(genome_of(texts), Splits({"valid": intervals}, "by hand"))]
    expected = legal_starts(texts, intervals, length)
    if not expected:
        with pytest.raises(InputError):
            Windows(sources, split="valid", length=length, seed=seed)
        return
    windows = Windows(sources, split="valid", length=length, seed=seed)
    assert windows.total == len(expected)
    assert {(place.chrom, place.start) for place in windows.locate(first(50))} <= set(expected)
    assert DNA.scorable(windows.tokens(first(50))).any(1).all()


def pyfaidx_window(fasta, place):
    piece = fasta[place.chrom][place.start : place.end]
    return DNA.encode((piece if place.strand == "+" else piece.reverse.complement).seq)


@settings(max_examples=100, deadline=None)
@given(cases(), st.booleans(), st.integers(0, 2**32))
def test_any_window_is_what_pyfaidx_gives(fasta, case, tiled, seed):
    texts, intervals, length = case
    path = fasta(texts)
    try:
        windows = Windows(
            [(Genome.open(path), Splits({"train": intervals}, ""))],
            split="train",
            length=length,
            seed=seed,
            tiled=tiled,
        )
    except InputError:
        return
    with pyfaidx.Fasta(str(path), indexname=f"{path}.oracle") as oracle:
        for row, place in zip(windows.tokens(first(20)), windows.locate(first(20)), strict=True):
            assert row.tolist() == pyfaidx_window(oracle, place).tolist()


# ---- the floor, the blacklist, tiles, weights ----------------------------------------------------


def known(text, start, length):
    return sum(letter in "ACGTacgt" for letter in text[start : start + length])


def rich_starts(texts, intervals, length, floor):
    return [
        (chrom, start)
        for chrom, start in legal_starts(texts, intervals, length)
        if known(texts[chrom], start, length) >= floor * length
    ]


@settings(max_examples=150, deadline=None)
@given(cases(), st.sampled_from([0.0, 0.1, 0.5, 0.75, 0.9, 1.0]), st.integers(0, 2**32))
def test_any_floor_leaves_exactly_the_windows_that_reach_it(genome_of, case, floor, seed):
    texts, intervals, length = case
    sources = [(genome_of(texts), Splits({"train": intervals}, "by hand"))]
    expected = rich_starts(texts, intervals, length, floor)
    if not expected:
        with pytest.raises(InputError, match=r"fits into none|no interval"):
            Windows(sources, split="train", length=length, seed=seed, min_scorable=floor)
        return
    windows = Windows(sources, split="train", length=length, seed=seed, min_scorable=floor)
    assert windows.total == len(expected)
    assert {(place.chrom, place.start) for place in windows.locate(first(60))} <= set(expected)


def test_all_that_reach_the_floor_are_drawn_as_often(sources):
    windows = Windows(sources, split="train", length=LENGTH, seed=4, min_scorable=0.8)
    expected = rich_starts(TEXTS, TRAIN, LENGTH, 0.8)
    drawn = [(place.chrom, place.start) for place in windows.locate(first(10_000))]
    assert 0 < len(expected) < len(legal_starts(TEXTS, TRAIN)) and set(drawn) == set(expected)
    assert chisquare([drawn.count(start) for start in expected]).pvalue > 0.001


@settings(max_examples=100, deadline=None)
@given(cases(), st.data())
def test_no_window_touches_a_blacklist(genome_of, case, data):
    texts, intervals, length = case
    holes = []
    for chrom, text in texts.items():
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
        holes += [
            Interval(chrom, *pair)
            for pair in zip(cuts[::2], cuts[1::2], strict=False)
            if pair[0] < pair[1]
        ]
    splits = Splits({"train": intervals}, "by hand").without(holes, "holes")
    tiled = data.draw(st.booleans())
    try:
        windows = Windows(
            [(genome_of(texts), splits)],
            split="train",
            length=length,
            seed=0,
            tiled=tiled,
            jitter=3 * tiled,
        )
    except InputError:
        return
    black = {(hole.chrom, base) for hole in holes for base in range(hole.start, hole.end)}
    for place in windows.locate(first(60)):
        assert not black & {(place.chrom, base) for base in range(place.start, place.end)}
        assert any(
            i.chrom == place.chrom and i.start <= place.start and place.end <= i.end
            for i in intervals
        )


@settings(max_examples=100, deadline=None)
@given(cases(), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 12), st.integers(0, 2**32))
def test_each_tile_comes_once_in_every_round_and_moves_as_far_as_it_may(
    genome_of, case, floor, jitter, seed
):
    texts, intervals, length = case
    sources = [(genome_of(texts), Splits({"train": intervals}, "by hand"))]
    legal = rich_starts(texts, intervals, length, floor)
    expected = sorted(
        (i.chrom, start)
        for i in intervals
        for start in tiles(texts[i.chrom], i, length, 0)
        if (i.chrom, start) in legal
    )
    options = {
        "split": "train",
        "length": length,
        "seed": seed,
        "min_scorable": floor,
        "tiled": True,
    }
    if not expected:
        with pytest.raises(InputError):
            Windows(sources, **options)
        return
    windows = Windows(sources, **options)
    moved = Windows(sources, **options, jitter=jitter)
    assert windows.total == moved.total == len(expected)
    for turn in range(3):
        numbers = first(len(expected)) + turn * len(expected)
        places = windows.locate(numbers)
        assert sorted((place.chrom, place.start) for place in places) == expected
        for place, other in zip(places, moved.locate(numbers), strict=True):
            assert (other.chrom, other.strand) == (place.chrom, place.strand)
            assert (other.chrom, other.start) in legal and abs(other.start - place.start) <= jitter


@pytest.mark.parametrize("count", [2, 3, 4])
def test_all_orders_of_few_tiles_are_equally_likely(genome_of, count):
    genome = genome_of({"a": "ACGTTGCA" * count})
    sources = [(genome, Splits({"train": [Interval("a", 0, 8 * count)]}, ""))]
    options = {"split": "train", "length": 8, "tiled": True}
    orders = Counter()
    turns = 200
    for seed in range(60):
        places = Windows(sources, seed=seed, **options).locate(first(turns * count))
        tile = np.array([place.start // 8 for place in places]).reshape(turns, count)
        orders.update(map(tuple, tile.tolist()))
    assert set(orders) == set(itertools.permutations(range(count)))
    assert chisquare(list(orders.values())).pvalue > 0.001


def test_the_orders_of_two_rounds_are_independent(genome_of):
    sources = [(genome_of({"a": "ACGTTGCA" * 3}), Splits({"train": [Interval("a", 0, 24)]}, ""))]
    windows = Windows(sources, split="train", length=8, seed=5, tiled=True)
    tile = np.array([place.start // 8 for place in windows.locate(first(6 * 3000))])
    pairs = Counter(map(tuple, tile.reshape(3000, 6).tolist()))
    assert len(pairs) == 36 and chisquare(list(pairs.values())).pvalue > 0.001


@pytest.mark.parametrize("tiles", [MAX_LISTED, MAX_LISTED + 1])
@pytest.mark.parametrize("turn", [0, 10**9])
def test_a_round_of_many_tiles_is_whole_in_any_order_of_asking(genome_of, tiles, turn):
    sources = [
        (genome_of({"a": "AC" * tiles}), Splits({"train": [Interval("a", 0, 2 * tiles)]}, ""))
    ]
    windows = Windows(sources, split="train", length=2, seed=0, tiled=True)
    numbers = turn * tiles + torch.arange(2 * tiles)
    starts = np.array([place.start for place in windows.locate(numbers)])
    for part in (starts[:tiles], starts[tiles:]):
        assert sorted(part) == list(range(0, 2 * tiles, 2))
    assert (starts[:tiles] != starts[tiles:]).any()
    mixed = torch.tensor(np.random.default_rng(0).permutation(2 * tiles)[:100])
    assert [p.start for p in windows.locate(numbers[mixed])] == starts[mixed.numpy()].tolist()


# ---- numbers of windows --------------------------------------------------------------------------


@pytest.mark.parametrize("tiled", [False, True])
def test_windows_are_spread_and_exact_for_any_number(genome_of, tiled):
    genome = genome_of({"a": "ACGTTGCA" * 4000})
    sources = [(genome, Splits({"train": [Interval("a", 0, 32_000)]}, ""))]
    windows = Windows(sources, split="train", length=4, seed=7, tiled=tiled)
    for origin in (0, 2**24, 10**8, 10**12, MAX_INDEX - 8000):
        origin -= origin % windows.total if tiled else 0
        numbers = origin + torch.arange(8000)
        places = windows.locate(numbers)
        starts = np.array([place.start for place in places])
        if tiled:
            assert len(set(starts.tolist())) == 8000  # a whole round
        else:
            assert chisquare(np.bincount(starts * 10 // windows.total)).pvalue > 1e-4
            chance = uniform(7, Stream.WINDOW, numbers, 1)[:, 0].numpy()
            assert starts.tolist() == (chance * windows.total).astype(int).tolist()
        strands = Counter(place.strand for place in places)
        assert chisquare(list(strands.values())).pvalue > 1e-4


@pytest.mark.parametrize("kind", [torch.int32, torch.int16, torch.uint8])
def test_narrow_integers_are_the_same_numbers(sources, kind):
    windows = Windows(sources, split="train", length=LENGTH, seed=1)
    assert windows.locate(first(100).to(kind)) == windows.locate(first(100))
    assert torch.equal(windows.tokens(first(100).to(kind)), windows.tokens(first(100)))
    assert windows.locate(first(100)[::3]) == windows.locate(first(100))[::3]


@pytest.mark.parametrize(
    "index, message",
    [
        (torch.tensor([1.0]), "must have integers, not torch.float32"),
        (torch.tensor([True]), "must have integers, not torch.bool"),
        (torch.tensor([2**56]), r"window 72057594037927936: an index must be below 2\^56"),
    ],
)
def test_an_index_that_is_no_number_of_a_window(sources, index, message):
    with pytest.raises(ValueError, match=message):
        Windows(sources, split="train", length=LENGTH, seed=1).tokens(index)


def test_tiles_in_the_open_are_moved_evenly(genome_of):
    genome = genome_of({"a": "ACGTTGCA" * 50})
    sources = [(genome, Splits({"train": [Interval("a", 0, 400)]}, ""))]
    options = {"split": "train", "length": 10, "seed": 0, "tiled": True}
    numbers = first(40 * 100)
    tile = np.array([place.start for place in Windows(sources, **options).locate(numbers)])
    moved = np.array(
        [place.start for place in Windows(sources, **options, jitter=4).locate(numbers)]
    )
    inner = (tile > 0) & (tile < 390)
    assert chisquare(np.bincount(moved[inner] - tile[inner] + 4, minlength=9)).pvalue > 0.001
    assert set(moved[tile == 0]) == set(range(5)) and set(moved[tile == 390]) == set(
        range(386, 391)
    )


def test_intervals_weigh_what_their_weights_say(genome_of):
    genome = genome_of({"a": "A" * 104 + "C" * 54 + "G" * 24})
    intervals = [Interval("a", 0, 104), Interval("a", 104, 158, 3.0), Interval("a", 158, 182, 0.5)]
    sources = [(genome, Splits({"train": intervals}, ""))]
    windows = Windows(sources, split="train", length=5, seed=3, reverse_complement=False)
    assert windows.total == 100 + 50 + 20
    letters = [DNA.decode(row[:1]) for row in windows.tokens(first(5200))]
    assert chisquare([letters.count(letter) for letter in "ACG"], [2000, 3000, 200]).pvalue > 0.001
    starts = [place.start for place in windows.locate(first(5200)) if place.start >= 158]
    assert set(starts) == set(range(158, 178))
    with pytest.raises(InputError, match="weights are for random windows"):
        Windows(sources, split="train", length=5, seed=3, tiled=True)


def test_genomes_have_the_shares_that_are_asked_for(genome_of):
    texts = [{"x": "A" * 400}, {"x": "C" * 60, "y": "C" * 50}]
    sources = [
        (genome_of(t), Splits({"train": [Interval(c, 0, len(s)) for c, s in t.items()]}, ""))
        for t in texts
    ]
    windows = Windows(
        sources, split="train", length=5, seed=3, reverse_complement=False, shares=[1, 4]
    )
    letters = [DNA.decode(row[:1]) for row in windows.tokens(first(5000))]
    assert chisquare([letters.count(letter) for letter in "AC"], [1000, 4000]).pvalue > 0.001
    assert chisquare([sum(p.chrom == c and p.genome == "genome" for p in windows.locate(first(5000))) for c in "xy"],
                     [1000 + 4000 * 56 / 102, 4000 * 46 / 102]).pvalue > 0.001  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(cases(), st.floats(0, 1, exclude_max=True), st.booleans())
def test_soft_masked_bases_weigh_less_on_either_strand(genome_of, case, weight, two):
    texts, intervals, length = case
    sources = [(genome_of(texts), Splits({"train": intervals}, ""))]
    if two:  # a second genome, of the same name, all of it masked
        sources.append(
            (genome_of({"c0": "acgt" * 10}), Splits({"train": [Interval("c0", 0, 40)]}, ""))
        )
    try:
        windows = Windows(sources, split="train", length=length, seed=5, soft_mask_weight=weight)
    except InputError:
        return
    tokens, weights, labels = windows.draw(first(40))
    assert labels is None
    assert torch.equal(tokens, windows.tokens(first(40)))
    assert weights.shape == tokens.shape and weights.dtype == torch.float32
    genomes, _, _ = windows._place(first(40))
    for g, row, place in zip(genomes, weights, windows.locate(first(40)), strict=True):
        text = (texts[place.chrom] if g == 0 else "acgt" * 10)[place.start : place.end]
        expected = [np.float32(weight) if letter.islower() else 1.0 for letter in text]
        assert row.tolist() == expected[:: 1 if place.strand == "+" else -1]


def test_weights_of_one_are_none(sources):
    assert Windows(sources, split="train", length=LENGTH, seed=1).draw(first(3)).weight is None


@pytest.mark.parametrize(
    "options",
    [
        {"jitter": 3},
        {"jitter": -1, "tiled": True},
        {"shares": [1.0], "tiled": True},
        {"min_scorable": 1.5},
    ],
)
def test_options_without_a_meaning(sources, options):
    with pytest.raises(
        ValueError,
        match=r"jitter (3 is for tiles|must be)|are for random windows|min_scorable must be",
    ):
        Windows(sources, split="train", length=LENGTH, seed=1, **options)


def test_many_intervals_cost_no_memory_for_windows(genome_of):
    genome = genome_of({"a": "ACGTTGCA" * 100_000})
    sources = [(genome, Splits({"train": [Interval("a", 0, 800_000)]}, ""))]
    for tiled in (False, True):
        windows = Windows(sources, split="train", length=2, seed=0, tiled=tiled)
        assert len(pickle.dumps(windows)) < 10_000 and windows.total >= 400_000
        again = pickle.loads(pickle.dumps(windows))
        assert torch.equal(again.tokens(first(9)), windows.tokens(first(9)))


# ---- the fixed sample ----------------------------------------------------------------------------


def tiles(text, interval, length, floor=0.5):
    """Starts of the eligible tiles, from the letters alone: segments are stretches of legal starts."""
    starts = [start for _, start in legal(text, interval, length)]
    tiled, place = [], None
    for i, start in enumerate(starts):
        if i == 0 or starts[i - 1] != start - 1:
            place = start
        if start == place:
            tiled.append(start)
            place += length
    return [s for s in tiled if known(text, s, length) >= floor * length]


@settings(max_examples=150, deadline=None)
@given(cases(), st.integers(1, 9), st.integers(0, 99))
def test_any_sample_is_of_eligible_tiles(genome_of, case, limit, seed):
    texts, intervals, length = case
    sources = [(genome_of(texts), Splits({"test": intervals}, "by hand"))]
    expected = [(i.chrom, s) for i in intervals for s in tiles(texts[i.chrom], i, length)]
    if not expected:
        with pytest.raises(InputError):
            held_out(sources, split="test", length=length, limit=limit, seed=seed)
        return
    sample = held_out(sources, split="test", length=length, limit=limit, seed=seed)
    drawn = [(place.chrom, place.start) for place in sample.intervals]
    assert sample.total == len(expected) and sample.windows == min(limit, len(expected))
    assert len(set(drawn)) == len(drawn) and set(drawn) <= set(expected)
    assert sample.tokens_all.shape == (sample.windows, length)
    assert sample.bases == int(DNA.scorable(sample.tokens_all).sum())
    for row, place in zip(sample.tokens_all, sample.intervals, strict=True):
        assert DNA.decode(row) == re.sub(
            "[^ACGT]", "N", texts[place.chrom][place.start : place.end].upper()
        )


def test_a_smaller_sample_is_the_beginning_of_a_larger_one(genome_of):
    genome = genome_of({"a": "ACGTTGCA" * 100})
    sources = [(genome, Splits({"test": [Interval("a", 3, 800)]}, "by hand"))]

    def sample(limit, seed):
        return held_out(sources, split="test", length=10, limit=limit, seed=seed)

    large = sample(60, 0)
    assert sample(20, 0).intervals == large.intervals[:20]
    assert sample(20, 1).intervals != large.intervals[:20]
    assert sorted(i.start for i in sample(1000, 5).intervals) == list(range(3, 793, 10))
    assert torch.equal(large.tokens(torch.tensor([7, 0])), large.tokens_all[[7, 0]])
    assert sample(1000, 5).total == 79


def test_a_sample_of_two_genomes(genome_of):
    sources = [
        (genome_of({"x": "A" * 30}, name="one.fa"), Splits({"test": [Interval("x", 0, 30)]}, "")),
        (
            genome_of({"x": "C" * 20 + "N" * 6 + "CCCC"}, name="two.fa"),
            Splits({"test": [Interval("x", 0, 30)]}, ""),
        ),
    ]
    sample = held_out(sources, split="test", length=10, limit=99, seed=0)
    assert sorted((p.genome, p.start) for p in sample.locations) == [
        ("one", 0), ("one", 10), ("one", 20), ("two", 0), ("two", 10)
    ]  # fmt: skip
    assert sample.bases == 50
    for row, place in zip(sample.tokens_all, sample.locations, strict=True):
        assert DNA.decode(row) == ("A" if place.genome == "one" else "C") * 10


def test_a_sample_of_intervals_that_overlap_has_every_base_once(genome_of):
    intervals = [Interval("a", 0, 60, 2.0), Interval("a", 30, 90), Interval("a", 100, 120)]
    sources = [(genome_of({"a": "ACGTTGCA" * 20}), Splits({"test": intervals}, "by hand"))]
    sample = held_out(sources, split="test", length=10, limit=99, seed=0)
    assert sorted(i.start for i in sample.intervals) == [*range(0, 90, 10), 100, 110]


def test_a_sample_of_nothing(sources):
    with pytest.raises(ValueError, match="limit must be at least 1 window, got 0"):
        held_out(sources, split="train", length=5, limit=0, seed=0)


def test_half_of_a_tile_is_enough(genome_of):
    sources = [(genome_of({"a": "ACNNACNNNACGT"}), Splits({"test": [Interval("a", 0, 13)]}, ""))]
    sample = held_out(sources, split="test", length=4, limit=9, seed=0)
    assert sorted(i.start for i in sample.intervals) == [0, 4, 8]
    sources = [(genome_of({"a": "ACNNANNNACGT"}), Splits({"test": [Interval("a", 0, 12)]}, ""))]
    assert held_out(sources, split="test", length=4, limit=9, seed=0).total == 2


def test_a_split_without_an_eligible_tile(genome_of):
    sources = [(genome_of({"a": "ANNNNNNA"}), Splits({"test": [Interval("a", 0, 8)]}, ""))]
    with pytest.raises(
        InputError,
        match="8 bases with at least 4 known bases fits into none of the 1 test intervals",
    ):
        held_out(sources, split="test", length=8, limit=4, seed=0)


# ---- real genomes --------------------------------------------------------------------------------


def check_real(genome, splits, length):
    for split in ("train", "valid", "test"):
        windows = Windows([(genome, splits)], split=split, length=length, seed=0)
        tokens = windows.tokens(first(500))
        assert DNA.scorable(tokens).any(1).all()
        for row, place in zip(tokens, windows.locate(first(500)), strict=True):
            assert any(
                i.chrom == place.chrom and i.start <= place.start and place.end <= i.end
                for i in splits[split]
            )
            assert torch.equal(
                row, genome.tokens(place.chrom, place.start, place.end, place.strand)
            )


def test_real_yeast(shared_data):
    genome = Genome.open(shared_data / "genomes" / "sacCer3.fa.gz")
    splits = split_genome(genome, 1024)
    check_real(genome, splits, 1024)
    windows = Windows([(genome, splits)], split="train", length=1024, seed=0)
    assert windows.total == 9_656_228 - 12 * 1023
    began = time.perf_counter()
    windows.tokens(first(2048))
    assert (
        2048 * 1024 / (time.perf_counter() - began) > 1e6
    )  # bases per second, with room for a busy machine
    sample = held_out([(genome, splits)], split="test", length=1024, limit=10_000, seed=0)
    assert sample.windows == sample.total == 562_643 // 1024 + 666_816 // 1024


@pytest.mark.skipif(
    not os.environ.get("DNADIFF_SLOW_TESTS"), reason="indexes 1.3 Gb: set DNADIFF_SLOW_TESTS"
)
def test_real_human(shared_data):
    genome = Genome.open(shared_data / "genomes" / "hg38.fa.gz")
    splits = split_by_intervals(genome, shared_data / "genomes" / "hg38.covered.bed")
    check_real(genome, splits, 1024)
    by_chromosome = split_genome(genome, 1024)
    assert by_chromosome.how.startswith("chromosomes of hg38")
    check_real(genome, by_chromosome, 1024)
