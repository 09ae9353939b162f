"""What happens around the steps: averaging of weights, the clock, the log and the progress bar."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from torch import Tensor

from dnadiff.training.budget import Budget
from dnadiff.training.recipe import Recipe


class Ema(WeightAveraging):
    """Exponential moving average of the weights with decay min(0.9999, (1 + n) / (10 + n)) at update n."""

    def __init__(self) -> None:
        super().__init__(use_buffers=False, avg_fn=ema)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Ends with the average, also where a run resumes behind its last step and so never ends training."""
        self._copy_average_to_current(pl_module)


def ema(average: Tensor, current: Tensor, n: Tensor | int) -> Tensor:
    """One update of a moving average whose memory grows with the number n of updates before it."""
    decay = min(0.9999, (1.0 + float(n)) / (10.0 + float(n)))
    return torch.lerp(current.detach(), average, decay)


class Clock(Callback):
    """Runs the budget's clock and ends training when it is spent; kept in checkpoints."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Starts the clock."""
        self.budget.start()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends training once the time is over, on all devices together."""
        if self.budget.max_seconds is not None:
            trainer.should_stop |= trainer.strategy.broadcast(
                self.budget.elapsed >= self.budget.max_seconds
            )

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Stops the clock."""
        self.budget.pause()

    def state_dict(self) -> dict[str, Any]:
        """Seconds spent."""
        return {"elapsed": self.budget.elapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from the seconds spent."""
        self.budget.spent = float(state_dict["elapsed"])


METRICS = ("step", "bases_seen", "bases_per_second", "train_nats_per_base", "valid_nats_per_base")


class MetricsLog(Callback):
    """Appends rows to metrics.csv; on resuming, rows after the checkpoint are dropped."""

    def __init__(self, path: Path, recipe: Recipe, budget: Budget) -> None:
        self.path, self.recipe, self.budget = path, recipe, budget

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Writes the heading, or drops what a resumed run will write again."""
        if not trainer.is_global_zero:
            return
        rows = list(csv.reader(self.path.read_text().splitlines())) if self.path.exists() else []
        kept = [
            row
            for row in rows[1:]
            if len(row) == len(METRICS) and int(row[0]) <= trainer.global_step
        ]
        with self.path.open("w", newline="") as file:
            csv.writer(file).writerows([METRICS, *kept])

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A row every so many steps, with the mean training loss since the last."""
        step = trainer.global_step
        if (
            step % self.recipe.log_every == 0
            and pl_module.train_nats
            and (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        ):
            self._write(trainer, step, f"{torch.stack(pl_module.train_nats).mean().item():.5f}", "")
            pl_module.train_nats.clear()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Begins a new mean after each checkpoint, so that a resumed run logs the same rows."""
        pl_module.train_nats.clear()

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """A row with the small bound on valid windows."""
        if pl_module.valid_nats:
            nats, bases = torch.stack(pl_module.valid_nats).sum(0).tolist()
            pl_module.valid_nats.clear()
            self._write(trainer, trainer.global_step, "", f"{nats / bases:.5f}")

    def _write(self, trainer: Any, step: int, train: str, valid: str) -> None:
        if not trainer.is_global_zero or not step:
            return
        seen = step * self.recipe.bases_per_step(trainer.world_size)
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(
                [step, seen, f"{seen / max(self.budget.elapsed, 1e-9):.0f}", train, valid]
            )


class Bar(Callback):
    """A progress bar on stderr with bases per second and the time left; silent where stderr is no terminal."""

    def __init__(self, recipe: Recipe, budget: Budget, *, quiet: bool) -> None:
        self.recipe, self.budget = recipe, budget
        self.progress = Progress(
            TextColumn("pretrain"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TextColumn("step {task.fields[step]}"),
            TextColumn("{task.fields[nats]} nats/base"),
            TextColumn("{task.fields[rate]} bases/s"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]} left"),
            console=Console(stderr=True),
            disable=quiet or not sys.stderr.isatty(),
        )
        self.task: TaskID | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Shows the bar."""
        if trainer.is_global_zero:
            self.progress.start()
            self.task = self.progress.add_task("", total=1.0, step=0, nats="-", rate="-", left="-")

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar."""
        if self.task is None:
            return
        done = self.budget.progress(trainer.global_step)
        elapsed = self.budget.elapsed
        seen = trainer.global_step * self.recipe.bases_per_step(trainer.world_size)
        left = elapsed * (1 - done) / max(done, 1e-9)
        self.progress.update(
            self.task,
            completed=done,
            step=trainer.global_step,
            rate=f"{seen / max(elapsed, 1e-9):,.0f}",
            left=f"{int(left // 60)}:{int(left % 60):02d}",
            nats=f"{pl_module.latest.item():.3f}",
        )

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Takes the bar away."""
        self.progress.stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Takes the bar away, so that the error is readable."""
        self.progress.stop()
