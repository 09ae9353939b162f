"""Checkpoints in the published Caduceus format, in and out: config.json and model.safetensors (or pytorch_model.bin).

A port that is silently wrong is worse than none. So every field must be known and have a value that is computed
exactly, and every weight must be there, under its published name and in its shape, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from dnadiff.alphabet import DNA
from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM, SSMConfig, complement_table
from dnadiff.backbones.hub import local_folder
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
OWN = "dnadiff."
"""How the names of weights begin that the published format does not know."""

_NULL_IS_DEFAULT = ("ssm_cfg", "bidirectional_strategy")


def load_pretrained(folder: str | Path) -> CaduceusLM:
    """A Caduceus language model, in float32, from config.json and model.safetensors or pytorch_model.bin.

    Args:
        folder: with these files, or hf:OWNER/NAME[@REVISION] (see `dnadiff.backbones.hub`).

    Raises:
        InputError: naming the file, and the field or the weight that is unknown, missing or of the wrong shape.
    """
    folder = local_folder(folder)
    config = read_config(folder / "config.json")
    weights = find_weights(folder)
    tensors = read_tensors(weights)
    if "score.weight" in tensors:
        raise InputError(f"{weights}: a classifier (it has score.weight); use dnadiff.backbones.load_classifier")
    lm = CaduceusLM(config)
    load_weights(lm, config, tensors, weights)
    return lm


def read_config(path: Path) -> CaduceusConfig:
    """The architecture that a config.json describes; see `load_pretrained` for errors."""
    raw = read_json(path)
    if not isinstance(raw, dict) or raw.get("model_type", "caduceus") != "caduceus":
        raise InputError(f"{path}: not the configuration of a Caduceus")
    for name in _REQUIRED:
        if name not in raw:
            raise InputError(f"{path}: the field {name} is missing")
    given = {k: v for k, v in raw.items() if k not in _IGNORED and not (k in _NULL_IS_DEFAULT and v is None)}
    if isinstance(given.get("ssm_cfg"), dict):
        given["ssm_cfg"] = _checked(SSMConfig, given["ssm_cfg"], path)
    config = _checked(CaduceusConfig, _DEFAULTS | given, path)
    _check_vocabulary(config, raw.get("complement_map"), path)
    return config


def _checked(cls: type, values: Mapping[str, Any], path: Path) -> Any:
    """`cls(**values)`, if it has such fields and they may have such values."""
    hints = get_type_hints(cls)
    for name, value in values.items():
        if name not in hints:
            raise InputError(f"{path}: unknown field {name!r}; this is not a Caduceus that dnadiff can compute exactly")
        if not _fits(value, hints[name]):
            raise InputError(f"{path}: {name} cannot be {value!r}; {_wanted(hints[name])} is needed")
    return cls(**values)


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_args(hint):
        return any(_fits(value, option) for option in get_args(hint))
    if hint is float:
        return type(value) in (int, float) and value >= 0
    return type(value) is hint and (hint is not int or value > 0)


def _wanted(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(repr(option) for option in get_args(hint))
    if get_args(hint):
        return " or ".join(_wanted(option) for option in get_args(hint))
    words = {int: "a whole number above 0", float: "a number that is not negative", bool: "true or false"}
    return words.get(hint, "a table of settings")


def _check_vocabulary(config: CaduceusConfig, table: Any, path: Path) -> None:
    if config.padded_vocab < DNA.vocab_size:
        raise InputError(f"{path}: vocab_size is {config.vocab_size}; DNA needs {DNA.vocab_size} token ids")
    if table is None and config.rcps:
        raise InputError(f"{path}: rcps is true, but there is no complement_map")
    # Keys are text, so their order in the file may be that of text, "10" before "2": it means nothing.
    if table is not None and (
        not isinstance(table, dict)
        or any(table.get(str(i), i) != other for i, other in enumerate(complement_table(config.padded_vocab)))
    ):
        raise InputError(f"{path}: complement_map is not that of DNA (A 7 with T 10, C 8 with G 9)")


@torch.no_grad()
def load_weights(model: nn.Module, config: CaduceusConfig, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copies tensors with published names into `model`; every weight must be there, and nothing else.

    Where the published code ties a second weight to a first (the head, the second direction's projections), the second
    may be absent, and must equal the first if it is there. Weights of a dnadiff objective ("dnadiff.") are left aside.

    Raises:
        InputError: naming `path` and the weight.
    """
    left = {name: value for name, value in tensors.items() if not name.startswith(OWN)}
    if not any(name.startswith("caduceus.") for name in left):  # a published base model, without the wrapper of a head
        left = {f"caduceus.{name}": value for name, value in left.items()}
    for name, parameter in model.named_parameters():
        key, *again = published_keys(name, config)
        if key not in left:
            raise InputError(f"{path}: the weight {key} is missing")
        value = _checked_weight(left.pop(key), key, parameter, path)
        for tied in again:
            if tied in left and not torch.equal(left.pop(tied), value):
                raise InputError(f"{path}: {tied} differs from the weight that it must be tied to, {key}")
        parameter.copy_(value)
    for key, table in complement_maps(config).items():
        if key in left and left.pop(key).tolist() != table.tolist():
            raise InputError(f"{path}: {key} is not that of DNA (A 7 with T 10, C 8 with G 9)")
    for key in left:
        raise InputError(f"{path}: unexpected weight {key}")


def _checked_weight(value: Tensor, key: str, parameter: Tensor, path: Path) -> Tensor:
    if value.shape != parameter.shape:
        raise InputError(f"{path}: {key} has shape {tuple(value.shape)}, {tuple(parameter.shape)} is needed")
    if not value.is_floating_point():
        raise InputError(f"{path}: {key} is of type {value.dtype}, floating-point numbers are needed")
    if not value.isfinite().all():
        raise InputError(f"{path}: {key} has a number that is infinite or none; the file is damaged")
    return value


def published_keys(name: str, config: CaduceusConfig) -> list[str]:
    """The published name of one of our parameters, and that of the weight that the published code ties to it, if any.

    PS wraps its embedding, its mixers and, unless add and norm are fused, its norms once more.
    """
    if not name.startswith("backbone."):
        return [name]
    key = f"caduceus.{name}"
    if config.rcps:
        key = key.replace("word_embeddings.", "word_embeddings.embedding.").replace(".mixer.", ".mixer.submodule.")
        if not config.fused_add_norm:
            key = key.replace(".norm.", ".norm.submodule.").replace(".norm_f.", ".norm_f.submodule.")
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
    lm: CaduceusLM,
    folder: str | Path,
    extra: Mapping[str, Any] | None = None,
    own: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes config.json and model.safetensors into `folder`, as the published code reads them.

    Tied weights are written under both of their names: recent transformers releases do not tie what is missing, and
    leave it uninitialised without a word.

    Args:
        lm: the model.
        folder: made if absent.
        extra: goes into the "dnadiff" section of config.json.
        own: further weights, whose names begin with "dnadiff."; `load_pretrained` leaves them aside.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        key: parameter.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, parameter in lm.named_parameters()
        for key in published_keys(name, lm.config)
    }
    write_tensors(folder / "model.safetensors", tensors | complement_maps(lm.config) | dict(own or {}))
    write_json(folder / "config.json", published_config(lm.config) | ({"dnadiff": dict(extra)} if extra else {}))


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
