"""The store of a genome: one byte a base in a memory-mapped file, built once from FASTA.

A store belongs to a content, not to a name: its files, in the cache folder, are named by the
SHA-256 of the FASTA file. A note for each path that was opened (its size, times and SHA-256) lies
with them, so that opening a file again need not read it. A file that has changed since has other
times, is hashed again, and gets its own store.

Of several processes that start together one reads the file and the others wait for its store. The
system releases the lock of a process that dies, so a killed builder holds nobody up, and the next
one removes what it left. Whatever the locks do, files appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np
from filelock import FileLock

from dnadiff.alphabet import DNA
from dnadiff.digest import sha256_of_bytes, sha256_of_file
from dnadiff.errors import InputError
from dnadiff.files import atomic_path, cache_folder, read_json, write_json
from dnadiff.genome.container import check_container, is_twobit
from dnadiff.genome.fasta_reader import FastaReader
from dnadiff.genome.records import Record, RecordList, Share
from dnadiff.genome.text import as_input_errors
from dnadiff.genome.twobit import TwoBitReader

Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes to read in all): building a store reads the file twice."""

UNKNOWN = len(DNA)
"""Code of a base that is not a letter; the codes below it are places in ``DNA.letters``."""

SOFT_MASK = 0x80
"""Bit that is set in the code of a base written in lower case."""

_VERSION = 3
_PAGE = 4096  # bytes
_PROBED = 256  # pages of a store that are checked whenever it is opened
_NOT_A_LETTER = 0xFF
# Seconds; a file younger than the tick of its clock could change again and keep its times.
_SETTLED = 2.0


@dataclass(frozen=True)
class Counts:
    """Counts the bases of a genome by kind.

    Attributes:
        bases: all of them.
        scorable: A, C, G, T.
        unknown: N.
        ambiguous: other IUPAC codes, which are read as N.
        soft_masked: written in lower case, whatever the letter.
    """

    bases: int
    scorable: int
    unknown: int
    ambiguous: int
    soft_masked: int


@dataclass(frozen=True)
class Store:
    """Holds a genome's bases, all contigs in file order ("flat" coordinates).

    Attributes:
        digest: SHA-256 of the FASTA file, in hexadecimal.
        records: the contigs.
        counts: the number of bases of each kind.
        codes: (bases,) uint8, read only: the place of the base in ``DNA.letters``, or `UNKNOWN`,
            plus the bit `SOFT_MASK`.
        runs: (n, 2) int64, start and end of the runs of scorable bases, in flat coordinates and in
            order. Each lies in one contig; a long one may be cut into several that touch.
    """

    digest: str
    records: list[Record]
    counts: Counts
    codes: np.ndarray
    runs: np.ndarray


def open_store(path: Path, progress: Progress | None = None) -> Store:
    """Returns the store of a FASTA file; builds it if the cache folder has none for this content.

    Args:
        path: the file.
        progress: called while the store is built.

    Raises:
        InputError: if the file is not a readable FASTA of DNA, or the cache folder cannot be
            written.
    """
    check_container(path)
    note = _folder() / "paths" / f"{_path_digest(path)}.json"
    if store := _noted(note, path):
        return store

    report = _ignore_progress if progress is None else progress
    with _locked(note):
        # Another process may have built the store while this one waited.
        store = _noted(note, path) or _make(path, note, report)
    if not store:
        raise InputError(
            f"{_folder()}: the store of {path} vanished while it was opened; try again"
        )
    return store


def _ignore_progress(done: int, total: int) -> None:
    """Ignores progress."""


