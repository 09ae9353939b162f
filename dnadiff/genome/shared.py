"""Reports copies of one sequence that ended up in different splits.

No base is in two splits, but a BED file, for example, may put two copies of a sequence into
different ones. They are found by the k-mers of `find_copies`.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from dnadiff.genome.copies import Copies, K, shared_kmers
from dnadiff.genome.fasta import Genome
from dnadiff.genome.intervals import merge
from dnadiff.genome.segments import contig_bounds, flat_bounds
from dnadiff.genome.splits import SPLITS, Splits

logger = logging.getLogger(__name__)

_NAMED_COPIES = 3  # copies that a description names; others are counted
_NOTED_SHARE = 0.2  # least share of common 31-mers for a warning; repeats alone reach 0.1


class ContigNames:
    """Names numbered contigs; adds the file name to those of other genomes than number `home`."""

    def __init__(self, copies: Copies, home: int) -> None:
        self._copies = copies
        self._home = home
        self._names = [list(genome.contigs) for genome in copies.genomes]

    def of(self, contig: int) -> str:
        """Returns the name of a contig."""
        first = self._copies.first
        number = int(np.searchsorted(first, contig, "right")) - 1
        name = self._names[number][contig - first[number]]
        if number == self._home:
            return name
        return f"{name} of {self._copies.genomes[number].path.name}"


def first_few(names: list[str]) -> str:
    """Lists the first names and counts the others."""
    listed = names[:_NAMED_COPIES]
    if len(names) > len(listed):
        listed.append(f"{len(names) - len(listed):,} more")
    return ", ".join(listed)


class _SharedPart(NamedTuple):
    """A held-out part of a contig, and a part of a contig in another split, that share sequence.

    Attributes:
        held: number of the contig that is held out.
        held_split: "valid" or "test".
        other: number of the other contig.
        other_split: its split.
        share: 31-mers in common, as a share of the smaller part.
    """

    held: int
    held_split: str
    other: int
    other_split: str
    share: float


def say_what_is_shared(found: list[Splits], copies: Copies) -> list[Splits]:
    """Adds to `Splits.how` which held-out contigs share sequence with another split."""
    shared = _shared_parts(found, copies)
    described = []
    for number, splits in enumerate(found):
        first, end = copies.first[number], copies.first[number + 1]
        mine = [pair for pair in shared if first <= pair.held < end]
        # Each pair is reported once, by the genome of its held-out contig.
        if mine:
            names = ContigNames(copies, number)
            pairs = [
                f"{pair.held_split} {names.of(pair.held)} and {pair.other_split} "
                f"{names.of(pair.other)} ({100 * pair.share:.0f} %)"
                for pair in mine
            ]
            text = (
                f"splits share sequence: {first_few(pairs)}; in brackets, exact {K}-mers in "
                f"common, of the smaller one, estimated"
            )
            logger.warning("%s: %s", copies.genomes[number].path, text)
            splits = replace(splits, how=f"{splits.how}; {text}")
        described.append(splits)
    return described


def _shared_parts(found: list[Splits], copies: Copies) -> list[_SharedPart]:
    """Finds contigs in different splits that share sequence, those that share most first.

    A *part* is the part of a contig that is in one split. Its number is 3 * contig + split.
    """
    hashes, parts = [], []
    splits_of: dict[int, set[int]] = defaultdict(set)
    for number, splits in enumerate(found):
        genome, first = copies.genomes[number], copies.first[number]
        starts, _ = contig_bounds(genome)
        kept, split = _split_of_kmers(genome, splits, copies.sketches[number].positions)
        position = copies.sketches[number].positions[kept]
        contig = first + np.searchsorted(starts, position, "right") - 1
        hashes.append(copies.sketches[number].hashes[kept])
        parts.append(len(SPLITS) * contig + split)

        contig_of = {chrom: first + i for i, chrom in enumerate(genome.contigs)}
        for label, name in enumerate(SPLITS):
            for interval in splits[name]:
                splits_of[contig_of[interval.chrom]].add(label)

    count = len(SPLITS) * copies.first[-1]
    shared = shared_kmers(np.concatenate(hashes), np.concatenate(parts), count)
    pairs = {
        (one, other): share
        for (one, other), share in zip(shared.pairs.tolist(), shared.share.tolist(), strict=True)
    }
    # Short contigs have too few k-mers to be counted, but were compared base for base.
    for one, other in copies.identical.tolist():
        for a in splits_of[one]:
            for b in splits_of[other]:
                pairs.setdefault((len(SPLITS) * one + a, len(SPLITS) * other + b), 1.0)
    return _noteworthy(pairs)


def _noteworthy(pairs: Mapping[tuple[int, int], float]) -> list[_SharedPart]:
    """Picks the pairs of parts that are in different splits and share much, most first."""
    found = []
    for (one, other), share in pairs.items():
        # Of the two splits the later one is the one that is held out from the other.
        (other, b), (one, a) = sorted(
            (divmod(part, len(SPLITS)) for part in (one, other)), key=lambda part: part[1]
        )
        if a != b and share >= _NOTED_SHARE:
            found.append(_SharedPart(one, SPLITS[a], other, SPLITS[b], share))
    return sorted(found, key=lambda pair: (-pair.share, pair))


def _split_of_kmers(
    genome: Genome, splits: Splits, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns which k-mers lie in a split (m,), and the number of the split of each (m,)."""
    bounds = [flat_bounds(genome, merge(splits[split])) for split in SPLITS]
    start = np.concatenate([starts for starts, _ in bounds])
    end = np.concatenate([ends for _, ends in bounds])
    label = np.repeat(np.arange(len(SPLITS)), [len(starts) for starts, _ in bounds])
    if not len(start):
        return np.empty(0, np.int64), np.empty(0, np.int64)

    order = np.argsort(start)
    start, end, label = start[order], end[order], label[order]
    # Merged intervals of different splits do not overlap, so the last that begins is the only one.
    row = np.searchsorted(start, positions, "right") - 1
    kept = np.flatnonzero((row >= 0) & (positions + K <= end[row]))
    return kept, label[row[kept]]
