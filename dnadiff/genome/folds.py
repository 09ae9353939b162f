"""Holds out parts of a genome that comes without a split, in one of three ways."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import yaml

from dnadiff.files import resource
from dnadiff.genome.contigs import ucsc_name
from dnadiff.genome.copies import Copies, no_copies
from dnadiff.genome.fasta import Genome
from dnadiff.genome.intervals import Interval
from dnadiff.genome.segments import contig_bounds, find_segments

Folds = dict[str, list[Interval]]
"""Split -> its intervals."""

_SHARE = 10  # per cent of the scorable bases that valid and test should have, each
_MIN_SHARE, _MAX_SHARE = 5, 20  # per cent; whole contigs outside of this range are not used
_WINDOWS_PER_CYCLE = 100
_MAX_CYCLES = 10
_NAMED_CONTIGS = 20  # contigs that the description of a split names; others are counted

# UCSC's names of contigs that repeat a region of a chromosome.
_COPY_NAME = re.compile(r"_(alt|fix|hap\d+)$")


@dataclass(eq=False)
class Dealt:
    """Records where the contigs of a run go while its genomes are split one after another.

    Attributes:
        copies: which contigs are copies of each other.
        split_of: group of copies -> the split that all its contigs go to.
        placed: number of a contig -> the split that it is in, if it is in one as a whole.
        in_blocks: numbers of the contigs that were cut into blocks of several splits.
    """

    copies: Copies
    split_of: dict[int, str] = field(default_factory=dict)
    placed: dict[int, str] = field(default_factory=dict)
    in_blocks: set[int] = field(default_factory=set)

    def is_copy_of_blocks(self, contig: int) -> bool:
        """Tells whether a contig is a copy of one in several splits: it then belongs in none."""
        partners = self.copies.partners.get(contig, [])
        return not self.in_blocks.isdisjoint(partners)


@dataclass(frozen=True, eq=False)
class _Contigs:
    """The contigs of a genome that can be in a split, in file order.

    Left out are contigs without a scorable base, contigs whose name says that they repeat a part
    of another, and copies of contigs that are in several splits.

    Attributes:
        names: of the contigs.
        numbers: of the contigs in the run; see `Copies`.
        groups: of copies that they belong to.
        scorable: (n,) int64, their scorable bases.
    """

    names: list[str]
    numbers: list[int]
    groups: list[int]
    scorable: np.ndarray

    @classmethod
    def of(cls, genome: Genome, dealt: Dealt, number: int) -> _Contigs:
        """Lists the contigs of the genome `number` of a run."""
        start, end = contig_bounds(genome)
        scorable = genome.scorable(start, end)
        first = dealt.copies.first[number]
        names, group = list(genome.contigs), dealt.copies.group
        chosen = []
        for place, bases in enumerate(scorable.tolist()):
            named_copy = _COPY_NAME.search(names[place])
            if bases and not named_copy and not dealt.is_copy_of_blocks(first + place):
                chosen.append(place)

        return cls(
            [names[place] for place in chosen],
            [first + place for place in chosen],
            group[first + np.array(chosen, np.int64)].tolist(),
            scorable[chosen],
        )


def registered_folds(genome: Genome) -> tuple[str, Folds] | None:
    """Holds out the chromosomes that data/chromosome_folds.yaml names for a known assembly.

    A genome is recognised if all its contigs that are named like a chromosome of the assembly have
    that chromosome's length, and each split gets at least one. Other contigs are in no split.

    Returns:
        a description, and the intervals of each split; None for an unknown genome.
    """
    table = resource("data", "chromosome_folds.yaml").read_text(encoding="utf-8")
    # The few names of each assembly are looked up, not the million contigs that a genome may have.
    ucsc = {ucsc_name(chrom): chrom for chrom in genome.contigs}
    for assembly, known in yaml.safe_load(table).items():
        lengths = known["lengths"]
        named = {name: ucsc[name] for name in lengths if name in ucsc}
        lengths_differ = any(
            genome.contigs[chrom] != lengths[name] for name, chrom in named.items()
        )
        if lengths_differ or not named:
            continue

        held = {
            split: [named[name] for name in known[split] if name in named]
            for split in ("valid", "test")
        }
        # Train gets the other chromosomes of the assembly; unplaced contigs stay out of all splits.
        free = {*named.values()} - {*held["valid"], *held["test"]}
        train = [chrom for chrom in genome.contigs if chrom in free]
        if train and all(held.values()):
            folds = _whole_contigs(genome, {"train": train, **held})
            how = _describe(folds, f"chromosomes of {assembly}")
            return how + _left_out(genome, len(named)), folds
    return None


def contig_folds(
    genome: Genome, window: int, dealt: Dealt | None = None, number: int = 0
) -> tuple[str, Folds] | None:
    """Holds out whole contigs, about a tenth of the scorable bases each for valid and test.

    Test takes the largest contigs that fit into its tenth, then valid takes the largest of the
    others that fit. A split that would have less than half of its tenth takes the smallest contig
    instead. Contigs in which no window fits are train. Copies of one sequence are taken together,
    and go where an earlier genome has put one of them.

    Args:
        genome: the genome.
        window: bases of a window.
        dealt: copies, and the splits of earlier genomes; None if there are neither.
        number: of the genome in the run.

    Returns:
        a description, and the intervals of each split; None if no contigs have such sizes.
    """
    dealt = dealt or Dealt(no_copies(genome))
    contigs = _Contigs.of(genome, dealt, number)
    sizes = _group_sizes(genome, contigs, window)
    if not sizes:
        return None
    total = sum(sizes.values())
    split_of = {group: dealt.split_of[group] for group in sizes if group in dealt.split_of}
    free = _largest_first(sizes, contigs, split_of)

    # Test chooses first, because its bound is the one that is reported.
    for split in ("test", "valid"):
        has = sum(sizes[group] for group, fixed in split_of.items() if fixed == split)
        if not free or 100 * has >= _MIN_SHARE * total:
            continue  # copies from earlier genomes fill this split already
        chosen = _pick(free, sizes, total, has)
        held = has + sum(sizes[group] for group in chosen)
        split_of.update(dict.fromkeys(chosen, split))
        free = [group for group in free if group not in split_of]
        if not _MIN_SHARE * total <= 100 * held <= _MAX_SHARE * total:
            return None
        if not free and "train" not in split_of.values():
            return None

    # Groups without a window have no size here; an earlier genome may still have placed them.
    folds = _deal(contigs, genome, {**dealt.split_of, **split_of})
    how = _describe(folds, "whole contigs")
    return how + _left_out(genome, len(contigs.names)), folds


def block_folds(
    genome: Genome, window: int, dealt: Dealt | None = None, number: int = 0
) -> tuple[str, Folds] | None:
    """Holds out blocks along each contig, about a tenth of it each for valid and test.

    Blocks of different splits have at least `window` scorable bases between them that are in no
    split. Contigs with fewer than five windows of scorable bases are train. Of copies of one
    sequence only the largest is used, because its blocks have no counterpart in a copy that is
    longer or shorter.

    Args:
        genome: the genome.
        window: bases of a window.
        dealt: copies, and the splits of earlier genomes; the contigs that are cut are added to
            `Dealt.in_blocks`.
        number: of the genome in the run.

    Returns:
        a description, and the intervals of each split; None if every contig is too short.
    """
    dealt = dealt or Dealt(no_copies(genome))
    contigs = _Contigs.of(genome, dealt, number)
    cut = _choose_cut(contigs, window, dealt)
    dealt.in_blocks |= cut
    # Listed again, because the copies of what is cut are now left out.
    kept = _Contigs.of(genome, dealt, number)

    folds: Folds = {"train": [], "valid": [], "test": []}
    for name, contig, group, bases in zip(
        kept.names, kept.numbers, kept.groups, kept.scorable.tolist(), strict=True
    ):
        if contig in cut:
            blocks = _blocks(bases, window)
        else:
            blocks = [(dealt.split_of.get(group, "train"), 0, bases)]
        for split, low, high in blocks:
            folds[split].append(genome.part(name, low, high))
    if not folds["test"]:
        return None

    how = f"blocks along each contig, at least {window:,} bases apart"
    return how + _left_out(genome, len(kept.names)), folds


def _choose_cut(contigs: _Contigs, window: int, dealt: Dealt) -> set[int]:
    """Chooses the contigs that are long enough to be cut into blocks: of copies the largest."""
    chosen: set[int] = set()
    # Largest first, so that a contig that is contained in another is the one that is left out.
    for place in np.argsort(-contigs.scorable, kind="stable").tolist():
        # Five windows: at least one each for train, valid and test, and two gaps.
        long = contigs.scorable[place] >= 5 * window
        free = contigs.groups[place] not in dealt.split_of
        partners = dealt.copies.partners.get(contigs.numbers[place], [])
        if long and free and chosen.isdisjoint(partners):
            chosen.add(contigs.numbers[place])
    return chosen


def _blocks(bases: int, window: int) -> list[tuple[str, int, int]]:
    """Returns split, start and end of the blocks of a contig, counted in scorable bases.

    The contig is cut into cycles of train, gap, valid, gap, test, gap; the last cycle needs no gap
    at its end.
    """
    if bases < 5 * window:
        return [("train", 0, bases)] if bases else []
    # Several cycles, so that each split samples the whole contig, not one end of it.
    cycles = min(max(bases // (_WINDOWS_PER_CYCLE * window), 1), _MAX_CYCLES)
    blocks = []
    for cycle in range(cycles):
        low, high = bases * cycle // cycles, bases * (cycle + 1) // cycles
        end = high if cycle == cycles - 1 else high - window
        held = max(window, (high - low - 3 * window) * _SHARE // 100)
        test, valid = end - held, end - 2 * held - window
        blocks += [
            ("train", low, valid - window),
            ("valid", valid, valid + held),
            ("test", test, end),
        ]
    return blocks


def _group_sizes(genome: Genome, contigs: _Contigs, window: int) -> dict[int, int]:
    """Counts, for each group of copies, the scorable bases of its contigs that hold a window."""
    start, end = contig_bounds(genome)
    segments = find_segments(genome, start, end, window)
    fits = np.zeros(len(start), bool)
    fits[segments.owner[segments.end - segments.start >= window]] = True

    place = {name: i for i, name in enumerate(genome.contigs)}
    sizes: dict[int, int] = {}
    for name, group, bases in zip(
        contigs.names, contigs.groups, contigs.scorable.tolist(), strict=True
    ):
        if fits[place[name]]:
            sizes[group] = sizes.get(group, 0) + bases
    return sizes


def _largest_first(
    sizes: Mapping[int, int], contigs: _Contigs, split_of: Mapping[int, str]
) -> list[int]:
    """Returns the groups without a split, the largest first; among equals by their first name."""
    name: dict[int, str] = {}
    for group, chrom in zip(contigs.groups, contigs.names, strict=True):
        name[group] = min(name.get(group, chrom), chrom)
    free = [group for group in sizes if group not in split_of]
    return sorted(free, key=lambda group: (-sizes[group], name[group]))


def _pick(free: list[int], sizes: Mapping[int, int], total: int, has: int) -> list[int]:
    """Returns the largest groups that together fit into a tenth, else the smallest group.

    `has` are the bases that the split has already.
    """
    chosen: list[int] = []
    left = total * _SHARE / 100 - has
    for group in free:
        if sizes[group] <= left:
            chosen.append(group)
            left -= sizes[group]
    if 100 * (has + sum(sizes[group] for group in chosen)) < _MIN_SHARE * total:
        return free[-1:]
    return chosen


def _deal(contigs: _Contigs, genome: Genome, split_of: Mapping[int, str]) -> Folds:
    """Puts whole contigs into the split of their group, or into train without one."""
    chroms: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for name, group in zip(contigs.names, contigs.groups, strict=True):
        chroms[split_of.get(group, "train")].append(name)
    return _whole_contigs(genome, chroms)


def _whole_contigs(genome: Genome, chroms: Mapping[str, Iterable[str]]) -> Folds:
    """Returns whole contigs as the intervals of each split."""
    return {
        split: [Interval(chrom, 0, genome.contigs[chrom]) for chrom in names]
        for split, names in chroms.items()
    }


def _describe(folds: Folds, what: str) -> str:
    """Says which contigs are held out."""
    held = [f"{split} {_listed(folds[split])}" for split in ("test", "valid")]
    return f"{what}: {', '.join(held)}; train the other {len(folds['train'])}"


def _listed(intervals: list[Interval]) -> str:
    """Names the contigs of intervals, the first of many, or says that there are none."""
    names = [interval.chrom for interval in intervals[:_NAMED_CONTIGS]]
    if len(intervals) > _NAMED_CONTIGS:
        names.append(f"and {len(intervals) - _NAMED_CONTIGS:,} more")
    return ", ".join(names) or "none"


def _left_out(genome: Genome, used: int) -> str:
    """Says how many contigs are in no split."""
    others = len(genome.contigs) - used
    return f"; {others} other contig(s) in no split" if others else ""