def _make(path: Path, note: Path, progress: Progress) -> Store | None:
    """Hashes the file, builds its store if there is none, and notes that both belong together."""
    before = _times(path)
    settled = time.time() - path.stat().st_ctime > _SETTLED
    size = before[0]

    with as_input_errors(path):
        digest = sha256_of_file(path, lambda done, _: progress(done, 2 * size))
    # The same content may have two paths, so the content has a lock of its own.
    with _locked(_StoreFiles(digest).codes) as alone:
        if not _load(digest):
            if alone:
                _clear(*_folder().glob(f".{digest[:32]}.*.part"))  # left by a killed builder
            _build(path, digest, before, lambda share: progress(int((1 + share) * size), 2 * size))
            for version in range(1, _VERSION):
                _clear(*_folder().glob(f"{digest[:32]}.v{version}.*"))

    if settled:
        with _writing():
            write_json(note, {"path": str(path), "times": before, "digest": digest})
    return _load(digest)


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[bool]:
    """Keeps other processes out of the block for the same file; yields False without locks.

    The lock file is removed at the end. Should that let two other processes in at once, they find
    what the first one has made.
    """
    with _writing():
        file.parent.mkdir(parents=True, exist_ok=True)
    # The system releases the lock of a process that dies, so no lock is ever stale.
    lock = FileLock(f"{file}.lock")
    with contextlib.suppress(OSError):
        lock.acquire()
    try:
        yield lock.is_locked
    finally:
        _clear(Path(lock.lock_file))
        lock.release()


def _clear(*files: Path) -> None:
    """Removes what can be removed."""
    for file in files:
        with contextlib.suppress(OSError):
            file.unlink()


def _folder() -> Path:
    """Returns the folder of all stores."""
    return cache_folder() / "genomes"


class _StoreFiles:
    """Names the files of the store of a content."""

    def __init__(self, digest: str) -> None:
        stem = f"{digest[:32]}.v{_VERSION}"
        self.codes = _folder() / f"{stem}.codes"
        self.runs = _folder() / f"{stem}.runs.npy"
        self.records = _folder() / f"{stem}.records.npy"
        self.about = _folder() / f"{stem}.json"


def _path_digest(path: Path) -> str:
    """Returns a name for the note of a path, which may hold any bytes."""
    return sha256_of_bytes(os.fsencode(path.resolve()))[:32]


def _times(path: Path) -> list[int]:
    """Returns size and times of a file, which change whenever its content does."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _noted(note: Path, path: Path) -> Store | None:
    """Returns the store of a file that has not changed since it was noted."""
    try:
        known = read_json(note)
    except InputError:
        return None
    if known.get("times") != _times(path):
        return None
    return _load(known["digest"]) if known.get("digest") else None


def _load(digest: str) -> Store | None:
    """Returns the store of a content; None if there is none, or its files are damaged."""
    files = _StoreFiles(digest)
    try:
        known = read_json(files.about)
        counts = Counts(**known["counts"])
        runs = np.load(files.runs)
        numbers = np.load(files.records)
        # One byte a base: another size means that the file was cut.
        if files.codes.stat().st_size != counts.bases:
            return None
        if _probe(files.codes, runs, numbers) != known["probe"]:
            return None
        names = known["names"].split("\n")
        records = [Record(name, *row) for name, row in zip(names, numbers.tolist(), strict=True)]
        codes = np.asarray(np.memmap(files.codes, np.uint8, "r"))
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Store(digest, records, counts, codes, runs)


def _probe(codes: Path, *arrays: np.ndarray) -> int:
    """Returns a CRC-32 of arrays, and of pages spread evenly over the codes.

    A disk that lost some of them would change it.
    """
    check = 0
    for array in arrays:
        check = zlib.crc32(array.tobytes(), check)
    last = max(0, codes.stat().st_size - _PAGE)
    # Read, not mapped: mapped pages would count as this process's memory.
    with codes.open("rb") as file:
        for place in np.linspace(0, last, _PROBED, dtype=np.int64).tolist():
            file.seek(place)
            check = zlib.crc32(file.read(_PAGE), check)
    return check


def _build(path: Path, digest: str, times: list[int], report: Share) -> None:
    """Writes the store of a file that had these times before it was hashed.

    The description comes last: where it is, the rest is.
    """
    files = _StoreFiles(digest)
    with _writing(), atomic_path(files.codes) as temporary:
        reader: FastaReader | TwoBitReader
        if is_twobit(path):
            reader = TwoBitReader(path, report)
        else:
            reader = FastaReader(path, temporary, report)
        with temporary.open("wb") as out:
            histogram, runs = _encode(path, reader, out)
            out.flush()
            # Without it a power cut could leave a store of the right size with zeros in it.
            os.fsync(out.fileno())
        records = reader.records.finish()
        # The digest would belong to the file before, the codes to the file after the change.
        if _times(path) != times:
            raise InputError(f"{path}: changed while it was read; try again when it is complete")
        counts = _count(histogram)
        if not counts.scorable:
            raise InputError(f"{path}: no A, C, G or T in it; a genome with known bases is needed")

        # An array of numbers and one string: a million records as JSON would take seconds to read.
        numbers = np.array([record[1:] for record in records], np.int64)
        probe = _probe(temporary, runs, numbers)
        _save(files.runs, runs)
        _save(files.records, numbers)
    facts = {
        "path": str(path),
        "digest": digest,
        "counts": asdict(counts),
        "names": "\n".join(record.name for record in records),
        "probe": probe,
    }
    with _writing():
        write_json(files.about, facts)


def _save(path: Path, array: np.ndarray) -> None:
    """Writes an array, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """Turns the errors of writing into one line that names the folder of the stores."""
    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); "
            "set the environment variable DNADIFF_CACHE to a folder with space for the genome"
        ) from error


