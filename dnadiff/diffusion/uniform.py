"""Uniform noise: redraws bases at random, and computes their terms of the bound.

At noise level u = 1 - alpha each base x is redrawn with probability u, uniformly over all K
letters. So the noisy base z follows q(z | x) = alpha [z = x] + u/K. As a function of x this is the
evidence of the position, which the network always gets (`token_probs`). Where a base is certain the
evidence is one-hot, so the network can tell known bases from noisy ones.

The network predicts mu, the distribution of each base given the evidence of all *other* positions.
The published bounds are tight if x_theta is this mu, and far from tight if it is the posterior
p(x_l | z). Let nu = alpha mu + u/K be the distribution of the noisy base. Every cost here is a
divergence between nu and q(. | x): of jump rates in continuous time (UDLM, Schiff et al. 2024,
arXiv 2412.10193; SEDD, Lou et al. 2024), of reverse steps in discrete time (D3PM).

Two things keep the variance low. First, a control variate without parameters: a network without
information (mu = 1/K) has a bound of exactly log K per base, because the bound is exact for
independent bases. So its cost under the same noise is subtracted, and log K is added. Second, the
standard deviation of the remainder is roughly proportional to (1 - u)/sqrt(u), and u is drawn from
a density of this shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from dnadiff.alphabet import Alphabet
from dnadiff.diffusion.objective import Draw
from dnadiff.rng import Stream

Noise = Literal["absorbing", "uniform"]

_MIN_DISTANCE = 2.0**-52  # of a noise level from either end of time


class Redrawn(NamedTuple):
    """Sequences under uniform noise.

    Attributes:
        tokens: (B, L) int64 noisy token ids; tokens that are not scorable are unchanged.
        token_probs: (B, L, K) float64, the evidence q(z | x) for each letter x.
        clean: (B, L, K) float64, log of the one-hot clean base.
        noisy: (B, L, K) float64, log of the one-hot noisy base.
        scorable: (B, L) bool.
        rate: (B,) float64, the noise level u.
    """

    tokens: Tensor
    token_probs: Tensor
    clean: Tensor
    noisy: Tensor
    scorable: Tensor
    rate: Tensor


def redraw(alphabet: Alphabet, tokens: Tensor, rate: Tensor, draw: Draw) -> Redrawn:
    """Redraws each base of tokens (B, L) with probability `rate` (B,) float64."""
    size, scorable = len(alphabet), alphabet.scorable(tokens)
    # A redrawn base may be the one that was there: u counts redraws, not changes.
    letter = (draw.uniform(Stream.LETTER, tokens.shape[1]) * size).long() + alphabet.first_id
    chosen = (draw.uniform(Stream.MASK, tokens.shape[1]) < rate[:, None]) & scorable
    after = torch.where(chosen, letter, tokens)

    clean = F.one_hot(alphabet.letter_index(tokens), size).double().log()
    noisy = F.one_hot(alphabet.letter_index(after), size).double().log()
    # q is symmetric in x and z: the evidence for each x is the noised one-hot of z.
    return Redrawn(after, noised(noisy, rate).exp(), clean, noisy, scorable, rate)


def noised(log_w: Tensor, rate: Tensor) -> Tensor:
    """Returns log((1 - u) w + u/K), the log-probabilities (B, L, K) of noisy bases.

    Args:
        log_w: (B, L, K) log-probabilities of the clean bases.
        rate: (B,) float64, the noise level u.
    """
    u = rate[:, None, None]
    return torch.logaddexp(torch.log1p(-u) + log_w, (u / log_w.shape[-1]).log())


def excess(u: Tensor) -> Tensor:
    """Returns h(u) = e^u - 1 - u, which is never negative.

    Near 0, where the difference would lose all digits, it is computed from the series.
    """
    # Both branches of `where` are evaluated, with harmless inputs where they are not used, as a
    # gradient of infinity times 0 would be NaN.
    small = u.abs() < 1e-2
    near = torch.where(small, u, 0.0)
    series = near.square() / 2 * (1 + near / 3 * (1 + near / 4 * (1 + near / 5)))
    far = torch.where(small, 1.0, u)
    return torch.where(small, series, torch.expm1(far) - far)


def divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Returns the sum over the last axis of q log(q/p) - q + p, for positive weights q and p.

    It is computed as q h(log(p/q)), in which nothing cancels.
    """
    return (log_q.exp() * excess(log_p - log_q)).sum(-1)


