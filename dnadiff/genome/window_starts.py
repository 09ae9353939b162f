"""The positions at which windows of a split may begin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dnadiff.errors import InputError
from dnadiff.genome.fasta import Genome
from dnadiff.genome.intervals import Interval
from dnadiff.genome.segments import Segments, find_segments, flat_bounds
from dnadiff.genome.splits import SPLITS, Splits

Sources = Sequence[tuple[Genome, Splits]]
"""The genomes of a run, each with its splits."""

_ADVICE = "choose a shorter window, or other intervals"


@dataclass(frozen=True, eq=False)
class WindowStarts:
    """The starts that windows of a split may have, in rows of consecutive starts.

    A window lies in one interval of its split, and there in one segment (see `Genome.segments`). So
    long runs of N are in no window, and every window has at least one scorable base, or as many as
    were asked for.

    Attributes:
        genomes: the genomes.
        genome: (n,) int64, number of the genome that a row is part of.
        low: (n,) int64, first start of each row, in flat coordinates.
        high: (n,) int64, the position after its last start.
        origin: (n,) int64, where the segment of the row begins, from which it is tiled.
        weight: (n,) float64, weight of the row's interval.
        skipped: number of intervals without any start: too short, or without sequence.
    """

    genomes: tuple[Genome, ...]
    genome: np.ndarray
    low: np.ndarray
    high: np.ndarray
    origin: np.ndarray
    weight: np.ndarray
    skipped: int

    @classmethod
    def of(
        cls, genomes: Sources, split: str, length: int, min_scorable: float = 0.0
    ) -> WindowStarts:
        """Finds the starts of windows of `length` bases.

        Args:
            genomes: genomes and their splits.
            split: "train", "valid" or "test".
            length: bases of a window.
            min_scorable: least share of scorable bases in a window, 0 to 1.

        Raises:
            InputError: if there is no start.
            ValueError: if the split is unknown, the length below 1, or the share not in 0 to 1.
        """
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        if length < 1:
            raise ValueError(f"window must be at least 1 base, got {length}")
        if not 0 <= min_scorable <= 1:
            raise ValueError(f"min_scorable must be from 0 to 1, got {min_scorable}")

        # The subtraction keeps rounding, as of 0.1 * 30, from asking for one base more.
        least = max(1, math.ceil(min_scorable * length - 1e-9))
        parts = [
            _genome_rows(number, genome, splits[split], length, least)
            for number, (genome, splits) in enumerate(genomes)
        ]
        columns = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("genome", "low", "high", "origin", "weight")
            if parts
        }
        if not parts or not len(columns["low"]):
            raise InputError(_no_window(genomes, split, length, least))
        return cls(
            tuple(genome for genome, _ in genomes),
            skipped=sum(part.skipped for part in parts),
            **columns,
        )

    def tiles(self, length: int) -> tuple[WindowStarts, np.ndarray, np.ndarray]:
        """Cuts the segments into tiles: every `length`-th start, from the start of the segment.

        Returns:
            the rows that have tiles; the first tile (n,) of each; and how many (n,) it has.

        Raises:
            InputError: if no row has any.
        """
        # The first position at or after `low` that is a whole number of tiles from the origin, and
        # the number of tiles from there that begin before `high`; both are divisions rounded up.
        first = self.origin - (self.origin - self.low) // length * length
        count = -((first - self.high) // length)
        some = count > 0
        if not some.any():
            raise InputError(
                f"no tile of {length} bases has as many known bases as are asked for; {_ADVICE}"
            )

        chosen = replace(
            self,
            genome=self.genome[some],
            low=self.low[some],
            high=self.high[some],
            origin=self.origin[some],
            weight=self.weight[some],
        )
        return chosen, first[some], count[some]


def _genome_rows(
    number: int, genome: Genome, intervals: list[Interval], length: int, least: int
) -> WindowStarts:
    """Finds the starts in the intervals of one genome; there may be none."""
    segments = find_segments(genome, *flat_bounds(genome, intervals), length)
    long = segments.end - segments.start >= length
    segments = Segments(*(column[long] for column in segments))
    owner, low, high, origin = _rows(genome, segments, length, least)

    weight = np.array([interval.weight for interval in intervals], float)
    return WindowStarts(
        genomes=(genome,),
        genome=np.full(len(low), number),
        low=low,
        high=high,
        origin=origin,
        weight=weight[owner],
        skipped=len(intervals) - len(np.unique(owner)),
    )


def _rows(
    genome: Genome, segments: Segments, length: int, least: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns owner, first start, position after the last start, and origin of the legal rows."""
    owner, start, end = segments
    high = end - length + 1

    # Windows can have too few known bases only where the segment has many unknown ones. All other
    # segments are one row each, which matters in genomes of a million contigs.
    # One known base is in every window of a segment anyway.
    unknown = end - start - genome.scorable(start, end)
    poor = np.flatnonzero(unknown > length - least) if least > 1 else np.empty(0, np.int64)
    count = np.ones(len(start), np.int64)
    rich = {}
    for place in poor.tolist():
        rich[place] = _rich_rows(genome, int(start[place]), int(high[place]), length, least)
        count[place] = len(rich[place])

    source = np.repeat(np.arange(len(start)), count)
    low, high = start[source], high[source]
    first = np.cumsum(count) - count
    for place, rows in rich.items():
        rows_of_it = slice(first[place], first[place] + count[place])
        low[rows_of_it], high[rows_of_it] = rows[:, 0], rows[:, 1]
    return owner[source], low, high, start[source]


