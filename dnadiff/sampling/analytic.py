"""Analytic sampling of masked diffusion from scores (discrete Tweedie; SEDD, Lou et al. 2024, arXiv 2310.16834)."""

from __future__ import annotations

import torch
from torch import Tensor

from dnadiff.rng import Stream
from dnadiff.sampling.state import SamplingState


def analytic(state: SamplingState, steps: int) -> Tensor:
    """Each mask is lifted at the rate that the network's scores give it. Returns tokens (B, L).

    With scores s_b = w_b alpha / (1 - alpha) of a mask, the step from t to s gives letter b the probability
    w_b (alpha_s - alpha_t) / (1 - alpha_t), and the mask what is left: nothing in it is large at t = 1. Where W, the
    sum of w, is 1, as for every normalised network, this is the ancestral step; otherwise it changes the rate by W.
    The last step lifts whatever is left.

    Args:
        request: what to draw.
        steps: T, at least 1; a call each, as the rate is not known without the network.
    """
    tokens = state.template.clone()
    quantile = state.numbers(Stream.LETTER)
    for step in range(steps, 0, -1):
        hidden = state.free & (tokens == state.alphabet.mask_id)
        if not hidden.any():
            break
        time = torch.full_like(quantile[:, 0], step / steps)
        prediction = state.predict(tokens, hidden, time)
        chance = (
            prediction.log_mass.exp() / step
        )  # (alpha_s - alpha_t) / (1 - alpha_t) on the grid t = step/T
        lifted = (state.numbers(Stream.UNMASK, step)[hidden] < chance) | (step == 1)
        now = hidden.masked_scatter(hidden, lifted)
        state.draw(tokens, now, time, quantile, prediction.log_mu[lifted])
    return tokens
