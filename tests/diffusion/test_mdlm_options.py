"""Discrete time, schedules, estimators and ablations of MDLM, against exact expectations."""

import numpy as np
import pytest
import torch
from closed_forms import (
    FromLogits,
    JointSource,
    MarkovSource,
    cost_at_rate,
    hidden_costs,
    with_mask_output,
)

from dnadiff.alphabet import DNA
from dnadiff.diffusion import MDLM, SEDD
from dnadiff.diffusion.absorbing import forced_one, mask_output_cost
from dnadiff.diffusion.schedule import SCHEDULES

SOURCE = MarkovSource(length=8)
COSTS = hidden_costs(SOURCE)
ENTROPY = SOURCE.entropy()


def quadrature(function):
    """The integral of a smooth function over (0, 1)."""
    x, w = np.polynomial.legendre.leggauss(64)
    return float((function(torch.from_numpy((x + 1) / 2)) * torch.from_numpy(w / 2)).sum())


def expected(objective):
    """The exact expectation of an estimator that draws time: from its own mask rate and weight."""

    def integrand(quantile):
        rate, factor = objective.rate_and_factor(quantile)
        return factor * rate * cost_at_rate(COSTS, rate)

    return quadrature(integrand)


def test_the_costs_integrate_to_the_entropy():
    assert float(8 * COSTS[1:].mean()) == pytest.approx(ENTROPY, rel=1e-12)
    assert quadrature(lambda u: cost_at_rate(COSTS, u)) == pytest.approx(ENTROPY, rel=1e-12)


@pytest.mark.parametrize("name", ["log-linear", "cosine", "cosine-squared"])
def test_the_bound_in_continuous_time_is_the_same_for_every_schedule(name):
    assert expected(MDLM(estimator="time", schedule=name)) == pytest.approx(ENTROPY, rel=1e-9)


def test_a_schedule_that_leaves_bases_visible_needs_a_prior_term():
    linear = MDLM(estimator="time", schedule="linear")
    left, at_one = np.exp(-10.0), float(cost_at_rate(COSTS, torch.tensor(1.0, dtype=torch.float64)))
    # Without the prior it is too low by left * c(1): no bound. The prior pays log 4 for each letter
    # that is left.
    assert expected(linear) - ENTROPY == pytest.approx(-left * at_one, rel=1e-3)
    assert expected(linear) + 8 * left * np.log(4) > ENTROPY
    tokens = SOURCE.sample(2000)
    same_draws = linear.bound(SOURCE, tokens, draws=4).nats
    linear.schedule = SCHEDULES["linear"]._replace(left=0.0)
    prior = same_draws - linear.bound(SOURCE, tokens, draws=4).nats
    torch.testing.assert_close(prior, torch.full_like(prior, 8 * left * np.log(4)))


