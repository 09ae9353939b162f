"""A genome: a FASTA file that is opened once and read at any position as token ids."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dnadiff.alphabet import DNA
from dnadiff.errors import InputError
from dnadiff.genome.fasta_index import check_neighbour
from dnadiff.genome.intervals import Interval
from dnadiff.genome.loops import gather, gather_weights
from dnadiff.genome.store import Counts, Progress, Store, open_store
from dnadiff.genome.text import decode

_NAMES_SHOWN = 5  # contigs that a message names
_SUFFIXES = (".gz", ".bgz", ".fa", ".fasta", ".fna", ".2bit")


class Genome:
    """Holds the sequences of a FASTA file, plain or bgzipped, or of a .2bit file.

    The first opening of a file builds a store in the cache folder; later ones take milliseconds.
    Nothing is ever written beside the file. "Flat" coordinates count through all contigs in file
    order, from 0.

    Attributes:
        path: the file.
        name: its name without suffixes.
        contigs: name -> length in bases, in file order.
        offsets: name -> flat coordinate of its first base.
        digest: SHA-256 of the file, in hexadecimal.
        counts: how many bases are scorable, unknown, ambiguous, soft-masked.
        notes: lines to show once: ambiguity codes, an index that is older than the file.
        codes: (bases,) uint8, read only, in flat coordinates; see `store.Store`.
    """

    def __init__(self, path: Path, store: Store) -> None:
        self.path = path
        self.name = _stem(path)
        self.digest = store.digest
        self.counts: Counts = store.counts
        self.codes = store.codes
        self.contigs = {record.name: record.length for record in store.records}
        starts = np.cumsum([0, *self.contigs.values()])[:-1]
        self.offsets = dict(zip(self.contigs, starts.tolist(), strict=True))
        self.notes = _notes(path, store)
        self._names = list(self.contigs)
        self._starts = starts
        self._runs = store.runs
        # Scorable bases before each run, so that counts of any interval need two look-ups.
        self._before = np.concatenate(([0], np.cumsum(store.runs[:, 1] - store.runs[:, 0])))

    @classmethod
    def open(cls, path: str | Path, *, progress: Progress | None = None) -> Genome:
        """Opens a FASTA file, and first builds its store if there is none.

        Lines may have any length and end with LF or CRLF. Blank lines, and blanks at line ends, are
        not part of a sequence.

        Args:
            path: plain or bgzipped FASTA of DNA, or .2bit. IUPAC codes are read as N.
            progress: called with (bytes read, bytes to read in all) while the store is built.

        Raises:
            InputError: one line that names the file or record, if it is not such a file, or if an
                index beside it does not describe it.
        """
        path = Path(path)
        return cls(path, open_store(path, progress))

    def __reduce__(self) -> tuple[object, ...]:
        # A worker process opens the store itself; the memory map is not copied to it.
        return Genome.open, (self.path,)

    def __repr__(self) -> str:
        return (
            f"Genome({str(self.path)!r}: {len(self.contigs)} contigs, {self.counts.bases:,} bases)"
        )

    def flat(self, interval: Interval) -> tuple[int, int]:
        """Returns flat start and end of an interval, 0-based and half-open.

        Raises:
            InputError: if the genome has no such contig, or the contig is shorter.
        """
        chrom = interval.chrom
        length = self.contigs.get(chrom)
        if length is None:
            raise InputError(
                f"{self.path.name} has no chromosome {chrom!r}; {self._suggest(chrom)}"
            )
        if interval.end > length:
            raise InputError(f"interval {interval} is out of range: {chrom} has {length} bases")
        offset = self.offsets[interval.chrom]
        return offset + interval.start, offset + interval.end

    def locate(self, start: int, end: int) -> Interval:
        """Returns the interval of flat coordinates, which must lie in one contig."""
        i = int(np.searchsorted(self._starts, start, "right")) - 1
        return Interval(self._names[i], start - int(self._starts[i]), end - int(self._starts[i]))

    def tokens(self, chrom: str, start: int, end: int, strand: str = "+") -> Tensor:
        """Returns the token ids (end - start,) int64 of the bases `start` to ``end - 1``.

        Args:
            chrom: name of the contig.
            start: 0-based position of the first base.
            end: 0-based position after the last base.
            strand: "-" for the reverse complement.

        Raises:
            ValueError: if the interval is empty, reversed or outside of the genome, or `strand` is
                not "+" or "-".
        """
        if strand not in ("+", "-"):
            raise ValueError(f"strand {strand!r} is neither '+' nor '-'")
        first, last = self.flat(Interval(chrom, start, end))
        return self.gather(np.array([first]), last - first, np.array([strand == "-"]))[0]

    def gather(self, starts: np.ndarray, length: int, reverse: np.ndarray) -> Tensor:
        """Returns the token ids (B, length) int64 of many windows at once.

        Args:
            starts: (B,) flat coordinates; each window must lie in one contig.
            length: bases of a window.
            reverse: (B,) bool, True for the reverse complement.
        """
        tokens = torch.empty(len(starts), length, dtype=torch.int64)
        gather(self.codes, starts, reverse, tokens.numpy())
        return tokens

    def mask_weights(
        self, starts: np.ndarray, length: int, reverse: np.ndarray, masked: float
    ) -> Tensor:
        """Returns weights (B, length) float32: `masked` for a soft-masked base, 1 for others.

        Args:
            starts: as for `gather`.
            length: bases of a window.
            reverse: as for `gather`.
            masked: weight of a soft-masked base.
        """
        weights = torch.empty(len(starts), length)
        gather_weights(self.codes, starts, reverse, np.float32(masked), weights.numpy())
        return weights

    def scorable(self, start: np.ndarray | int, end: np.ndarray | int) -> np.ndarray:
        """Returns the number of scorable bases from `start` to ``end - 1``, elementwise."""
        return self._scorable_before(np.asarray(end)) - self._scorable_before(np.asarray(start))

    def edges(self, start: int, end: int) -> np.ndarray:
        """Returns the flat coordinates, in order, where scorable runs begin or end.

        Args:
            start: the least coordinate.
            end: the greatest coordinate.
        """
        edges = self._runs.reshape(-1)
        return edges[np.searchsorted(edges, start) : np.searchsorted(edges, end, "right")]

    def segments(self, interval: Interval, gap: int) -> np.ndarray:
        """Returns the parts of an interval that have sequence, as flat start and end (n, 2).

        Each begins and ends with a scorable base and has no stretch of `gap` or more unscorable
        bases. So every window of `gap` bases in a segment has at least one scorable base.
        """
        start, end = self.flat(interval)
        # Runs that overlap the interval, cut to it.
        first = np.searchsorted(self._runs[:, 1], start, "right")
        last = np.searchsorted(self._runs[:, 0], end, "left")
        runs = self._runs[first:last].clip(start, end)

        # A segment ends before each gap that is long enough, and the next one begins after it.
        broken = runs[1:, 0] - runs[:-1, 1] >= gap
        ends = np.ones(min(len(runs), 1), bool)
        return np.stack((runs[np.r_[ends, broken], 0], runs[np.r_[broken, ends], 1]), 1)

    def part(self, chrom: str, low: int, high: int) -> Interval:
        """Returns the interval from scorable base `low` of a contig to scorable base ``high - 1``.

        Scorable bases are counted from 0 in each contig.
        """
        offset = self.offsets[chrom]
        # Ranks of the genome, not of the contig, index the table of runs.
        skipped = int(self._scorable_before(np.asarray(offset)))
        first, last = self._position(skipped + low), self._position(skipped + high - 1)
        return Interval(chrom, first - offset, last + 1 - offset)

    def _position(self, rank: int) -> int:
        """Returns the flat coordinate of scorable base number `rank` of the genome."""
        i = int(np.searchsorted(self._before, rank, "right")) - 1
        return int(self._runs[i, 0] + rank - self._before[i])

    def _scorable_before(self, position: np.ndarray) -> np.ndarray:
        """Returns the number of scorable bases before flat positions."""
        # The last run that begins at or before the position; -1 if there is none.
        i = np.searchsorted(self._runs[:, 0], position, "right") - 1
        within = np.minimum(position, self._runs[i, 1]) - self._runs[i, 0]
        return np.where(i < 0, 0, self._before[i] + within)

    def _suggest(self, chrom: str) -> str:
        """Returns what the genome has instead of a contig."""
        # UCSC and Ensembl name chromosomes with and without "chr".
        other = chrom.removeprefix("chr") if chrom.startswith("chr") else f"chr{chrom}"
        if other in self.contigs:
            return f"there it is called {other!r}: use one naming in both files"
        shown = self._names[:_NAMES_SHOWN]
        if len(shown) < len(self._names):
            shown.append("...")
        return f"it has {', '.join(shown)}"


def _stem(path: Path) -> str:
    """Returns the file's name without suffixes, as text that can be printed and written."""
    while path.suffix.lower() in _SUFFIXES and path.stem:
        path = path.with_suffix("")
    return decode(os.fsencode(path.name))


def _notes(path: Path, store: Store) -> tuple[str, ...]:
    """Returns the lines that a user of the genome should see once."""
    notes = []
    counts = store.counts
    if counts.ambiguous:
        notes.append(
            f"{path}: {counts.ambiguous:,} IUPAC ambiguity codes in {counts.bases:,} bases "
            f"are read as {DNA.unknown}"
        )
    remark = check_neighbour(path, store.records)
    if remark:
        notes.append(remark)
    return tuple(notes)
