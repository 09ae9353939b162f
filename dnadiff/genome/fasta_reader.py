"""Reads FASTA through pyfaidx; a file that it cannot index is first copied in a regular form."""

from __future__ import annotations

import struct
import tempfile
import zlib
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pyfaidx import Faidx, FastaIndexingError

from dnadiff.errors import InputError
from dnadiff.genome.records import BLOCK, Letters, Record, RecordList, Share
from dnadiff.genome.regular_fasta import write_regular
from dnadiff.genome.text import as_input_errors, decode, open_fasta

_MAX_LINE = 1 << 20  # bytes; pyfaidx holds a line several times over
_LINES = 1 << 14  # between two reports of progress
_MAX_WITHIN = (1 << 16) - 1  # the last place inside a bgzip block that an offset can express

# What pyfaidx and biopython raise, beside OSError, for a file that they cannot index.
_REFUSED = (FastaIndexingError, ValueError, RuntimeError, EOFError, zlib.error, struct.error)


class FastaReader:
    """Reads the letters of a FASTA file, plain or bgzipped, from beginning to end.

    pyfaidx indexes the file and fetches the letters. Where it cannot, because of irregular white
    space, very long lines or headers that are not UTF-8, it reads a regular copy instead.

    Args:
        path: the file.
        temporary: path for temporary files, which get other suffixes and are removed at the end.
        report: called as the reading goes on.

    Attributes:
        records: the records begun so far.
    """

    def __init__(self, path: Path, temporary: Path, report: Share = lambda share: None) -> None:
        self.records = RecordList(path)
        self._path = path
        self._copy = temporary.with_suffix(".fa.part")
        self._indexes = temporary.with_suffix(".fai.part"), temporary.with_suffix(".gzi.part")
        self._report = report

    def blocks(self) -> Iterator[Letters]:
        """Yields all letters in order, at most 4 Mi at a time.

        Raises:
            InputError: naming the file and, where there is one, the record, for a file that is
                damaged, is not FASTA, has a record without a name or without bases, two records of
                one name, a blank inside a line of letters, or lines that end with carriage returns
                alone.
            OSError: if temporary files cannot be written.
        """
        try:
            faidx, records = self._open()
            with faidx:
                # The copy has the same records in the same order, under other names.
                yield from self._fetch_all(faidx, records)
        finally:
            for file in (self._copy, *self._indexes):
                file.unlink(missing_ok=True)

    def _open(self) -> tuple[_RegularFaidx, list[Record]]:
        """Returns pyfaidx's reader of the file or of its copy, and the records of the file."""
        if faidx := self._faidx(self._path):
            records = [
                Record(name, row.rlen, row.offset, row.lenc, row.lenb)
                for name, row in faidx.index.items()
            ]
            return faidx, records

        # Three readings: to index, to copy, to fetch. A regular file needs no copy.
        with self._copy.open("wb") as out:
            records = write_regular(self._path, out, lambda share: self._report((1 + share) / 3))
        faidx = self._faidx(self._copy)
        if not faidx:
            raise InputError(f"{self._path}: pyfaidx cannot index it; rewrap it, e.g. with seqkit")
        return faidx, records

    def _faidx(self, path: Path) -> _RegularFaidx | None:
        """Returns pyfaidx's reader of a file; None if it is not regular."""
        index, block_index = self._indexes
        try:
            faidx = _RegularFaidx(
                path, self._report_indexing, indexname=index, gzi_indexname=block_index, as_raw=True
            )
        except InputError:
            raise
        except OSError as error:
            # Only the system's own errors have a number.
            if error.errno is not None:
                raise
            return None
        except _REFUSED:
            return None
        if faidx.reads_right():
            return faidx
        faidx.close()
        return None

    def _report_indexing(self, share: float) -> None:
        """Reports the share of the first of three readings."""
        self._report(share / 3)

    def _fetch_all(self, faidx: _RegularFaidx, records: list[Record]) -> Iterator[Letters]:
        """Yields the letters of all records, those of small records together."""
        total = sum(record.length for record in records)
        texts: list[str] = []
        begins: list[int] = []
        size = 0
        for key, record in zip(faidx.index, records, strict=True):
            self.records.begin(record.name, record.offset)
            self.records.lengthen_first_line(record.line_bases, record.line_width)
            begins.append(size)
            start = 0
            while start < record.length:
                end = min(start + BLOCK - size, record.length)
                texts.append(self._fetch(faidx, key, start, end))
                size += end - start
                self.records.bases += end - start
                start = end
                # One array for many small records: a million arrays would take minutes.
                if size == BLOCK:
                    yield _as_letters(texts, begins)
                    self._report((2 + self.records.bases / total) / 3)
                    texts, begins, size = [], [], 0
        if size:
            yield _as_letters(texts, begins)
            self._report(1.0)

    def _fetch(self, faidx: _RegularFaidx, key: str, start: int, end: int) -> str:
        """Returns letters of a record, positions 0-based and half-open."""
        try:
            with as_input_errors(self._path):
                text = faidx.letters(key, start, end)
        except (ValueError, IndexError):
            text = ""
        if len(text) != end - start:
            raise InputError(
                f"{self._path}: pyfaidx read {len(text):,} letters of {end - start:,} from byte "
                f"{faidx.index[key].offset:,}; copy or download the file again"
            )
        return text


