"""Uniform noise: letters turn into other letters. What is redrawn, what it still tells, and what a letter costs.

At noise level u = 1 - alpha each letter x is redrawn with probability u, uniformly over all K letters. So the noisy
letter z follows q(z | x) = alpha [z = x] + u/K: that function of x is the position's evidence, which the network is
always given (`token_probs`). A position whose letter is certain has a one-hot there; so known letters stay known.

The network answers with mu, the law of each letter given the evidence of all *other* positions. Published formulas with
x_theta are tight for this mu, and far from tight for the posterior p(x_l | z). With nu = alpha mu + u/K, the law of the
noisy letter, every cost here is a divergence between what nu says and what q(. | x) says: of rates in continuous time
(UDLM, Schiff et al. 2024, arXiv 2412.10193; SEDD, Lou et al. 2024), of steps in discrete time (D3PM).

Two things make the estimates calm. A network that knows nothing (mu = 1/K) has the bound log K for each letter,
exactly, since one letter by itself has no gap; so its cost on the same noise is subtracted and log K added, a control
variate without parameters. The spread of what remains is close to (1 - u)/sqrt(u), in proportion to which u is drawn.
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

_CLOSEST = 2.0**-52  # of a noise level to either end of time


class Redrawn(NamedTuple):
    """Sequences under uniform noise.

    Attributes:
        tokens: (B, L) int64 noisy token ids; what is no letter is as it was.
        token_probs: (B, L, K) float64, the evidence q(z | x) of each letter x.
        clean: (B, L, K) log of the one-hot clean letter.
        noisy: (B, L, K) log of the one-hot noisy letter.
        scorable: (B, L) bool, the letters.
        rate: (B,) float64, the noise level u.
    """

    tokens: Tensor
    token_probs: Tensor
    clean: Tensor
    noisy: Tensor
    scorable: Tensor
    rate: Tensor


def redraw(alphabet: Alphabet, tokens: Tensor, rate: Tensor, draw: Draw) -> Redrawn:
    """Redraws each letter of tokens (B, L) with probability `rate` (B,) float64."""
    size, scorable = len(alphabet), alphabet.scorable(tokens)
    letter = (draw.uniform(Stream.LETTER, tokens.shape[1]) * size).long() + alphabet.first_id
    chosen = (draw.uniform(Stream.MASK, tokens.shape[1]) < rate[:, None]) & scorable
    after = torch.where(chosen, letter, tokens)
    clean, noisy = (
        F.one_hot(alphabet.letter_index(t), size).double().log() for t in (tokens, after)
    )
    return Redrawn(after, noised(noisy, rate).exp(), clean, noisy, scorable, rate)


def noised(log_w: Tensor, rate: Tensor) -> Tensor:
    """log((1 - u) w + u/K), the law (B, L, K) of noisy letters whose clean ones follow w; u is `rate` (B,) float64."""
    u = rate[:, None, None]
    return torch.logaddexp(torch.log1p(-u) + log_w, (u / log_w.shape[-1]).log())


def excess(u: Tensor) -> Tensor:
    """h(u) = e^u - 1 - u, which is never negative; by its series where the difference would leave no digits."""
    small = u.abs() < 1e-2
    near = torch.where(small, u, 0.0)
    series = near.square() / 2 * (1 + near / 3 * (1 + near / 4 * (1 + near / 5)))
    far = torch.where(small, 1.0, u)
    return torch.where(small, series, torch.expm1(far) - far)


def divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Sum over the last axis of q log(q/p) - q + p, for positive weights: as q h(log(p/q)), where nothing cancels."""
    return (log_q.exp() * excess(log_p - log_q)).sum(-1)


def rate_cost(log_w: Tensor, redrawn: Redrawn) -> Tensor:
    """Cost (B, L) per unit of the noise level u, in continuous time.

    The ratios s_y = nu_y / nu_z, with which a letter jumps from z to y as time runs backwards, against those of the
    clean letter: divergence / (K (1 - u)). Unnormalised w are SEDD's free scores.
    """

    def scores(log_w: Tensor) -> Tensor:
        log_nu = noised(log_w, redrawn.rate)
        return log_nu - log_nu.gather(-1, redrawn.noisy.argmax(-1, keepdim=True))

    signal = log_w.shape[-1] * (1.0 - redrawn.rate)
    return divergence(scores(redrawn.clean), scores(log_w)) / signal[:, None]


def step_cost(log_mu: Tensor, redrawn: Redrawn, earlier: Tensor) -> Tensor:
    """Cost (B, L) of one step back to the noise level `earlier` (B,) v < u: the divergence of q(z_v | z_u, x) and p.

    Both are q(z_u | z_v) times the law of z_v, one with the clean letter and one with mu. For v = 0 the cost is that of
    reconstruction, -log p(x | z_u).
    """
    kept = noised(redrawn.noisy, (redrawn.rate - earlier) / (1.0 - earlier))
    earlier = earlier.clamp(min=1e-200)  # at 0 a weight of q would be 0 and its logarithm infinite
    log_q, log_p = (
        F.log_softmax(kept + noised(log_w, earlier), -1) for log_w in (redrawn.clean, log_mu)
    )
    return divergence(log_q, log_p)


def beyond_chance(
    cost: Callable[[Tensor], Tensor], log_w: Tensor, redrawn: Redrawn, factor: Tensor
) -> Tensor:
    """The bound's shares (B, L): `factor` (B,) times (cost of log_w - cost of knowing nothing), plus log K.

    Args:
        cost: from log-probabilities (B, L, K) to costs (B, L).
        log_w: (B, L, K), the network's answer.
        redrawn: the noise.
        factor: one over the probability (density) with which this noise level was drawn.
    """
    chance = math.log(log_w.shape[-1])
    gain = cost(log_w) - cost(torch.full_like(log_w, -chance))
    return torch.where(redrawn.scorable, factor[:, None] * gain + chance, 0.0)


def time_of(quantile: Tensor) -> tuple[Tensor, Tensor]:
    """From uniform quantiles (B,) noise levels u of density 3 (1 - u) / (4 sqrt(u)), and one over that density."""
    root = 2.0 * torch.sin(
        torch.asin(quantile) / 3.0
    )  # solves `share_below` = quantile, a cubic, by its triple angle
    rate = root.square().clamp(_CLOSEST, 1.0 - _CLOSEST)
    return rate, 4.0 * rate.sqrt() / (3.0 * (1.0 - rate))


def share_below(rate: Tensor) -> Tensor:
    """The probability (B,) that `time_of` draws a level below `rate`: (3 v - v^3) / 2 with v = sqrt(rate)."""
    root = rate.sqrt()
    return root * (3.0 - rate) / 2.0


def check_noise(noise: str) -> None:
    """Whether there is a noise of this name; a ValueError if not."""
    if noise not in get_args(Noise):
        raise ValueError(f"unknown noise {noise!r}; there are {', '.join(get_args(Noise))}")
