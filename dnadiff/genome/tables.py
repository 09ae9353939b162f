"""Tables of labelled sequences or intervals: one reader for every command that takes one."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from dnadiff.alphabet import DNA
from dnadiff.errors import InputError
from dnadiff.genome.splits import SPELLINGS
from dnadiff.genome.text import GZIP, lines

SYNONYMS = {
    "label": ("label", "class"),
    "sequence": ("sequence",),
    "chrom": ("chrom", "chromosome", "chr", "region"),
    "start": ("start",),
    "end": ("end",),
    "strand": ("strand",),
    "split": ("split",),
    "name": ("name",),
}
"""Column -> the headers that may name it, in lower case, in order of precedence."""

_INTERVAL = ("chrom", "start", "end")
MISSING_VALUES = {"", "na", "n/a", "#n/a", "<na>", "nan", "none", "null"}
"""What stands for a missing value in tables, in lower case."""

_NO_STRAND = MISSING_VALUES | {"."}  # BED writes a full stop where there is no strand
_BOM = "\ufeff"
_MAX_CELL = 2**31 - 1  # characters; longer than any chromosome
_NOT_DNA = re.compile(f"[^{DNA.letters}{''.join(DNA.ambiguity)}]")
_INTEGER = re.compile(r"-?[0-9]{1,18}")


class StrandedInterval(NamedTuple):
    """An interval of a table: contig, 0-based start, 0-based end (not included), + or -."""

    chrom: str
    start: int
    end: int
    strand: str


@dataclass(frozen=True)
class Table:
    """The cells of a labelled table as text, stripped; each method checks what it returns.

    Attributes:
        path: the file.
        names: the headers of all columns, in lower case.
        columns: those of `SYNONYMS` that the table has -> n cells; "" where a cell is empty or
            null.
        numbers: n numbers, the line of each row; in Parquet, its row. Both count from 1.
        unit: what `numbers` count: "line" or "row".
    """

    path: Path
    names: tuple[str, ...]
    columns: Mapping[str, Sequence[str]]
    numbers: Sequence[int]
    unit: str

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def has_sequences(self) -> bool:
        """Whether there is a column of sequences."""
        return "sequence" in self.columns

    @property
    def has_intervals(self) -> bool:
        """Whether there are the columns chrom, start and end."""
        return all(name in self.columns for name in _INTERVAL)

    def where(self, row: int) -> str:
        """Names row 0, 1, ... for an error message, by its file and line."""
        return f"{self.path}, {self.unit} {self.numbers[row]}"

    def labels(self) -> list[str]:
        """Returns the n class names.

        Any text is a name, "NA" and "null" too: a class may be called so, and only an empty cell or
        a null of Parquet is missing.

        Raises:
            InputError: if there is no such column, or naming the line of a name that is missing or
                cannot be printed.
        """
        # Names go into tables, FASTA headers and file names, which a tab or ESC would break.
        labels = list(self._column("label"))
        for row, label in enumerate(labels):
            if not label:
                raise InputError(
                    f"{self.where(row)}: its label is empty; write one, or remove the row"
                )
            if not label.isprintable():
                raise InputError(
                    f"{self.where(row)}: its label {label!r} has a character that cannot be printed"
                )
        return labels

    def sequences(self) -> list[str]:
        """Returns the n sequences in upper case: bases and IUPAC codes.

        Raises:
            InputError: if there is no such column, or naming the line of a sequence that is missing
                (an empty cell, NA, NaN, None, null and #N/A in any letter case) or is not DNA.
        """
        cells = self._column("sequence")
        for row, cell in enumerate(cells):
            # Spreadsheets and pandas write NA or NaN for no value; both would pass as IUPAC codes.
            if cell.lower() in MISSING_VALUES:
                found = f" ({cell!r} stands for a missing value)" if cell else ""
                raise InputError(
                    f"{self.where(row)}: no sequence{found}; write it there, or remove the row"
                )
        return upper_dna(cells, self.where)

    def intervals(self) -> list[StrandedInterval]:
        """Returns the n intervals. A strand that is missing is "+".

        Raises:
            InputError: if a column is missing, or naming the line of a cell that is missing or
                is not a coordinate or strand.
        """
        columns = [self._column(name) for name in _INTERVAL]
        strands = self.columns.get("strand", [""] * len(self))
        rows = zip(*columns, strands, strict=True)
        return [self._interval(row, *cells) for row, cells in enumerate(rows)]

    def splits(self) -> list[str] | None:
        """Returns train, valid or test for each of the n rows, or None if there is no such column.

        Raises:
            InputError: naming the line of a cell that is none of them.
        """
        if "split" not in self.columns:
            return None
        cells = self.columns["split"]
        for row, cell in enumerate(cells):
            if cell.lower() not in SPELLINGS:
                raise InputError(
                    f"{self.where(row)}: {cell!r} in the split column; write train, valid or test "
                    "there"
                )
        return [SPELLINGS[cell.lower()] for cell in cells]

    def row_names(self) -> list[str] | None:
        """Returns the n names of the rows, or None if there is no such column."""
        return list(self.columns["name"]) if "name" in self.columns else None

    def _column(self, name: str) -> Sequence[str]:
        """Returns the cells of a column; raises InputError if there is no such column."""
        if name in self.columns:
            return self.columns[name]
        hint = ""
        if name == "sequence" and self.has_intervals:
            hint = "; its chrom, start and end need a genome to be cut from"
        raise InputError(
            f"{self.path}: no column named {' or '.join(SYNONYMS[name])}; it has "
            f"{', '.join(self.names)}{hint}"
        )

    def _interval(
        self, row: int, chrom: str, start: str, end: str, strand: str
    ) -> StrandedInterval:
        """Parses one row's interval, and checks what can be checked without a genome."""
        if chrom.lower() in MISSING_VALUES:
            raise InputError(f"{self.where(row)}: no chromosome; write it there, or remove the row")
        for cell in (start, end):
            if not _INTEGER.fullmatch(cell):
                raise InputError(f"{self.where(row)}: {cell!r} is not an integer coordinate")
        # No strand is the forward one, as for a BED line without a sixth column.
        strand = "+" if strand.lower() in _NO_STRAND else strand
        if strand not in ("+", "-"):
            raise InputError(
                f"{self.where(row)}: {strand!r} in the strand column; write + or -, or leave it "
                "empty"
            )
        return StrandedInterval(chrom, int(start), int(end), strand)


def read_table(path: str | Path) -> Table:
    """Reads a labelled table: CSV, TSV, semicolons or Parquet; plain, gzip or bgzip.

    Text is UTF-8, with or without a byte order mark.

    The header decides what separates cells: a tab if there is one in it, else the first comma or
    semicolon. Columns may stand in any order, their names in any letter case; a leading # is
    ignored, and so are other columns than those of `SYNONYMS`. Coordinates are 0-based and
    half-open, as in BED. Empty lines are skipped.

    Args:
        path: the file. The suffix matters for Parquet only, in any letter case.

    Raises:
        InputError: naming the file, and the line where there is one: if it cannot be read, holds no
            row, names a column twice, or has a row with more or fewer cells than the header or with
            quotation marks that do not match.
    """
    path = Path(path)
    if ".parquet" in [suffix.lower() for suffix in path.suffixes]:
        return _read_parquet(path)
    return _read_text(path)


def upper_dna(sequences: Iterable[str], where: Callable[[int], str]) -> list[str]:
    """Returns sequences in upper case.

    Args:
        sequences: bases and IUPAC codes in any letter case.
        where: row (from 0) -> how an error message names it.

    Raises:
        InputError: naming the first sequence that is not DNA, with the letter and its 1-based
            position.
    """
    upper = [sequence.upper() for sequence in sequences]
    for row, sequence in enumerate(upper):
        if odd := _NOT_DNA.search(sequence):
            raise InputError(
                f"{where(row)}: {odd[0]!r} at position {odd.start() + 1} is not a letter of DNA; "
                "correct or remove it"
            )
    return upper


def _read_text(path: Path) -> Table:
    """Reads a table of text."""
    with _long_cells():
        rows = _rows(path)
        header = next(rows, None)
        if header is None:
            raise InputError(f"{path}: empty; its first line must name the columns")
        names = _names(path, header[0], header[1])
        wanted = _wanted(names)

        columns: dict[str, list[str]] = {name: [] for name in wanted}
        numbers = []
        for number, cells in rows:
            if len(cells) != len(names):
                raise InputError(
                    f"{path}, line {number}: {len(cells)} cells, where the header names "
                    f"{len(names)} columns; "
                    "write one cell for each"
                )
            # Only the wanted cells are kept: other columns may be long.
            numbers.append(number)
            for name, place in wanted.items():
                columns[name].append(cells[place])

    if not numbers:
        raise InputError(f"{path}: nothing but a header in it; add rows, or remove the file")
    return Table(path, names, columns, numbers, "line")


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the number and the cells of each line that is not empty, the header first."""
    # Empty lines before the header are skipped here: the header must be seen to know the separator.
    source = lines(path, "CSV, TSV or Parquet")
    header, number = "", 0
    for header in source:
        number += 1
        header = header.removeprefix(_BOM)
        if header.strip():
            break
    reader = csv.reader(chain([header], source), delimiter=_separator(header), strict=True)

    skipped, last = number - 1, number - 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"{path}, line {last + 1}: quotation marks that do not match ({error})"
            ) from error
        if cells is None:
            return
        number = skipped + reader.line_num
        # A mark that is never closed would swallow the rows up to the next one.
        if number > last + 1:
            raise InputError(
                f"{path}, line {last + 1}: a quoted cell goes on to line {number}; close its "
                "quotation mark"
            )
        last = number
        # Lines of separators alone are what a spreadsheet writes for empty rows.
        stripped = [cell.strip() for cell in cells]
        if any(stripped):
            yield number, stripped


def _separator(header: str) -> str:
    """Returns what separates cells: a tab if there is one, as tabs are rare inside cells."""
    if "\t" in header:
        return "\t"
    found = re.search("[,;]", header)
    return found[0] if found else ","


def _names(path: Path, number: int, cells: Iterable[str]) -> tuple[str, ...]:
    """Returns the column names in lower case; refuses one that occurs twice, unless it is empty."""
    names = tuple(cell.strip().lstrip("#").strip().lower() for cell in cells)
    for name, count in Counter(names).items():
        if name and count > 1:
            raise InputError(
                f"{path}, line {number}: {count} columns are named {name}; rename or remove all "
                "but one"
            )
    return names


def _wanted(names: tuple[str, ...]) -> dict[str, int]:
    """Returns the place among `names` of each column of `SYNONYMS` that is there."""
    wanted = {}
    # Several synonyms may be there, e.g. label and class: the order of SYNONYMS decides.
    for column, synonyms in SYNONYMS.items():
        found = [name for name in synonyms if name in names]
        if found:
            wanted[column] = names.index(found[0])
    return wanted


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
    """Lifts the csv module's limit of 131,072 characters per cell, which is process-wide."""
    before = csv.field_size_limit(_MAX_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read_parquet(path: Path) -> Table:
    """Reads a Parquet table, gzipped or not; only the wanted columns become text."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        raw = path.read_bytes()
        if raw.startswith(GZIP):
            raw = gzip.decompress(raw)
        read = parquet.read_table(io.BytesIO(raw))
    except (OSError, EOFError, ValueError, zlib.error, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as Parquet ({reason}); is it whole?") from error

    # Not by pandas: it would turn integers into floats where a value is missing, and 1 into "1.0".
    names = _names(path, 1, read.column_names)
    if not read.num_rows:
        raise InputError(f"{path}: no rows in it; add some, or remove the file")
    columns = {}
    for name, place in _wanted(names).items():
        columns[name] = [_as_text(value) for value in read.column(place).to_pylist()]
    return Table(path, names, columns, range(1, read.num_rows + 1), "row")


def _as_text(value: object) -> str:
    """Returns a cell of Parquet as text; "" for null and for NaN, which pandas writes for null."""
    # NaN is the one value that differs from itself.
    if value is None or value != value:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value).strip()
