"""Sequences or intervals with class labels, as windows for conditional training."""

from __future__ import annotations

import hashlib
import io
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from pandas.errors import ParserWarning
from torch import Tensor

from dnadiff.alphabet import DNA
from dnadiff.errors import InputError
from dnadiff.genome.fasta import Genome
from dnadiff.genome.intervals import Interval, merge
from dnadiff.genome.splits import SPELLINGS, SPLITS, Splits
from dnadiff.genome.text import lines
from dnadiff.genome.windows import Drawn, Location
from dnadiff.rng import Stream, uniform

_INTERVAL = ("chrom", "start", "end")
_TABBED = {".tsv", ".bed", ".txt"}
_DEALT = "sequences dealt 8 : 1 : 1 by a hash that both strands share"


@dataclass(frozen=True, eq=False)
class LabelledWindows:
    """The labelled windows of one split, a byte a base in memory.

    For training they are drawn as a pure function of (seed, index), every window as often. For evaluation they are
    taken in order.

    Attributes:
        names: the classes, sorted.
        label: (n,) int64, the class of each window.
        locations: where each comes from; a sequence of a table has the table's name, its line as chrom, and "+".
        seed: of the drawing.
        reverse_complement: whether half of the drawn windows are shown as the opposite strand.
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
        """Their number n."""
        return len(self.label)

    def tokens(self, rows: Tensor | slice) -> Tensor:
        """Token ids (B, length) int64 of the windows `rows` (B,)."""
        return self._tokens[rows].long()

    def batches(self, size: int = 4096) -> Iterator[Tensor]:
        """Token ids (B, length) int64 of all windows in order, at most `size` at a time."""
        return (self.tokens(slice(start, start + size)) for start in range(0, self.windows, size))

    def draw(self, index: Tensor) -> Drawn:
        """The windows `index` (B,) of a run: tokens (B, length) and labels (B,); no weights."""
        chance = uniform(self.seed, Stream.WINDOW, index, 1)[:, 0]
        rows = (chance * self.windows).long().clamp(max=self.windows - 1)
        tokens = self.tokens(rows)
        if self.reverse_complement:
            flip = uniform(self.seed, Stream.STRAND, index, 1) < 0.5
            tokens = torch.where(flip, _opposite(tokens), tokens)
        return Drawn(tokens, None, self.label[rows])

    def limited(self, count: int) -> LabelledWindows:
        """A seeded sample of at most `count` windows; those of a smaller one are the first of a larger one."""
        chance = uniform(self.seed, Stream.EVAL, torch.arange(self.windows), 1)[:, 0]
        rows = chance.argsort(stable=True)[:count]
        places = [self.locations[row] for row in rows.tolist()]
        return replace(self, label=self.label[rows], locations=places, _tokens=self._tokens[rows])


@dataclass(frozen=True, eq=False)
class LabelledTable:
    """What a table of labelled sequences or intervals holds.

    Attributes:
        name: of the file.
        digest: its SHA-256.
        how: how it was split, for a log or a model card.
        windows: of each split.
        notes: what was cut, padded or left out, a line each.
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
        rows = [
            f"{self.name}: {self.how}",
            f"{'label':<20}" + "".join(f"{split:>10}" for split in SPLITS),
        ]
        for number, name in enumerate(self.names):
            counts = (int((self.windows[split].label == number).sum()) for split in SPLITS)
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
    """Reads labelled windows of each split.

    Args:
        path: a table with a header, plain, gzipped or bgzipped: with tabs if its name says .tsv, .bed or .txt, else
            with commas. Its columns are `label` (or `class`, as in tables for the benchmark), perhaps `split` (train,
            valid, test), and `sequence`, or `chrom`, `start` and `end` if there is a `source`; others are ignored.
        length: bases of a window. A longer sequence is cut to its middle, a shorter one is padded; the window of an
            interval lies around its middle.
        seed: of the drawing.
        source: the genome of intervals, with its splits. An interval belongs to the split in which its window lies.
        reverse_complement: see `LabelledWindows`.

    Returns:
        Windows by split. Sequences without a `split` column are dealt 8 : 1 : 1 by a hash that both strands share:
        equal sequences never part, similar ones may (`audit_labelled` says how many).

    Raises:
        InputError: naming the file, and the line or the class.
    """
    path = Path(path)
    table = _read(path, ("sequence",) if source is None else _INTERVAL)
    if source is None:
        rows, notes = _of_sequences(path, table, length)
        how = f"the column split of {path.name}" if "split" in table else _DEALT
    else:
        rows, notes = _of_intervals(path, table, length, *source)
        how = f"intervals of {source[0].name}, {source[1].how}"
    names = tuple(sorted(set(table.label)))
    if len(names) < 2:
        raise InputError(
            f"{path}: only the class {names[0]!r} in the column label; at least two are needed"
        )
    windows = {
        split: _gathered(
            [row for row in rows if row.split == split], names, seed, reverse_complement
        )
        for split in SPLITS
    }
    _check(path, windows)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return LabelledTable(path.name, digest, how, windows, tuple(notes))


