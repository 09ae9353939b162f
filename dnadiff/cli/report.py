"""``dnadiff report``: one HTML page."""

from __future__ import annotations

from pathlib import Path

from dnadiff.cli.flags import command
from dnadiff.errors import UsageError
from dnadiff.files import write_text


@command
def report(paths: list[str] | None = None, *, out: str = "report.html") -> None:
    """Writes one self-contained HTML page.

    Args:
        paths: run folders, FASTA files of samples, and results.csv files.
        out: the page to write; an existing one is replaced.
    """
    from dnadiff.report.page import report as page

    if not paths:
        raise UsageError("nothing to report: give run folders, FASTA files or results.csv files")
    write_text(out, page([Path(path) for path in paths]))
    print(f"report: {Path(out).resolve()}")
