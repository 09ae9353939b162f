"""Records the data and settings of a run, so that it is only resumed with the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dnadiff.backbones.hub import local_folder
from dnadiff.backbones.weights import find_weights
from dnadiff.digest import sha256_of_file
from dnadiff.errors import InputError
from dnadiff.genome.fasta import Genome
from dnadiff.training.recipe import Recipe

CHANGEABLE = frozenset(
    (
        "max_steps", "max_time", "cooldown", "warmup", "final_learning_rate", "eval_windows",
        "eval_draws", "eval_max_time", "checkpoint_every", "checkpoint_time", "log_every",
    )
)  # fmt: skip
"""Fields of a recipe that a resumed run may change: its end, its evaluation and its log."""

_FILES = ("genome", "intervals", "blacklist", "labels", "init")
_DIGITS = 12  # of a SHA-256 in a message


def identity(recipe: Recipe, genomes: list[Genome], *, precision: str) -> dict[str, Any]:
    """Returns the data and settings of a run, in types that a checkpoint and JSON can hold.

    Args:
        recipe: of the run.
        genomes: its genomes, opened.
        precision: the precision that it is trained in, which resolves "auto".

    Returns:
        A dict with the recipe, the precision, and for each file the parameter that names it, its
        path and the SHA-256 of its content. Files are compared by content, so they may be moved.

    Raises:
        InputError: naming the file that cannot be read.
    """
    files = [("genome", str(genome.path), genome.digest) for genome in genomes]
    for name in ("intervals", "blacklist", "labels"):
        path = getattr(recipe, name)
        if path is not None:
            files.append((name, path, _digest(Path(path))))
    if recipe.init is not None:
        files.append(("init", recipe.init, _digest(_weights(recipe.init))))
    return {
        "recipe": asdict(recipe),
        "precision": precision,
        "files": [list(file) for file in files],
    }


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], run: Path) -> None:
    """Checks that a run is resumed with the data and the settings that it was begun with.

    Args:
        before: `identity` at the time of the checkpoint.
        now: `identity` of what the run would be resumed with.
        run: the run folder, for the message.

    Raises:
        InputError: naming every file and every parameter that differs and may not.
    """
    changes = _changed_files(before["files"], now["files"])
    for name, value in now["recipe"].items():
        # A parameter that the checkpoint's version did not have cannot have differed.
        known = before["recipe"].get(name, value)
        if name not in CHANGEABLE and name not in _FILES and value != known:
            changes.append(f"{name} was {known!r} and is {value!r} now")
    if changes:
        raise InputError(
            f"{run}: cannot be resumed: {'; '.join(changes)}; restore what was changed, or start a "
            "new run"
        )


def check_end(
    recipe: Recipe, before: Mapping[str, Any], step: int, spent: float, run: Path
) -> None:
    """Checks that a run is not resumed with an end that it has already passed.

    Args:
        recipe: that it is resumed with.
        before: `identity` at the time of the checkpoint.
        step: of the checkpoint.
        spent: seconds of training up to it.
        run: the run folder, for the message.

    Raises:
        InputError: if it has.
    """
    if recipe.max_steps is not None and step > recipe.max_steps:
        raise InputError(f"{run}: is at step {step:,} already, past max_steps {recipe.max_steps:,}")
    changed = recipe.max_time != before["recipe"].get("max_time")
    # A run that ended by its own time limit has always passed that limit by a part of a step.
    if changed and recipe.max_seconds is not None and spent > recipe.max_seconds:
        raise InputError(
            f"{run}: has trained for {spent:,.0f} seconds already, past max_time {recipe.max_time}"
        )


def _changed_files(before: list[list[str]], now: list[list[str]]) -> list[str]:
    """Returns a phrase for each file whose content differs, or which was added or left out."""
    changes = []
    for name in _FILES:
        known = [(path, digest) for parameter, path, digest in before if parameter == name]
        given = [(path, digest) for parameter, path, digest in now if parameter == name]
        # Genomes are compared in order, because window numbers depend on their order.
        if len(known) != len(given):
            first, then = (", ".join(path for path, _ in side) or "none" for side in (known, given))
            changes.append(f"{name} was {first} and is {then} now")
            continue
        for (_, old), (path, new) in zip(known, given, strict=True):
            if old != new:
                changes.append(
                    f"{path} ({name}) is not the file that the run began with (SHA-256 "
                    f"{old[:_DIGITS]} then, {new[:_DIGITS]} now)"
                )
    return changes


def _weights(init: str) -> Path:
    """Returns the weights file of the model that a run starts from."""
    folder = local_folder(init)
    return find_weights(folder / "model" if (folder / "model").is_dir() else folder)


def _digest(path: Path) -> str:
    """Returns the SHA-256 of a file; its errors name it."""
    try:
        return sha256_of_file(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
