"""Runs the optimiser steps of a run with Lightning, on one device or several."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from torch.utils.data import DataLoader

from dnadiff.ops.precision import prefers_bf16
from dnadiff.training.batches import Batch, Steps
from dnadiff.training.callbacks import Bar, Checkpoints, Clock, Ema, MetricsLog
from dnadiff.training.checkpoints import SealedCheckpoints
from dnadiff.training.data import Data, classes_of
from dnadiff.training.interruption import Interruption
from dnadiff.training.module import Pretraining
from dnadiff.training.recipe import Recipe

_WATCHED = 64  # valid windows of the small bound at each checkpoint

# Warnings of Lightning about choices that are intended here.
_ON_PURPOSE = (
    ".*does not have many workers.*",
    ".*The number of training batches.*smaller than the logging interval.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ".*GPU available but not used.*",
    ".*reload_dataloaders_every_n_epochs.*",
    "Grad strides do not match bucket view strides.*",  # of convolutions, on several devices
    ".*Total length of `\\w+` across ranks is zero.*",  # resumed after the last step
)


def fit(
    module: Pretraining,
    data: Data,
    folder: Path,
    checkpoint: Path | None,
    identity: dict[str, Any],
    interruption: Interruption,
    *,
    quiet: bool,
) -> lightning.Trainer:
    """Trains until the budget is spent.

    Args:
        module: changed in place; it ends with the averaged weights.
        data: of the run.
        folder: of the run.
        checkpoint: to resume from, or None.
        identity: of the run, kept in its checkpoints.
        interruption: records the signals that may end the run.
        quiet: no progress bar.

    Returns:
        The trainer, which has ended.

    Raises:
        InputError: if the loss stays non-finite, or a checkpoint cannot be written.
        Interrupted: after a signal.
    """
    recipe, budget = module.recipe, module.budget
    gpu = torch.cuda.is_available()
    with _lightning_quiet():
        trainer = lightning.Trainer(
            accelerator="auto" if gpu else "cpu",
            devices=recipe.devices if gpu or recipe.devices != "auto" else _launched_devices(),
            num_nodes=recipe.num_nodes,
            precision=identity["precision"],
            max_steps=-1 if recipe.max_steps is None else recipe.max_steps,
            # Steps or the clock end a run, not epochs. Each epoch has its own steps, so its own
            # loader.
            max_epochs=-1,
            reload_dataloaders_every_n_epochs=1,
            gradient_clip_val=recipe.clip,
            accumulate_grad_batches=recipe.accumulate,
            # `Steps` gives each device its windows.
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            # The order matters: what is logged and saved is the state after averaging.
            callbacks=[
                Ema(),
                Clock(budget),
                MetricsLog(folder / "metrics.csv", recipe, budget),
                Bar(recipe, budget, quiet=quiet),
                Checkpoints(folder / "checkpoints", recipe, identity, interruption),
            ],
            plugins=[SealedCheckpoints()],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(
            module, datamodule=_Loaders(module, data), ckpt_path=checkpoint, weights_only=True
        )
    return trainer


def rank_of_this_process(recipe: Recipe) -> int:
    """Returns the number of this process among those that train together, before Lightning starts.

    torchrun sets RANK. Lightning's own launcher starts the command again for each further device,
    with LOCAL_RANK and NODE_RANK; srun starts it for all, with SLURM_PROCID.
    """
    environment = os.environ
    if "RANK" in environment:
        return int(environment["RANK"])
    if "LOCAL_RANK" in environment:
        per_node = recipe.devices if isinstance(recipe.devices, int) else 1
        node = int(environment.get("NODE_RANK", "0"))
        return node * per_node + int(environment["LOCAL_RANK"])
    if recipe.num_nodes > 1 or recipe.devices not in (1, "auto"):
        return int(environment.get("SLURM_PROCID", "0"))
    return 0


def precision_of(recipe: Recipe) -> Literal["32-true", "bf16-mixed"]:
    """Returns the precision of a new run; that of a resumed one is in its checkpoint."""
    if recipe.precision != "auto":
        return recipe.precision
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return "bf16-mixed" if prefers_bf16(device, d_model=recipe.d_model) else "32-true"


def _launched_devices() -> int:
    """Returns how many processes torchrun has started on this machine; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


class _Loaders(lightning.LightningDataModule):
    """Gives Lightning the batches, in epochs that end where a small bound is due.

    The epochs end at multiples of `checkpoint_every`. This also holds for a run that was resumed
    between two of them, so a resumed run does the same as an uninterrupted one.
    """

    def __init__(self, module: Pretraining, data: Data) -> None:
        super().__init__()
        self.recipe, self.data = module.recipe, data

    def train_dataloader(self) -> DataLoader[Batch]:
        """Returns the batches up to the next small bound."""
        recipe, trainer = self.recipe, self.trainer
        assert trainer is not None
        # A run that was resumed between two small bounds begins with a shorter epoch.
        first = trainer.global_step
        count = recipe.checkpoint_every - first % recipe.checkpoint_every
        if recipe.max_steps is not None:
            count = min(count, recipe.max_steps - first)
        steps = Steps(
            self.data.train.draw,
            recipe.batch_size,
            first,
            count,
            accumulate=recipe.accumulate,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )
        return DataLoader(steps, batch_size=None)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Returns this device's share of the first valid windows, in batches."""
        valid, trainer = self.data.held_out["valid"], self.trainer
        assert trainer is not None
        rows = torch.arange(min(_WATCHED, valid.windows))
        # With fewer windows than devices each takes all of them, which gives the same mean.
        if len(rows) >= trainer.world_size:
            rows = rows[trainer.global_rank :: trainer.world_size]
        batches = [
            Batch(valid.tokens(chunk), chunk, 0, label=classes_of(valid, chunk))
            for chunk in rows.split(self.recipe.batch_size)
        ]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


@contextmanager
def _lightning_quiet() -> Iterator[None]:
    """Silences Lightning's log and its warnings about intended choices."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for remark in _ON_PURPOSE:
                warnings.filterwarnings("ignore", message=remark)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
