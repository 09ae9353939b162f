"""Ancestral sampling of masked diffusion on a grid of time steps (MDLM, Sahoo et al. 2024, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from dnadiff.sampling.reveal import Plan


def ancestral(times: Tensor, steps: int) -> Plan:
    """At most `steps` calls for each unit of time; letters that fall into one step are drawn independently.

    On the grid t = 1, 1 - 1/T, ..., 1/T a mask at t is lifted with probability 1/(T t), that is, if its own time,
    uniform on (0, 1), falls into the step. The last step lifts whatever is left. The error is of order 1/T.

    Args:
        times: (B, L), when each hidden letter is due; see `unmask_times`.
        steps: T, at least 1.
    """
    start = int(times.max().clamp(min=0.0).item()) + 1
    group = ((start - times) * steps).long().clamp(max=start * steps - 1)
    grid = start - torch.arange(start * steps, device=times.device, dtype=times.dtype) / steps
    return Plan(group, grid.expand(times.shape[0], -1))
