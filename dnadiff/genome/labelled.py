"""Windows of sequences or intervals with class labels, for conditional training."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dnadiff.alphabet import DNA
from dnadiff.errors import InputError
from dnadiff.genome.fasta import Genome
from dnadiff.genome.intervals import Interval, merge
from dnadiff.genome.splits import SPLITS, Splits
from dnadiff.genome.tables import StrandedInterval, Table, read_table
from dnadiff.genome.windows import Drawn, Location
from dnadiff.rng import Stream, uniform

_HASHED = "sequences split 8 : 1 : 1 by a hash that is the same for both strands"
_LEFT_OUT = "their windows lie in no split, or are mostly N"
_SIMILAR = (
    "sequences that are similar but not equal may be in two splits: the audit counts shared 31-mers"
)


@dataclass(frozen=True, eq=False)
class LabelledWindows:
    """The labelled windows of one split, held in memory with one byte per base.

    For training they are drawn as a pure function of (seed, index), each with the same probability.
    For evaluation they are read in order.

    Attributes:
        names: the classes, sorted.
        label: (n,) int64, the class of each window.
        locations: where each window comes from; for a sequence of a table, the table's name, its
            line as chrom, and "+".
        seed: of the drawing.
        reverse_complement: whether each drawn window is shown as the opposite strand with
            probability 1/2.
        total: n before `limited`.
    """

    names: tuple[str, ...]
    label: Tensor
    locations: list[Location]
    seed: int
    reverse_complement: bool
    total: int
    _tokens: Tensor

    @property
    def windows(self) -> int:
        """Number of windows n."""
        return len(self.label)

    def tokens(self, rows: Tensor | slice) -> Tensor:
        """Returns the token ids (B, length) int64 of the windows `rows` (B,)."""
        return self._tokens[rows].long()

    def batches(self, size: int = 4096) -> Iterator[Tensor]:
        """Yields the token ids (B, length) int64 of all windows in order, `size` at a time."""
        return (self.tokens(slice(start, start + size)) for start in range(0, self.windows, size))

    def draw(self, index: Tensor) -> Drawn:
        """Draws the windows `index` (B,) of a run: tokens (B, length), labels (B,), no weights."""
        chance = uniform(self.seed, Stream.WINDOW, index, 1)[:, 0]
        # The clamp is for chances so near to 1 that the product is rounded up to n.
        rows = (chance * self.windows).long().clamp(max=self.windows - 1)
        tokens = self.tokens(rows)

        if self.reverse_complement:
            flip = uniform(self.seed, Stream.STRAND, index, 1) < 0.5
            tokens = torch.where(flip, _opposite(tokens), tokens)
        return Drawn(tokens, None, self.label[rows])

    def limited(self, count: int) -> LabelledWindows:
        """Returns a seeded sample of at most `count` windows.

        A smaller sample is the beginning of a larger one, so that results for both can be compared.
        """
        # Sorting by a random number that does not depend on `count` makes samples nested.
        chance = uniform(self.seed, Stream.EVAL, torch.arange(self.windows), 1)[:, 0]
        rows = chance.argsort(stable=True)[:count]
        locations = [self.locations[row] for row in rows.tolist()]
        return replace(
            self, label=self.label[rows], locations=locations, _tokens=self._tokens[rows]
        )


@dataclass(frozen=True, eq=False)
class LabelledTable:
    """The labelled windows of a table, by split.

    Attributes:
        name: of the file.
        digest: its SHA-256.
        how: how it was split, for a log or a model card.
        windows: split -> its windows.
        notes: what was cut, padded or left out, one line each.
    """

    name: str
    digest: str
    how: str
    windows: Mapping[str, LabelledWindows]
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, sorted."""
        return self.windows["train"].names

    def __str__(self) -> str:
        titles = "".join(f"{split:>10}" for split in SPLITS)
        rows = [f"{self.name}: {self.how}", f"{'label':<20}{titles}"]
        for number, name in enumerate(self.names):
            counts = [int((self.windows[split].label == number).sum()) for split in SPLITS]
            rows.append(f"{name:<20}" + "".join(f"{count:>10,}" for count in counts))
        return "\n".join(rows)


