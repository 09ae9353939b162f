"""Ancestral sampling of masked diffusion on a grid of time steps (MDLM, Sahoo et al. 2024, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from dnadiff.sampling.reveal import Plan, reveal, unmask_times
from dnadiff.sampling.state import SamplingState


def ancestral(state: SamplingState, steps: int) -> Tensor:
    """Letters that fall into one step are drawn independently, which is an error of order 1/T. Returns tokens (B, L).

    Of n free letters, T (1 - (1 - 1/T)^n) steps lift at least one on average, and the network is called for no others.

    Args:
        request: what to draw.
        steps: T, at least 1.
    """
    return reveal(state, on_grid(unmask_times(state), steps))


def on_grid(times: Tensor, steps: int) -> Plan:
    """Groups letters by the step that they fall into, on the grid t = 1, 1 - 1/T, ..., 1/T.

    A mask at t is lifted with probability 1/(T t), that is, if its own time, uniform on (0, 1), falls into the step.
    The last step lifts whatever is left.

    Args:
        times: (B, L), when each hidden letter is due; see `unmask_times`.
        steps: T, at least 1.
    """
    group = ((1.0 - times) * steps).long().clamp(max=steps - 1)
    grid = 1.0 - torch.arange(steps, device=times.device, dtype=times.dtype) / steps
    return Plan(group, grid.expand(times.shape[0], -1))
