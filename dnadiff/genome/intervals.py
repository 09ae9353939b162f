"""Intervals of a genome, and the BED files they come in. Coordinates are 0-based and half-open throughout."""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dnadiff.errors import InputError
from dnadiff.genome.text import lines

if TYPE_CHECKING:
    from dnadiff.genome.fasta import Genome

logger = logging.getLogger(__name__)

_SKIPPED = ("track", "browser")
_CHROM_HEADERS = ("chrom", "chr", "chromosome")


@dataclass(frozen=True, order=True)
class Interval:
    """The bases ``start`` to ``end - 1`` of a contig.

    Attributes:
        chrom: name of the contig.
        start: 0-based position of the first base.
        end: 0-based position after the last base.
        weight: how often random windows begin at one of its bases, compared with other intervals. It does not tell
            intervals apart.

    Raises:
        ValueError: if the name is empty, the start negative, the end not behind the start, or the weight not above 0.
    """

    chrom: str
    start: int
    end: int
    weight: float = field(default=1.0, compare=False)

    def __post_init__(self) -> None:
        if not self.chrom:
            raise ValueError(f"interval {self.start}-{self.end} has no chromosome name")
        if self.start < 0:
            raise ValueError(f"interval {self} has a negative start")
        if self.end <= self.start:
            raise ValueError(
                f"interval {self} is {'empty' if self.end == self.start else 'reversed'}"
            )
        if not 0 < self.weight < math.inf:
            raise ValueError(f"interval {self} has weight {self.weight}, which is not above 0")

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.chrom}:{self.start}-{self.end}"


@dataclass(frozen=True)
class BedRow:
    """One line of a BED file.

    Attributes:
        interval: columns 1 to 3, and the column headed ``weight``.
        name: column 4, or "" where there is none.
        split: the column headed ``split`` or ``fold``, or column 4 where no header names one; "" where there is none.
        line: 1-based number of the line in the file.
    """

    interval: Interval
    name: str
    split: str
    line: int


def read_bed(path: str | Path, genome: Genome, *, partial: bool = False) -> list[BedRow]:
    """The intervals of a BED file (plain, gzip or bgzip), in file order, checked against a genome.

    Columns are separated by tabs, or by spaces in a line without tabs. Empty lines, comments, ``track`` and ``browser``
    lines are skipped; a header line (``#chrom start end ... split``, with or without the ``#``) names the columns.

    Args:
        path: the file.
        genome: which contigs there are, and how long they are.
        partial: leave out the intervals of contigs that the genome does not have, unless they are all; for files that
            describe a whole assembly.

    Raises:
        InputError: naming the file and the line, for too few columns, coordinates that are not integers, reversed or
            negative intervals, weights that are not above 0, and intervals that the genome does not have; or if nothing
            is left to read.
    """
    path = Path(path)
    rows: list[BedRow] = []
    absent: list[tuple[int, list[str]]] = []
    columns = _Columns()
    for number, line in enumerate(lines(path, "BED"), 1):
        fields = _fields(line)
        if _is_header(fields):
            columns = _Columns.of(fields)
        elif line.strip() and not line.startswith("#") and fields[0] not in _SKIPPED:
            if partial and fields[0] not in genome.contigs:
                absent.append((number, fields))
            else:
                rows.append(_row(path, number, fields, columns, genome))
    if absent and not rows:
        _row(path, *absent[0], columns, genome)  # says what is wrong
    if absent:
        logger.info(
            "%s: %d intervals lie on contigs that the genome does not have: left out",
            path,
            len(absent),
        )
    if not rows:
        raise InputError(f"{path}: no intervals in it; a line needs at least chrom, start and end")
    return rows


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Sorted intervals in which those that overlap or touch have become one. Weights are forgotten."""
    merged: list[Interval] = []
    for interval in sorted(intervals):
        last = merged[-1] if merged else None
        if last and last.chrom == interval.chrom and interval.start <= last.end:
            merged[-1] = Interval(last.chrom, last.start, max(last.end, interval.end))
        else:
            merged.append(Interval(interval.chrom, interval.start, interval.end))
    return merged


def subtract(intervals: Iterable[Interval], holes: Iterable[Interval]) -> list[Interval]:
    """What is left of intervals, in their order and with their weights, when the bases of others are cut out."""
    cuts: dict[str, list[Interval]] = {}
    for hole in merge(holes):
        cuts.setdefault(hole.chrom, []).append(hole)
    return [
        piece
        for interval in intervals
        for piece in _outside(interval, cuts.get(interval.chrom, []))
    ]


def overlap(some: Iterable[Interval], others: Iterable[Interval]) -> int:
    """Number of bases that lie in intervals of both kinds, each counted once."""
    some = merge(some)
    return sum(map(len, some)) - sum(map(len, subtract(some, others)))


def _outside(interval: Interval, holes: list[Interval]) -> Iterator[Interval]:
    """The pieces of an interval between sorted holes of its contig."""
    start = interval.start
    for hole in holes[bisect_right(holes, start, key=lambda hole: hole.end) :]:
        if hole.start >= interval.end:
            break
        if hole.start > start:
            yield replace(interval, start=start, end=hole.start)
        start = hole.end
    if start < interval.end:
        yield replace(interval, start=start)


def _fields(line: str) -> list[str]:
    line = line.rstrip("\r\n")
    return [field.strip() for field in line.split("\t")] if "\t" in line else line.split()


def _is_header(fields: list[str]) -> bool:
    names = [field.lower() for field in fields[:3]]
    return (
        len(names) == 3 and names[0].lstrip("# ") in _CHROM_HEADERS and names[1].endswith("start")
    )


class _Columns(NamedTuple):
    """Where to find what a BED file may say of an interval beside its place; None for nowhere."""

    split: int = 3
    weight: int | None = None

    @classmethod
    def of(cls, header: list[str]) -> _Columns:
        names = [field.lower() for field in header]
        split = next((names.index(name) for name in ("split", "fold") if name in names), 3)
        return cls(split, names.index("weight") if "weight" in names else None)


def _row(path: Path, line: int, fields: list[str], columns: _Columns, genome: Genome) -> BedRow:
    try:
        if len(fields) < 3:
            raise ValueError(f"{len(fields)} column(s), at least chrom, start and end are needed")
        name, split = (fields[i] if i < len(fields) else "" for i in (3, columns.split))
        weight = (
            1.0 if columns.weight is None else _weight(fields[columns.weight : columns.weight + 1])
        )
        interval = Interval(fields[0], _integer(fields[1]), _integer(fields[2]), weight)
        genome.flat(interval)
    except ValueError as error:
        raise InputError(f"{path}, line {line}: {error}") from error
    return BedRow(interval, name, split, line)


def _weight(field: list[str]) -> float:
    try:
        return float(*field) if field else math.nan
    except ValueError:
        raise ValueError(f"{field[0]!r} in the weight column is not a number") from None


def _integer(text: str) -> int:
    if not text.removeprefix("-").isdecimal() or not text.isascii():
        raise ValueError(f"{text!r} is not an integer coordinate")
    return int(text)
