"""BED files: intervals with a name, a split and a weight, checked against a genome."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dnadiff.errors import InputError
from dnadiff.genome.contigs import find_contig
from dnadiff.genome.fasta import Genome
from dnadiff.genome.intervals import Interval
from dnadiff.genome.text import lines

logger = logging.getLogger(__name__)

_BROWSER_KEYWORDS = ("track", "browser")
_CHROM_HEADERS = ("chrom", "chr", "chromosome")
_SPLIT_HEADERS = ("split", "fold")
_PLACE_HEADERS = (*_CHROM_HEADERS, "start", "end", "chromstart", "chromend")
_KNOWN_HEADERS = {*_PLACE_HEADERS, *_SPLIT_HEADERS, "weight"}
_NAMED_CONTIGS = 10  # contigs that a note names; further ones are only counted


@dataclass(frozen=True)
class BedRow:
    """One line of a BED file.

    Attributes:
        interval: columns 1 to 3, and the column headed ``weight``.
        name: column 4, or "" where there is none.
        split: the column headed ``split`` or ``fold``, or column 4 where no header names one; ""
            where there is none.
        line: 1-based number of the line in the file.
    """

    interval: Interval
    name: str
    split: str
    line: int


def read_bed(path: str | Path, genome: Genome, *, partial: bool = False) -> list[BedRow]:
    """Reads the intervals of a BED file (plain, gzip or bgzip), in file order.

    Columns are separated by tabs, or by blanks in a line without tabs. Empty lines, comments,
    ``track`` and ``browser`` lines are skipped. A header line (``#chrom start end ... split``, with
    or without the ``#``) names the columns. Intervals of no bases are skipped, and the log says how
    many there are.

    Args:
        path: the file.
        genome: its contigs and their lengths.
        partial: leave out intervals on contigs that the genome does not have, unless that leaves
            none; for files that describe a whole assembly. The log names these contigs.

    Raises:
        InputError: if a line has too few columns, coordinates that are not integers, a reversed or
            negative interval, a blank in the name of its contig, a weight that is not above 0, or
            an interval that the genome does not have; or if no interval is left. The message names
            the file and the line.
    """
    path = Path(path)
    rows: list[BedRow] = []
    empty: list[int] = []
    absent: list[BedRow] = []
    columns = _Columns()
    for number, line in enumerate(lines(path, "BED"), 1):
        fields = _fields(line)
        # One place adds the file and line to every error of the functions below.
        try:
            if _is_header(fields):
                columns = _Columns.of(fields)
            elif not _is_remark(fields):
                row = _parse(fields, number, columns)
                if row is None:
                    empty.append(number)
                elif partial and _is_foreign(row, genome):
                    absent.append(row)
                else:
                    genome.flat(row.interval)  # raises if the contig is absent or shorter
                    rows.append(row)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}") from error

    _check_not_all_absent(path, rows, absent, genome)
    if absent:
        logger.info("%s", _absent_note(path, absent, genome))
    if empty:
        logger.info(
            "%s: %d interval(s) of no bases skipped, the first on line %d",
            path,
            len(empty),
            empty[0],
        )
    if not rows:
        raise InputError(f"{path}: no intervals in it; a line needs at least chrom, start and end")
    return rows


def _fields(line: str) -> list[str]:
    """Splits a line into columns: at tabs if it has one, otherwise at blanks."""
    line = line.rstrip("\r\n")
    if "\t" not in line:
        return line.split()
    return [field.strip() for field in line.split("\t")]


def _is_header(fields: list[str]) -> bool:
    """Tells whether a line names the columns, even with a blank where a tab should be."""
    # Joined and split again: a header with a wrong separator must not pass for data.
    names = " ".join(_header_names(fields)[:3]).split()
    return len(names) >= 3 and names[0] in _CHROM_HEADERS and names[1].endswith("start")


def _header_names(fields: list[str]) -> list[str]:
    """Returns the column names of a header line, in lower case, without the leading ``#``."""
    if fields[:1] == ["#"]:
        fields = fields[1:]
    return [field.lower().lstrip("# ") for field in fields]


def _is_remark(fields: list[str]) -> bool:
    """Tells whether a line is empty, a comment, or a setting of a genome browser."""
    if not any(fields):
        return True
    words = fields[0].split()
    return bool(words) and (words[0].startswith("#") or words[0] in _BROWSER_KEYWORDS)


class _Columns(NamedTuple):
    """Positions, from 0, of the columns of the split and the weight; None without such a column."""

    split: int = 3
    weight: int | None = None

    @classmethod
    def of(cls, header: list[str]) -> _Columns:
        """Finds the columns that a header names.

        Raises:
            ValueError: if a blank joins two names, which would hide a column.
        """
        names = _header_names(header)
        for name in names:
            words = name.split()
            if len(words) > 1 and _KNOWN_HEADERS & set(words):
                raise ValueError(
                    f"{name!r} in the header: separate the columns by tabs, not blanks"
                )

        split = next((names.index(name) for name in _SPLIT_HEADERS if name in names), 3)
        weight = names.index("weight") if "weight" in names else None
        return cls(split, weight)


def _parse(fields: list[str], line: int, columns: _Columns) -> BedRow | None:
    """Parses the columns of a line; None for an interval of no bases.

    Raises:
        ValueError: if they are not an interval.
    """
    if len(fields) < 3:
        raise ValueError(f"{len(fields)} column(s), at least chrom, start and end are needed")
    # A blank inside a field shows a line that mixes tabs and blanks: its columns would be shifted.
    chrom = fields[0]
    if len(chrom.split()) > 1:
        raise ValueError(
            f"{chrom!r} in the column of the contig: separate the columns by tabs, not blanks"
        )
    start, end = _integer(fields[1]), _integer(fields[2])
    # UCSC writes an insertion point as an interval of no bases: valid BED, but of no use.
    if start == end >= 0:
        return None

    weight = 1.0
    if columns.weight is not None:
        weight = _weight(_column(fields, columns.weight))
    interval = Interval(chrom, start, end, weight)
    return BedRow(interval, _column(fields, 3), _column(fields, columns.split), line)


def _column(fields: list[str], number: int) -> str:
    """Returns a column of a line, "" if the line is shorter."""
    return fields[number] if number < len(fields) else ""


def _weight(text: str) -> float:
    """Parses a weight; `Interval` checks that it is above 0."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} in the weight column is not a number") from None


def _integer(text: str) -> int:
    """Parses a coordinate. ``int`` alone would also take 1_000 and digits of other scripts."""
    if not text.removeprefix("-").isdecimal() or not text.isascii():
        raise ValueError(f"{text!r} is not an integer coordinate")
    return int(text)


def _is_foreign(row: BedRow, genome: Genome) -> bool:
    """Tells whether the genome lacks a contig, under any of its names.

    A contig that the genome has under another name (1 for chr1) is not foreign: it is an error.
    """
    return find_contig(row.interval.chrom, genome.contigs) is None


def _check_not_all_absent(
    path: Path, rows: list[BedRow], absent: list[BedRow], genome: Genome
) -> None:
    """Refuses a file none of whose contigs the genome has: it belongs to another genome.

    Raises:
        InputError: naming the first line.
    """
    if not absent or rows:
        return
    # `Genome.flat` raises here; its message suggests names that the genome has.
    try:
        genome.flat(absent[0].interval)
    except ValueError as error:
        raise InputError(f"{path}, line {absent[0].line}: {error}") from error


def _absent_note(path: Path, absent: list[BedRow], genome: Genome) -> str:
    """Says which contigs of a file the genome does not have, and how many intervals each has."""
    counts = Counter(row.interval.chrom for row in absent)
    named = [f"{chrom} ({count})" for chrom, count in counts.most_common(_NAMED_CONTIGS)]
    if len(counts) > _NAMED_CONTIGS:
        named.append(f"and {len(counts) - _NAMED_CONTIGS} more contigs")
    return (
        f"{path}: {len(absent)} intervals lie on contigs that the genome does not have, "
        f"and are left out: {', '.join(named)}"
    )
