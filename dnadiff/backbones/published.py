"""Loads a language model from config.json and its weights.

Caduceus and Mamba (a Caduceus with one direction) are read in the published Caduceus format
(`dnadiff.backbones.published_format`), other backbones in dnadiff's own format
(`dnadiff.backbones.own_format`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from dnadiff.backbones import own_format
from dnadiff.backbones.caduceus import CaduceusLM
from dnadiff.backbones.hub import local_folder
from dnadiff.backbones.language_model import LanguageModel
from dnadiff.backbones.published_format import check_limits, load_weights, read_config
from dnadiff.backbones.weights import find_weights, read_tensors
from dnadiff.errors import InputError
from dnadiff.files import read_json


def load_pretrained(folder: str | Path) -> LanguageModel:
    """Loads a language model, in float32, from config.json and its weights file.

    `model_type` in config.json names a published Caduceus or another backbone that dnadiff saved.

    Args:
        folder: holds config.json and model.safetensors or pytorch_model.bin; or
            hf:OWNER/NAME[@REVISION] (see `dnadiff.backbones.hub`).

    Raises:
        InputError: naming the file, and the field or weight that is unknown, missing or misshapen.
    """
    folder = local_folder(folder)
    path = folder / "config.json"
    raw = read_json(path)
    # A published file may lack `model_type`, so anything but dnadiff's own names is a Caduceus.
    if isinstance(raw, dict) and str(raw.get("model_type")) in own_format.ARCHITECTURES:
        own_config = own_format.read_config(raw, path)
        check_limits(own_config, path)
        weights = find_weights(folder)
        network = _allocate(lambda: own_format.make_network(own_config), path, weights)
        own_format.load_weights(network, read_tensors(weights), weights)
        return network

    # The configuration is checked first: reading the weights can take much longer.
    config = read_config(path)
    weights = find_weights(folder)
    tensors = read_tensors(weights)
    if "score.weight" in tensors:
        raise InputError(
            f"{weights}: a classifier (it has score.weight); use dnadiff.backbones.load_classifier"
        )
    lm = _allocate(lambda: CaduceusLM(config), path, weights)
    load_weights(lm, config, tensors, weights)
    return lm


def _allocate(make: Callable[[], LanguageModel], config: Path, weights: Path) -> LanguageModel:
    """Creates a network, unless it is larger than its weights file could be.

    The meta device has shapes and no memory, so the size is known before anything is allocated.
    """
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in make().parameters())
    # A weight takes at least one byte of the file, whatever its type.
    if parameters > weights.stat().st_size:
        raise InputError(
            f"{config}: describes {parameters:,} parameters, more than {weights.name} can hold "
            f"({weights.stat().st_size:,} bytes)"
        )
    return make()
