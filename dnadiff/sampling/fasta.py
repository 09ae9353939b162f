"""A FASTA file that is written record by record, and continued where an earlier run stopped."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from dnadiff.errors import InputError, UsageError

HeaderOf = Callable[[int], str | None]
"""Returns the header of record i, without ">" and its length; None after the last record."""

_WIDTH = 60

_log = logging.getLogger(__name__)


def check_fasta_path(path: str | Path) -> None:
    """Checks that `resumable_fasta` can begin, before any long work.

    Args:
        path: of the file, or "-" for stdout.

    Raises:
        InputError: if the file exists.
        UsageError: if its name ends with .gz.
    """
    if str(path).endswith(".gz"):
        raise UsageError(f"{path}: the file is written as plain text; leave .gz out")
    if str(path) != "-" and Path(path).exists():
        raise InputError(f"{path}: exists already; remove it or choose another path")


@contextlib.contextmanager
def resumable_fasta(
    path: str | Path, header_of: HeaderOf
) -> Iterator[tuple[int, Callable[[str], None]]]:
    """Yields how many records are there already, and a function that writes the next sequence.

    Records are appended to `path`.part, which becomes `path` if the block ends without an error. A
    An existing part must begin with the same headers; an incomplete record at its end is cut off.

    Args:
        path: of the file, or "-" for stdout.
        header_of: the headers of all records.

    Raises:
        InputError: if the file exists, cannot be written, holds other records, or another process
            is writing it.
        UsageError: see `check_fasta_path`.
    """
    check_fasta_path(path)
    if str(path) == "-":
        yield 0, _record_writer(sys.stdout.write, header_of, 0)
        return
    # Records go to `path`.part first, so a file with the final name is always complete.
    part = Path(f"{path}.part")
    with _locked(part) as file:
        done = _whole_records(part, file, header_of)
        try:
            yield done, _record_writer(lambda text: _append(part, file, text), header_of, done)
        except BaseException:
            _keep_or_remove(part, file)
            raise
        # After a power cut a renamed file must not be empty.
        os.fsync(file.fileno())
        part.replace(path)


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """Opens the file to append to it, without a buffer, and keeps other processes away."""
    lock = part.with_name(f"{part.name}.lock")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock).acquire(timeout=0)
        # Without a buffer, a killed process leaves all that it has written.
        file = part.open("a+b", buffering=0)
    except Timeout as error:
        raise InputError(f"{part}: another process is writing it; choose another path") from error
    except OSError as error:
        raise InputError(
            f"{part}: cannot be written ({error.strerror}); choose another path"
        ) from error
    with held, file:
        try:
            yield file
        finally:
            lock.unlink(missing_ok=True)


def _append(part: Path, file: BinaryIO, text: str) -> None:
    """Writes all of a text."""
    data = text.encode()
    try:
        # A disk that fills up takes the beginning, and gives an error only at the next attempt.
        while data:
            data = data[file.write(data) :]
    except OSError as error:
        raise InputError(
            f"{part}: cannot be written ({error.strerror}); make room and start again"
        ) from error


def _record_writer(
    put: Callable[[str], object], header_of: HeaderOf, done: int
) -> Callable[[str], None]:
    """Returns a function that writes the next record, at once and whole."""

    def write(sequence: str) -> None:
        """Writes one sequence under the next header."""
        nonlocal done
        # One write for each record, so a kill loses at most the record that was being written.
        lines = "\n".join(sequence[i : i + _WIDTH] for i in range(0, len(sequence), _WIDTH))
        put(f">{header_of(done)} length={len(sequence)}\n{lines}\n")
        done += 1

    return write


def _whole_records(part: Path, file: BinaryIO, header_of: HeaderOf) -> int:
    """Counts the whole records of a file, and cuts off what follows them."""
    done = end = 0
    file.seek(0)
    with open(file.fileno(), "rb", closefd=False) as reader:
        # The last line may have been cut in the middle; it is not read as a header then.
        while (line := reader.readline()).endswith(b"\n"):
            header, _, length = line[1:-1].decode(errors="replace").rpartition(" length=")
            if header != header_of(done) or not length.isdigit():
                raise InputError(
                    f"{part}: record {done + 1} is not of this command ({header[:60]}...); remove "
                    "the file, or choose another path"
                )
            rows = -(-int(length) // _WIDTH)
            text = b"".join(reader.readline() for _ in range(rows))
            # A complete record has its bases and one newline per line. Without the length in the
            # header, a record cut at the end of a line would look complete.
            if len(text) != int(length) + rows:
                break
            done, end = done + 1, reader.tell()
    file.truncate(end)
    return done


def _keep_or_remove(part: Path, file: BinaryIO) -> None:
    """Logs that the records so far are kept; removes a file without any."""
    if os.fstat(file.fileno()).st_size == 0:
        part.unlink(missing_ok=True)
    else:
        _log.warning("%s: holds what was drawn so far; the same command goes on from there", part)
