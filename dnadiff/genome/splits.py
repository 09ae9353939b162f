"""Train, valid and test: the bases of a genome that belong to each. No base is in two of them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from dnadiff.errors import InputError, UsageError
from dnadiff.genome.bed import BedRow, read_bed
from dnadiff.genome.copies import K, Copies, find_copies, shared_kmers
from dnadiff.genome.fasta import Genome
from dnadiff.genome.folds import Dealt, Folds, block_folds, contig_folds, registered_folds
from dnadiff.genome.intervals import Interval, in_order, merge, overlap, subtract
from dnadiff.genome.segments import contig_bounds, flat_bounds

logger = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")
SPELLINGS = {"train": "train", "training": "train", "valid": "valid", "validation": "valid", "val": "valid",
             "test": "test", "testing": "test"}  # fmt: skip
"""How a table may spell a split, in lower case."""

_PUBLISHED_BASES = 1 << 20  # length to which the published loader extends each interval
_NAMED_COPIES = 3  # copies that a description names before it only counts
_NOTED_SHARE = 0.1  # share of 31-mers in common from which a pair of contigs is worth a warning

Progress = Callable[[int, int], None]
"""Called with (bases read, bases to read in all) while copies are looked for."""


@dataclass(frozen=True)
class Splits(Mapping[str, list[Interval]]):
    """The intervals of each split of a genome, e.g. ``splits["train"]``.

    Attributes:
        intervals: split -> its intervals; missing splits are empty.
        how: how the split was made and what its parts still share, for a log or a model card.
        leaky: allows splits to share bases; for comparison with a published split that does.

    Raises:
        ValueError: if a split has another name, or two splits share a base and must not.
    """

    intervals: Mapping[str, list[Interval]]
    how: str
    leaky: bool = False

    def __post_init__(self) -> None:
        if unknown := set(self.intervals) - set(SPLITS):
            raise ValueError(f"split {min(unknown)!r} is not one of {', '.join(SPLITS)}")
        if self.leaky:
            return
        owned = [(interval, split) for split in SPLITS for interval in self[split]]
        owned.sort(key=_order)
        for i, j in _clashes(owned):
            (one, first), (other, second) = owned[i], owned[j]
            raise ValueError(f"{first} {one} and {second} {other} share bases")

    def __getitem__(self, split: str) -> list[Interval]:
        if split not in SPLITS:
            raise KeyError(split)
        return self.intervals.get(split, [])

    def __iter__(self) -> Iterator[str]:
        return iter(SPLITS)

    def __len__(self) -> int:
        return len(SPLITS)

    def without(self, blacklist: list[Interval], name: str) -> Splits:
        """Returns the same splits without the bases of a blacklist, so that no window has one."""
        kept = {split: subtract(self[split], blacklist) for split in SPLITS}
        lost = sum(overlap(self[split], blacklist) for split in SPLITS)
        return replace(self, intervals=kept, how=f"{self.how}; without {lost:,} bases of {name}")


def make_splits(
    genome: Genome,
    window: int,
    *,
    intervals: str | Path | None = None,
    split: Literal["auto", "legacy"] = "auto",
    test_fold: str | None = None,
    blacklist: str | Path | None = None,
    progress: Progress | None = None,
) -> Splits:
    """Splits one genome as a run asks for it; see `make_all_splits`."""
    (splits,) = make_all_splits(
        [genome],
        window,
        intervals=intervals,
        split=split,
        test_fold=test_fold,
        blacklist=blacklist,
        progress=progress,
    )
    return splits


def make_all_splits(
    genomes: Sequence[Genome],
    window: int,
    *,
    intervals: str | Path | None = None,
    split: Literal["auto", "legacy"] = "auto",
    test_fold: str | None = None,
    blacklist: str | Path | None = None,
    progress: Progress | None = None,
) -> list[Splits]:
    """Splits the genomes of a run. Copies of one sequence are kept in one split where possible.

    What splits still share is a warning in the log, and part of `Splits.how`.

    Args:
        genomes: the genomes.
        window: bases of a window.
        intervals: BED file for `split_by_intervals`; without it, `split_genomes`.
        split: "legacy" for `published_splits` of those intervals.
        test_fold: see `split_by_intervals`.
        blacklist: BED file of bases that no window may contain.
        progress: called with (bases read, bases to read in all) while copies are looked for.

    Raises:
        InputError: as `read_bed` and the functions named above.
        UsageError: if options contradict each other.
    """
    _check_options(genomes, intervals, split, test_fold, blacklist)
    copies: Copies | None = None
    if intervals is None:
        found, copies = _split_genomes(genomes, window, progress)
    elif split == "legacy":
        found = [published_splits(genome, intervals) for genome in genomes]
    else:
        found = [split_by_intervals(genome, intervals, test_fold) for genome in genomes]
        copies = find_copies(genomes, progress)

    if blacklist is not None:
        name = Path(blacklist).name
        for number, genome in enumerate(genomes):
            cut = [row.interval for row in read_bed(blacklist, genome, partial=True)]
            found[number] = found[number].without(cut, name)
    return found if copies is None else _say_what_is_shared(found, copies)


def _check_options(
    genomes: Sequence[Genome],
    intervals: str | Path | None,
    split: str,
    test_fold: str | None,
    blacklist: str | Path | None,
) -> None:
    """Refuses options of `make_all_splits` that have no meaning together."""
    if intervals is None and test_fold is not None:
        raise UsageError(f"test_fold {test_fold!r} needs intervals: a BED file with folds")
    if intervals is None and split == "legacy":
        raise UsageError("split 'legacy' needs intervals: the BED file of the published split")
    # One BED file names the contigs of one genome.
    for name, path in (("intervals", intervals), ("blacklist", blacklist)):
        if path is not None and len(genomes) > 1:
            raise UsageError(f"{name} {path} are for one genome, not for {len(genomes)}")


def split_by_intervals(genome: Genome, bed: str | Path, test_fold: str | None = None) -> Splits:
    """Splits a genome as a BED file says in its column ``split`` or ``fold``, or in its fourth.

    Intervals of one split and weight that overlap or touch are merged. Where the column holds folds
    (Borzoi), the one after the test fold is valid, and the others are train; `Splits.how` names
    them.

    Args:
        genome: the genome; intervals on contigs that it does not have are left out.
        bed: the file.
        test_fold: which fold is test: "fold3", or just "3".

    Raises:
        InputError: if the file cannot be read (see `read_bed`), a row is neither train, valid nor
            test, or intervals of different splits overlap; the message names the lines. Also if
            there are folds, and no such test fold.
        UsageError: if there are no folds, and a test fold is given.
    """
    rows = read_bed(bed, genome, partial=True)
    rows.sort(key=lambda row: (row.interval.chrom, row.interval.start, row.interval.end))
    folds = _folds(rows)
    if folds is None and test_fold is not None:
        raise UsageError(f"test_fold {test_fold!r}: the split column of {bed} holds no folds")
    roles = SPELLINGS if folds is None else _roles(folds, bed, test_fold)

    owned = [(row.interval, _split_of(row, bed, roles)) for row in rows]
    for i, j in _clashes(owned):
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
    """Splits a genome as the published HyenaDNA and Caduceus loaders do, for comparison only: leaky.

    Each interval of the BED file (131,072 bases, with a split) is extended to 2^20 bases to the
    right, or to the end of its contig, whatever the split of the bases that it reaches. Extended
    intervals of one split overlap, and each is drawn from on its own, as there.

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


