"""Finds a task's sequences: text files, flat tables, or coordinates and a genome."""

from __future__ import annotations

from pathlib import Path

from dnadiff.benchmark.coordinates import read_coordinates
from dnadiff.benchmark.flat_tables import read_flat_tables, table_names
from dnadiff.benchmark.items import SPLITS, TaskData, assemble
from dnadiff.benchmark.tasks import Task
from dnadiff.benchmark.text_folders import read_text_folders
from dnadiff.errors import InputError
from dnadiff.genome.fasta import Genome

LAYOUTS = (
    "a data folder holds sequences as TASK/{train,test}/CLASS/*.txt (what the genomic-benchmarks "
    "package of pip install "
    "'dnadiff[benchmarks]' keeps in ~/.genomic_benchmarks, which is searched if no data folder is "
    "given), or tables "
    "TASK.{train,test}.{tsv,csv,parquet}[.gz] with the columns label and sequence, or "
    "coordinates "
    "TASK/{train,test}/CLASS.csv.gz that are cut from a genome"
)
"""The layouts that `find` knows, for a message to those whose data was not found."""


def find(task: Task, data: Path | None = None, genome: Genome | None = None) -> TaskData | None:
    """Reads a task's sequences from the first that is there: text files, tables, coordinates.

    Args:
        task: what to look for.
        data: a folder that holds tasks, or one task's own folder; without it, the
            genomic-benchmarks package's cache.
        genome: what coordinates are cut from.

    Returns:
        None if nothing of that name is there.

    Raises:
        InputError: naming the file or folder, if what is there cannot be used: one class, an empty
            table, letters that are not DNA, a missing column, classes that differ between the
            splits, or coordinates of another genome.
    """
    root = _root(data)
    folder = _folder(root, task.name)
    # Text first: it needs no genome, and is exactly what was published.
    reading = (
        read_text_folders(folder)
        or read_flat_tables(root, task, genome)
        or read_coordinates(folder, task, genome)
    )
    return None if reading is None else assemble(task, reading)


def own_names(data: Path | None) -> list[str]:
    """Returns the names of all tasks in the folder `data`, or in the package's cache, sorted.

    Raises:
        InputError: if `data` is not a folder.
    """
    root = _root(data)
    if not root.is_dir():
        return []
    folders = set()
    # `data` may be one task's own folder, so that it is looked at as well as what it holds.
    for path in (root.resolve(), *root.iterdir()):
        if any((path / split).is_dir() for split in SPLITS):
            folders.add(path.name)
    return sorted(table_names(root) | folders)


def _root(data: Path | None) -> Path:
    """Returns the folder that holds tasks."""
    if data is None:
        return Path.home() / ".genomic_benchmarks"
    if not data.is_dir():
        fault = "is a file; give the folder that holds it" if data.exists() else "no such folder"
        raise InputError(f"{data}: {fault}")
    return data


def _folder(root: Path, name: str) -> Path:
    """Returns the folder of the task `name`: inside `root`, or `root` itself."""
    inside = root / name
    return root if root.resolve().name == name and not inside.is_dir() else inside
