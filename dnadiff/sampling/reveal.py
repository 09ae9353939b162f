"""Revealing hidden letters in an order that is drawn before the network is called.

Under masked diffusion every hidden letter becomes visible at a time of its own, uniform on (0, 1) and independent of
everything else (log-linear schedule, time running from 1 down to 0). Those times can therefore be drawn first. A
sampler is then a way to group them (a `Plan`): the letters of one group are drawn together, from one call that sees all
earlier groups. Rows in which nothing happens at a step are not given to the network, so a row takes as many calls as
it has non-empty groups, with time conditioning or without.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from dnadiff.rng import Stream
from dnadiff.sampling.state import SamplingState


class Plan(NamedTuple):
    """When each letter is drawn: `group` (B, L) int64, the step of each letter; `time` (B, G), each step's time."""

    group: Tensor
    time: Tensor


def unmask_times(state: SamplingState) -> Tensor:
    """When each free letter becomes visible, (B, L) float64: uniform on (0, 1), -1 where nothing is free."""
    return state.numbers(Stream.UNMASK).masked_fill(~state.free, -1.0)


def reveal(state: SamplingState, plan: Plan) -> Tensor:
    """Draws every free letter, group after group. Returns tokens (B, L)."""
    tokens = state.template.clone()
    group = plan.group.masked_fill(~state.free, -1)
    # A letter is drawn once, so one number for each position serves it whenever its turn comes.
    quantile = state.numbers(Stream.LETTER)
    for step in group[group >= 0].unique().tolist():
        state.draw(tokens, group == step, plan.time[:, step], quantile)
    return tokens
