"""Progress on stderr, with rate and time left: a bar on a terminal, otherwise a line at intervals.

All of dnadiff uses this one display. It shows one bar at a time, that of the latest step, so that
bars never pile up. Where stderr goes to a file, as in batch systems, it prints a plain line every
half minute instead. With `quiet` it shows nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dnadiff.errors import printable

LINE_EVERY = 30.0
"""Seconds between two lines where stderr is no terminal."""


class Display:
    """A progress display that is moved by calls; `bars` and `bar` run one for a block of code.

    Args:
        quiet: show nothing.
        line_every: seconds between two lines where stderr is no terminal.
    """

    def __init__(self, *, quiet: bool = False, line_every: float = LINE_EVERY) -> None:
        self._quiet, self._line_every = quiet, line_every
        self._terminal = sys.stderr.isatty()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._title = ""
        self._began = self._last_line = 0.0
        self._first = 0

    def move(
        self,
        title: str,
        done: int,
        total: int = 0,
        *,
        unit: str = "",
        note: str = "",
        share: float | None = None,
        rate: float | None = None,
        left: float | None = None,
    ) -> None:
        """Shows how far the step called `title` is; another title replaces the bar.

        Args:
            title: what is being done.
            done: how many items are done.
            total: how many there are; 0 if that is not known.
            unit: what the rate counts, such as " bases".
            note: shown after the numbers, such as the latest loss.
            share: part of the work that is done, from 0 to 1; by default done / total.
            rate: items per second; by default those of this step, since its first call.
            left: seconds that remain; by default at the rate so far.
        """
        if self._quiet:
            return
        now = time.monotonic()
        if title != self._title:
            self._begin(title, done, now)

        # Items done before the first call, by an earlier process, do not count towards the speed.
        elapsed = now - self._began
        if rate is None and elapsed > 0:
            rate = (done - self._first) / elapsed
        if share is None and total:
            share = done / total
        if left is None and rate and total:
            left = (total - done) / rate

        # What is not known is left out.
        speed = _speed(rate, unit) if rate else ""
        remaining = f"{clock(left)} left" if left is not None else ""
        count = f"{done:,}/{total:,}" if total else f"{done:,}"
        words = [word for word in (count, speed, note, remaining) if word]
        if self._terminal:
            self._draw(share, "  ".join(words))
        elif now - self._last_line >= self._line_every:
            self._last_line = now
            print(f"{printable(title)}: {', '.join(words)}", file=sys.stderr, flush=True)

    def stop(self) -> None:
        """Removes the bar; what is printed next takes its place."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._task, self._title = None, None, ""

    def _begin(self, title: str, done: int, now: float) -> None:
        """Starts a step, in place of the one before."""
        # The first line comes after a whole interval: short steps print nothing to a file.
        self._title, self._began, self._first, self._last_line = title, now, done, now
        if not self._terminal:
            return
        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[numbers]}", markup=False),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
        # Otherwise the bar of the previous step would stay on the screen.
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(printable(title), total=None, numbers="")

    def _draw(self, share: float | None, numbers: str) -> None:
        """Moves the bar; one without a known share only shows that something happens."""
        assert self._bar is not None and self._task is not None
        total = None if share is None else 1.0
        self._bar.update(self._task, total=total, completed=share or 0.0, numbers=numbers)


@contextmanager
def bars(*, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Yields a function (title, done, total) that moves the bar of that title."""
    display = Display(quiet=quiet)
    try:
        yield display.move
    finally:
        display.stop()


@contextmanager
def bar(title: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yields a function (done, total) that moves one bar."""
    with bars(quiet=quiet) as move:
        yield lambda done, total: move(title, done, total)


def _speed(rate: float, unit: str) -> str:
    """Returns a number of items per second, or for slow ones the seconds of each."""
    return f"{rate:,.0f}{unit}/s" if rate >= 1 else f"{1 / rate:,.1f} s each"


def clock(seconds: float) -> str:
    """Returns a duration as people read it: 0:09, 12:34, 5:00:00 or 2 d 3 h."""
    # Fractions are dropped: a remaining time is only an estimate.
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour} h"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