def read_labelled(
    path: str | Path,
    length: int,
    seed: int,
    source: tuple[Genome, Splits] | None = None,
    *,
    reverse_complement: bool = True,
) -> LabelledTable:
    """Reads the labelled windows of each split.

    Args:
        path: a table as `read_table` takes it, with the columns `label` (or `class`) and
            `sequence`, or, if there is a `source`, `chrom`, `start` and `end` (0-based, half-open)
            and optionally `strand`: an interval on "-" is reverse-complemented. A column `split`
            (train, valid, test) is optional.
        length: bases of a window. A longer sequence is cut to its middle, a shorter one is padded;
            the window of an interval is centred on it.
        seed: of the drawing.
        source: the genome of intervals, with its splits. An interval belongs to the split that
            holds its whole window.
        reverse_complement: see `LabelledWindows`.

    Returns:
        Windows by split. Sequences without a `split` column are split 8 : 1 : 1 by a hash that is
        the same for both strands. Equal sequences are therefore in one split; similar ones may not
        be (see `audit_labelled`).

    Raises:
        InputError: naming the file, and the line or the class.
    """
    table = read_table(path)
    labels = table.labels()
    if source is None:
        rows, notes = _of_sequences(table, labels, length)
        has_split = "split" in table.columns
        how = f"the column split of {table.path.name}" if has_split else _HASHED
    else:
        rows, notes = _of_intervals(table, labels, length, *source)
        how = f"intervals of {source[0].name}, {source[1].how}"

    # Of all rows, also those left out: a class then keeps its id with another window or genome.
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        raise InputError(
            f"{path}: only the class {names[0]!r} in the column label; at least two are needed"
        )
    windows = {}
    for split in SPLITS:
        own = [row for row in rows if row.split == split]
        windows[split] = _gathered(own, names, seed, reverse_complement)
    _check_classes(table.path, windows)

    with table.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return LabelledTable(table.path.name, digest, how, windows, tuple(notes))


def fingerprint(tokens: Tensor) -> bytes:
    """Returns a SHA-256 of a sequence, token ids (L,), that is the same for both strands."""
    # The smaller of the two strands is the same whichever of them is given.
    strands = tokens, DNA.reverse_complement(tokens)
    smaller = min(strand.to(torch.uint8).numpy().tobytes() for strand in strands)
    return hashlib.sha256(smaller).digest()


class _Row(NamedTuple):
    """A labelled window, of tokens (length,) uint8."""

    split: str
    label: str
    tokens: Tensor
    location: Location


def _of_sequences(table: Table, labels: list[str], length: int) -> tuple[list[_Row], list[str]]:
    """The windows of a table of sequences, and notes on what was done to them."""
    splits = table.splits()
    rows: list[_Row] = []
    sizes: list[int] = []
    for i, sequence in enumerate(table.sequences()):
        tokens = torch.from_numpy(DNA.encode(sequence))
        if not DNA.scorable(tokens).any():
            raise InputError(f"{table.where(i)}: no A, C, G or T in its sequence")
        split = _hashed_split(tokens) if splits is None else splits[i]

        start = max(len(tokens) - length, 0) // 2
        window = tokens[start : start + length]
        # Padding is at the end, where every objective ignores it.
        padding = torch.full((length - len(window),), DNA.pad_id)
        padded = torch.cat([window, padding]).to(torch.uint8)

        line = f"{table.unit} {table.numbers[i]}"
        location = Location(table.path.name, line, start, start + len(window), "+")
        rows.append(_Row(split, labels[i], padded, location))
        sizes.append(len(tokens))
    return rows, _notes(sizes, length, hashed=splits is None)


def _notes(sizes: list[int], length: int, *, hashed: bool) -> list[str]:
    """What a user should know about sequences of these sizes in windows of `length` bases."""
    notes = []
    cut = sum(size > length for size in sizes)
    padded = sum(size < length for size in sizes)
    if cut:
        notes.append(
            f"{cut:,} of {len(sizes):,} sequences are longer than the window of {length:,}: cut to "
            "their middle"
        )
    if padded:
        shorter = max(sizes) < length
        hint = f"; the longest has {max(sizes):,}, choose a shorter window" if shorter else ""
        notes.append(
            f"{padded:,} of {len(sizes):,} sequences are shorter than the window of {length:,}: "
            f"padded{hint}"
        )
    if hashed:
        notes.append(_SIMILAR)
    return notes


def _hashed_split(tokens: Tensor) -> str:
    """The split of a sequence in a table without a column for it."""
    # Equal sequences and opposite strands have one fingerprint, so that no copy is held out.
    remainder = int.from_bytes(fingerprint(tokens), "big") % 10
    return {0: "test", 1: "valid"}.get(remainder, "train")


