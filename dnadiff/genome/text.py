"""Lines of a text file, plain, gzip or bgzip, or one clear line about why it is not one."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from dnadiff.errors import InputError

GZIP = b"\x1f\x8b"
"""How a gzip file begins."""

BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
"""How a bgzip file ends. Without it, one that was cut between two blocks reads as if it were whole."""


def ends(path: Path) -> tuple[bytes, bytes]:
    """The first 18 bytes of a file, and as many of its last as `BGZIP_END` has."""
    with path.open("rb") as file:
        head = file.read(18)
        file.seek(max(0, path.stat().st_size - len(BGZIP_END)))
        return head, file.read()


def is_bgzip(head: bytes) -> bool:
    """Whether a file that begins so is bgzip: gzip in blocks, each with its size in a field called BC."""
    return head.startswith(GZIP) and head[12:14] == b"BC"


def lines(path: Path, what: str) -> Iterator[str]:
    """The lines of a file, with their ends, whatever its compression and its name.

    Args:
        path: the file, UTF-8.
        what: what it should be, e.g. "BED", for the error.

    Raises:
        InputError: naming the file, if it cannot be read, is damaged or truncated, or is no text.
    """
    try:
        head, tail = ends(path)
        if is_bgzip(head) and tail != BGZIP_END:
            raise InputError(
                f"{path}: truncated (the bgzip end marker is missing); copy or download it again"
            )
        zipped = head.startswith(GZIP)
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if zipped
            else path.open(encoding="utf-8") as text
        ):
            yield from text
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path}: truncated or damaged ({error}); copy or download it again"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file; a {what} file is needed") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
