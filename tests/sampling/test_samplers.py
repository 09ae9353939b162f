"""What every sampler must do, and what each costs."""

import numpy as np
import pytest
import torch
from closed_forms import FromLogits, MarkovSource, with_mask_output
from exact_laws import Source, p_value

from dnadiff.alphabet import DNA
from dnadiff.diffusion import SEDD, Plaid
from dnadiff.errors import UsageError
from dnadiff.sampling import SAMPLERS, free_template, parse_template, sample

# Each sampler, with settings at which its error is far below what a test can see.
EXACT = {
    "ancestral": {"steps": 128},
    "first_hitting": {},
    "analytic": {"steps": 128},
    "remasking": {"steps": 128},  # eta is 1/steps
    "remasking, rescale": {"steps": 128, "remask": "rescale"},
    "remasking, loop": {"steps": 256, "remask": "loop"},
    "uniform": {"steps": 64},
}
LATER = {"plaid", "autoregressive"}  # have tests of their own
exactly = pytest.mark.parametrize(
    "options", [{"sampler": k.split(",")[0], **v} for k, v in EXACT.items()], ids=EXACT
)

# And each with few steps.
ROUGH = {
    # Sorted: a set has another order in each process, and tests that run in several must agree.
    **{
        name: {} if name == "first_hitting" else {"steps": 12}
        for name in sorted(SAMPLERS.keys() - LATER)
    },
    "remasking, confidence": {"steps": 12, "remask": "confidence", "eta": 0.5},
    "remasking, loop": {"steps": 12, "remask": "loop", "eta": 0.1},
    "semi_autoregressive": {"steps": 6, "window": 16, "stride": 7},
    "first_hitting, in windows": {"window": 16},
}
roughly = pytest.mark.parametrize(
    "options", [{"sampler": k.split(",")[0], **v} for k, v in ROUGH.items()], ids=ROUGH
)


def test_all_are_tested():
    assert (
        {name.split(",")[0] for name in EXACT}
        == set(SAMPLERS) - LATER
        < {name.split(",")[0] for name in ROUGH}
    )


@exactly
def test_samples_follow_the_exact_distribution(options):
    source = Source(length=3)
    drawn = sample(source, free_template(4_000, 3), seed=1, **options)
    assert p_value(drawn, source, source.table.reshape(-1)) > 1e-3


@exactly
def test_a_template_of_fixed_letters_gives_the_exact_conditional(options):
    source = Source(length=3)
    tokens, allowed = parse_template("NCN")
    assert allowed is None
    drawn = sample(source, tokens.repeat(4_000, 1), seed=3, **options)
    assert (drawn[:, 1] == 8).all()
    law = torch.zeros_like(source.table)
    law[:, 1] = source.table[:, 1] / source.table[:, 1].sum()
    assert p_value(drawn, source, law.reshape(-1)) > 1e-3


@pytest.mark.parametrize(
    "sampler", [name for name in SAMPLERS if SAMPLERS[name].corruption == "absorbing"]
)
def test_restricted_letters_are_respected_and_drawn_first(sampler):
    source = Source(length=3)
    tokens, allowed = parse_template("RNW")
    steps = None if sampler == "first_hitting" else 128
    drawn = sample(
        source,
        tokens.repeat(4_000, 1),
        allowed.repeat(4_000, 1, 1),
        sampler=sampler,
        steps=steps,
        seed=4,
    )
    assert {DNA.decode(row)[0] for row in drawn} == {"A", "G"}
    assert {DNA.decode(row)[2] for row in drawn} == {"A", "T"}
    # The free letter is conditioned on both of the others: its law given them is exact.
    rows = drawn[(drawn[:, 0] == 7) & (drawn[:, 2] == 10)]
    law = torch.zeros_like(source.table)
    law[0, :, 3] = source.table[0, :, 3] / source.table[0, :, 3].sum()
    assert p_value(rows, source, law.reshape(-1)) > 1e-3


def test_under_uniform_noise_restricted_letters_too_are_the_exact_conditional():
    source = Source(length=3)
    tokens, allowed = parse_template("RNW")
    drawn = sample(
        source,
        tokens.repeat(4_000, 1),
        allowed.repeat(4_000, 1, 1),
        sampler="uniform",
        steps=256,
        seed=4,
    )
    law = torch.zeros_like(source.table)
    law[0::2, :, 0::3] = source.table[0::2, :, 0::3]
    assert p_value(drawn, source, law.reshape(-1) / law.sum()) > 1e-3


