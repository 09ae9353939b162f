"""Train, valid and test: which bases of a genome are whose. No base is in two of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dnadiff.errors import InputError, UsageError
from dnadiff.genome.fasta import Genome
from dnadiff.genome.folds import block_folds, contig_folds, registered_folds
from dnadiff.genome.intervals import BedRow, Interval, merge, overlap, read_bed, subtract

SPLITS = ("train", "valid", "test")
SPELLINGS = {"train": "train", "training": "train", "valid": "valid", "validation": "valid", "val": "valid",
             "test": "test", "testing": "test"}  # fmt: skip
"""How a table may spell a split, in lower case."""

_PUBLISHED = 1 << 20  # bases to which the published loader extends each interval


@dataclass(frozen=True)
class Splits(Mapping[str, list[Interval]]):
    """The intervals of each split of one genome: ``splits["train"]``, ``splits["valid"]``, ``splits["test"]``.

    Attributes:
        intervals: split -> its intervals; a split that is not named has none.
        how: how the split was made, for a log or a model card.
        leaky: splits may share bases; for a comparison with a published split that does.

    Raises:
        ValueError: if a split has another name, or two splits share a base and should not.
    """

    intervals: Mapping[str, list[Interval]]
    how: str
    leaky: bool = False

    def __post_init__(self) -> None:
        if unknown := set(self.intervals) - set(SPLITS):
            raise ValueError(f"split {min(unknown)!r} is none of {', '.join(SPLITS)}")
        owned = sorted((interval, split) for split in SPLITS for interval in self[split])
        for i, j in () if self.leaky else _clashes(owned):
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

    def without(self, blacklist: list[Interval], name: str) -> Splits:
        """The same splits with the bases of a blacklist cut out, so that no window can touch one of them."""
        kept = {split: subtract(self[split], blacklist) for split in SPLITS}
        lost = sum(overlap(self[split], blacklist) for split in SPLITS)
        return replace(self, intervals=kept, how=f"{self.how}; without {lost:,} bases of {name}")


def make_splits(
    genome: Genome,
    window: int,
    *,
    intervals: str | Path | None = None,
    split: Literal["auto", "legacy"] = "auto",
    test_fold: str | None = None,
    blacklist: str | Path | None = None,
) -> Splits:
    """The splits that a user's flags ask for.

    Args:
        genome: the genome.
        window: bases of a window.
        intervals: BED for `split_by_intervals`; without it, `split_genome`.
        split: "legacy" for `published_splits` of those intervals.
        test_fold: see `split_by_intervals`.
        blacklist: BED of bases that no window may touch.

    Raises:
        InputError: see the functions named above, and `read_bed`.
    """
    if intervals is None:
        splits = split_genome(genome, window)
    elif split == "legacy":
        splits = published_splits(genome, intervals)
    else:
        splits = split_by_intervals(genome, intervals, test_fold)
    if blacklist is None:
        return splits
    cut = [row.interval for row in read_bed(blacklist, genome, partial=True)]
    return splits.without(cut, Path(blacklist).name)


def split_by_intervals(genome: Genome, bed: str | Path, test_fold: str | None = None) -> Splits:
    """The split that a BED file gives in its column headed ``split`` or ``fold``, or in its fourth.

    Intervals of one split and weight that overlap or touch are merged. Where the column holds folds (Borzoi), the one
    after the test fold is valid, and the others are train; `how` names them.

    Args:
        genome: the genome; intervals of contigs that it does not have are left out.
        bed: the file.
        test_fold: which fold is test: "fold3", or just "3".

    Raises:
        InputError: naming the lines, if the file cannot be read (see `read_bed`), a row says neither train, valid nor
            test, or intervals of different splits overlap; or if there are folds, and no such test fold.
    """
    rows = sorted(read_bed(bed, genome, partial=True), key=lambda row: row.interval)
    folds = _folds(rows)
    spelling = SPELLINGS if folds is None else _roles(folds, bed, test_fold)
    if folds is None and test_fold is not None:
        raise UsageError(f"--test-fold: the split column of {bed} holds no folds")
    owned = [(row.interval, _split_of(row, bed, spelling)) for row in rows]
    for i, j in _clashes(owned):
        (_, first), (other, second) = owned[i], owned[j]
        raise InputError(
            f"{bed}, lines {rows[i].line} ({first}) and {rows[j].line} ({second}): overlap at {other.chrom}:"
            f"{other.start}; a base can be in one split only"
        )
    intervals = {
        split: _merged([interval for interval, owner in owned if owner == split])
        for split in SPLITS
    }
    how = (
        ""
        if folds is None
        else f", test {_named(spelling, 'test')}, valid {_named(spelling, 'valid')}"
    )
    return Splits(intervals, f"intervals of {Path(bed).name}{how}")


def published_splits(genome: Genome, bed: str | Path) -> Splits:
    """The split of the published HyenaDNA and Caduceus loaders, which leaks; for comparison with their figures only.

    Each interval of the BED file (131,072 bases, with a split) is extended to 2^20 bases to the right, or to the end of
    its contig, whatever the split of the bases that it reaches. Extended intervals of one split overlap, and each is
    drawn from on its own, as there.

    Raises:
        InputError: naming the line, if the file cannot be read (see `read_bed`), or a row says neither train, valid nor
            test.
    """
    owned: dict[str, list[Interval]] = {split: [] for split in SPLITS}
    for row in read_bed(bed, genome, partial=True):
        chrom, start, end = row.interval.chrom, row.interval.start, row.interval.end
        end = min(max(end, start + _PUBLISHED), genome.contigs[chrom])
        owned[_split_of(row, bed, SPELLINGS)].append(Interval(chrom, start, end))
    how = f"published intervals of {Path(bed).name}, extended to {_PUBLISHED:,} bases: LEAKS, for comparison only"
    return Splits(owned, how, leaky=True)


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
    lines = [
        f"{genome.name}: {splits.how}",
        f"{'split':<6}{'intervals':>11}{'bases':>16}{'scorable':>16}",
    ]
    for split in SPLITS:
        intervals = merge(splits[split])
        bases = sum(len(interval) for interval in intervals)
        scorable = sum(int(genome.scorable(*genome.flat(interval))) for interval in intervals)
        lines.append(f"{split:<6}{len(intervals):>11,}{bases:>16,}{scorable:>16,}")
    return "\n".join(lines)


def _folds(rows: list[BedRow]) -> list[str] | None:
    """The labels of the split column in order, if they are folds: at least three, and none of them a split or empty."""
    labels = sorted({row.split for row in rows}, key=lambda label: (len(label), label))
    return (
        labels
        if len(labels) > 2 and all(labels) and not SPELLINGS.keys() & {*map(str.lower, labels)}
        else None
    )


def _roles(folds: list[str], bed: str | Path, test_fold: str | None) -> dict[str, str]:
    """Fold -> split. The fold after the test fold, cyclically, is valid: so do Basenji and Borzoi."""
    chosen = test_fold if test_fold in folds else f"fold{test_fold}"
    if chosen not in folds:
        labels = f"{', '.join(folds[:10])}{', ...' if len(folds) > 10 else ''}"
        raise InputError(
            f"{bed}: the split column holds neither train, valid nor test, but {labels}; if these are folds, say with "
            f"--test-fold which one is test (the next one will be valid)"
        )
    valid = folds[(folds.index(chosen) + 1) % len(folds)]
    return {fold.lower(): {chosen: "test", valid: "valid"}.get(fold, "train") for fold in folds}


def _named(roles: Mapping[str, str], split: str) -> str:
    return next(fold for fold, role in roles.items() if role == split)


def _merged(intervals: list[Interval]) -> list[Interval]:
    """Sorted intervals in which those of one weight that overlap or touch have become one."""
    alike: dict[float, list[Interval]] = {}
    for interval in intervals:
        alike.setdefault(interval.weight, []).append(interval)
    return sorted(
        replace(one, weight=weight) for weight, some in alike.items() for one in merge(some)
    )


def _split_of(row: BedRow, bed: str | Path, spelling: Mapping[str, str]) -> str:
    split = spelling.get(row.split.lower())
    if not split:
        found = repr(row.split) if row.split else "nothing"
        raise InputError(
            f"{bed}, line {row.line}: {found} in the split column; write train, valid or test there"
        )
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
