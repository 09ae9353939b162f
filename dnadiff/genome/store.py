"""The store of a genome: one byte a base in a memory-mapped file, built once from FASTA, kept in the cache folder.

A store belongs to a content, not to a name: its files are called by the SHA-256 of the FASTA file. Beside them lies a
note for each path that was opened (its size, times and SHA-256), so that opening a file again need not read it. A file
that has changed since, in whatever way, has other times, is hashed again, and gets its own store.

Of processes that start together one reads the file, and the others wait for its store. The system itself lets go of a
lock when its holder dies, so a killed builder holds nobody up, and the next one removes what it left behind. Whatever
the locks do, files appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock

from dnadiff.alphabet import DNA
from dnadiff.errors import InputError
from dnadiff.files import atomic_path, cache_folder, read_json, write_json
from dnadiff.genome.records import Record, Share, check_container, chunks, indexed

Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes to read in all): building a store reads the file thrice."""

UNKNOWN = len(DNA)
"""Code of a base that is not a letter; the codes below it are places in ``DNA.letters``."""

SOFT_MASK = 0x80
"""Bit that is set in the code of a base written in lower case."""

_VERSION = 2
_PIECE = 1 << 24  # bytes that are hashed at a time
_PAGE = 4096  # bytes
_PROBED = 256  # pages of a store that are checked whenever it is opened
_NOT_A_LETTER = 0xFF
_SETTLED = 2.0  # seconds; a file younger than its clock's tick could change again without its times showing it


