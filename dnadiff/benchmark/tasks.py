"""The registry of classification tasks, and how the names on a command line find them."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import yaml

from dnadiff.benchmark.escape import printable
from dnadiff.errors import UsageError
from dnadiff.files import resource

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reference:
    """An assembly that coordinates belong to.

    Attributes:
        name: short name, e.g. hg38.
        description: what it is, in words.
        contigs: length in bases of its main chromosomes, by which it is recognised; empty where it
            has none.
    """

    name: str
    description: str
    contigs: Mapping[str, int]


@dataclass(frozen=True)
class Task:
    """A classification task. For a user's own task only the name is known, all else is empty.

    Attributes:
        name: name of its folder and of its tables.
        classes: class -> the reference of its coordinates; a class id is the position of its name
            in sorted order.
        rows: split (train, test) -> class -> published number of sequences.
        length: shortest, median and longest sequence, in bases.
        faults: what is known to be wrong with it, a line each.
        published: model -> published top-1 accuracy, obtained as `published_source` says.
        published_source: where `published` comes from and how it was obtained.
    """

    name: str
    classes: Mapping[str, Reference] = field(default_factory=dict)
    rows: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    length: Mapping[str, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    published: Mapping[str, float] = field(default_factory=dict)
    published_source: str = ""

    def published_rows(self, split: str) -> int | None:
        """Returns the published number of sequences of a split, or None for a user's own task."""
        return sum(self.rows[split].values()) if self.rows else None

    @property
    def references(self) -> dict[str, Reference]:
        """The references that its coordinates need, by name."""
        return {reference.name: reference for reference in self.classes.values()}


def registry() -> dict[str, Task]:
    """Reads the nine Genomic Benchmarks tasks, by name, from ``data/tasks.yaml``."""
    shipped = yaml.safe_load(resource("data", "tasks.yaml").read_text(encoding="utf-8"))
    references = {name: Reference(name, **entry) for name, entry in shipped["references"].items()}
    tasks = {}
    for name, entry in shipped["tasks"].items():
        # Sorted, since a class id is a position among the sorted names.
        classes = {}
        for label, reference in sorted(entry["classes"].items()):
            classes[label] = references[reference]
        tasks[name] = Task(
            name=name,
            classes=classes,
            rows=entry["rows"],
            length=entry["length"],
            faults=tuple(entry.get("faults", ())),
            published=entry.get("published", {}),
            published_source=shipped["published_source"],
        )
    return tasks


def resolve(names: Iterable[str], own: Iterable[str] = ()) -> list[Task]:
    """Finds the tasks that `names` stand for: a task's name, a common beginning, or ``all``.

    Logs which tasks a beginning stands for.

    Args:
        names: what the user asked for.
        own: names of the user's own tasks, found in a data folder; they count as known.

    Raises:
        UsageError: for a name that nothing matches, with the nearest that are known; if there are
            no names.
    """
    # The registry takes precedence: what is known of a published task holds for a user's copy of
    # it.
    known = {name: Task(name) for name in own} | registry()
    chosen = [known[match] for name in names for match in _matches(name, sorted(known))]
    if not chosen:
        every = printable(", ".join(sorted(known)))
        raise UsageError(f"no task was named; choose among {every}, or all")
    # Two names may stand for the same task; it runs once, where it came first.
    return list({task.name: task for task in chosen}.values())


def _matches(name: str, known: list[str]) -> list[str]:
    """Returns the known names that `name` stands for; a full name stands for itself alone."""
    if name in known:
        return [name]
    if name == "all":
        return known
    matches = [other for other in known if name and other.startswith(name)]
    if not matches:
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
        raise UsageError(
            f"{name!r}: no such task; the nearest are {printable(', '.join(nearest))} (all runs "
            "every one)"
        )
    logger.info("%s stands for %s", printable(name), printable(" and ".join(matches)))
    return matches
