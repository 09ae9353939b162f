"""Ends a run on SIGINT, SIGTERM and SLURM's SIGUSR1, with a checkpoint while it trains."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from dnadiff.errors import Interrupted
from dnadiff.training.checkpoints import LAST


class Interruption:
    """Handles signals inside a ``with`` block; restores the handlers that were there after it.

    During training steps a signal is only recorded, and the run ends after the step with a
    checkpoint. At all other times, and at the second signal, it ends at once with `Interrupted`.

    Attributes:
        signum: the signal that was recorded, or None.
        deferred: whether signals are only recorded.
    """

    def __init__(self, run: Path) -> None:
        self.signum: int | None = None
        self.deferred = False
        self._run = run
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        # Python lets only the main thread set handlers; in other threads the existing ones stay.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in _signals()}
            self.handle()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def handle(self) -> None:
        """Sets the handlers again, where Lightning has set its own in between."""
        for number in self._before:
            signal.signal(number, self._on_signal)

    def ends(self, step: int | None = None) -> Interrupted:
        """Returns the exception that ends the run.

        Args:
            step: of the checkpoint that was just written.
        """
        signum = self.signum or signal.SIGINT
        name = signal.Signals(signum).name
        what = f"{self._run}: interrupted by {name}"
        if step is not None:
            what += f" after step {step:,}, of which there is a checkpoint"
        if (self._run / "checkpoints" / LAST).is_file():
            what += f"; go on with: dnadiff pretrain --resume {self._run}"
        else:
            what += " before its first checkpoint; start it again"
        return Interrupted(what, 128 + signum)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        """Records a signal, or raises."""
        # A user who presses Ctrl-C twice does not want to wait for the step to end.
        second = self.signum is not None
        self.signum = signum
        if not self.deferred or second:
            raise self.ends()


def _signals() -> tuple[int, ...]:
    """Returns the signals that end a run; SLURM sends SIGUSR1 ahead of its time limit if asked."""
    # Outside SLURM, SIGUSR1 keeps the meaning that the user's own program gives to it.
    usual = (signal.SIGINT, signal.SIGTERM)
    return (*usual, signal.SIGUSR1) if "SLURM_JOB_ID" in os.environ else usual
