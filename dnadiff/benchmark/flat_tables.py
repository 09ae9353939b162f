"""Tasks as flat tables: one for each split."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pandas as pd

from dnadiff.benchmark.coordinates import cut, frame_of
from dnadiff.benchmark.items import Reading, listed
from dnadiff.benchmark.tasks import Task
from dnadiff.errors import InputError
from dnadiff.genome.fasta import Genome
from dnadiff.genome.tables import read_table

_NAME = re.compile(r"(.+)\.(train|test)\.(?:tsv|csv|parquet)(?:\.gz)?", re.IGNORECASE)


def read_flat_tables(root: Path, task: Task, genome: Genome | None) -> Reading | None:
    """Reads ``root/NAME.{train,test}.{tsv,csv,parquet}[.gz]``, suffixes in any letter case.

    Args:
        root: the folder of the tables.
        task: its name is looked for.
        genome: what intervals are cut from, in tables that have no column of sequences.

    Returns:
        None if there is no table of that name.

    Raises:
        InputError: naming the table, and the line where there is one, if it cannot be used (see
            `read_table`) or if there are two of one split.
    """
    paths = _paths(root, task.name)
    if not paths:
        return None
    dropped: Counter[str] = Counter()
    frames = {split: _read(path, task, genome, dropped) for split, path in paths.items()}
    return Reading(frames, listed(paths.values()), dropped)


def table_names(root: Path) -> set[str]:
    """Returns the names of all tasks that have a table in the folder `root`."""
    matches = [_NAME.fullmatch(path.name) for path in root.iterdir()]
    return {match[1] for match in matches if match}


def _paths(root: Path, name: str) -> dict[str, Path]:
    """Returns the table of each split that has one."""
    if not root.is_dir():
        return {}
    paths: dict[str, Path] = {}
    # Sorted, so that an error about two tables names the same one on every file system.
    for path in sorted(root.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match is None or match[1] != name:
            continue
        split = match[2].lower()
        if split in paths:
            raise InputError(
                f"{path}: a second {split} table beside {paths[split].name}; remove one"
            )
        paths[split] = path
    return paths


def _read(path: Path, task: Task, genome: Genome | None, dropped: Counter[str]) -> pd.DataFrame:
    """Reads the class and sequence of each row of a table, and its place if cut from a genome."""
    table = read_table(path)
    labels = table.labels()
    # The sequence column comes first: a table may have both, and what it spells out needs no
    # genome.
    if table.has_sequences or not table.has_intervals:
        return pd.DataFrame({"class": labels, "sequence": table.sequences()})
    return cut(frame_of(table.intervals(), labels), path, task, genome, dropped)
