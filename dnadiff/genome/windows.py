"""Draws windows of a split: random ones or tiles for training, fixed tiles for evaluation.

All classes are stateless: a window is a function of the seed and its number.
"""

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
from dnadiff.genome.loops import permuted_tiles, random_starts
from dnadiff.genome.splits import Splits
from dnadiff.genome.window_starts import Sources, WindowStarts
from dnadiff.rng import Stream, uniform

MAX_INDEX = 2**56
"""Numbers of windows are below this; see `dnadiff.rng.uniform`, which draws from them."""

_STREAMS = np.array([Stream.WINDOW, Stream.STRAND], np.uint64)


class Location(NamedTuple):
    """Where a window lies.

    Attributes:
        genome: name of the genome.
        chrom: name of the contig.
        start: 0-based position of the first base.
        end: 0-based position after the last base.
        strand: "+" or "-".
    """

    genome: str
    chrom: str
    start: int
    end: int
    strand: str


class Drawn(NamedTuple):
    """Windows for training.

    Attributes:
        tokens: (B, length) int64 token ids.
        weight: (B, length) float32, weights of the bases in the loss; None if all are 1.
        label: (B,) int64 classes; None without classes.
    """

    tokens: Tensor
    weight: Tensor | None = None
    label: Tensor | None = None


class Windows:
    """Training windows of a split, as a pure function of (seed, index).

    Windows begin at the starts that `WindowStarts` allows. The start of a random window is uniform
    over the allowed starts of all genomes, unless intervals have weights. If `tiled`, each segment
    is cut into adjacent windows from its first known base on. Each tile then occurs once in every
    `total` consecutive numbers, in a random order that is different in each such round. Each strand
    has probability one half. An index gives the same window in every worker and on every device;
    no list of windows is kept.

    Args:
        genomes: genomes and their splits. The probability of each is proportional to its number of
            allowed starts, times the weights of their intervals.
        split: "train", "valid" or "test".
        length: bases of a window.
        seed: seed of the run.
        reverse_complement: whether half of the windows are taken from the opposite strand.
        tiled: tiles in a random order instead of random windows; intervals must not have weights.
        jitter: the most bases by which a tile is moved to either side, among the allowed starts.
        shares: relative number of random windows from each genome; by its size if not given.
        min_scorable: least share of scorable bases in a window; at least one base is scorable in
            any case.
        soft_mask_weight: weight of soft-masked bases in the loss.

    Attributes:
        total: number of allowed starts, or of tiles, both strands together counted once.
        skipped: number of intervals in which no window fits: too short, or without sequence.

    Raises:
        InputError: if no window fits into any interval, or `tiled` is set and intervals have
            weights.
        ValueError: if the split is unknown, a length or share is out of range, jitter is given
            without `tiled`, or shares are given with it.
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
        if jitter < 0:
            raise ValueError(f"jitter must be 0 or more, got {jitter}")
        if jitter and not tiled:
            raise ValueError(f"jitter {jitter} is for tiles: set tiled, or leave jitter out")
        if shares and tiled:
            raise ValueError(f"shares {shares} are for random windows: leave out tiled, or shares")

        starts = WindowStarts.of(genomes, split, length, min_scorable)
        self.length = length
        # Compiled loops take the seed as 64 bits; negative seeds wrap around.
        self._seed = np.uint64(seed % 2**64)
        self.reverse_complement = reverse_complement
        self.soft_mask_weight = soft_mask_weight
        self.skipped = starts.skipped
        self._starts: _RandomStarts | _TiledStarts
        if tiled:
            self._starts = _TiledStarts.of(starts, length, jitter)
        else:
            self._starts = _RandomStarts.of(starts, shares)
        self.total = self._starts.total

    # Windows are computed from the index each time, so that workers and devices agree and a
    # resumed run continues exactly.

    def tokens(self, index: Tensor) -> Tensor:
        """Returns token ids (B, length) int64 of the windows `index` (B,), in that order.

        Raises:
            ValueError: if an index is not a whole number, negative, or too large.
        """
        return _tokens(self._starts.rows.genomes, *self._place(index), self.length)

    def draw(self, index: Tensor) -> Drawn:
        """Returns the windows `index` (B,) and the weights of their bases; they have no labels.

        Raises:
            ValueError: if an index is not a whole number, negative, or too large.
        """
        genomes, place = self._starts.rows.genomes, self._place(index)
        weights = None
        if self.soft_mask_weight != 1:
            weights = _weights(genomes, *place, self.length, self.soft_mask_weight)
        return Drawn(_tokens(genomes, *place, self.length), weights)

    def locate(self, index: Tensor) -> list[Location]:
        """Returns where the windows `index` (B,) lie."""
        genomes = self._starts.rows.genomes
        columns = [column.tolist() for column in self._place(index)]
        return [
            _location(genomes[number], start, self.length, "-" if reverse else "+")
            for number, start, reverse in zip(*columns, strict=True)
        ]

    def _place(self, index: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns number of the genome, flat start and whether the strand is "-", each (B,)."""
        row, start, reverse = self._starts.draw(_numbers(index), self._seed)
        # The strand is drawn even if it is not used, so positions do not depend on this option.
        if not self.reverse_complement:
            reverse[:] = False
        return self._starts.rows.genome[row], start, reverse


