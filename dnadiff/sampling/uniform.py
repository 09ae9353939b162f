"""Sampling of uniform noise, under which letters turn into other letters.

D3PM (Austin et al. 2021, arXiv 2107.03006), UDLM (Schiff et al. 2024, arXiv 2412.10193).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dnadiff.rng import Stream
from dnadiff.sampling.guidance import geometric_mixture, guidance_terms
from dnadiff.sampling.sampler_config import SamplerConfig
from dnadiff.sampling.state import SamplingState, pick


def uniform(state: SamplingState, config: SamplerConfig) -> Tensor:
    """Samples ancestrally from uniform letters, each redrawn in every step. Returns tokens (B, L).

    The token of a noisy letter is the same as that of a clean one. So the network is always given
    the evidence of each position, q(z | x) for every letter x: it is one-hot where a letter is
    fixed, and 0 for the letters that a restriction excludes. With the exact denoiser the samples
    therefore follow the exact conditional distribution, for fixed and for restricted letters.

    Every state satisfies the constraints, including the first: a letter that would violate one by
    changing is drawn among those that do not.

    Args:
        state: what to draw.
        config: `steps` is T, at least 1; a call each, or two with guidance.
    """
    assert config.steps is not None
    tokens = uniform_start(state)
    for step in range(config.steps):
        tokens = uniform_step(state, tokens, step, config.steps)
    return tokens


def uniform_start(state: SamplingState) -> Tensor:
    """Returns tokens (B, L) whose free letters are uniform."""
    size = (*state.template.shape, len(state.alphabet))
    log_p = torch.zeros(size, dtype=torch.float64, device=state.template.device)
    return state.draw_from(state.template, state.free, state.quantile, log_p)


def uniform_step(state: SamplingState, tokens: Tensor, step: int, steps: int) -> Tensor:
    """Draws every free letter again. Returns new tokens (B, L).

    The step from t to s (noise levels, 1 - alpha) draws from

        p(z_s | z_t) ~ [ a (z_s = z_t) + (1 - a)/K ] [ alpha_s mu(z_s) + (1 - alpha_s)/K ],

    with a = alpha_t / alpha_s, where mu is the distribution of the clean letter given the noisy
    letters at all *other* positions; the error is of order 1/T. With guidance the distributions of
    z_s are combined as p(z_s | z_t, class)^w p(z_s | z_t)^(1 - w). Combining mu instead would
    define a different chain.

    Args:
        state: what is drawn, with which network.
        tokens: (B, L) noisy token ids at t.
        step: from 0, at t = 1, to `steps` - 1.
        steps: T.
    """
    size, free = len(state.alphabet), state.free
    left = steps - step
    t, s = left / steps, (left - 1) / steps

    # A fixed letter was never noised; multiplying by what is possible makes it one-hot again.
    letters = F.one_hot(state.alphabet.letter_index(tokens), size).double()
    evidence = _noised(letters, t) * state.possible
    token_probs = evidence / evidence.sum(-1, keepdim=True)
    time = torch.full_like(evidence[:, 0, 0], t)
    kept = _noised(letters[free], (t - s) / (1 - s))

    weights, laws = [], []
    for weight, term in guidance_terms(state):
        prediction = term.predict(tokens, free, time, token_probs)
        # mu of a network whose scores are not normalised keeps their total here.
        clean = (prediction.log_mu + prediction.log_total_score[:, None]).exp()
        weights.append(weight)
        laws.append((kept * _noised(clean, s)).log())

    log_p = torch.zeros_like(evidence)
    log_p[free] = geometric_mixture(weights, laws)
    return _move(state, tokens, state.numbers(Stream.LETTER, left), log_p)


def _move(state: SamplingState, tokens: Tensor, quantile: Tensor, log_p: Tensor) -> Tensor:
    """Draws every free letter from log-probabilities (B, L, K). Returns new tokens (B, L).

    Under constraints the letters that do not change are kept, and the others are drawn to be
    compatible with them.
    """
    drawn = pick(log_p[state.free], quantile[state.free]) + state.alphabet.first_id
    changing = tokens != tokens.masked_scatter(state.free, drawn)
    # A mask violates nothing, so the letters about to change do not restrict each other.
    hidden = tokens.masked_fill(changing, state.alphabet.mask_id)
    return state.draw_from(hidden, changing, quantile, log_p)


def _noised(law: Tensor, rate: float) -> Tensor:
    """Returns the distribution (..., K) of letters that are redrawn with probability `rate`."""
    return (1 - rate) * law + rate / law.shape[-1]
