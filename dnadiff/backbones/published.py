"""Checkpoints in the published Caduceus format, in and out: config.json and model.safetensors (or pytorch_model.bin).

Only tensors and JSON are read: no pickle beyond torch's weights-only loader, no remote code, no network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM, SSMConfig, complement_table
from dnadiff.errors import InputError
from dnadiff.files import read_json, whole, write_json

# Fields of published config.json files that say nothing of the function computed.
_IGNORED = {
    "_name_or_path", "architectures", "auto_map", "model_type", "torch_dtype", "dtype", "transformers_version",
    "pad_token_id", "gradient_checkpointing_stride", "initializer_cfg", "complement_map", "dnadiff",
}  # fmt: skip


def load_pretrained(folder: str | Path) -> CaduceusLM:
    """A Caduceus language model from a folder with config.json and model.safetensors or pytorch_model.bin.

    Raises:
        InputError: naming the file, and the field or the weight that is unknown, missing or of the wrong shape.
    """
    folder = Path(folder)
    lm = CaduceusLM(read_config(folder / "config.json"))
    load_weights(lm, read_tensors(folder), folder)
    return lm


def read_config(path: Path) -> CaduceusConfig:
    """The architecture that a config.json describes; see `load_pretrained` for errors."""
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise InputError(f"{path}: not a model configuration")
    table = raw.get("complement_map")
    config = _from_dict(CaduceusConfig, {**raw, "ssm_cfg": raw.get("ssm_cfg") or {}}, path, _IGNORED)
    if table is not None:
        read = [int(table[key]) for key in sorted(table, key=int)]
        if read != complement_table(config.padded_vocab)[: len(read)]:
            raise InputError(f"{path}: complement_map is not that of DNA (A with T, C with G)")
    return config


def _from_dict(cls: type, raw: Mapping[str, Any], path: Path, ignored: set[str]) -> Any:
    known = {f.name for f in fields(cls)}
    for name in raw:
        if name not in known | ignored:
            raise InputError(f"{path}: unknown field {name!r}; this is not a Caduceus that dnadiff can compute exactly")
    values = {name: value for name, value in raw.items() if name in known}
    if cls is CaduceusConfig:
        values["ssm_cfg"] = _from_dict(SSMConfig, values["ssm_cfg"], path, set())
    return cls(**values)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of model.safetensors, or else of pytorch_model.bin, by name."""
    path = folder / "model.safetensors"
    try:
        if path.exists():
            return safetensors.torch.load_file(path)
        path = folder / "pytorch_model.bin"
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{folder}: neither model.safetensors nor pytorch_model.bin is there") from error
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise InputError(f"{path}: damaged or not a weights file ({_first_line(error)})") from error
    except Exception as error:  # torch raises pickle's own errors for anything that is not a plain tensor
        raise InputError(f"{path}: refused, holds something other than tensors ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


@torch.no_grad()
def load_weights(lm: CaduceusLM, tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """Copies tensors with published names into `lm`; every weight must be there, and nothing else.

    Tied weights (the head, the second direction's projections) may be absent or must equal what they are tied to.
    """
    left = dict(tensors)
    for name, parameter in lm.named_parameters():
        key = published_key(name, lm.config)
        if key not in left:
            raise InputError(f"{where}: the weight {key} is missing")
        value = left.pop(key)
        if value.shape != parameter.shape:
            raise InputError(f"{where}: {key} has shape {tuple(value.shape)}, {tuple(parameter.shape)} is needed")
        parameter.copy_(value)
    tied = _tied_tensors(lm)
    for key, value in left.items():
        if key not in tied:
            raise InputError(f"{where}: unexpected weight {key}")
        if not torch.equal(value.to(tied[key].dtype), tied[key]):
            raise InputError(f"{where}: {key} differs from the weight that it must be tied to")


def _tied_tensors(lm: CaduceusLM) -> dict[str, Tensor]:
    """What a checkpoint may repeat, by published name: the tied head and projections, and the complement maps."""
    config, backbone = lm.config, lm.backbone
    head = "lm_head.lm_head.weight" if config.rcps else "lm_head.weight"
    tied: dict[str, Tensor] = {head: backbone.embedding}
    if config.rcps:
        tied["lm_head.complement_map"] = backbone.complement
        tied["caduceus.backbone.embeddings.word_embeddings.complement_map"] = backbone.complement
    if config.bidirectional and config.bidirectional_weight_tie:
        for name, parameter in lm.named_parameters():
            if "mamba_fwd.in_proj" in name or "mamba_fwd.out_proj" in name:
                tied[published_key(name.replace("mamba_fwd", "mamba_rev"), config)] = parameter
    return tied


def published_key(name: str, config: CaduceusConfig) -> str:
    """The published name of one of our parameters: PS wraps its embedding, mixers and (unfused) norms once more."""
    name = f"caduceus.{name}"
    if not config.rcps:
        return name
    name = name.replace("word_embeddings.weight", "word_embeddings.embedding.weight").replace(
        ".mixer.", ".mixer.submodule."
    )
    if not config.fused_add_norm:
        name = name.replace(".norm.", ".norm.submodule.").replace(".norm_f.", ".norm_f.submodule.")
    return name


def save_pretrained(lm: CaduceusLM, folder: str | Path, extra: Mapping[str, Any] | None = None) -> None:
    """Writes config.json and model.safetensors into `folder`, as the published code reads them.

    Args:
        lm: the model.
        folder: made if absent.
        extra: goes into the "dnadiff" section of config.json.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {published_key(n, lm.config): p.detach().cpu().contiguous() for n, p in lm.named_parameters()}
    maps = {k: v.cpu().clone() for k, v in _tied_tensors(lm).items() if k.endswith("complement_map")}
    with whole(folder / "model.safetensors") as path:
        safetensors.torch.save_file(tensors | maps, path, metadata={"format": "pt"})
    write_json(folder / "config.json", published_config(lm.config) | ({"dnadiff": dict(extra)} if extra else {}))


def published_config(config: CaduceusConfig) -> dict[str, Any]:
    """config.json in the published field names."""
    raw = config.to_dict()
    vocab = config.padded_vocab
    table = complement_table(vocab) if config.rcps else None
    initializer = {
        "initializer_range": raw.pop("initializer_range"),
        "rescale_prenorm_residual": True,
        "n_residuals_per_layer": 1,
    }
    return {
        "model_type": "caduceus",
        "architectures": ["CaduceusForMaskedLM"],
        **raw,
        "vocab_size": vocab,
        "initializer_cfg": initializer,
        "complement_map": None if table is None else {str(i): c for i, c in enumerate(table)},
        "torch_dtype": "float32",
    }