class _RegularFaidx(Faidx):
    """Faidx that indexes regular files only, reads them by gzip, and reports its progress.

    pyfaidx indexes some irregular lines without an error and then fetches other bases, e.g. where
    the last line of a record is longer than the first. And it would hold a line of any length.
    """

    file: Any

    def __init__(self, path: Path, report: Share, **options: Any) -> None:
        self._lines = _RegularLines(path, report)
        super().__init__(path, **options)

    def build_index(self) -> None:
        """Indexes the lines that have been checked."""
        file, self.file = self.file, self._lines
        try:
            super().build_index()
        except OSError as error:
            # pyfaidx hides the reason; it writes a temporary file before the index itself.
            reason = error.__context__ or error
            places = f"{Path(self.indexname).parent}, {tempfile.gettempdir()}"
            raise InputError(
                f"{places}: the index of {self.filename} cannot be written ({reason}); make room "
                "there, or set DNADIFF_CACHE and TMPDIR to other folders"
            ) from error
        finally:
            self.file = file

    def reads_right(self) -> bool:
        """Tells whether pyfaidx can reach all of the text."""
        if not self._bgzf:
            return True
        blocks = self.gzi_index
        if not blocks or blocks[-1].ustart + blocks[-1].ulen != self._lines.bytes:
            return False
        # biopython takes an empty block for the end of the file.
        if any(block.empty for block in blocks):
            return False
        # See `letters`: before the first base of a record there is none to begin with.
        after_full = {b.ustart for a, b in pairwise(blocks) if a.ulen > _MAX_WITHIN}
        return not any(row.offset in after_full for row in self.index.values())

    def letters(self, key: str, start: int, end: int) -> str:
        """Returns letters of a record, positions 0-based and half-open."""
        text: str
        try:
            text = self.fetch(key, start + 1, end)
        except ValueError:
            # For the first byte of a block pyfaidx asks for the end of the block before it, which
            # biopython cannot express if that has 65,536 bytes.
            text = self.fetch(key, start, end)[1:]
        return text


class _RegularLines:
    """The lines of a file, for `Faidx.build_index`; raises a ValueError at an irregular one."""

    def __init__(self, path: Path, report: Share) -> None:
        self.bytes = 0
        self._path = path
        self._report = report

    def tell(self) -> int:
        """Returns the place before the first line."""
        return 0

    def seek(self, place: int) -> None:
        """Does nothing: each iteration begins at the first line."""

    def __iter__(self) -> Iterator[bytes]:
        end = b""
        width = room = 0  # letters in the first line of a record; the most in its next line
        with open_fasta(self._path) as (text, share):
            for number in count(1):
                line = text.readline(_MAX_LINE)
                if not line:
                    return
                self.bytes += len(line)
                if line.startswith(b">"):
                    # All line ends of a regular file are like its first.
                    end = end or (b"\r\n" if line.endswith(b"\r\n") else b"\n")
                    _check_header(line, end)
                    width, room = 0, _MAX_LINE - 1
                elif end:
                    letters = line.removesuffix(end)
                    is_blank = line == b"\n"
                    if len(letters) > room or not (is_blank or letters.isalpha()):
                        raise ValueError("a line is irregular")
                    width = width or len(letters)
                    # A shorter line is the last of its record.
                    room = width if len(letters) == width else 0
                yield line
                if number % _LINES == 0:
                    self._report(share())


def _check_header(line: bytes, end: bytes) -> None:
    """Raises a ValueError for a header that pyfaidx would read in another way."""
    # pyfaidx splits at any white space of Unicode; samtools, and dnadiff, at that of ASCII.
    words = line[1:].split(maxsplit=1)
    name = line[1:].decode().split(maxsplit=1)[:1]
    if not line.endswith(end) or b"\r" in line.removesuffix(end):
        raise ValueError("the end of a header is irregular")
    if line[1:2].isspace() or [decode(word) for word in words[:1]] != name:
        raise ValueError("a name is irregular")


def _as_letters(texts: list[str], begins: list[int]) -> Letters:
    """Joins letters into one array."""
    joined = "".join(texts).encode("ascii", "replace")
    return Letters(np.frombuffer(joined, np.uint8), begins)
