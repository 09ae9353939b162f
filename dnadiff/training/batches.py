"""Makes training batches, as a pure function of the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dnadiff.alphabet import DNA
from dnadiff.genome.windows import Drawn


class Batch(NamedTuple):
    """Windows of one step on one device.

    Attributes:
        tokens: (B, L) token ids.
        rows: (B,) their numbers within the run.
        step: which optimiser step of the run.
        weight: (B, L) weight of each base in the loss, or None if all are 1. Bounds are never
            weighted.
        label: (B,) the class of each window, or None.
        total: divisor of the loss of these windows: the weighted number of scorable bases of a
            micro-batch, averaged over all micro-batches of the step on all devices. None for the
            number of bases of these windows.
    """

    tokens: Tensor
    rows: Tensor
    step: int
    weight: Tensor | None = None
    label: Tensor | None = None
    total: float | None = None


class Steps(Dataset[Batch]):
    """The micro-batches of a number of optimiser steps, for one device.

    Window number i of a run does not depend on the number of devices, workers or interruptions.
    Step s takes the windows s * G ... (s + 1) * G - 1, where G = batch_size * accumulate * world.
    Each micro-batch takes batch_size * world of them in order, and device r every world-th of
    those, starting with number r.

    Every device draws all windows of a step, because the loss is divided by the bases of all of
    them. So a step does not depend on how it is split. This takes little time compared with the
    network.

    Args:
        draw: returns windows by their numbers.
        batch_size: windows of a micro-batch on each device.
        first: number of the first step.
        count: how many steps.
        accumulate: micro-batches of a step.
        rank: number of this device.
        world: number of devices.
    """

    def __init__(
        self,
        draw: Callable[[Tensor], Drawn],
        batch_size: int,
        first: int,
        count: int,
        *,
        accumulate: int = 1,
        rank: int,
        world: int,
    ) -> None:
        self.draw, self.batch_size, self.first, self.count = draw, batch_size, first, count
        self.accumulate, self.rank, self.world = accumulate, rank, world
        self._latest: tuple[int, Drawn] | None = None

    def __len__(self) -> int:
        return self.count * self.accumulate

    def __getitem__(self, i: int) -> Batch:
        # Iteration by index, as in a for loop, ends at this error.
        if i >= len(self):
            raise IndexError(i)
        step, part = self.first + i // self.accumulate, i % self.accumulate
        drawn = self._drawn(step)
        across = self.batch_size * self.world
        # The mask rates of consecutive rows are spread evenly. Assigning rows to the devices in
        # turn gives every device the same spread.
        mine = torch.arange(part * across + self.rank, (part + 1) * across, self.world)
        weight = None if drawn.weight is None else drawn.weight[mine]
        label = None if drawn.label is None else drawn.label[mine]
        rows = mine + step * across * self.accumulate
        return Batch(drawn.tokens[mine], rows, step, weight, label, self._total(drawn))

    def _drawn(self, step: int) -> Drawn:
        """Returns all windows of a step; they are kept for its next micro-batches."""
        if self._latest is None or self._latest[0] != step:
            size = self.batch_size * self.world * self.accumulate
            self._latest = step, self.draw(torch.arange(size) + step * size)
        return self._latest[1]

    def _total(self, drawn: Drawn) -> float:
        """Returns the weighted scorable bases of a micro-batch, on average over those of a step."""
        counted = DNA.scorable(drawn.tokens)
        if drawn.weight is not None:
            counted = counted * drawn.weight
        # In float32 a sum of weights over 2^20 bases would be rounded.
        total = counted.sum(dtype=torch.float64)
        return float(total) / (self.accumulate * self.world)
