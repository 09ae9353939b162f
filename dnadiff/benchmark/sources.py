"""Where a task's sequences come from: a folder of text files, flat tables, or coordinates and a genome."""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from dnadiff.alphabet import DNA
from dnadiff.benchmark.tasks import Task
from dnadiff.errors import InputError
from dnadiff.genome.fasta import Genome

SPLITS = ("train", "test")
PLACE = ["chrom", "start", "end", "strand"]
WAYS = (
    "sequences are found with --data FOLDER, as TASK/{train,test}/CLASS/*.txt (what the genomic-benchmarks package of "
    "pip install 'dnadiff[benchmarks]' keeps in ~/.genomic_benchmarks, which is looked into without --data), or as "
    "tables TASK.{train,test}.{tsv,csv,parquet}[.gz] with the columns class and sequence, or as coordinates "
    "TASK/{train,test}/CLASS.csv.gz cut from --genome FASTA"
)

_TABLE = re.compile(r"(.+)\.(train|test)\.(tsv|csv|parquet)(\.gz)?")
_NOT_DNA = re.compile(f"[^{DNA.letters}{''.join(DNA.ambiguity)}]")
_LETTER = re.compile(f"[{DNA.letters}]")


@dataclass(frozen=True)
class Items:
    """The labelled sequences of one split.

    Attributes:
        sequences: n upper-case sequences, each with at least one known base.
        labels: (n,) int64, places in the task's sorted class names.
        places: n rows of chrom, start, end (0-based half-open) and strand where they are known, else None.
    """

    sequences: list[str]
    labels: np.ndarray
    places: pd.DataFrame | None = None

    def __len__(self) -> int:
        return len(self.sequences)


@dataclass(frozen=True)
class TaskData:
    """A task's sequences as found on this machine.

    Attributes:
        name: the task's name.
        classes: class names, sorted; a label is a place in them.
        train, test: the splits; at most one is None.
        dropped: why items were left out -> how many, over both splits.
        source: the folder or tables they were read from.
    """

    name: str
    classes: tuple[str, ...]
    train: Items | None
    test: Items | None
    dropped: Mapping[str, int]
    source: str


@dataclass(frozen=True)
class _Reading:
    """Splits as read: tables with the columns class and sequence, and those of PLACE where they are known."""

    frames: Mapping[str, pd.DataFrame]
    source: str
    dropped: Counter[str] = field(default_factory=Counter)


def find(task: Task, data: Path | None = None, genome: Genome | None = None) -> TaskData | None:
    """The sequences of `task`, from the first of these that is there: text files, flat tables, coordinates.

    Args:
        task: what to look for.
        data: a folder that holds tasks, or one task's own folder; without it, the genomic-benchmarks package's cache.
        genome: what coordinates are cut from.

    Returns:
        None if nothing of that name is there.

    Raises:
        InputError: naming the file or folder, if what is there cannot be used: one class, an empty table, letters that
            are not DNA, a missing column, classes that differ between the splits, or coordinates of another genome.
    """
    root = _root(data)
    folder = _folder(root, task.name)
    reading = (
        _read_texts(folder)
        or _read_tables(root, task.name)
        or _read_coordinates(task, folder, genome)
    )
    return None if reading is None else _assemble(task, reading)


def own_names(data: Path | None) -> list[str]:
    """Names of all tasks in the folder `data`, sorted; none without a folder.

    Raises:
        InputError: if `data` is not a folder.
    """
    root = _root(data)
    if not root.is_dir():
        return []
    inside = [*root.iterdir()]
    tables = {match[1] for path in inside if (match := _TABLE.fullmatch(path.name))}
    folders = {
        path.name
        for path in (root.resolve(), *inside)
        if any((path / split).is_dir() for split in SPLITS)
    }
    return sorted(tables | folders)


def _root(data: Path | None) -> Path:
    if data is None:
        return Path.home() / ".genomic_benchmarks"
    if not data.is_dir():
        what = (
            "is a file; give the folder that holds it"
            if data.exists()
            else "no such folder; check --data"
        )
        raise InputError(f"{data}: {what}")
    return data


def _folder(root: Path, name: str) -> Path:
    """The folder of the task `name`: inside `root`, or `root` itself."""
    inside = root / name
    return root if root.resolve().name == name and not inside.is_dir() else inside


def _read_texts(folder: Path) -> _Reading | None:
    """Package layout: folder/{train,test}/CLASS/*.txt, one sequence each."""
    classes = {split: _class_folders(folder / split) for split in SPLITS}
    if not any(classes.values()):
        return None
    frames = {
        split: pd.concat(map(_read_class, found)) for split, found in classes.items() if found
    }
    return _Reading(frames, str(folder))


