import itertools
import math

import pytest
import torch
from closed_forms import FromLogits, IndependentSource, MarkovSource, MixtureSource
from letter_pairs import all_pairs

from dnadiff.diffusion import MDLM, SEDD, UDLM, make_objective
from dnadiff.diffusion.uniform import excess, rate_cost
from dnadiff.errors import UsageError

SOURCE = MarkovSource(length=12)


def test_normalised_scores_give_mdlm_term_by_term():
    tokens = SOURCE.sample(300)
    for seed in range(3):
        ours, theirs = (
            objective.bound(SOURCE, tokens, draws=1, seed=seed).nats
            for objective in (SEDD(), MDLM())
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_total_score_other_than_one_costs_its_excess():
    tokens = SOURCE.sample(300)
    for mass in (0.4, 1.3):
        heavy = FromLogits(
            SOURCE, lambda logits, mass=mass: logits.log_softmax(-1) + math.log(mass)
        )
        extra = (
            SEDD().bound(heavy, tokens, draws=2).nats - MDLM().bound(SOURCE, tokens, draws=2).nats
        )
        torch.testing.assert_close(extra, torch.full_like(extra, 12 * (mass - 1 - math.log(mass))))


def test_the_score_entropy_written_out_has_this_value():
    """Lou et al., equation 9: sigma' (sum_b s_b - r log s_x0 + r (log r - 1)),

    with s_b = r w_b and r = 1 / (e^sigma - 1).
    """
    logits = torch.randn(4, dtype=torch.float64)
    for t in (1e-3, 0.5, 0.999):
        r, slope = (1 - t) / t, 1 / (1 - t)  # log-linear: sigma = -log(1 - t)
        s = r * logits.exp()
        literal = slope * (s.sum() - r * s[2].log() + r * (math.log(r) - 1))
        cost = -logits.log_softmax(-1)[2] + excess(logits.logsumexp(-1))
        torch.testing.assert_close(literal, cost / t)  # sigma' r = 1/t, MDLM's weight


def test_excess_is_exact_for_tiny_and_for_large_arguments():
    for u in (-30.0, -1.0, -1.001e-2, -9e-3, -1e-5, 0.0, 1e-5, 9e-3, 1.001e-2, 1.0, 5.0):
        exact = (
            sum(u**k / math.factorial(k) for k in range(2, 12))
            if abs(u) < 0.5
            else math.exp(u) - 1 - u
        )
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-5)):
            x = torch.tensor(u, dtype=dtype, requires_grad=True)
            value = excess(x)
            assert abs(float(value.detach()) - exact) <= tolerance * max(exact, 1e-12)
            (slope,) = torch.autograd.grad(value, x)
            assert abs(float(slope) - math.expm1(u)) <= 10 * tolerance * abs(math.expm1(u)) + 1e-30


def test_the_bound_of_the_exact_denoiser_is_the_entropy():
    tokens = SOURCE.sample(20_000)
    bound = SEDD().bound(SOURCE, tokens, draws=4, seed=3)
    assert abs(bound.nats.mean() - SOURCE.entropy()) < 3 * bound.nats.std() / 20_000**0.5
    assert bound.nats.std() / 20_000**0.5 < 0.005 * SOURCE.entropy()
    assert SEDD.time_conditioned


@pytest.mark.parametrize(
    "source",
    [IndependentSource(length=8, seed=1), MarkovSource(length=12), MixtureSource(length=4)],
    ids=lambda source: type(source).__name__,
)
def test_with_uniform_noise_the_bound_of_the_exact_scores_is_the_entropy(source):
    tokens = source.sample(10_000)
    bound = SEDD(noise="uniform").bound(source, tokens, draws=4, seed=8)
    paired = bound.nats - source.nll(tokens)
    se = paired.std() / 10_000**0.5
    assert bound.kind == "upper"
    assert se < 0.005 * source.entropy()
    assert abs(paired.mean()) < 3 * se


def test_with_uniform_noise_a_normalised_network_has_udlms_bound():
    source = MarkovSource(length=12)
    tokens = source.sample(100)
    sedd, udlm = (o.bound(source, tokens, draws=2, seed=1) for o in (SEDD(noise="uniform"), UDLM()))
    torch.testing.assert_close(sedd.nats, udlm.nats, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rate", [0.02, 0.4, 0.95])
def test_with_uniform_noise_the_cost_is_the_score_entropy(rate):
    """sigma'/K times the sum over y != z of s - r log s + r (log r - 1), for alpha = 1 - t."""
    logits = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    cost, alpha = rate_cost(logits, all_pairs(rate)), 1 - rate
    for x, z in itertools.product(range(4), repeat=2):
        noisy = [alpha * math.exp(logits[x, z, y]) + rate / 4 for y in range(4)]
        clean = [alpha * (y == x) + rate / 4 for y in range(4)]
        total = 0.0
        for y in set(range(4)) - {z}:
            s, r = noisy[y] / noisy[z], clean[y] / clean[z]
            total += s - r * math.log(s) + r * (math.log(r) - 1)
        assert float(cost[x, z]) == pytest.approx(total / (4 * alpha), rel=1e-9)


def test_with_uniform_noise_scores_that_are_not_normalised_cost_more():
    source = MarkovSource(length=12)

    class Scaled(MarkovSource):
        def __call__(self, tokens, sigma=None, label=None, token_probs=None):
            return super().__call__(tokens, token_probs=token_probs) + 0.7

    tokens = source.sample(5000)
    plain, scaled = (
        SEDD(noise="uniform").bound(s, tokens, draws=2) for s in (source, Scaled(length=12))
    )
    paired = scaled.nats - plain.nats
    assert paired.mean() > 5 * paired.std() / 5000**0.5


def test_the_noise_is_an_option():
    assert SEDD().options == {"noise": "absorbing"} and SEDD(noise="uniform").options == {
        "noise": "uniform"
    }
    with pytest.raises(
        UsageError, match="sedd: unknown noise 'masked'; there are absorbing, uniform"
    ):
        make_objective("sedd", {"noise": "masked"})
