"""Reads and writes files of named tensors: model.safetensors and pytorch_model.bin.

Only tensors are read: no code in a file ever runs. A file written here states the SHA-256 of its
own tensors, so that damage is noticed. Published files state none, but the archive of a
pytorch_model.bin has checksums.
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
_STATED = "dnadiff.sha256"  # the key of the digest in a file's metadata
# What wraps a network while it trains (DataParallel, torch.compile, a Lightning module) puts its
# own prefix before every name.
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_LFS_POINTER = b"version https://git-lfs"


def find_weights(folder: Path) -> Path:
    """Returns the weights file of a model folder.

    Raises:
        InputError: if there is none, or if it is spread over several files.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    if index := next(iter(folder.glob("*.index.json")), None):
        raise InputError(
            f"{index}: weights in several files cannot be read; save them as one {WEIGHTS[0]}"
        )
    raise InputError(f"{folder}: no weights here; {' or '.join(WEIGHTS)} is needed")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a weights file, by name.

    A prefix that training wrappers put before every name is removed.

    Raises:
        InputError: if the file is damaged, or holds anything but named tensors.
    """
    _check_content(path)
    read = _read_safetensors if path.suffix == ".safetensors" else _read_pickle
    try:
        return _unwrapped(read(path))
    except (SafetensorError, OSError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).split("\n")[0].split(". ")[0] or "it ends too early"
        raise InputError(
            f"{path}: damaged or not a weights file ({reason}); get it again"
        ) from error


def _check_content(path: Path) -> None:
    """Refuses files that are known not to be weights, with what to do."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    if not start:
        raise InputError(f"{path}: the file is empty; get it again")
    if start == _LFS_POINTER:
        raise InputError(
            f"{path}: a git-lfs pointer, not the weights; run `git lfs pull` in that repository"
        )


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Removes the prefixes of training wrappers, where every name begins with them."""
    while tensors:
        prefix = next((p for p in _WRAPPERS if all(name.startswith(p) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Reads model.safetensors and compares it with the digest that it states, if any."""
    with safe_open(path, framework="pt") as file:
        stated = (file.metadata() or {}).get(_STATED)
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if stated is not None and stated != digest(tensors):
        raise InputError(
            f"{path}: damaged: its weights do not match the SHA-256 that it states; get it again"
        )
    return tensors


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """Reads pytorch_model.bin, tensors only."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch itself ignores the checksums
        if damaged:
            raise InputError(f"{path}: damaged: the checksum of {damaged} is wrong; get it again")

    tensors = _unpickle(path)
    if not isinstance(tensors, dict):
        raise InputError(f"{path}: not a table of named tensors")
    for name, value in tensors.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(f"{path}: not a table of named tensors (see {name!r})")
    return tensors


def _unpickle(path: Path) -> Any:
    """Loads a file with torch's restricted unpickler, which creates tensors and nothing else."""
    try:
        with warnings.catch_warnings():
            # torch warns of old pickle protocols; what it cannot read is an error in any case.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError):
        raise
    except Exception as error:
        # The unpickler met something else than tensors. torch's own message suggests trusting the
        # file and loading it in full, so it is replaced.
        asked = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it asks for {asked[1]}" if asked else "it holds something else"
        raise InputError(
            f"{path}: refused: only tensors are read, and {what}; ask its author for a {WEIGHTS[0]}"
        ) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a .safetensors file that states the digest of its tensors; atomically."""
    with atomic_path(path) as temporary:
        metadata = {"format": "pt", _STATED: digest(tensors)}
        safetensors.torch.save_file(dict(tensors), temporary, metadata=metadata)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of the names, types, shapes and bytes of tensors, sorted by name."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()
