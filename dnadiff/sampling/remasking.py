"""Remasking diffusion (ReMDM, Wang et al. 2025, arXiv 2503.00307): letters may be hidden again and drawn anew."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dnadiff.rng import Stream
from dnadiff.sampling.state import SamplingState

Strategy = Literal["cap", "rescale", "confidence", "loop"]

# The loop lowers the mask rate to a tenth, holds it there while letters are redrawn, then ends (the paper's values).
_LOOP_STEPS, _LOOP_RATES = (0.0, 0.45, 0.95, 1.0), (1.0, 0.1, 0.1, 0.0)


def remasking(state: SamplingState, steps: int, remask: Strategy, eta: float) -> Tensor:
    """Ancestral sampling in which letters are also hidden again. Returns tokens (B, L).

    From mask rate t to s a letter that was drawn is hidden again with probability r, and a mask is lifted with
    probability 1 - (s - r (1 - t)) / t, so that the share of masks follows the schedule whatever r is, up to
    r_max = min(1, s / (1 - t)). Strategies (`remask`):

        cap         r = min(eta, r_max)
        rescale     r = eta r_max
        confidence  as rescale on average over a sequence, but in proportion to a softmax of minus the probability with
                    which each letter was drawn. (The paper multiplies r_max by that softmax, so hides less than one
                    letter in a step.)
        loop        as cap, and only while the mask rate is held at 0.1; none before and after.

    With eta of order 1/T the samples of an exact denoiser converge to its distribution as 1/T; with a constant eta
    slowly, if at all; by confidence they need not. What the template fixes is never hidden.

    Args:
        request: what to draw.
        steps: T, at least 1; each is a call where it lifts a mask.
        remask: one of the four strategies.
        eta: 0 to 1.
    """
    mask_id = state.alphabet.mask_id
    tokens = state.template.clone()
    rates = _mask_rates(remask, steps)
    certainty = torch.zeros_like(tokens, dtype=torch.float64)
    for step in range(1, steps + 1):
        t, s = rates[step - 1], rates[step]
        again = _share(remask, eta, t, s)
        fate = state.numbers(Stream.UNMASK, step)
        hidden = state.free & (tokens == mask_id)
        drawn = state.free & ~hidden
        now = hidden & (fate < 1 - (s - again * (1 - t)) / t)
        leave = drawn & (
            fate < (again * _doubt(certainty, drawn) if remask == "confidence" else again)
        )
        if now.any():
            time = torch.full_like(fate[:, 0], t)
            log_mu = state.predict(tokens, now, time).log_mu
            state.draw(tokens, now, time, state.numbers(Stream.LETTER, step), log_mu)
            letters = state.alphabet.letter_index(tokens[now])
            certainty[now] = log_mu.gather(1, letters[:, None])[:, 0].exp()
        tokens[leave] = mask_id
    return tokens


def _mask_rates(strategy: Strategy, steps: int) -> list[float]:
    """The mask rates 1 = t_0 >= t_1 >= ... >= t_T = 0."""
    done = np.linspace(0.0, 1.0, steps + 1)
    return (
        np.interp(done, _LOOP_STEPS, _LOOP_RATES) if strategy == "loop" else 1.0 - done
    ).tolist()


def _share(strategy: Strategy, eta: float, t: float, s: float) -> float:
    """The share r of drawn letters that the step from t to s hides again."""
    most = min(1.0, s / (1.0 - t)) if t < 1.0 else 0.0  # at t = 1 nothing is drawn yet
    if strategy == "cap":
        return min(eta, most)
    if strategy == "loop":
        return min(eta, most) if t == s else 0.0
    return eta * most


def _doubt(certainty: Tensor, drawn: Tensor) -> Tensor:
    """softmax(-certainty) over each row's drawn letters, times their number: 1 on average."""
    weight = (-certainty).exp().masked_fill(~drawn, 0.0)
    return weight * drawn.sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1e-300)
