"""Files of named tensors: model.safetensors, or pytorch_model.bin through torch's weights-only loader.

Nothing but tensors is read: no code in a file ever runs. A file written here states the digest of its own tensors, so
that damage is noticed; published files state none, but a pytorch_model.bin has its archive's check sums.
"""

from __future__ import annotations

import hashlib
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dnadiff.errors import InputError
from dnadiff.files import atomic_path

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_STATED = "dnadiff.sha256"


def find_weights(folder: Path) -> Path:
    """The weights file of a model folder.

    Raises:
        InputError: if there is none, or if it is spread over several files.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    if index := next(iter(folder.glob("*.index.json")), None):
        raise InputError(
            f"{index}: a checkpoint in several files cannot be read; save it as one {WEIGHTS[0]}"
        )
    raise InputError(f"{folder}: neither {' nor '.join(WEIGHTS)} is there")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name.

    Raises:
        InputError: if the file is damaged, or holds anything but named tensors.
    """
    try:
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    except (SafetensorError, OSError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).split("\n")[0].split(". ")[0] or "it ends too early"
        raise InputError(
            f"{path}: damaged or not a weights file ({reason}); get it again"
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        stated = (file.metadata() or {}).get(_STATED)
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if stated is not None and stated != digest(tensors):
        raise InputError(
            f"{path}: damaged: its weights have another SHA-256 than the file states; get it again"
        )
    return tensors


def _read_pickle(path: Path) -> dict[str, Tensor]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:  # torch does not look at the check sums
            if damaged := archive.testzip():
                raise InputError(
                    f"{path}: damaged: the check sum of {damaged} in it is wrong; get it again"
                )
    tensors = _unpickle(path)
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
    ):
        raise InputError(f"{path}: not a table of named tensors")
    return tensors


def _unpickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of pickle protocols; what cannot be read is an error anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError):
        raise
    except Exception as error:  # whatever the unpickler met; torch's message advises to trust the file, this one not to
        asked = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it asks for {asked[1]}" if asked else "it holds something else"
        raise InputError(
            f"{path}: refused: only tensors are read, and {what}; ask its author for a {WEIGHTS[0]}"
        ) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a .safetensors file that states the digest of its tensors, whole or not at all."""
    with atomic_path(path) as temporary:
        metadata = {"format": "pt", _STATED: digest(tensors)}
        safetensors.torch.save_file(dict(tensors), temporary, metadata=metadata)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, types, shapes and bytes of tensors, in the order of their names."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()
