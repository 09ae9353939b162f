"""Reads UCSC's .2bit files through twobitreader (the extra ``twobit``)."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dnadiff.errors import InputError
from dnadiff.genome.records import BLOCK, Letters, RecordList, Share

MAGIC = (0x1A412743).to_bytes(4, "little"), (0x1A412743).to_bytes(4, "big")
"""First bytes of a .2bit file, written on a little-endian and on a big-endian machine."""

# What twobitreader raises for a damaged file, depending on where the damage is.
_DAMAGED = (OSError, EOFError, ValueError, RuntimeError, struct.error, MemoryError)


class TwoBitReader:
    """Reads the bases of a .2bit file as text: lower case for soft-masked bases, N for unknown.

    It has the interface of `FastaReader`.

    Args:
        path: the file.
        report: called with the share of the file that has been read.

    Attributes:
        records: the records begun so far.

    Raises:
        InputError: if twobitreader is not installed, or the file is damaged.
    """

    def __init__(self, path: Path, report: Share = lambda share: None) -> None:
        self.records = RecordList(path)
        self._path = path
        self._report = report
        twobitreader = _library(path)
        with _damage_as_input_errors(path):
            # The library's own error is not among _DAMAGED; as a ValueError it is.
            try:
                self._file = twobitreader.TwoBitFile(str(path))
            except twobitreader.TwoBitFileError as error:
                raise ValueError(error) from error

    def blocks(self) -> Iterator[Letters]:
        """Yields all letters in order, at most 4 Mi at a time; see `FastaReader.blocks`.

        Raises:
            InputError: naming the file, if it is damaged or has a record without bases.
        """
        with self._file:
            with _damage_as_input_errors(self._path):
                lengths: dict[str, int] = self._file.sequence_sizes()
            total = sum(lengths.values())
            for name, length in lengths.items():
                self.records.begin(name)
                # .2bit has no lines; with one line a record there is no width to compare.
                self.records.lengthen_first_line(length, length)
                # In blocks, so that no whole chromosome is decoded to text at once.
                for start in range(0, length, BLOCK):
                    text = self._fetch(name, start, min(start + BLOCK, length))
                    self.records.bases += len(text)
                    yield Letters(text, [] if start else [0])
                    self._report(self.records.bases / total)

    def _fetch(self, name: str, start: int, end: int) -> np.ndarray:
        """Returns the letters (end - start,) uint8 of a record, positions 0-based and half-open."""
        with _damage_as_input_errors(self._path):
            text: str = self._file[name][start:end]
            # A truncated file gives a shorter slice and no error.
            if len(text) != end - start:
                raise ValueError(f"record {name} ends at base {start + len(text):,}")
            return np.frombuffer(text.encode("ascii", "replace"), np.uint8)


def _library(path: Path) -> Any:
    """Imports twobitreader; raises InputError that says how to install it if it is missing."""
    try:
        import twobitreader
    except ImportError as error:
        fasta = path.with_suffix(".fa").name
        raise InputError(
            f"{path}: .2bit needs twobitreader: pip install 'dnadiff[twobit]', "
            f"or run: twoBitToFa {path} {fasta}"
        ) from error
    return twobitreader


@contextlib.contextmanager
def _damage_as_input_errors(path: Path) -> Iterator[None]:
    """Turns what twobitreader raises for a damaged file into an `InputError` that names it."""
    try:
        yield
    except InputError:
        raise
    except _DAMAGED as error:
        raise InputError(
            f"{path}: damaged or truncated ({error}); copy or download it again"
        ) from error
