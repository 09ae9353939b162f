"""Three ways to hold out a part of a genome when nobody has said which. Each gives the intervals of each split."""

from __future__ import annotations

import re

import yaml

from dnadiff.files import resource
from dnadiff.genome.fasta import Genome
from dnadiff.genome.intervals import Interval

Folds = dict[str, list[Interval]]
"""Split -> its intervals."""

_SHARE = 10  # per cent of the scorable bases that valid and test should have, each
_LEAST, _MOST = 5, 20  # and what is still a sensible share
_WINDOWS_PER_CYCLE = 100
_MOST_CYCLES = 10
_COPY = re.compile(
    r"_(alt|fix|hap\d+)$"
)  # UCSC's names of contigs that repeat a region of a chromosome


def registered_folds(genome: Genome) -> tuple[str, Folds] | None:
    """The chromosomes that data/chromosome_folds.yaml holds out of a known assembly, and how that was done.

    A genome is recognised if all its contigs that bear the name of a chromosome of the assembly have its length, and
    each split gets one. Other contigs are in no split.
    """
    assemblies = yaml.safe_load(
        resource("data", "chromosome_folds.yaml").read_text(encoding="utf-8")
    )
    for assembly, known in assemblies.items():
        lengths = known["lengths"]
        named = {_ucsc(chrom): chrom for chrom in genome.contigs if _ucsc(chrom) in lengths}
        if any(genome.contigs[chrom] != lengths[ucsc] for ucsc, chrom in named.items()):
            continue
        held = {
            split: [named[ucsc] for ucsc in known[split] if ucsc in named]
            for split in ("valid", "test")
        }
        train = [chrom for chrom in named.values() if chrom not in held["valid"] + held["test"]]
        if train and all(held.values()):
            folds = {
                split: _whole(genome, chroms) for split, chroms in {"train": train, **held}.items()
            }
            return (
                f"{_how(genome, folds, f'chromosomes of {assembly}')}{_left_out(genome, len(named))}",
                folds,
            )
    return None


def contig_folds(genome: Genome, window: int) -> tuple[str, Folds] | None:
    """Whole contigs, about a tenth of the scorable bases each for valid and test; None if there is no such choice.

    Test takes the largest contigs that fit into its tenth, then valid takes the largest of the others that fit. A split
    that would have less than half of its tenth takes the smallest contig instead. Contigs in which no window fits are
    train.
    """
    chroms = own_contigs(genome)
    sizes = {
        chrom: _scorable(genome, chrom) for chrom in chroms if _has_window(genome, chrom, window)
    }
    total = sum(sizes.values())
    free = sorted(sizes, key=lambda chrom: (-sizes[chrom], chrom))
    held: dict[str, list[str]] = {}
    for split in ("test", "valid"):
        held[split] = _pick(free, sizes, total)
        free = [chrom for chrom in free if chrom not in held[split]]
        if (
            not free
            or not _LEAST * total
            <= 100 * sum(sizes[chrom] for chrom in held[split])
            <= _MOST * total
        ):
            return None
    train = [chrom for chrom in chroms if chrom not in held["test"] + held["valid"]]
    folds = {split: _whole(genome, names) for split, names in {"train": train, **held}.items()}
    return f"{_how(genome, folds, 'whole contigs')}{_left_out(genome, len(chroms))}", folds


def block_folds(genome: Genome, window: int) -> tuple[str, Folds] | None:
    """Blocks along each contig, about a tenth of it each for valid and test; None if every contig is too short.

    Blocks of different splits have at least `window` scorable bases between them that are in no split. Contigs with
    fewer than five windows of scorable bases are train.
    """
    folds: Folds = {"train": [], "valid": [], "test": []}
    chroms = own_contigs(genome)
    for chrom in chroms:
        for split, low, high in _blocks(_scorable(genome, chrom), window):
            folds[split].append(genome.part(chrom, low, high))
    if not folds["test"]:
        return None
    how = f"blocks along each contig, at least {window:,} bases apart"
    return f"{how}{_left_out(genome, len(chroms))}", folds


def own_contigs(genome: Genome) -> list[str]:
    """Contigs that are no alternative copy of a part of another, judged by name, and have a scorable base."""
    return [
        chrom for chrom in genome.contigs if not _COPY.search(chrom) and _scorable(genome, chrom)
    ]


def _blocks(bases: int, window: int) -> list[tuple[str, int, int]]:
    """Split, start and end of the blocks of a contig, counted in scorable bases.

    The contig is cut into cycles of train, gap, valid, gap, test, gap; the last needs no gap behind it.
    """
    if bases < 5 * window:
        return [("train", 0, bases)] if bases else []
    cycles = min(max(bases // (_WINDOWS_PER_CYCLE * window), 1), _MOST_CYCLES)
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


def _pick(free: list[str], sizes: dict[str, int], total: int) -> list[str]:
    """The largest contigs that together fit into a tenth, or the smallest one if they stay far below."""
    chosen: list[str] = []
    room = total * _SHARE / 100
    for chrom in free:
        if sizes[chrom] <= room:
            chosen.append(chrom)
            room -= sizes[chrom]
    if 100 * sum(sizes[chrom] for chrom in chosen) < _LEAST * total:
        return free[-1:]
    return chosen


def _scorable(genome: Genome, chrom: str) -> int:
    offset = genome.offsets[chrom]
    return int(genome.scorable(offset, offset + genome.contigs[chrom]))


def _has_window(genome: Genome, chrom: str, window: int) -> bool:
    segments = genome.segments(Interval(chrom, 0, genome.contigs[chrom]), window)
    return bool((segments[:, 1] - segments[:, 0] >= window).any())


def _whole(genome: Genome, chroms: list[str]) -> list[Interval]:
    return [Interval(chrom, 0, genome.contigs[chrom]) for chrom in chroms]


def _ucsc(chrom: str) -> str:
    return chrom if chrom.startswith("chr") else f"chr{chrom}"


def _how(genome: Genome, folds: Folds, what: str) -> str:
    held = (
        f"{split} {', '.join(interval.chrom for interval in folds[split])}"
        for split in ("test", "valid")
    )
    return f"{what}: {', '.join(held)}; train the other {len(folds['train'])}"


def _left_out(genome: Genome, used: int) -> str:
    others = len(genome.contigs) - used
    return f"; {others} other contig(s) in no split" if others else ""
