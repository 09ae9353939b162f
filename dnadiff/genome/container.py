"""Checks what kind of file a genome is, and whether it is whole, before it is read."""

from __future__ import annotations

import gzip
from pathlib import Path

from dnadiff.errors import InputError
from dnadiff.genome.records import not_fasta
from dnadiff.genome.text import GZIP, UTF8_MARK, as_input_errors, check_bgzip_end, is_bgzip
from dnadiff.genome.twobit import MAGIC
from dnadiff.signatures import SIGNATURE_BYTES, foreign_kind

_SNIFFED = 1 << 16  # bytes of the text in which the first record should begin


def check_container(path: Path) -> None:
    """Checks that a file is FASTA, plain or bgzipped, or .2bit, as far as its two ends tell.

    Raises:
        InputError: if it is missing, empty, a folder, plain gzip, truncated bgzip, misnamed, of a
            kind that is not read, or does not begin with ``>``.
    """
    if not path.is_file():
        raise InputError(f"{path}: {_missing(path)}")
    with as_input_errors(path), path.open("rb") as file:
        head = file.read(SIGNATURE_BYTES)
    if not head:
        raise InputError(f"{path}: empty; a FASTA file is needed")
    if head[:4] in MAGIC:
        return
    if kind := foreign_kind(path, head):
        raise InputError(f"{path}: {kind}")
    _check_compression(path, head)
    check_bgzip_end(path, head)
    _check_beginning(path)


def is_twobit(path: Path) -> bool:
    """Tells whether a file is .2bit, by its first bytes."""
    with as_input_errors(path), path.open("rb") as file:
        return file.read(len(MAGIC[0])) in MAGIC


def _missing(path: Path) -> str:
    """Returns what to say of a path that is no file; how to download it, if it has a known name."""
    # Imported here, because a genome that is there needs no registry of downloads.
    from dnadiff.downloads import hint

    what = "not a file" if path.exists() else "no such file"
    return f"{what}; {hint(path) or 'a FASTA file is needed'}"


def _check_compression(path: Path, head: bytes) -> None:
    """Refuses plain gzip, and a file whose name says another compression than its content."""
    zipped = head.startswith(GZIP)
    named = path.suffix.lower() in (".gz", ".bgz")
    if zipped and not named:
        raise InputError(
            f"{path}: compressed, but its name does not say so; rename it to {path.name}.gz"
        )
    if named and not zipped:
        raise InputError(f"{path}: not compressed, but its name says so; rename it to {path.stem}")
    if zipped and not is_bgzip(head):
        raise InputError(
            f"{path}: plain gzip, which no tool can index; run: gunzip {path} && bgzip {path.stem}"
        )


def _check_beginning(path: Path) -> None:
    """Checks that the first line of the text that is not blank is a header or a comment."""
    zipped = path.suffix.lower() in (".gz", ".bgz")
    # One block is enough: the first record begins within it, or this is no genome.
    with as_input_errors(path), gzip.open(path) if zipped else path.open("rb") as file:
        start = file.read(_SNIFFED).removeprefix(UTF8_MARK)
    if kind := foreign_kind(path, start[:SIGNATURE_BYTES]):
        raise InputError(f"{path}: {kind}")
    if not start.lstrip().startswith((b">", b";")):
        raise not_fasta(path)
