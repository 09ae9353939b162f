import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.genome.markov import MarkovModel, _count, _other_strand


def tokens(*texts):
    return torch.stack([torch.from_numpy(DNA.encode(text)) for text in texts])


def every(length):
    """All 4^length windows."""
    return torch.tensor(list(itertools.product(DNA.ids, repeat=length)))


def text(length, seed, alphabet=DNA):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(alphabet.first_id, alphabet.unknown_id, (length,), generator=generator)


def test_counts_written_out_by_hand():
    # ACA and its other strand TGT: pairs AC, CA, TG, GT once each; marginally each last letter once
    model = MarkovModel.fit(tokens("ACA"), 1, prior=1.0)
    # order 0: (1 + 1/4) / (4 + 1) = 1/4.  p(C | A) = (1 + 1/4) / (1 + 1) = 5/8, p(G | A) = (0 +
    # 1/4) / 2 = 1/8
    expected = [-math.log(1 / 4 * 5 / 8), -math.log(1 / 4 * 1 / 8), -math.log(1 / 4)]
    assert model.nll(tokens("AC", "AG", "NA")).tolist() == pytest.approx(expected, abs=1e-15)


def test_counts_are_whole_numbers_of_64_bits():
    counts = _count([tokens("ACGTACGT")], 1, DNA)
    assert counts.dtype == np.int64 and counts.sum() == 7
    # The next observation would be lost in float32 (above 2^24) and in float64 (above 2^53).
    for many in (2**24, 2**53):
        counts[0, 1] = many
        assert (counts + _other_strand(counts, DNA))[0, 1] == many + counts[2, 3]


def test_order_zero_is_the_composition_of_both_strands():
    model = MarkovModel.fit(tokens("AAAC"), 0, prior=0.0)
    assert np.exp(model.tables[0]) == pytest.approx([3 / 8, 1 / 8, 1 / 8, 3 / 8])


def test_without_a_prior_an_unseen_context_falls_back_and_an_unseen_letter_is_impossible():
    model = MarkovModel.fit(tokens("AAAA"), 1, prior=0.0)  # AA and TT three times each
    assert model.nll(tokens("AA", "AT", "CA", "AC")).tolist() == pytest.approx(
        [math.log(2), math.inf, math.inf, math.inf]
    )
    assert np.exp(model.tables[1]).reshape(4, 4)[1] == pytest.approx(
        [0.5, 0, 0, 0.5]
    )  # after C: the composition


def test_agrees_with_a_known_chain():
    # a symmetric chain that is its own reverse complement: p(same) = 0.7, else 0.1, whatever the
    # letter
    chain = np.full((4, 4), 0.1) + 0.6 * np.eye(4)
    draws = np.random.default_rng(0).random(400_000)
    letters = np.empty(len(draws), np.int64)
    letters[0] = 0
    cdf = chain.cumsum(1)
    for i in range(1, len(draws)):
        letters[i] = np.searchsorted(cdf[letters[i - 1]], draws[i])
    blocks = torch.from_numpy(letters + DNA.first_id).reshape(100, -1)
    model = MarkovModel.fit(iter(blocks), 1)
    assert np.exp(model.tables[1]).reshape(4, 4) == pytest.approx(chain, abs=0.005)
    nats = model.nll(blocks)
    rate = -(0.7 * math.log(0.7) + 0.3 * math.log(0.1))
    assert nats.sum().item() / blocks.numel() == pytest.approx(rate, abs=0.005)


