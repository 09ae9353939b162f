"""Intervals of a genome, and the BED files they come in. Coordinates are 0-based and half-open throughout."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dnadiff.errors import InputError

if TYPE_CHECKING:
    from dnadiff.genome.fasta import Genome

_SKIPPED = ("track", "browser")
_CHROM_HEADERS = ("chrom", "chr", "chromosome")


@dataclass(frozen=True, order=True)
class Interval:
    """The bases ``start`` to ``end - 1`` of a contig.

    Attributes:
        chrom: name of the contig.
        start: 0-based position of the first base.
        end: 0-based position after the last base.

    Raises:
        ValueError: if the name is empty, the start negative, or the end not behind the start.
    """

    chrom: str
    start: int
    end: int

    def __post_init__(self) -> None:
        if not self.chrom:
            raise ValueError(f"interval {self.start}-{self.end} has no chromosome name")
        if self.start < 0:
            raise ValueError(f"interval {self} has a negative start")
        if self.end <= self.start:
            raise ValueError(f"interval {self} is {'empty' if self.end == self.start else 'reversed'}")

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.chrom}:{self.start}-{self.end}"


@dataclass(frozen=True)
class BedRow:
    """One line of a BED file.

    Attributes:
        interval: columns 1 to 3.
        name: column 4, or "" where there is none.
        split: the column headed ``split``, or column 4 where no header names one; "" where there is none.
        line: 1-based number of the line in the file.
    """

    interval: Interval
    name: str
    split: str
    line: int


def read_bed(path: str | Path, genome: Genome) -> list[BedRow]:
    """The intervals of a BED file (plain, gzip or bgzip), in file order, checked against a genome.

    Columns are separated by tabs, or by spaces in a line without tabs. Empty lines, comments, ``track`` and ``browser``
    lines are skipped; a header line (``#chrom start end ... split``, with or without the ``#``) names the columns.

    Raises:
        InputError: naming the file and the line, for too few columns, coordinates that are not integers, reversed or
            negative intervals, and intervals that the genome does not have; or if nothing is left to read.
    """
    path = Path(path)
    rows = []
    split_column = 3
    for number, line in enumerate(_lines(path), 1):
        fields = _fields(line)
        if _is_header(fields):
            names = [field.lower() for field in fields]
            split_column = names.index("split") if "split" in names else 3
        elif line.strip() and not line.startswith("#") and fields[0] not in _SKIPPED:
            try:
                rows.append(_row(fields, split_column, number, genome))
            except ValueError as error:
                raise InputError(f"{path}, line {number}: {error}") from error
    if not rows:
        raise InputError(f"{path}: no intervals in it; a line needs at least chrom, start and end")
    return rows


def merge(intervals: list[Interval]) -> list[Interval]:
    """Sorted intervals in which those that overlap or touch have become one."""
    merged: list[Interval] = []
    for interval in sorted(intervals):
        last = merged[-1] if merged else None
        if last and last.chrom == interval.chrom and interval.start <= last.end:
            merged[-1] = Interval(last.chrom, last.start, max(last.end, interval.end))
        else:
            merged.append(interval)
    return merged


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rt", encoding="utf-8") if zipped else path.open(encoding="utf-8") as text:
            yield from text
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: truncated or damaged ({error}); copy or download it again") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file; a BED file is needed") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def _fields(line: str) -> list[str]:
    line = line.rstrip("\r\n")
    return [field.strip() for field in line.split("\t")] if "\t" in line else line.split()


def _is_header(fields: list[str]) -> bool:
    names = [field.lower() for field in fields[:3]]
    return len(names) == 3 and names[0].lstrip("# ") in _CHROM_HEADERS and names[1].endswith("start")


def _row(fields: list[str], split_column: int, line: int, genome: Genome) -> BedRow:
    if len(fields) < 3:
        raise ValueError(f"{len(fields)} column(s), at least chrom, start and end are needed")
    interval = Interval(fields[0], _integer(fields[1]), _integer(fields[2]))
    genome.flat(interval)
    name, split = (fields[i] if i < len(fields) else "" for i in (3, split_column))
    return BedRow(interval, name, split, line)


def _integer(text: str) -> int:
    if not text.removeprefix("-").isdecimal() or not text.isascii():
        raise ValueError(f"{text!r} is not an integer coordinate")
    return int(text)
