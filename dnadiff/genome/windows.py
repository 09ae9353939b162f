"""Windows of a split: random ones for training, a fixed sample of tiles for evaluation. Neither keeps state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dnadiff.errors import InputError
from dnadiff.genome.fasta import Genome
from dnadiff.genome.intervals import Interval
from dnadiff.genome.splits import SPLITS, Splits
from dnadiff.noise import Stream, uniform

Sources = Sequence[tuple[Genome, Splits]]
"""The genomes of a run, each with its splits."""


class Location(NamedTuple):
    """Where a window lies: name of the genome, contig, 0-based start, 0-based end (not included), "+" or "-"."""

    genome: str
    chrom: str
    start: int
    end: int
    strand: str


class Windows:
    """Random windows of a split, as a pure function of (seed, index).

    Window `index` begins at a place that is uniform over all legal ones of all genomes: the window lies in one interval
    of the split, and in a segment of it that has sequence (`Genome.segments`), so that long runs of N are never drawn
    and every window has at least one scorable base. Its strand is a fair coin. Any number of workers or devices that
    ask for the same index get the same window.

    Args:
        genomes: genomes and their splits; each weighs what it has of legal starts.
        split: "train", "valid" or "test".
        length: bases of a window.
        seed: seed of the run.
        reverse_complement: whether half of the windows are taken from the opposite strand.

    Attributes:
        total: number of legal starts, each strand counted once.
        skipped: number of intervals in which no window fits, for want of length or of sequence.

    Raises:
        InputError: if no interval has room for a window.
        ValueError: if the split or length is none.
    """

    def __init__(
        self, genomes: Sources, *, split: str, length: int, seed: int, reverse_complement: bool = True
    ) -> None:
        segments = _Segments.of(genomes, split, length)
        starts = segments.end - segments.start - length + 1
        self.length = length
        self.seed = seed
        self.reverse_complement = reverse_complement
        self.skipped = segments.skipped
        self.total = int(starts.sum())
        self._genomes = segments.genomes
        self._genome = segments.genome
        self._start = segments.start
        self._through = np.cumsum(starts)  # legal starts up to and with each segment
        self._before = self._through - starts

    def tokens(self, index: Tensor) -> Tensor:
        """Token ids (B, length) int64 of the windows `index` (B,) int64, in that order.

        Raises:
            ValueError: if an index is negative.
        """
        genome, start, reverse = self._place(index)
        return _gather(self._genomes, genome, start, self.length, reverse)

    def locate(self, index: Tensor) -> list[Location]:
        """Where the windows `index` (B,) lie."""
        places = zip(*(column.tolist() for column in self._place(index)), strict=True)
        return [_location(self._genomes[g], start, self.length, "-" if minus else "+") for g, start, minus in places]

    def _place(self, index: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Genome, flat start and whether the strand is "-", each (B,)."""
        if index.numel() and int(index.min()) < 0:
            raise ValueError(f"window {int(index.min())}: an index cannot be negative")
        chance = uniform(self.seed, Stream.WINDOW, index.cpu(), 1)[:, 0].numpy()
        rank = np.minimum((chance * self.total).astype(np.int64), self.total - 1)
        row = np.searchsorted(self._through, rank, "right")
        coin = uniform(self.seed, Stream.STRAND, index.cpu(), 1)[:, 0].numpy()
        return self._genome[row], self._start[row] + rank - self._before[row], (coin < 0.5) & self.reverse_complement


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A fixed sample of a split's windows, on the forward strand, no two of which share a base.

    Attributes:
        genomes: the genomes.
        length: bases of a window.
        total: how many eligible tiles the split has; the sample is all of them, or as many as were asked for.
        bases: scorable bases in the sample.
    """

    genomes: tuple[Genome, ...]
    length: int
    total: int
    bases: int
    _genome: np.ndarray
    _start: np.ndarray

    @property
    def windows(self) -> int:
        """Number of windows in the sample."""
        return len(self._start)

    def tokens(self, rows: Tensor | slice) -> Tensor:
        """Token ids (B, length) int64 of the windows `rows` (B,) of the sample."""
        chosen = rows if isinstance(rows, slice) else rows.cpu().numpy()
        start = self._start[chosen]
        return _gather(self.genomes, self._genome[chosen], start, self.length, np.zeros(len(start), bool))

    @property
    def tokens_all(self) -> Tensor:
        """Token ids (windows, length) int64 of the whole sample."""
        return self.tokens(slice(None))

    @cached_property
    def locations(self) -> list[Location]:
        """Where the windows lie."""
        places = zip(self._genome.tolist(), self._start.tolist(), strict=True)
        return [_location(self.genomes[g], start, self.length, "+") for g, start in places]

    @property
    def intervals(self) -> list[Interval]:
        """Where the windows lie, as intervals; see `locations` if there are several genomes."""
        return [Interval(place.chrom, place.start, place.end) for place in self.locations]


def held_out(genomes: Sources, *, split: str, length: int, limit: int, seed: int) -> HeldOut:
    """A sample of the windows of a split, for a bound that can be reported.

    The segments of the split that have sequence are tiled from their first base on. A tile is eligible if at least half
    of its bases are scorable. At most `limit` of them are drawn without replacement; those of a smaller limit are the
    first of those of a larger one.

    Args:
        genomes: genomes and their splits.
        split: "train", "valid" or "test".
        length: bases of a window.
        limit: the most windows to take.
        seed: seed of the sample.

    Raises:
        InputError: if no tile is eligible.
        ValueError: if the split, length or limit is none.
    """
    if limit < 1:
        raise ValueError(f"a sample of {limit} windows is none")
    segments = _Segments.of(genomes, split, length)
    count = (segments.end - segments.start) // length
    row = np.repeat(np.arange(len(count)), count)
    number = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    genome, start = segments.genome[row], segments.start[row] + number * length
    scorable = np.zeros(len(start), np.int64)
    for g, source in enumerate(segments.genomes):
        scorable[genome == g] = source.scorable(start[genome == g], start[genome == g] + length)
    eligible = np.flatnonzero(2 * scorable >= length)
    if not len(eligible):
        raise InputError(f"the {split} split has no window of {length} bases of which half are known; {_ADVICE}")
    chance = uniform(seed, Stream.EVAL, torch.arange(len(eligible)), 1)[:, 0].numpy()
    chosen = eligible[np.argsort(chance, kind="stable")[:limit]]
    return HeldOut(segments.genomes, length, len(eligible), int(scorable[chosen].sum()), genome[chosen], start[chosen])


_ADVICE = "choose a shorter --window, or other --intervals"


@dataclass(frozen=True, eq=False)
class _Segments:
    """The segments of a split in which a window fits: number of the genome, flat start and end, each (n,)."""

    genomes: tuple[Genome, ...]
    genome: np.ndarray
    start: np.ndarray
    end: np.ndarray
    skipped: int

    @classmethod
    def of(cls, genomes: Sources, split: str, length: int) -> _Segments:
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
        if length < 1:
            raise ValueError(f"a window of {length} bases is none")
        rows, skipped = [], 0
        for g, (genome, splits) in enumerate(genomes):
            for interval in splits[split]:
                segments = genome.segments(interval, length)
                fitting = segments[segments[:, 1] - segments[:, 0] >= length]
                skipped += not len(fitting)
                rows.append(np.insert(fitting, 0, g, axis=1))
        table = np.concatenate([np.empty((0, 3), np.int64), *rows])
        if not len(table):
            raise InputError(_no_room(genomes, split, length))
        return cls(tuple(genome for genome, _ in genomes), table[:, 0], table[:, 1], table[:, 2], skipped)


def _no_room(genomes: Sources, split: str, length: int) -> str:
    where = [(len(interval), interval, genome) for genome, splits in genomes for interval in splits[split]]
    if not where:
        return f"the {split} split has no interval ({genomes[0][1].how})" if genomes else "no genome was given"
    size, interval, genome = max(where, key=lambda entry: entry[0])
    return (
        f"{genome.path}: a window of {length} bases with sequence fits into none of the {len(where)} {split} intervals "
        f"(the longest, {interval}, has {size}); {_ADVICE}"
    )


def _gather(
    genomes: Sequence[Genome], genome: np.ndarray, start: np.ndarray, length: int, reverse: np.ndarray
) -> Tensor:
    """Token ids (B, length) of windows of several genomes."""
    if len(genomes) == 1:
        return genomes[0].gather(start, length, reverse)
    tokens = torch.empty(len(start), length, dtype=torch.int64)
    for g in np.unique(genome):
        rows = np.flatnonzero(genome == g)
        tokens[torch.from_numpy(rows)] = genomes[g].gather(start[rows], length, reverse[rows])
    return tokens


def _location(genome: Genome, start: int, length: int, strand: str) -> Location:
    place = genome.locate(start, start + length)
    return Location(genome.name, place.chrom, place.start, place.end, strand)
