"""Segments: the parts of intervals that have sequence, for many intervals at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dnadiff.genome.fasta import Genome
from dnadiff.genome.intervals import Interval


class Segments(NamedTuple):
    """Segments in the order of their intervals.

    Attributes:
        owner: (n,) int64, number of the interval that a segment is part of.
        start: (n,) int64, flat coordinate of its first base.
        end: (n,) int64, flat coordinate after its last base.
    """

    owner: np.ndarray
    start: np.ndarray
    end: np.ndarray


def flat_bounds(genome: Genome, intervals: Iterable[Interval]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the flat starts (n,) and ends (n,) of intervals, int64.

    Raises:
        InputError: if the genome does not have one of them.
    """
    bounds = np.array([genome.flat(interval) for interval in intervals], np.int64).reshape(-1, 2)
    return bounds[:, 0], bounds[:, 1]


def contig_bounds(genome: Genome) -> tuple[np.ndarray, np.ndarray]:
    """Returns the flat starts (n,) and ends (n,) of all contigs in file order, int64."""
    lengths = np.fromiter(genome.contigs.values(), np.int64, len(genome.contigs))
    end = np.cumsum(lengths)
    return end - lengths, end


def find_segments(genome: Genome, start: np.ndarray, end: np.ndarray, gap: int) -> Segments:
    """Finds the segments of many intervals; of one, the same as `Genome.segments`.

    Each segment begins and ends with a scorable base and has no stretch of `gap` or more unscorable
    bases. A genome can have a million contigs, so there is no loop over intervals.

    Args:
        genome: the genome.
        start: (n,) flat starts; each interval lies in one contig.
        end: (n,) flat ends.
        gap: bases.
    """
    runs = genome.edges(0, genome.counts.bases).reshape(-1, 2)
    first = np.searchsorted(runs[:, 1], start, "right")
    last = np.searchsorted(runs[:, 0], end, "left")

    # One row for each run of scorable bases in an interval. An interval may have none, and a run
    # may lie in several intervals, because weighted intervals may overlap.
    count = np.maximum(last - first, 0)
    owner = np.repeat(np.arange(len(start)), count)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    rows = runs[first[owner] + within]
    low = np.maximum(rows[:, 0], start[owner])
    high = np.minimum(rows[:, 1], end[owner])

    # A segment ends where the interval ends, or where too long a stretch without sequence follows.
    parted = np.ones(len(owner) + 1, bool)
    parted[1:-1] = (owner[1:] != owner[:-1]) | (low[1:] - high[:-1] >= gap)
    begins, ends = parted[:-1], parted[1:]
    return Segments(owner[begins], low[begins], high[ends])
