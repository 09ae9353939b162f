"""Splits from a BED file: by names of splits, by folds, or as published."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from dnadiff.errors import InputError, UsageError
from dnadiff.genome.bed import BedRow, read_bed
from dnadiff.genome.fasta import Genome
from dnadiff.genome.intervals import Interval, in_order, merge
from dnadiff.genome.splits import SPELLINGS, SPLITS, Splits, clashes

_PUBLISHED_BASES = 1 << 20  # length to which the published loaders extend each interval


def split_by_intervals(genome: Genome, bed: str | Path, test_fold: str | None = None) -> Splits:
    """Splits a genome by the column ``split`` or ``fold`` of a BED file, else by its fourth.

    Intervals of one split and weight that overlap or touch are merged. Where the column holds folds
    (Borzoi), the fold after the test fold is valid, and the others are train; `Splits.how` names
    both.

    Args:
        genome: the genome; intervals on contigs that it does not have are left out.
        bed: the file.
        test_fold: the fold for test, "fold3" or just "3".

    Raises:
        InputError: if the file cannot be read (see `read_bed`), a row is neither train, valid nor
            test, or intervals of different splits overlap; the message names the lines. Also if
            the file has folds, but not the test fold.
        UsageError: if a test fold is given, but the file has no folds.
    """
    # `clashes` compares neighbours in this order.
    rows = read_bed(bed, genome, partial=True)
    rows.sort(key=lambda row: (row.interval.chrom, row.interval.start, row.interval.end))
    folds = _folds(rows)
    if folds is None and test_fold is not None:
        raise UsageError(f"test_fold {test_fold!r}: the split column of {bed} holds no folds")
    roles = SPELLINGS if folds is None else _roles(folds, bed, test_fold)

    owned = [(row.interval, _split_of(row, bed, roles)) for row in rows]
    for i, j in clashes(owned):
        (_, first), (other, second) = owned[i], owned[j]
        raise InputError(
            f"{bed}, lines {rows[i].line} ({first}) and {rows[j].line} ({second}): they overlap at "
            f"{other.chrom}:{other.start + 1}; a base can be in one split only"
        )

    by_split: dict[str, list[Interval]] = {split: [] for split in SPLITS}
    for interval, split in owned:
        by_split[split].append(interval)
    how = f"intervals of {Path(bed).name}"
    if folds is not None:
        how += f", test {_fold_of(roles, 'test')}, valid {_fold_of(roles, 'valid')}"
    return Splits({split: _merged(some) for split, some in by_split.items()}, how)


def published_splits(genome: Genome, bed: str | Path) -> Splits:
    """Splits a genome as the published HyenaDNA and Caduceus loaders do.

    These splits share bases. Use them only for comparison with published figures.

    Each interval of the BED file (131,072 bases, with a split) is extended to 2^20 bases to the
    right, or to the end of its contig, whatever the split of the added bases. Extended intervals of
    one split overlap. They are not merged, so that windows are drawn as often as by those loaders.

    Raises:
        InputError: if the file cannot be read (see `read_bed`), or a row is neither train, valid
            nor test; the message names the line.
    """
    owned: dict[str, list[Interval]] = {split: [] for split in SPLITS}
    for row in read_bed(bed, genome, partial=True):
        chrom, start, end = row.interval.chrom, row.interval.start, row.interval.end
        end = min(max(end, start + _PUBLISHED_BASES), genome.contigs[chrom])
        owned[_split_of(row, bed, SPELLINGS)].append(Interval(chrom, start, end))
    how = (
        f"published intervals of {Path(bed).name}, extended to {_PUBLISHED_BASES:,} bases: LEAKS, "
        f"for comparison only"
    )
    return Splits(owned, how, leaky=True)


def _folds(rows: list[BedRow]) -> list[str] | None:
    """Returns the labels of the split column in order if they are folds, otherwise None.

    Labels are folds if there are at least three, none is empty, and none is the name of a split.
    """
    # By length first, so that fold10 comes after fold9.
    labels = sorted({row.split for row in rows}, key=lambda label: (len(label), label))
    if len(labels) < 3 or not all(labels):
        return None
    if SPELLINGS.keys() & {label.lower() for label in labels}:
        return None
    return labels


def _roles(folds: list[str], bed: str | Path, test_fold: str | None) -> dict[str, str]:
    """Maps each fold to its split.

    The fold after the test fold, cyclically, is valid, as in Basenji and Borzoi.
    """
    # Borzoi's file writes fold3; people type 3.
    chosen = test_fold if test_fold in folds else f"fold{test_fold}"
    if chosen not in folds:
        labels = ", ".join([*folds[:10], *(["..."] if len(folds) > 10 else [])])
        raise InputError(
            f"{bed}: the split column holds neither train, valid nor test, but {labels}; if these "
            f"are folds, give test_fold, the one for test (the next one will be valid)"
        )
    valid = folds[(folds.index(chosen) + 1) % len(folds)]
    # Lower case, because `_split_of` looks labels up so.
    held = {chosen: "test", valid: "valid"}
    return {fold.lower(): held.get(fold, "train") for fold in folds}


def _fold_of(roles: Mapping[str, str], split: str) -> str:
    """Returns the fold that is test, or that is valid."""
    return next(fold for fold, role in roles.items() if role == split)


def _merged(intervals: list[Interval]) -> list[Interval]:
    """Merges intervals of one weight that overlap or touch; sorted."""
    # Weights differ on purpose: merging across them would lose one of the two.
    by_weight: dict[float, list[Interval]] = defaultdict(list)
    for interval in intervals:
        by_weight[interval.weight].append(interval)

    merged: list[Interval] = []
    for weight, some in by_weight.items():
        merged += [replace(one, weight=weight) for one in merge(some)]
    return in_order(merged)


def _split_of(row: BedRow, bed: str | Path, roles: Mapping[str, str]) -> str:
    """Returns the split of a row."""
    split = roles.get(row.split.lower())
    if not split:
        found = repr(row.split) if row.split else "nothing"
        raise InputError(
            f"{bed}, line {row.line}: {found} in the split column; write train, valid or test there"
        )
    return split
