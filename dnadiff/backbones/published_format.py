"""The published Caduceus format: the fields of config.json and the names of weights.

Names are those of the published code (kuleshov-group/caduceus). This module also lists the weights
that the code ties and the buffers that it stores although they follow from the configuration.
`dnadiff.backbones.published` reads this format and `CaduceusLM.describe` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dnadiff.alphabet import DNA
from dnadiff.backbones.caduceus_config import CaduceusConfig, SSMConfig, complement_table
from dnadiff.backbones.checkpoint import checked_fields, copy_weights, without_own
from dnadiff.errors import InputError
from dnadiff.files import read_json

# Fields of published config.json files that do not affect the computed function: those of the
# transformers library, of training, and of a classifier's labels.
_IGNORED = {
    "_name_or_path", "_commit_hash", "_attn_implementation", "_attn_implementation_autoset",
    "architectures", "auto_map", "model_type", "torch_dtype", "dtype", "transformers_version",
    "tokenizer_class", "return_dict", "output_hidden_states", "output_attentions", "use_cache",
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "problem_type",
    "finetuning_task", "num_labels", "id2label", "label2id", "gradient_checkpointing_stride",
    "initializer_cfg", "complement_map", "dnadiff",
}  # fmt: skip
_REQUIRED = ("d_model", "n_layer", "vocab_size")
# Defaults of the published code for absent fields, where ours differ.
_DEFAULTS = {"rcps": False, "residual_in_fp32": True}
_NULL_IS_DEFAULT = ("ssm_cfg", "bidirectional_strategy")
# Well above any network that a file could hold; a hostile config.json must not exhaust memory.
_LIMITS = {"d_model": 1 << 16, "n_layer": 1000, "vocab_size": 1 << 20}


def read_config(path: Path) -> CaduceusConfig:
    """Reads the Caduceus that a config.json describes.

    Raises:
        InputError: naming the field that is missing, unknown, or has a value that is not supported.
    """
    raw = read_json(path)
    if not isinstance(raw, dict) or raw.get("model_type", "caduceus") != "caduceus":
        raise InputError(f"{path}: not the configuration of a Caduceus")
    for name in _REQUIRED:
        if name not in raw:
            raise InputError(f"{path}: the field {name} is missing")

    given = {name: value for name, value in raw.items() if name not in _IGNORED}
    for name in _NULL_IS_DEFAULT:
        if given.get(name, ...) is None:
            del given[name]
    if isinstance(given.get("ssm_cfg"), dict):
        given["ssm_cfg"] = checked_fields(SSMConfig, given["ssm_cfg"], path, "a Caduceus")
    config = checked_fields(CaduceusConfig, _DEFAULTS | given, path, "a Caduceus")
    check_limits(config, path)
    _check_vocabulary(config, raw.get("complement_map"), path)
    return config


def check_limits(config: Any, path: Path) -> None:
    """Refuses sizes that no real network has, before anything is allocated.

    Raises:
        InputError: naming the field and its limit.
    """
    for name, limit in _LIMITS.items():
        if getattr(config, name) > limit:
            raise InputError(
                f"{path}: {name} is {getattr(config, name):,}; at most {limit:,} is read"
            )


def _check_vocabulary(config: CaduceusConfig, table: Any, path: Path) -> None:
    """Checks that the token ids, and their complements where they matter, are those of DNA."""
    if config.padded_vocab < DNA.vocab_size:
        raise InputError(
            f"{path}: vocab_size is {config.vocab_size}; DNA needs {DNA.vocab_size} token ids"
        )
    if table is None and config.rcps:
        raise InputError(f"{path}: rcps is true, but there is no complement_map")
    if table is None:
        return

    # The keys are text and may be sorted as text ("10" before "2"), so each one is looked up.
    wanted = enumerate(complement_table(config.padded_vocab))
    is_dna = isinstance(table, dict) and all(table.get(str(i), i) == other for i, other in wanted)
    if not is_dna:
        raise InputError(f"{path}: complement_map is not that of DNA (A 7 with T 10, C 8 with G 9)")


def load_weights(
    model: nn.Module, config: CaduceusConfig, tensors: Mapping[str, Tensor], path: Path
) -> None:
    """Copies tensors with published names into `model`; none may be missing or left over.

    Where the published code ties a second weight to a first (the head, the second direction's
    projections), the second may be absent, and must equal the first if it is present. Weights under
    "dnadiff." are skipped.

    Raises:
        InputError: naming `path` and the weight.
    """
    left = without_own(tensors)
    # A published base model lacks the wrapper of a head.
    if not any(name.startswith("caduceus.") for name in left):
        left = {f"caduceus.{name}": value for name, value in left.items()}
    for key, table in complement_maps(config).items():
        if key in left and left.pop(key).tolist() != table.tolist():
            raise InputError(f"{path}: {key} is not that of DNA (A 7 with T 10, C 8 with G 9)")
    copy_weights(model, left, path, lambda name: published_keys(name, config))


def published_keys(name: str, config: CaduceusConfig) -> list[str]:
    """Returns the published name of a parameter, and that of the weight tied to it, if any.

    PS wraps its embedding, its mixers and, unless add and norm are fused, its norms once more.
    """
    if not name.startswith("backbone."):
        return [name]
    key = f"caduceus.{name}"
    if config.rcps:
        key = key.replace("word_embeddings.", "word_embeddings.embedding.")
        key = key.replace(".mixer.", ".mixer.submodule.")
    if config.rcps and not config.fused_add_norm:
        key = key.replace(".norm.", ".norm.submodule.").replace(".norm_f.", ".norm_f.submodule.")

    if "word_embeddings" in key:
        return [key, "lm_head.lm_head.weight" if config.rcps else "lm_head.weight"]
    shared = config.bidirectional and config.bidirectional_weight_tie
    if shared and ("mamba_fwd.in_proj" in key or "mamba_fwd.out_proj" in key):
        return [key, key.replace("mamba_fwd", "mamba_rev")]
    return [key]


def complement_maps(config: CaduceusConfig) -> dict[str, Tensor]:
    """Returns the buffers of a published PS checkpoint: each token's complement, stored twice."""
    if not config.rcps:
        return {}
    keys = ("caduceus.backbone.embeddings.word_embeddings.complement_map", "lm_head.complement_map")
    return {key: torch.tensor(complement_table(config.padded_vocab)) for key in keys}


def published_config(config: CaduceusConfig) -> dict[str, Any]:
    """Returns the content of config.json in the published field names."""
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
