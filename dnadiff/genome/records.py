"""The records of a FASTA file and their letters in chunks, as pyfaidx reads them; and of a .2bit file, in one form."""

from __future__ import annotations

import contextlib
import gzip
import re
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from Bio.bgzf import BgzfReader
from Bio.SeqIO.FastaIO import SimpleFastaParser
from pyfaidx import Faidx, FastaIndexingError

from dnadiff.downloads import hint
from dnadiff.errors import InputError
from dnadiff.genome.text import BGZIP_END, GZIP, ends, is_bgzip
from dnadiff.genome.twobit import MAGIC, TwoBit

Share = Callable[[float], None]
"""Called with the share of a reading that is done, 0 to 1."""

_CHUNK = 1 << 22
_LINES = 1 << 14  # between two reports of progress
_REWRAP = "rewrap it, e.g. with seqkit seq -w 60"
_HINTS = {"not consistent": f"; {_REWRAP}", "Bad sequence name": "; give every record a name"}
_DAMAGED = (OSError, EOFError, ValueError, RuntimeError, zlib.error, struct.error, MemoryError)


class Record(NamedTuple):
    """One row of a FASTA index (.fai).

    Attributes:
        name: name of the record, up to the first space.
        length: number of bases.
        offset: place of the first base in the uncompressed text, in bytes.
        line_bases: bases in a full line.
        line_width: bytes in a full line, its end included.
    """

    name: str
    length: int
    offset: int
    line_bases: int
    line_width: int


def check_container(path: Path) -> None:
    """Checks, in no time, that a file is FASTA text, plain or bgzipped, and whole as far as its ends tell; or .2bit.

    Raises:
        InputError: if it is missing, empty, a folder, plain gzip, truncated bgzip, misnamed, or does not begin with
            ``>``.
    """
    if not path.is_file():
        advice = hint(path) or "a FASTA file is needed"
        raise InputError(f"{path}: {'not a file' if path.exists() else 'no such file'}; {advice}")
    head, tail = _ask(path, ends, path)
    zipped = head.startswith(GZIP)
    named = path.suffix.lower() in (".gz", ".bgz")
    if not head:
        raise InputError(f"{path}: empty; a FASTA file is needed")
    if head[:4] in MAGIC:
        return
    if zipped and not named:
        raise InputError(
            f"{path}: compressed, but its name does not say so; rename it to {path.name}.gz"
        )
    if named and not zipped:
        raise InputError(f"{path}: not compressed, but its name says so; rename it to {path.stem}")
    if zipped and not is_bgzip(head):
        raise InputError(
            f"{path}: plain gzip, which cannot be indexed; run: gunzip {path} && bgzip {path.stem}"
        )
    if zipped and tail != BGZIP_END:
        raise InputError(
            f"{path}: truncated (the bgzip end marker is missing); copy or download it again"
        )
    start = _ask(path, _first_text, path)
    if not start.startswith((b">", b";")):
        raise InputError(
            f"{path}: not FASTA, its first line does not begin with '>'; a FASTA file is needed"
        )


@contextlib.contextmanager
def indexed(
    path: Path, report: Share = lambda share: None
) -> Iterator[tuple[Faidx | TwoBit, list[Record]]]:
    """A reader of a FASTA or .2bit file, and its records in file order.

    The index is made anew from the text, in a temporary folder, so that no old index can be believed and nothing is
    written beside the file.

    Raises:
        InputError: for a file that cannot be indexed (uneven lines, a record without a name, damaged blocks, no text),
            and for records that are empty or have the same name.
    """
    if ends(path)[0][:4] in MAGIC:
        with _ask(path, TwoBit, path) as twobit:
            records = [
                Record(name, length, 0, length, length) for name, length in twobit.lengths.items()
            ]
            _check_records(path, records)
            yield twobit, records
        return
    with tempfile.TemporaryDirectory(prefix="dnadiff-") as folder:
        names = Path(folder) / "fai", Path(folder) / "gzi"
        options = {"as_raw": True, "duplicate_action": "first"}
        faidx = _ask(
            path, _Faidx, path, report, indexname=names[0], gzi_indexname=names[1], **options
        )
        with faidx:
            records = read_fai(names[0])
            _check_records(path, records)
            yield faidx, records


def parse_fasta(path: Path, text: str) -> list[tuple[str, str]]:
    """Name and letters, as written, of each record of a small FASTA text.

    Raises:
        InputError: naming the file, and the record where there is one: not FASTA, a record without name or letters, two
            of one name.
    """
    if not text.startswith(">"):
        raise InputError(
            f"{path}: not FASTA, its first line does not begin with '>'; a FASTA file is needed"
        )
    records: dict[str, str] = {}
    for title, letters in SimpleFastaParser(StringIO(text)):
        name = (title.split() or [""])[0]
        if not name or not letters:
            raise InputError(
                f"{path}: record {name or len(records) + 1} has no {'letters' if name else 'name'}"
            )
        if name in records:
            raise InputError(f"{path}: two records are called {name}; give each its own name")
        records[name] = letters
    return list(records.items())


