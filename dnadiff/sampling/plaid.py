"""Sampling of Plaid: ancestral steps of its Gaussian diffusion (VDM, Kingma et al. 2021, section A.4), then letters."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dnadiff.diffusion.objective import Denoiser
from dnadiff.diffusion.plaid import Plaid, noise, signal
from dnadiff.errors import UsageError
from dnadiff.noise import Stream, uniform

# Matrix products of fewer rows than this take another path, with another rounding, in common CPU libraries.
_FEWEST_TOKENS = 16


@torch.no_grad()
def sample_plaid(
    objective: Plaid,
    denoiser: Denoiser,
    template: Tensor,
    allowed: Tensor | None = None,
    *,
    steps: int = 128,
    seed: int = 0,
    index: Tensor | None = None,
) -> Tensor:
    """Draws a sequence for each row of a template; `steps` + 1 calls.

    What a template says of a letter is evidence like any other: minus infinity for every letter that it rules out. With
    the exact denoiser the error is of order 1 / `steps` and the limit is the exact conditional distribution, for fixed
    letters and for restricted ones.

    Args:
        objective: its embedding and its schedule.
        denoiser: a network trained with it, in evaluation mode.
        template: (B, L) int64 token ids; the mask id is free, every other id is fixed context.
        allowed: (B, L, K) bool, the letters that may be drawn at each place; all by default.
        steps: from gamma(1) to gamma(0). A self-conditioned network is shown its answer of the step before.
        seed: of the run.
        index: (B,) sample numbers, 0..B-1 by default. A sample is determined by (seed, number), whatever its batch.

    Returns:
        (B, L) token ids; fixed letters are kept, drawn ones are letters of the alphabet.

    Raises:
        UsageError: for steps below 1, or a denoiser that cannot carry the objective.
    """
    objective.check(denoiser)
    if steps < 1:
        raise UsageError(f"steps must be at least 1, not {steps}")
    rows, alphabet = len(template), objective.alphabet
    index = torch.arange(rows, device=template.device) if index is None else index
    possible = _possible(objective, template, allowed)
    repeats = -(-_FEWEST_TOKENS // template.numel())
    template, possible, index = template.repeat(repeats, 1), possible.repeat(repeats, 1, 1), index.repeat(repeats)

    hidden = template.masked_fill(alphabet.scorable(template), alphabet.mask_id)
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=template.device)
    levels = objective.schedule(times).gamma[:, None].expand(-1, len(template))
    z = _normal(objective, template, seed, index, 0)
    answer = torch.zeros_like(possible, dtype=z.dtype)
    for step, gamma in enumerate(levels):
        if step > 0:
            fresh = _normal(objective, template, seed, index, step)
            z = transition(z, answer @ objective.embedding, levels[step - 1], gamma, fresh)
        evidence = objective.evidence(z, gamma).masked_fill(~possible, -torch.inf)
        answer = objective.log_posterior(denoiser, hidden, evidence, gamma, answer).exp()
    letters = _draw(answer, uniform(seed, Stream.LETTER, index, template.shape[1])) + alphabet.first_id
    return torch.where(template == alphabet.mask_id, letters, template)[:rows]


def transition(z: Tensor, denoised: Tensor, gamma: Tensor, earlier: Tensor, normal: Tensor) -> Tensor:
    """Draws z_s (B, L, D) from q(z_s | z_t, x^), s < t, by Bayes' rule.

    With c = 1 - exp(gamma_s - gamma_t) it is (alpha_s / alpha_t) (1 - c) z_t + c alpha_s x^ + s_s sqrt(c) eps.

    Args:
        z: (B, L, D), z_t.
        denoised: (B, L, D), x^.
        gamma: (B,) gamma_t.
        earlier: (B,) gamma_s, not above gamma_t.
        normal: (B, L, D) eps, standard normal.
    """
    c = -torch.expm1(earlier - gamma)[:, None, None]
    mean = signal(earlier) / signal(gamma) * (1 - c) * z + c * signal(earlier) * denoised
    return mean + noise(earlier) * c.sqrt() * normal


def _possible(objective: Plaid, template: Tensor, allowed: Tensor | None) -> Tensor:
    """Which letters (B, L, K) a place can hold: where the template has a letter, that one only."""
    alphabet = objective.alphabet
    own = F.one_hot(alphabet.letter_index(template), len(alphabet)).bool()
    free = torch.ones_like(own) if allowed is None else allowed
    return torch.where(alphabet.scorable(template)[..., None], own, free)


def _normal(objective: Plaid, template: Tensor, seed: int, index: Tensor, step: int) -> Tensor:
    """Standard normal numbers (B, L, D) of one step."""
    length, dimension = template.shape[1], objective.letters.embedding_dim
    quantile = uniform(seed, Stream.NOISE, index, length * dimension, step=step)
    return torch.special.ndtri(quantile).unflatten(1, (length, dimension))


def _draw(probabilities: Tensor, quantile: Tensor) -> Tensor:
    """Letter indices (B, L) by inversion: quantile (B, L) against the cumulated probabilities (B, L, K)."""
    cumulated = probabilities.cumsum(-1)
    return (cumulated <= quantile[..., None] * cumulated[..., -1:]).sum(-1)
