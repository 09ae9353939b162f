"""Writes files that appear whole or not at all; finds shipped resources and the cache folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dnadiff.errors import InputError

_PACKAGE = Path(__file__).parent


def resource(kind: str, name: str) -> Path:
    """Returns the path of a shipped file, in the wheel or in the source tree.

    Args:
        kind: the folder, "configs" or "data".
        name: of the file, such as "demo.yaml".

    Raises:
        InputError: if nothing of that name is shipped.
    """
    for root in (_PACKAGE / "_resources", _PACKAGE.parent):
        path = root / kind / name
        if path.exists():
            return path
    raise InputError(f"{name}: no such file among the shipped {kind}")


def cache_folder() -> Path:
    """Returns the folder for indexes and stores.

    It is ``$DNADIFF_CACHE``, or else ``dnadiff`` in the user's cache folder.
    """
    # An empty variable counts as unset, as for the XDG variables.
    given = os.environ.get("DNADIFF_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dnadiff"


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path next to `path` and moves it there if the block ends without an error.

    A reader therefore sees the old file or the new one, never a part of it. The new file has the
    permissions that the umask gives to new files, whatever the writer of the block gave it. A
    folder can be written in the same way if the target does not exist.

    Raises:
        InputError: if the folder that `path` is in cannot be made.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{target.parent}: cannot make this folder ({error.strerror}); choose another"
        ) from error

    # Next to the target, because a move is atomic only within one file system.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        if temporary.is_file():
            temporary.chmod(_mode_of_new_files(temporary))
        temporary.replace(target)
    finally:
        # After a successful move there is nothing left to remove.
        if temporary.is_file():
            temporary.unlink()
        elif temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)


def _mode_of_new_files(beside: Path) -> int:
    """Returns the permissions that a new file gets here, by making one.

    The umask can only be read by setting it, which would affect all threads of the process.
    """
    probe = beside.with_name(f"{beside.name}.mode")
    probe.touch()
    try:
        return stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink()


def flush_to_disk(path: Path) -> None:
    """Waits until a file, or the list of files of a folder, would survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot do this for folders; all others report a true failure.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        # The text may name a file with bytes that are not UTF-8; they are written as escapes, so
        # that the file itself is valid UTF-8.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all.

    Raises:
        ValueError: for NaN and infinity, which JSON cannot express.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file.

    Raises:
        InputError: naming the file, if it is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not a JSON file ({error})") from error


def empty_folder(path: str | os.PathLike[str]) -> Path:
    """Makes the folder `path`, which must be absent or empty, and checks that it can be written to.

    Raises:
        InputError: if there is anything in it, or if it cannot be written.
    """
    folder = Path(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise not_empty(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / "writable") as probe:
            probe.touch()
        (folder / "writable").unlink()
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); choose another folder"
        ) from error
    return folder


def not_empty(folder: Path) -> InputError:
    """Returns the error for a path where an empty folder is needed."""
    if folder.is_dir():
        return InputError(f"{folder}: not empty; choose another folder, or remove it")
    return InputError(f"{folder}: is a file, a folder is needed; choose another name")
