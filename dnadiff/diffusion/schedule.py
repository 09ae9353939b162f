"""Noise schedules: how the mask rate, 1 - alpha, rises from 0 as time runs from 0 to 1.

The bound of masked diffusion in continuous time is the same for every schedule from no mask to all masks (MDLM,
Sahoo et al. 2024, section 3.4); with finitely many steps, and for the variance of an estimator that draws the time
uniformly, the schedule matters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

ScheduleName = Literal["log-linear", "cosine", "cosine-squared", "linear"]

_SIGMA_MAX = 10.0


class Schedule(NamedTuple):
    """A noise schedule, in float64.

    Attributes:
        rate: time (...) to mask rate u = 1 - alpha (...).
        slope: time (...) to du/dt (...).
        left: alpha at time 1, the share of letters that the last step leaves visible. Where it is not 0, a bound needs
            a prior term: with the prior `left` uniform letters, masks otherwise, it is `left` log K nats a base.
    """

    rate: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    left: float = 0.0


SCHEDULES: dict[str, Schedule] = {
    "log-linear": Schedule(lambda t: t, torch.ones_like),
    "cosine": Schedule(
        lambda t: torch.sin(math.pi / 2 * t), lambda t: math.pi / 2 * torch.cos(math.pi / 2 * t)
    ),
    "cosine-squared": Schedule(
        lambda t: torch.sin(math.pi / 2 * t).square(),
        lambda t: math.pi / 2 * torch.sin(math.pi * t),
    ),
    "linear": Schedule(
        lambda t: -torch.expm1(-_SIGMA_MAX * t),
        lambda t: _SIGMA_MAX * torch.exp(-_SIGMA_MAX * t),
        math.exp(-_SIGMA_MAX),
    ),
}
"""By the paper's names; `linear` is linear in sigma = -log(alpha)."""
