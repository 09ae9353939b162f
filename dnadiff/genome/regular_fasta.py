"""Writes a regular copy of a FASTA file: one width of lines, no blanks, no byte order mark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dnadiff.errors import InputError
from dnadiff.genome.records import Record, RecordList, Share, carriage_returns, not_fasta
from dnadiff.genome.text import UTF8_MARK, decode, open_fasta

_MAX_HEADER = 1 << 20  # bytes; what is longer is no header line
_PIECE = 1 << 16  # bytes that are read at a time of a line, which may have any length
_WIDTH = 1 << 16  # letters in a line of the copy; pyfaidx takes as long for a line of any width


def write_regular(path: Path, out: IO[bytes], report: Share) -> list[Record]:
    """Copies a FASTA file with lines of equal length; its records are named 0, 1, 2, ...

    Line ends may be LF or CRLF and lines may have any length; blank lines, and blanks at the end of
    a line, are not part of the sequence. Blank lines, and comments that begin with ``;``, may stand
    before the first header.

    Args:
        path: the file, plain or compressed.
        out: where to write.
        report: called as the reading goes on.

    Returns:
        The records of the file, with the places that they have in it.

    Raises:
        InputError: as `FastaReader.blocks`.
        OSError: if `out` cannot be written.
    """
    copy = _Copy(path, out)
    for at, piece in _pieces(path, report):
        copy.add(at, piece)
    return copy.finish()


def _pieces(path: Path, report: Share) -> Iterator[tuple[int, bytes]]:
    """Yields whole headers, and lines of letters or parts of them; where each ends in the text."""
    with open_fasta(path) as (text, share):
        at = len(UTF8_MARK) if text.read(len(UTF8_MARK)) == UTF8_MARK else 0
        text.seek(at)
        begins = True
        reported = at
        while piece := text.readline(_PIECE):
            if begins and piece.startswith(b">") and not piece.endswith(b"\n"):
                piece += text.readline(_MAX_HEADER)
            begins = piece.endswith(b"\n")
            at += len(piece)
            yield at, piece
            if at - reported > _PIECE:
                report(share())
                reported = at


class _Copy:
    """Writes the copy, piece by piece."""

    def __init__(self, path: Path, out: IO[bytes]) -> None:
        self._path = path
        self._out = out
        self._records = RecordList(path)
        self._number = 0
        self._line = bytearray()  # letters of the copy's next line
        self._begins = True  # whether the next piece begins a line
        self._after_blank = False  # whether the line that the next piece continues has a blank
        self._in_first_line = False  # whether the first line of the current record goes on

    def add(self, at: int, piece: bytes) -> None:
        """Adds a piece that ends at byte `at` of the text."""
        if self._begins and piece.startswith(b">"):
            self._add_header(at, piece)
        elif self._number:
            self._add_letters(piece)
        elif self._begins:
            self._check_preamble(piece)
        self._begins = piece.endswith(b"\n")
        self._after_blank = not self._begins and piece[-1:].isspace()

    def finish(self) -> list[Record]:
        """Writes the last line; returns the records."""
        if not self._number:
            raise not_fasta(self._path)
        self._flush()
        return self._records.finish()

    def _check_preamble(self, line: bytes) -> None:
        """Refuses a line before the first header that is neither blank nor a comment."""
        if b"\r" in line.rstrip():
            raise carriage_returns(self._path)
        if line.strip() and not line.startswith(b";"):
            raise not_fasta(self._path)

    def _add_header(self, at: int, line: bytes) -> None:
        """Begins a record."""
        if b"\r" in line.rstrip():
            raise carriage_returns(self._path)
        if len(line) > _MAX_HEADER:
            raise InputError(
                f"{self._path}: a header line is longer than {_MAX_HEADER:,} bytes; "
                "a FASTA file is needed"
            )
        self._flush()
        # bytes.split() splits at ASCII white space alone, as samtools does.
        words = line[1:].split(maxsplit=1)
        self._records.begin(decode(words[0]) if words else "", at)
        # A number, because names may hold bytes that are not UTF-8.
        self._out.write(b">%d\n" % self._number)
        self._number += 1
        self._in_first_line = True

    def _add_letters(self, piece: bytes) -> None:
        """Adds letters to the current record."""
        words = piece.split()
        letters = words[0] if words else b""
        # What a blank before a letter of the same line means is unclear.
        leading = self._after_blank or piece[:1].isspace()
        if words and (leading or len(words) > 1):
            raise self._blank_inside(b"" if leading else letters)
        if letters and not letters.isalpha():
            place = next(i for i in range(len(letters)) if not letters[i : i + 1].isalpha())
            raise self._records.not_a_letter(self._records.bases + place, letters[place])

        if self._in_first_line:
            self._records.lengthen_first_line(len(letters), len(piece))
            self._in_first_line = not piece.endswith(b"\n")
        self._records.bases += len(letters)
        self._line += letters
        while len(self._line) >= _WIDTH:
            self._out.write(self._line[:_WIDTH] + b"\n")
            del self._line[:_WIDTH]

    def _flush(self) -> None:
        """Writes the last line of a record."""
        if self._line:
            self._out.write(self._line + b"\n")
            self._line.clear()

    def _blank_inside(self, before: bytes) -> InputError:
        """Returns the error for a blank after the letters `before` in the current record."""
        name, position = self._records.locate(self._records.bases + len(before))
        return InputError(
            f"{self._path}: record {name}, position {position + 1:,}: a blank or a carriage "
            "return inside a line of bases; remove it"
        )
