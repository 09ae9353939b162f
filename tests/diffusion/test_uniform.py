"""What the objectives with uniform noise share."""

import itertools
import math
from decimal import Decimal, getcontext

import pytest
import torch
from closed_forms import MarkovSource
from letter_pairs import all_pairs, probability

from dnadiff.alphabet import DNA
from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.diffusion import D3PM, MDLM, SEDD, UDLM, Draw
from dnadiff.diffusion.uniform import (
    beyond_chance,
    divergence,
    excess,
    rate_cost,
    redraw,
    share_below,
    step_cost,
    time_of,
)

OBJECTIVES = [
    UDLM(),
    SEDD(noise="uniform"),
    D3PM(noise="uniform", steps=1),
    D3PM(noise="uniform"),
    D3PM(),
    D3PM(zero_masking=True, carry_over=False),
]
ENDS = [0.0, 1e-300, 2.0**-53, 1e-9, 1e-3, 0.5, 1 - 1e-9, 1 - 2.0**-53]


def name(objective):
    return f"{type(objective).__name__}-{'-'.join(map(str, objective.options.values()))}"


def some_draw(count, seed=0):
    quantile = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Draw(quantile, seed, 0, torch.arange(count))


def test_only_bases_are_redrawn_and_uniformly():
    tokens = torch.full((40_000, 4), DNA.ids[2])
    tokens[:, 1], tokens[:, 2] = DNA.unknown_id, DNA.pad_id
    redrawn = redraw(
        DNA, tokens, torch.full((40_000,), 0.6, dtype=torch.float64), some_draw(40_000)
    )
    assert torch.equal(redrawn.tokens[:, 1:3], tokens[:, 1:3])
    for place in (0, 3):
        share = torch.bincount(DNA.letter_index(redrawn.tokens[:, place]), minlength=4) / 40_000
        assert torch.allclose(share, torch.tensor([0.15, 0.15, 0.55, 0.15]), atol=0.01)
    both = (redrawn.tokens[:, [0, 3]] == DNA.ids[0]).all(1)  # each is redrawn by itself
    assert abs(both.double().mean() - 0.15**2) < 0.004


def test_the_evidence_is_the_likelihood_of_the_noisy_base():
    redrawn = redraw(
        DNA, torch.tensor([[7, 10, 8]]), torch.tensor([0.2], dtype=torch.float64), some_draw(1)
    )
    for token_probs, token in zip(redrawn.token_probs[0], redrawn.tokens[0], strict=True):
        for letter in range(4):
            assert token_probs[letter] == pytest.approx(0.8 * (letter + 7 == token) + 0.05)


def test_the_evidence_of_a_certain_base_is_one_hot():
    tokens = torch.tensor([[7, 10, 8, 9]])
    redrawn = redraw(DNA, tokens, torch.zeros(1, dtype=torch.float64), some_draw(1))
    assert torch.equal(redrawn.tokens, tokens)
    assert torch.equal(redrawn.token_probs, torch.nn.functional.one_hot(tokens - 7, 4).double())


@pytest.mark.parametrize(
    "u", [-30.0, -0.3, -0.0101, -0.0099, -1e-7, 0.0, 3e-9, 0.0099, 0.0101, 2.0, 40.0]
)
def test_excess_keeps_all_digits(u):
    getcontext().prec = 50
    exact = float(Decimal(u).exp() - 1 - Decimal(u))
    assert float(excess(torch.tensor(u, dtype=torch.float64))) == pytest.approx(
        exact, rel=1e-10, abs=0
    )


def test_divergence_of_distributions_is_kullback_leibler():
    q, p = torch.rand(
        2, 7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).softmax(-1)
    torch.testing.assert_close(divergence(q.log(), p.log()), (q * (q / p).log()).sum(-1))