def _class_folders(split: Path) -> list[Path]:
    if not split.is_dir():
        return []
    return sorted(
        path for path in split.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _read_class(folder: Path) -> pd.DataFrame:
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise InputError(
            f"{folder}: no .txt file in it; a class folder holds one file for each sequence"
        )
    texts = ["".join(path.read_text(encoding="utf-8", errors="replace").split()) for path in files]
    return pd.DataFrame({"class": folder.name, "sequence": _dna(texts, lambda i: str(files[i]))})


def _read_tables(root: Path, name: str) -> _Reading | None:
    """Flat tables: root/NAME.{train,test}.{tsv,csv,parquet}[.gz]."""
    if not root.is_dir():
        return None
    paths: dict[str, Path] = {}
    for path in sorted(root.iterdir()):
        match = _TABLE.fullmatch(path.name)
        if match is None or match[1] != name:
            continue
        if match[2] in paths:
            raise InputError(
                f"{path}: a second {match[2]} table beside {paths[match[2]].name}; remove one"
            )
        paths[match[2]] = path
    return (
        _Reading({s: _read_table(p) for s, p in paths.items()}, _listed(paths.values()))
        if paths
        else None
    )


def _read_table(path: Path) -> pd.DataFrame:
    """The columns class and sequence of a table, whatever their order and case."""
    frame = _columns(_raw_table(path), ("class", "sequence"), path).fillna("").astype(str)
    unnamed = np.flatnonzero(frame["class"] == "")
    if unnamed.size:
        raise InputError(f"{path}: row {unnamed[0] + 1} has no class; name it or remove the row")
    return frame.assign(
        sequence=_dna(frame["sequence"].str.strip(), lambda i: f"{path}: row {i + 1}")
    )


def _raw_table(path: Path) -> pd.DataFrame:
    """A table as it stands, its text columns as text.

    Raises:
        InputError: if it cannot be read or has no rows.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as handle:
            if ".parquet" in path.suffixes:
                frame = pd.read_parquet(handle)
            else:
                separator = "\t" if ".tsv" in path.suffixes else ","
                frame = pd.read_csv(handle, sep=separator, dtype=str, keep_default_na=False)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(
            f"{path}: cannot be read as a table ({str(error).splitlines()[0]}); is it whole?"
        ) from error
    if frame.empty:
        raise InputError(f"{path}: no rows; fill the table or remove it")
    return frame


def _columns(frame: pd.DataFrame, names: Sequence[str], path: Path) -> pd.DataFrame:
    """The columns `names` of a table, found without regard to case."""
    found = {str(column).strip().lower(): column for column in frame.columns}
    missing = [name for name in names if name not in found]
    if missing:
        raise InputError(
            f"{path}: no column {' and no column '.join(missing)} among {', '.join(map(str, frame.columns))}; "
            "name the columns in the first line"
        )
    return frame[[found[name] for name in names]].set_axis(list(names), axis=1)


def _dna(sequences: Iterable[str], where: Callable[[int], str]) -> list[str]:
    """The sequences in upper case.

    Raises:
        InputError: starting with ``where(i)`` for the first sequence i that is empty or is not DNA.
    """
    upper = [sequence.upper() for sequence in sequences]
    for i, sequence in enumerate(upper):
        if not sequence:
            raise InputError(f"{where(i)}: empty sequence; fill it in or remove it")
        if odd := _NOT_DNA.search(sequence):
            raise InputError(
                f"{where(i)}: {odd[0]!r} at position {odd.start() + 1} is not a letter of DNA; correct or remove it"
            )
    return upper


def _read_coordinates(task: Task, folder: Path, genome: Genome | None) -> _Reading | None:
    """Package layout of coordinates: folder/{train,test}/CLASS.csv.gz with id, region, start, end, strand."""
    files = {split: sorted((folder / split).glob("*.csv.gz")) for split in SPLITS}
    if not any(files.values()):
        return None
    if genome is None:
        needed = _listed(
            f"{reference.name}, {reference.description}" for reference in task.references.values()
        )
        raise InputError(
            f"{folder}: only coordinates; give the genome they are cut from ({needed or '?'}) as --genome"
        )
    _check_references(task, genome)
    reading = _Reading({}, str(folder))
    frames = {split: pd.concat(map(_read_places, found)) for split, found in files.items() if found}
    cut = {split: _cut(frame, genome, reading.dropped) for split, frame in frames.items()}
    return _Reading(cut, reading.source, reading.dropped)


def _check_references(task: Task, genome: Genome) -> None:
    """Refuses a genome that has a chromosome of the right name and another length, or none of the right name.

    chr1 of one assembly, or of one species, would otherwise be cut at the coordinates of another without a complaint.
    """
    for reference in task.references.values():
        lengths = {
            name: genome.contigs.get(_contig(name, genome.contigs) or "")
            for name in reference.contigs
        }
        other = [
            name
            for name, length in lengths.items()
            if length not in (None, reference.contigs[name])
        ]
        if not other and (any(lengths.values()) or not lengths):
            continue
        fault = (
            f"its {other[0]} has {lengths[other[0]]:,} bases, not {reference.contigs[other[0]]:,}"
            if other
            else f"it has no chromosome named like {next(iter(lengths))}"
        )
        classes = _listed(label for label, wanted in task.classes.items() if wanted == reference)
        raise InputError(
            f"{task.name}: its {classes} sequences are cut from {reference.name} ({reference.description}), which "
            f"{genome.path} is not ({fault}); give that genome, or the sequences"
        )


def _contig(name: str, contigs: Mapping[str, int]) -> str | None:
    """The contig called `name`, with or without "chr"."""
    return next(
        (alias for alias in (name, f"chr{name}", name.removeprefix("chr")) if alias in contigs),
        None,
    )


def _read_places(path: Path) -> pd.DataFrame:
    """class, chrom, start, end, strand of a file of coordinates. The class is the file's name."""
    raw = _raw_table(path)
    frame = _columns(raw, ("region", "start", "end"), path).set_axis(PLACE[:3], axis=1)
    has_strand = "strand" in {str(column).strip().lower() for column in raw.columns}
    strand = (
        _columns(raw, ["strand"], path)["strand"].fillna("")
        if has_strand
        else pd.Series("", frame.index)
    )
    odd = ~strand.isin(["+", "-", ""]) | ~frame[["start", "end"]].apply(_is_number).all(axis=1)
    if odd.any():
        row = int(np.argmax(odd))
        raise InputError(
            f"{path}: row {row + 1} ({', '.join(map(str, raw.iloc[row]))}) is not a region, start, end and strand"
        )
    frame = frame.astype({"start": np.int64, "end": np.int64})
    return frame.assign(
        strand=strand.replace("", "+"), **{"class": path.name.removesuffix(".csv.gz")}
    )


def _is_number(column: pd.Series) -> pd.Series:
    return column.astype(str).str.fullmatch(r"-?\d{1,18}")


def _cut(frame: pd.DataFrame, genome: Genome, dropped: Counter[str]) -> pd.DataFrame:
    """The rows whose sequence the genome has, with that sequence; the others are counted in `dropped` by cause."""
    contigs = {name: _contig(name, genome.contigs) for name in frame["chrom"].unique()}
    sequences = []
    for chrom, start, end, strand in frame[PLACE].itertuples(index=False, name=None):
        sequence, cause = _cut_one(genome, contigs[chrom], start, end, strand)
        sequences.append(sequence)
        if cause:
            dropped[cause] += 1
    return frame.assign(sequence=sequences)[[sequence != "" for sequence in sequences]]


def _cut_one(
    genome: Genome, contig: str | None, start: int, end: int, strand: str
) -> tuple[str, str]:
    """The sequence, or nothing and the cause."""
    if contig is None:
        return "", "on a contig that the genome lacks"
    if not 0 <= start < end <= genome.contigs[contig]:
        return "", "outside of its contig"
    tokens = genome.tokens(contig, start, end, strand)
    return (DNA.decode(tokens), "") if bool(DNA.scorable(tokens).all()) else ("", "on N")


def _assemble(task: Task, reading: _Reading) -> TaskData:
    """Labels by sorted class name, after the checks that concern whole splits."""
    frames = {split: _known(frame, reading.dropped) for split, frame in reading.frames.items()}
    present = {split: tuple(sorted(frame["class"].unique())) for split, frame in frames.items()}
    for split, classes in present.items():
        if len(classes) < 2:
            what = f"only the class {classes[0]}" if classes else "no sequence"
            raise InputError(
                f"{reading.source}: {split} has {what}{_lost(task, reading, classes)}; two classes are needed"
            )
    if len(set(present.values())) > 1:
        told = " but those of ".join(
            f"{split} are {', '.join(classes)}" for split, classes in present.items()
        )
        raise InputError(f"{reading.source}: the classes of {told}; give both splits the same")
    classes = next(iter(present.values()))
    items = {split: _items(frame, classes) for split, frame in frames.items()}
    return TaskData(
        task.name,
        classes,
        items.get("train"),
        items.get("test"),
        dict(reading.dropped),
        reading.source,
    )


def _lost(task: Task, reading: _Reading, classes: tuple[str, ...]) -> str:
    """What was dropped, and what the classes that are left without a sequence would need."""
    if not reading.dropped:
        return ""
    causes = _listed(f"{count:,} {cause}" for cause, count in reading.dropped.items())
    needs = [
        f"{label} needs {reference.description}"
        for label, reference in task.classes.items()
        if label not in classes
    ]
    return f" ({causes} were dropped{''.join(f'; {need}' for need in needs)})"


def _known(frame: pd.DataFrame, dropped: Counter[str]) -> pd.DataFrame:
    """The rows that have a known base."""
    known = (
        frame["sequence"].map(lambda sequence: _LETTER.search(sequence) is not None).astype(bool)
    )
    if not known.all():
        dropped["without a known base"] += int((~known).sum())
    return frame[known]


def _items(frame: pd.DataFrame, classes: tuple[str, ...]) -> Items:
    labels = pd.Categorical(frame["class"], categories=list(classes)).codes.astype(np.int64)
    places = frame[PLACE].reset_index(drop=True) if "chrom" in frame else None
    return Items(frame["sequence"].tolist(), labels, places)


def _listed(words: Iterable[object]) -> str:
    return " and ".join(map(str, words))
