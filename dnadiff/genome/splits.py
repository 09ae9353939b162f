"""Train, valid and test: which bases of a genome are whose. No base is in two of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dnadiff.errors import InputError
from dnadiff.genome.fasta import Genome
from dnadiff.genome.folds import block_folds, contig_folds, registered_folds
from dnadiff.genome.intervals import BedRow, Interval, merge, read_bed

SPLITS = ("train", "valid", "test")
_SPELLINGS = {"train": "train", "training": "train", "valid": "valid", "validation": "valid", "val": "valid",
              "test": "test", "testing": "test"}  # fmt: skip


@dataclass(frozen=True)
class Splits(Mapping[str, list[Interval]]):
    """The intervals of each split of one genome: ``splits["train"]``, ``splits["valid"]``, ``splits["test"]``.

    Attributes:
        intervals: split -> its intervals; a split that is not named has none.
        how: how the split was made, for a log or a model card.

    Raises:
        ValueError: if a split has another name, or two splits share a base.
    """

    intervals: Mapping[str, list[Interval]]
    how: str

    def __post_init__(self) -> None:
        if unknown := set(self.intervals) - set(SPLITS):
            raise ValueError(f"split {min(unknown)!r} is none of {', '.join(SPLITS)}")
        owned = sorted((interval, split) for split in SPLITS for interval in self[split])
        for i, j in _clashes(owned):
            (one, first), (other, second) = owned[i], owned[j]
            raise ValueError(f"{first} {one} and {second} {other} share bases")

    def __getitem__(self, split: str) -> list[Interval]:
        if split not in SPLITS:
            raise KeyError(split)
        return self.intervals.get(split, [])

    def __iter__(self) -> Iterator[str]:
        return iter(SPLITS)

    def __len__(self) -> int:
        return len(SPLITS)


def split_by_intervals(genome: Genome, bed: str | Path) -> Splits:
    """The split that a BED file gives in its column headed ``split``, or in its fourth.

    Intervals of one split that overlap or touch are merged.

    Raises:
        InputError: naming the lines, if the file cannot be read (see `read_bed`), a row says neither train, valid nor
            test, or intervals of different splits overlap.
    """
    rows = read_bed(bed, genome)
    owned = sorted(((row.interval, _split_of(row, bed)) for row in rows), key=lambda pair: pair[0])
    rows.sort(key=lambda row: row.interval)
    for i, j in _clashes(owned):
        (_, first), (other, second) = owned[i], owned[j]
        raise InputError(
            f"{bed}, lines {rows[i].line} ({first}) and {rows[j].line} ({second}): overlap at {other.chrom}:"
            f"{other.start}; a base can be in one split only"
        )
    folds = {split: merge([interval for interval, owner in owned if owner == split]) for split in SPLITS}
    return Splits(folds, f"intervals of {Path(bed).name}")


def split_genome(genome: Genome, window: int) -> Splits:
    """A split of a genome that comes without one, for windows of `window` bases.

    Held out are, whichever can be done first: the chromosomes that are usual for a known assembly (hg38: test 20, 21,
    22, valid 15, 16, 19), whole contigs near a tenth each, or blocks along the contigs with gaps between them.

    Raises:
        InputError: if the window is longer than every contig, or there is too little sequence to hold some out.
    """
    longest = max(genome.contigs, key=lambda chrom: genome.contigs[chrom])
    if genome.contigs[longest] < window:
        raise InputError(
            f"{genome.path}: a window of {window} bases is longer than every contig (the longest, {longest}, has "
            f"{genome.contigs[longest]}); choose --window {genome.contigs[longest]} or less"
        )
    made = registered_folds(genome) or contig_folds(genome, window) or block_folds(genome, window)
    if not made:
        raise InputError(
            f"{genome.path}: too short to hold out a part in windows of {window} bases (five of them in one contig are "
            f"needed); choose a shorter --window, or give --intervals with a split column"
        )
    how, folds = made
    return Splits(folds, how)


def summary(genome: Genome, splits: Splits) -> str:
    """A table of the intervals, bases and scorable bases of each split, headed by how it was made."""
    lines = [f"{genome.name}: {splits.how}", f"{'split':<6}{'intervals':>11}{'bases':>16}{'scorable':>16}"]
    for split, intervals in splits.items():
        bases = sum(len(interval) for interval in intervals)
        scorable = sum(int(genome.scorable(*genome.flat(interval))) for interval in intervals)
        lines.append(f"{split:<6}{len(intervals):>11,}{bases:>16,}{scorable:>16,}")
    return "\n".join(lines)


def _split_of(row: BedRow, bed: str | Path) -> str:
    split = _SPELLINGS.get(row.split.lower())
    if not split:
        found = repr(row.split) if row.split else "nothing"
        raise InputError(f"{bed}, line {row.line}: {found} in the split column; write train, valid or test there")
    return split


def _clashes(owned: list[tuple[Interval, str]]) -> Iterator[tuple[int, int]]:
    """Pairs of rows of a sorted list that overlap and belong to different splits; the first pair is always found.

    It is enough to compare each interval with the one that reaches furthest so far: all that reach into the new one
    overlap each other at its start, so if none of them clashed, they belong to one split.
    """
    furthest = 0
    for i, (interval, split) in enumerate(owned):
        last, owner = owned[furthest]
        if interval.chrom == last.chrom and interval.start < last.end and split != owner:
            yield furthest, i
        if interval.chrom != last.chrom or interval.end > last.end:
            furthest = i
