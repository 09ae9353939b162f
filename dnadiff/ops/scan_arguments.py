"""The arguments of a selective scan, in the form that every backend takes."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class ScanArguments(NamedTuple):
    """The arguments of `dnadiff.ops.selective_scan_fn`; see there for each of them."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None = None
    z: Tensor | None = None
    delta_bias: Tensor | None = None
    delta_softplus: bool = False
    reverse: bool = False

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """The tensors among the arguments."""
        return self[:-2]  # all but the two switches

    def grouped(self) -> tuple[Tensor, Tensor]:
        """Returns B and C as (batch, G, N, L) with the same number of groups G.

        Both must vary along the sequence.
        """
        B, C = (t[:, None] if t.dim() == 3 else t for t in (self.B, self.C))
        # Groups of either divide the channels, so a number that both divide does as well.
        groups = math.lcm(B.shape[1], C.shape[1])
        return _repeat_groups(B, groups), _repeat_groups(C, groups)


def _repeat_groups(coefficients: Tensor, groups: int) -> Tensor:
    """Returns (batch, G, N, L) coefficients with every group repeated, to `groups` in all."""
    given = coefficients.shape[1]
    if given == groups:
        return coefficients
    return coefficients.repeat_interleave(groups // given, 1)
