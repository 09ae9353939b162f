"""The Lightning module: one optimiser step of an objective on a denoiser."""

from __future__ import annotations

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

_UNTOLD = 0.1  # of the rows of a run with labels


class Pretraining(lightning.LightningModule):
    """Minimises `objective.loss`; the learning rate follows the budget."""

    def __init__(
        self, denoiser: LMDenoiser, objective: Objective, recipe: Recipe, budget: Budget
    ) -> None:
        super().__init__()
        self.denoiser, self.objective = denoiser, objective
        self.recipe, self.budget = recipe, budget
        self.latest = torch.tensor(torch.nan)
        self.train_nats: list[Tensor] = []
        self.valid_nats: list[Tensor] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch, in nats per base."""
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
        self.train_nats.append(self.latest)
        return loss.value

    def shown_label(self, batch: Batch) -> Tensor | None:
        """The classes (B,) that the network is told in training, of a tenth of the rows none.

        So it also learns the law of all classes together, which guidance needs (Ho and Salimans 2022).
        """
        if batch.label is None:
            return None
        untold = uniform(self.recipe.seed, Stream.LABEL, batch.rows, 1)[:, 0] < _UNTOLD
        return batch.label.masked_fill(untold, len(self.denoiser.labels))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Nats and bases of valid windows, gathered for the log."""
        denoiser = conditioned(self.denoiser, batch.label)
        bound = self.objective.bound(
            denoiser, batch.tokens, draws=1, seed=self.recipe.seed, index=batch.rows
        )
        self.valid_nats.append(torch.stack([bound.nats.sum(), bound.bases.sum()]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW as Caduceus was trained: betas (0.9, 0.95), weight decay on matrices only."""
        decayed, free = decay_groups(self)
        groups = [
            {"params": decayed, "weight_decay": self.recipe.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.recipe.learning_rate, betas=(0.9, 0.95))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Sets the learning rate, the same on every device; ends a run whose loss is no longer a number."""
        if not torch.isfinite(self.latest):
            raise InputError(
                f"the loss is {self.latest.item()} at step {self.global_step}: lower --learning-rate"
                f" (it was {self.recipe.learning_rate:g}); the last checkpoint is sound"
            )
        elapsed = self.budget.elapsed
        if self.budget.max_seconds is not None:
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


def decay_groups(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters with weight decay (matrices), and without (vectors, embeddings, A_log, implicit filters)."""
    exempt = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    exempt |= {
        id(p) for m in module.modules() if isinstance(m, ImplicitFilter) for p in m.parameters()
    }
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        matrix = parameter.ndim > 1 and id(parameter) not in exempt and not name.endswith("A_log")
        (decayed if matrix else free).append(parameter)
    return decayed, free
