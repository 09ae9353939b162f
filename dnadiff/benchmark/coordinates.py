"""Tasks as coordinates of a genome, from which their sequences are cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from dnadiff.alphabet import DNA
from dnadiff.benchmark.items import PLACE, SPLITS, Reading, class_of, listed
from dnadiff.benchmark.tasks import Task
from dnadiff.errors import InputError
from dnadiff.genome.fasta import Genome
from dnadiff.genome.tables import StrandedInterval, read_table

_ENDING = ".csv.gz"


def read_coordinates(folder: Path, task: Task, genome: Genome | None) -> Reading | None:
    """Reads ``folder/{train,test}/CLASS.csv.gz`` with the columns region, start, end and strand.

    Start and end are 0-based and half-open.

    Args:
        folder: the task's folder.
        task: its references must be those of the genome.
        genome: what the sequences are cut from. Items on N, and outside of it, are dropped and
            counted.

    Returns:
        None if there is no such file.

    Raises:
        InputError: naming the file and line that cannot be used, or if there is no genome or
            another one.
    """
    files = {split: sorted((folder / split).glob(f"*{_ENDING}")) for split in SPLITS}
    if not any(files.values()):
        return None
    dropped: Counter[str] = Counter()
    frames = {}
    for split, found in files.items():
        if found:
            frame = pd.concat([_read_class(path) for path in found])
            frames[split] = cut(frame, folder, task, genome, dropped)
    return Reading(frames, str(folder), dropped)


def frame_of(intervals: Sequence[StrandedInterval], labels: Sequence[str] | str) -> pd.DataFrame:
    """Returns a table with the columns PLACE and class."""
    frame = pd.DataFrame(intervals, columns=PLACE)
    return frame.assign(**{"class": labels})


def cut(
    frame: pd.DataFrame,
    source: Path,
    task: Task,
    genome: Genome | None,
    dropped: Counter[str],
) -> pd.DataFrame:
    """Cuts sequences from a genome.

    Args:
        frame: a table with the columns PLACE.
        source: where it was read from, for the error.
        task: its references must be those of the genome.
        genome: the genome.
        dropped: rows that the genome has no bases for are counted here, by cause.

    Returns:
        The other rows, with a column sequence.

    Raises:
        InputError: if there is no genome, or another one than the task's.
    """
    if genome is None:
        references = task.references.values()
        needed = listed(f"{one.name}, {one.description}" for one in references)
        which = f" ({needed})" if needed else ""
        raise InputError(
            f"{source}: only coordinates; give the genome that they are cut from{which}"
        )
    _check_references(task, genome)

    # One look-up for each name: tables have up to 100,000 rows on a few dozen contigs.
    contigs = {name: _contig(name, genome.contigs) for name in frame["chrom"].unique()}
    sequences = []
    for chrom, start, end, strand in frame[PLACE].itertuples(index=False, name=None):
        sequence, cause = _cut_one(genome, contigs[chrom], start, end, strand)
        sequences.append(sequence)
        if cause:
            dropped[cause] += 1
    kept = [sequence != "" for sequence in sequences]
    return frame.assign(sequence=sequences)[kept]


def _read_class(path: Path) -> pd.DataFrame:
    """The coordinates of one class, named after its file."""
    label = class_of(path, path.name.removesuffix(_ENDING))
    return frame_of(read_table(path).intervals(), label)


def _check_references(task: Task, genome: Genome) -> None:
    """Refuses a genome whose chromosomes differ in length from those of a task's reference.

    Otherwise chr1 of one assembly, or of one species, would be cut at the coordinates of another
    without an error.
    """
    for reference in task.references.values():
        fault = _mismatch(reference.contigs, genome)
        if fault:
            wanted = [label for label, other in task.classes.items() if other == reference]
            raise InputError(
                f"{task.name}: its {listed(wanted)} sequences are cut from {reference.name} "
                f"({reference.description}), which {genome.path} is not ({fault}); give that "
                "genome, or the sequences"
            )


def _mismatch(lengths: Mapping[str, int], genome: Genome) -> str:
    """Says how a genome differs from a reference's chromosome lengths; "" if it may be that one."""
    found = {}
    for name in lengths:
        contig = _contig(name, genome.contigs)
        if contig is not None:
            found[name] = genome.contigs[contig]
    for name, length in found.items():
        if length != lengths[name]:
            return f"its {name} has {length:,} bases, not {lengths[name]:,}"
    # One matching chromosome is enough: people cut a genome down to the part that they need.
    if found or not lengths:
        return ""
    return f"it has no chromosome named like {next(iter(lengths))}"


def _contig(name: str, contigs: Mapping[str, int]) -> str | None:
    """The contig called `name`, with or without "chr"."""
    for alias in (name, f"chr{name}", name.removeprefix("chr")):
        if alias in contigs:
            return alias
    return None


def _cut_one(
    genome: Genome, contig: str | None, start: int, end: int, strand: str
) -> tuple[str, str]:
    """The sequence of an interval, or "" and the cause."""
    if contig is None:
        return "", "on a contig that the genome lacks"
    if not 0 <= start < end <= genome.contigs[contig]:
        return "", "outside of its contig"
    tokens = genome.tokens(contig, start, end, strand)
    # A genome with gaps would otherwise give other sequences than the benchmark publishes.
    if not DNA.scorable(tokens).all():
        return "", "on N"
    return DNA.decode(tokens), ""
