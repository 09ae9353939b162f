"""Intervals of a genome and their arithmetic. Coordinates are 0-based and half-open."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, order=True)
class Interval:
    """The bases ``start`` to ``end - 1`` of a contig.

    As text it is ``chrom:first-last``, 1-based and inclusive, as samtools and genome browsers
    write and read it.

    Attributes:
        chrom: name of the contig.
        start: 0-based position of the first base.
        end: 0-based position after the last base.
        weight: how often random windows begin at one of its bases, relative to other intervals.
            Comparisons ignore it.

    Raises:
        ValueError: if the name is empty, the start is negative, the end is not after the start, or
            the weight is not finite and above 0.
    """

    chrom: str
    start: int
    end: int
    weight: float = field(default=1.0, compare=False)

    def __post_init__(self) -> None:
        if not self.chrom:
            raise ValueError(f"interval from {self.start} to {self.end} has no chromosome name")
        # An impossible interval has no 1-based text, so its 0-based numbers are quoted as such.
        if self.start < 0:
            raise ValueError(f"{self._numbers()} has a negative start")
        if self.end < self.start:
            raise ValueError(f"{self._numbers()} is reversed")
        if self.end == self.start:
            raise ValueError(f"{self._numbers()} is empty")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"interval {self} has weight {self.weight}, which is not above 0")

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.chrom}:{self.start + 1}-{self.end}"

    def _numbers(self) -> str:
        """Describes an invalid interval by its 0-based start and end."""
        return f"interval on {self.chrom} with start {self.start} and end {self.end} (0-based)"


def in_order(intervals: Iterable[Interval]) -> list[Interval]:
    """Returns intervals sorted by contig, start and end; the same as ``sorted``, but faster."""
    return sorted(intervals, key=_place)


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Returns sorted intervals in which those that overlap or touch are one, without weights."""
    merged: list[Interval] = []
    for interval in in_order(intervals):
        # Sorted by start, an interval can only continue the last one.
        last = merged[-1] if merged else None
        if last and last.chrom == interval.chrom and interval.start <= last.end:
            merged[-1] = Interval(last.chrom, last.start, max(last.end, interval.end))
        else:
            merged.append(Interval(interval.chrom, interval.start, interval.end))
    return merged


def subtract(intervals: Iterable[Interval], holes: Iterable[Interval]) -> list[Interval]:
    """Returns the parts of intervals outside `holes`, in their order and with their weights."""
    by_contig: dict[str, list[Interval]] = {}
    for hole in merge(holes):
        by_contig.setdefault(hole.chrom, []).append(hole)

    left: list[Interval] = []
    for interval in intervals:
        left.extend(_outside(interval, by_contig.get(interval.chrom, [])))
    return left


def overlap(some: Iterable[Interval], others: Iterable[Interval]) -> int:
    """Counts the bases that lie both in `some` and in `others`, each base once."""
    some = merge(some)
    return sum(map(len, some)) - sum(map(len, subtract(some, others)))


def _place(interval: Interval) -> tuple[str, int, int]:
    """Returns the sort key of an interval: a tuple, which Python compares faster than objects."""
    return interval.chrom, interval.start, interval.end


def _outside(interval: Interval, holes: list[Interval]) -> Iterator[Interval]:
    """Yields the pieces of an interval between the sorted, disjoint holes of its contig."""
    start = interval.start
    # Holes that end at or before the start of the interval cannot touch it.
    for hole in holes[bisect_right(holes, start, key=lambda hole: hole.end) :]:
        if hole.start >= interval.end:
            break
        if hole.start > start:
            yield replace(interval, start=start, end=hole.start)
        start = hole.end  # the next piece begins after the hole
    if start < interval.end:
        yield replace(interval, start=start)