def rate_cost(log_w: Tensor, redrawn: Redrawn) -> Tensor:
    """Returns the cost (B, L) per unit of the noise level u, in continuous time.

    Backwards in time a base jumps from z to y at a rate proportional to s_y = nu_y / nu_z. The cost
    is the divergence between these ratios and those of the clean base, over K (1 - u). For
    unnormalised w they are the scores of SEDD.

    Args:
        log_w: (B, L, K), log mu or the logits of SEDD.
        redrawn: the noisy sequences.
    """

    def scores(log_w: Tensor) -> Tensor:
        """Returns log s_y (B, L, K), 0 for y = z."""
        log_nu = noised(log_w, redrawn.rate)
        return log_nu - log_nu.gather(-1, redrawn.noisy.argmax(-1, keepdim=True))

    signal = log_w.shape[-1] * (1.0 - redrawn.rate)
    return divergence(scores(redrawn.clean), scores(log_w)) / signal[:, None]


def step_cost(log_mu: Tensor, redrawn: Redrawn, earlier: Tensor) -> Tensor:
    """Returns the cost (B, L) of one reverse step: the divergence of q(z_v | z_u, x) from p.

    Both are q(z_u | z_v) times a distribution of z_v, one given the clean base and one given mu.
    For v = 0 the cost is the reconstruction, -log p(x | z_u).

    Args:
        log_mu: (B, L, K) log-probabilities.
        redrawn: the noisy sequences, at noise level u.
        earlier: (B,) the noise level v < u.
    """
    kept = noised(redrawn.noisy, (redrawn.rate - earlier) / (1.0 - earlier))
    earlier = earlier.clamp(min=1e-200)  # at 0 a weight of q would be 0 and its logarithm infinite
    log_q = F.log_softmax(kept + noised(redrawn.clean, earlier), -1)
    log_p = F.log_softmax(kept + noised(log_mu, earlier), -1)
    return divergence(log_q, log_p)


def beyond_chance(
    cost: Callable[[Tensor], Tensor], log_w: Tensor, redrawn: Redrawn, factor: Tensor
) -> Tensor:
    """Returns the terms (B, L) of the bound, with the control variate of the module's docstring.

    They are `factor` times the difference in cost to a network without information, plus log K.

    Args:
        cost: from log-probabilities (B, L, K) to costs (B, L).
        log_w: (B, L, K), the network's prediction.
        redrawn: the noisy sequences.
        factor: (B,) one over the probability (density) with which the noise level was drawn.
    """
    chance = math.log(log_w.shape[-1])
    gain = cost(log_w) - cost(torch.full_like(log_w, -chance))
    return torch.where(redrawn.scorable, factor[:, None] * gain + chance, 0.0)


def time_of(quantile: Tensor) -> tuple[Tensor, Tensor]:
    """Returns noise levels u (B,) for uniform quantiles (B,), and one over their density.

    The density is 3 (1 - u) / (4 sqrt(u)).
    """
    # The inverse of `share_below`, a cubic in sqrt(u), by the triple angle formula.
    root = 2.0 * torch.sin(torch.asin(quantile) / 3.0)
    rate = root.square().clamp(_MIN_DISTANCE, 1.0 - _MIN_DISTANCE)
    return rate, 4.0 * rate.sqrt() / (3.0 * (1.0 - rate))


def share_below(rate: Tensor) -> Tensor:
    """Returns the probability (B,) that `time_of` draws a noise level below `rate` (B,).

    It is (3 v - v^3) / 2 with v = sqrt(rate).
    """
    root = rate.sqrt()
    return root * (3.0 - rate) / 2.0


def check_noise(noise: str) -> None:
    """Raises a ValueError if there is no noise of this name."""
    if noise not in get_args(Noise):
        raise ValueError(f"unknown noise {noise!r}; there are {', '.join(get_args(Noise))}")