def _rich_rows(genome: Genome, low: int, high: int, length: int, least: int) -> np.ndarray:
    """Finds the starts in low..high-1 whose windows have at least `least` scorable bases.

    The number of scorable bases of a window is a piecewise linear function of its start, with slope
    1, 0 or -1. It can bend only where an end of the window meets an end of a run. So a piece
    between two bends is legal up to some start, or from some start on.

    Returns:
        (n, 2) int64, first start and position after the last start of each legal stretch.
    """
    edges = genome.edges(low, high - 1 + length)
    bends = np.unique(np.concatenate(([low, high - 1], edges, edges - length)))

    # A piece goes from one bend to the next, both included; the last bend is a piece of its own.
    begin = bends[(bends >= low) & (bends < high)]
    end = np.append(begin[1:], begin[-1])
    here = genome.scorable(begin, begin + length)
    there = np.append(here[1:], here[-1])

    # On a rising piece the first starts have too few, one less missing at each step; on a falling
    # piece the last ones.
    begin = begin + np.where(there > here, np.maximum(least - here, 0), 0)
    end = end + 1 - np.where(there < here, np.maximum(least - there, 0), 0)
    legal = (np.maximum(here, there) >= least) & (begin < end)
    begin, end = begin[legal], end[legal]

    # Neighbouring pieces share a bend: they become one row.
    parted = np.ones(len(begin) + 1, bool)
    parted[1:-1] = begin[1:] > end[:-1]
    return np.column_stack((begin[parted[:-1]], end[parted[1:]]))


def _no_window(genomes: Sources, split: str, length: int, least: int) -> str:
    """Says why no window fits, and into what."""
    if not genomes:
        return "no genome was given"
    found = [
        (len(interval), interval, genome)
        for genome, splits in genomes
        for interval in splits[split]
    ]
    if not found:
        return f"the {split} split has no interval ({genomes[0][1].how})"

    size, interval, genome = max(found, key=lambda entry: entry[0])
    known = f"at least {least} known bases" if least > 1 else "sequence"
    return (
        f"{genome.path}: a window of {length} bases with {known} fits into none of the "
        f"{len(found)} {split} intervals (the longest, {interval}, has {size}); {_ADVICE}"
    )