def fingerprint(tokens: Tensor) -> bytes:
    """SHA-256 of what both strands of a sequence, token ids (L,), have in common: the smaller of the two."""
    strands = tokens, DNA.reverse_complement(tokens)
    return hashlib.sha256(
        min(strand.to(torch.uint8).numpy().tobytes() for strand in strands)
    ).digest()


class _Row(NamedTuple):
    """A labelled window, of tokens (length,) uint8."""

    split: str
    label: str
    tokens: Tensor
    place: Location


def _read(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """The table, all of it text, its columns named in lower case; row i is line i + 2, and empty ones are left out."""
    text = io.StringIO("".join(lines(path, "CSV or TSV")))
    separator = "\t" if _TABBED & set(path.suffixes) else ","
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ParserWarning)
            table = pd.read_csv(
                text,
                sep=separator,
                dtype=str,
                keep_default_na=False,
                skip_blank_lines=False,
                index_col=False,
            ).fillna("")
    except (ValueError, ParserWarning) as error:
        raise InputError(
            f"{path}: not a table that can be read ({' '.join(str(error).split())})"
        ) from error
    names = [str(name).strip().lstrip("#").lower() for name in table.columns]
    table.columns = pd.Index(
        ["label" if name == "class" and "label" not in names else name for name in names]
    )
    for wanted in ("label", *columns):
        if wanted not in table:
            instead = "; chrom, start and end need their --genome" if wanted == "sequence" else ""
            raise InputError(
                f"{path}: no column named {wanted}; it has {', '.join(table.columns)}{instead}"
            )
    table = table.apply(lambda column: column.str.strip())
    table = table[(table != "").any(axis=1)]
    if table.empty:
        raise InputError(f"{path}: nothing but a header in it")
    for where, row in _entries(path, table):
        if not row["label"]:
            raise InputError(f"{where}: its label is empty")
        if not row["label"].isprintable():
            raise InputError(
                f"{where}: its label {row['label']!r} has a character that cannot be printed"
            )
        if "split" in row and row["split"].lower() not in SPELLINGS:
            raise InputError(
                f"{where}: {row['split']!r} in the split column; write train, valid or test there"
            )
    return table