def _numbers(index: Tensor) -> np.ndarray:
    """Returns numbers of windows (B,) as uint64.

    Raises:
        ValueError: if one is not a whole number, negative, or too large.
    """
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise ValueError(f"an index of windows must have integers, not {index.dtype}")
    # NumPy from here on, which is faster for small batches. Narrower integers must become int64
    # before the view below, which reinterprets bytes.
    numbers = index.cpu().numpy().astype(np.int64, copy=False)
    if len(numbers) and numbers.min() < 0:
        raise ValueError(f"window {numbers.min()}: an index cannot be negative")
    if len(numbers) and numbers.max() >= MAX_INDEX:
        raise ValueError(f"window {numbers.max()}: an index must be below 2^56")
    return numbers.view(np.uint64)


@dataclass(frozen=True, eq=False)
class _RandomStarts:
    """Draws random windows: uniform over the starts of the rows, times their weights.

    Attributes:
        rows: the rows of starts.
        through: (n,) float64, cumulative weight of the rows, each included.
        density: (n,) float64, weight of one start of each row.
        total: number of starts.
    """

    rows: WindowStarts
    through: np.ndarray
    density: np.ndarray
    total: int

    @classmethod
    def of(cls, rows: WindowStarts, shares: Sequence[float] | None) -> _RandomStarts:
        """Weights the rows by their intervals, or such that genomes have the given shares."""
        density = rows.weight.copy()
        count = rows.high - rows.low
        if shares is not None:
            by_genome = np.bincount(rows.genome, count * density, len(rows.genomes))
            # A genome without starts has no row, so the 1 that avoids 0 / 0 changes nothing.
            factor = np.array(shares, float) / np.maximum(by_genome, 1)
            density *= factor[rows.genome]
        return cls(rows, np.cumsum(count * density), density, int(count.sum()))

    def draw(self, index: np.ndarray, seed: np.uint64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns row, flat start and whether the strand is "-" of windows (B,) uint64."""
        low, high = self.rows.low, self.rows.high
        return random_starts(index, seed, _STREAMS, self.through, self.density, low, high)


@dataclass(frozen=True, eq=False)
class _TiledStarts:
    """Draws tiles in a random order.

    Attributes:
        rows: the rows of starts.
        first: (n,) int64, flat start of the first tile of each row.
        through: (n,) int64, cumulative number of tiles of the rows, each included.
        step: bases from one tile to the next.
        jitter: the most bases by which a tile is moved.
    """

    rows: WindowStarts
    first: np.ndarray
    through: np.ndarray
    step: int
    jitter: int

    @classmethod
    def of(cls, rows: WindowStarts, length: int, jitter: int) -> _TiledStarts:
        """Cuts the rows into tiles.

        Raises:
            InputError: if intervals have weights.
        """
        if (rows.weight != 1).any():
            raise InputError(
                "intervals with weights are for random windows: leave out tiled, or the column "
                "weight"
            )
        some, first, count = rows.tiles(length)
        return cls(some, first, np.cumsum(count), length, jitter)

    @property
    def total(self) -> int:
        """Number of tiles."""
        return int(self.through[-1])

    def draw(self, index: np.ndarray, seed: np.uint64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns row, flat start and whether the strand is "-" of windows (B,) uint64."""
        low, high = self.rows.low, self.rows.high
        return permuted_tiles(
            index, seed, _STREAMS, self.through, self.first, self.step, self.jitter, low, high
        )


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Holds a fixed sample of a split's windows, on the forward strand and without overlaps.

    Attributes:
        genomes: the genomes.
        length: bases of a window.
        total: number of eligible tiles of the split, from which the sample was drawn.
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
        """Returns token ids (B, length) int64 of the windows `rows` (B,) of the sample."""
        chosen = rows if isinstance(rows, slice) else rows.cpu().numpy()
        start = self._start[chosen]
        forward = np.zeros(len(start), bool)
        return _tokens(self.genomes, self._genome[chosen], start, forward, self.length)

    @property
    def tokens_all(self) -> Tensor:
        """Token ids (windows, length) int64 of the whole sample."""
        return self.tokens(slice(None))

    @cached_property
    def locations(self) -> list[Location]:
        """Where the windows lie."""
        return [
            _location(self.genomes[number], start, self.length, "+")
            for number, start in zip(self._genome.tolist(), self._start.tolist(), strict=True)
        ]

    @property
    def intervals(self) -> list[Interval]:
        """Where the windows lie, as intervals; see `locations` if there are several genomes."""
        return [Interval(place.chrom, place.start, place.end) for place in self.locations]


def held_out(
    genomes: Sources, *, split: str, length: int, limit: int, seed: int, min_scorable: float = 0.5
) -> HeldOut:
    """Samples windows of a split for evaluation.

    The segments of the split are tiled from their first base on. A tile is eligible if at least a
    share `min_scorable` of its bases is scorable. At most `limit` of them are drawn without
    replacement; a smaller sample is the beginning of a larger one.

    Args:
        genomes: genomes and their splits.
        split: "train", "valid" or "test".
        length: bases of a window.
        limit: the most windows to take.
        seed: seed of the sample.
        min_scorable: least share of scorable bases in a window, 0 to 1.

    Raises:
        InputError: if no tile is eligible.
        ValueError: if the split is unknown, or the length, limit or share is out of range.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1 window, got {limit}")
    apart = [(genome, _without_overlaps(splits)) for genome, splits in genomes]
    rows, first, count = WindowStarts.of(apart, split, length, min_scorable).tiles(length)

    # Tiles sorted by a random number: the first ones are a sample without replacement. The numbers
    # do not depend on the limit, so a larger sample continues a smaller one.
    total = int(count.sum())
    chance = uniform(seed, Stream.EVAL, torch.arange(total), 1)[:, 0].numpy()
    chosen = np.argsort(chance, kind="stable")[:limit]
    row = np.searchsorted(np.cumsum(count), chosen, "right")
    start = first[row] + (chosen - (np.cumsum(count) - count)[row]) * length

    genome = rows.genome[row]
    bases = 0
    for number, source in enumerate(rows.genomes):
        mine = start[genome == number]
        bases += int(source.scorable(mine, mine + length).sum())
    return HeldOut(rows.genomes, length, total, bases, genome, start)


def _without_overlaps(splits: Splits) -> Splits:
    """Merges overlapping intervals, as in weighted and published splits, to count bases once."""
    intervals = {split: _apart(splits[split]) for split in splits}
    return replace(splits, intervals=intervals)


def _apart(intervals: list[Interval]) -> list[Interval]:
    """Returns the same bases in intervals that do not overlap; the same list if none did."""
    merged = merge(intervals)
    return intervals if sum(map(len, merged)) == sum(map(len, intervals)) else merged


def _tokens(
    genomes: Sequence[Genome],
    genome: np.ndarray,
    start: np.ndarray,
    reverse: np.ndarray,
    length: int,
) -> Tensor:
    """Returns token ids (B, length) int64 of windows of several genomes."""
    if len(genomes) == 1:
        return genomes[0].gather(start, length, reverse)

    # One call for each genome, because each has its own store.
    tokens = torch.empty(len(start), length, dtype=torch.int64)
    for number in np.unique(genome):
        rows = np.flatnonzero(genome == number)
        gathered = genomes[number].gather(start[rows], length, reverse[rows])
        tokens[torch.from_numpy(rows)] = gathered
    return tokens


def _weights(
    genomes: Sequence[Genome],
    genome: np.ndarray,
    start: np.ndarray,
    reverse: np.ndarray,
    length: int,
    masked: float,
) -> Tensor:
    """Returns weights (B, length) float32 of the bases of windows of several genomes."""
    # As in `_tokens`: one call for each genome.
    weights = torch.empty(len(start), length)
    for number in np.unique(genome):
        rows = np.flatnonzero(genome == number)
        gathered = genomes[number].mask_weights(start[rows], length, reverse[rows], masked)
        weights[torch.from_numpy(rows)] = gathered
    return weights


def _location(genome: Genome, start: int, length: int, strand: str) -> Location:
    """Returns where a window of a genome with a flat start lies."""
    place = genome.locate(start, start + length)
    return Location(genome.name, place.chrom, place.start, place.end, strand)
