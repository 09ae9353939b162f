"""Ancestral sampling of masked diffusion on a grid of times (MDLM, Sahoo et al. 2024, sec. 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from dnadiff.sampling.reveal import Plan, reveal, unmask_times
from dnadiff.sampling.sampler_config import SamplerConfig
from dnadiff.sampling.state import SamplingState


def ancestral(state: SamplingState, config: SamplerConfig) -> Tensor:
    """Draws the bases of each time step independently. Returns tokens (B, L).

    The error is of order 1/T. With n free positions, T (1 - (1 - 1/T)^n) steps on average unmask
    at least one, and the network is called only for these. One step is `reveal_step`, with the plan
    `on_grid(unmask_times(state), T)`.

    Args:
        state: what to draw.
        config: `steps` is T, at least 1.
    """
    assert config.steps is not None
    return reveal(state, on_grid(unmask_times(state), config.steps))


def on_grid(times: Tensor, steps: int) -> Plan:
    """Groups positions by the step in which they are unmasked: t = 1, 1 - 1/T, ..., 1/T.

    A mask at t is lifted with probability 1/(T t): that is the probability that its own time,
    uniform on (0, t), falls into the step. The last step lifts all remaining masks.

    Args:
        times: (B, L), when each masked position is drawn; see `unmask_times`.
        steps: T, at least 1.
    """
    # A time just above 0 rounds up to T, which is not a step.
    group = ((1.0 - times) * steps).long().clamp(max=steps - 1)
    grid = 1.0 - torch.arange(steps, device=times.device, dtype=times.dtype) / steps
    return Plan(group, grid.expand(times.shape[0], -1))
