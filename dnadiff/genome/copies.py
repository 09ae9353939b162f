"""Copies of one sequence under several names, found by content.

Assemblies name the same sequence more than once: alternate loci, maternal and paternal contigs, a
chromosome in two FASTA files. If one copy is in train and another in test, the test measures
memory. Copies are recognised in time that is linear in the bases:

* Near copies share k-mers. Of all 31-mers, the same for both strands, those with a small hash are
  kept (FracMinHash; Irber et al. 2022, "Lightweight compositional analysis of metagenomes with
  FracMinHash and minimum metagenome covers"). Two contigs are copies if one of them has at least
  `LINKED_SHARE` of its kept 31-mers in common with the other. With substitutions only, that is an
  identity of 96 %.
* Contigs too short for that are copies if they are the same base for base, on either strand.

What is not found so: copies of which both have fewer than `MIN_SHARED` kept 31-mers and some
difference. In a genome of 3 Gb these are shorter than about 33,000 bases, below 2 Mb than 46.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from dnadiff.alphabet import DNA
from dnadiff.files import atomic_path, cache_folder
from dnadiff.genome.fasta import Genome
from dnadiff.genome.loops import LAST_LETTER, LETTER, compiled
from dnadiff.genome.segments import contig_bounds

Progress = Callable[[int, int], None]
"""Called with (bases read, bases to read in all)."""

K = 31
"""Bases of the k-mers that are compared."""

MIN_SHARED = 16
"""Number of kept k-mers that two contigs must share at least. Fewer could be chance."""

LINKED_SHARE = 0.3
"""Share of its kept k-mers that makes a contig a copy of another."""

_KEPT = 1 << 21  # k-mers that are kept of a genome at most, about
_PIECE = 1 << 20  # bases that one thread samples at a time
_MAX_LAG = 8  # neighbours among the contigs with one k-mer that are compared with each other
_CACHED_BASES = 50_000_000  # a smaller genome is sampled again sooner than a file is read
_VERSION = 1  # of the cached files

_BITS = np.uint64((len(DNA) - 1).bit_length())
_TOP = _BITS * np.uint64(K - 1)
_MASK = (np.uint64(1) << (_BITS * np.uint64(K))) - np.uint64(1)
_WORD = np.uint64(2**64 - 1)


class Sketch(NamedTuple):
    """The k-mers of a genome that are kept.

    Attributes:
        hashes: (n,) uint64, the hash of each; equal for equal k-mers on either strand.
        positions: (n,) int64, flat coordinate of its first base, ascending.
    """

    hashes: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True, eq=False)
class Copies:
    """Which contigs of the genomes of a run are copies of each other.

    Contigs are numbered through all genomes, in the order of their files.

    Attributes:
        genomes: the genomes.
        sketches: of each genome, at one density.
        near: (m, 2) int64, pairs of contigs that share many k-mers.
        identical: (l, 2) int64, pairs of short contigs that are the same base for base.
    """

    genomes: tuple[Genome, ...]
    sketches: tuple[Sketch, ...]
    near: np.ndarray
    identical: np.ndarray

    @cached_property
    def links(self) -> np.ndarray:
        """(m + l, 2) int64, all pairs of copies."""
        return np.concatenate((self.near, self.identical))

    @cached_property
    def first(self) -> list[int]:
        """Number of the first contig of each genome, and of all contigs at the end."""
        counts = [len(genome.contigs) for genome in self.genomes]
        return [0, *np.cumsum(counts).tolist()]

    @cached_property
    def group(self) -> np.ndarray:
        """(n,) int64, for each contig the number of its group: copies, and copies of copies."""
        count = self.first[-1]
        ones = np.ones(len(self.links), np.int8)
        graph = coo_matrix((ones, (self.links[:, 0], self.links[:, 1])), (count, count))
        return connected_components(graph, directed=False)[1].astype(np.int64)

    @cached_property
    def partners(self) -> dict[int, list[int]]:
        """Contig -> the contigs that it is linked to; contigs without a copy are not in it."""
        found: dict[int, list[int]] = {}
        for one, other in self.links.tolist():
            found.setdefault(one, []).append(other)
            found.setdefault(other, []).append(one)
        return found

    def of(self, number: int) -> slice:
        """Returns the numbers of the contigs of a genome, as a slice."""
        return slice(self.first[number], self.first[number + 1])


def no_copies(genome: Genome) -> Copies:
    """Returns what `find_copies` returns for one genome without copies, without looking."""
    empty = Sketch(np.empty(0, np.uint64), np.empty(0, np.int64))
    pairs = np.empty((0, 2), np.int64)
    return Copies((genome,), (empty,), pairs, pairs)


def find_copies(genomes: Sequence[Genome], progress: Progress | None = None) -> Copies:
    """Finds the contigs that are copies of each other, within and between genomes.

    It takes a pass over the bases, some 100 million a second on each of PyTorch's threads. Of large
    genomes the result of that pass is kept in the cache folder.

    Args:
        genomes: the genomes of a run.
        progress: called with (bases read, bases to read in all).
    """
    sketches = _sketches(genomes, progress)
    contigs = [contig_bounds(genome) for genome in genomes]
    first = np.cumsum([0, *(len(start) for start, _ in contigs)])

    numbers = [
        number + np.searchsorted(start, sketch.positions, "right") - 1
        for sketch, (start, _), number in zip(sketches, contigs, first[:-1], strict=True)
    ]
    hashes = np.concatenate([sketch.hashes for sketch in sketches])
    shared = shared_kmers(hashes, np.concatenate(numbers), int(first[-1]))
    near = shared.pairs[shared.share >= LINKED_SHARE]

    short = [
        np.flatnonzero(shared.sizes[number : number + len(start)] < MIN_SHARED)
        for number, (start, _) in zip(first[:-1], contigs, strict=True)
    ]
    return Copies(tuple(genomes), sketches, near, _identical(genomes, short, first))


class SharedKmers(NamedTuple):
    """What parts of a sketch have in common.

    Attributes:
        pairs: (m, 2) int64, parts that share at least `MIN_SHARED` kept k-mers; the smaller number
            comes first.
        share: (m,) float64, how much of the smaller one of the two is shared.
        sizes: (n,) int64, how many different kept k-mers each part has.
    """

    pairs: np.ndarray
    share: np.ndarray
    sizes: np.ndarray


def shared_kmers(hashes: np.ndarray, parts: np.ndarray, count: int) -> SharedKmers:
    """Counts the different k-mers that parts share, pair by pair.

    Args:
        hashes: (n,) uint64, hashes of k-mers.
        parts: (n,) int64, number of the part that each is in, below `count`.
        count: how many parts there are.
    """
    # Most k-mers occur once. They count for the sizes, and are then out of the way.
    order = np.argsort(hashes)
    again = hashes[order[1:]] == hashes[order[:-1]]
    repeated = np.zeros(len(hashes), bool)
    repeated[1:] |= again
    repeated[:-1] |= again
    sizes = np.bincount(parts[order[~repeated]], minlength=count)

    hashes, parts = hashes[order[repeated]], parts[order[repeated]]
    order = np.lexsort((parts, hashes))
    hashes, parts = hashes[order], parts[order]
    fresh = np.ones(len(hashes), bool)
    fresh[1:] = (hashes[1:] != hashes[:-1]) | (parts[1:] != parts[:-1])
    hashes, parts = hashes[fresh], parts[fresh]
    sizes += np.bincount(parts, minlength=count)

    # A k-mer that m parts have would make m^2 pairs. Each part is paired with the next few only, so
    # the work stays linear; a family of many copies is still connected, as a chain.
    codes, counts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for lag in range(1, min(_MAX_LAG, len(hashes) - 1) + 1):
        same = hashes[lag:] == hashes[:-lag]
        if not same.any():
            break
        code, number = np.unique(parts[:-lag][same] * count + parts[lag:][same], return_counts=True)
        codes.append(code)
        counts.append(number)

    code, inverse = np.unique(np.concatenate(codes), return_inverse=True)
    number = np.zeros(len(code), np.int64)
    np.add.at(number, inverse, np.concatenate(counts))
    enough = number >= MIN_SHARED
    pairs = np.stack(np.divmod(code[enough], max(count, 1)), 1)
    share = number[enough] / np.maximum(sizes[pairs].min(1, initial=2**62), 1)
    return SharedKmers(pairs, share, sizes)


# ---- sampling k-mers -----------------------------------------------------------------------------


def _sketches(genomes: Sequence[Genome], progress: Progress | None) -> tuple[Sketch, ...]:
    """Samples all genomes at the density of the largest: other densities do not compare."""
    total = sum(genome.counts.bases for genome in genomes)
    done = 0

    def report(bases: int) -> None:
        if progress is not None:
            progress(done + bases, total)

    found = []
    for genome in genomes:
        found.append(_sketch(genome, report))
        done += genome.counts.bases
        report(0)

    limit = min(_limit(genome) for genome in genomes)
    return tuple(_thinned(sketch, limit) for sketch in found)


def _thinned(sketch: Sketch, limit: np.uint64) -> Sketch:
    """Keeps the k-mers whose hash is at most `limit`."""
    kept = sketch.hashes <= limit
    return Sketch(sketch.hashes[kept], sketch.positions[kept])


def _limit(genome: Genome) -> np.uint64:
    """Returns the largest hash that is kept of a genome: one k-mer in a power of two."""
    halvings = max(0, (genome.counts.scorable - 1) // _KEPT).bit_length()
    return _WORD >> np.uint64(halvings)


def _sketch(genome: Genome, report: Callable[[int], None]) -> Sketch:
    """Returns the sketch of a genome; of a large one from the cache folder, if it is there."""
    if genome.counts.bases < _CACHED_BASES:
        return _sample(genome, report)

    path = cache_folder() / "genomes" / f"{genome.digest[:32]}.sketch{_VERSION}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):
        table = np.load(path)
        if table.dtype == np.uint64 and table.ndim == 2 and len(table) == 2:
            return Sketch(table[0], table[1].astype(np.int64))
    sketch = _sample(genome, report)
    _keep(path, sketch)
    return sketch


def _keep(path: Path, sketch: Sketch) -> None:
    """Writes a sketch into the cache folder, if that can be written: it only saves time."""
    table = np.stack((sketch.hashes, sketch.positions.astype(np.uint64)))
    # InputError is a ValueError, and what `atomic_path` raises for a folder that cannot be made.
    with (
        contextlib.suppress(OSError, ValueError),
        atomic_path(path) as temporary,
        temporary.open("wb") as file,
    ):
        np.save(file, table)


def _sample(genome: Genome, report: Callable[[int], None]) -> Sketch:
    """Samples the k-mers of a genome, on as many threads as PyTorch has."""
    bases, limit = genome.counts.bases, _limit(genome)
    starts, _ = contig_bounds(genome)
    # Pieces without sequence are not even read: some genomes are mostly unknown bases.
    first = np.arange(0, bases, _PIECE)
    sampled = first[genome.scorable(first, np.minimum(first + _PIECE, bases)) > 0].tolist()

    def sample(first: int) -> tuple[np.ndarray, np.ndarray]:
        size = min(_PIECE, bases - first)
        hashes, positions = np.empty(size, np.uint64), np.empty(size, np.int64)
        count = _sample_piece(genome.codes, starts, first, first + size, limit, hashes, positions)
        # Copies, so that the room for the k-mers that were not kept is given back.
        return hashes[:count].copy(), positions[:count].copy()

    found = []
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for start, piece in zip(sampled, pool.map(sample, sampled), strict=True):
            found.append(piece)
            report(min(start + _PIECE, bases))
    return Sketch(*(np.concatenate(column) for column in zip(*found, strict=True)))


@compiled
def _sample_piece(
    codes: Any, starts: Any, first: Any, last: Any, limit: Any, hashes: Any, positions: Any
) -> Any:
    """Writes the kept k-mers that begin at flat coordinates first..last-1; returns their number.

    A k-mer is rolled: its digits move up by one letter, and those of its reverse complement down.
    The smaller of the two numbers stands for both strands.
    """
    contig = np.searchsorted(starts, first, "right")
    forward = backward = np.uint64(0)
    length = count = 0
    for i in range(first, min(last + K - 1, len(codes))):
        # No k-mer spans two contigs, nor an unknown base.
        while contig < len(starts) and starts[contig] == i:
            length = 0
            contig += 1
        code = codes[i] & LETTER
        if code > LAST_LETTER:
            length = 0
            continue

        forward = ((forward << _BITS) | np.uint64(code)) & _MASK
        backward = (backward >> _BITS) | (np.uint64(LAST_LETTER - code) << _TOP)
        length += 1
        if length < K:
            continue

        # The finaliser of SplitMix64 (Steele et al. 2014): a bijection whose values look random,
        # so which k-mers are kept does not depend on what they spell.
        word = min(forward, backward)
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        word ^= word >> np.uint64(31)
        if word <= limit:
            hashes[count] = word
            positions[count] = i - (K - 1)
            count += 1
    return count


# ---- short contigs -------------------------------------------------------------------------------


def _identical(
    genomes: Sequence[Genome], short: Sequence[np.ndarray], first: np.ndarray
) -> np.ndarray:
    """Finds the contigs among the short ones that are the same base for base, on either strand.

    Args:
        genomes: the genomes.
        short: for each genome, which of its contigs to compare.
        first: number of the first contig of each genome.

    Returns:
        (m, 2) int64, pairs of contigs.
    """
    genome = np.repeat(np.arange(len(genomes)), [len(some) for some in short])
    contig = np.concatenate([number + some for number, some in zip(first[:-1], short, strict=True)])
    prints, bounds = [], []
    for some, there in zip(genomes, short, strict=True):
        start, end = (column[there] for column in contig_bounds(some))
        prints.append(_fingerprints(some.codes, start, end))
        bounds.append(np.stack((start, end), 1))
    fingerprint, bound = np.concatenate(prints), np.concatenate(bounds)

    # Contigs of one fingerprint follow one another; each is compared with the first of them. One
    # without a known base has the fingerprint 0, and is nobody's copy.
    order = np.lexsort((contig, fingerprint))
    links = []
    leader = -1
    for row in order[fingerprint[order] > 0].tolist():
        if leader < 0 or fingerprint[leader] != fingerprint[row]:
            leader = row
            continue
        one, other = (_letters(genomes[genome[r]], *bound[r]) for r in (leader, row))
        if _same(one, other):
            links.append((contig[leader], contig[row]))
    return np.array(links, np.int64).reshape(-1, 2)


@compiled
def _fingerprints(codes: Any, start: Any, end: Any) -> Any:
    """Returns a hash (n,) uint64 of each contig, the same for its reverse complement.

    It is the smaller one of the polynomials that the letters of the two strands are the
    coefficients of, and 0 for a contig without a known base.
    """
    factor = np.uint64(0x9E3779B97F4A7C15)
    found = np.zeros(len(start), np.uint64)
    for i in range(len(start)):
        forward = backward = np.uint64(0)
        power = np.uint64(1)
        known = False
        for j in range(start[i], end[i]):
            letter = codes[j] & LETTER
            opposite = letter
            if letter <= LAST_LETTER:
                opposite = LAST_LETTER - letter
                known = True
            forward = forward * factor + np.uint64(letter) + np.uint64(1)
            backward += (np.uint64(opposite) + np.uint64(1)) * power
            power *= factor
        if known:
            found[i] = max(min(forward, backward), np.uint64(1))
    return found


def _letters(genome: Genome, start: int, end: int) -> np.ndarray:
    """Returns the codes of a contig's bases without the bit of the soft mask."""
    return genome.codes[start:end] & LETTER


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Tells whether two contigs are equal, or one equals the reverse complement of the other."""
    opposite = np.where(other <= LAST_LETTER, LAST_LETTER - other, other)[::-1]
    return np.array_equal(one, other) or np.array_equal(one, opposite)
