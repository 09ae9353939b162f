"""Who is fitted on what and scored on what: the official split, or grouped folds inside the only split there is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dnadiff.benchmark.folds import assign, groups, spread
from dnadiff.benchmark.sources import SPLITS, Items, TaskData
from dnadiff.benchmark.tasks import Task
from dnadiff.errors import InputError

OFFICIAL = "official train and test"
TRAIN_ONLY = -1


@dataclass(frozen=True)
class Plan:
    """The items of a task, and for each the model that scores it.

    Attributes:
        classes: class names, sorted.
        sequences: n sequences.
        labels: (n,) class ids.
        components: (n,) which sequences are joined by shared 31-mers.
        fold: (n,) the fold that an item is scored in, by a model fitted on all items of other folds; or TRAIN_ONLY.
        split: what the split is, in words; OFFICIAL only for the complete published one.
        notes: what a reader of the numbers must know, a phrase each.
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
        """For each fold: indices of the items to fit on, and of the items to score."""
        for fold in range(self.folds):
            yield np.flatnonzero(self.fold != fold), np.flatnonzero(self.fold == fold)


def make_plan(
    task: Task, data: TaskData, *, folds: int = 5, seed: int = 0, max_items: int | None = None
) -> Plan:
    """The task's own train and test if both are there, else `folds` folds inside the one that is, grouped.

    Args:
        task: its published numbers of rows tell whether the split is complete.
        data: the sequences.
        folds: how many folds, where there is only one split.
        seed: of the folds, and of the sample.
        max_items: score and fit on a random sample of about so many items of each split.

    Raises:
        InputError: if the sequences cannot be divided so that every part has every class.
    """
    splits = {name: items for name in SPLITS if (items := getattr(data, name)) is not None}
    kept = {
        name: spread(items.labels, max_items or len(items), seed) for name, items in splits.items()
    }
    sequences = [splits[name].sequences[i] for name in splits for i in kept[name]]
    labels = np.concatenate([splits[name].labels[kept[name]] for name in splits])
    components = groups(sequences)
    state = _state(
        task, splits, sampled=any(len(kept[name]) < len(splits[name]) for name in splits)
    )
    if len(splits) == 2:
        fold = np.repeat([TRAIN_ONLY, 0], [len(kept[name]) for name in SPLITS])
        split = f"{state} train and test"
    else:
        fold = assign(labels, components, folds, seed)
        split = f"{folds} grouped folds inside the {state} {next(iter(splits))} split"
    notes = (*_counts(task, data, splits, kept), *_overlap(components, labels, fold))
    places = _places([(items, kept[name]) for name, items in splits.items()])
    result = Plan(data.classes, sequences, labels, components, fold, split, notes, places)
    _check(result, data.source, folds)
    return result


def _places(splits: list[tuple[Items, np.ndarray]]) -> pd.DataFrame | None:
    """The places of the kept items of each split, or None where one split's are not known."""
    known = [items.places.iloc[kept] for items, kept in splits if items.places is not None]
    return pd.concat(known, ignore_index=True) if len(known) == len(splits) else None


def _state(task: Task, splits: dict[str, Items], *, sampled: bool) -> str:
    if sampled:
        return "sampled"
    if not task.rows:
        return "given"
    return (
        "official"
        if all(len(items) == task.published_rows(name) for name, items in splits.items())
        else "incomplete"
    )


def _counts(
    task: Task, data: TaskData, splits: dict[str, Items], kept: dict[str, np.ndarray]
) -> Iterator[str]:
    for name, items in splits.items():
        published = task.published_rows(name) or len(items)
        if len(items) != published:
            yield f"{name} has {len(items):,} of the {published:,} published sequences"
        if len(kept[name]) < len(items):
            yield f"random sample of {len(kept[name]):,} of {len(items):,} {name} sequences"
    for cause, count in data.dropped.items():
        yield f"{count:,} items {cause} were dropped"


def _overlap(components: np.ndarray, labels: np.ndarray, fold: np.ndarray) -> Iterator[str]:
    """What shared 31-mers mean for these folds."""
    largest = np.bincount(components).max() / len(components)
    yield f"the largest group of sequences that share 31-mers holds {largest:.1%} of them"
    if (fold == TRAIN_ONLY).any():
        linked = np.isin(components[fold != TRAIN_ONLY], components[fold == TRAIN_ONLY]).mean()
        yield f"{linked:.1%} of the test sequences are in a group with a training sequence"
        return
    counts = np.array(
        [np.bincount(labels[fold == i], minlength=labels.max() + 1) for i in np.unique(fold)]
    )
    shares = counts / counts.sum(1, keepdims=True)
    if largest > 1.5 / len(counts):
        yield f"the folds are unequal: the largest holds {counts.sum(1).max() / len(fold):.1%}"
    if (uneven := np.ptp(shares, axis=0).max()) > 0.02:
        yield (
            f"the share of a class differs by up to {uneven:.1%} between folds, because groups stay whole: "
            "the commonest class outside of a fold may be the rarer one in it"
        )


def _check(result: Plan, source: str, folds: int) -> None:
    """Refuses folds that are empty and training parts that lack a class."""
    if result.folds not in (1, folds):
        raise _indivisible(result, source, folds)
    for train, test in result.parts():
        if not test.size or len(np.unique(result.labels[train])) < len(result.classes):
            raise _indivisible(result, source, folds)


def _indivisible(result: Plan, source: str, folds: int) -> InputError:
    return InputError(
        f"{source}: {len(result.labels):,} sequences in {len(np.unique(result.components)):,} groups that share no "
        f"31-mer cannot be divided into {folds} folds with every class outside of each; use fewer --folds or more data"
    )
