"""The train, valid and test splits of a genome. No base is in two of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from dnadiff.genome.fasta import Genome
from dnadiff.genome.intervals import Interval, merge, overlap, subtract
from dnadiff.genome.segments import flat_bounds

SPLITS = ("train", "valid", "test")
SPELLINGS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "test": "test",
    "testing": "test",
}
"""How a table may spell a split, in lower case."""


@dataclass(frozen=True)
class Splits(Mapping[str, list[Interval]]):
    """The intervals of each split of a genome, e.g. ``splits["train"]``.

    Attributes:
        intervals: split -> its intervals; missing splits are empty.
        how: how the split was made and what its parts still share, for a log or a model card.
        leaky: whether splits may share bases, as those of a published split do.

    Raises:
        ValueError: if a split has another name, or two splits share a base and must not.
    """

    intervals: Mapping[str, list[Interval]]
    how: str
    leaky: bool = False

    def __post_init__(self) -> None:
        if unknown := set(self.intervals) - set(SPLITS):
            raise ValueError(f"split {min(unknown)!r} is not one of {', '.join(SPLITS)}")
        # Only the published split is leaky; it is kept for comparison with published figures.
        if self.leaky:
            return
        # Sorted by a key, which is much faster than comparing intervals: there may be a million.
        owned = [(interval, split) for split in SPLITS for interval in self[split]]
        owned.sort(key=_order)
        for i, j in clashes(owned):
            (one, first), (other, second) = owned[i], owned[j]
            raise ValueError(f"{first} {one} and {second} {other} share bases")

    # The three methods that make this a Mapping: always three keys, whichever were given.

    def __getitem__(self, split: str) -> list[Interval]:
        if split not in SPLITS:
            raise KeyError(split)
        return self.intervals.get(split, [])

    def __iter__(self) -> Iterator[str]:
        return iter(SPLITS)

    def __len__(self) -> int:
        return len(SPLITS)

    def without(self, blacklist: list[Interval], name: str) -> Splits:
        """Returns the same splits without the bases of a blacklist; no window contains one."""
        kept = {split: subtract(self[split], blacklist) for split in SPLITS}
        lost = sum(overlap(self[split], blacklist) for split in SPLITS)
        return replace(self, intervals=kept, how=f"{self.how}; without {lost:,} bases of {name}")


def summary(genome: Genome, splits: Splits) -> str:
    """Returns a table of the intervals, bases and scorable bases of each split, headed by `how`."""
    lines = [
        f"{genome.name}: {splits.how}",
        f"{'split':<6}{'intervals':>11}{'bases':>16}{'scorable':>16}",
    ]
    for split in SPLITS:
        # Merged, so that a base in two overlapping intervals is counted once.
        intervals = merge(splits[split])
        bases = sum(len(interval) for interval in intervals)
        scorable = int(genome.scorable(*flat_bounds(genome, intervals)).sum())
        lines.append(f"{split:<6}{len(intervals):>11,}{bases:>16,}{scorable:>16,}")
    return "\n".join(lines)


def _order(owned: tuple[Interval, str]) -> tuple[str, int, int, str]:
    """Returns the sort key of an interval with its split."""
    interval, split = owned
    return interval.chrom, interval.start, interval.end, split


def clashes(owned: list[tuple[Interval, str]]) -> Iterator[tuple[int, int]]:
    """Yields pairs of rows of a sorted list that overlap and are in different splits.

    The first clash is always found, later ones may not be. Each interval is compared only with the
    earlier one that ends last. That is enough: all earlier intervals that overlap the new one
    contain its first base, so they overlap each other, and without an earlier clash all are in one
    split.
    """
    furthest = 0
    for i, (interval, split) in enumerate(owned):
        last, owner = owned[furthest]
        # Half-open: an interval that starts where another ends does not overlap it.
        if interval.chrom == last.chrom and interval.start < last.end and split != owner:
            yield furthest, i
        if interval.chrom != last.chrom or interval.end > last.end:
            furthest = i