def test_the_published_estimator_is_low_by_what_it_leaves_out_at_both_ends():
    eps = 1e-3
    c0, c1 = cost_at_rate(COSTS, torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    published = (expected(MDLM(estimator="published")) - ENTROPY) / 8
    assert published == pytest.approx(-eps * (c0 + c1 - ENTROPY) / 8, rel=2e-3)
    # A clean mask rate t, with t from eps to 1: averaged it is high, multiplied by 1 - eps it is
    # low by eps c(0).
    clean = quadrature(lambda q: cost_at_rate(COSTS, eps + (1 - eps) * q))
    assert (clean - ENTROPY) / 8 == pytest.approx(eps * (ENTROPY - c0) / 8, rel=2e-3)
    assert (clean * (1 - eps) - ENTROPY) / 8 == pytest.approx(-eps * c0 / 8, rel=2e-3)
    assert published < -5e-4 < 0 < clean - ENTROPY


@pytest.mark.parametrize(
    "options",
    [
        {"estimator": "time"},
        {"estimator": "time", "schedule": "cosine"},
        {"estimator": "published"},
    ],
)
def test_the_estimators_have_their_exact_expectations(options):
    objective = MDLM(**options)
    nats = objective.bound(SOURCE, SOURCE.sample(30_000), draws=4, seed=2).nats
    assert abs(nats.mean() - expected(objective)) < 3 * nats.std() / 30_000**0.5


def test_exact_counts_have_a_lower_variance_than_the_published_estimator():
    tokens = SOURCE.sample(20_000)
    noise = {
        name: (MDLM(estimator=name).bound(SOURCE, tokens, draws=1).nats - SOURCE.nll(tokens)).var()
        for name in ("exact-count", "time", "published")
    }
    assert noise["exact-count"] < 0.6 * noise["published"] < 0.6 * noise["time"]


@pytest.mark.parametrize("name", ["log-linear", "cosine", "linear"])
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_discrete_time_is_a_mean_over_right_end_points(steps, name):
    schedule = SCHEDULES[name]
    grid = schedule.rate(torch.arange(steps + 1, dtype=torch.float64) / steps)
    exact = (
        (grid[1:] - grid[:-1]) * cost_at_rate(COSTS, grid[1:])
    ).sum() + 8 * schedule.left * np.log(4)
    nats = (
        MDLM(steps=steps, schedule=name)
        .bound(SOURCE, SOURCE.sample(20_000), draws=2 * steps, seed=4)
        .nats
    )
    assert abs(nats.mean() - exact) < 3 * nats.std() / 20_000**0.5


def test_discrete_time_bounds_the_likelihood_of_its_own_sampler():
    source = JointSource(length=3)
    sampled = two_step_law(source)  # of the ancestral sampler with two steps, by enumeration
    cross_entropy = -(source.table.reshape(-1) * sampled.log()).sum()
    nats = MDLM(steps=2).bound(source, source.sample(40_000), draws=8, seed=3).nats
    assert nats.mean() - 3 * nats.std() / 200 > cross_entropy > source.entropy()


def two_step_law(source):
    """Distribution (64,) after two ancestral steps, with half of the bases drawn in each."""
    law = torch.zeros(64, dtype=torch.float64)
    letters = source.sequences + DNA.first_id
    for first in range(8):
        early = torch.tensor([bool(first >> i & 1) for i in range(3)])
        chance = torch.full((64,), 1 / 8, dtype=torch.float64)
        for now, shown in ((early, torch.zeros(3, dtype=torch.bool)), (~early, early)):
            p = source(torch.where(shown, letters, DNA.mask_id)).softmax(-1)
            chance = chance * torch.where(
                now, p.gather(2, source.sequences[..., None])[..., 0], 1.0
            ).prod(1)
        law += chance
    return law


def test_forced_one_masks_a_uniform_base_and_the_others_independently():
    rng = torch.Generator().manual_seed(0)
    scorable = torch.tensor([True, False, True, True]).expand(40_000, 4)
    keys, chosen = (
        torch.rand(40_000, 4, generator=rng).double(),
        torch.rand(40_000, generator=rng).double(),
    )
    hidden = forced_one(scorable, torch.full((40_000,), 0.3, dtype=torch.float64), keys, chosen)
    k = hidden.mask.sum(1)
    share = torch.bincount(k, minlength=4) / 40_000
    assert not hidden.mask[:, 1].any()
    torch.testing.assert_close(share, torch.tensor([0.0, 0.49, 0.42, 0.09]), atol=0.01, rtol=0)
    torch.testing.assert_close(
        hidden.mask.double().mean(0)[[0, 2, 3]],
        torch.full((3,), 1.6 / 3).double(),
        atol=0.01,
        rtol=0,
    )
    torch.testing.assert_close(hidden.factor, 3 / k.double())


def test_without_carry_over_the_pseudo_likelihood_is_added():
    tokens = SOURCE.sample(500)
    extra = (
        MDLM(carry_over=False).bound(SOURCE, tokens, draws=2).nats
        - MDLM().bound(SOURCE, tokens, draws=2).nats
    )
    log_p = SOURCE(tokens).log_softmax(-1).gather(-1, DNA.letter_index(tokens)[..., None])[..., 0]
    torch.testing.assert_close(extra, -log_p.sum(1))


def test_without_zero_masking_a_mask_output_of_zero_changes_nothing():
    tokens = SOURCE.sample(200)
    never = FromLogits(SOURCE, with_mask_output(0.0), outputs=5)
    for options in ({}, {"steps": 7}, {"steps": 7, "schedule": "cosine"}):
        plain = MDLM(**options).bound(SOURCE, tokens, draws=3).nats
        torch.testing.assert_close(
            MDLM(zero_masking=False, **options).bound(never, tokens, draws=3).nats, plain
        )


def test_a_mask_output_in_continuous_time_is_score_entropy():
    """With x_m the answer "mask", the cost is SEDD's with w_b = u x_b / (u + (1 - u) x_m)."""
    log_p = torch.randn(50, 6, 5, dtype=torch.float64).log_softmax(-1)
    letters, u = torch.randint(4, (50, 6)), torch.rand(50, dtype=torch.float64)
    rate = u[:, None, None]
    w = rate * log_p[..., :4].exp() / (rate + (1 - rate) * log_p[..., 4:].exp())
    expected = -w.gather(-1, letters[..., None])[..., 0].log() + w.sum(-1) - 1
    torch.testing.assert_close(mask_output_cost(log_p, letters, u, None), expected)
    step = mask_output_cost(log_p, letters, u, u * (1 - 1e-5))
    torch.testing.assert_close(step, expected, rtol=2e-5, atol=2e-5)


def test_complementary_masks_keep_the_mean_and_lose_variance():
    tokens = SOURCE.sample(20_000)
    truth = SOURCE.nll(tokens)
    pair = MDLM(complementary=True).bound(SOURCE, tokens, draws=1).nats - truth
    single = MDLM().bound(SOURCE, tokens, draws=2).nats - truth  # as many calls, stratified
    assert abs(pair.mean()) < 3 * pair.std() / 20_000**0.5
    assert pair.var() < single.var()


def test_complementary_masks_mask_every_base_once_and_one_twice():
    seen = []

    def watch(logits):
        return logits

    source = FromLogits(SOURCE, watch)
    source.source = lambda tokens, *rest: seen.append(tokens == DNA.mask_id) or SOURCE(tokens)
    MDLM(complementary=True).bound(source, SOURCE.sample(100), draws=1)
    times = seen[0].int() + seen[1].int()
    assert times.min() == 1 and torch.equal(times.sum(1), torch.full((100,), 9))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"schedule": "quadratic"}, "unknown schedule 'quadratic'"),
        ({"estimator": "best"}, "unknown estimator 'best'"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"steps": 5, "estimator": "time"}, "leave steps out"),
        ({"schedule": "linear"}, "never masks everything"),
        ({"schedule": "cosine", "estimator": "published"}, "log-linear"),
    ],
)
def test_options_that_are_unknown_or_contradict_each_other_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        MDLM(**options)


def test_without_zero_masking_five_outputs_are_needed():
    with pytest.raises(ValueError, match="needs 5 outputs"):
        MDLM(zero_masking=False).bound(SOURCE, SOURCE.sample(2))
    with pytest.raises(ValueError, match="needs 4 outputs"):
        SEDD().loss(FromLogits(SOURCE, with_mask_output(0.1), outputs=5), SOURCE.sample(2))
