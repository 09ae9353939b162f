"""Writes checkpoints that survive kills and power failures, and reads the newest intact one.

A checkpoint is a zip archive as `torch.save` writes it, with the SHA-256 of all earlier bytes in
the comment of the archive. It is written under a temporary name, flushed to disk and renamed. The
last two checkpoints and the one with the best small bound on valid windows are kept.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from dnadiff.errors import InputError
from dnadiff.files import atomic_path, flush_to_disk

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"

_SEAL = b"dnadiff sha256 "
_SEAL_BYTES = len(_SEAL) + 64  # and the hexadecimal digits
_PIECE = 1 << 22  # bytes read at a time
_logger = logging.getLogger("dnadiff")


class SealedCheckpoints(CheckpointIO):
    """Writes and reads Lightning's checkpoints with a digest; keeps the last two."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Writes a checkpoint to `path`; the one that was there becomes the previous one.

        Raises:
            InputError: if it cannot be written, for example on a full disk.
        """
        path = Path(path)
        try:
            with atomic_path(path) as temporary:
                torch.save(checkpoint, temporary)
                _seal(temporary)
                flush_to_disk(temporary)
                # If the process is killed between this move and the next, the checkpoint that was
                # just moved is still there, as the previous one.
                if path.exists():
                    path.replace(path.with_name(PREVIOUS))
            flush_to_disk(path.parent)
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
            raise InputError(
                f"{path}: cannot be written ({reason}); make room or permit it, and then resume"
            ) from error

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Returns a checkpoint whose digest is right; tensors and plain values only, on the CPU."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Removes a checkpoint."""
        Path(path).unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Returns the content of a checkpoint; no code in it ever runs.

    Raises:
        InputError: naming the file, if it is missing, damaged or truncated.
    """
    try:
        if not path.stat().st_size:
            raise InputError(f"{path}: is empty")
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _SEAL_BYTES))
            seal = file.read()
        if not seal.startswith(_SEAL):
            raise InputError(f"{path}: is truncated or not a checkpoint: its digest is missing")
        if seal != _SEAL + _digest(path):
            raise InputError(f"{path}: is damaged: its content has not the digest that it states")
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except Exception as error:
        if isinstance(error, InputError):
            raise
        # The digest is right but torch cannot read it; another version may have written it.
        raise InputError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error
    return content


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Returns the newest intact checkpoint of a run, and its content.

    If the newest is damaged, an earlier one is used, with a warning that names the damaged file.

    Args:
        folder: where the checkpoints are.

    Returns:
        None if there is no checkpoint at all.

    Raises:
        InputError: if all checkpoints are damaged.
    """
    sound: list[tuple[Path, dict[str, Any]]] = []
    faults: list[str] = []
    # The best checkpoint may be a copy of the last one, and so newer than the previous one.
    for name in (LAST, PREVIOUS, BEST):
        path = folder / name
        if not path.exists():
            continue
        try:
            sound.append((path, read_checkpoint(path)))
        except InputError as error:
            faults.append(str(error))
        if sound and sound[0][0].name == LAST:
            break

    if not sound and faults:
        raise InputError(f"{'; '.join(faults)}: no checkpoint is left to resume from, start anew")
    if not sound:
        return None
    path, content = max(sound, key=lambda one: one[1]["global_step"])
    for fault in faults:
        _logger.warning("%s; going on from %s, step %d", fault, path, content["global_step"])
    return path, content


def keep_best(folder: Path) -> None:
    """Copies the last checkpoint to the best one; a link would share any damage with it."""
    with atomic_path(folder / BEST) as temporary:
        shutil.copyfile(folder / LAST, temporary)
        flush_to_disk(temporary)
    flush_to_disk(folder)


def clear_leftovers(folder: Path, used: Path | None) -> None:
    """Removes temporary files of a killed process, and renames a damaged last checkpoint.

    Args:
        folder: where the checkpoints are.
        used: the checkpoint from which the run continues. If it is not the last one, then the last
            one is damaged; it is renamed, so that it does not replace an intact previous one.
    """
    for part in folder.glob(".*.part*"):
        part.unlink(missing_ok=True)
    last = folder / LAST
    if used is not None and used != last and last.exists():
        last.replace(folder / "damaged.ckpt")


def _seal(path: Path) -> None:
    """Appends the digest of a zip archive to it, as the archive's comment."""
    with path.open("r+b") as file:
        # The last two bytes of a zip archive state the length of its comment, which was empty.
        file.seek(-2, 2)
        file.write(_SEAL_BYTES.to_bytes(2, "little"))
        file.write(_SEAL)
        file.write(b"0" * 64)
    digest = _digest(path)
    with path.open("r+b") as file:
        file.seek(-64, 2)
        file.write(digest)


def _digest(path: Path) -> bytes:
    """Returns the SHA-256 of all bytes before the digest of a sealed file, in hexadecimal."""
    hasher = hashlib.sha256()
    left = path.stat().st_size - 64
    with path.open("rb") as file:
        while left > 0 and (piece := file.read(min(_PIECE, left))):
            hasher.update(piece)
            left -= len(piece)
    return hasher.hexdigest().encode()
