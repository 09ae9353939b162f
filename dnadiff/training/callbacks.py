"""Lightning callbacks: averaged weights, the clock, the log, the progress bar, checkpoints."""

from __future__ import annotations

import csv
import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, WeightAveraging
from torch import Tensor

from dnadiff.errors import InputError
from dnadiff.files import atomic_path
from dnadiff.progress import Display
from dnadiff.training.budget import Budget
from dnadiff.training.checkpoints import LAST, keep_best
from dnadiff.training.identity import check_same
from dnadiff.training.interruption import Interruption
from dnadiff.training.recipe import Recipe, seconds


class Ema(WeightAveraging):
    """Averages the weights: exponentially, with decay min(0.9999, (1 + n) / (10 + n)) at update n.

    The small bounds and the final model use the average.
    """

    def __init__(self) -> None:
        super().__init__(use_buffers=False, avg_fn=ema)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Replaces the weights by their average, also in a resumed run that takes no more steps."""
        # Lightning does this in `on_train_end`, which is not called if there are no steps left.
        self._copy_average_to_current(pl_module)


def ema(average: Tensor, current: Tensor, n: Tensor | int) -> Tensor:
    """Returns the average after an update, where n updates were made before."""
    decay = min(0.9999, (1.0 + float(n)) / (10.0 + float(n)))
    return torch.lerp(current.detach(), average, decay)


class Clock(Callback):
    """Runs the clock of the budget and ends training when the time is used up."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Starts the clock."""
        self.budget.start()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends training when the time is used up, on all devices together."""
        if self.budget.max_seconds is not None:
            trainer.should_stop |= trainer.strategy.broadcast(
                self.budget.elapsed >= self.budget.max_seconds
            )

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Stops the clock."""
        self.budget.pause()

    def state_dict(self) -> dict[str, Any]:
        """Returns the seconds of training so far, for a checkpoint."""
        return {"elapsed": self.budget.elapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from the seconds of a checkpoint."""
        self.budget.spent = float(state_dict["elapsed"])


METRICS = ("step", "bases_seen", "bases_per_second", "train_nats_per_base", "valid_nats_per_base")


class MetricsLog(Callback):
    """Appends rows to metrics.csv; a resumed run drops the rows after its checkpoint.

    Figures are means over all devices. The losses since the last row are kept in checkpoints, so
    that a resumed run writes the rows of an uninterrupted one.
    """

    def __init__(self, path: Path, recipe: Recipe, budget: Budget) -> None:
        self.path, self.recipe, self.budget = path, recipe, budget
        self._losses: list[Tensor] = []  # (nats, bases) of each batch since the last row

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Writes the heading, and again the rows up to the current step."""
        if not trainer.is_global_zero:
            return
        rows = list(csv.reader(self.path.read_text().splitlines())) if self.path.exists() else []
        kept = []
        for row in rows[1:]:
            # A row that a killed process left unfinished is after the checkpoint in any case.
            if len(row) == len(METRICS) and int(row[0]) <= trainer.global_step:
                kept.append(row)
        with atomic_path(self.path) as temporary, temporary.open("w", newline="") as file:
            csv.writer(file).writerows([METRICS, *kept])

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes a row every `log_every` steps, with the mean training loss since the last."""
        bases = pl_module.latest_bases
        self._losses.append(torch.stack([pl_module.latest.double() * bases, bases.double()]))
        step_ends = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not step_ends or trainer.global_step % self.recipe.log_every:
            return
        # Nats and bases are added up apart: with N, micro-batches and devices have unequal numbers
        # of bases, and the mean of their ratios is not the ratio of one large batch.
        total = torch.stack(self._losses).sum(0)
        self._losses.clear()
        # Every device logs at the same steps, so all take part in the reduction.
        nats, bases = trainer.strategy.reduce(total, reduce_op="sum").tolist()
        self._write(trainer, trainer.global_step, f"{nats / bases:.5f}", "")

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Writes a row with the small bound on valid windows, and passes it to the module."""
        total = torch.stack(pl_module.valid_nats).sum(0)
        pl_module.valid_nats.clear()
        nats, bases = trainer.strategy.reduce(total, reduce_op="sum").tolist()
        pl_module.valid_bound = nats / bases
        self._write(trainer, trainer.global_step, "", f"{pl_module.valid_bound:.5f}")

    def state_dict(self) -> dict[str, Any]:
        """Returns the losses since the last row, for a checkpoint."""
        return {"losses": [loss.tolist() for loss in self._losses]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from the losses of a checkpoint."""
        self._losses = [torch.tensor(loss, dtype=torch.float64) for loss in state_dict["losses"]]

    def _write(self, trainer: Any, step: int, train: str, valid: str) -> None:
        """Appends a row; step 0 has none."""
        if not trainer.is_global_zero or not step:
            return
        seen = step * self.recipe.bases_per_step(trainer.world_size)
        speed = seen / max(self.budget.elapsed, 1e-9)
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([step, seen, f"{speed:.0f}", train, valid])


class Bar(Callback):
    """Shows the progress of training on stderr: steps, bases per second, loss and time left."""

    def __init__(self, recipe: Recipe, budget: Budget, *, quiet: bool) -> None:
        self.recipe, self.budget = recipe, budget
        self.display = Display(quiet=quiet)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar."""
        if not trainer.is_global_zero:
            return
        # The time of earlier processes of this run counts, and so do their steps.
        done = self.budget.progress(trainer.global_step)
        elapsed = self.budget.elapsed
        seen = trainer.global_step * self.recipe.bases_per_step(trainer.world_size)
        self.display.move(
            "pretrain",
            trainer.global_step,
            self.recipe.max_steps or 0,
            unit=" bases",
            note=f"{pl_module.latest.item():.3f} nats/base",
            share=done,
            rate=seen / max(elapsed, 1e-9),
            left=elapsed * (1 - done) / max(done, 1e-9),
        )

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Removes the bar."""
        self.display.stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Removes the bar, so that the error is readable."""
        self.display.stop()


class Checkpoints(Checkpoint):
    """Writes checkpoints: after each small bound, by the clock, and when a signal ends the run.

    All devices agree on each of these. Lightning calls this callback after all others, so that
    their state is that after the step.

    Args:
        folder: where to write.
        recipe: of the run.
        identity: of the run; it is kept in each checkpoint.
        interruption: notes the signals.
    """

    def __init__(
        self, folder: Path, recipe: Recipe, identity: dict[str, Any], interruption: Interruption
    ) -> None:
        self.folder, self.recipe, self.interruption = folder, recipe, interruption
        self.identity = identity
        self.best = math.inf
        self._interval = (
            math.inf if recipe.checkpoint_time is None else seconds(recipe.checkpoint_time)
        )
        self._written = 0.0  # when the last checkpoint was written, by the monotonic clock

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Checks that all devices train the same, and notes signals from here on.

        Raises:
            InputError: if one of several devices has other data, settings or another step.
        """
        if trainer.world_size > 1:
            self._check_agreement(trainer)
        self._written = time.monotonic()
        # Lightning has set its own handlers by now. They start collective operations at arbitrary
        # moments, which can make several devices wait for each other for ever.
        self.interruption.handle()
        self.interruption.deferred = True

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes a checkpoint after a step if the time has come, or if the run is to end."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        due = time.monotonic() - self._written >= self._interval
        ends, due = self._any(trainer, self.interruption.signum is not None, due)
        step = trainer.global_step
        # After these steps a small bound follows, and then a checkpoint. If the run stopped before
        # it, the resumed run would not compute that bound and so would differ.
        bound_follows = (
            step % self.recipe.checkpoint_every == 0
            or step == self.recipe.max_steps
            or trainer.should_stop
        )
        if (ends or due) and not bound_follows:
            self._save(trainer)
            if ends:
                raise self.interruption.ends(step)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Writes a checkpoint after a small bound."""
        better = pl_module.valid_bound < self.best
        self.best = min(self.best, pl_module.valid_bound)
        self._save(trainer)
        if better and trainer.is_global_zero:
            keep_best(self.folder)
        (ends,) = self._any(trainer, self.interruption.signum is not None)
        if ends:
            raise self.interruption.ends(trainer.global_step)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Lets signals end the run at once again."""
        self.interruption.deferred = False

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Lets signals end the run at once again."""
        self.interruption.deferred = False

    def state_dict(self) -> dict[str, Any]:
        """Returns the best small bound so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from the best small bound of a checkpoint."""
        self.best = state_dict["best"]

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Adds the identity of the run: its settings and the digests of its data."""
        checkpoint["run"] = self.identity | {"devices": trainer.world_size}

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Checks the number of devices, which the size of a step depends on.

        Raises:
            InputError: if it is another one.
        """
        before = checkpoint["run"]["devices"]
        if before != trainer.world_size:
            raise InputError(
                f"{self.folder.parent}: cannot be resumed: it was trained on {before} devices, and "
                f"there are {trainer.world_size} now; give it as many"
            )

    def _check_agreement(self, trainer: Any) -> None:
        """Compares the run of this process with that of the first one."""
        step, identity = trainer.strategy.broadcast((trainer.global_step, self.identity))
        check_same(identity, self.identity, self.folder.parent)
        if step != trainer.global_step:
            raise InputError(
                f"{self.folder.parent}: process {trainer.global_rank} is at step "
                f"{trainer.global_step:,} and the first one at {step:,}: all need the same folder"
            )

    def _save(self, trainer: Any) -> None:
        """Writes a checkpoint, unless a weight is not finite."""
        # Gradients that are not finite are never applied, but a step can still overflow a weight.
        if not all(bool(p.isfinite().all()) for p in trainer.lightning_module.parameters()):
            raise InputError(
                f"a weight is not finite at step {trainer.global_step:,}: lower learning_rate (it "
                f"was {self.recipe.learning_rate:g}) and start again"
            )
        trainer.save_checkpoint(self.folder / LAST)
        self._written = time.monotonic()

    def _any(self, trainer: Any, *flags: bool) -> list[bool]:
        """Returns each flag as set if any device has set it."""
        if trainer.world_size == 1:
            return list(flags)
        counts = torch.tensor(flags, dtype=torch.float32, device=trainer.strategy.root_device)
        return (trainer.strategy.reduce(counts, reduce_op="sum") > 0).tolist()