@dataclass(frozen=True)
class Counts:
    """How many bases of a genome are what.

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
    """A genome's bases, all contigs after one another in file order ("flat" coordinates).

    Attributes:
        digest: SHA-256 of the FASTA file, in hexadecimal.
        records: the contigs.
        counts: what its bases are.
        codes: (bases,) uint8, read only: 0..3 a place in ``DNA.letters``, 4 unknown, plus the soft-mask bit.
        runs: (n, 2) int64, start and end of the runs of scorable bases, in flat coordinates and in order. Each lies in
            one contig; a long one may be cut into several that touch.
    """

    digest: str
    records: list[Record]
    counts: Counts
    codes: np.ndarray
    runs: np.ndarray


def open_store(path: Path, progress: Progress | None = None) -> Store:
    """The store of a FASTA file, built now if the cache folder has none for this content.

    Args:
        path: the file.
        progress: told how far the building is, if there is anything to build.

    Raises:
        InputError: if the file is not a readable FASTA of DNA, or the cache folder cannot be written.
    """
    check_container(path)
    note = (
        _folder()
        / "paths"
        / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}.json"
    )
    if store := _noted(note, path):
        return store
    with _alone(note):
        # Whoever held the lock has perhaps made the store meanwhile.
        store = _noted(note, path) or _make(
            path, note, (lambda done, total: None) if progress is None else progress
        )
    if not store:
        raise InputError(
            f"{_folder()}: the store of {path} vanished while it was opened; try again"
        )
    return store


def _make(path: Path, note: Path, progress: Progress) -> Store | None:
    """Hashes the file, builds its store if there is none, and notes that the two belong together."""
    before = _times(path)
    settled = time.time() - path.stat().st_ctime > _SETTLED

    def reading(number: int) -> Share:
        return lambda share: progress(int((number + share) * before[0]), 3 * before[0])

    digest = _sha256(path, reading(0))
    with _alone(_files(digest)[0]) as alone:  # the same content may have two paths
        if not _load(digest):
            _clear(
                *(_folder().glob(f".{digest[:32]}.*.part") if alone else ())
            )  # of a killed builder
            _build(path, digest, before, reading(1), reading(2))
            for version in range(1, _VERSION):
                _clear(*_folder().glob(f"{digest[:32]}.v{version}.*"))
    if settled:
        with _writing():
            write_json(note, {"path": str(path), "times": before, "digest": digest})
    return _load(digest)


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[bool]:
    """Inside, no other process is inside for the same file; gives False where the system has no locks.

    The lock is removed at the end. Should that let two others in at once, they find what the first has made.
    """
    with _writing():
        file.parent.mkdir(parents=True, exist_ok=True)
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
    return cache_folder() / "genomes"


def _files(digest: str) -> tuple[Path, Path, Path]:
    stem = f"{digest[:32]}.v{_VERSION}"
    return _folder() / f"{stem}.codes", _folder() / f"{stem}.runs.npy", _folder() / f"{stem}.json"


def _times(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _noted(note: Path, path: Path) -> Store | None:
    """The store of a file that has not changed since it was noted."""
    try:
        known = read_json(note)
    except InputError:
        return None
    digest = known.get("digest") if known.get("times") == _times(path) else None
    return _load(digest) if digest else None


def _sha256(path: Path, report: Share) -> str:
    digest = hashlib.sha256()
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                report((file.tell() - len(piece)) / size)
                digest.update(piece)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _load(digest: str) -> Store | None:
    """The store of a content, or None where there is none, or its files do not fit one another or are damaged."""
    codes, runs, about = _files(digest)
    try:
        known = read_json(about)
        counts = Counts(**known["counts"])
        found = np.load(runs)
        if codes.stat().st_size != counts.bases or _probe(codes, found) != known["probe"]:
            return None
        records = [Record(*row) for row in known["records"]]
        return Store(digest, records, counts, np.asarray(np.memmap(codes, np.uint8, "r")), found)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _probe(codes: Path, runs: np.ndarray) -> int:
    """CRC-32 of the runs and of pages spread evenly over the codes: what a disk that lost them would change."""
    check = zlib.crc32(runs.tobytes())
    with codes.open(
        "rb"
    ) as file:  # read, not mapped: what is mapped would count as this process's memory
        for place in np.linspace(
            0, max(0, codes.stat().st_size - _PAGE), _PROBED, dtype=np.int64
        ).tolist():
            file.seek(place)
            check = zlib.crc32(file.read(_PAGE), check)
    return check


def _build(path: Path, digest: str, times: list[int], indexing: Share, encoding: Share) -> None:
    """Writes the store of a file that had these times before it was hashed.

    The description comes last: where it is, the rest is.
    """
    codes, runs, about = _files(digest)
    with indexed(path, indexing) as (faidx, records), _writing(), atomic_path(codes) as temporary:
        with temporary.open("wb") as out:
            histogram, found = _encode(path, faidx, records, out, encoding)
            out.flush()
            os.fsync(out.fileno())
        if _times(path) != times:
            raise InputError(f"{path}: changed while it was read; try again when it is complete")
        counts = _count(histogram)
        if not counts.scorable:
            raise InputError(f"{path}: no A, C, G or T in it; a genome with known bases is needed")
        probe = _probe(temporary, found)
        with atomic_path(runs) as beside, beside.open("wb") as file:
            np.save(file, found)
    facts = {
        "path": str(path),
        "digest": digest,
        "counts": asdict(counts),
        "records": records,
        "probe": probe,
    }
    with _writing():
        write_json(about, facts)


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); set DNADIFF_CACHE to a folder with space for the genome"
        ) from error


def _encode(
    path: Path, faidx: Any, records: list[Record], out: IO[bytes], report: Share
) -> tuple[np.ndarray, np.ndarray]:
    """Writes the codes of every base; gives the number of each byte (256,) and the scorable runs (n, 2)."""
    total = sum(record.length for record in records)
    histogram = np.zeros(256, np.int64)
    runs = []
    done = 0
    for record in records:
        first = done
        for text in chunks(path, faidx, record):
            codes = _CODES[text]
            _check_letters(path, record, done - first, text, codes)
            out.write(codes.data)
            histogram += np.bincount(text, minlength=256)
            runs.append(done + _runs(codes))
            done += len(text)
            report(done / total)
    return histogram, np.concatenate(runs)


def _code_table() -> np.ndarray:
    """Byte of the text -> code."""
    table = np.full(256, _NOT_A_LETTER, np.uint8)
    codes = dict.fromkeys(DNA.ambiguity, UNKNOWN) | {
        letter: i for i, letter in enumerate(DNA.letters)
    }
    for letter, code in codes.items():
        table[ord(letter)] = code
        table[ord(letter.lower())] = code | SOFT_MASK
    return table


_CODES = _code_table()


def _check_letters(
    path: Path, record: Record, start: int, text: np.ndarray, codes: np.ndarray
) -> None:
    wrong = codes == _NOT_A_LETTER
    if wrong.any():
        place = int(np.argmax(wrong))
        raise InputError(
            f"{path}: record {record.name}, position {start + place + 1:,}: {chr(text[place])!r} is no letter of DNA "
            f"and no IUPAC code; correct it, or give another file if this is protein or RNA"
        )


def _runs(codes: np.ndarray) -> np.ndarray:
    """Start and end (n, 2) of each run of scorable bases."""
    scorable = np.zeros(len(codes) + 2, np.int8)
    scorable[1:-1] = (codes & ~np.uint8(SOFT_MASK)) < UNKNOWN
    return np.flatnonzero(np.diff(scorable)).reshape(-1, 2)


def _count(histogram: np.ndarray) -> Counts:
    number = {chr(byte): int(histogram[byte]) for byte in range(256)}
    both = {
        letter: number[letter] + number[letter.lower()] for letter in {*DNA.letters, *DNA.ambiguity}
    }
    scorable = sum(both[letter] for letter in DNA.letters)
    total = sum(both.values())
    unknown = both[DNA.unknown]
    soft_masked = sum(number[letter.lower()] for letter in both)
    return Counts(total, scorable, unknown, total - scorable - unknown, soft_masked)