def _entries(path: Path, table: pd.DataFrame) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row by its columns, and how an error names it."""
    for number, row in zip(table.index.tolist(), table.to_dict("records"), strict=True):
        yield f"{path}, line {number + 2}", {str(name): value for name, value in row.items()}


def _of_sequences(path: Path, table: pd.DataFrame, length: int) -> tuple[list[_Row], list[str]]:
    rows, sizes = [], []
    for where, row in _entries(path, table):
        try:
            tokens = torch.from_numpy(DNA.encode(row["sequence"]))
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
        if not DNA.scorable(tokens).any():
            raise InputError(f"{where}: no A, C, G or T in its sequence")
        split = SPELLINGS[row["split"].lower()] if "split" in row else _dealt(tokens)
        first = max(len(tokens) - length, 0) // 2
        window = tokens[first : first + length]
        place = Location(path.name, where.rpartition(", ")[2], first, first + len(window), "+")
        padding = torch.full((length - len(window),), DNA.pad_id)
        rows.append(_Row(split, row["label"], torch.cat([window, padding]).to(torch.uint8), place))
        sizes.append(len(tokens))
    cut, padded = sum(size > length for size in sizes), sum(size < length for size in sizes)
    notes = [
        f"{cut:,} of {len(rows):,} sequences are longer than the window of {length:,}: cut to their middle"
    ]
    shorter = f"; the longest has {max(sizes):,}: choose --window" if max(sizes) < length else ""
    notes += [
        f"{padded:,} of {len(rows):,} sequences are shorter than the window of {length:,}: padded{shorter}"
    ]
    notes += [
        "sequences that are alike, and not equal, may be in two splits: the audit says how many share 31-mers"
    ]
    return rows, [
        note for note, said in zip(notes, (cut, padded, "split" not in table), strict=True) if said
    ]


def _dealt(tokens: Tensor) -> str:
    """The split of a sequence without one."""
    return {0: "test", 1: "valid"}.get(int.from_bytes(fingerprint(tokens), "big") % 10, "train")


def _of_intervals(
    path: Path, table: pd.DataFrame, length: int, genome: Genome, splits: Splits
) -> tuple[list[_Row], list[str]]:
    rows, owned = [], _owned(splits)
    for where, row in _entries(path, table):
        window = _window(where, row, length, genome)
        split = None if window is None else _owner(owned, window)
        if window is None or split is None:
            continue
        tokens = genome.tokens(window.chrom, window.start, window.end)
        if 2 * int(DNA.scorable(tokens).sum()) < length:
            continue
        if "split" in row and SPELLINGS[row["split"].lower()] != split:
            raise InputError(
                f"{where}: its window {window} lies in the {split} split of the genome, not in {row['split']}: leave "
                f"the column split out, or give --intervals BED with the splits that it means"
            )
        place = Location(genome.name, *_ends(window), "+")
        rows.append(_Row(split, row["label"], tokens.to(torch.uint8), place))
    left = len(table) - len(rows)
    why = "their windows lie in no split, or are mostly N"
    return rows, [f"{left:,} of {len(table):,} labelled intervals are left out: {why}"] * (left > 0)


def _window(where: str, row: Mapping[str, str], length: int, genome: Genome) -> Interval | None:
    """The window around the middle of an interval, moved where a contig ends; None if the contig is shorter."""
    try:
        interval = Interval(row["chrom"], *(_integer(row[column]) for column in ("start", "end")))
        genome.flat(interval)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    size = genome.contigs[interval.chrom]
    if size < length:
        return None
    start = min(max((interval.start + interval.end - length) // 2, 0), size - length)
    return Interval(interval.chrom, start, start + length)


def _integer(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{text!r} is not an integer coordinate")
    return int(text)


_Owned = list[tuple[str, int, int, str]]
"""Chrom, start, end and split of intervals that do not overlap, sorted."""


def _owned(splits: Splits) -> _Owned:
    return sorted(
        (*_ends(interval), split) for split in SPLITS for interval in merge(splits[split])
    )


def _owner(owned: _Owned, window: Interval) -> str | None:
    """The split in which all of a window lies."""
    place = bisect_right(owned, (window.chrom, window.start), key=lambda one: one[:2]) - 1
    if place < 0:
        return None
    chrom, _, end, split = owned[place]
    return split if chrom == window.chrom and window.end <= end else None


def _ends(interval: Interval) -> tuple[str, int, int]:
    return interval.chrom, interval.start, interval.end


def _gathered(
    rows: list[_Row], names: tuple[str, ...], seed: int, reverse_complement: bool
) -> LabelledWindows:
    tokens = (
        torch.stack([row.tokens for row in rows]) if rows else torch.empty(0, 0, dtype=torch.uint8)
    )
    label = torch.tensor([names.index(row.label) for row in rows], dtype=torch.int64)
    places = [row.place for row in rows]
    return LabelledWindows(names, label, places, seed, reverse_complement, len(rows), tokens)


def _check(path: Path, windows: Mapping[str, LabelledWindows]) -> None:
    """Whether there is something to learn of each class, and something to measure that by."""
    for split, some in windows.items():
        if not some.windows:
            raise InputError(
                f"{path}: nothing labelled is in the {split} split; add rows, or a column named split"
            )
    train = windows["train"]
    for number, name in enumerate(train.names):
        if not (train.label == number).any():
            raise InputError(f"{path}: nothing of the class {name!r} is in the train split")


def _opposite(tokens: Tensor) -> Tensor:
    """The opposite strand (B, L), with the padding at the end again."""
    size = (tokens != DNA.pad_id).sum(1, keepdim=True)
    place = (size - 1 - torch.arange(tokens.shape[1])) % tokens.shape[1]
    return torch.tensor(DNA.complement_ids)[tokens].gather(1, place)
