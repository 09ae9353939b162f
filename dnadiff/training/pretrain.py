"""Runs pretraining from start to end: data, training, final bounds, model folder."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.diffusion import make_objective
from dnadiff.errors import InputError, Interrupted
from dnadiff.files import read_json, write_text
from dnadiff.genome.audit import table, to_csv
from dnadiff.memory import keep_freed_memory
from dnadiff.training.budget import Budget
from dnadiff.training.checkpoints import clear_leftovers, newest_checkpoint
from dnadiff.training.data import Data, Log, audit, open_genomes, read_data
from dnadiff.training.final import finish
from dnadiff.training.fit import fit, precision_of, rank_of_this_process
from dnadiff.training.identity import check_end, check_same, identity
from dnadiff.training.interruption import Interruption
from dnadiff.training.module import Pretraining
from dnadiff.training.network import build
from dnadiff.training.recipe import Recipe
from dnadiff.training.run_folder import (
    RunState,
    check_resumable,
    check_startable,
    locked,
    state_of,
)

_AUDITED = 256  # windows of each held-out split whose k-mers are searched for in other splits


def pretrain(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool | Literal["auto"] = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains a model and writes its run folder.

    With several devices every process calls this function. The first one alone writes.

    Args:
        recipe: everything that determines the run.
        out: the run folder; empty or absent, or with `resume` that of an interrupted run.
        resume: continue from the last intact checkpoint in `out`, with the same data and settings;
            only the end of the run, its evaluation, its checkpoints and its log may be changed (see
            `dnadiff.training.identity.CHANGEABLE`). "auto" continues if there is a checkpoint and
            starts a run otherwise, so a requeued job can repeat the same call.
        quiet: no progress bar and no log.

    Returns:
        What summary.json holds: params, steps, bases_seen, bases_per_second, and the valid and test
        bounds. It is empty in all processes but the first.

    Raises:
        InputError: if the data, the folder or a checkpoint cannot be used.
        Interrupted: if a signal ended the run; the message says how to resume it.
    """
    keep_freed_memory()
    folder = Path(out)
    # The run may be resumed from another working directory, so config.yaml has absolute paths.
    recipe = recipe.with_absolute_paths()
    # Determined before Lightning starts, because only the first process may make the folder.
    if rank_of_this_process(recipe) > 0:
        return _follow(recipe, folder, resume)

    goes_on = _goes_on(folder, resume)
    if goes_on is None:
        return dict(read_json(folder / "summary.json"))
    log: Log = _ignore if quiet else _print
    with Interruption(folder) as interruption:
        return _lead(recipe, folder, interruption, goes_on=goes_on, log=log, quiet=quiet)


def _lead(
    recipe: Recipe,
    folder: Path,
    interruption: Interruption,
    *,
    goes_on: bool,
    log: Log,
    quiet: bool,
) -> dict[str, Any]:
    """Runs the first process, which logs and writes; returns the summary."""
    with ExitStack() as stack:
        # A resumed run is locked before it is read. A new one is locked only after its data have
        # been read without an error, so that faulty data leave no folder.
        if goes_on:
            stack.enter_context(locked(folder))
            # Another process may have finished it before we had the lock.
            check_resumable(folder)
        checkpoint, known = _checkpoint(folder) if goes_on else (None, None)
        made_of = _identity(recipe, folder, known, quiet)
        data = read_data(recipe, log, quiet)
        module = _module(recipe, data)
        log(_plan(recipe, module.denoiser, made_of["precision"]))

        if not goes_on:
            stack.enter_context(locked(folder))
            _check_unchanged(folder)
            found = audit(data, _AUDITED, quiet)
            write_text(folder / "audit.csv", to_csv(found))
            log(table(found))
        write_text(folder / "config.yaml", recipe.to_yaml())
        clear_leftovers(folder / "checkpoints", checkpoint)

        trainer = fit(module, data, folder, checkpoint, made_of, interruption, quiet=quiet)
        return finish(
            module,
            data,
            folder,
            steps=trainer.global_step,
            world=trainer.world_size,
            log=log,
            quiet=quiet,
        )