@roughly
def test_fixed_tokens_never_change_and_every_mask_becomes_a_letter(options):
    source = MarkovSource(length=options.get("window", 40))
    fixed = torch.tensor([*DNA.ids, DNA.unknown_id, DNA.pad_id])
    rng = torch.Generator().manual_seed(0)
    template = torch.full((30, 40), DNA.mask_id)
    kept = torch.rand(template.shape, generator=rng) < 0.3
    template[kept] = fixed[torch.randint(6, (int(kept.sum()),), generator=rng)]
    drawn = sample(source, template, seed=5, **options)
    assert torch.equal(drawn[kept], template[kept])
    assert DNA.scorable(drawn[~kept]).all()


@roughly
def test_a_sample_depends_on_its_number_not_on_its_batch(options):
    source = MarkovSource(length=options.get("window", 30))
    together = sample(source, free_template(9, 30), seed=8, **options)
    for size in (1, 7):
        parts = [
            sample(source, free_template(len(part), 30), seed=8, index=part, **options)
            for part in torch.arange(9).split(size)
        ]
        assert torch.equal(torch.cat(parts), together)
    assert len({tuple(row.tolist()) for row in together}) == 9
    assert not torch.equal(together, sample(source, free_template(9, 30), seed=9, **options))


class Watched(MarkovSource):
    """Counts the rows of its calls, and records their times and their shares of masks."""

    needs_sigma = True

    def __init__(self, length):
        super().__init__(length)
        self.rows, self.seen = 0, []

    def __call__(self, tokens, sigma=None, label=None, token_probs=None):
        self.rows += len(tokens)
        assert torch.isfinite(sigma).all()
        self.seen += zip(
            (1 - (-sigma.double()).exp()).tolist(),
            (tokens == DNA.mask_id).double().mean(1).tolist(),
            strict=True,
        )
        return super().__call__(tokens)


@pytest.mark.parametrize("steps", [8, 64, 512])
def test_ancestral_makes_as_many_calls_as_there_are_steps_in_which_something_happens(steps):
    length, rows = 40, 400
    source = Watched(length)
    sample(source, free_template(rows, length), sampler="ancestral", steps=steps)
    missed = (1 - 1 / steps) ** length
    both_missed = (1 - 2 / steps) ** length
    variance = steps * missed * (1 - missed) + steps * (steps - 1) * (both_missed - missed**2)
    assert abs(source.rows / rows - steps * (1 - missed)) < 3.5 * (variance / rows) ** 0.5


def test_first_hitting_makes_a_call_for_each_letter_and_goes_from_noise_to_data():
    source = Watched(40)
    sample(source, free_template(3, 40), sampler="first_hitting")
    assert source.rows == 3 * 40
    times = np.array([time for time, _ in source.seen]).reshape(40, 3)
    assert (np.diff(times, axis=0) < 0).all()


def test_in_windows_every_call_is_as_short_as_the_window():
    source = Watched(16)
    drawn = sample(source, free_template(2, 50), sampler="first_hitting", window=16, stride=7)
    assert source.rows == 2 * 50  # a call for each letter, whichever window draws it
    assert DNA.scorable(drawn).all()


@pytest.mark.parametrize("mass", [1.0, 0.5, 1.8])
def test_the_share_of_masks_follows_the_rate_that_scores_give(mass):
    watched, steps = Watched(200), 20
    scores = FromLogits(watched, lambda logits: logits + torch.tensor(mass).log())
    scores.needs_sigma = True
    sample(scores, free_template(60, 200), sampler="analytic", steps=steps, objective=SEDD())
    expected, hidden = {}, 1.0
    for i in range(steps, 0, -1):
        expected[i] = hidden
        hidden *= 1 - min(1.0, mass / i)
    compare_shares(watched.seen, steps, expected)


@pytest.mark.parametrize(
    ("remask", "eta"),
    [("cap", 0.05), ("cap", 0.5), ("rescale", 0.3), ("rescale", 1.0), ("confidence", 0.3)],
)
def test_remasking_keeps_the_share_of_masks_on_schedule(remask, eta):
    source, steps = Watched(200), 20
    sample(source, free_template(60, 200), sampler="remasking", steps=steps, remask=remask, eta=eta)
    compare_shares(source.seen, steps, {i: i / steps for i in range(1, steps + 1)})


def compare_shares(seen, steps, expected):
    """Of 200 independent letters in each row, against a binomial's standard error."""
    for i, share in expected.items():
        if share > 0.01:
            shares = [masked for time, masked in seen if round(time * steps) == i]
            error = (share * (1 - share) / 200 / len(shares)) ** 0.5
            assert abs(np.mean(shares) - share) < 4 * error + 1e-9


