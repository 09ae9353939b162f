"""Windows of a split: random ones or tiles for training, a fixed sample of tiles for evaluation. None keeps state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dnadiff.errors import InputError
from dnadiff.genome.fasta import Genome
from dnadiff.genome.intervals import Interval, merge
from dnadiff.genome.loops import deal, draw
from dnadiff.genome.window_starts import Sources, WindowStarts
from dnadiff.rng import Stream, uniform


class Location(NamedTuple):
    """Where a window lies: name of the genome, contig, 0-based start, 0-based end (not included), "+" or "-"."""

    genome: str
    chrom: str
    start: int
    end: int
    strand: str


class Drawn(NamedTuple):
    """Windows for training: tokens (B, length); weights (B, length) of their bases, or None; labels (B,), or None."""

    tokens: Tensor
    weight: Tensor | None = None
    label: Tensor | None = None


class Windows:
    """Training windows of a split, as a pure function of (seed, index).

    A window lies where `WindowStarts` says that it may. A random one begins at a place that is uniform over all legal ones of
    all genomes, but for weights. If `tiled`, each interval is cut into windows from its first known base on, and a
    window is one of those: each comes once in every `total` consecutive numbers, in an order that is random and another
    one each time. The strand is a fair coin. Any number of workers or devices that ask for the same index get the same
    window, and no list of windows is ever made.

    Args:
        genomes: genomes and their splits; each weighs what it has of legal starts, times the weights of intervals.
        split: "train", "valid" or "test".
        length: bases of a window.
        seed: seed of the run.
        reverse_complement: whether half of the windows are taken from the opposite strand.
        tiled: tiles in a random order instead of random windows; intervals must not have weights then.
        jitter: most bases by which a tile is moved to either side, as far as it stays legal.
        shares: how many of the random windows are of each genome, up to a factor, instead of what it weighs.
        min_scorable: least share of scorable bases in a window; one base is the least in any case.
        soft_mask_weight: weight of soft-masked bases in the loss.

    Attributes:
        total: number of legal starts, or of tiles, each strand counted once.
        skipped: number of intervals in which no window fits, for want of length or of sequence.

    Raises:
        InputError: if no interval has room for a window, or tiles are asked of intervals with weights.
        ValueError: if the split, length or share is none, or jitter or shares are given where they have no meaning.
    """

    def __init__(
        self,
        genomes: Sources,
        *,
        split: str,
        length: int,
        seed: int,
        reverse_complement: bool = True,
        tiled: bool = False,
        jitter: int = 0,
        shares: Sequence[float] | None = None,
        min_scorable: float = 0.0,
        soft_mask_weight: float = 1.0,
    ) -> None:
        if jitter < 0 or (jitter and not tiled) or (shares and tiled):
            raise ValueError(
                f"jitter {jitter} is for tiles, and shares {shares} for random windows"
            )
        places = WindowStarts.of(genomes, split, length, min_scorable)
        self.length = length
        self._seed = np.uint64(seed % 2**64)
        self.reverse_complement = reverse_complement
        self.soft_mask_weight = soft_mask_weight
        self.skipped = places.skipped
        self._permuted_tiles = (
            _TiledStarts.of(places, length, jitter) if tiled else _RandomStarts.of(places, shares)
        )
        self.total = self._permuted_tiles.total

    def tokens(self, index: Tensor) -> Tensor:
        """Token ids (B, length) int64 of the windows `index` (B,) int64, in that order.

        Raises:
            ValueError: if an index is negative.
        """
        return _tokens(self._permuted_tiles.places.genomes, *self._place(index), self.length)

    def draw(self, index: Tensor) -> Drawn:
        """Windows, and the weights of their bases in the loss: float32, or None where all are 1. They have no labels.

        Raises:
            ValueError: if an index is negative.
        """
        genomes, place = self._permuted_tiles.places.genomes, self._place(index)
        weights = None
        if self.soft_mask_weight != 1:
            weights = _weights(genomes, *place, self.length, self.soft_mask_weight)
        return Drawn(_tokens(genomes, *place, self.length), weights)

    def locate(self, index: Tensor) -> list[Location]:
        """Where the windows `index` (B,) lie."""
        places = zip(*(column.tolist() for column in self._place(index)), strict=True)
        genomes = self._permuted_tiles.places.genomes
        return [
            _location(genomes[g], start, self.length, "-" if minus else "+")
            for g, start, minus in places
        ]

    def _place(self, index: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Genome, flat start and whether the strand is "-", each (B,)."""
        numbers = (
            index.cpu().numpy()
        )  # what little is done here has NumPy do it: a batch should cost its bytes
        if len(numbers) and numbers.min() < 0:
            raise ValueError(f"window {numbers.min()}: an index cannot be negative")
        row, start, reverse = self._permuted_tiles.draw(numbers.view(np.uint64), self._seed)
        if not self.reverse_complement:
            reverse[:] = False
        return self._permuted_tiles.places.genome[row], start, reverse


_STREAMS = np.array([Stream.WINDOW, Stream.STRAND], np.uint64)


