"""SHA-256 digests, in hexadecimal, of files and of bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

_PIECE = 1 << 22  # bytes read at a time


def sha256_of_file(path: Path, progress: Callable[[int, int], None] | None = None) -> str:
    """Returns the SHA-256 of a file's content.

    Args:
        path: the file.
        progress: called with (bytes read so far, bytes of the file) before each piece of a few MiB.

    Raises:
        OSError: if the file cannot be read.
    """
    return digest_of_file(path, "sha256", progress)


def digest_of_file(
    path: Path, algorithm: str, progress: Callable[[int, int], None] | None = None
) -> str:
    """Returns the checksum of a file by an algorithm of `hashlib`; see `sha256_of_file`."""
    hasher = hashlib.new(algorithm)
    size = path.stat().st_size
    done = 0
    with path.open("rb") as file:
        # In pieces, because a genome may be larger than the memory.
        while piece := file.read(_PIECE):
            if progress is not None:
                progress(done, size)
            hasher.update(piece)
            done += len(piece)
    return hasher.hexdigest()


def sha256_of_bytes(parts: bytes | Iterable[bytes]) -> str:
    """Returns the SHA-256 of bytes, or of several pieces of bytes joined in order."""
    hasher = hashlib.sha256()
    pieces = [parts] if isinstance(parts, bytes) else parts
    for piece in pieces:
        hasher.update(piece)
    return hasher.hexdigest()