def test_times_follow_the_density_they_are_weighted_by():
    quantile = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    rate, factor = time_of(quantile)
    torch.testing.assert_close(share_below(rate), quantile, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(factor, 4 * rate.sqrt() / (3 * (1 - rate)))
    # Mean of factor * f(rate) is the integral of f: of 1 - u it is 1/2, of u (1 - u) 1/6.
    assert (factor * (1 - rate)).mean() == pytest.approx(1 / 2, rel=1e-6)
    assert (factor * rate * (1 - rate)).mean() == pytest.approx(1 / 6, rel=1e-6)


def as_published(log_mu, redrawn):
    """UDLM's integrand as the paper writes it, letter by letter."""
    alpha, out = float(1 - redrawn.rate[0]), torch.empty(4, 4, dtype=torch.float64)
    for x, z in itertools.product(range(4), repeat=2):
        bar = [4 * alpha * (b == x) + 1 - alpha for b in range(4)]
        theta = [4 * alpha * float(log_mu[x, z, b].exp()) + 1 - alpha for b in range(4)]
        terms = [
            bar[b] / bar[z] * math.log(theta[z] * bar[b] / (theta[b] * bar[z])) for b in range(4)
        ]
        out[x, z] = -1 / (4 * alpha) * (4 / bar[z] - 4 / theta[z] - sum(terms))
    return out


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9])
def test_the_cost_in_continuous_time_is_the_published_one(rate):
    log_mu = torch.randn(
        4, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    ).log_softmax(-1)
    pairs = all_pairs(rate)
    torch.testing.assert_close(
        rate_cost(log_mu, pairs), as_published(log_mu, pairs), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("rate", [1e-12, 1e-6, 1 - 1e-6, 1 - 1e-12])
def test_the_cost_keeps_its_digits_at_the_ends_of_time(rate):
    log_mu = torch.randn(
        4, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    ).log_softmax(-1)
    cost, mu = rate_cost(log_mu, all_pairs(rate)), log_mu.exp()
    x, z = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    mu_x, mu_z = (mu.gather(-1, letter[..., None])[..., 0] for letter in (x, z))
    if rate < 0.5:
        # Little noise: the probability that mu gives to other letters, and for a letter that has
        # changed how unlikely that was.
        changed = ((4 * mu_z / (rate * mu_x)).log() - 1) / rate
        expected = torch.where(x == z, (1 / mu_z - 1) / 4, changed)
        torch.testing.assert_close(cost, expected, rtol=100 * max(rate, 1e-9), atol=0)
    else:  # no signal: quadratic in the difference between mu and the letter
        onehot = torch.nn.functional.one_hot(x, 4).double()
        change = (mu - mu_z[..., None]) - (onehot - (x == z).double()[..., None])
        expected = 2 * (1 - rate) * change.square().sum(-1)
        torch.testing.assert_close(cost, expected, rtol=1e-3, atol=0)


def test_independent_bases_cost_exactly_their_negative_log_probability():
    """A single base has no gap, so the control variate has no bias."""
    law = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    answer, quantile = (
        law.log().expand(4, 4, 4),
        (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000,
    )
    total = torch.zeros(4, dtype=torch.float64)
    for rate, factor in zip(*(column.tolist() for column in time_of(quantile)), strict=True):
        total += factor * (probability(rate) * rate_cost(answer, all_pairs(rate))).sum(1) / 4000
    torch.testing.assert_close(total, -law.log(), rtol=1e-4, atol=0)
    for steps in (1, 2, 7):
        total = torch.zeros(4, dtype=torch.float64)
        for place in range(steps):
            rate, earlier = (
                (place + 1) / steps,
                torch.full((4,), place / steps, dtype=torch.float64),
            )
            total += (probability(rate) * step_cost(answer, all_pairs(rate), earlier)).sum(1)
        torch.testing.assert_close(total, -law.log(), rtol=1e-12, atol=0)


def test_the_control_variate_lowers_the_variance():
    source, draw = MarkovSource(length=32), some_draw(4000)
    tokens = source.sample(4000)
    rate, factor = time_of(draw.quantile)
    redrawn = redraw(DNA, tokens, rate, draw)
    log_mu = source(redrawn.tokens, token_probs=redrawn.token_probs)
    calm = beyond_chance(lambda log_w: rate_cost(log_w, redrawn), log_mu, redrawn, factor).sum(1)
    plain = (factor[:, None] * rate_cost(log_mu, redrawn)).sum(1)
    assert abs((calm - plain).mean()) < 3 * (calm - plain).std() / 4000**0.5
    assert calm.std() < plain.std() / 1.7


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name)
@pytest.mark.parametrize("coarse", [False, True], ids=["float32", "bfloat16"])
def test_values_and_gradients_are_finite_at_the_ends_of_time(objective, coarse):
    """One scorable base in the first rows; in the others certain predictions, right and wrong."""
    tokens = torch.full((len(ENDS), 6), DNA.unknown_id)
    tokens[:, 2] = 9
    tokens = torch.cat(
        [tokens, torch.randint(7, 11, (len(ENDS), 6), generator=torch.Generator().manual_seed(1))]
    )
    logits = (
        torch.randn(len(tokens), 6, objective.outputs, generator=torch.Generator().manual_seed(2))
        * 8
    )
    logits.requires_grad_()

    def net(tokens, sigma=None, label=None, token_probs=None):
        assert sigma.isfinite().all() and (
            token_probs is None or (token_probs.isfinite().all() and (token_probs >= 0).all())
        )
        return logits.bfloat16() if coarse else logits

    net.causal, net.needs_sigma, net.outputs = False, True, objective.outputs
    draw = Draw(torch.tensor(ENDS * 2, dtype=torch.float64), 0, 0, torch.arange(len(tokens)))
    nats = objective.per_token_nelbo(net, tokens, draw)
    (gradient,) = torch.autograd.grad(nats.sum(), logits)
    assert nats.isfinite().all() and gradient.isfinite().all()
    assert (nats[: len(ENDS), [0, 1, 3, 4, 5]] == 0).all()


@pytest.mark.parametrize("rate", [2.0**-52, 1e-9, 0.5, 1 - 1e-9, 1 - 2.0**-52])
def test_costs_are_finite_for_extremely_unlikely_changes(rate):
    logits = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(4)) * 20
    for dtype in (torch.bfloat16, torch.float32):
        answer = logits.to(dtype).float().requires_grad_()
        pairs = all_pairs(rate)
        cost = rate_cost(answer.log_softmax(-1), pairs).sum() + rate_cost(answer, pairs).sum()
        for earlier in (0.0, rate / 2):
            earlier = torch.full((4,), earlier, dtype=torch.float64)
            cost = cost + step_cost(answer.log_softmax(-1), pairs, earlier).sum()
        (gradient,) = torch.autograd.grad(cost, answer)
        assert cost.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name)