@dataclass(frozen=True, eq=False)
class _RandomStarts:
    """Random windows: `through` (n,) is the mass of the rows up to and with each, `density` (n,) that of a start."""

    places: WindowStarts
    through: np.ndarray
    density: np.ndarray
    total: int

    @classmethod
    def of(cls, places: WindowStarts, shares: Sequence[float] | None) -> _RandomStarts:
        density = places.weight.copy()
        count = places.high - places.low
        if shares is not None:
            mass = np.bincount(places.genome, count * density, len(places.genomes))
            density *= (np.array(shares, float) / np.maximum(mass, 1))[places.genome]
        return cls(places, np.cumsum(count * density), density, int(count.sum()))

    def draw(self, index: np.ndarray, seed: np.uint64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return draw(
            index, seed, _STREAMS, self.through, self.density, self.places.low, self.places.high
        )


@dataclass(frozen=True, eq=False)
class _TiledStarts:
    """Tiles in random order: `first` (n,) is that of each row, `through` (n,) how many there are up to and with it."""

    places: WindowStarts
    first: np.ndarray
    through: np.ndarray
    step: int
    jitter: int

    @classmethod
    def of(cls, places: WindowStarts, length: int, jitter: int) -> _TiledStarts:
        if (places.weight != 1).any():
            raise InputError(
                "intervals with weights are for random windows: leave --tiled or the weight column out"
            )
        some, first, count = places.tiles(length)
        return cls(some, first, np.cumsum(count), length, jitter)

    @property
    def total(self) -> int:
        return int(self.through[-1])

    def draw(self, index: np.ndarray, seed: np.uint64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        low, high = self.places.low, self.places.high
        return deal(
            index, seed, _STREAMS, self.through, self.first, self.step, self.jitter, low, high
        )


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
        return _tokens(
            self.genomes, self._genome[chosen], start, np.zeros(len(start), bool), self.length
        )

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


def held_out(
    genomes: Sources, *, split: str, length: int, limit: int, seed: int, min_scorable: float = 0.5
) -> HeldOut:
    """A sample of the windows of a split, for a bound that can be reported.

    The segments of the split that have sequence are tiled from their first base on. A tile is eligible if at least half
    of its bases are scorable, or what is asked for. At most `limit` of them are drawn without replacement; those of a
    smaller limit are the first of those of a larger one.

    Args:
        genomes: genomes and their splits.
        split: "train", "valid" or "test".
        length: bases of a window.
        limit: the most windows to take.
        seed: seed of the sample.
        min_scorable: least share of scorable bases in a window.

    Raises:
        InputError: if no tile is eligible.
        ValueError: if the split, length, limit or share is none.
    """
    if limit < 1:
        raise ValueError(f"a sample of {limit} windows is none")
    apart = [
        (genome, replace(splits, intervals={s: _apart(splits[s]) for s in splits}))
        for genome, splits in genomes
    ]
    places, first, count = WindowStarts.of(apart, split, length, min_scorable).tiles(length)
    total = int(count.sum())
    chance = uniform(seed, Stream.EVAL, torch.arange(total), 1)[:, 0].numpy()
    chosen = np.argsort(chance, kind="stable")[:limit]
    row = np.searchsorted(np.cumsum(count), chosen, "right")
    start = first[row] + (chosen - (np.cumsum(count) - count)[row]) * length
    genome = places.genome[row]
    bases = 0
    for g, source in enumerate(places.genomes):
        mine = start[genome == g]
        bases += int(source.scorable(mine, mine + length).sum())
    return HeldOut(places.genomes, length, total, bases, genome, start)


def _apart(intervals: list[Interval]) -> list[Interval]:
    """The same bases in intervals that do not overlap, as weighted and published ones may."""
    merged = merge(intervals)
    return intervals if sum(map(len, merged)) == sum(map(len, intervals)) else merged


def _tokens(
    genomes: Sequence[Genome],
    genome: np.ndarray,
    start: np.ndarray,
    reverse: np.ndarray,
    length: int,
) -> Tensor:
    """Token ids (B, length) of windows of several genomes."""
    if len(genomes) == 1:
        return genomes[0].gather(start, length, reverse)
    tokens = torch.empty(len(start), length, dtype=torch.int64)
    for g in np.unique(genome):
        rows = np.flatnonzero(genome == g)
        tokens[torch.from_numpy(rows)] = genomes[g].gather(start[rows], length, reverse[rows])
    return tokens


def _weights(
    genomes: Sequence[Genome],
    genome: np.ndarray,
    start: np.ndarray,
    reverse: np.ndarray,
    length: int,
    masked: float,
) -> Tensor:
    """Weights (B, length) of the bases of windows of several genomes."""
    weights = torch.empty(len(start), length)
    for g in np.unique(genome):
        rows = np.flatnonzero(genome == g)
        weights[torch.from_numpy(rows)] = genomes[g].mask_weights(
            start[rows], length, reverse[rows], masked
        )
    return weights


def _location(genome: Genome, start: int, length: int, strand: str) -> Location:
    place = genome.locate(start, start + length)
    return Location(genome.name, place.chrom, place.start, place.end, strand)
