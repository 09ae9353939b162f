"""Sequences or intervals with class labels, as windows for conditional training."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dnadiff.alphabet import DNA
from dnadiff.errors import InputError
from dnadiff.genome.fasta import Genome
from dnadiff.genome.splits import SPLITS, Splits
from dnadiff.genome.windows import Drawn, Location
from dnadiff.noise import Stream, uniform

_INTERVAL = ["chrom", "start", "end"]


@dataclass(frozen=True, eq=False)
class LabelledWindows:
    """The labelled windows of one split, a byte a base in memory.

    For training they are drawn as a pure function of (seed, index): every window as often, either strand by a fair coin.
    For evaluation they are taken in order.

    Attributes:
        names: the classes, sorted.
        label: (n,) int64, the class of each window.
        locations: where each comes from; a sequence of a table has the table's name, its line as chrom, and "+".
        seed: of the drawing.
        total: n before `limited`.
    """

    names: tuple[str, ...]
    label: Tensor
    locations: list[Location]
    seed: int
    total: int
    _tokens: Tensor

    @property
    def windows(self) -> int:
        """Their number n."""
        return len(self.label)

    def tokens(self, rows: Tensor | slice) -> Tensor:
        """Token ids (B, length) int64 of the windows `rows` (B,)."""
        return self._tokens[rows].long()

    def draw(self, index: Tensor) -> Drawn:
        """The windows `index` (B,) of a run: tokens (B, length) and labels (B,)."""
        chance = uniform(self.seed, Stream.WINDOW, index, 1)[:, 0]
        row = (chance * self.windows).long().clamp(max=self.windows - 1)
        tokens = self.tokens(row)
        flip = uniform(self.seed, Stream.STRAND, index, 1)[:, 0] < 0.5
        # A window that is shorter than the others is padded at its end; so is its other strand.
        length = (tokens != DNA.pad_id).sum(1, keepdim=True)
        place = (length - 1 - torch.arange(tokens.shape[1])) % tokens.shape[1]
        opposite = torch.tensor(DNA.complement_ids)[tokens].gather(1, place)
        return Drawn(torch.where(flip[:, None], opposite, tokens), None, self.label[row])

    def limited(self, count: int) -> LabelledWindows:
        """A seeded sample of at most `count` windows; those of a smaller one are the first of a larger one."""
        chance = uniform(self.seed, Stream.EVAL, torch.arange(self.windows), 1)[:, 0]
        rows = chance.argsort()[:count]
        places = [self.locations[i] for i in rows.tolist()]
        return LabelledWindows(self.names, self.label[rows], places, self.seed, self.total, self._tokens[rows])


def read_labelled(
    path: str | Path, length: int, seed: int, source: tuple[Genome, Splits] | None = None
) -> tuple[dict[str, LabelledWindows], list[str]]:
    """The labelled windows of each split, and notes on what was left out.

    Args:
        path: a table (CSV, or TSV where the name says .tsv or .bed; gzipped or not) with a header. Its columns are
            `label`, perhaps `split` (train, valid, test), and either `sequence` or `chrom`, `start`, `end`.
        length: bases of a window. A longer sequence is cut to its middle, a shorter one is padded; the window of an
            interval lies around its middle.
        seed: of the drawing.
        source: the genome of intervals, with its splits. An interval belongs to the split in which its window lies.

    Returns:
        Windows by split. Sequences without a `split` column are dealt 8 : 1 : 1 by a hash of what they say, the same for
        both strands: equal sequences never part, similar ones may.

    Raises:
        InputError: naming the file and the line.
    """
    path = Path(path)
    table = _read(path)
    if "sequence" in table:
        rows, notes = _of_sequences(path, table, length)
    elif source is None:
        raise InputError(f"{path}: intervals need their genome: give --genome FILE (or a column named sequence)")
    else:
        rows, notes = _of_intervals(path, table, length, *source)
    names = tuple(sorted(set(table.label)))
    if len(names) < 2:
        raise InputError(f"{path}: {len(names)} class in its column label; at least two are needed")
    splits = {split: _gathered([row for row in rows if row[0] == split], names, seed) for split in SPLITS}
    for split, windows in splits.items():
        if not windows.windows:
            raise InputError(f"{path}: nothing labelled is in the {split} split; add a column named split")
    return splits, notes


_Row = tuple[str, str, np.ndarray, Location]
"""Split, label, tokens and place of a window."""


def _read(path: Path) -> pd.DataFrame:
    separator = "\t" if {".tsv", ".bed"} & set(path.suffixes) else ","
    try:
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a table that can be read ({' '.join(str(error).split())})") from error
    table.columns = [str(name).strip().lstrip("#").lower() for name in table.columns]
    for wanted in ("label", *([] if "sequence" in table else _INTERVAL)):
        if wanted not in table:
            raise InputError(f"{path}: no column named {wanted}; it has {', '.join(table.columns)}")
    for number, row in enumerate(table.to_dict("records"), 2):
        if not row["label"]:
            raise InputError(f"{path}, line {number}: its label is empty")
        if "split" in row and row["split"] not in SPLITS:
            raise InputError(f"{path}, line {number}: split {row['split']!r} is none of {', '.join(SPLITS)}")
    return table


def _of_sequences(path: Path, table: pd.DataFrame, length: int) -> tuple[list[_Row], list[str]]:
    rows, cut = [], 0
    for number, row in enumerate(table.to_dict("records"), 2):
        try:
            tokens = DNA.encode(row["sequence"].strip())
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
        if not DNA.scorable(torch.from_numpy(tokens)).any():
            raise InputError(f"{path}, line {number}: no A, C, G or T in its sequence")
        spare = len(tokens) - length
        cut += spare > 0
        window = tokens[max(spare, 0) // 2 :][:length]
        padded = np.full(length, DNA.pad_id)
        padded[: len(window)] = window
        place = Location(path.name, f"line {number}", max(spare, 0) // 2, max(spare, 0) // 2 + len(window), "+")
        rows.append((row.get("split") or _dealt(tokens), row["label"], padded, place))
    return rows, [f"{cut:,} of {len(rows):,} labelled sequences are longer than the window: cut to their middle"] * (
        cut > 0
    )


def _dealt(tokens: np.ndarray) -> str:
    """The split of a sequence, by a hash that does not depend on its strand."""
    strands = tokens, DNA.reverse_complement(torch.from_numpy(tokens)).numpy()
    digest = hashlib.sha256(min(strand.astype(np.uint8).tobytes() for strand in strands)).digest()
    return {0: "test", 1: "valid"}.get(int.from_bytes(digest[:8], "big") % 10, "train")


def _of_intervals(
    path: Path, table: pd.DataFrame, length: int, genome: Genome, splits: Splits
) -> tuple[list[_Row], list[str]]:
    rows, left = [], 0
    for chrom, start, label, number in _windows(path, table, length, genome):
        tokens = genome.tokens(chrom, start, start + length)
        split = _split_of(splits, chrom, start, start + length)
        if split is None or 2 * int(DNA.scorable(tokens).sum()) < length:
            left += 1
            continue
        wanted = table.split[number - 2] if "split" in table else split
        if wanted != split:
            raise InputError(
                f"{path}, line {number}: its window lies in the {split} split of the genome, not in {wanted}"
            )
        rows.append((split, label, tokens.numpy(), Location(genome.name, chrom, start, start + length, "+")))
    note = f"{left:,} of {len(table):,} labelled intervals lie in no split, or are mostly N: left out"
    return rows, [note] * (left > 0)


def _windows(path: Path, table: pd.DataFrame, length: int, genome: Genome) -> Iterator[tuple[str, int, str, int]]:
    """Contig, start, label and line of the window around each interval, moved where a contig ends."""
    for number, row in enumerate(table.to_dict("records"), 2):
        where = f"{path}, line {number}"
        if row["chrom"] not in genome.contigs:
            raise InputError(f"{where}: {genome.name} has no contig {row['chrom']!r}")
        try:
            start, end = int(row["start"]), int(row["end"])
        except ValueError as error:
            raise InputError(f"{where}: start and end must be whole numbers") from error
        size = genome.contigs[row["chrom"]]
        if not 0 <= start < end <= size:
            raise InputError(f"{where}: {row['chrom']}:{start}-{end} is no interval of a contig of {size:,} bases")
        if size >= length:
            yield row["chrom"], min(max((start + end - length) // 2, 0), size - length), row["label"], number


def _split_of(splits: Splits, chrom: str, start: int, end: int) -> str | None:
    for split in SPLITS:
        if any(i.chrom == chrom and i.start <= start and end <= i.end for i in splits[split]):
            return split
    return None


def _gathered(rows: list[_Row], names: tuple[str, ...], seed: int) -> LabelledWindows:
    tokens = np.stack([row[2] for row in rows]).astype(np.uint8) if rows else np.empty((0, 0), np.uint8)
    label = torch.tensor([names.index(row[1]) for row in rows], dtype=torch.int64)
    return LabelledWindows(names, label, [row[3] for row in rows], seed, len(rows), torch.from_numpy(tokens))
