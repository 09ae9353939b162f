"""Opens text files as users have them: compressed, with a byte order mark, or not quite UTF-8."""

from __future__ import annotations

import contextlib
import gzip
import io
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TextIO, cast

from dnadiff.errors import InputError
from dnadiff.signatures import SIGNATURE_BYTES, foreign_kind

GZIP = b"\x1f\x8b"
"""First bytes of a gzip file."""

BGZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
"""Last bytes of a bgzip file. Without them, a file that was cut between two blocks would read as if
it were whole.
"""


BYTE_ORDER_MARK = "\ufeff"
"""What some editors and spreadsheets write before the first character of UTF-8 text."""

UTF8_MARK = BYTE_ORDER_MARK.encode()
"""The byte order mark as bytes."""

_SNIFFED = 4096  # bytes of the text in which a NUL shows that it is no text


@contextlib.contextmanager
def open_text(path: str | Path, what: str = "text") -> Iterator[TextIO]:
    r"""Opens a text file for reading, in a ``with`` statement.

    * Plain text, gzip and bgzip are told apart by content, not by name. A pipe is read as well.
    * A UTF-8 byte order mark at the beginning is dropped. (`lines` drops one before any line.)
    * Line ends may be LF, CRLF or CR, and arrive as LF.
    * A byte that is not UTF-8, as in Latin-1 text, arrives as the four characters of its escape,
      e.g. ``\xfc``. So text that nobody asked for stops nothing, and a name with such a byte can be
      printed, and is the same name in every file that is read this way.

    Args:
        path: the file.
        what: what it should be, e.g. "BED", for the message of an error.

    Yields:
        The text, from its beginning.

    Raises:
        InputError: naming the file, if it cannot be read, is damaged or truncated, is not text, or
            is of a kind that dnadiff does not read (xz, zip, UTF-16, ...). Errors of reading that
            occur inside the ``with`` block are turned into this one.
    """
    path = Path(path)
    with as_input_errors(path), path.open("rb") as file:
        # peek() leaves the bytes unread, so that a pipe can be read from its beginning.
        head = file.peek(SIGNATURE_BYTES)[:SIGNATURE_BYTES]
        check_bgzip_end(path, head)
        raw = io.BufferedReader(gzip.GzipFile(fileobj=file)) if head.startswith(GZIP) else file

        # Checked after decompression, because BCF and web pages come compressed as well.
        sniffed = raw.peek(_SNIFFED)[:_SNIFFED]
        if kind := foreign_kind(path, sniffed[:SIGNATURE_BYTES]):
            raise InputError(f"{path}: {kind}")
        # Latin-1 text has bytes that are not UTF-8, but only binary data has NULs.
        if b"\0" in sniffed:
            raise InputError(f"{path}: not a text file; a {what} file is needed")
        with io.TextIOWrapper(raw, encoding="utf-8-sig", errors="backslashreplace") as text:
            yield cast(TextIO, text)


def lines(path: str | Path, what: str) -> Iterator[str]:
    """Yields the lines of a text file with their ends; see `open_text`.

    A byte order mark is dropped before any line, because files with one are also joined by ``cat``.
    """
    with open_text(path, what) as text:
        for line in text:
            yield line.removeprefix(BYTE_ORDER_MARK)


def decode(raw: bytes) -> str:
    r"""Returns bytes as text as `open_text` does: a byte that is not UTF-8 becomes ``\xfc``."""
    return raw.decode("utf-8", "backslashreplace")


def is_bgzip(head: bytes) -> bool:
    """Tells whether a file that begins with `head` is bgzip: gzip blocks with a field BC."""
    return head.startswith(GZIP) and head[12:14] == b"BC"


def check_bgzip_end(path: Path, head: bytes) -> None:
    """Checks that a bgzip file, which begins with `head`, has its end marker; passes others.

    Raises:
        InputError: if the marker is missing.
    """
    status = path.stat()
    if not is_bgzip(head) or not stat.S_ISREG(status.st_mode):
        return
    with path.open("rb") as file:
        file.seek(max(0, status.st_size - len(BGZIP_END)))
        tail = file.read()
    if tail != BGZIP_END:
        raise InputError(
            f"{path}: truncated (the bgzip end marker is missing); copy or download it again"
        )


@contextlib.contextmanager
def open_fasta(path: Path) -> Iterator[tuple[IO[bytes], Callable[[], float]]]:
    """Opens a FASTA file, plain or bgzipped by its name, for one reading of its bytes.

    Yields:
        The file, and a function that returns the share of it that has been read, from 0 to 1.

    Raises:
        InputError: if the file cannot be read or is damaged.
    """
    size = path.stat().st_size
    with as_input_errors(path), path.open("rb") as raw:
        zipped = path.suffix.lower() in (".gz", ".bgz")
        text = cast(IO[bytes], gzip.GzipFile(fileobj=raw) if zipped else raw)
        yield text, lambda: raw.tell() / size


@contextlib.contextmanager
def as_input_errors(path: Path) -> Iterator[None]:
    """Turns the errors of reading `path` into an `InputError` that names it; lets others pass."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path}: truncated or damaged ({error}); copy or download it again"
        ) from error
    except PermissionError as error:
        raise InputError(f"{path}: {error.strerror}; make it readable") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
