"""A bound over a set of windows, with its standard errors over windows and over blocks."""

import math

import pytest
import torch

from dnadiff.diffusion import Bound, summarise
from dnadiff.diffusion.corpus import block_numbers, ratio


def bound_of(nats, bases):
    nats = torch.tensor(nats, dtype=torch.float64)
    return Bound(nats, torch.zeros_like(nats), torch.tensor(bases), "upper")


def correlated_blocks(generator, blocks, size):
    """Nats and bases (blocks * size,) of windows of which the whole block is easy or hard;

    true nats per base 1.2.
    """
    bases = torch.randint(50, 101, (blocks * size,), generator=generator)
    shared = torch.randn(blocks, generator=generator, dtype=torch.float64).repeat_interleave(size)
    own = torch.randn(blocks * size, generator=generator, dtype=torch.float64)
    return bases * (1.2 + 0.1 * shared + 0.1 * own), bases


def test_the_ratio_and_both_errors_of_four_windows_by_hand():
    # R = 40 / 40 = 1, residuals 2, -1, 1, -2; in two groups 1 and -1.
    nats, bases = torch.tensor([12.0, 9.0, 11.0, 8.0]), torch.tensor([10, 10, 10, 10])
    mean, se = ratio(nats, bases)
    assert (mean, se) == pytest.approx((1.0, math.sqrt(4 / 3 * 10) / 40))
    mean, se = ratio(nats, bases, torch.tensor([7, 7, 3, 3]))
    assert (mean, se) == pytest.approx((1.0, math.sqrt(2 / 1 * 2) / 40))


def test_groups_of_one_window_give_the_plain_error():
    nats, bases = correlated_blocks(torch.Generator().manual_seed(0), 20, 5)
    shuffled = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    assert ratio(nats, bases, shuffled) == pytest.approx(ratio(nats, bases), rel=1e-14)


def test_a_single_group_has_no_error():
    nats, bases = torch.tensor([12.0, 9.0]), torch.tensor([10, 10])
    assert math.isnan(ratio(nats, bases, torch.tensor([5, 5]))[1])
    assert math.isnan(ratio(nats[:1], bases[:1])[1])


def test_the_block_error_covers_and_the_window_error_does_not():
    """Counts 95 % intervals over 1,000 data sets of 50 blocks of 10 windows, correlation 1/2."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(50).repeat_interleave(10)
    covered = torch.zeros(2)
    for _ in range(1000):
        nats, bases = correlated_blocks(generator, 50, 10)
        errors = torch.tensor([ratio(nats, bases, groups)[1], ratio(nats, bases)[1]])
        covered += abs(ratio(nats, bases)[0] - 1.2) < 2.01 * errors  # 2.01: Student's t with 49 df
    blocks, windows = (covered / 1000).tolist()
    # Design effect 1 + 9/2: the window error is 2.3 times too small, which covers 61 %.
    assert 0.93 < blocks < 0.97
    assert 0.55 < windows < 0.68


def test_windows_are_grouped_by_genome_contig_and_megabase():
    locations = [
        ("a", "chr1", 0, 100),
        ("a", "chr1", 999_999, 1_000_099),  # belongs to the block in which it starts
        ("a", "chr1", 1_000_000, 1_000_100),
        ("a", "chr2", 0, 100),
        ("b", "chr1", 0, 100, "+"),
        ("a", "chr1", 5, 105),
    ]
    assert block_numbers(locations).tolist() == [0, 0, 1, 2, 3, 0]


def test_the_summary_has_both_errors():
    bound = bound_of([12.0, 9.0, 11.0, 8.0], [10, 10, 10, 10])
    starts = (0, 10, 2_000_000, 2_000_010)
    summary = summarise(bound, [("g", "c", start, start + 10) for start in starts])
    assert summary.se == pytest.approx(math.sqrt(4 / 3 * 10) / 40)
    assert (summary.se_blocks, summary.blocks) == (pytest.approx(math.sqrt(4) / 40), 2)
    written = summary.to_dict()
    assert (written["se_blocks"], written["blocks"]) == (summary.se_blocks, 2)
    assert written["windows"] == 4
    assert written["bases"] == 40


def test_without_locations_or_with_one_block_there_is_no_block_error():
    bound = bound_of([12.0, 9.0], [10, 10])
    summary = summarise(bound)
    assert (summary.se_blocks, summary.blocks) == (None, None)
    summary = summarise(bound, [("g", "c", 0, 10), ("g", "c", 10, 20)])
    assert (summary.se_blocks, summary.blocks) == (None, 1)
    assert summary.to_dict()["se_blocks"] is None
    assert summarise(bound_of([12.0], [10])).to_dict()["se"] is None


def test_windows_without_a_base_are_left_out_with_their_locations():
    megabases = [("g", "c", i * 1_000_000, i * 1_000_000 + 10) for i in range(4)]
    summary = summarise(bound_of([0.0, 12.0, 0.0, 9.0], [0, 10, 0, 10]), megabases)
    assert (summary.windows, summary.blocks) == (2, 2)
    assert summary.nats_per_base == pytest.approx(1.05)
    with pytest.raises(ValueError, match="no window has a scorable base"):
        summarise(bound_of([0.0], [0]))


def test_an_evaluation_cut_short_uses_the_first_locations():
    megabases = [("g", "c", i * 1_000_000, i * 1_000_000 + 10) for i in range(4)]
    bound = bound_of([12.0, 9.0], [10, 10])
    assert summarise(bound, megabases).blocks == 2
    with pytest.raises(ValueError, match="2 windows have only 1 locations"):
        summarise(bound, megabases[:1])
