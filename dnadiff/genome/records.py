"""The records of a sequence file, as its readers collect them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from Bio.SeqIO.FastaIO import SimpleFastaParser

from dnadiff.errors import InputError

Share = Callable[[float], None]
"""Called with the share of a reading that is done, from 0 to 1."""

BLOCK = 1 << 22
"""Bases that are read at a time."""

_ASCII = 0x80  # bytes below it are characters that can be quoted


class Record(NamedTuple):
    """One row of a FASTA index (.fai).

    Attributes:
        name: name of the record, up to the first space.
        length: number of bases.
        offset: place of the first base in the uncompressed text, in bytes from 0.
        line_bases: bases in the record's first line.
        line_width: bytes in that line, its end included.
    """

    name: str
    length: int
    offset: int
    line_bases: int
    line_width: int


class Letters(NamedTuple):
    """Some consecutive letters of a file.

    Attributes:
        text: (n,) uint8, the letters as they are written, without line ends.
        begins: where in `text` a record begins, ascending; each is from 0 to n.
    """

    text: np.ndarray
    begins: list[int]


class RecordList:
    """The records of a file while it is read from beginning to end.

    "Flat" positions count bases from 0 through all records.

    Args:
        path: the file, for messages.

    Attributes:
        bases: bases read so far, in all records.
    """

    def __init__(self, path: Path) -> None:
        self.bases = 0
        self._path = path
        self._names: list[str] = []
        self._starts: list[int] = []
        self._geometry: list[list[int]] = []
        self._seen: set[str] = set()

    def begin(self, name: str, offset: int = 0) -> None:
        """Begins a record at the next base.

        Args:
            name: its name.
            offset: as in `Record`.

        Raises:
            InputError: if it has no name or that of an earlier record, or the record before it has
                no bases.
        """
        self._check_last()
        if not name:
            raise InputError(
                f"{self._path}: record {len(self._names) + 1} has no name; "
                "give every record a name after the '>'"
            )
        if name in self._seen:
            raise InputError(f"{self._path}: two records are called {name}; rename one of them")
        self._seen.add(name)
        self._names.append(name)
        self._starts.append(self.bases)
        self._geometry.append([offset, 0, 0])

    def lengthen_first_line(self, bases: int, width: int) -> None:
        """Adds bases, and bytes, to the first line of the current record."""
        geometry = self._geometry[-1]
        geometry[1] += bases
        geometry[2] += width

    def locate(self, flat: int) -> tuple[str, int]:
        """Returns the record of a flat position, and the 0-based position inside it."""
        # No record is empty, so starts are distinct.
        number = bisect_right(self._starts, flat) - 1
        return self._names[number], flat - self._starts[number]

    def not_a_letter(self, flat: int, byte: int) -> InputError:
        """Returns the error for a byte at a flat position that is not a letter of DNA."""
        name, position = self.locate(flat)
        shown = repr(chr(byte)) if byte < _ASCII else f"the byte {byte:#x}"
        return InputError(
            f"{self._path}: record {name}, position {position + 1:,}: {shown} is not a letter of "
            "DNA or an IUPAC code; correct it, or give another file if this is protein or RNA"
        )

    def finish(self) -> list[Record]:
        """Returns all records, after the last base.

        Raises:
            InputError: if there is no record, or the last one has no bases.
        """
        if not self._names:
            raise InputError(f"{self._path}: no records in it; a FASTA file is needed")
        self._check_last()
        # A record ends where the next one begins.
        ends = [*self._starts[1:], self.bases]
        rows = zip(self._names, self._starts, ends, self._geometry, strict=True)
        return [Record(name, end - start, *geometry) for name, start, end, geometry in rows]

    def _check_last(self) -> None:
        """Refuses a record that ends without a base."""
        if self._starts and self._starts[-1] == self.bases:
            raise InputError(f"{self._path}: record {self._names[-1]} has no bases; remove it")


def not_fasta(path: Path) -> InputError:
    """Returns the error for a text that does not begin with a record."""
    return InputError(
        f"{path}: not FASTA, its first line does not begin with '>'; a FASTA file is needed"
    )


def carriage_returns(path: Path) -> InputError:
    """Returns the error for a text whose lines end with carriage returns alone."""
    return InputError(
        f"{path}: its lines end with carriage returns only, as on old Macintosh computers; "
        f"run: tr '\\r' '\\n' < {path} > {path.stem}.unix.fa"
    )


def parse_fasta(path: Path, text: str) -> list[tuple[str, str]]:
    """Returns the name and the letters, as written, of each record of a small FASTA text.

    Raises:
        InputError: naming the file, and the record where there is one, for text that is not FASTA,
            a record without name or letters, or two records of one name.
    """
    if not text.startswith(">"):
        raise not_fasta(path)
    records: dict[str, str] = {}
    for title, letters in SimpleFastaParser(StringIO(text)):
        name = (title.split() or [""])[0]
        if not name:
            raise InputError(f"{path}: record {len(records) + 1} has no name")
        if not letters:
            raise InputError(f"{path}: record {name} has no letters")
        if name in records:
            raise InputError(f"{path}: two records are called {name}; give each its own name")
        records[name] = letters
    return list(records.items())
