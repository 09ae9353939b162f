"""The whole benchmark: tasks by name, models and baselines, one table."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from dnadiff.benchmark import table
from dnadiff.benchmark.baselines import BASELINES
from dnadiff.benchmark.metrics import score
from dnadiff.benchmark.plan import Plan
from dnadiff.benchmark.probe import LINEAR
from dnadiff.benchmark.protocol import Embed, EvaluationProtocol, Progress, out_of_fold
from dnadiff.benchmark.sources import WAYS, TaskData, find, own_names
from dnadiff.benchmark.tasks import Task, resolve
from dnadiff.errors import InputError, UsageError
from dnadiff.files import empty_folder
from dnadiff.genome.fasta import Genome

logger = logging.getLogger(__name__)

_NOT_FOUND = "not found"
PROTOCOLS: Mapping[str, EvaluationProtocol] = MappingProxyType({LINEAR.name: LINEAR})


def run(
    tasks: Sequence[str],
    models: Mapping[str, Embed],
    *,
    data: Path | None = None,
    genome: Genome | None = None,
    folds: int = 5,
    seed: int = 0,
    baselines: Sequence[str] = tuple(BASELINES),
    protocol: str = LINEAR.name,
    max_items: int | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Evaluates models and baselines on tasks.

    A task that cannot be had is named in the log with the reason, and the others run.

    Args:
        tasks: names, beginnings of names, or ``all``.
        models: name -> embedding function, as the protocol needs it.
        data: folder of tasks, or of one task; without it, the genomic-benchmarks package's cache.
        genome: what tasks that are given as coordinates are cut from.
        folds: number of folds where only one split is there.
        seed: of folds, samples and intervals; not negative.
        baselines: names among BASELINES.
        protocol: name among PROTOCOLS.
        max_items: take a random sample of about so many items of each split.
        out: a new or empty folder for results.csv, results.md and results.png; nothing is written without it.
        progress: told (description, done, total).

    Returns:
        `table.COLUMNS`: a row for each task, model or baseline, and metric.

    Raises:
        UsageError: for an unknown task, baseline or protocol, or numbers that make no sense.
        InputError: if no task could run, or `out` is not empty or cannot be written to.
    """
    _check_usage(models, baselines, protocol, folds, seed, max_items)
    chosen = resolve(tasks, own_names(data))
    make_plan = partial(PROTOCOLS[protocol].plan, folds=folds, seed=seed, max_items=max_items)
    rows: list[pd.DataFrame] = []
    missing: dict[str, str] = {}
    with _results_folder(out):
        for task in chosen:
            try:
                plan = _planned(task, data, genome, make_plan)
                possible = _possible(task.name, plan, models, baselines)
            except InputError as error:
                missing[task.name] = str(error)
                continue
            for name, kind, probabilities in _predictions(
                task.name, plan, models, possible, PROTOCOLS[protocol], seed, progress or _silent
            ):
                rows.append(
                    _scored(plan, probabilities, seed).assign(
                        task=task.name, model=name, protocol=kind
                    )
                )
        _tell_missing(missing, none_ran=not rows)
        results = pd.concat(rows, ignore_index=True)[list(table.COLUMNS)]
        if out is not None:
            table.write(results, out)
    return results


def _planned(
    task: Task,
    data: Path | None,
    genome: Genome | None,
    make_plan: Callable[[Task, TaskData], Plan],
) -> Plan:
    found = find(task, data, genome)
    if found is None:
        raise InputError(_NOT_FOUND)
    return make_plan(task, found)


def _possible(
    task: str, plan: Plan, models: Mapping[str, Embed], baselines: Sequence[str]
) -> list[str]:
    """The baselines that can be had for a task; an InputError if that leaves nothing to run."""
    possible = [
        name for name in baselines if plan.places is not None or not BASELINES[name].needs_places
    ]
    if not possible and not models:
        raise InputError(
            f"{task}: {' and '.join(baselines)}: only where its items are given as coordinates"
        )
    return possible


def _check_usage(
    models: Mapping[str, Embed],
    baselines: Sequence[str],
    protocol: str,
    folds: int,
    seed: int,
    max_items: int | None,
) -> None:
    unknown = [name for name in baselines if name not in BASELINES]
    if unknown:
        raise UsageError(f"{unknown[0]!r}: no such baseline; choose among {', '.join(BASELINES)}")
    if protocol not in PROTOCOLS:
        raise UsageError(f"{protocol!r}: no such protocol; choose among {', '.join(PROTOCOLS)}")
    if folds < 2:
        raise UsageError(f"{folds} folds: at least 2 are needed")
    if seed < 0:
        raise UsageError(f"seed {seed}: it must not be negative")
    if max_items is not None and max_items < 2:
        raise UsageError(f"a sample of {max_items} items: at least 2 are needed")
    if not models and not baselines:
        raise UsageError("neither a model nor a baseline to run; give --checkpoint or --baselines")


@contextlib.contextmanager
def _results_folder(out: Path | None) -> Iterator[None]:
    """Checks that `out` can be written to before the work starts; leaves no empty folder behind if the work fails."""
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


def _predictions(
    task: str,
    plan: Plan,
    models: Mapping[str, Embed],
    baselines: Sequence[str],
    protocol: EvaluationProtocol,
    seed: int,
    progress: Progress,
) -> Iterator[tuple[str, str, np.ndarray]]:
    """(model, protocol, probabilities) of every model, then of every baseline."""
    for name, model in models.items():
        yield (
            name,
            protocol.name,
            protocol.predict(model, plan, seed, partial(progress, f"{task}: {name}")),
        )
    for i, name in enumerate(baselines):
        baseline = BASELINES[name]
        yield name, table.BASELINE, out_of_fold(plan, baseline.features(plan), baseline.fit, seed)
        progress(f"{task}: baselines", i + 1, len(baselines))


def _scored(plan: Plan, probabilities: np.ndarray, seed: int) -> pd.DataFrame:
    """A row for each metric, with everything but the names."""
    scored = plan.scored
    rows = score(
        plan.labels[scored],
        probabilities[scored],
        folds=plan.fold[scored],
        components=plan.components[scored],
        seed=seed,
    )
    fitted = round(np.mean([train.size for train, _ in plan.parts()]))
    return rows.assign(
        split=plan.split,
        n_train=fitted,
        n_test=int(scored.sum()),
        seed=seed,
        notes="; ".join(plan.notes),
    )


def _tell_missing(missing: Mapping[str, str], *, none_ran: bool) -> None:
    """Names each missing task and, once, the ways to have it.

    Raises:
        InputError: if no task ran.
    """
    reasons = [
        reason if reason.startswith(name) else f"{name}: {reason}"
        for name, reason in missing.items()
    ]
    ways = [WAYS] if _NOT_FOUND in missing.values() else []
    if none_ran:
        raise InputError("; ".join(["no task could run", *reasons, *ways]))
    for line in [f"left out: {reason}" for reason in reasons] + ways * bool(reasons):
        logger.warning("%s", line)


def _silent(description: str, done: int, total: int) -> None:
    """Tells nobody."""
