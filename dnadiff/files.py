"""Files that appear whole or not at all, shipped resources, and the cache folder."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dnadiff.errors import InputError

_PACKAGE = Path(__file__).parent


def resource(kind: str, name: str) -> Path:
    """Path of a shipped file, e.g. ``resource("configs", "demo.yaml")``: in the wheel, or in the source tree.

    Raises:
        InputError: if nothing of that name is shipped.
    """
    for root in (_PACKAGE / "_resources", _PACKAGE.parent):
        path = root / kind / name
        if path.exists():
            return path
    raise InputError(f"{name}: no such file among the shipped {kind}")


def cache_folder() -> Path:
    """The folder for indexes and stores: ``$DNADIFF_CACHE``, or ``dnadiff`` in the user's cache folder."""
    given = os.environ.get("DNADIFF_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dnadiff"


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path` and moves it there only if the block ends without an error.

    A reader therefore sees the old file or the new one, never a part of it. Works for a folder as well when the target
    does not exist.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{target.parent}: cannot make this folder ({error.strerror}); choose another --out"
        ) from error
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        if temporary.is_file():
            temporary.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        # A file name may hold bytes that are no UTF-8; they are written as escapes, since the
        # file itself must be readable.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all. NaN is refused: JSON has no such number."""
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
        InputError: if it holds anything, or cannot be written.
    """
    folder = Path(path)
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: not empty; choose another --out, or remove it")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, a folder is needed; choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / "writable") as probe:
            probe.touch()
        (folder / "writable").unlink()
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); choose another --out"
        ) from error
    return folder
