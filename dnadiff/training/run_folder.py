"""The folder of a run: its state, and the lock that lets only one process write it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from filelock import FileLock, Timeout

from dnadiff.errors import InputError
from dnadiff.files import empty_folder, not_empty

_LOCK = ".lock"


class RunState(Enum):
    """How far the run in a folder has got."""

    NEW = "new"
    """There is no folder, or it is empty."""
    STARTED = "started"
    """A run has begun but has no checkpoint."""
    INTERRUPTED = "interrupted"
    """A run has a checkpoint and is not finished."""
    FINISHED = "finished"
    """A run has its model and its final bounds."""
    FOREIGN = "foreign"
    """The folder holds something that is not a run, or the path is a file."""


def state_of(folder: Path) -> RunState:
    """Returns the state of the run in a folder."""
    if not folder.exists():
        return RunState.NEW
    if not folder.is_dir():
        return RunState.FOREIGN
    if (folder / "summary.json").is_file():
        return RunState.FINISHED
    if any((folder / "checkpoints").glob("*.ckpt")):
        return RunState.INTERRUPTED
    if (folder / "config.yaml").is_file():
        return RunState.STARTED
    names = {path.name for path in folder.iterdir()}
    return RunState.FOREIGN if names - {_LOCK} else RunState.NEW


def check_startable(folder: Path) -> None:
    """Checks that a new run may be written to a folder.

    Raises:
        InputError: if there is a run or something else in it, with what to do.
    """
    state = state_of(folder)
    if state is RunState.INTERRUPTED:
        raise InputError(
            f"{folder}: holds an interrupted run; go on with it (resume=True in Python, "
            f"dnadiff pretrain --resume {folder}), or choose another folder"
        )
    if state is RunState.STARTED:
        raise InputError(
            f"{folder}: holds a run that was ended before its first checkpoint; start it again "
            f"there with resume='auto' (dnadiff pretrain --out {folder} --resume auto), or remove "
            "the folder"
        )
    if state is not RunState.NEW:
        raise not_empty(folder)

    # The folder is made only after long work, so check now that it can be made.
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: cannot be written, because of {parent}; choose another folder")


def check_resumable(folder: Path) -> None:
    """Checks that there is an interrupted run in a folder.

    Raises:
        InputError: if there is no interrupted run.
    """
    state = state_of(folder)
    if state is RunState.FINISHED:
        raise InputError(
            f"{folder}: this run is finished, so there is nothing to resume; start a new run from "
            "it with init"
        )
    if state is not RunState.INTERRUPTED:
        raise InputError(
            f"{folder}: nothing to resume, there is no checkpoint in it; start it anew"
        )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder, and lets no other process write the run in it during the block.

    The operating system frees the lock of a process that dies. On a file system without locks the
    folder is not protected.

    Raises:
        InputError: if another process holds it, or the folder cannot be written.
    """
    if not folder.exists():
        empty_folder(folder)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"{folder}: another process is writing this run; wait for it, or end it first"
        ) from error
    except PermissionError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from error
    except (OSError, NotImplementedError):
        pass  # no locks on this file system

    try:
        yield
    finally:
        # The file is removed while it is held. A process that opened it earlier then locks a file
        # that has no name any more, but it still finds the files of this run.
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()
        # If nothing was written, the empty folder is removed; otherwise this fails, harmlessly.
        with contextlib.suppress(OSError):
            folder.rmdir()