def split_genome(genome: Genome, window: int) -> Splits:
    """Splits one genome that comes without a split; see `split_genomes`."""
    return split_genomes([genome], window)[0]


def split_genomes(
    genomes: Sequence[Genome], window: int, progress: Progress | None = None
) -> list[Splits]:
    """Splits genomes that come without a split.

    Whichever can be done first, in each genome: the chromosomes that are usual for a known assembly
    (hg38: test 20, 21, 22, valid 15, 16, 19), whole contigs near a tenth each, or blocks along the
    contigs with gaps between them. Copies of one sequence, in one genome or in several, go to one
    split; copies of a contig that is cut into blocks go to none.

    Args:
        genomes: the genomes of a run.
        window: bases of a window.
        progress: called with (bases read, bases to read in all) while copies are looked for.

    Raises:
        InputError: if the window is longer than every contig of a genome, or there is too little
            sequence to hold some out.
    """
    found, copies = _split_genomes(genomes, window, progress)
    return found if copies is None else _say_what_is_shared(found, copies)


def summary(genome: Genome, splits: Splits) -> str:
    """Returns a table of the intervals, bases and scorable bases of each split, headed by `how`."""
    lines = [
        f"{genome.name}: {splits.how}",
        f"{'split':<6}{'intervals':>11}{'bases':>16}{'scorable':>16}",
    ]
    for split in SPLITS:
        intervals = merge(splits[split])
        bases = sum(len(interval) for interval in intervals)
        scorable = int(genome.scorable(*flat_bounds(genome, intervals)).sum())
        lines.append(f"{split:<6}{len(intervals):>11,}{bases:>16,}{scorable:>16,}")
    return "\n".join(lines)


