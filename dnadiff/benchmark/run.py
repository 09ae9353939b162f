"""The whole benchmark: tasks by name, models and baselines, one table."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from dnadiff.benchmark import table
from dnadiff.benchmark.baselines import BASELINES
from dnadiff.benchmark.escape import printable
from dnadiff.benchmark.metrics import score
from dnadiff.benchmark.plan import Plan
from dnadiff.benchmark.probe import LINEAR
from dnadiff.benchmark.protocol import Embed, EvaluationProtocol, Progress, out_of_fold
from dnadiff.benchmark.sources import LAYOUTS, find, own_names
from dnadiff.benchmark.tasks import Task, resolve
from dnadiff.errors import InputError, UsageError
from dnadiff.files import empty_folder
from dnadiff.genome.fasta import Genome

logger = logging.getLogger(__name__)

_NOT_FOUND = "not found"
PROTOCOLS: Mapping[str, EvaluationProtocol] = MappingProxyType({LINEAR.name: LINEAR})


@dataclass(frozen=True)
class Options:
    """How tasks are divided, and what is run on them.

    Attributes:
        protocol: name among PROTOCOLS.
        baselines: names among BASELINES; all of them unless given.
        folds: number of folds where a task has only one split.
        max_items: take a random sample of about this many items of each split; all items if None.
        seed: of folds, samples and intervals; not negative.

    Raises:
        UsageError: for an unknown baseline or protocol, or numbers out of range.
    """

    protocol: str = LINEAR.name
    baselines: Sequence[str] = tuple(BASELINES)
    folds: int = 5
    max_items: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.baselines:
            if name not in BASELINES:
                raise UsageError(f"{name!r}: no such baseline; choose among {', '.join(BASELINES)}")
        if self.protocol not in PROTOCOLS:
            raise UsageError(
                f"{self.protocol!r}: no such protocol; choose among {', '.join(PROTOCOLS)}"
            )
        if self.folds < 2:
            raise UsageError(f"folds must be at least 2, got {self.folds}")
        if self.seed < 0:
            raise UsageError(f"seed must not be negative, got {self.seed}")
        if self.max_items is not None and self.max_items < 2:
            raise UsageError(f"max_items must be at least 2, got {self.max_items}")


def run(
    tasks: Sequence[str],
    models: Mapping[str, Embed],
    options: Options | None = None,
    *,
    data: Path | None = None,
    genome: Genome | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Evaluates models and baselines on tasks.

    A task whose data cannot be used is logged with the reason, and the others run.

    Args:
        tasks: names, beginnings of names, or ``all``.
        models: name -> embedding function, as the protocol needs it; none are needed if there are
            baselines.
        options: protocol, baselines, folds, sample size and seed.
        data: folder of tasks, or of one task; without it, the genomic-benchmarks package's cache.
        genome: what tasks that are given as coordinates are cut from.
        out: a new or empty folder for results.csv, results.md and results.png; nothing is written
            without it.
        progress: called with (description, done, total).

    Returns:
        `table.COLUMNS`: a row for each task, model or baseline, and metric.

    Raises:
        UsageError: for an unknown task, or if there is neither a model nor a baseline.
        InputError: if no task could run, or `out` is not empty or cannot be written to.
    """
    options = options or Options()
    if not models and not options.baselines:
        raise UsageError("neither a model nor a baseline to run; name at least one")
    chosen = resolve(tasks, own_names(data))
    rows: list[pd.DataFrame] = []
    missing: dict[str, str] = {}
    with _results_folder(out):
        for task in chosen:
            # One task that cannot be used should not stop the others, which may take hours.
            try:
                plan = _planned(task, data, genome, options)
                baselines = _usable_baselines(task.name, plan, models, options.baselines)
            except InputError as error:
                missing[task.name] = str(error)
                continue
            rows += _evaluated(
                task.name, plan, models, baselines, options, progress or _ignore_progress
            )
        _report_missing(missing, none_ran=not rows)
        results = pd.concat(rows, ignore_index=True)[list(table.COLUMNS)]
        if out is not None:
            table.write(results, out)
    return results


