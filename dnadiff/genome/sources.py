"""Opens the genomes of a run, splits them, and describes them in its log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from dnadiff.genome.fasta import Genome
from dnadiff.genome.run_splits import make_all_splits
from dnadiff.genome.splits import Splits, summary

Log = Callable[[str], None]
"""Called with each line for the log."""

Report = Callable[[str, int, int], None]
"""Called with (title of the task, units done, units in all)."""


def open_sources(
    paths: Sequence[str | Path],
    window: int,
    *,
    intervals: str | Path | None = None,
    split: Literal["auto", "legacy"] = "auto",
    test_fold: str | None = None,
    blacklist: str | Path | None = None,
    log: Log | None = None,
    report: Report | None = None,
) -> list[tuple[Genome, Splits]]:
    """Opens genomes and splits them together; see `make_all_splits`.

    Args:
        paths: FASTA files, plain or bgzipped, or .2bit.
        window: bases of a window.
        intervals: BED file of the splits; see `make_all_splits`.
        split: see `make_all_splits`.
        test_fold: see `make_all_splits`.
        blacklist: BED file of bases that no window may contain.
        log: called with the notes on each genome and a table of its splits.
        report: called while files are read, and while the genomes are searched for copies.

    Raises:
        InputError: if a file cannot be used; see `Genome.open` and `make_all_splits`.
    """
    # All genomes are opened first: copies are searched for across all of them.
    genomes = []
    for path in map(Path, paths):
        genome = Genome.open(path, progress=_progress(report, f"index {path.name}"))
        for note in genome.notes:
            _say(log, f"note: {note}")
        genomes.append(genome)

    found = make_all_splits(
        genomes,
        window,
        intervals=intervals,
        split=split,
        test_fold=test_fold,
        blacklist=blacklist,
        progress=_progress(report, "look for copies"),
    )
    # The log says how each genome was split, because the run's bounds mean nothing without that.
    sources = list(zip(genomes, found, strict=True))
    for genome, splits in sources:
        _say(log, summary(genome, splits))
    return sources


def _say(log: Log | None, text: str) -> None:
    """Passes a line to the log, if there is one."""
    if log is not None:
        log(text)


def _progress(report: Report | None, title: str) -> Callable[[int, int], None] | None:
    """Returns a function (done, all) that reports under a title; None without a `report`."""
    # None, and not a function that ignores its arguments: readers then skip counting altogether.
    if report is None:
        return None
    return lambda done, total: report(title, done, total)
