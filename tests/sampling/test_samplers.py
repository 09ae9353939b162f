import pytest
import torch
from closed_forms import FromLogits, JointSource, MarkovSource, with_mask_output
from scipy.stats import chisquare

from dnadiff.alphabet import DNA
from dnadiff.errors import UsageError
from dnadiff.sampling import free_template, parse_template, sample


def test_first_hitting_samples_follow_the_exact_distribution():
    source = JointSource(length=3)
    drawn = sample(source, free_template(20_000, 3), sampler="first_hitting", seed=1)
    counts = torch.bincount(source.index(drawn), minlength=64)
    assert chisquare(counts.numpy(), (source.table.reshape(-1) * 20_000).numpy()).pvalue > 1e-3


def test_ancestral_converges_to_it_as_steps_grow():
    source = JointSource(length=3)
    distance = []
    for steps in (1, 4, 64):
        drawn = sample(source, free_template(20_000, 3), sampler="ancestral", steps=steps, seed=2)
        share = torch.bincount(source.index(drawn), minlength=64) / 20_000
        distance.append(float((share - source.table.reshape(-1)).abs().sum() / 2))
    assert distance[0] > 0.15 > distance[1] > distance[2]
    assert distance[2] < 0.04  # noise alone gives about 0.022


@pytest.mark.parametrize("sampler", ["ancestral", "first_hitting"])
def test_a_template_of_fixed_letters_gives_the_exact_conditional(sampler):
    source = JointSource(length=3)
    tokens, allowed = parse_template("NCN")
    assert allowed is None
    steps = 512 if sampler == "ancestral" else None
    drawn = sample(source, tokens.repeat(20_000, 1), sampler=sampler, steps=steps, seed=3)
    assert (drawn[:, 1] == 8).all()
    conditional = source.table[:, 1] / source.table[:, 1].sum()
    counts = torch.bincount((drawn[:, 0] - 7) * 4 + drawn[:, 2] - 7, minlength=16)
    assert chisquare(counts.numpy(), (conditional.reshape(-1) * 20_000).numpy()).pvalue > 1e-3


def test_restricted_letters_are_respected_and_drawn_first():
    source = JointSource(length=3)
    tokens, allowed = parse_template("RNW")
    drawn = sample(source, tokens.repeat(5000, 1), allowed.repeat(5000, 1, 1), sampler="first_hitting", seed=4)
    assert {DNA.decode(row)[0] for row in drawn} == {"A", "G"}
    assert {DNA.decode(row)[2] for row in drawn} == {"A", "T"}
    # The free letter is conditioned on both of the others: its law given them is exact.
    rows = drawn[(drawn[:, 0] == 7) & (drawn[:, 2] == 10)]
    law = source.table[0, :, 3] / source.table[0, :, 3].sum()
    assert chisquare(torch.bincount(rows[:, 1] - 7, minlength=4).numpy(), (law * len(rows)).numpy()).pvalue > 1e-3


class Counting(MarkovSource):
    """Counts its calls and remembers the times that it is told."""

    needs_sigma = True

    def __init__(self, length):
        super().__init__(length)
        self.rows, self.sigmas = 0, []

    def __call__(self, tokens, sigma=None, label=None, soft=None):
        self.rows += len(tokens)
        self.sigmas.append(sigma)
        assert torch.isfinite(sigma).all()
        return super().__call__(tokens)


def test_the_number_of_calls_is_the_number_of_steps_in_which_something_happens():
    steps, length, rows = 64, 40, 200
    source = Counting(length)
    sample(source, free_template(rows, length), sampler="ancestral", steps=steps)
    expected = steps * (1 - (1 - 1 / steps) ** length)
    assert abs(source.rows / rows - expected) < 0.5
    assert len(source.sigmas) <= steps
    source = Counting(length)
    sample(source, free_template(3, length), sampler="first_hitting")
    assert source.rows == 3 * length
    assert torch.cat(source.sigmas).reshape(length, 3).diff(dim=0).max() < 0  # time runs from noise to data


@pytest.mark.parametrize("sampler", ["ancestral", "first_hitting"])
def test_a_sample_depends_on_its_number_not_on_its_batch(sampler):
    source = MarkovSource(length=30)
    together = sample(source, free_template(9, 30), sampler=sampler, seed=8)
    for number in (0, 4, 8):
        alone = sample(source, free_template(1, 30), sampler=sampler, seed=8, index=torch.tensor([number]))
        assert torch.equal(alone[0], together[number])
    assert len({tuple(row.tolist()) for row in together}) == 9
    assert not torch.equal(together, sample(source, free_template(9, 30), sampler=sampler, seed=9))


def test_low_temperature_takes_the_likeliest_letter():
    source = MarkovSource(length=8)
    drawn = sample(source, free_template(50, 8), sampler="first_hitting", temperature=1e-4)
    one_free = drawn.masked_fill(torch.arange(8) == 5, DNA.mask_id)
    again = sample(source, one_free, seed=99, temperature=1e-4)
    assert torch.equal(again[:, 5], source(one_free)[:, 5].argmax(-1) + DNA.first_id)


def test_a_network_that_may_answer_mask_gives_letters():
    source = FromLogits(MarkovSource(length=8), with_mask_output(0.9), outputs=5)
    for options in ({"sampler": "ancestral"}, {"sampler": "first_hitting"}):
        assert DNA.scorable(sample(source, free_template(50, 8), **options)).all()
    assert DNA.scorable(sample(source, free_template(50, 8), torch.ones(50, 8, 4, dtype=torch.bool))).all()


def test_nothing_free_is_returned_unchanged():
    tokens = torch.tensor([[7, 8, 11, 4]])
    assert torch.equal(sample(MarkovSource(length=4), tokens), tokens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "dance"}, "unknown sampler 'dance'"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"sampler": "first_hitting", "steps": 8}, "leave --steps out"),
        ({"temperature": 0.0}, "above 0"),
        ({"allowed": torch.zeros(2, 5, 4, dtype=torch.bool)}, "no letter is allowed at position 1 of row 0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        sample(MarkovSource(length=5), free_template(2, 5), **options)
