"""Checkpoints of the backbones for which there is no published format: ours, as strict as the published one.

config.json holds `model_type` and every field of the architecture's configuration; model.safetensors holds its
parameters under their own names. The head is tied to the embedding and is not written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from dnadiff.backbones.checkpoint import OBJECTIVE_PREFIX, checked_fields, copy_weights, written
from dnadiff.backbones.hyena import HyenaConfig, HyenaLM
from dnadiff.backbones.language_model import LanguageModel
from dnadiff.backbones.stack import StackConfig
from dnadiff.backbones.transformer import TransformerConfig, TransformerLM
from dnadiff.errors import InputError

ARCHITECTURES: dict[str, tuple[type[StackConfig], Any]] = {
    config.model_type: (config, lm)
    for config, lm in ((HyenaConfig, HyenaLM), (TransformerConfig, TransformerLM))
}


def make_network(raw: Mapping[str, Any], path: Path) -> LanguageModel:
    """A new network of the shape that a config.json describes, whose `model_type` is in `ARCHITECTURES`.

    Raises:
        InputError: naming `path` and the field that is missing, unknown or wrong.
    """
    name = raw["model_type"]
    config, lm = ARCHITECTURES[name]
    for field in fields(config):
        if field.name not in raw:
            raise InputError(f"{path}: the field {field.name} is missing")
    given = {key: value for key, value in raw.items() if key not in ("model_type", "dnadiff")}
    return lm(checked_fields(config, given, path, f"a {name}"))


def load_weights(lm: LanguageModel, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copies a file's tensors into `lm`; see `copy_weights`."""
    copy_weights(
        lm,
        {name: value for name, value in tensors.items() if not name.startswith(OBJECTIVE_PREFIX)},
        path,
    )


def describe(lm: LanguageModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What config.json and model.safetensors hold."""
    config = {"model_type": lm.config.model_type, **asdict(lm.config)}
    return config, {name: written(parameter) for name, parameter in lm.named_parameters()}
