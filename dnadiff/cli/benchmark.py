"""``dnadiff benchmark``: an honest table of models and baselines."""

from __future__ import annotations

import sys
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
    """Probes models on classification tasks, beside baselines that use no model.

    Args:
        task: a task, the beginning of several tasks' names, or all; may be given several times.
        checkpoint: run or model folders, or hf:OWNER/NAME; by default the newest run under ./runs.
        baselines: which of majority, length, gc, kmer, and for coordinates chromosome and lookup; all by default.
        protocol: linear fits a logistic regression on frozen embeddings.
        data: tasks as TASK/{train,test}/CLASS/*.txt, TASK.{train,test}.{tsv,csv,parquet}[.gz], or coordinates.
        genome: FASTA that tasks given as coordinates are cut from.
        folds: where a task has one split only, folds inside it, grouped by shared 31-mers.
        max_items: use a random sample of about so many items of each split.
        seed: of folds, samples and intervals.
        out: folder for results.csv, results.md and results.png, new or empty; by default benchmark-DATE.
        quiet: no progress bar and no log.
    """
    from dnadiff.benchmark import table
    from dnadiff.benchmark.baselines import BASELINES
    from dnadiff.benchmark.run import run
    from dnadiff.genome.fasta import Genome
    from dnadiff.model import load
    from dnadiff.progress import bars

    folder = Path(out or f"benchmark-{datetime.now().astimezone():%Y%m%d-%H%M%S}")
    folders = [chosen_model(path) for path in checkpoint] if checkpoint else [newest_run()]
    models = {
        path.name if path.name != "model" else path.parent.name: load(path) for path in folders
    }
    with bars(quiet=quiet) as progress:
        results = run(
            task,
            {name: model.embed for name, model in models.items()},
            data=None if data is None else Path(data),
            genome=None if genome is None else Genome.open(genome),
            folds=folds,
            seed=seed,
            baselines=tuple(BASELINES) if baselines is None else baselines,
            protocol=protocol,
            max_items=max_items,
            out=folder,
            progress=progress,
        )
    print(table.markdown(results))
    print(f"written to {folder}: results.csv, results.md, results.png", file=sys.stderr)
