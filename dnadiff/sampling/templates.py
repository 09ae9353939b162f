"""What is fixed, what is free, and which letters are allowed where: from a string, a FASTA, or a BED over a genome."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.errors import InputError, UsageError
from dnadiff.genome.bed import BedRow, read_bed
from dnadiff.genome.fasta import Genome
from dnadiff.genome.intervals import Interval
from dnadiff.genome.records import parse_fasta
from dnadiff.genome.text import lines

DEFAULT_LENGTH = 1024


class Template(NamedTuple):
    """A template and where it comes from.

    Attributes:
        tokens: (L,) int64 token ids; the mask id is free, every other id is fixed.
        allowed: (L, K) bool, the letters that free places may become; None for all.
        name: of its record, or of its interval.
        window: where in a genome it lies, with its context; None if it does not come from there.
        number: which of its file, from 0.
    """

    tokens: Tensor
    allowed: Tensor | None = None
    name: str = "sample"
    window: Interval | None = None
    number: int = 0


def parse_template(text: str, alphabet: Alphabet = DNA) -> tuple[Tensor, Tensor | None]:
    """A template of IUPAC letters as tokens (L,) and allowed letters (L, K).

    Letters are fixed; the unknown letter (N) is free; any other ambiguity code is free among the letters it stands for.
    `allowed` is None where no code restricts.

    Raises:
        InputError: naming the first character that is no IUPAC letter, or if the template is empty.
    """
    text = text.strip().upper()
    if not text:
        raise InputError("the template is empty; give letters, with N where the model may choose")
    for place, code in enumerate(text):
        if code not in alphabet.letters and code not in alphabet.ambiguity:
            raise InputError(f"template position {place + 1}: {code!r} is not an IUPAC letter")
    tokens = torch.from_numpy(alphabet.encode(text))
    tokens = tokens.masked_fill(tokens == alphabet.unknown_id, alphabet.mask_id)
    if set(text) <= {*alphabet.letters, alphabet.unknown}:
        return tokens, None
    allowed = [
        [letter in alphabet.ambiguity.get(code, code) for letter in alphabet.letters]
        for code in text
    ]
    return tokens, torch.tensor(allowed)


def free_template(count: int, length: int, alphabet: Alphabet = DNA) -> Tensor:
    """Tokens (count, length), all free."""
    return torch.full((count, length), alphabet.mask_id)


def read_templates(
    source: str | None,
    *,
    length: int | None = None,
    genome: Genome | None = None,
    alphabet: Alphabet = DNA,
) -> list[Template]:
    """The templates that a user means.

    Args:
        source: IUPAC letters; a FASTA file (a name with . or /) of one template a record; with `genome`, a BED file of
            the intervals to redesign; None for a template that is all free.
        length: bases of a free template, or of the window of an interval; 1,024 by default.
        genome: around the intervals of a BED file. Its N are unknown letters, which stay as they are.
        alphabet: the letters.

    Raises:
        InputError: naming the file and the record or line that cannot be used.
        UsageError: for a length that contradicts the template or is below 1, or a genome without a BED file.
    """
    if length is not None and length < 1:
        raise UsageError(f"length must be at least 1, not {length}")
    is_file = source is not None and ("." in source or "/" in source)
    if genome is not None and not is_file:
        raise UsageError(
            "--genome goes with a BED file of what to redesign: give it with --template"
        )
    if source is None:
        return [Template(free_template(1, length or DEFAULT_LENGTH, alphabet)[0])]
    if genome is not None:
        return _from_bed(source, genome, length or DEFAULT_LENGTH, alphabet)
    if ".bed" in Path(source).suffixes:
        raise UsageError(
            f"--template {source}: a BED file needs the genome around it; give it with --genome"
        )
    templates = (
        _from_fasta(source, alphabet) if is_file else [Template(*parse_template(source, alphabet))]
    )
    for tokens in (template.tokens for template in templates):
        if length not in (None, len(tokens)):
            raise UsageError(
                f"--length {length} contradicts a template of {len(tokens)} bases: leave it out"
            )
    return templates


def _from_fasta(path: str, alphabet: Alphabet) -> list[Template]:
    templates = []
    for number, (name, text) in enumerate(
        parse_fasta(Path(path), "".join(lines(Path(path), "FASTA")))
    ):
        try:
            templates.append(Template(*parse_template(text, alphabet), name, number=number))
        except InputError as error:
            raise InputError(f"{path}, record {name}: {error}") from error
    return templates


def _from_bed(path: str, genome: Genome, length: int, alphabet: Alphabet) -> list[Template]:
    templates: list[Template] = []
    names: dict[str, int] = {}
    for number, row in enumerate(read_bed(path, genome)):
        if (first := names.setdefault(str(row.interval), row.line)) != row.line:
            raise InputError(
                f"{path}, line {row.line}: {row.interval} is on line {first} already; leave one out"
            )
        window = _window(path, row, genome, length)
        tokens = genome.tokens(window.chrom, window.start, window.end)
        tokens[row.interval.start - window.start : row.interval.end - window.start] = (
            alphabet.mask_id
        )
        templates.append(Template(tokens, None, str(row.interval), window, number))
    return templates


def _window(path: str, row: BedRow, genome: Genome, length: int) -> Interval:
    """The interval in the middle of `length` bases, or as near to it as the ends of its chromosome allow."""
    start, end = row.interval.start, row.interval.end
    if end - start > length:
        raise InputError(
            f"{path}, line {row.line}: {row.interval} has {end - start:,} bases, and the window around it only"
            f" {length:,}; raise --length"
        )
    chromosome = genome.contigs[row.interval.chrom]
    first = max(0, min(start - (length - (end - start)) // 2, chromosome - length))
    return Interval(row.interval.chrom, first, min(first + length, chromosome))
