"""Caduceus with a classification head: the published CaduceusForSequenceClassification."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from dnadiff.backbones.caduceus import CaduceusMixer
from dnadiff.backbones.caduceus_config import CaduceusConfig
from dnadiff.backbones.hub import local_folder
from dnadiff.backbones.network_input import NetworkInput
from dnadiff.backbones.published_format import load_weights, read_config
from dnadiff.backbones.weights import find_weights, read_tensors
from dnadiff.errors import InputError
from dnadiff.files import read_json


class CaduceusClassifier(nn.Module):
    """Caduceus with a linear head, without bias, on hidden states pooled over positions.

    Attributes:
        labels: the name of each class.
        pooling: "mean" or "max" over all positions, including padding and special tokens, as in the
            published code.
    """

    def __init__(
        self, config: CaduceusConfig, labels: list[str], pooling: Literal["mean", "max"] = "mean"
    ) -> None:
        super().__init__()
        self.config, self.labels, self.pooling = config, labels, pooling
        self.backbone = CaduceusMixer(config)
        self.score = nn.Linear(config.d_model, len(labels), bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Computes logits (B, labels).

        PS averages the logits of both strands by itself.

        Args:
            input_ids: (B, L) token ids. For Ph also (B, L, 2), a sequence and its reverse
                complement, whose logits are averaged ("post-hoc conjoining", Schiff et al. 2024).

        Raises:
            ValueError: if PS is given a third axis.
        """
        # The strands become rows of the batch: the sequences first, then the reverse complements.
        if input_ids.ndim == 2:
            strands = 2 if self.config.rcps else 1
        elif self.config.rcps:
            raise ValueError("Caduceus-PS reads both strands by itself: give token ids (B, L)")
        else:
            strands, input_ids = 2, torch.cat(input_ids.unbind(-1))
        states = self.backbone.strands(NetworkInput(input_ids))
        logits = self.score(self._pool(states))
        return logits.unflatten(0, (strands, -1)).mean(0)

    def _pool(self, states: Tensor) -> Tensor:
        """Pools (B, L, d_model) over positions."""
        return states.mean(1) if self.pooling == "mean" else states.amax(1)


def load_classifier(
    folder: str | Path, pooling: Literal["mean", "max"] = "mean"
) -> CaduceusClassifier:
    """Loads a published fine-tuned classifier, in float32.

    Args:
        folder: holds config.json and weights; or hf:OWNER/NAME[@REVISION].
        pooling: as in its training. The published code does not store it; its default is mean.

    Raises:
        InputError: as for `load_pretrained`, and if there is no classification head.
    """
    folder = local_folder(folder)
    config = read_config(folder / "config.json")
    weights = find_weights(folder)
    tensors = read_tensors(weights)
    if "score.weight" not in tensors:
        raise InputError(
            f"{weights}: not a classifier (it has no score.weight); "
            f"use dnadiff.backbones.load_pretrained"
        )
    # The weights determine the number of classes; config.json need not name them.
    labels = _labels(folder / "config.json", len(tensors["score.weight"]))
    classifier = CaduceusClassifier(config, labels, pooling)
    load_weights(classifier, config, tensors, weights)
    return classifier


def _labels(path: Path, count: int) -> list[str]:
    """Reads the class names in id2label; LABEL_0, LABEL_1, ... where there are none."""
    # The names that the transformers library gives to classes without names.
    default = {str(i): f"LABEL_{i}" for i in range(count)}
    names = read_json(path).get("id2label") or default
    if not isinstance(names, dict) or set(names) != set(default):
        raise InputError(f"{path}: id2label does not name the {count} classes of score.weight")
    return [str(names[i]) for i in default]
