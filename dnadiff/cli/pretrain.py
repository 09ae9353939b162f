"""``dnadiff pretrain``: trains a model on a genome and writes a run folder."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dnadiff.cli.flags import command
from dnadiff.errors import InputError, UsageError, printable
from dnadiff.training.recipe import Recipe

_DEFAULTS = {
    "caduceus-ps-118": "the paper's recipe, 50,000 steps of 2^20 bases, days on one GPU",
    "laptop": "the paper's architecture on a CPU, an hour of training",
}
"""Default recipes, for a GPU and for a CPU, with their cost."""

_FOLDER_VARIABLE = "DNADIFF_RUN_FOLDER"
"""Environment variable that passes the run folder to processes that Lightning starts."""


@partial(command, settings=Recipe)
def pretrain(
    *, out: str | None = None, resume: str | None = None, quiet: bool = False, **settings: Any
) -> None:
    """Trains a diffusion language model on a genome, or on sequences with classes.

    Writes a run folder with the model, its bounds on held-out chromosomes or sequences, and
    everything that is needed to repeat the run.

    Args:
        out: the run folder, absent or empty; by default runs/GENOME-OBJECTIVE-DATE.
        resume: folder of an interrupted run to continue from its last checkpoint; its config.yaml
            gives all other flags. With auto, continue the run in --out if it has a checkpoint, or
            else start it, so that the same command can be repeated after every interruption.
        quiet: print nothing but the summary.
        **settings: the fields of `dnadiff.training.recipe.Recipe`.
    """
    if resume == "auto" and out is None:
        raise UsageError("--resume auto needs --out, the folder of the run")
    if resume not in (None, "auto") and out is not None:
        raise UsageError("--resume writes to the run's own folder: leave --out out")
    recipe = Recipe(**settings)
    # Imports torch, which takes seconds, so only after the recipe has been checked.
    from dnadiff.training.pretrain import pretrain as train

    # With auto the folder is --out; with a folder to resume it is that one.
    goes_on: bool | Literal["auto"] = "auto" if resume == "auto" else resume is not None
    with _run_folder(recipe, out if resume == "auto" else resume or out) as folder:
        summary = train(recipe, folder, resume=goes_on, quiet=quiet)
    if summary:
        print(printable(_result(folder, summary["test"])))


def default_config(run: str | None) -> tuple[str, str]:
    """Returns the recipe if none is named: that of a resumed run, or one for this machine.

    Args:
        run: the run folder that is resumed.

    Returns:
        The file or name, and a note that says what was chosen and how to choose another.
    """
    if run not in (None, "auto"):
        return f"{run}/config.yaml", ""
    import torch

    name = "caduceus-ps-118" if torch.cuda.is_available() else "laptop"
    return name, (
        f"recipe {name}: {_DEFAULTS[name]}; choose another with --config, or limit it with "
        f"--max-time"
    )


@contextlib.contextmanager
def _run_folder(recipe: Recipe, given: str | None) -> Iterator[Path]:
    """Yields the folder to write to: the given one, or a new one under ./runs.

    A new folder is made immediately, so that no other process can take its name, and is removed if
    the run ends before anything was written to it.
    """
    # Lightning starts this command again for each further device, with the folder in a variable.
    inherited = os.environ.get(_FOLDER_VARIABLE)
    if given is not None or inherited is not None:
        yield Path(given or inherited or "")
        return

    if _other_processes(recipe):
        raise UsageError("several processes train together: give --out, so that they share it")
    parent_is_new = not Path("runs").exists()
    folder = _make_folder(recipe)
    os.environ[_FOLDER_VARIABLE] = str(folder)
    try:
        yield folder
    finally:
        del os.environ[_FOLDER_VARIABLE]
        # rmdir removes empty folders only, so a run that wrote something is kept.
        with contextlib.suppress(OSError):
            folder.rmdir()
            if parent_is_new:
                folder.parent.rmdir()


def _other_processes(recipe: Recipe) -> bool:
    """Tells whether a launcher such as torchrun or SLURM runs this command several times."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))  # torchrun
    if "SLURM_PROCID" in os.environ:
        launched = max(launched, int(os.environ.get("SLURM_NTASKS", "1")))
    return recipe.num_nodes > 1 or launched > 1


def _make_folder(recipe: Recipe) -> Path:
    """Makes runs/GENOME-OBJECTIVE-DATE, with a number appended if that exists.

    Raises:
        InputError: if it cannot be made.
    """
    stem = Path(recipe.labels or recipe.genome[0]).name.split(".")[0]
    date = datetime.now().astimezone()
    name = f"{stem}-{recipe.objective}-{date:%Y%m%d-%H%M%S}"
    for count in itertools.count(1):
        folder = Path("runs") / (name if count == 1 else f"{name}-{count}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            # Another run began in the same second, or "runs" itself is a file.
            if not folder.parent.is_dir():
                raise InputError("runs: is a file, a folder is needed; choose --out") from None
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be made ({error.strerror}); choose --out"
            ) from error
    raise AssertionError("unreachable")


def _result(folder: Path, test: dict[str, Any]) -> str:
    """Returns the line that a finished run prints: its bound on the test set, with its error."""
    sign = {"upper": "<=", "exact": "="}[test["bound"]]
    error = f"+- {test['se'] or float('nan'):.4f}"
    if test["se_blocks"] is not None:
        error += f" (over windows; {test['se_blocks']:.4f} over blocks of 1 Mb)"
    line = (
        f"{folder}: test {sign} {test['nats_per_base']:.4f} {error} nats per base, "
        f"perplexity {test['ppl']:.3f} ({test['windows']:,} windows)"
    )
    if "unconditional" in test:
        line += f"; unconditional {sign} {test['unconditional']['nats_per_base']:.4f}"
    return line
