"""Reads FASTA in one pass and in little memory, whatever the length of its lines."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import numpy as np

from dnadiff.errors import InputError
from dnadiff.genome.records import (
    BLOCK,
    Letters,
    RecordList,
    Share,
    carriage_returns,
    not_fasta,
)
from dnadiff.genome.text import UTF8_MARK, as_input_errors, decode

_MAX_HEADER = 1 << 20  # bytes; what is longer is no header line
_BLANKS = b" \t\r\v\f"
_SPACE = _BLANKS + b"\n"
_BLANK_BEFORE_A_LETTER = re.compile(rb"[ \t\r\v\f](?=[^ \t\r\v\f\n])")


class FastaReader:
    """Reads the letters of a FASTA file, plain or bgzipped, from beginning to end.

    A record is its header line and all lines up to the next one. Line ends may be LF or CRLF and
    lines may have any length; blank lines, and blanks at the end of a line, are not part of the
    sequence. So a file is read as samtools reads it, and files that samtools refuses for uneven
    lines are read as well. Blank lines, and comments that begin with ``;``, may stand before the
    first header.

    Args:
        path: the file.
        report: called as the reading goes on.

    Attributes:
        records: the records begun so far.
    """

    def __init__(self, path: Path, report: Share = lambda share: None) -> None:
        self.records = RecordList(path)
        self._path = path
        self._report = report
        self._line_begins = True  # whether the next byte is the first of a line
        self._after_blank = False  # whether the last byte was a blank in a line of letters
        self._in_first_line = False  # whether the first line of the current record goes on

    def blocks(self) -> Iterator[Letters]:
        """Yields all letters in order, at most 4 MiB at a time.

        Raises:
            InputError: naming the file and, where there is one, the record, for a file that is
                damaged, is not FASTA, has a record without a name or without bases, two records of
                one name, a blank inside a line of letters, or lines that end with carriage returns
                alone.
        """
        size = self._path.stat().st_size
        with as_input_errors(self._path), self._path.open("rb") as raw:
            zipped = self._path.suffix.lower() in (".gz", ".bgz")
            file = cast(IO[bytes], gzip.GzipFile(fileobj=raw) if zipped else raw)
            at, rest = self._skip_preamble(file)

            while block := file.read(BLOCK):
                # `rest` is empty but for a header line that the last block has cut.
                data = rest + block
                whole = self._without_cut_header(data)
                if whole:
                    yield self._letters(data[:whole], at)
                at, rest = at + whole, data[whole:]
                self._report(raw.tell() / size)
            if rest:
                yield self._letters(rest, at)

    def _skip_preamble(self, file: IO[bytes]) -> tuple[int, bytes]:
        """Reads up to the first header; returns where it begins, and what was read of it."""
        at = 0
        while line := file.readline(_MAX_HEADER):
            mark = UTF8_MARK if at == 0 and line.startswith(UTF8_MARK) else b""
            at += len(mark)
            line = line.removeprefix(mark)
            if line.startswith(b">"):
                return at, line
            if _is_cut_by_returns(line):
                raise carriage_returns(self._path)
            if line.strip() and not line.startswith(b";"):
                break
            at += len(line)
        raise not_fasta(self._path)

    def _without_cut_header(self, data: bytes) -> int:
        """Returns how many bytes to read now: all but a header line whose end is still to come."""
        # Only the last line can be incomplete; lines of letters may be read in parts.
        last = data.rfind(b"\n") + 1
        begins_line = last > 0 or self._line_begins
        if not begins_line or not data.startswith(b">", last):
            return len(data)
        # Without a limit, a file without line ends would be collected in memory as one header.
        if len(data) - last > _MAX_HEADER:
            if _is_cut_by_returns(data[last:]):
                raise carriage_returns(self._path)
            raise InputError(
                f"{self._path}: a header line is longer than {_MAX_HEADER:,} bytes; "
                "a FASTA file is needed"
            )
        return last

    def _letters(self, data: bytes, at: int) -> Letters:
        """Returns the letters of some text, and where in them records begin.

        Args:
            data: the text, with whole header lines; lines of letters may be cut at either end.
            at: place of its first byte in the file.
        """
        pieces: list[bytes] = []
        begins: list[int] = []
        first = self.records.bases
        place = 0
        for start in self._header_starts(data):
            pieces.append(self._sequence(data, place, start))
            end = data.find(b"\n", start)
            place = end + 1 if end >= 0 else len(data)
            begins.append(self.records.bases - first)
            self._begin_record(data[start + 1 : place], at + place)
        pieces.append(self._sequence(data, place, len(data)))
        self._line_begins = data.endswith(b"\n")
        return Letters(np.frombuffer(b"".join(pieces), np.uint8), begins)

    def _header_starts(self, data: bytes) -> Iterator[int]:
        """Yields the places of the ``>`` of all headers."""
        if self._line_begins and data.startswith(b">"):
            yield 0
        # A ">" inside a line is no header; it is refused later, as no letter of DNA.
        place = data.find(b"\n>")
        while place >= 0:
            yield place + 1
            place = data.find(b"\n>", place + 1)

    def _begin_record(self, title: bytes, offset: int) -> None:
        """Begins a record with the header line `title`, without its ``>``."""
        if _is_cut_by_returns(title):
            raise carriage_returns(self._path)
        # bytes.split() splits at ASCII white space alone, as samtools does.
        words = title.split(maxsplit=1)
        self.records.begin(decode(words[0]) if words else "", offset)
        self._in_first_line = True
        self._after_blank = False

    def _sequence(self, data: bytes, start: int, stop: int) -> bytes:
        """Returns the letters of ``data[start:stop]``, which has no header in it."""
        if start == stop:
            return b""
        text = data[start:stop]
        self._check_blanks(text)
        # One pass in C that drops line ends and blanks: several times as fast as an array mask.
        letters = text.translate(None, _SPACE)
        if self._in_first_line:
            end = text.find(b"\n") + 1
            line = text[: end or len(text)]
            self.records.lengthen_first_line(len(line.translate(None, _SPACE)), len(line))
            self._in_first_line = end == 0
        self.records.bases += len(letters)
        return letters

    def _check_blanks(self, text: bytes) -> None:
        """Refuses blanks before a letter of the same line, because what they mean is unclear."""
        after_blank = self._after_blank
        self._after_blank = text[-1] in _BLANKS
        # A blank at the end of one block may be inside a line that the next block continues.
        if after_blank and text[0] not in _SPACE:
            raise self._blank_inside(b"")
        # A search for single bytes costs next to nothing, the pattern more than all the rest.
        if any(blank in text for blank in _BLANKS):
            found = _BLANK_BEFORE_A_LETTER.search(text)
            if found:
                raise self._blank_inside(text[: found.start()])

    def _blank_inside(self, before: bytes) -> InputError:
        """Returns the error for a blank after the text `before` in the current record."""
        bases = self.records.bases + len(before.translate(None, _SPACE))
        name, position = self.records.locate(bases)
        return InputError(
            f"{self._path}: record {name}, position {position + 1:,}: a blank or a carriage "
            "return inside a line of bases; remove it"
        )


def _is_cut_by_returns(line: bytes) -> bool:
    """Tells whether a line has a carriage return before its end, as if it were several lines."""
    return b"\r" in line.rstrip(_SPACE)