def _of_intervals(
    table: Table, labels: list[str], length: int, genome: Genome, splits: Splits
) -> tuple[list[_Row], list[str]]:
    """The windows of a table of intervals, and a note on how many were left out."""
    rows: list[_Row] = []
    owned = _owned(splits)
    given = table.splits()
    for i, interval in enumerate(table.intervals()):
        where = table.where(i)
        window = _window(where, interval, length, genome)
        split = None if window is None else _owner(owned, window)
        if window is None or split is None:
            continue
        tokens = genome.tokens(window.chrom, window.start, window.end, interval.strand)
        # A window that is mostly N would teach and measure next to nothing.
        if 2 * int(DNA.scorable(tokens).sum()) < length:
            continue
        if given is not None and given[i] != split:
            raise InputError(
                f"{where}: its window {window} lies in the {split} split of the genome, not in "
                f"{given[i]}: leave the "
                "column split out, or split the genome by intervals that agree with it"
            )
        location = Location(genome.name, *_ends(window), interval.strand)
        rows.append(_Row(split, labels[i], tokens.to(torch.uint8), location))

    left = len(table) - len(rows)
    if not left:
        return rows, []
    return rows, [f"{left:,} of {len(table):,} labelled intervals are left out: {_LEFT_OUT}"]


def _window(where: str, given: StrandedInterval, length: int, genome: Genome) -> Interval | None:
    """The window centred on an interval, moved where a contig ends; None if that is shorter."""
    try:
        interval = Interval(given.chrom, given.start, given.end)
        genome.flat(interval)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    # Windows have one length, so that one near the end of a contig is moved, not cut.
    size = genome.contigs[interval.chrom]
    if size < length:
        return None
    start = min(max((interval.start + interval.end - length) // 2, 0), size - length)
    return Interval(interval.chrom, start, start + length)


_Owned = list[tuple[str, int, int, str]]
"""Chrom, start, end and split of intervals that do not overlap, sorted."""


def _owned(splits: Splits) -> _Owned:
    """The intervals of all splits, merged and sorted, for `_owner`."""
    owned = []
    for split in SPLITS:
        owned += [(*_ends(interval), split) for interval in merge(splits[split])]
    return sorted(owned)


def _owner(owned: _Owned, window: Interval) -> str | None:
    """The split that holds a whole window, or None."""
    # Intervals do not overlap, so only the last one that begins at or before the window can hold
    # it.
    place = bisect_right(owned, (window.chrom, window.start), key=lambda one: one[:2]) - 1
    if place < 0:
        return None
    chrom, _, end, split = owned[place]
    return split if chrom == window.chrom and window.end <= end else None


def _ends(interval: Interval) -> tuple[str, int, int]:
    """Chrom, start and end of an interval."""
    return interval.chrom, interval.start, interval.end


def _gathered(
    rows: list[_Row], names: tuple[str, ...], seed: int, reverse_complement: bool
) -> LabelledWindows:
    """The rows of one split as tensors."""
    tokens = torch.empty(0, 0, dtype=torch.uint8)
    if rows:
        tokens = torch.stack([row.tokens for row in rows])
    label = torch.tensor([names.index(row.label) for row in rows], dtype=torch.int64)
    locations = [row.location for row in rows]
    return LabelledWindows(names, label, locations, seed, reverse_complement, len(rows), tokens)


def _check_classes(path: Path, windows: Mapping[str, LabelledWindows]) -> None:
    """Refuses empty splits, and classes that no training window has."""
    for split, own in windows.items():
        if not own.windows:
            raise InputError(
                f"{path}: nothing labelled is in the {split} split; add rows, or a column named "
                "split"
            )
    train = windows["train"]
    for number, name in enumerate(train.names):
        if not (train.label == number).any():
            raise InputError(
                f"{path}: nothing of the class {name!r} is in the train split; add rows of it there"
            )


def _opposite(tokens: Tensor) -> Tensor:
    """The opposite strand (B, L) of padded sequences, with their padding at the end again."""
    length = tokens.shape[1]
    padding = (tokens == DNA.pad_id).sum(1, keepdim=True)
    # Reversing puts the padding first: read on from behind it, and around.
    place = (torch.arange(length) + padding) % length
    return DNA.reverse_complement(tokens).gather(1, place)