# ---- without a BED file --------------------------------------------------------------------------


def _split_genomes(
    genomes: Sequence[Genome], window: int, progress: Progress | None
) -> tuple[list[Splits], Copies | None]:
    """Does what `split_genomes` describes; also returns the copies, None if not looked for."""
    if not genomes:
        return [], None
    for genome in genomes:
        _check_longest(genome, window)
    known = {number: registered_folds(genome) for number, genome in enumerate(genomes)}
    if len(genomes) == 1 and known[0]:
        # The chromosomes of a known assembly are known not to be copies of each other.
        how, folds = known[0]
        return [Splits(folds, how)], None

    dealt = Dealt(find_copies(genomes, progress))
    # Copies follow the genome that is split first. So the ways that keep contigs whole come before
    # blocks, whatever the order of the genomes.
    ways: list[Callable[[int], tuple[str, Folds] | None]] = [
        known.__getitem__,
        lambda number: contig_folds(genomes[number], window, dealt, number),
        lambda number: block_folds(genomes[number], window, dealt, number),
        lambda number: _all_train(genomes[number], dealt, number),
    ]
    found: dict[int, Splits] = {}
    for way in ways:
        for number in range(len(genomes)):
            made = None if number in found else way(number)
            if made:
                how, folds = made
                _remember(dealt, number, folds)
                found[number] = Splits(folds, how)

    for number, genome in enumerate(genomes):
        if number not in found:
            raise InputError(
                f"{genome.path}: too short to hold out a part in windows of {window} bases (five "
                f"of them in one contig are needed); choose a smaller window, or give intervals "
                f"with a split column"
            )
        about = _about_copies(dealt, number)
        found[number] = replace(found[number], how=found[number].how + about)
    return [found[number] for number in range(len(genomes))], dealt.copies


def _check_longest(genome: Genome, window: int) -> None:
    """Refuses a window that is longer than every contig."""
    longest = max(genome.contigs, key=lambda chrom: genome.contigs[chrom])
    if genome.contigs[longest] < window:
        raise InputError(
            f"{genome.path}: a window of {window} bases is longer than every contig (the longest, "
            f"{longest}, has {genome.contigs[longest]}); choose a window of "
            f"{genome.contigs[longest]} or less"
        )


