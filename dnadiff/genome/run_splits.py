"""Splits the genomes of a run, by a BED file or without one. Copies go to one split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from dnadiff.errors import InputError, UsageError
from dnadiff.genome.bed import read_bed
from dnadiff.genome.bed_splits import published_splits, split_by_intervals
from dnadiff.genome.copies import Copies, Progress, find_copies
from dnadiff.genome.fasta import Genome
from dnadiff.genome.folds import Dealt, Folds, block_folds, contig_folds, registered_folds
from dnadiff.genome.intervals import Interval
from dnadiff.genome.shared import ContigNames, first_few, say_what_is_shared
from dnadiff.genome.splits import SPLITS, Splits


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
    """Splits one genome with the options of a run; see `make_all_splits`."""
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

    Copies that end up in different splits are named in a warning and in `Splits.how`.

    Args:
        genomes: the genomes.
        window: bases of a window.
        intervals: BED file for `split_by_intervals`; without it, `split_genomes`.
        split: "legacy" for `published_splits` of those intervals.
        test_fold: see `split_by_intervals`.
        blacklist: BED file of bases that no window may contain.
        progress: called with (bases read, bases to read in all) during the search for copies.

    Raises:
        InputError: as `read_bed` and the functions named above.
        UsageError: if options contradict each other.
    """
    if not genomes:
        return []
    _check_options(genomes, intervals, split, test_fold, blacklist)
    # Without copies no report is made: a single known assembly has none, and the published split is
    # known to leak.
    copies: Copies | None = None
    if intervals is None:
        found, copies = _split_genomes(genomes, window, progress)
    elif split == "legacy":
        found = [published_splits(genome, intervals) for genome in genomes]
    else:
        found = [split_by_intervals(genome, intervals, test_fold) for genome in genomes]
        copies = find_copies(genomes, progress)

    # The blacklist comes last, so that it does not change which split a contig is in.
    if blacklist is not None:
        name = Path(blacklist).name
        for number, genome in enumerate(genomes):
            cut = [row.interval for row in read_bed(blacklist, genome, partial=True)]
            found[number] = found[number].without(cut, name)
    return found if copies is None else say_what_is_shared(found, copies)


def split_genome(genome: Genome, window: int) -> Splits:
    """Splits one genome that comes without a split; see `split_genomes`."""
    return split_genomes([genome], window)[0]


def split_genomes(
    genomes: Sequence[Genome], window: int, progress: Progress | None = None
) -> list[Splits]:
    """Splits genomes that come without a split.

    Each genome is split in the first way that is possible: by the usual chromosomes of a known
    assembly (hg38: test 20, 21, 22, valid 15, 16, 19), by whole contigs of about a tenth each, or
    by blocks along the contigs with gaps between them. Copies of one sequence, in one genome or in
    several, go to one split; copies of a contig that is cut into blocks go to none.

    Args:
        genomes: the genomes of a run.
        window: bases of a window.
        progress: called with (bases read, bases to read in all) during the search for copies.

    Raises:
        InputError: if the window is longer than every contig of a genome, or there is too little
            sequence to hold some out.
    """
    found, copies = _split_genomes(genomes, window, progress)
    return found if copies is None else say_what_is_shared(found, copies)


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


def _split_genomes(
    genomes: Sequence[Genome], window: int, progress: Progress | None
) -> tuple[list[Splits], Copies | None]:
    """Does what `split_genomes` describes; also returns the copies, or None without a search."""
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
    # Copies follow the genome that is split first. So for all genomes the ways that keep contigs
    # whole are tried before blocks, whatever the order of the genomes.
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
    """Puts copies into the splits of earlier genomes and all else into train; None without copies.

    A genome that is too short to be split on its own can still be trained on if other genomes have
    held out its copies.
    """
    copies = dealt.copies
    contigs = range(copies.first[number], copies.first[number + 1])
    groups = copies.group[copies.of(number)].tolist()
    follows = any(group in dealt.split_of for group in groups)
    repeats_blocks = any(dealt.is_copy_of_blocks(contig) for contig in contigs)
    if not follows and not repeats_blocks:
        return None

    folds: Folds = {split: [] for split in SPLITS}
    for chrom, contig, group in zip(genome.contigs, contigs, groups, strict=True):
        if not dealt.is_copy_of_blocks(contig):
            split = dealt.split_of.get(group, "train")
            folds[split].append(Interval(chrom, 0, genome.contigs[chrom]))
    return "copies as in the other genomes, all else train", folds


def _remember(dealt: Dealt, number: int, folds: Folds) -> None:
    """Records the split of each contig that is in one, so that its copies go there as well."""
    copies = dealt.copies
    first = copies.first[number]
    contig_of = {chrom: first + i for i, chrom in enumerate(copies.genomes[number].contigs)}
    group = copies.group.tolist()
    for split, intervals in folds.items():
        for interval in intervals:
            contig = contig_of[interval.chrom]
            if contig not in dealt.in_blocks:
                dealt.placed[contig] = split
                # The first split stays: two known assemblies may contradict each other.
                dealt.split_of.setdefault(group[contig], split)


def _about_copies(dealt: Dealt, number: int) -> str:
    """Says which contigs of a genome are copies, and where they went."""
    copies = dealt.copies
    names = ContigNames(copies, number)
    first, end = copies.first[number], copies.first[number + 1]

    together: dict[tuple[int, str], list[int]] = defaultdict(list)
    left_out = []
    for contig in sorted(copies.partners):
        if contig in dealt.placed:
            together[int(copies.group[contig]), dealt.placed[contig]].append(contig)
        elif first <= contig < end and dealt.is_copy_of_blocks(contig):
            left_out.append(contig)

    # Only groups with a contig of this genome, and with more than one contig left.
    kept = []
    for some in together.values():
        mine = [contig for contig in some if first <= contig < end]
        if mine and len(some) > 1:
            kept.append(" and ".join(map(names.of, some)))
    text = f"; copies of one sequence in one split: {first_few(kept)}" if kept else ""
    if left_out:
        gone = [names.of(contig) for contig in left_out]
        text += f"; copies of a contig in blocks, in no split: {first_few(gone)}"
    return text
