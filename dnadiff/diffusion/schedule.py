"""Noise schedules: the mask rate 1 - alpha as a function of time, from 0 to 1.

In continuous time the bound of masked diffusion is the same for every schedule from no mask to all
masks (MDLM, Sahoo et al. 2024, section 3.4). The schedule matters for the bound with finitely many
steps, and for the variance of an estimator that draws time uniformly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

ScheduleName = Literal["log-linear", "cosine", "cosine-squared", "linear"]

_SIGMA_MAX = 10.0  # -log(alpha) at time 1 of the schedule "linear"


class Schedule(NamedTuple):
    """A noise schedule, in float64.

    Attributes:
        rate: returns the mask rate u = 1 - alpha (...) at times (...).
        slope: returns the derivative du/dt (...) at times (...).
        left: alpha at time 1, the share of the bases that are still visible then. If it is not 0,
            the bound needs a prior term. With a prior that is a uniform base with probability
            `left` and a mask otherwise, the term is `left` log K nats per base.
    """

    rate: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    left: float = 0.0


SCHEDULES: dict[str, Schedule] = {
    "log-linear": Schedule(lambda t: t, torch.ones_like),
    "cosine": Schedule(
        lambda t: torch.sin(math.pi / 2 * t),
        lambda t: math.pi / 2 * torch.cos(math.pi / 2 * t),
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
"""Schedules by the paper's names; "linear" is linear in sigma = -log(alpha)."""
