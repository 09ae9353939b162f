"""The labelled sequences of a task, whatever layout they were read from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from dnadiff.alphabet import DNA
from dnadiff.benchmark.escape import printable
from dnadiff.benchmark.tasks import Task
from dnadiff.errors import InputError

SPLITS = ("train", "test")
PLACE = ["chrom", "start", "end", "strand"]
_BASE = re.compile(f"[{DNA.letters}]")


@dataclass(frozen=True)
class Items:
    """The labelled sequences of one split.

    Attributes:
        sequences: n upper-case sequences, each with at least one known base.
        labels: (n,) int64, class ids: positions in the task's sorted class names.
        places: n rows of chrom, start, end (0-based half-open) and strand where they are known,
            else None.
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
        classes: class names, sorted; a class id is a position among them.
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
class Reading:
    """The splits of a task as a layout's reader returns them.

    Attributes:
        frames: split -> a table with the columns class and sequence, and those of PLACE where they
            are known.
        source: the folder or tables they were read from.
        dropped: why items were left out -> how many.
    """

    frames: Mapping[str, pd.DataFrame]
    source: str
    dropped: Counter[str] = field(default_factory=Counter)


def assemble(task: Task, reading: Reading) -> TaskData:
    """Drops sequences without a known base, and numbers the classes by name.

    Raises:
        InputError: naming the source, if a split has fewer than two classes or the splits have
            different ones.
    """
    dropped = Counter(reading.dropped)
    frames = {split: _known(frame, dropped) for split, frame in reading.frames.items()}
    # After dropping, since a class may have lost all of its sequences.
    present = {split: tuple(sorted(frame["class"].unique())) for split, frame in frames.items()}
    for split, classes in present.items():
        if len(classes) < 2:
            found = f"only the class {classes[0]}" if classes else "no sequence"
            lost = _lost(task, dropped, classes)
            raise InputError(f"{reading.source}: {split} has {found}{lost}; two classes are needed")

    # A class id is a position among the names, so that other names in one split would shift the
    # ids.
    if len(set(present.values())) > 1:
        each = [f"{split} are {', '.join(classes)}" for split, classes in present.items()]
        raise InputError(
            f"{reading.source}: the classes of {' but those of '.join(each)}; give both splits the "
            "same"
        )
    classes = next(iter(present.values()))
    items = {split: _items(frame, classes) for split, frame in frames.items()}
    return TaskData(
        task.name, classes, items.get("train"), items.get("test"), dict(dropped), reading.source
    )


def class_of(path: Path, name: str) -> str:
    """Returns the name of a class that a folder or file is called by.

    Raises:
        InputError: if it has a character that cannot be printed.
    """
    # Class names go into tables and pages, where an ESC or a line break would be acted upon.
    if not name.isprintable():
        raise InputError(
            f"{printable(path)}: its class has a character that cannot be printed; rename it"
        )
    return name


def listed(words: Iterable[object]) -> str:
    """Joins words for a message: "a and b"."""
    return " and ".join(map(str, words))


def _lost(task: Task, dropped: Counter[str], classes: tuple[str, ...]) -> str:
    """Says what was dropped, and which references the classes without sequences need."""
    if not dropped:
        return ""
    causes = listed(f"{count:,} {cause}" for cause, count in dropped.items())
    needs = ""
    for label, reference in task.classes.items():
        if label not in classes:
            needs += f"; {label} needs {reference.description}"
    return f" ({causes} were dropped{needs})"


def _known(frame: pd.DataFrame, dropped: Counter[str]) -> pd.DataFrame:
    """Returns the rows that have a known base, and counts the others in `dropped`."""
    known = np.array([_BASE.search(sequence) is not None for sequence in frame["sequence"]], bool)
    if not known.all():
        dropped["without a known base"] += int((~known).sum())
    return frame[known]


def _items(frame: pd.DataFrame, classes: tuple[str, ...]) -> Items:
    """Returns the items of one split."""
    labels = pd.Categorical(frame["class"], categories=list(classes)).codes.astype(np.int64)
    places = frame[PLACE].reset_index(drop=True) if "chrom" in frame else None
    return Items(frame["sequence"].tolist(), labels, places)
