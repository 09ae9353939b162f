"""Variants of a VCF file for scoring: one alternative allele at a time, its REF checked against the genome.

Positions in the file are 1-based (VCF 4.x, section 1.6); inside they are 0-based and half-open like everything else.
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
_HEADER = ["#CHROM", "POS", "ID", "REF", "ALT"]
_LETTERS = np.frombuffer((DNA.letters + DNA.unknown).encode(), np.uint8)
_BASES = re.compile(f"[{DNA.letters}]+")
_KINDS = {
    "without an ALT allele": re.compile(r"\."),
    "with a spanning deletion (*)": re.compile(r"\*"),
    "with a symbolic allele": re.compile(r"<[^<>]+>"),
    "with a breakend": re.compile(r".*[\[\]].*|\.\w+|\w+\."),
    "with an unknown base": re.compile(f"[{DNA.letters}{''.join(DNA.ambiguity)}]*"),
}
_CONTIG = re.compile(r"##contig=<(?:.*,)?ID=([^,>]+)(?:,.*)?>")
_LENGTH = re.compile(r"[<,]length=(\d+)[,>]")


@dataclass(frozen=True)
class Variant:
    """One alternative allele: `ref` at `start` is replaced by `alt`. Indels are as the file has them, not normalised.

    Attributes:
        chrom: name of the contig, as the genome has it.
        start: 0-based position of the first base of `ref`; the file's POS is one more.
        ref: bases of the genome, upper case.
        alt: bases that stand there instead, upper case.
        name: the file's ID, "." where it has none.
        info: the file's INFO, unread; "." where it has none.
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
    """The alleles of a VCF file (plain, gzip or bgzip) that can be scored on a genome, in file order.

    Iterating reads the file. What cannot be scored is counted in `skipped`: symbolic alleles, breakends, ``*``, sites
    without ALT, bases that are not A, C, G or T in the file or in the genome, and contigs that the genome lacks. A
    contig that the genome has with or without "chr" is taken for the same, which the log says once.

    Attributes:
        path: the file.
        count: alleles given out so far.
        skipped: reason -> number of alleles left out so far.

    Args:
        path: the file.
        genome: what REF is checked against.
        skip_mismatches: count alleles whose REF differs from the genome, instead of stopping at the first. Where there
            are many, the file belongs to another assembly, and those that agree do so by chance.

    Raises:
        InputError: while iterating; one line that names the file, the line and the record: for a REF that differs, a
            record that is none, a position that the contig does not have; for a header that gives a contig another
            length than the genome; or if nothing is left to score.
    """

    def __init__(self, path: str | Path, genome: Genome, *, skip_mismatches: bool = False) -> None:
        self.path = Path(path)
        self.count = 0
        self.skipped: Counter[str] = Counter()
        self._genome = genome
        self._skip_mismatches = skip_mismatches
        self._contigs: dict[str, str | None] = {}

    def __iter__(self) -> Iterator[Variant]:
        self.count = 0
        self.skipped.clear()
        header = False
        for number, text in enumerate(lines(self.path, "VCF"), 1):
            text = text.rstrip("\r\n")
            if text.startswith("##"):
                self._check_contig(text, number)
            elif text.startswith("#"):
                header = self._check_header(text, number)
            elif text and not header:
                raise InputError(
                    f"{self.path}, line {number}: no #CHROM line above it; a VCF file is needed"
                )
            elif text:
                yield from self._alleles(text, number)
        if not self.count:
            raise InputError(
                f"{self.path}: {self.summary() if self.skipped else 'no variants in it'}"
            )

    def summary(self) -> str:
        """How many alleles were read and left out, and why."""
        causes = (f"{count:,} {reason}" for reason, count in self.skipped.most_common())
        return (
            f"{self.count:,} alleles to score{''.join(f'; left out: {cause}' for cause in causes)}"
        )

    def _check_contig(self, text: str, number: int) -> None:
        """Refuses a header whose chromosomes have other lengths: its positions would mean other bases."""
        contig, length = _CONTIG.match(text), _LENGTH.search(text)
        chrom = self._chrom(contig[1]) if contig else None
        if length and chrom and int(length[1]) != self._genome.contigs[chrom]:
            raise InputError(
                f"{self.path}, line {number}: {chrom} has {int(length[1]):,} bases there and "
                f"{self._genome.contigs[chrom]:,} in {self._genome.path.name}; give the genome of the same assembly"
            )

    def _check_header(self, text: str, number: int) -> bool:
        if text.split("\t")[:5] != _HEADER:
            raise InputError(
                f"{self.path}, line {number}: {text[:60]!r} is not the header #CHROM, POS, ID, REF, ALT"
            )
        return True

    def _alleles(self, text: str, number: int) -> Iterator[Variant]:
        """The alleles of one record that can be scored."""
        try:
            yield from self._split(text, number)
        except ValueError as error:
            record = " ".join(text.split("\t")[:5])
            raise InputError(f"{self.path}, line {number} ({_short(record)}): {error}") from error

    def _split(self, text: str, number: int) -> Iterator[Variant]:
        fields = text.split("\t")
        if len(fields) < len(_HEADER):
            raise ValueError(
                f"{len(fields)} column(s); a record has {len(_HEADER)} or more, separated by tabs"
            )
        name, position, identity, ref, alts = fields[:5]
        ref, info = ref.upper(), fields[7] if len(fields) > 7 else "."
        place = self._place(name, position, ref)
        for alt in alts.upper().split(","):
            if reason := self._unfit(place, ref, alt):
                self.skipped[reason] += 1
            else:
                chrom, start = place
                self.count += 1
                yield Variant(str(chrom), start, ref, alt, identity, info, number)

    def _place(self, name: str, position: str, ref: str) -> tuple[str | None, int]:
        """Contig of the genome, None if it has none of that name, and the 0-based start."""
        chrom = self._chrom(name)
        if not (position.isascii() and position.isdecimal()):
            raise ValueError(f"POS {position!r} is not a whole number")
        if not _KINDS["with an unknown base"].fullmatch(ref) or not ref:
            raise ValueError(f"REF {_short(ref)!r} is not a sequence of bases")
        return chrom, int(position) - 1

    def _unfit(self, place: tuple[str | None, int], ref: str, alt: str) -> str | None:
        """Why an allele cannot be scored, or None if it can."""
        chrom, start = place
        kind = (
            None
            if _BASES.fullmatch(alt)
            else next((kind for kind in _KINDS if _KINDS[kind].fullmatch(alt)), "")
        )
        if kind == "" or not alt:
            raise ValueError(f"ALT {_short(alt)!r} is no allele")
        if kind or chrom is None:
            return kind or "on a contig that the genome lacks"
        if start < 0:
            raise ValueError("POS 0 is before the first base, which is 1")
        if start + len(ref) > self._genome.contigs[chrom]:
            raise ValueError(
                f"it ends behind {chrom}, which has {self._genome.contigs[chrom]:,} bases"
            )
        there = self._bases(chrom, start, len(ref))
        if any(a != b for a, b in zip(ref, there, strict=True) if {a, b} <= set(DNA.letters)):
            if self._skip_mismatches:
                return MISMATCH
            raise ValueError(
                f"the genome ({self._genome.path.name}) has {_short(there)} there; give the assembly that the file was "
                "called on, or skip such alleles"
            )
        if not _BASES.fullmatch(ref) or not _BASES.fullmatch(there):
            return (
                "with an unknown base"
                if _BASES.fullmatch(there)
                else "where the genome has an unknown base"
            )
        return "whose ALT is REF" if alt == ref else None

    def _bases(self, chrom: str, start: int, length: int) -> str:
        first = self._genome.offsets[chrom] + start
        return (
            _LETTERS[self._genome.codes[first : first + length] & ~np.uint8(SOFT_MASK)]
            .tobytes()
            .decode()
        )

    def _chrom(self, name: str) -> str | None:
        """The genome's name of a contig, or None if it has none; says once if it is another."""
        if name not in self._contigs:
            bare = name.removeprefix("chr")
            aliases = [name, f"chr{name}", bare] + (["chrM", "MT"] if bare in ("M", "MT") else [])
            found = next((alias for alias in aliases if alias in self._genome.contigs), None)
            if found not in (name, None) and all(
                known in (key, None) for key, known in self._contigs.items()
            ):
                logger.info(
                    "%s: its %s is read as %s of %s", self.path, name, found, self._genome.path.name
                )
            self._contigs[name] = found
        return self._contigs[name]


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:50]}... ({len(text)} letters)"