def read_fai(path: Path) -> list[Record]:
    """The rows of a FASTA index.

    Raises:
        InputError: naming the file and the line, if a row is not that of an index.
    """
    records = []
    for number, line in enumerate(
        _ask(path, path.read_bytes).decode("utf-8", "replace").splitlines(), 1
    ):
        name, *numbers = line.split("\t")
        if len(numbers) < 4 or not all(re.fullmatch("[0-9]{1,18}", field) for field in numbers):
            raise InputError(
                f"{path}, line {number}: not a FASTA index; delete it or rebuild it with samtools faidx"
            )
        records.append(Record(name, *(int(field) for field in numbers[:4])))
    return records


def check_neighbour(path: Path, records: list[Record]) -> str | None:
    """Compares the index that lies beside a FASTA file with the file's true records.

    dnadiff does not read that index, but other tools do, and one that disagrees says that one of the two files is not
    what its owner believes.

    Returns:
        a remark if the index agrees but is older than the file, else None.

    Raises:
        InputError: if it disagrees.
    """
    neighbour = path.with_name(path.name + ".fai")
    if not neighbour.is_file():
        return None
    rows = read_fai(neighbour)
    for i, (row, record) in enumerate(zip(rows, records, strict=False)):
        if _essence(row) != _essence(record):
            there, here = (
                f"{r.name} with {r.length:,} bases from byte {r.offset:,}" for r in (row, record)
            )
            raise InputError(_stale(neighbour, path, f"row {i + 1} has {there}, the file {here}"))
    if len(rows) != len(records):
        raise InputError(_stale(neighbour, path, f"{len(rows)} rows for {len(records)} records"))
    if neighbour.stat().st_mtime < path.stat().st_mtime:
        return f"{neighbour}: older than {path.name}, but agrees with it"
    return None


def chunks(path: Path, faidx: Faidx | TwoBit, record: Record) -> Iterator[np.ndarray]:
    """The letters of a record as uint8 arrays of at most 4 Mi bases, in order.

    Raises:
        InputError: if they cannot be read, or are not as many as the index says.
    """
    for start in range(0, record.length, _CHUNK):
        end = min(start + _CHUNK, record.length)
        text = _ask(path, faidx.fetch, record.name, start + 1, end).encode("ascii", "replace")
        if len(text) != end - start:
            raise InputError(
                f"{path}: record {record.name} cannot be read past base {start + len(text):,}; rewrap it"
            )
        yield np.frombuffer(text, np.uint8)


class _Faidx(Faidx):
    """Faidx, but indexing reports its progress."""

    file: Any

    def __init__(self, path: Path, report: Share, **options: Any) -> None:
        self._report = report
        super().__init__(path, **options)

    def build_index(self) -> None:
        """Lets the file be read through a proxy meanwhile."""
        file, self.file = (
            self.file,
            _Watched(self.file, Path(self.filename).stat().st_size, self._report),
        )
        try:
            super().build_index()
        finally:
            self.file = file


class _Watched:
    """A file, plain or bgzip, whose lines are counted as they are read."""

    def __init__(self, file: Any, size: int, report: Share) -> None:
        self._file, self._size, self._report = file, size, report

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __iter__(self) -> Iterator[bytes]:
        virtual = isinstance(
            self._file, BgzfReader
        )  # its places are those of blocks, and within blocks (16 bits)
        for number, line in enumerate(self._file):
            if number % _LINES == 0:
                self._report((self._file.tell() >> 16 * virtual) / self._size)
            yield line


def _ask(path: Path, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a reader of `path`, and turns whatever it raises into one line about the file."""
    try:
        return function(*args, **kwargs)
    except InputError:
        raise
    except FastaIndexingError as error:
        said = " ".join(str(error).split()).rstrip(".")
        hint = next((hint for words, hint in _HINTS.items() if words in said), "")
        raise InputError(f"{path}: {said}{hint}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text; a FASTA file is needed") from error
    except PermissionError as error:
        raise InputError(f"{path}: {error.strerror}; make it readable") from error
    except _DAMAGED as error:
        if "during fasta indexing" in str(
            error
        ):  # pyfaidx about uneven lines of a kind that it did not foresee
            raise InputError(
                f"{path}: the lines of a record are not of one length; {_REWRAP}"
            ) from error
        raise InputError(
            f"{path}: damaged or truncated ({error}); copy or download it again"
        ) from error


def _first_text(path: Path) -> bytes:
    """The beginning of the text, white space left off."""
    with gzip.open(path) if path.suffix.lower() in (".gz", ".bgz") else path.open("rb") as file:
        return file.read(1 << 16).lstrip()


def _check_records(path: Path, records: list[Record]) -> None:
    seen: set[str] = set()
    for record in records:
        if record.name in seen:
            raise InputError(f"{path}: two records are called {record.name}; rename one of them")
        if not record.length:
            raise InputError(f"{path}: record {record.name} has no bases; remove it")
        seen.add(record.name)


def _essence(row: Record) -> tuple[str | int, ...]:
    """What must agree: how long lines are matters only where there are several."""
    return row if row.length > row.line_bases else row[:3]


def _stale(neighbour: Path, path: Path, reason: str) -> str:
    return f"{neighbour}: stale, it does not describe {path.name} ({reason}); delete it or rebuild it with samtools faidx"
