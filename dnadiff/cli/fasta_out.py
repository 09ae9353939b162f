"""A FASTA file that is written record by record, goes on where it was killed, and appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from dnadiff.errors import InputError, UsageError

Headers = Callable[[int], str | None]
"""The header of record i, without ">" and without its length; None behind the last one."""

_WIDTH = 60


def check_out(out: str) -> None:
    """Whether `fasta_out` can begin, for whoever has long work to do before it.

    Raises:
        InputError: if the file exists.
        UsageError: if its name promises what is not written.
    """
    if out.endswith(".gz"):
        raise UsageError(f"--out {out}: what is written is plain text; leave .gz out")
    if out != "-" and Path(out).exists():
        raise InputError(f"{out}: exists already; remove it or choose another --out")


@contextlib.contextmanager
def fasta_out(out: str, headers: Headers) -> Iterator[tuple[int, Callable[[str], None]]]:
    """Yields how many records are there already, and a function that writes the next sequence.

    Records are appended to `out`.part, which becomes `out` if the block ends without an error. One that is found there
    must begin with the same headers; a record that was not finished is cut off.

    Args:
        out: path of the file, or "-" for stdout.
        headers: of all records.

    Raises:
        InputError: if the file exists, cannot be written, holds other records, or another process is writing it.
        UsageError: see `check_out`.
    """
    check_out(out)
    if out == "-":
        yield 0, _writer(sys.stdout.write, headers, 0)
        return
    part = Path(f"{out}.part")
    with _locked(part) as file:
        done = _whole_records(part, file, headers)
        try:
            yield done, _writer(lambda text: _append(part, file, text.encode()), headers, done)
        except BaseException:
            _leave(part, file)
            raise
        os.fsync(file.fileno())
        part.replace(out)


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """The file, to append to, without a buffer; nobody else has it."""
    lock = part.with_name(f"{part.name}.lock")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock).acquire(timeout=0)
        file = part.open("a+b", buffering=0)
    except Timeout as error:
        raise InputError(f"{part}: another process is writing it; choose another --out") from error
    except OSError as error:
        raise InputError(
            f"{part}: cannot be written ({error.strerror}); choose another --out"
        ) from error
    with held, file:
        try:
            yield file
        finally:
            lock.unlink(missing_ok=True)


def _append(part: Path, file: BinaryIO, data: bytes) -> None:
    """Writes all of it: a disk that fills up takes the beginning, and says so only at the next attempt."""
    try:
        while data:
            data = data[file.write(data) :]
    except OSError as error:
        raise InputError(
            f"{part}: cannot be written ({error.strerror}); make room and start again"
        ) from error


def _writer(put: Callable[[str], object], headers: Headers, done: int) -> Callable[[str], None]:
    """A function that writes the next record, at once and whole."""

    def write(sequence: str) -> None:
        nonlocal done
        lines = "\n".join(sequence[i : i + _WIDTH] for i in range(0, len(sequence), _WIDTH))
        put(f">{headers(done)} length={len(sequence)}\n{lines}\n")
        done += 1

    return write


def _whole_records(part: Path, file: BinaryIO, headers: Headers) -> int:
    """How many whole records the file has; cuts off what is behind them."""
    done = end = 0
    file.seek(0)
    with open(file.fileno(), "rb", closefd=False) as reader:
        while (line := reader.readline()).endswith(b"\n"):
            header, _, length = line[1:-1].decode(errors="replace").rpartition(" length=")
            if header != headers(done) or not length.isdigit():
                raise InputError(
                    f"{part}: record {done + 1} is not of this command ({header[:60]}...); remove the file, or choose"
                    " another --out"
                )
            rows = -(-int(length) // _WIDTH)
            text = b"".join(reader.readline() for _ in range(rows))
            if len(text) != int(length) + rows:
                break
            done, end = done + 1, reader.tell()
    file.truncate(end)
    return done


def _leave(part: Path, file: BinaryIO) -> None:
    """Says what is kept; a file without a record is not."""
    if os.fstat(file.fileno()).st_size == 0:
        part.unlink(missing_ok=True)
    else:
        print(
            f"{part}: holds what was drawn so far; the same command goes on from there",
            file=sys.stderr,
        )
