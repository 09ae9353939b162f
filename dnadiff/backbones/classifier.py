"""Caduceus with a classification head, as published fine-tunes have it (CaduceusForSequenceClassification)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusMixer
from dnadiff.backbones.hub import local_folder
from dnadiff.backbones.published import load_weights, read_config
from dnadiff.backbones.weights import find_weights, read_tensors
from dnadiff.errors import InputError
from dnadiff.files import read_json


class CaduceusClassifier(nn.Module):
    """A linear head, without bias, on hidden states pooled over positions.

    Attributes:
        labels: the name of each class.
        pooling: over all positions, padding and special tokens included, as the published code pools.
    """

    def __init__(
        self, config: CaduceusConfig, labels: list[str], pooling: Literal["mean", "max"] = "mean"
    ) -> None:
        super().__init__()
        self.config, self.labels, self.pooling = config, labels, pooling
        self.backbone = CaduceusMixer(config)
        self.score = nn.Linear(config.d_model, len(labels), bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits (B, labels).

        Args:
            input_ids: (B, L) token ids. For Ph also (B, L, 2), a sequence and its reverse complement: their logits are
                averaged ("post-hoc conjoining", Schiff et al. 2024). PS averages the two strands' logits by itself.

        Raises:
            ValueError: if PS is given a third axis.
        """
        if input_ids.ndim == 2:
            strands = 2 if self.config.rcps else 1
        elif self.config.rcps:
            raise ValueError("Caduceus-PS reads both strands by itself: give token ids (B, L)")
        else:
            strands, input_ids = 2, torch.cat(input_ids.unbind(-1))
        logits = self.score(self._pool(self.backbone.strands(input_ids)))
        return logits.unflatten(0, (strands, -1)).mean(0)

    def _pool(self, states: Tensor) -> Tensor:
        return states.mean(1) if self.pooling == "mean" else states.amax(1)


def load_classifier(
    folder: str | Path, pooling: Literal["mean", "max"] = "mean"
) -> CaduceusClassifier:
    """A published fine-tune, in float32.

    Args:
        folder: with config.json and weights, or hf:OWNER/NAME[@REVISION].
        pooling: of its training; the published code does not write it down, and its default is mean.

    Raises:
        InputError: as `load_pretrained`, and if there is no head.
    """
    folder = local_folder(folder)
    config = read_config(folder / "config.json")
    weights = find_weights(folder)
    tensors = read_tensors(weights)
    if "score.weight" not in tensors:
        raise InputError(
            f"{weights}: not a classifier (no score.weight in it); use dnadiff.backbones.load_pretrained"
        )
    classifier = CaduceusClassifier(
        config, _labels(folder / "config.json", len(tensors["score.weight"])), pooling
    )
    load_weights(classifier, config, tensors, weights)
    return classifier


def _labels(path: Path, count: int) -> list[str]:
    """The names in id2label; LABEL_0, LABEL_1, ... where there are none."""
    default = {str(i): f"LABEL_{i}" for i in range(count)}
    names = read_json(path).get("id2label") or default
    if not isinstance(names, dict) or set(names) != set(default):
        raise InputError(f"{path}: id2label does not name the {count} classes of score.weight")
    return [str(names[i]) for i in default]
