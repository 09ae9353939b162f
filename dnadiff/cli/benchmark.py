"""``dnadiff benchmark``: compares models and baselines on classification tasks."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Literal

from dnadiff.cli.flags import command
from dnadiff.cli.runs import chosen_model, newest_run


@command
def benchmark(
    *,
    task: list[str],
    checkpoint: list[str] | None = None,
    baselines: list[str] | None = None,
    protocol: Literal["linear"] = "linear",
    data: str | None = None,
    genome: str | None = None,
    folds: int = 5,
    max_items: int | None = None,
    seed: int = 0,
    out: str | None = None,
    quiet: bool = False,
) -> None:
    """Probes models on classification tasks, and compares them with baselines that use no model.

    Args:
        task: a task, a prefix of several tasks' names, or all; may be given several times.
        checkpoint: run or model folders, or hf:OWNER/NAME; by default the newest run under ./runs,
            or no model if baselines are named.
        baselines: all, or some of majority, length, gc, kmer, and for coordinates chromosome and
            lookup; all by default.
        protocol: linear fits a logistic regression on frozen embeddings.
        data: folder of tasks as TASK/{train,test}/CLASS/*.txt,
            TASK.{train,test}.{tsv,csv,parquet}[.gz], or coordinates.
        genome: FASTA file from which sequences are cut for tasks given as coordinates.
        folds: number of cross-validation folds, grouped by shared 31-mers, for a task with only one
            split.
        max_items: use a random sample of about this many items of each split.
        seed: seed of folds, samples and intervals.
        out: folder for results.csv, results.md and results.png, new or empty; by default
            benchmark-DATE.
        quiet: no progress bar and no log.
    """
    from dnadiff.benchmark import table
    from dnadiff.benchmark.baselines import BASELINES
    from dnadiff.benchmark.run import Options, run
    from dnadiff.genome.fasta import Genome
    from dnadiff.model import load
    from dnadiff.progress import bars

    # An empty list: --baselines was given without a value.
    every = not baselines or "all" in baselines
    chosen = tuple(BASELINES) if every or baselines is None else tuple(baselines)
    options = Options(protocol, chosen, folds, max_items, seed)
    # A user who names baselines and no checkpoint wants only the baselines.
    if checkpoint:
        paths = [Path(chosen_model(path)) for path in checkpoint]
    elif baselines is None:
        paths = [newest_run()]
    else:
        paths = []
    models = dict(zip(_names(paths), map(load, paths), strict=True))

    # The benchmark needs only the embedding of each model.
    folder = Path(out or f"benchmark-{datetime.now().astimezone():%Y%m%d-%H%M%S}")
    embed = {name: model.embed for name, model in models.items()}
    data_folder = None if data is None else Path(data)
    reference = None if genome is None else Genome.open(genome)
    with bars(quiet=quiet) as progress:
        results = run(
            task,
            embed,
            options,
            data=data_folder,
            genome=reference,
            out=folder,
            progress=progress,
        )
    print(table.markdown(results))
    print(f"written to {folder}: results.csv, results.md, results.png", file=sys.stderr)


def _names(paths: list[Path]) -> list[str]:
    """Returns the model names for the table: folder names, or whole paths where some are equal."""
    short = []
    for path in paths:
        # RUN/model is the model of RUN.
        short.append(path.parent.name if path.name == "model" else path.name)
    count = Counter(short)
    names = []
    for path, name in zip(paths, short, strict=True):
        names.append(name if count[name] == 1 else str(path))
    return names
