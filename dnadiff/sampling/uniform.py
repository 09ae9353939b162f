"""Sampling of uniform noise, where letters turn into other letters.

D3PM (Austin et al. 2021, arXiv 2107.03006), UDLM (Schiff et al. 2024, arXiv 2412.10193).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dnadiff.rng import Stream
from dnadiff.sampling.guidance import geometric_mixture, guidance_terms
from dnadiff.sampling.state import SamplingState, pick


def uniform(state: SamplingState, steps: int) -> Tensor:
    """Ancestral sampling: from uniform letters, each redrawn in every step. Returns tokens (B, L).

    The step from t to s (noise levels, 1 - alpha) draws each free letter from

        p(z_s | z_t) ~ [ a (z_s = z_t) + (1 - a)/K ] [ alpha_s mu(z_s) + (1 - alpha_s)/K ],   a = alpha_t / alpha_s,

    where mu is the law of the clean letter given the noisy ones of all *other* positions; the error is of order 1/T.

    A noisy letter looks like a clean one. So the network is always given each position's evidence, q(z | x) for every
    letter x, and that is also how it learns what is certain: where a letter is fixed the evidence is one-hot, and where
    letters are restricted it is 0 for all others. With the exact denoiser, fixed and restricted letters are therefore
    both exact conditionals.

    Under constraints every state keeps to them, the first too: a letter that would break one by turning into another
    is drawn among those that do not.

    Towards a class these laws of z_s are mixed (`guidance`), as p(z_s | z_t, class)^w p(z_s | z_t)^(1 - w). To mix mu
    instead is another chain.

    Args:
        request: what to draw.
        steps: T, at least 1; a call each, or two with guidance.
    """
    size, free = len(state.alphabet), state.free
    possible = state.possible()
    asked = guidance_terms(state)
    tokens = state.template.clone()
    log_p = torch.zeros(*tokens.shape, size, dtype=torch.float64, device=tokens.device)
    state.draw_from(tokens, free, state.numbers(Stream.LETTER), log_p)
    for step in range(steps, 0, -1):
        t, s = step / steps, (step - 1) / steps
        here = F.one_hot(state.alphabet.letter_index(tokens[:, state.span]), size).double()
        evidence = _noised(here, t) * possible
        time = torch.full_like(evidence[:, 0, 0], t)
        kept = _noised(here[free[:, state.span]], (t - s) / (1 - s))
        laws = []
        for _, one in asked:
            prediction = one.predict(tokens, free, time, evidence / evidence.sum(-1, keepdim=True))
            laws.append(
                (kept * _noised((prediction.log_mu + prediction.log_mass[:, None]).exp(), s)).log()
            )
        log_p[free] = geometric_mixture([weight for weight, _ in asked], laws)
        _move(state, tokens, state.numbers(Stream.LETTER, step), log_p)
    return tokens


def _move(state: SamplingState, tokens: Tensor, quantile: Tensor, log_p: Tensor) -> None:
    """Draws every free letter; under constraints those that stay are there before those that change are drawn."""
    drawn = pick(log_p[state.free], quantile[state.free]) + state.alphabet.first_id
    changing = tokens != tokens.masked_scatter(state.free, drawn)
    tokens[changing] = state.alphabet.mask_id
    state.draw_from(tokens, changing, quantile, log_p)


def _noised(law: Tensor, rate: float) -> Tensor:
    """The law (..., K) of letters of which each was redrawn with this probability."""
    return (1 - rate) * law + rate / law.shape[-1]