def _follow(recipe: Recipe, folder: Path, resume: bool | Literal["auto"]) -> dict[str, Any]:
    """Runs a further process, which takes part in the steps and writes nothing."""
    goes_on = resume is not False and state_of(folder) is RunState.INTERRUPTED
    with Interruption(folder) as interruption:
        try:
            checkpoint, known = _checkpoint(folder) if goes_on else (None, None)
            made_of = _identity(recipe, folder, known, quiet=True)
            data = read_data(recipe, _ignore, quiet=True)
            module = _module(recipe, data)
            fit(module, data, folder, checkpoint, made_of, interruption, quiet=True)
        except Interrupted:
            pass  # the first process reports it and sets the exit status of the run
    return {}


def _goes_on(folder: Path, resume: bool | Literal["auto"]) -> bool | None:
    """Returns whether a run is resumed; None if it is finished and nothing is to be done.

    Raises:
        InputError: if the state of the folder contradicts `resume`.
    """
    if resume == "auto":
        state = state_of(folder)
        if state is RunState.FINISHED:
            return None
        if state is RunState.FOREIGN:
            check_startable(folder)
        return state is RunState.INTERRUPTED
    if resume:
        check_resumable(folder)
        return True
    check_startable(folder)
    return False


def _check_unchanged(folder: Path) -> None:
    """Checks that no other process has begun a run here while the data were read."""
    if state_of(folder) in (RunState.INTERRUPTED, RunState.FINISHED):
        raise InputError(f"{folder}: another process has written a run here meanwhile")


def _checkpoint(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Returns the checkpoint to resume from, and its content.

    Raises:
        InputError: if there is none, or if all are damaged.
    """
    found = newest_checkpoint(folder / "checkpoints")
    if found is None:
        raise InputError(f"{folder}: nothing to resume, there is no checkpoint in it")
    return found


def _identity(
    recipe: Recipe, folder: Path, known: dict[str, Any] | None, quiet: bool
) -> dict[str, Any]:
    """Returns the run's data and settings, checked against those of the checkpoint, if any."""
    genomes = open_genomes(recipe, quiet)
    if known is None:
        return identity(recipe, genomes, precision=precision_of(recipe))
    before = known["run"]
    # A resumed run keeps its precision, also on a machine where "auto" would choose another.
    now = identity(recipe, genomes, precision=before["precision"])
    check_same(before, now, folder)
    spent = known["callbacks"]["Clock"]["elapsed"]
    check_end(recipe, before, known["global_step"], spent, folder)
    return now


def _module(recipe: Recipe, data: Data) -> Pretraining:
    """Returns the network with its objective and optimiser, untrained."""
    objective = make_objective(recipe.objective, recipe.objective_options)
    denoiser = build(recipe, objective, data.labels)
    return Pretraining(denoiser, objective, recipe, Budget(recipe.max_steps, recipe.max_seconds))


def _plan(recipe: Recipe, denoiser: LMDenoiser, precision: str) -> str:
    """Returns a line that says what will be trained, and for how long."""
    size = sum(p.numel() for p in denoiser.parameters())
    ends = [f"{recipe.max_steps:,} steps"] if recipe.max_steps else []
    ends += [f"{recipe.max_time} of training"] if recipe.max_time else []
    batch = recipe.batch_size * recipe.accumulate
    several = recipe.devices != 1 or recipe.num_nodes > 1
    devices = (
        f" on each of {recipe.devices} devices" if several and recipe.devices != "auto" else ""
    )
    return (
        f"{recipe.objective} on {recipe.backbone}, {size:,} parameters, {batch} x "
        f"{recipe.window:,} bases a step{devices} in {precision}; ends after "
        f"{' or '.join(ends)}, then "
        f"final bounds of {recipe.eval_max_time} at most"
    )


def _print(text: str) -> None:
    """Writes a line of the log to stderr."""
    print(text, file=sys.stderr, flush=True)


def _ignore(text: str) -> None:
    """Drops a line of the log."""
