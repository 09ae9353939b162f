"""Analytic sampling of masked diffusion from scores (SEDD, Lou et al. 2024, arXiv 2310.16834)."""

from __future__ import annotations

import torch
from torch import Tensor

from dnadiff.rng import Stream
from dnadiff.sampling.sampler_config import SamplerConfig
from dnadiff.sampling.state import SamplingState


def analytic(state: SamplingState, config: SamplerConfig) -> Tensor:
    """Lifts each mask at the rate of the network's scores. Returns tokens (B, L).

    Args:
        state: what to draw.
        config: `steps` is T, at least 1. Each step takes a call, because the unmasking rate depends
            on the network.
    """
    assert config.steps is not None
    tokens = state.template
    for step in range(config.steps):
        # Once every mask is lifted, further calls would change nothing.
        if not (state.free & (tokens == state.alphabet.mask_id)).any():
            break
        tokens = analytic_step(state, tokens, step, config.steps)
    return tokens


def analytic_step(state: SamplingState, tokens: Tensor, step: int, steps: int) -> Tensor:
    """Takes one step of discrete Tweedie denoising. Returns new tokens (B, L).

    With scores s_b = w_b alpha / (1 - alpha) of a mask, the step from t to s draws base b with
    probability w_b (alpha_s - alpha_t) / (1 - alpha_t), which stays finite at t = 1, and keeps the
    mask otherwise. Where W, the sum of w, is 1, as for every normalised network, this is the
    ancestral step; otherwise the unmasking rate is multiplied by W. The last step lifts all
    remaining masks.

    Args:
        state: what is drawn, with which network.
        tokens: (B, L) token ids after the steps before.
        step: from 0, at t = 1, to `steps` - 1.
        steps: T.
    """
    left = steps - step
    hidden = state.free & (tokens == state.alphabet.mask_id)
    time = torch.full_like(state.quantile[:, 0], left / steps)
    prediction = state.predict(tokens, hidden, time)

    # (alpha_s - alpha_t) / (1 - alpha_t) is 1 / left on the grid t = left / T.
    chance = prediction.log_total_score.exp() / left
    lifted = (state.numbers(Stream.UNMASK, left)[hidden] < chance) | (left == 1)
    now = hidden.masked_scatter(hidden, lifted)
    return state.draw(tokens, now, time, state.quantile, prediction.log_mu[lifted])
