"""Reads UCSC's .2bit files by twobitreader (the extra ``twobit``), as `fasta_reader` does FASTA."""

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
"""How a .2bit file begins, on a machine of either byte order."""

# What twobitreader raises for a damaged file, depending on where the damage is.
_DAMAGED = (OSError, EOFError, ValueError, RuntimeError, struct.error, MemoryError)


class TwoBitReader:
    """Reads the letters of a .2bit file: lower case is the soft mask, N a block of unknown bases.

    Args:
        path: the file.
        report: called as the reading goes on.

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
                for start in range(0, length, BLOCK):
                    text = self._fetch(name, start, min(start + BLOCK, length))
                    self.records.bases += len(text)
                    yield Letters(text, [] if start else [0])
                    self._report(self.records.bases / total)

    def _fetch(self, name: str, start: int, end: int) -> np.ndarray:
        """Returns the letters (end - start,) uint8 of a record, positions 0-based and half-open."""
        with _damage_as_input_errors(self._path):
            text: str = self._file[name][start:end]
            if len(text) != end - start:
                raise ValueError(f"record {name} ends at base {start + len(text):,}")
            return np.frombuffer(text.encode("ascii", "replace"), np.uint8)


def _library(path: Path) -> Any:
    """Imports twobitreader, or says how to get it."""
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
    """Turns what twobitreader raises for a damaged file into one line about it."""
    try:
        yield
    except InputError:
        raise
    except _DAMAGED as error:
        raise InputError(
            f"{path}: damaged or truncated ({error}); copy or download it again"
        ) from error
