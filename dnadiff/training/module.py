"""Defines the Lightning module: one optimiser step of an objective on a denoiser."""

from __future__ import annotations

import logging
import math
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.backbones.hyena import ImplicitFilter
from dnadiff.diffusion import Objective, conditioned
from dnadiff.errors import InputError
from dnadiff.rng import Stream, uniform
from dnadiff.training.batches import Batch
from dnadiff.training.budget import Budget, learning_rate
from dnadiff.training.recipe import Recipe

MAX_SKIPPED = 10
"""Steps in a row that may be skipped because their gradient is not finite."""

_UNCONDITIONAL = 0.1  # share of the rows that are unconditional in a run with labels
_logger = logging.getLogger("dnadiff")


class Pretraining(lightning.LightningModule):
    """Minimises `objective.loss`; the learning rate follows the budget.

    Attributes:
        latest: loss of the last batch, in nats per base.
        latest_bases: number of scorable bases in it.
        valid_nats: nats and bases of the valid batches since the last small bound.
        valid_bound: the last small bound, in nats per base.
        skipped: steps of the run that were skipped because their gradient was not finite.
        skipped_in_a_row: steps that were skipped since the last step that was taken.
    """

    def __init__(
        self, denoiser: LMDenoiser, objective: Objective, recipe: Recipe, budget: Budget
    ) -> None:
        super().__init__()
        self.denoiser, self.objective = denoiser, objective
        self.recipe, self.budget = recipe, budget
        self.latest = torch.tensor(torch.nan)
        self.latest_bases = torch.tensor(0)
        self.valid_nats: list[Tensor] = []
        self.valid_bound = math.nan
        self.skipped = self.skipped_in_a_row = 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss of one batch, in nats per base."""
        loss = self.objective.loss(
            conditioned(self.denoiser, self.shown_label(batch)),
            batch.tokens,
            seed=self.recipe.seed,
            step=batch.step,
            index=batch.rows,
            weight=batch.weight,
            total=batch.total,
        )
        self.latest = loss.nats_per_base
        self.latest_bases = self.objective.alphabet.scorable(batch.tokens).sum()
        return loss.value

    def shown_label(self, batch: Batch) -> Tensor | None:
        """Returns the classes (B,) on which the network is conditioned in training.

        A tenth of the rows is unconditional. So the network also learns the distribution of all
        classes together, which guidance needs (Ho and Salimans 2022).
        """
        if batch.label is None:
            return None
        chance = uniform(self.recipe.seed, Stream.LABEL, batch.rows, 1)[:, 0]
        # The number after the last class stands for no class.
        return batch.label.masked_fill(chance < _UNCONDITIONAL, len(self.denoiser.labels))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collects nats and bases of valid windows for the small bound."""
        # Bounds are conditional for all rows, as the final ones are.
        denoiser = conditioned(self.denoiser, batch.label)
        bound = self.objective.bound(
            denoiser, batch.tokens, draws=1, seed=self.recipe.seed, index=batch.rows
        )
        self.valid_nats.append(torch.stack([bound.nats.sum(), bound.bases.sum()]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns AdamW with the settings of Caduceus: betas (0.9, 0.95), decay of matrices."""
        decayed, free = decay_groups(self)
        groups = [
            {"params": decayed, "weight_decay": self.recipe.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.recipe.learning_rate, betas=(0.9, 0.95))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Sets the learning rate, the same on every device, or skips the step.

        Raises:
            InputError: after `MAX_SKIPPED` skipped steps in a row.
        """
        if self._is_finite(optimizer):
            self.skipped_in_a_row = 0
        else:
            self._skip(optimizer)
        elapsed = self.budget.elapsed
        if self.budget.max_seconds is not None:
            # Clocks differ slightly between devices, but their learning rates must not.
            elapsed = self.trainer.strategy.broadcast(elapsed)
        rate = learning_rate(
            self.budget.progress(self.global_step + 1, elapsed),
            peak=self.recipe.learning_rate,
            final=min(self.recipe.final_learning_rate, self.recipe.learning_rate),
            warmup=self.recipe.warmup,
            cooldown=self.recipe.cooldown,
        )
        for group in optimizer.param_groups:
            group["lr"] = rate

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the counts of skipped steps."""
        checkpoint["skipped"] = [self.skipped, self.skipped_in_a_row]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continues from a checkpoint of any step.

        Batches are a function of the step, so Lightning's own position in its loops is not needed.
        It would be right only at the end of an epoch.
        """
        self.skipped, self.skipped_in_a_row = checkpoint["skipped"]
        checkpoint.pop("loops", None)
        # Lightning reads the step from this counter, the only one that is needed.
        loop = self.trainer.fit_loop.epoch_loop.automatic_optimization
        total = loop.optim_progress.optimizer.step.total
        total.ready = total.completed = checkpoint["global_step"]

    def _is_finite(self, optimizer: torch.optim.Optimizer) -> bool:
        """Returns whether the loss and all gradients are finite on all devices."""
        gradients = [
            p.grad
            for group in optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        # One sum instead of a test of each gradient: it is finite only if all of them are.
        norms = torch.stack(torch._foreach_norm(gradients))
        finite = bool(torch.isfinite(norms.sum())) and bool(torch.isfinite(self.latest))
        return self.trainer.strategy.reduce_boolean_decision(finite, all=True)

    def _skip(self, optimizer: torch.optim.Optimizer) -> None:
        """Drops the gradients, so that the optimiser changes no weight in this step."""
        optimizer.zero_grad(set_to_none=True)
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row < MAX_SKIPPED:
            _logger.warning(
                "step %d: the loss or a gradient is not finite; the step is skipped",
                self.global_step + 1,
            )
            return
        raise InputError(
            f"the loss or a gradient was not finite in {MAX_SKIPPED} steps in a row, up to step "
            f"{self.global_step + 1:,}; none of them has changed a weight. Start again with a "
            f"lower learning_rate (it was {self.recipe.learning_rate:g})"
        )


def decay_groups(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Returns the parameters with weight decay, and those without.

    Matrices decay; vectors, embeddings, A_log and implicit filters do not.
    """
    # By identity: tied weights are one parameter under several names.
    exempt: set[int] = set()
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            exempt.add(id(part.weight))
        if isinstance(part, ImplicitFilter):
            exempt.update(id(p) for p in part.parameters())

    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        matrix = parameter.ndim > 1 and id(parameter) not in exempt and not name.endswith("A_log")
        (decayed if matrix else free).append(parameter)
    return decayed, free
