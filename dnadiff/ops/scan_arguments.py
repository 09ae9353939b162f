"""What a selective scan is given, as every backend takes it."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class ScanArguments(NamedTuple):
    """The arguments of `dnadiff.ops.selective_scan_fn`, which says what each of them is."""

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
        """All but the two switches."""
        return self[:-2]

    def grouped(self) -> tuple[Tensor, Tensor]:
        """B and C, which must vary along the sequence, as (batch, G, N, L) with as many groups each."""
        B, C = (t[:, None] if t.dim() == 3 else t for t in (self.B, self.C))
        groups = math.lcm(B.shape[1], C.shape[1])
        B, C = (
            t if t.shape[1] == groups else t.repeat_interleave(groups // t.shape[1], 1)
            for t in (B, C)
        )
        return B, C
