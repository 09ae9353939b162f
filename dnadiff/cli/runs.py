"""Which model a command uses, and which models are finished."""

from __future__ import annotations

import sys
from pathlib import Path

from dnadiff.errors import InputError, printable


def chosen_model(checkpoint: str | None) -> Path:
    """Returns the model that --checkpoint names, or the newest finished run where it names none.

    Where there is no run at all it is the model that ships with dnadiff.

    Raises:
        InputError: if there is no finished run, or if `checkpoint` is an unfinished one.
    """
    if checkpoint is None:
        return newest_run()
    # Names such as hf:OWNER/NAME are no folders here, and `load` judges them.
    path = Path(checkpoint)
    if is_unfinished(path):
        raise InputError(
            f"{path}: this run has not finished, so it has no model yet: go on with dnadiff "
            f"pretrain --resume {path}"
        )
    return path


def newest_run(folder: Path = Path("runs")) -> Path:
    """Returns the finished run in ./runs whose model is the newest, and names it on stderr.

    Raises:
        InputError: if there is none, saying how to make or finish one.
    """
    runs = [path.parents[1] for path in folder.glob("*/model/config.json")]
    # A run that was killed in its final bounds may have a model already.
    finished = [run for run in runs if not is_unfinished(run)]
    if not finished:
        begun = [path.parent for path in folder.glob("*/config.yaml")]
        if not begun:
            return _shipped(folder)
        latest = max(begun, key=lambda run: (run / "config.yaml").stat().st_mtime)
        raise InputError(
            f"no finished run under ./{folder}: {latest} has not finished; go on with dnadiff "
            f"pretrain --resume {latest}, or give --checkpoint"
        )
    newest = max(finished, key=lambda run: (run / "model" / "config.json").stat().st_mtime)
    print(
        f"model: {printable(str(newest))} (the newest finished run; choose with --checkpoint)",
        file=sys.stderr,
    )
    return newest


def _shipped(folder: Path) -> Path:
    """Returns the folder of the shipped model, and names it on stderr."""
    from dnadiff.model import DEFAULT, shipped_model

    try:
        path = shipped_model()
    except InputError as error:
        raise InputError(
            f"no model under ./{folder}: make one with dnadiff pretrain --genome FILE, or "
            f"give --checkpoint"
        ) from error
    print(
        f"model: {DEFAULT} (shipped with dnadiff, as there is no run under ./{folder}; choose with "
        f"--checkpoint)",
        file=sys.stderr,
    )
    return path


def is_unfinished(run: Path) -> bool:
    """Whether a folder is a training run that is going on or was interrupted.

    The summary is the last file that a run writes; its model is there before.
    """
    return (run / "config.yaml").is_file() and not (run / "summary.json").is_file()
