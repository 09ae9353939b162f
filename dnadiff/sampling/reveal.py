"""Unmasks positions in an order that is drawn before the network is called.

Under masked diffusion every masked position is unmasked at its own time, which is uniform on (0, 1)
and independent of everything else (log-linear schedule, time running from 1 down to 0). Those times
can therefore be drawn first. A sampler is then a way to group them (a `Plan`): the bases of one
group are drawn together, from one call that sees all earlier groups. A row without a base to draw
at a step is not passed to the network, so a row takes as many calls as it has non-empty groups,
with time conditioning or without.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from dnadiff.rng import Stream
from dnadiff.sampling.state import SamplingState


class Plan(NamedTuple):
    """When each letter is drawn.

    Attributes:
        group: (B, L) int64, the step of each letter.
        time: (B, G) float64, the time of each step.
    """

    group: Tensor
    time: Tensor


def unmask_times(state: SamplingState) -> Tensor:
    """Returns when each free letter becomes visible, (B, L) float64; -1 where nothing is free."""
    return state.numbers(Stream.UNMASK).masked_fill(~state.free, -1.0)


def reveal(state: SamplingState, plan: Plan) -> Tensor:
    """Draws every free letter, group after group. Returns tokens (B, L)."""
    tokens = state.template
    group = plan.group.masked_fill(~state.free, -1)
    for step in group[group >= 0].unique().tolist():
        tokens = reveal_step(state, tokens, plan, step)
    return tokens


def reveal_step(state: SamplingState, tokens: Tensor, plan: Plan, step: int) -> Tensor:
    """Draws the letters of one step, from one call. Returns new tokens (B, L).

    Args:
        state: what is drawn, with which network.
        tokens: (B, L) token ids after the steps before.
        plan: the step of each letter.
        step: from 0; a step without a letter changes nothing.
    """
    now = state.free & (plan.group == step)
    if not now.any():
        return tokens
    # A letter is drawn once, so one random number per position is enough, whatever the step.
    return state.draw(tokens, now, plan.time[:, step], state.quantile)
