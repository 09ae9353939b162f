"""Training batches as a pure function of the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dnadiff.genome.windows import Drawn


class Batch(NamedTuple):
    """Windows of one step on one device.

    Attributes:
        tokens: (B, L) token ids.
        rows: (B,) their numbers within the run.
        step: which step of the run.
        weight: (B, L) what each base counts in the loss, or None where all count 1. Bounds are never weighted.
        label: (B,) the class of each window, or None.
    """

    tokens: Tensor
    rows: Tensor
    step: int
    weight: Tensor | None = None
    label: Tensor | None = None


class Steps(Dataset[Batch]):
    """The batches of a stretch of steps.

    Window number i of a run is the same whatever the number of devices, workers and interruptions: batch s takes the
    numbers s * B * world ... (s + 1) * B * world - 1, and device r every world-th of them. `draw` gives windows
    by their numbers.
    """

    def __init__(
        self,
        draw: Callable[[Tensor], Drawn],
        batch_size: int,
        first: int,
        count: int,
        *,
        rank: int,
        world: int,
    ) -> None:
        self.draw, self.batch_size, self.first, self.count = draw, batch_size, first, count
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Batch:
        if i >= self.count:
            raise IndexError(i)
        step = self.first + i
        index = torch.arange(self.rank, self.batch_size * self.world, self.world) + step * self.batch_size * self.world
        drawn = self.draw(index)
        return Batch(drawn.tokens, index, step, drawn.weight, drawn.label)