def _all_train(genome: Genome, dealt: Dealt, number: int) -> tuple[str, Folds] | None:
    """Follows the splits of earlier genomes and puts all else into train; None without any copy.

    A genome that cannot be split on its own is still of use if others have held out its copies.
    """
    copies = dealt.copies
    contigs = range(copies.first[number], copies.first[number + 1])
    groups = copies.group[copies.of(number)].tolist()
    if not any(group in dealt.split_of for group in groups) and not any(
        dealt.is_copy_of_blocks(contig) for contig in contigs
    ):
        return None

    folds: Folds = {split: [] for split in SPLITS}
    for chrom, contig, group in zip(genome.contigs, contigs, groups, strict=True):
        if not dealt.is_copy_of_blocks(contig):
            split = dealt.split_of.get(group, "train")
            folds[split].append(Interval(chrom, 0, genome.contigs[chrom]))
    return "copies as in the other genomes, all else train", folds


def _remember(dealt: Dealt, number: int, folds: Folds) -> None:
    """Notes the split of each contig that lies in one, so that its copies go there as well."""
    copies = dealt.copies
    first = copies.first[number]
    contig_of = {chrom: first + i for i, chrom in enumerate(copies.genomes[number].contigs)}
    group = copies.group.tolist()
    for split, intervals in folds.items():
        for interval in intervals:
            contig = contig_of[interval.chrom]
            if contig not in dealt.in_blocks:
                dealt.split_of.setdefault(group[contig], split)


def _about_copies(dealt: Dealt, number: int) -> str:
    """Says which contigs of a genome are copies, and what became of them."""
    copies = dealt.copies
    names = _ContigNames(copies, number)
    first, end = copies.first[number], copies.first[number + 1]

    together: dict[int, list[int]] = defaultdict(list)
    left_out = []
    for contig in sorted(copies.partners):
        if dealt.is_copy_of_blocks(contig):
            left_out += [contig] if first <= contig < end else []
        elif contig not in dealt.in_blocks:
            together[int(copies.group[contig])].append(contig)

    kept = [
        " and ".join(names.of(contig) for contig in some)
        for some in together.values()
        if len(some) > 1 and any(first <= contig < end for contig in some)
    ]
    text = f"; copies of one sequence in one split: {_first_few(kept)}" if kept else ""
    if left_out:
        gone = [names.of(contig) for contig in left_out]
        text += f"; copies of a contig in blocks, in no split: {_first_few(gone)}"
    return text


class _ContigNames:
    """Names of numbered contigs; those of another genome than `home` with the name of its file."""

    def __init__(self, copies: Copies, home: int) -> None:
        self._copies = copies
        self._home = home
        self._names = [list(genome.contigs) for genome in copies.genomes]

    def of(self, contig: int) -> str:
        """Returns the name of a contig."""
        first = self._copies.first
        number = int(np.searchsorted(first, contig, "right")) - 1
        name = self._names[number][contig - first[number]]
        return (
            name if number == self._home else f"{name} of {self._copies.genomes[number].path.name}"
        )


def _first_few(names: list[str]) -> str:
    """Lists the first names and counts the others."""
    more = len(names) - _NAMED_COPIES
    return ", ".join([*names[:_NAMED_COPIES], *([f"{more:,} more"] if more > 0 else [])])


# ---- what splits still share ---------------------------------------------------------------------


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


def _say_what_is_shared(found: list[Splits], copies: Copies) -> list[Splits]:
    """Adds to `Splits.how` which of its held-out contigs share sequence with another split."""
    shared = _shared_parts(found, copies)
    described = []
    for number, splits in enumerate(found):
        first, end = copies.first[number], copies.first[number + 1]
        mine = [pair for pair in shared if first <= pair.held < end]
        if mine:
            names = _ContigNames(copies, number)
            pairs = [
                f"{pair.held_split} {names.of(pair.held)} and {pair.other_split} "
                f"{names.of(pair.other)} ({100 * pair.share:.0f} %)"
                for pair in mine
            ]
            text = (
                f"splits share sequence: {_first_few(pairs)}; in brackets, exact {K}-mers in "
                f"common, of the smaller one, estimated"
            )
            logger.warning("%s: %s", copies.genomes[number].path, text)
            splits = replace(splits, how=f"{splits.how}; {text}")
        described.append(splits)
    return described


