import math

import torch
from closed_forms import FromLogits, MarkovSource

from dnadiff.diffusion import MDLM, SEDD
from dnadiff.diffusion.sedd import excess

SOURCE = MarkovSource(length=12)


def test_normalised_scores_give_mdlm_term_by_term():
    tokens = SOURCE.sample(300)
    for seed in range(3):
        ours, theirs = (objective.bound(SOURCE, tokens, draws=1, seed=seed).nats for objective in (SEDD(), MDLM()))
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_mass_that_is_not_one_costs_its_excess():
    tokens = SOURCE.sample(300)
    for mass in (0.4, 1.3):
        heavy = FromLogits(SOURCE, lambda logits, mass=mass: logits.log_softmax(-1) + math.log(mass))
        extra = SEDD().bound(heavy, tokens, draws=2).nats - MDLM().bound(SOURCE, tokens, draws=2).nats
        torch.testing.assert_close(extra, torch.full_like(extra, 12 * (mass - 1 - math.log(mass))))


def test_the_score_entropy_written_out_has_this_value():
    """Lou et al., equation 9: sigma' (sum_b s_b - r log s_x0 + r (log r - 1)), s_b = r w_b, r = 1 / (e^sigma - 1)."""
    logits = torch.randn(4, dtype=torch.float64)
    for t in (1e-3, 0.5, 0.999):
        r, slope = (1 - t) / t, 1 / (1 - t)  # log-linear: sigma = -log(1 - t)
        s = r * logits.exp()
        literal = slope * (s.sum() - r * s[2].log() + r * (math.log(r) - 1))
        cost = -logits.log_softmax(-1)[2] + excess(logits.logsumexp(-1))
        torch.testing.assert_close(literal, cost / t)  # sigma' r = 1/t, MDLM's weight


def test_excess_is_exact_where_it_is_tiny_and_where_it_is_large():
    for u in (-30.0, -1.0, -1.001e-2, -9e-3, -1e-5, 0.0, 1e-5, 9e-3, 1.001e-2, 1.0, 5.0):
        exact = sum(u**k / math.factorial(k) for k in range(2, 12)) if abs(u) < 0.5 else math.exp(u) - 1 - u
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
