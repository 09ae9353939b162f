"""Measures the progress of a run, in steps or in time, and sets the learning rate by it."""

from __future__ import annotations

import math
import time


class Budget:
    """The end of a run, in steps, in seconds of training, or both.

    Time counts across interruptions. If only steps end a run, progress is a function of the step
    alone, and a resumed run repeats an uninterrupted one bit for bit.

    Attributes:
        max_steps: number of steps, or None.
        max_seconds: seconds of training, or None.
        spent: seconds of training before the clock was last started.
    """

    def __init__(self, max_steps: int | None, max_seconds: float | None) -> None:
        if max_steps is None and max_seconds is None:
            raise ValueError("a budget needs steps or seconds")
        self.max_steps, self.max_seconds = max_steps, max_seconds
        self.spent = 0.0
        self._started: float | None = None

    def start(self) -> None:
        """Starts the clock, or continues it."""
        # Not the time of day: if that were corrected, the run would end too early or too late.
        self._started = time.monotonic()

    def pause(self) -> None:
        """Stops the clock."""
        self.spent, self._started = self.elapsed, None

    @property
    def elapsed(self) -> float:
        """Seconds of training so far."""
        return self.spent + (0.0 if self._started is None else time.monotonic() - self._started)

    def progress(self, step: int, elapsed: float | None = None) -> float:
        """Returns the share of the run that is done, in [0, 1]; the larger of steps and time."""
        in_steps = 0.0 if self.max_steps is None else step / self.max_steps
        in_time = 0.0
        if self.max_seconds is not None:
            in_time = (self.elapsed if elapsed is None else elapsed) / self.max_seconds
        return min(1.0, max(in_steps, in_time))


def learning_rate(
    progress: float, *, peak: float, final: float, warmup: float, cooldown: float | None = None
) -> float:
    """Returns the learning rate at a progress in [0, 1].

    It rises linearly to `peak` over the first `warmup` of the run, and then follows a cosine down
    to `final`. With a `cooldown` it stays at `peak` instead, and falls linearly to `final` over
    this last share of the run. Before the fall the rate does not depend on when the run ends, so
    the end can still be changed.
    """
    if progress < warmup:
        return peak * progress / warmup
    if cooldown is not None:
        return final + (peak - final) * min(1.0, (1.0 - progress) / cooldown)
    # The cosine spans the rest of the run after the warm-up.
    along = (progress - warmup) / (1.0 - warmup)
    return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * along))
