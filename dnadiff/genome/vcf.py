"""Variants of a VCF file for scoring: one alternative allele at a time, its REF checked.

Positions in the file are 1-based (VCF 4.x, section 1.6). In Python they are 0-based and half-open,
like all other coordinates.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnadiff.alphabet import DNA
from dnadiff.errors import InputError
from dnadiff.genome.fasta import Genome
from dnadiff.genome.store import SOFT_MASK
from dnadiff.genome.text import lines

logger = logging.getLogger(__name__)

MISMATCH = "whose REF is not what the genome has"
_NO_CONTIG = "on a contig that the genome lacks"
_TELOMERE = "at a telomere (POS is before the first base or after the last)"
_UNKNOWN_BASE = "with an unknown base"
_UNKNOWN_THERE = "where the genome has an unknown base"
_NO_CHANGE = "whose ALT is REF"
_NO_ALLELE = "whose ALT is not an allele of VCF"

_HEADER = ["#CHROM", "POS", "ID", "REF", "ALT"]
_INFO = 7  # column, from 0
_LETTERS = np.frombuffer((DNA.letters + DNA.unknown).encode(), np.uint8)
_BASES = re.compile(f"[{DNA.letters}]+")
# Some callers write X, or letters of other alphabets, for an unknown base.
_ANY_LETTERS = re.compile("[A-Z]+")
_KINDS = {
    "without an ALT allele": re.compile(r"\."),
    "with a spanning deletion (*)": re.compile(r"\*"),
    "with a symbolic allele": re.compile(r"<[^<>]+>"),
    "with a breakend": re.compile(r".*[\[\]].*|\.\w+|\w+\."),
    _UNKNOWN_BASE: _ANY_LETTERS,
    _NO_ALLELE: re.compile(".*", re.DOTALL),
}
_CONTIG = re.compile(r"##contig=<(?:.*,)?ID=([^,>]+)(?:,.*)?>")
_LENGTH = re.compile(r"[<,]length=(\d+)[,>]")
_QUOTED = 60  # characters of a field that a message repeats


@dataclass(frozen=True)
class Variant:
    """Describes one alternative allele: `ref` at `start` is replaced by `alt`.

    Insertions and deletions are as the file has them, not normalised. As text it is
    ``chrom:POS:ref>alt`` with the 1-based POS of the file.

    Attributes:
        chrom: name of the contig, as the genome has it.
        start: 0-based position of the first base of `ref`; the file's POS is one more.
        ref: bases of the genome, upper case.
        alt: bases that replace them, upper case.
        name: the file's ID, "." where it has none.
        info: the file's INFO as it is written; "." where it has none.
        line: 1-based number of the line in the file. Alleles of one site share it.
    """

    chrom: str
    start: int
    ref: str
    alt: str
    name: str
    info: str
    line: int

    @property
    def end(self) -> int:
        """0-based position after the last base of `ref`."""
        return self.start + len(self.ref)

    def __str__(self) -> str:
        return f"{self.chrom}:{self.start + 1}:{self.ref}>{self.alt}"


class Variants:
    """Yields the alleles of a VCF file that can be scored on a genome, in file order.

    Each iteration reads the file, which may be plain, gzip or bgzip. Alleles that cannot be scored
    are counted in `skipped`: symbolic alleles, breakends, ``*``, sites without ALT, an ALT that is
    not an allele of VCF, POS 0 and the position after the last base (telomeres in VCF), bases that
    are not A, C, G or T in the file or in the genome, and contigs that the genome lacks. A contig
    that the genome has with or without "chr" counts as the same; the log names the first one.

    Attributes:
        path: the file.
        count: number of alleles yielded so far.
        skipped: reason -> number of alleles left out so far.
        examples: reason -> line of the first allele that was left out for it.

    Args:
        path: the file.
        genome: what REF is checked against.
        skip_mismatches: count alleles whose REF differs from the genome, instead of stopping at the
            first. Where there are many, the file belongs to another assembly, and the alleles that
            agree do so by chance.

    Raises:
        InputError: while iterating; one line that names the file, the line and the record. It is
            raised for a REF that differs, a malformed record, a position that the contig does not
            have, a header that gives a contig another length than the genome has, or a file in
            which nothing can be scored.
    """

    def __init__(self, path: str | Path, genome: Genome, *, skip_mismatches: bool = False) -> None:
        self.path = Path(path)
        self.count = 0
        self.skipped: Counter[str] = Counter()
        self.examples: dict[str, int] = {}
        self._genome = genome
        self._skip_mismatches = skip_mismatches
        self._contigs: dict[str, str | None] = {}
        self._renamed = False

    def __iter__(self) -> Iterator[Variant]:
        self.count = 0
        self.skipped.clear()
        self.examples.clear()
        header = False
        for number, line in enumerate(lines(self.path, "VCF"), 1):
            text = line.rstrip("\r\n")
            if text.startswith("##"):
                self._check_contig(text, number)
            elif text.startswith("#"):
                self._check_header(text, number)
                header = True
            elif text and not header:
                raise InputError(
                    f"{self.path}, line {number}: no #CHROM line above it; a VCF file is needed"
                )
            elif text:
                yield from self._alleles(text, number)
        if not self.count:
            reason = self.summary() if self.skipped else "no variants in it"
            raise InputError(f"{self.path}: {reason}")

    def summary(self) -> str:
        """Returns how many alleles were read and left out, and why, with a line for each reason."""
        parts = [f"{self.count:,} alleles to score"]
        for reason, count in self.skipped.most_common():
            parts.append(f"left out: {count:,} {reason} (e.g. line {self.examples[reason]})")
        return "; ".join(parts)

    def _check_contig(self, text: str, number: int) -> None:
        """Refuses a header with another length of a contig: its positions mean other bases."""
        contig, length = _CONTIG.match(text), _LENGTH.search(text)
        # A contig that the genome lacks cannot be compared; its variants are counted later.
        chrom = self._chrom(contig[1]) if contig else None
        if not length or not chrom:
            return
        ours = self._genome.contigs[chrom]
        if int(length[1]) != ours:
            raise InputError(
                f"{self.path}, line {number}: {chrom} has {int(length[1]):,} bases there and "
                f"{ours:,} in {self._genome.path.name}; give the genome of the same assembly"
            )

    def _check_header(self, text: str, number: int) -> None:
        """Refuses a line of column names that is not that of a VCF file."""
        if text.split("\t")[: len(_HEADER)] != _HEADER:
            raise InputError(
                f"{self.path}, line {number}: {text[:_QUOTED]!r} is not the header "
                "#CHROM, POS, ID, REF, ALT"
            )

    def _alleles(self, text: str, number: int) -> Iterator[Variant]:
        """Yields the alleles of one record that can be scored; an error names file and record."""
        try:
            yield from self._split(text, number)
        except ValueError as error:
            record = " ".join(text.split("\t")[: len(_HEADER)])
            raise InputError(f"{self.path}, line {number} ({_short(record)}): {error}") from error

    def _split(self, text: str, number: int) -> Iterator[Variant]:
        """Yields the alleles of one record that can be scored, and counts the others."""
        fields = text.split("\t")
        if len(fields) < len(_HEADER):
            raise ValueError(
                f"{len(fields)} column(s); a record has {len(_HEADER)} or more, separated by tabs"
            )
        name, position, identity, ref, alts = fields[: len(_HEADER)]
        ref = ref.upper()
        info = fields[_INFO] if len(fields) > _INFO else "."
        chrom, start = self._place(name, position, ref)

        # Each allele is judged by itself, so that one odd allele does not cost its site.
        for alt in alts.upper().split(","):
            reason = self._unfit(chrom, start, ref, alt)
            if reason:
                self.skipped[reason] += 1
                self.examples.setdefault(reason, number)
            else:
                self.count += 1
                yield Variant(str(chrom), start, ref, alt, identity, info, number)

    def _place(self, name: str, position: str, ref: str) -> tuple[str | None, int]:
        """Returns the genome's name of the contig, None if it has none, and the 0-based start."""
        chrom = self._chrom(name)
        # int() alone would take "1_0", " 3" and the digits of other scripts.
        if not (position.isascii() and position.isdecimal()):
            raise ValueError(f"POS {position!r} is not a whole number")
        if not _ANY_LETTERS.fullmatch(ref):
            raise ValueError(f"REF {_short(ref)!r} is not a sequence of bases")
        return chrom, int(position) - 1

    def _unfit(self, chrom: str | None, start: int, ref: str, alt: str) -> str | None:
        """Returns why an allele cannot be scored, or None if it can."""
        if not _BASES.fullmatch(alt):
            return next(kind for kind, pattern in _KINDS.items() if pattern.fullmatch(alt))
        if chrom is None:
            return _NO_CONTIG
        length = self._genome.contigs[chrom]
        # VCF 4.x, section 1.6.1: POS 0 and POS = length + 1 are the telomeres.
        if start in (-1, length):
            return _TELOMERE
        if start + len(ref) > length:
            raise ValueError(f"it ends after the last base of {chrom}, which has {length:,}")

        there = self._bases(chrom, start, len(ref))
        # Before the check for unknown bases: a file of another assembly is to be found early.
        if _differ(ref, there):
            if self._skip_mismatches:
                return MISMATCH
            raise ValueError(
                f"the genome ({self._genome.path.name}) has {_short(there)} there; give the "
                "assembly that the file was called on, or skip such alleles (skip_mismatches)"
            )
        if not _BASES.fullmatch(there):
            return _UNKNOWN_THERE
        if not _BASES.fullmatch(ref):
            return _UNKNOWN_BASE
        return _NO_CHANGE if alt == ref else None

    def _bases(self, chrom: str, start: int, length: int) -> str:
        """Returns bases of the genome in upper case; unknown ones are N."""
        first = self._genome.offsets[chrom] + start
        codes = self._genome.codes[first : first + length] & ~np.uint8(SOFT_MASK)
        return _LETTERS[codes].tobytes().decode()

    def _chrom(self, name: str) -> str | None:
        """Returns the genome's name of a contig, or None; logs the first one renamed."""
        if name not in self._contigs:
            found = next((other for other in _aliases(name) if other in self._genome.contigs), None)
            self._contigs[name] = found
            if found not in (name, None) and not self._renamed:
                self._renamed = True
                logger.info(
                    "%s: its %s is read as %s of %s", self.path, name, found, self._genome.path.name
                )
        return self._contigs[name]


def _aliases(name: str) -> list[str]:
    """Returns the names under which a genome may have a contig, the given one first."""
    bare = name.removeprefix("chr")
    names = [name, f"chr{name}", bare]
    # UCSC calls the mitochondrion chrM, Ensembl calls it MT.
    if bare in ("M", "MT"):
        names += ["chrM", "MT"]
    return names


def _differ(ref: str, there: str) -> bool:
    """Tells whether two sequences of one length differ where both have a known base."""
    known = set(DNA.letters)
    return any(a != b and a in known and b in known for a, b in zip(ref, there, strict=True))


def _short(text: str) -> str:
    """Returns a text, or the beginning of a long one and its length."""
    return text if len(text) <= _QUOTED else f"{text[:50]}... ({len(text)} characters)"
