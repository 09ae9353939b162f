"""dnadiff's own checkpoint format, for the backbones that have no published one.

config.json holds `model_type` and every field of the architecture's configuration;
model.safetensors holds its parameters under their own names (`StackLM.describe`). The head is tied
to the embedding and is not stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from dnadiff.backbones.checkpoint import checked_fields, copy_weights, without_own
from dnadiff.backbones.hyena import HyenaConfig, HyenaLM
from dnadiff.backbones.language_model import LanguageModel
from dnadiff.backbones.stack import StackConfig
from dnadiff.backbones.transformer import TransformerConfig, TransformerLM
from dnadiff.errors import InputError

ARCHITECTURES: dict[str, tuple[type[StackConfig], Any]] = {
    HyenaConfig.model_type: (HyenaConfig, HyenaLM),
    TransformerConfig.model_type: (TransformerConfig, TransformerLM),
}


def read_config(raw: Mapping[str, Any], path: Path) -> StackConfig:
    """Reads the configuration in a config.json whose `model_type` is in `ARCHITECTURES`.

    Raises:
        InputError: naming `path` and the field that is missing, unknown or wrong.
    """
    name = raw["model_type"]
    config, _ = ARCHITECTURES[name]
    for field in fields(config):
        if field.name not in raw:
            raise InputError(f"{path}: the field {field.name} is missing")
    given = {key: value for key, value in raw.items() if key not in ("model_type", "dnadiff")}
    return checked_fields(config, given, path, f"a {name}")


def make_network(config: StackConfig) -> LanguageModel:
    """Creates a new network of this shape."""
    _, lm = ARCHITECTURES[config.model_type]
    return lm(config)


def load_weights(lm: LanguageModel, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copies a file's tensors into `lm`; see `copy_weights` for errors."""
    copy_weights(lm, without_own(tensors), path)