def test_a_small_caduceus_trains_in_bfloat16(objective):
    torch.manual_seed(0)
    lm = CaduceusLM(CaduceusConfig(d_model=16, n_layer=2))
    net = LMDenoiser(lm, needs_sigma=True, outputs=objective.outputs)
    tokens = MarkovSource(length=32).sample(4)
    tokens[0] = DNA.unknown_id
    tokens[1, 1:] = DNA.unknown_id
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective.loss(net, tokens, seed=3)
    loss.value.backward()
    assert loss.value.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_a_trained_network_is_as_close_to_the_entropy_as_with_masks():
    """A network without information is 0.40 nats per base above the entropy.

    Longer training closes what is left of the difference.
    """
    source, steps = MarkovSource(length=32), 300
    test, above, se = source.sample(1000, seed=99), {}, {}
    for objective in (MDLM(), UDLM()):
        torch.manual_seed(0)
        lm = CaduceusLM(CaduceusConfig(d_model=32, n_layer=2, rcps=False))
        net = LMDenoiser(lm, needs_sigma=objective.time_conditioned)
        optimizer = torch.optim.AdamW(net.parameters(), 8e-3, betas=(0.9, 0.95), weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 8e-3, total_steps=steps, pct_start=0.1
        )
        for step, tokens in enumerate(source.sample(32 * steps, seed=77).split(32)):
            optimizer.zero_grad()
            objective.loss(net, tokens, step=step).value.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        paired = (
            objective.bound(net.eval(), test, draws=16).nats - source.nll(test)
        ) / source.length
        name = type(objective).__name__
        above[name], se[name] = float(paired.mean()), float(paired.std() / 1000**0.5)
        assert -3 * se[name] < above[name] < 0.03
    assert above["UDLM"] < above["MDLM"] + 0.02