def _planned(task: Task, data: Path | None, genome: Genome | None, options: Options) -> Plan:
    """Returns the items of a task and their folds; raises InputError if there are none."""
    found = find(task, data, genome)
    if found is None:
        raise InputError(_NOT_FOUND)
    make_plan = PROTOCOLS[options.protocol].plan
    return make_plan(
        task, found, folds=options.folds, seed=options.seed, max_items=options.max_items
    )


def _usable_baselines(
    task: str, plan: Plan, models: Mapping[str, Embed], baselines: Sequence[str]
) -> list[str]:
    """Returns the baselines that fit a task; raises InputError if nothing is left to run."""
    usable = []
    for name in baselines:
        if plan.places is not None or not BASELINES[name].needs_places:
            usable.append(name)
    if not usable and not models:
        raise InputError(
            f"{task}: {' and '.join(baselines)}: only where its items are given as coordinates"
        )
    return usable


@contextlib.contextmanager
def _results_folder(out: Path | None) -> Iterator[None]:
    """Checks `out` before the work starts; removes a new folder if the work fails."""
    # A folder that the user made is left alone, also if it is empty.
    new = out is not None and not out.exists()
    if out is not None:
        empty_folder(out)
    try:
        yield
    except BaseException:
        if new and out is not None:
            with contextlib.suppress(OSError):
                out.rmdir()
        raise


def _evaluated(
    task: str,
    plan: Plan,
    models: Mapping[str, Embed],
    baselines: Sequence[str],
    options: Options,
    progress: Progress,
) -> Iterator[pd.DataFrame]:
    """Yields the rows of every model, then of every baseline."""
    protocol, seed = PROTOCOLS[options.protocol], options.seed
    # Models first: if one of them fails, no time was spent on baselines.
    for name, model in models.items():
        moved = partial(progress, f"{printable(task)}: {printable(name)}")
        probabilities = protocol.predict(model, plan, seed, moved)
        yield _scored(plan, probabilities, seed).assign(
            task=task, model=name, protocol=protocol.name
        )
    for i, name in enumerate(baselines):
        baseline = BASELINES[name]
        probabilities = out_of_fold(plan, baseline.features(plan), baseline.fit, seed)
        yield _scored(plan, probabilities, seed).assign(
            task=task, model=name, protocol=table.BASELINE
        )
        progress(f"{printable(task)}: baselines", i + 1, len(baselines))


def _scored(plan: Plan, probabilities: np.ndarray, seed: int) -> pd.DataFrame:
    """Returns a row for each metric, with all columns except the names."""
    scored = plan.scored
    rows = score(
        plan.labels[scored],
        probabilities[scored],
        folds=plan.fold[scored],
        components=plan.components[scored],
        seed=seed,
    )
    # Training parts differ in size between folds; the table has one number.
    fitted = round(np.mean([train.size for train, _ in plan.parts()]))
    return rows.assign(
        split=plan.split,
        n_train=fitted,
        n_test=int(scored.sum()),
        n_components=len(np.unique(plan.components[scored])),
        seed=seed,
        notes="; ".join(plan.notes),
    )


def _report_missing(missing: Mapping[str, str], *, none_ran: bool) -> None:
    """Logs each task that did not run and, once, which layouts of data are known.

    Raises:
        InputError: if no task ran.
    """
    lines = []
    for name, reason in missing.items():
        # Some reasons begin with the task's name already.
        named = reason if reason.startswith(name) else f"{name}: {reason}"
        lines.append(printable(named))
    layouts = [LAYOUTS] if _NOT_FOUND in missing.values() else []
    if none_ran:
        raise InputError("; ".join(["no task could run", *lines, *layouts]))
    for line in lines:
        logger.warning("left out: %s", line)
    for line in layouts:
        logger.warning("%s", line)


def _ignore_progress(description: str, done: int, total: int) -> None:
    """Ignores progress."""