def _encode(
    path: Path, reader: FastaReader | TwoBitReader, out: IO[bytes]
) -> tuple[np.ndarray, np.ndarray]:
    """Writes the codes of all bases.

    Returns:
        The number of each byte of the text (256,) int64, and the runs of scorable bases (n, 2)
        int64.
    """
    histogram = np.zeros(256, np.int64)
    runs = [np.empty((0, 2), np.int64)]
    done = 0
    for letters in reader.blocks():
        codes = _CODES[letters.text]
        _check_letters(reader.records, done, letters.text, codes)
        out.write(codes.data)
        # Counted by byte of the text, because the codes no longer tell R from Y or N.
        histogram += np.bincount(letters.text, minlength=len(histogram))
        runs.append(done + _runs(codes, letters.begins))
        done += len(codes)
    return histogram, np.concatenate(runs)


def _code_table() -> np.ndarray:
    """Returns the code of each byte of the text, (256,) uint8."""
    table = np.full(256, _NOT_A_LETTER, np.uint8)
    codes = dict.fromkeys(DNA.ambiguity, UNKNOWN)
    codes |= {letter: i for i, letter in enumerate(DNA.letters)}
    for letter, code in codes.items():
        table[ord(letter)] = code
        table[ord(letter.lower())] = code | SOFT_MASK
    return table


_CODES = _code_table()


def _check_letters(records: RecordList, first: int, text: np.ndarray, codes: np.ndarray) -> None:
    """Refuses a byte that is not a letter of DNA; `first` is the flat position of ``text[0]``."""
    wrong = codes == _NOT_A_LETTER
    if wrong.any():
        place = int(np.argmax(wrong))
        raise records.not_a_letter(first + place, int(text[place]))


def _runs(codes: np.ndarray, begins: list[int]) -> np.ndarray:
    """Returns start and end (n, 2) of each run of scorable bases, cut where a record begins."""
    scorable = np.zeros(len(codes) + 2, np.int8)
    scorable[1:-1] = (codes & ~np.uint8(SOFT_MASK)) < UNKNOWN
    edges = np.flatnonzero(np.diff(scorable))

    # Between two scorable bases of two records one run ends and another begins.
    cuts = np.asarray(begins, np.int64)
    cuts = cuts[(scorable[cuts] > 0) & (scorable[cuts + 1] > 0)]
    if len(cuts):
        edges = np.sort(np.concatenate((edges, cuts, cuts)))
    return edges.reshape(-1, 2)


def _count(histogram: np.ndarray) -> Counts:
    """Counts bases by kind, from the number of each byte of the text (256,)."""
    number = {chr(byte): int(histogram[byte]) for byte in range(256)}
    both = {
        letter: number[letter] + number[letter.lower()] for letter in {*DNA.letters, *DNA.ambiguity}
    }
    scorable = sum(both[letter] for letter in DNA.letters)
    total = sum(both.values())
    unknown = both[DNA.unknown]
    soft_masked = sum(number[letter.lower()] for letter in both)
    return Counts(total, scorable, unknown, total - scorable - unknown, soft_masked)
