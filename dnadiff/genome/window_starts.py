"""Where windows may begin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dnadiff.errors import InputError
from dnadiff.genome.fasta import Genome
from dnadiff.genome.splits import SPLITS, Splits

Sources = Sequence[tuple[Genome, Splits]]
"""The genomes of a run, each with its splits."""

ADVICE = "choose a shorter --window, or other --intervals"


@dataclass(frozen=True, eq=False)
class WindowStarts:
    """The starts that windows of a split may have, as rows: stretches in which every start is legal.

    A window lies in one interval of its split, and in a segment of it that has sequence (`Genome.segments`): long runs
    of N are in none, and every window has at least one scorable base, or as many as were asked for.

    Attributes:
        genomes: the genomes.
        genome: (n,) which of them a row is of.
        low: (n,) first start of each row, in flat coordinates.
        high: (n,) first place behind its last start.
        origin: (n,) where the segment of the row begins, from which it is tiled.
        weight: (n,) float64, that of the row's interval.
        skipped: number of intervals without any start, for want of length or of sequence.
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
        """The starts of windows of `length` bases of which at least a share `min_scorable` is scorable.

        Raises:
            InputError: if there is none.
            ValueError: if the split or length is none, or the share not in 0..1.
        """
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
        if length < 1:
            raise ValueError(f"a window of {length} bases is none")
        if not 0 <= min_scorable <= 1:
            raise ValueError(f"a share of {min_scorable} scorable bases is none")
        least = max(1, math.ceil(min_scorable * length - 1e-9))
        tables, skipped = [np.empty((0, 5))], 0
        for g, (genome, splits) in enumerate(genomes):
            for interval in splits[split]:
                rows = _rows(genome, genome.segments(interval, length), length, least)
                skipped += not len(rows)
                tables.append(
                    np.column_stack(
                        (np.full(len(rows), g), rows, np.full(len(rows), interval.weight))
                    )
                )
        table = np.concatenate(tables)
        if not len(table):
            raise InputError(_no_room(genomes, split, length, least))
        genome, low, high, origin = table[:, :4].T.astype(np.int64)
        return cls(
            tuple(genome for genome, _ in genomes), genome, low, high, origin, table[:, 4], skipped
        )

    def tiles(self, length: int) -> tuple[WindowStarts, np.ndarray, np.ndarray]:
        """Every `length`-th start of each segment: the rows that have some, the first tile of each, and how many.

        Raises:
            InputError: if no row has any.
        """
        first = self.origin - (self.origin - self.low) // length * length
        count = -((first - self.high) // length)
        some = count > 0
        if not some.any():
            raise InputError(
                f"no tile of {length} bases has as many known bases as are asked for; {ADVICE}"
            )
        columns = {
            name: getattr(self, name)[some]
            for name in ("genome", "low", "high", "origin", "weight")
        }
        return replace(self, **columns), first[some], count[some]


def _rows(genome: Genome, segments: np.ndarray, length: int, least: int) -> np.ndarray:
    """First start, first place behind the last start, and origin (n, 3) of the legal stretches of segments."""
    segments = segments[segments[:, 1] - segments[:, 0] >= length]
    whole = np.column_stack((segments[:, 0], segments[:, 1] - length + 1, segments[:, 0]))
    if least <= 1 or not len(whole):
        return whole
    return np.concatenate(
        [_rich(genome, low, high, length, least) for low, high, _ in whole.tolist()]
    )


def _rich(genome: Genome, low: int, high: int, length: int, least: int) -> np.ndarray:
    """The stretches of starts low..high-1 whose windows have at least `least` scorable bases: (n, 3), as `_rows`.

    The number of scorable bases of a window is a piecewise linear function of its start, with slope 1, 0 or -1: it can
    bend only where an end of the window meets the end of a run. So each piece is legal up to some place, or from there.
    """
    edges = genome.edges(low, high - 1 + length)
    bends = np.unique(np.concatenate(([low, high - 1], edges, edges - length)))
    begin = bends[(bends >= low) & (bends < high)]
    end = np.append(begin[1:], begin[-1])
    here = genome.scorable(begin, begin + length)
    there = np.append(here[1:], here[-1])
    begin = begin + np.where(there > here, np.maximum(least - here, 0), 0)
    end = end + 1 - np.where(there < here, np.maximum(least - there, 0), 0)
    legal = (np.maximum(here, there) >= least) & (begin < end)
    begin, end = begin[legal], end[legal]
    parted = np.ones(len(begin) + 1, bool)
    parted[1:-1] = begin[1:] > end[:-1]
    begin, end = begin[parted[:-1]], end[parted[1:]]
    return np.column_stack((begin, end, np.full(len(begin), low)))


def _no_room(genomes: Sources, split: str, length: int, least: int) -> str:
    where = [
        (len(interval), interval, genome)
        for genome, splits in genomes
        for interval in splits[split]
    ]
    if not where:
        return (
            f"the {split} split has no interval ({genomes[0][1].how})"
            if genomes
            else "no genome was given"
        )
    size, interval, genome = max(where, key=lambda entry: entry[0])
    known = f"at least {least} known bases" if least > 1 else "sequence"
    return (
        f"{genome.path}: a window of {length} bases with {known} fits into none of the {len(where)} {split} intervals "
        f"(the longest, {interval}, has {size}); {ADVICE}"
    )
