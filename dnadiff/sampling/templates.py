"""Templates: what is fixed, what is free, and which letters are allowed at each position.

They come from a string, a FASTA file, or a BED file of intervals of a genome.
"""

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
        allowed: (L, K) bool, the letters that free positions may become; None for all.
        name: of its record, or of its interval.
        window: the part of a genome that it covers, with its context; None if it is from elsewhere.
        number: its place in its file, from 0.
    """

    tokens: Tensor
    allowed: Tensor | None = None
    name: str = "sample"
    window: Interval | None = None
    number: int = 0


def parse_template(text: str, alphabet: Alphabet = DNA) -> tuple[Tensor, Tensor | None]:
    """Returns a template of IUPAC letters as tokens (L,) and allowed letters (L, K).

    Letters are fixed; the unknown letter (N) is free; any other ambiguity code is free among the
    letters it stands for. The allowed letters are None where no code restricts.

    Raises:
        InputError: naming the first character that is not an IUPAC letter, or if the template is
            empty.
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
    # A fixed letter allows only itself; samplers do not read `allowed` at fixed positions.
    choices = [alphabet.ambiguity.get(code, code) for code in text]
    rows = [[letter in some for letter in alphabet.letters] for some in choices]
    return tokens, torch.tensor(rows)


def free_template(count: int, length: int, alphabet: Alphabet = DNA) -> Tensor:
    """Returns tokens (count, length), all free."""
    return torch.full((count, length), alphabet.mask_id)


def read_templates(
    source: str | Path | None,
    *,
    length: int | None = None,
    genome: Genome | None = None,
    alphabet: Alphabet = DNA,
) -> list[Template]:
    """Reads the templates that a user names.

    Args:
        source: IUPAC letters; a FASTA file (a path, or text with . or /) with one template in each
            record; with `genome`, a BED file of the intervals to redesign; None for a template that
            is all free.
        length: bases of a free template, or of the window of an interval; 1,024 by default.
        genome: the sequence around the intervals of a BED file. An N in it stays an N.
        alphabet: the letters.

    Raises:
        InputError: naming the file and the record or line that cannot be used.
        UsageError: for a length that contradicts the template or is below 1, or a genome without a
            BED file.
    """
    if length is not None and length < 1:
        raise UsageError(f"length must be at least 1, not {length}")
    text = None if source is None else str(source)
    # Neither character is an IUPAC letter, so text with one of them can only be a path.
    is_file = isinstance(source, Path) or (text is not None and ("." in text or "/" in text))
    if genome is not None and not is_file:
        raise UsageError(
            "genome goes with a BED file of the intervals to redesign: give that file as template"
        )
    if text is None:
        return [Template(free_template(1, length or DEFAULT_LENGTH, alphabet)[0])]
    if genome is not None:
        return _from_bed(text, genome, length or DEFAULT_LENGTH, alphabet)
    if is_file and ".bed" in Path(text).suffixes:
        raise UsageError(f"{text}: a BED file needs the genome around its intervals: give genome")

    if is_file:
        templates = _from_fasta(text, alphabet)
    else:
        templates = [Template(*parse_template(text, alphabet))]
    for template in templates:
        if length not in (None, len(template.tokens)):
            raise UsageError(
                f"length {length} contradicts a template of {len(template.tokens)} bases: leave "
                "length out"
            )
    return templates


def _from_fasta(path: str, alphabet: Alphabet) -> list[Template]:
    """Reads one template from each record of a FASTA file."""
    templates = []
    records = parse_fasta(Path(path), "".join(lines(Path(path), "FASTA")))
    for number, (name, text) in enumerate(records):
        try:
            # The number keeps the random numbers of two records of one file apart.
            templates.append(Template(*parse_template(text, alphabet), name, number=number))
        except InputError as error:
            raise InputError(f"{path}, record {name}: {error}") from error
    return templates


def _from_bed(path: str, genome: Genome, length: int, alphabet: Alphabet) -> list[Template]:
    """Makes a template of each interval of a BED file: the interval is free, its context fixed."""
    templates: list[Template] = []
    names: dict[str, int] = {}
    for number, row in enumerate(read_bed(path, genome)):
        # Two templates of one name would give records of one name.
        if (first := names.setdefault(str(row.interval), row.line)) != row.line:
            raise InputError(
                f"{path}, line {row.line}: {row.interval} is on line {first} already; leave one out"
            )
        window = _window(path, row, genome, length)
        tokens = genome.tokens(window.chrom, window.start, window.end)
        inside = slice(row.interval.start - window.start, row.interval.end - window.start)
        tokens[inside] = alphabet.mask_id
        templates.append(Template(tokens, None, str(row.interval), window, number))
    return templates


def _window(path: str, row: BedRow, genome: Genome, length: int) -> Interval:
    """Returns `length` bases around an interval.

    The interval is in the middle, or as near to it as the ends of its chromosome allow.
    """
    start, end = row.interval.start, row.interval.end
    if end - start > length:
        raise InputError(
            f"{path}, line {row.line}: {row.interval} has {end - start:,} bases, and the window "
            f"around it only {length:,}; raise length"
        )
    # At an end of its chromosome the window has more context on the other side.
    chromosome = genome.contigs[row.interval.chrom]
    first = max(0, min(start - (length - (end - start)) // 2, chromosome - length))
    return Interval(row.interval.chrom, first, min(first + length, chromosome))