class HalfSure:
    """Is nearly certain of every second letter and knows nothing of the others.

    Counts how often each letter is hidden again (`again`), and how often it could be (`freedom`).
    """

    causal, needs_sigma, outputs = False, False, 4

    def __init__(self, length):
        self.sure = torch.arange(length) % 2 == 0
        self.before, self.again, self.freedom = None, torch.zeros(length), torch.zeros(length)

    def __call__(self, tokens, sigma=None, label=None, token_probs=None):
        hidden = tokens == DNA.mask_id
        if (
            self.before is not None
        ):  # every row is asked about at every step: some of its many masks are lifted
            self.again += (hidden & ~self.before).sum(0)
            self.freedom += (~self.before).sum(0)
        self.before = hidden
        return torch.stack([8.0 * self.sure, *[torch.zeros(len(self.sure))] * 3], -1).expand(
            *tokens.shape, 4
        )

    def ratio(self):
        often, seldom = (
            (self.again[kind].sum() / self.freedom[kind].sum()) for kind in (~self.sure, self.sure)
        )
        return float(often / seldom)


@pytest.mark.parametrize(
    ("remask", "ratio"), [("confidence", np.exp(1.0 - 0.25)), ("rescale", 1.0), ("cap", 1.0)]
)
def test_by_confidence_letters_that_were_drawn_in_doubt_are_hidden_again_more_often(remask, ratio):
    network = HalfSure(400)
    sample(
        network,
        free_template(40, 400),
        sampler="remasking",
        steps=25,
        remask=remask,
        eta=0.1,
        seed=6,
    )
    assert network.ratio() == pytest.approx(ratio, rel=0.06)


def test_low_temperature_takes_the_likeliest_letter():
    source = MarkovSource(length=8)
    for option in ({"temperature": 1e-4}, {"top_p": 1e-9}):
        drawn = sample(source, free_template(50, 8), sampler="first_hitting", **option)
        one_free = drawn.masked_fill(torch.arange(8) == 5, DNA.mask_id)
        again = sample(source, one_free, seed=99, **option)
        assert torch.equal(again[:, 5], source(one_free)[:, 5].argmax(-1) + DNA.first_id)


class One(Source):
    """A single letter, with whatever attributes a sampler needs of its network."""

    def __call__(self, tokens, sigma=None, label=None, token_probs=None):
        return super().__call__(
            tokens, token_probs=None if token_probs is None else token_probs[..., :4]
        )


@pytest.mark.parametrize(
    ("option", "law"),
    [
        ({}, [0.4, 0.3, 0.2, 0.1]),
        ({"temperature": 0.5}, [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        ({"top_p": 0.71}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"top_p": 0.69}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_p": 0.9, "temperature": 0.5}, [16 / 29, 9 / 29, 4 / 29, 0]),
    ],
)
@pytest.mark.parametrize("sampler", [*SAMPLERS])
def test_temperature_and_nucleus_act_on_the_law_of_each_letter(option, law, sampler):
    source = One(length=1)
    source.table = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    source.causal, source.self_conditioned = sampler == "autoregressive", True
    objective = Plaid(gamma=(-6.0, 8.0)) if sampler == "plaid" else None
    drawn = sample(source, free_template(4000, 1), sampler=sampler, objective=objective, **option)
    assert p_value(drawn, source, torch.tensor(law, dtype=torch.float64)) > 1e-3


def test_a_network_that_may_answer_mask_gives_letters():
    source = FromLogits(MarkovSource(length=8), with_mask_output(0.9), outputs=5)
    for options in ({"sampler": "ancestral"}, {"sampler": "first_hitting"}):
        assert DNA.scorable(sample(source, free_template(50, 8), **options)).all()
    assert DNA.scorable(
        sample(source, free_template(50, 8), torch.ones(50, 8, 4, dtype=torch.bool))
    ).all()


def test_nothing_free_is_returned_unchanged():
    tokens = torch.tensor([[7, 8, 11, 4]])
    for sampler in SAMPLERS:
        assert torch.equal(sample(MarkovSource(length=4), tokens, sampler=sampler), tokens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "above 0"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.5}, "at most 1"),
        (
            {"allowed": torch.zeros(2, 5, 4, dtype=torch.bool)},
            "no letter is allowed at position 1 of row 0",
        ),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        sample(MarkovSource(length=5), free_template(2, 5), **options)
