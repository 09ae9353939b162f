"""Remasking diffusion (ReMDM, Wang et al. 2025, arXiv 2503.00307): drawn letters may be redrawn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dnadiff.rng import Stream
from dnadiff.sampling.sampler_config import SamplerConfig
from dnadiff.sampling.state import SamplingState

# The strategy "loop" lowers the mask rate to a tenth, holds it there while bases are redrawn, then
# lowers it to 0. These are the paper's values: shares of the steps, and mask rates.
_LOOP_STEPS, _LOOP_RATES = (0.0, 0.45, 0.95, 1.0), (1.0, 0.1, 0.1, 0.0)


class Remasked(NamedTuple):
    """Partially drawn sequences of the remasking sampler.

    Attributes:
        tokens: (B, L) int64 token ids.
        certainty: (B, L) float64, the probability with which each letter was drawn.
    """

    tokens: Tensor
    certainty: Tensor


def remasking(state: SamplingState, config: SamplerConfig) -> Tensor:
    """Samples ancestrally, and hides some letters again. Returns tokens (B, L).

    From mask rate t to s a letter that was drawn is hidden again with probability r, and a mask is
    lifted with probability 1 - (s - r (1 - t)) / t, so that the share of masks follows the schedule
    whatever r is, up to r_max = min(1, s / (1 - t)). Strategies (`remask`):

        cap         r = min(eta, r_max)
        rescale     r = eta r_max
        confidence  as rescale on average over a sequence, but in proportion to a softmax of minus
                    the probability with which each letter was drawn. (The paper multiplies r_max by
                    that softmax, so it hides less than one letter in a step.)
        loop        as cap, and only while the mask rate is held at 0.1

    With eta of order 1/T the samples of an exact denoiser converge to its distribution with an
    error of order 1/T. With a constant eta they converge slowly, if at all. With "confidence" they
    need not converge. Fixed letters are never hidden.

    Args:
        state: what to draw.
        config: `steps` is T, each a call where it lifts a mask; `remask` and `eta` as above.
    """
    rates = mask_rates(config)
    drawn = Remasked(state.template, torch.zeros_like(state.template, dtype=torch.float64))
    for step in range(1, len(rates)):
        drawn = remasking_step(state, drawn, step, config, rates)
    return drawn.tokens


def remasking_step(
    state: SamplingState,
    drawn: Remasked,
    step: int,
    config: SamplerConfig,
    rates: list[float],
) -> Remasked:
    """Lifts masks and hides letters, in one call. Returns new sequences.

    Args:
        state: what is drawn, with which network.
        drawn: the sequences after the steps before; nothing is drawn before the first.
        step: from 1 to T.
        config: `remask` and `eta`.
        rates: T + 1 mask rates, see `mask_rates`.
    """
    tokens, certainty = drawn
    t, s = rates[step - 1], rates[step]
    again = _hidden_share(config, t, s)
    fate = state.numbers(Stream.UNMASK, step)
    hidden = state.free & (tokens == state.alphabet.mask_id)
    visible = state.free & ~hidden

    # Which masks are lifted and which letters are hidden depends on the state before the step.
    lifted = hidden & (fate < 1 - (s - again * (1 - t)) / t)
    chance = again * _doubt(certainty, visible) if config.remask == "confidence" else again
    leaving = visible & (fate < chance)

    if lifted.any():
        time = torch.full_like(fate[:, 0], t)
        log_mu = state.predict(tokens, lifted, time).log_mu
        tokens = state.draw(tokens, lifted, time, state.numbers(Stream.LETTER, step), log_mu)
        letters = state.alphabet.letter_index(tokens[lifted])
        probability = log_mu.gather(1, letters[:, None])[:, 0].exp()
        certainty = certainty.masked_scatter(lifted, probability)
    return Remasked(tokens.masked_fill(leaving, state.alphabet.mask_id), certainty)


def mask_rates(config: SamplerConfig) -> list[float]:
    """Returns the mask rates 1 = t_0 >= t_1 >= ... >= t_T = 0 of a configuration."""
    assert config.steps is not None
    done = np.linspace(0.0, 1.0, config.steps + 1)
    if config.remask == "loop":
        return np.interp(done, _LOOP_STEPS, _LOOP_RATES).tolist()
    return (1.0 - done).tolist()


def _hidden_share(config: SamplerConfig, t: float, s: float) -> float:
    """Returns the share r of drawn letters that the step from t to s hides again."""
    assert config.eta is not None
    # At t = 1 nothing is drawn yet.
    most = min(1.0, s / (1.0 - t)) if t < 1.0 else 0.0
    if config.remask == "cap":
        return min(config.eta, most)
    if config.remask == "loop":
        return min(config.eta, most) if t == s else 0.0
    return config.eta * most


def _doubt(certainty: Tensor, visible: Tensor) -> Tensor:
    """Returns softmax(-certainty) over each row's drawn letters times their number: 1 on average.

    Args:
        certainty: (B, L) float64.
        visible: (B, L) bool, the drawn letters.
    """
    weight = (-certainty).exp().masked_fill(~visible, 0.0)
    return weight * visible.sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1e-300)
