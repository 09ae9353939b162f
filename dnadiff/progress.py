"""Progress bars with rate and ETA for anything that counts, on stderr; silent where stderr is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def bars(*, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Yields a function (description, done, all) that moves the bar of that description."""
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet or not sys.stderr.isatty(),
        transient=True,
    )
    known: dict[str, TaskID] = {}

    def move(description: str, done: int, total: int) -> None:
        if description not in known:
            # What was there when it began says nothing of the speed.
            known[description] = progress.add_task(description, total=None, completed=done, rate="")
        speed = progress.tasks[known[description]].speed
        rate = f"{speed:,.0f}/s" if speed else ""
        progress.update(known[description], completed=done, total=total or None, rate=rate)

    with progress:
        yield move


@contextmanager
def bar(title: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yields a function (done, all) that moves one bar."""
    with bars(quiet=quiet) as move:
        yield lambda done, total: move(title, done, total)
