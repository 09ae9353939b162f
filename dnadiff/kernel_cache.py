"""Compiled kernels on disk: machine code that Numba makes once and later processes load.

Numba has a disk cache of its own. A cut or empty file in it, or a full disk, ends the program with
an error, and it unpickles whatever it finds, in any folder. This cache never stops a program: a
file that cannot be read is made again, and where no file can be written every process compiles for
itself.

A compiled kernel is a pickle, and unpickling runs code. A file is therefore opened only if nobody
but the current user or root can have written it, in a folder of which the same is true. These
folders are tried, in this order:

1. ``$NUMBA_CACHE_DIR/dnadiff``, and no other if that variable is set,
2. ``__pycache__`` beside the source, where Python keeps its own compiled code,
3. ``kernels`` in `dnadiff.files.cache_folder`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import pickle
import platform
import secrets
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from dnadiff.files import cache_folder

logger = logging.getLogger(__name__)

_DIGEST_SIZE = hashlib.sha256().digest_size


def compile_kernel(
    function: Callable, *, sources: Iterable[Path] = (), announce: bool = False, **options: Any
) -> Any:
    """Returns `function` compiled by Numba on its first call, with the machine code kept on disk.

    Args:
        function: a function of a module, without a closure.
        sources: folders of Python files whose code ends up in the kernel, in addition to the
            function's own folder. If any file in one of them changes, the kernel is compiled again.
        announce: whether to log that compiling takes a while.
        **options: options of `numba.njit`.
    """
    compiled: Any = numba.njit(**options)(function)
    folders = {Path(function.__code__.co_filename).parent, *sources}
    # With NUMBA_DISABLE_JIT=1, for debuggers, Numba returns the plain function, which has no cache.
    if hasattr(compiled, "_cache"):
        compiled._cache = KernelCache(function, sorted(folders), announce)
    return compiled


class KernelCache(_Cache):
    """The machine code of one function, a file for each signature; the interface is Numba's.

    A file is a SHA-256 digest, then a pickle. The digest covers the pickle and everything that must
    be equal for the code to be valid: sources, signature, CPU and versions. A file that is cut,
    damaged or out of date is thus recognised before it is unpickled.
    """

    def __init__(self, function: Callable, sources: list[Path], announce: bool) -> None:
        self._function, self._sources, self._announce = function, sources, announce
        self._enabled = True

    @property
    def cache_path(self) -> str:
        """The folder that is tried first."""
        return str(self._folders()[0])

    def enable(self) -> None:
        """Makes the cache read and write files again."""
        self._enabled = True

    def disable(self) -> None:
        """Stops the cache from reading and writing files."""
        self._enabled = False

    def flush(self) -> None:
        """Does nothing: a recompiled kernel overwrites its file."""

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        """Returns the machine code for a signature, or None if no valid file is found."""
        target_context.refresh()
        if not self._enabled:
            return None

        identity = self._identity(sig, target_context.codegen())
        for folder in self._folders():
            path = folder / self._name(identity)
            try:
                content = _read_trusted(path)
                digest, payload = content[:_DIGEST_SIZE], content[_DIGEST_SIZE:]
                if digest != self._digest(identity, payload):
                    raise ValueError("cut, damaged, or of other sources")
                return CompileResult._rebuild(target_context, *pickle.loads(payload))
            except FileNotFoundError:
                continue
            except Exception as error:  # compiling again mends any of them
                logger.debug("compiled kernel not used: %s", _reason(path, error))

        if self._announce:
            _announce_compiling()
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Writes the machine code for a signature to the first folder that takes it."""
        # Code that holds addresses of this process is of no use to another one.
        if not self._enabled or data.lifted or data.library.has_dynamic_globals:
            return

        identity = self._identity(sig, data.library.codegen)
        payload = dumps(data._reduce())
        content = self._digest(identity, payload) + payload
        problems = []
        for folder in self._folders():
            try:
                _write_trusted(folder / self._name(identity), content)
                return
            except OSError as error:  # a full disk, a missing permission, somebody else's folder
                problems.append(_reason(folder, error))
        _warn_not_kept("; ".join(problems))

    def _folders(self) -> list[Path]:
        """Returns the folders to try, from the environment as it is now."""
        given = os.environ.get("NUMBA_CACHE_DIR")
        if given:
            return [Path(given) / "dnadiff"]
        folders = [Path(self._function.__code__.co_filename).parent / "__pycache__"]
        # A user without a home folder, as in some containers, has no cache folder either.
        with contextlib.suppress(RuntimeError):
            folders.append(cache_folder() / "kernels")
        return folders

    def _identity(self, sig: Any, codegen: Any) -> bytes:
        """Returns a text that tells apart all machine code that may be valid at the same time."""
        code = self._function.__code__
        versions = platform.python_version(), numba.__version__, llvmlite.__version__
        cpu = codegen.magic_tuple()
        return repr((code.co_filename, code.co_qualname, str(sig), cpu, versions)).encode()

    def _name(self, identity: bytes) -> str:
        """Returns the file's name, which is independent of the sources: old code is overwritten."""
        module = Path(self._function.__code__.co_filename).stem
        variant = hashlib.sha256(identity).hexdigest()[:16]
        return f"{module}.{self._function.__name__}-{variant}.kernel"

    def _digest(self, identity: bytes, payload: bytes) -> bytes:
        """Returns the digest of a file with this payload."""
        digest = hashlib.sha256(identity)
        for folder in self._sources:
            digest.update(_sources_digest(folder))
        digest.update(payload)
        return digest.digest()


@functools.cache
def _sources_digest(folder: Path) -> bytes:
    """Returns a digest of the Python files of a folder, read once in a process."""
    files = sorted(folder.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()


def _read_trusted(path: Path) -> bytes:
    """Returns the content of a file that only the current user or root can have written."""
    # First the folder: in one that others can write, even opening a file could wait for ever.
    _check_trusted(path.parent, path.parent.stat())
    with path.open("rb") as file:
        # The file as opened, and not its path, which could have been replaced meanwhile.
        _check_trusted(path, os.fstat(file.fileno()))
        return file.read()


def _write_trusted(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all, that only the current user can write."""
    # The modes are explicit, because a umask of 002 would let a whole group write.
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    _check_trusted(path.parent, path.parent.stat())

    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with open(descriptor, "wb") as file:  # noqa: PTH123 (a descriptor, which Path cannot open)
            file.write(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_trusted(path: Path, status: os.stat_result) -> None:
    """Raises PermissionError if a user other than the current one and root can write `path`."""
    if not hasattr(os, "geteuid"):  # Windows: a user's folders are closed to others by default
        return
    if status.st_uid not in (os.geteuid(), 0):
        raise PermissionError(f"{path}: belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path}: other users can write it (chmod go-w '{path}')")


def _reason(path: Path, error: Exception) -> str:
    """Returns what went wrong with a file, naming it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{path}: {error.strerror}"
    text = f"{type(error).__name__}: {error}" if not isinstance(error, OSError) else str(error)
    return text if str(path) in text else f"{path}: {text}"


@functools.cache
def _announce_compiling() -> None:
    """Logs, once in a process, why the first call takes long."""
    logger.info("compiling kernels for this CPU, once: half a minute")


@functools.cache
def _warn_not_kept(problems: str) -> None:
    """Logs, once in a process, that the next process will have to compile again."""
    logger.warning(
        "compiled kernels cannot be kept on disk, so every process compiles them anew: %s. "
        "Set DNADIFF_CACHE to a folder that only you can write",
        problems,
    )
