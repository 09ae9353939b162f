"""Checkpoints in and out: config.json and model.safetensors (or pytorch_model.bin).

Caduceus, and Mamba as a Caduceus of one direction, in the published Caduceus format; other backbones in our own
(`dnadiff.backbones.own_format`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dnadiff.alphabet import DNA
from dnadiff.backbones import own_format
from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM, SSMConfig, complement_table
from dnadiff.backbones.checkpoint import OBJECTIVE_PREFIX, checked_fields, copy_weights, written
from dnadiff.backbones.hub import local_folder
from dnadiff.backbones.language_model import LanguageModel
from dnadiff.backbones.weights import find_weights, read_tensors, write_tensors
from dnadiff.errors import InputError
from dnadiff.files import read_json, write_json

# Fields of published config.json files that say nothing of the function computed: those of the transformers library,
# of training, and of a classifier's labels.
_IGNORED = {
    "_name_or_path", "_commit_hash", "_attn_implementation", "_attn_implementation_autoset", "architectures",
    "auto_map", "model_type", "torch_dtype", "dtype", "transformers_version", "tokenizer_class", "return_dict",
    "output_hidden_states", "output_attentions", "use_cache", "bos_token_id", "eos_token_id",
    "pad_token_id", "sep_token_id", "problem_type", "finetuning_task", "num_labels", "id2label", "label2id",
    "gradient_checkpointing_stride", "initializer_cfg", "complement_map", "dnadiff",
}  # fmt: skip
_REQUIRED = ("d_model", "n_layer", "vocab_size")
# What the published code takes where a field is absent and our own default is another.
_DEFAULTS = {"rcps": False, "residual_in_fp32": True}
_NULL_IS_DEFAULT = ("ssm_cfg", "bidirectional_strategy")


def load_pretrained(folder: str | Path) -> LanguageModel:
    """A language model, in float32, from config.json and model.safetensors or pytorch_model.bin.

    What `model_type` names in config.json: a published Caduceus, or another backbone that was saved here.

    Args:
        folder: with these files, or hf:OWNER/NAME[@REVISION] (see `dnadiff.backbones.hub`).

    Raises:
        InputError: naming the file, and the field or the weight that is unknown, missing or of the wrong shape.
    """
    folder = local_folder(folder)
    path = folder / "config.json"
    raw = read_json(path)
    if isinstance(raw, dict) and str(raw.get("model_type")) in own_format.ARCHITECTURES:
        network = own_format.make_network(raw, path)
        weights = find_weights(folder)
        own_format.load_weights(network, read_tensors(weights), weights)
        return network
    config = read_config(path)
    weights = find_weights(folder)
    tensors = read_tensors(weights)
    if "score.weight" in tensors:
        raise InputError(
            f"{weights}: a classifier (it has score.weight); use dnadiff.backbones.load_classifier"
        )
    lm = CaduceusLM(config)
    load_weights(lm, config, tensors, weights)
    return lm


def read_config(path: Path) -> CaduceusConfig:
    """The Caduceus that a config.json describes; see `load_pretrained` for errors."""
    raw = read_json(path)
    if not isinstance(raw, dict) or raw.get("model_type", "caduceus") != "caduceus":
        raise InputError(f"{path}: not the configuration of a Caduceus")
    for name in _REQUIRED:
        if name not in raw:
            raise InputError(f"{path}: the field {name} is missing")
    given = {
        k: v
        for k, v in raw.items()
        if k not in _IGNORED and not (k in _NULL_IS_DEFAULT and v is None)
    }
    if isinstance(given.get("ssm_cfg"), dict):
        given["ssm_cfg"] = checked_fields(SSMConfig, given["ssm_cfg"], path, "a Caduceus")
    config = checked_fields(CaduceusConfig, _DEFAULTS | given, path, "a Caduceus")
    _check_vocabulary(config, raw.get("complement_map"), path)
    return config


def _check_vocabulary(config: CaduceusConfig, table: Any, path: Path) -> None:
    if config.padded_vocab < DNA.vocab_size:
        raise InputError(
            f"{path}: vocab_size is {config.vocab_size}; DNA needs {DNA.vocab_size} token ids"
        )
    if table is None and config.rcps:
        raise InputError(f"{path}: rcps is true, but there is no complement_map")
    # Keys are text, so their order in the file may be that of text, "10" before "2": it means nothing.
    if table is not None and (
        not isinstance(table, dict)
        or any(
            table.get(str(i), i) != other
            for i, other in enumerate(complement_table(config.padded_vocab))
        )
    ):
        raise InputError(f"{path}: complement_map is not that of DNA (A 7 with T 10, C 8 with G 9)")


def load_weights(
    model: nn.Module, config: CaduceusConfig, tensors: Mapping[str, Tensor], path: Path
) -> None:
    """Copies tensors with published names into `model`; every weight must be there, and nothing else.

    Where the published code ties a second weight to a first (the head, the second direction's projections), the second
    may be absent, and must equal the first if it is there. Weights of a dnadiff objective ("dnadiff.") are left aside.

    Raises:
        InputError: naming `path` and the weight.
    """
    left = {name: value for name, value in tensors.items() if not name.startswith(OBJECTIVE_PREFIX)}
    if not any(
        name.startswith("caduceus.") for name in left
    ):  # a published base model, without the wrapper of a head
        left = {f"caduceus.{name}": value for name, value in left.items()}
    for key, table in complement_maps(config).items():
        if key in left and left.pop(key).tolist() != table.tolist():
            raise InputError(f"{path}: {key} is not that of DNA (A 7 with T 10, C 8 with G 9)")
    copy_weights(model, left, path, lambda name: published_keys(name, config))


def published_keys(name: str, config: CaduceusConfig) -> list[str]:
    """The published name of one of our parameters, and that of the weight that the published code ties to it, if any.

    PS wraps its embedding, its mixers and, unless add and norm are fused, its norms once more.
    """
    if not name.startswith("backbone."):
        return [name]
    key = f"caduceus.{name}"
    if config.rcps:
        key = key.replace("word_embeddings.", "word_embeddings.embedding.").replace(
            ".mixer.", ".mixer.submodule."
        )
        if not config.fused_add_norm:
            key = key.replace(".norm.", ".norm.submodule.").replace(
                ".norm_f.", ".norm_f.submodule."
            )
    if "word_embeddings" in key:
        return [key, "lm_head.lm_head.weight" if config.rcps else "lm_head.weight"]
    shared = config.bidirectional and config.bidirectional_weight_tie
    if shared and ("mamba_fwd.in_proj" in key or "mamba_fwd.out_proj" in key):
        return [key, key.replace("mamba_fwd", "mamba_rev")]
    return [key]


def complement_maps(config: CaduceusConfig) -> dict[str, Tensor]:
    """The buffers that published PS checkpoints hold: the complement of each token id, twice."""
    keys = ("caduceus.backbone.embeddings.word_embeddings.complement_map", "lm_head.complement_map")
    return {key: torch.tensor(complement_table(config.padded_vocab)) for key in keys if config.rcps}


def save_pretrained(
    lm: LanguageModel,
    folder: str | Path,
    extra: Mapping[str, Any] | None = None,
    own: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes config.json and model.safetensors into `folder`; a Caduceus as the published code reads it.

    Its tied weights are written under both of their names: recent transformers releases do not tie what is missing, and
    leave it uninitialised without a word.

    Args:
        lm: the model.
        folder: made if absent.
        extra: goes into the "dnadiff" section of config.json.
        own: further weights, whose names begin with "dnadiff."; `load_pretrained` leaves them aside.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config, tensors = _describe(lm) if isinstance(lm, CaduceusLM) else own_format.describe(lm)
    write_tensors(folder / "model.safetensors", tensors | dict(own or {}))
    write_json(folder / "config.json", config | ({"dnadiff": dict(extra)} if extra else {}))


def _describe(lm: CaduceusLM) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What config.json and model.safetensors hold of a Caduceus."""
    tensors = {
        key: written(parameter)
        for name, parameter in lm.named_parameters()
        for key in published_keys(name, lm.config)
    }
    return published_config(lm.config), tensors | complement_maps(lm.config)


def published_config(config: CaduceusConfig) -> dict[str, Any]:
    """config.json in the published field names."""
    raw = config.to_dict()
    vocab = config.padded_vocab
    initializer = {
        "initializer_range": raw.pop("initializer_range"),
        "rescale_prenorm_residual": True,
        "n_residuals_per_layer": 1,
    }
    table = {str(i): other for i, other in enumerate(complement_table(vocab))}
    return {
        "model_type": "caduceus",
        "architectures": ["CaduceusForMaskedLM"],
        **raw,
        "vocab_size": vocab,
        "initializer_cfg": initializer,
        "complement_map": table if config.rcps else None,
        "torch_dtype": "float32",
    }