@pytest.mark.parametrize("order", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("prior", [0.0, 0.3, 5.0])
def test_sums_to_one_over_all_windows(order, prior):
    model = MarkovModel.fit([text(3000, seed=1)], order, prior=prior)
    for length in (1, 4, 6):
        assert torch.exp(-model.nll(every(length))).sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("where", [(0,), (2,), (5,), (1, 2), (0, 3)])
def test_sums_to_one_around_letters_that_are_missing(where):
    windows = every(6)
    windows[:, where] = DNA.unknown_id
    model = MarkovModel.fit([text(3000, seed=1)], 2)
    assert torch.exp(-model.nll(windows.unique(dim=0))).sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("other", [DNA.unknown_id, DNA.mask_id, DNA.pad_id])
def test_what_is_no_letter_breaks_the_context_and_costs_nothing(other):
    model = MarkovModel.fit([text(3000, seed=1)], 2)
    broken, left, right = tokens("ACGTAGGT"), tokens("ACG"), tokens("AGGT")
    broken[0, 3] = other
    assert model.nll(broken).item() == pytest.approx(
        (model.nll(left) + model.nll(right)).item(), abs=1e-12
    )
    assert model.nll(torch.full((2, 5), other)).tolist() == [0, 0]
    assert model.nll(torch.empty(2, 0, dtype=torch.int64)).tolist() == [0, 0]


def test_nothing_is_counted_across_a_gap_a_row_or_a_block():
    whole = MarkovModel.fit([tokens("ACGNNTTA"), tokens("GG", "CA")], 1).tables
    parts = MarkovModel.fit([tokens("ACG"), tokens("TTA"), tokens("GG"), tokens("CA")], 1).tables
    for a, b in zip(whole, parts, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("order", [0, 1, 2, 4])
def test_the_strand_that_was_read_does_not_matter(order):
    sequence = text(500, seed=2)
    forward = MarkovModel.fit([sequence], order).tables
    backward = MarkovModel.fit([DNA.reverse_complement(sequence)], order).tables
    for a, b in zip(forward, backward, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_circle_without_a_prior_gives_both_strands_of_a_window_one_probability(order):
    # On a circle every k-mer is a context as often as it is an ending, so the counted chain is
    # stationary, and with both strands counted it is its own reverse complement. (A prior, or the
    # ends of a line, disturb this a little.)
    circle = text(20_000, seed=3)
    model = MarkovModel.fit([torch.cat([circle, circle[:order]])], order, prior=0.0)
    windows = every(6)
    assert torch.allclose(
        model.nll(windows), model.nll(DNA.reverse_complement(windows)), atol=1e-10, rtol=0
    )


def test_high_orders_fall_back_on_low_ones_instead_of_overfitting():
    # letters without any order: the prior must keep an order-8 fit near log 4
    model = MarkovModel.fit([text(200_000, seed=4)], 8, prior=20.0)
    rate = model.nll(text(100_000, seed=5)[None]).item() / 100_000
    assert math.log(4) < rate < math.log(4) + 0.08


def test_another_alphabet():
    binary = Alphabet(letters="01", complement=None, ambiguity={"?": "01"}, unknown="?")
    model = MarkovModel.fit(
        [torch.from_numpy(binary.encode("010101?0"))], 1, prior=0.0, alphabet=binary
    )
    # pairs 01 three times and 10 twice: p(1) = 3/5, p(0 | 1) = 1
    assert model.nll(torch.from_numpy(binary.encode("10"))[None]).item() == pytest.approx(
        -math.log(3 / 5)
    )


@pytest.mark.parametrize(
    ("order", "prior", "blocks", "message"),
    [
        (-1, 1.0, ["ACGT"], "order -1"),
        (1, -1.0, ["ACGT"], "prior -1"),
        (3, 1.0, ["ACG"], "no run of 4 letters"),
        (1, 1.0, ["NNNN"], "no run of 2 letters"),
        (1, 1.0, [], "no run of 2 letters"),
    ],
)
def test_refuses(order, prior, blocks, message):
    with pytest.raises(ValueError, match=message):
        MarkovModel.fit([tokens(block) for block in blocks], order, prior=prior)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_samples_follow_the_model(order):
    model = MarkovModel.fit([text(300, seed=2)], order, prior=2.0)
    drawn = model.sample(torch.arange(20_000), 4, seed=1)
    cells = (DNA.letter_index(drawn) * 4 ** torch.arange(3, -1, -1)).sum(1)
    expected = 20_000 * torch.exp(-model.nll(every(4)))
    assert chisquare(torch.bincount(cells, minlength=256).numpy(), expected.numpy()).pvalue > 1e-3
    assert torch.equal(model.sample(torch.tensor([7, 19]), 4, seed=1), drawn[[7, 19]])
    assert not torch.equal(model.sample(torch.arange(20_000), 4, seed=2), drawn)
