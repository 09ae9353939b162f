"""Which items are fitted on and which are scored: the official split, or grouped folds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dnadiff.benchmark.folds import assign, groups, spread
from dnadiff.benchmark.items import SPLITS, Items, TaskData
from dnadiff.benchmark.tasks import Task
from dnadiff.errors import InputError

OFFICIAL = "official train and test"
TRAIN_ONLY = -1

_MAX_CLASS_DIFFERENCE = 0.02  # between folds; above it, the plan's notes say so
_MAX_GROUP_PER_FOLD = 1.5  # size of a group in folds of equal size; likewise


@dataclass(frozen=True)
class Plan:
    """The items of a task, and which model scores each.

    Attributes:
        classes: class names, sorted.
        sequences: n sequences.
        labels: (n,) class ids.
        components: (n,) which sequences are joined by shared 31-mers.
        fold: (n,) the fold that an item is scored in, by a model fitted on all items of other
            folds; or TRAIN_ONLY.
        split: what the split is, in words; OFFICIAL only for the complete published one.
        notes: what a reader of the numbers must know, one phrase each.
        places: n rows of chrom, start, end and strand where they are known of all items, else None.
    """

    classes: tuple[str, ...]
    sequences: list[str]
    labels: np.ndarray
    components: np.ndarray
    fold: np.ndarray
    split: str
    notes: tuple[str, ...]
    places: pd.DataFrame | None = None

    @property
    def scored(self) -> np.ndarray:
        """(n,) bool: the items that are scored."""
        return self.fold != TRAIN_ONLY

    @property
    def folds(self) -> int:
        """Number of models fitted."""
        return int(self.fold.max()) + 1

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields, for each fold, the indices of the items to fit on and of the items to score."""
        for fold in range(self.folds):
            yield np.flatnonzero(self.fold != fold), np.flatnonzero(self.fold == fold)


def make_plan(
    task: Task, data: TaskData, *, folds: int = 5, seed: int = 0, max_items: int | None = None
) -> Plan:
    """Takes a task's own train and test if both are there, else makes grouped folds in the one.

    Args:
        task: its published numbers of rows decide whether the split is complete.
        data: the sequences.
        folds: number of folds if there is only one split.
        seed: of the folds, and of the sample.
        max_items: score and fit on a random sample of about this many items of each split.

    Raises:
        InputError: if the sequences cannot be divided so that every part has every class.
    """
    splits = {name: items for name in SPLITS if (items := getattr(data, name)) is not None}
    kept = {}
    for name, items in splits.items():
        kept[name] = spread(items.labels, max_items or len(items), seed)
    sequences = [splits[name].sequences[i] for name in splits for i in kept[name]]
    labels = np.concatenate([splits[name].labels[kept[name]] for name in splits])
    # Groups are found over both splits, so that the notes can say how many test sequences have
    # relatives in train.
    components = groups(sequences)

    state = _state(task, splits, kept)
    if len(splits) == len(SPLITS):
        fold = np.repeat([TRAIN_ONLY, 0], [len(kept[name]) for name in SPLITS])
        split = f"{state} train and test"
    else:
        fold = assign(labels, components, folds, seed)
        split = f"{folds} grouped folds inside the {state} {next(iter(splits))} split"

    notes = (*_counts(task, data, splits, kept), *_overlap(components, labels, fold))
    places = _places(splits, kept)
    result = Plan(data.classes, sequences, labels, components, fold, split, notes, places)
    _check(result, data.source, folds)
    return result


def _places(splits: Mapping[str, Items], kept: Mapping[str, np.ndarray]) -> pd.DataFrame | None:
    """Returns the places of the kept items of all splits, or None if a split has none."""
    parts = []
    for name, items in splits.items():
        # A baseline on places must know those of all items, to fit on and to score.
        if items.places is None:
            return None
        parts.append(items.places.iloc[kept[name]])
    return pd.concat(parts, ignore_index=True)


def _state(task: Task, splits: Mapping[str, Items], kept: Mapping[str, np.ndarray]) -> str:
    """Returns one word on how the splits compare with the published ones."""
    # A sample of a complete split is not the benchmark either.
    if any(len(kept[name]) < len(items) for name, items in splits.items()):
        return "sampled"
    if not task.rows:
        return "given"
    complete = all(len(items) == task.published_rows(name) for name, items in splits.items())
    return "official" if complete else "incomplete"


def _counts(
    task: Task, data: TaskData, splits: Mapping[str, Items], kept: Mapping[str, np.ndarray]
) -> Iterator[str]:
    """Yields notes on sequences that are missing, left out of a sample, or dropped."""
    for name, items in splits.items():
        published = task.published_rows(name) or len(items)
        if len(items) != published:
            yield f"{name} has {len(items):,} of the {published:,} published sequences"
        if len(kept[name]) < len(items):
            yield f"random sample of {len(kept[name]):,} of {len(items):,} {name} sequences"
    for cause, count in data.dropped.items():
        yield f"{count:,} items {cause} were dropped"


def _overlap(components: np.ndarray, labels: np.ndarray, fold: np.ndarray) -> Iterator[str]:
    """Yields notes on what shared 31-mers mean for these folds."""
    # Components are those of `groups`: 0, 1, ... without gaps.
    largest = np.bincount(components).max() / len(components)
    yield f"the largest group of sequences that share 31-mers holds {largest:.1%} of them"
    train_only = fold == TRAIN_ONLY
    if train_only.any():
        linked = np.isin(components[~train_only], components[train_only]).mean()
        yield f"{linked:.1%} of the test sequences are in a group with a training sequence"
        return

    classes = labels.max() + 1
    counts = np.array([np.bincount(labels[fold == i], minlength=classes) for i in np.unique(fold)])
    shares = counts / counts.sum(1, keepdims=True)
    if largest > _MAX_GROUP_PER_FOLD / len(counts):
        yield f"the folds are unequal: the largest holds {counts.sum(1).max() / len(fold):.1%}"
    uneven = np.ptp(shares, axis=0).max()
    if uneven > _MAX_CLASS_DIFFERENCE:
        yield (
            f"the share of a class differs by up to {uneven:.1%} between folds, because groups "
            "stay whole: "
            "the most frequent class outside of a fold may be the rarer one in it"
        )


def _check(result: Plan, source: str, folds: int) -> None:
    """Refuses empty folds, and training parts that lack a class."""
    # Fewer folds than asked for: there were not enough groups.
    sound = result.folds in (1, folds)
    for train, test in result.parts():
        missing = len(np.unique(result.labels[train])) < len(result.classes)
        sound = sound and test.size > 0 and not missing
    if not sound:
        count = len(np.unique(result.components))
        raise InputError(
            f"{source}: {len(result.labels):,} sequences in {count:,} groups that share no 31-mer "
            "cannot be divided "
            f"into {folds} folds with every class outside of each; use fewer folds or more data"
        )
