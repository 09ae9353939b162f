"""Lays out --help: headings, aligned columns, no boxes, paragraphs wrapped to the terminal."""

from __future__ import annotations

import io
from typing import Any

from cyclopts.help import HelpEntry, HelpPanel
from rich.console import Console, ConsoleOptions
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_OFF = "False"
"""What cyclopts shows as the default of a switch that is off."""


class HelpLayout:
    """Formats the help of cyclopts; its methods are those of `cyclopts.help.HelpFormatter`."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Prints one group of flags, or the list of verbs."""
        if not panel.entries:
            return
        # Names get at most a third of the width, so that descriptions keep their column.
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(max_width=max(26, console.width // 3))
        table.add_column(ratio=1)
        for entry in panel.entries:
            table.add_row(Text(_label(entry)), Text(_description(entry)))
        console.print()
        console.print(Text(f"{_plain(panel.title)}:", style="bold"))
        console.print(Padding(table, (0, 0, 0, 2)))

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """Prints the line that shows how the verb is called."""
        console.print(Text(f"usage: {_plain(usage)}"))

    def render_description(
        self, console: Console, options: ConsoleOptions, description: Any
    ) -> None:
        """Prints what the verb does."""
        for paragraph in _plain(description).split("\n\n"):
            console.print()
            console.print(Text(" ".join(paragraph.split())))


def _label(entry: HelpEntry) -> str:
    """Returns the names of a flag, and what value it takes."""
    names = [*entry.positive_shorts, *entry.positive_names]
    if entry.positional_label:
        names.insert(0, entry.positional_label)
    # --no-x is shown unless x is off by default.
    if entry.default != _OFF:
        names += entry.negative_names
    value = "" if entry.metavar is None else f" {entry.metavar}"
    return ", ".join(names) + value


def _description(entry: HelpEntry) -> str:
    """Returns what a flag does, its choices and its default."""
    parts = [" ".join(_plain(entry.description).split())]
    if entry.choices:
        parts.append(f"[{', '.join(entry.choices)}]")
    if entry.default not in (None, _OFF):
        parts.append(f"[default: {entry.default}]")
    if entry.required:
        parts.append("[required]")
    return " ".join(part for part in parts if part)


def _plain(text: Any) -> str:
    """Returns the text of anything that rich can print, without line breaks of its own."""
    if text is None:
        return ""
    # A console of this width wraps nothing; paragraphs are wrapped when they are printed.
    console = Console(file=io.StringIO(), width=100_000, color_system=None, markup=False)
    with console.capture() as captured:
        console.print(text, highlight=False, end="")
    return captured.get().strip()