def _shared_parts(found: list[Splits], copies: Copies) -> list[_SharedPart]:
    """Finds contigs in different splits that share sequence, those that share most first.

    A part is what of one contig is in one split; its number is three times that of the contig, and
    that of the split.
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
    for one, other in copies.identical.tolist():  # they have too few k-mers to be counted
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
    starts, ends, labels = [], [], []
    for label, split in enumerate(SPLITS):
        start, end = flat_bounds(genome, merge(splits[split]))
        starts.append(start)
        ends.append(end)
        labels.append(np.full(len(start), label))
    start, end, label = (np.concatenate(column) for column in (starts, ends, labels))
    if not len(start):
        return np.empty(0, np.int64), np.empty(0, np.int64)

    order = np.argsort(start)
    start, end, label = start[order], end[order], label[order]
    # Merged intervals of different splits do not overlap, so the last that begins is the only one.
    row = np.searchsorted(start, positions, "right") - 1
    kept = np.flatnonzero((row >= 0) & (positions + K <= end[row]))
    return kept, label[row[kept]]


# ---- BED files with splits or folds --------------------------------------------------------------


def _folds(rows: list[BedRow]) -> list[str] | None:
    """Returns the labels of the split column in order if they are folds, otherwise None.

    Folds are at least three labels, and none of them is a split or empty.
    """
    labels = sorted({row.split for row in rows}, key=lambda label: (len(label), label))
    if len(labels) < 3 or not all(labels):
        return None
    return None if SPELLINGS.keys() & {label.lower() for label in labels} else labels


def _roles(folds: list[str], bed: str | Path, test_fold: str | None) -> dict[str, str]:
    """Maps each fold to its split.

    The fold after the test fold, cyclically, is valid, as in Basenji and Borzoi.
    """
    chosen = test_fold if test_fold in folds else f"fold{test_fold}"
    if chosen not in folds:
        labels = f"{', '.join(folds[:10])}{', ...' if len(folds) > 10 else ''}"
        raise InputError(
            f"{bed}: the split column holds neither train, valid nor test, but {labels}; if these "
            f"are folds, give test_fold, the one for test (the next one will be valid)"
        )
    valid = folds[(folds.index(chosen) + 1) % len(folds)]
    held = {chosen: "test", valid: "valid"}
    return {fold.lower(): held.get(fold, "train") for fold in folds}


def _fold_of(roles: Mapping[str, str], split: str) -> str:
    """Returns the fold with a role."""
    return next(fold for fold, role in roles.items() if role == split)


def _merged(intervals: list[Interval]) -> list[Interval]:
    """Merges intervals of one weight that overlap or touch; sorted."""
    by_weight: dict[float, list[Interval]] = defaultdict(list)
    for interval in intervals:
        by_weight[interval.weight].append(interval)

    merged: list[Interval] = []
    for weight, some in by_weight.items():
        whole = merge(some)
        merged += whole if weight == 1 else [replace(one, weight=weight) for one in whole]
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


def _order(owned: tuple[Interval, str]) -> tuple[str, int, int, str]:
    """Returns what intervals with their splits are sorted by."""
    interval, split = owned
    return interval.chrom, interval.start, interval.end, split


def _clashes(owned: list[tuple[Interval, str]]) -> Iterator[tuple[int, int]]:
    """Yields pairs of rows of a sorted list that overlap in different splits; finds the first.

    It is enough to compare each interval with the one that reaches furthest so far: all that reach
    into the new one overlap each other at its start, so if none of them clashed, they belong to one
    split.
    """
    furthest = 0
    for i, (interval, split) in enumerate(owned):
        last, owner = owned[furthest]
        if interval.chrom == last.chrom and interval.start < last.end and split != owner:
            yield furthest, i
        if interval.chrom != last.chrom or interval.end > last.end:
            furthest = i
