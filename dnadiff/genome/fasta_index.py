"""FASTA indexes (.fai) that other tools have written, compared with the file that they describe."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from dnadiff.errors import InputError
from dnadiff.genome.records import Record
from dnadiff.genome.text import as_input_errors, decode, is_bgzip

_BLOCK_BITS = 16  # of a bgzip virtual offset: the place inside a block; the bits above: the block
_HEAD = 18  # bytes by which the beginning of a bgzip block is known


def read_fai(path: Path) -> list[Record]:
    """Reads the rows of a FASTA index.

    Raises:
        InputError: naming the file and the line, if a row is not that of an index.
    """
    with as_input_errors(path):
        rows = path.read_bytes().split(b"\n")
    if not rows[-1]:
        rows.pop()  # what follows the last line end
    return [_row(path, number, row) for number, row in enumerate(rows, 1)]


def check_neighbour(path: Path, records: list[Record]) -> str | None:
    """Compares the index that lies beside a FASTA file with the file's true records.

    dnadiff does not read that index, but other tools do. One that disagrees shows that one of the
    two files is not what its owner believes.

    Args:
        path: the FASTA file.
        records: its records, as they were read.

    Returns:
        A remark if the index agrees but is older than the file, else None.

    Raises:
        InputError: if it disagrees.
    """
    neighbour = path.with_name(path.name + ".fai")
    if not neighbour.is_file():
        return None
    rows = read_fai(neighbour)
    virtual = _has_virtual_offsets(path, rows, records)
    for number, (row, record) in enumerate(zip(rows, records, strict=False), 1):
        if _compared(row, record, virtual) != _compared(record, record, virtual):
            there, here = (
                f"{r.name} with {r.length:,} bases from byte {r.offset:,}" for r in (row, record)
            )
            raise InputError(_stale(neighbour, path, f"row {number} has {there}, the file {here}"))
    if len(rows) != len(records):
        raise InputError(_stale(neighbour, path, f"{len(rows)} rows for {len(records)} records"))
    if neighbour.stat().st_mtime < path.stat().st_mtime:
        return f"{neighbour}: older than {path.name}, but agrees with it"
    return None


def _row(path: Path, number: int, line: bytes) -> Record:
    """Returns one row of an index."""
    name, *fields = decode(line.rstrip(b"\r")).split("\t")
    # Not int() alone, which also takes signs, underscores and the digits of other scripts.
    if len(fields) < 4 or not all(re.fullmatch("[0-9]{1,18}", field) for field in fields):
        raise InputError(
            f"{path}, line {number}: not a FASTA index; delete it or rebuild it with samtools faidx"
        )
    length, offset, line_bases, line_width = (int(field) for field in fields[:4])
    return Record(name, length, offset, line_bases, line_width)


def _compared(row: Record, record: Record, virtual: bool) -> tuple[str | int, ...]:
    """Returns what must agree between a row and the true record.

    How long lines are matters only where a record has several of them.
    """
    # Virtual offsets have been checked by `_has_virtual_offsets`.
    kept: list[str | int] = [row.name, row.length]
    if not virtual:
        kept.append(row.offset)
    if record.length > record.line_bases or row.length > row.line_bases:
        kept += [row.line_bases, row.line_width]
    return tuple(kept)


def _has_virtual_offsets(path: Path, rows: list[Record], records: list[Record]) -> bool:
    """Tells whether the offsets of an index are places in the compressed file.

    pyfaidx before 0.9 wrote such indexes for bgzipped files: the place of a block, 16 bits to the
    left, plus the place inside the block. samtools writes places in the uncompressed text.
    """
    if all(row.offset == record.offset for row, record in zip(rows, records, strict=False)):
        return False
    offsets = [row.offset for row in rows]
    ascending = all(before < after for before, after in pairwise(offsets))
    # Many records may begin in one block; each block is looked at once.
    blocks = sorted({offset >> _BLOCK_BITS for offset in offsets})
    with as_input_errors(path), path.open("rb") as file:
        return (
            is_bgzip(file.read(_HEAD)) and ascending and all(_is_block(file, at) for at in blocks)
        )


def _is_block(file: BinaryIO, at: int) -> bool:
    """Tells whether a bgzip block begins at byte `at` of a file."""
    file.seek(at)
    return is_bgzip(file.read(_HEAD))


def _stale(neighbour: Path, path: Path, reason: str) -> str:
    """Returns the message about an index that describes another file."""
    return (
        f"{neighbour}: stale, it does not describe {path.name} ({reason}); "
        "delete it or rebuild it with samtools faidx"
    )
