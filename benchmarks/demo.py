"""Runs all of dnadiff on a genome whose exact likelihood is known: ``make demo``.

A hidden Markov source writes a small genome. The commands are run on it as a user would run them.
At the end the bound of the model is compared, window by window, with the exact likelihood under the
source, which no model can beat, and with Markov chains fitted to the same training chromosomes,
which a language model must beat.
"""

from __future__ import annotations

import argparse
import math
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from dnadiff.alphabet import DNA
from dnadiff.cli.main import main as dnadiff
from dnadiff.diffusion.corpus import ratio
from dnadiff.errors import InputError
from dnadiff.files import read_json, write_text
from dnadiff.genome.fasta import Genome
from dnadiff.genome.markov import MarkovModel
from dnadiff.genome.run_splits import split_genome
from dnadiff.genome.source import HiddenMarkovSource, load_source
from dnadiff.report.plots import training_curve

SEED = 0
ORDERS = (0, 3)
TASK, TASK_LENGTH, TASK_ITEMS = "demo_genes", 200, 400


class Verdict(NamedTuple):
    """What the demo found on the test windows, in nats per base.

    Attributes:
        exact: negative log-likelihood under the source.
        bound: of the model.
        markov: of Markov chains, by order.
        gap: bound - exact.
        gap_se: its paired standard error.
        bound_se: standard error of the bound.
    """

    exact: float
    bound: float
    markov: dict[int, float]
    gap: float
    gap_se: float
    bound_se: float

    @property
    def sound(self) -> bool:
        """Whether the bound is not below the exact figure, beyond chance."""
        return self.gap > -3 * self.gap_se

    @property
    def learned(self) -> bool:
        """Whether the model is better than an order-3 Markov chain, beyond chance."""
        return self.bound + 2 * self.bound_se < self.markov[3]


def main() -> int:
    """Runs the demo. Returns 0 if the model is sound and has learned."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), help="folder, replaced if it is there"
    )
    parser.add_argument("--config", default="demo", help="recipe of the training")
    parser.add_argument("--max-time", help="training time, such as 2m; the recipe's by default")
    options = parser.parse_args()
    began = time.monotonic()
    folder: Path = options.out
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    genome, run, samples, bench = (
        folder / "genome.fa",
        folder / "run",
        folder / "samples.fa",
        folder / "benchmark",
    )
    limit = f" --max-time {options.max_time}" if options.max_time else ""
    command(f"data simulate --out {genome} --seed {SEED}")
    command(
        f"pretrain --config {options.config} --genome {genome} --out {run} --seed {SEED}{limit}"
    )
    command(f"generate --checkpoint {run} --length 1024 --num 4 --seed {SEED} --out {samples}")
    write_task(folder / "tasks", load_source())
    command(f"benchmark --task {TASK} --data {folder / 'tasks'} --checkpoint {run} --out {bench}")
    command(f"report {run} {samples} {bench / 'results.csv'} --out {folder / 'report.html'}")

    verdict = judge(run, genome)
    text = describe(verdict)
    write_text(folder / "verdict.txt", text)
    picture(run, verdict).savefig(folder / "curve.png", dpi=150)
    report = (folder / "report.html").resolve()
    print(f"\n{text}\n{time.monotonic() - began:.0f} seconds in all; the report is {report}")
    return 0 if verdict.sound and verdict.learned else 1


def command(line: str) -> None:
    """Prints a dnadiff command as it would be typed, and runs it in this process."""
    print(f"\n$ dnadiff {line}", flush=True)
    if dnadiff(shlex.split(line)):
        raise SystemExit(1)


def judge(run: Path, fasta: Path) -> Verdict:
    """Compares the test bounds of the run with the exact figures on the same windows."""
    bounds = pd.read_csv(run / "bounds.csv").query("split == 'test'")
    genome = Genome.open(fasta)
    tokens = torch.stack(
        [genome.tokens(row.chrom, row.start, row.end) for row in bounds.itertuples()]
    )
    bases, nats = torch.tensor(bounds.bases.to_numpy()), torch.tensor(bounds.nats.to_numpy())
    exact = load_source().nll(tokens)
    training = [
        genome.tokens(i.chrom, i.start, i.end)
        for i in split_genome(genome, tokens.shape[1])["train"]
    ]
    markov = {
        order: ratio(MarkovModel.fit(training, order).nll(tokens), bases)[0] for order in ORDERS
    }
    bound, bound_se = ratio(nats, bases)
    gap, gap_se = ratio(nats - exact, bases)
    return Verdict(ratio(exact, bases)[0], bound, markov, gap, gap_se, bound_se)


def describe(v: Verdict) -> str:
    """Returns the verdict in words, in nats and bits per base."""
    bits = 1 / math.log(2)
    lines = [
        "On the held-out windows (nats per base; bits per base):",
        *(
            f"  order-{k} Markov fit   {value:.4f}; {value * bits:.3f}"
            for k, value in v.markov.items()
        ),
        f"  model bound          {v.bound:.4f} +- {v.bound_se:.4f}; {v.bound * bits:.3f} +- "
        f"{v.bound_se * bits:.3f}",
        f"  source entropy       {v.exact:.4f}; {v.exact * bits:.3f}   (exact: no bound is lower)",
        f"source entropy {v.exact:.4f}, model bound {v.bound:.4f} +- {v.bound_se:.4f}; "
        f"difference {v.gap:.4f} +- {v.gap_se:.4f} (paired)",
    ]
    if not v.sound:
        lines.append("FAILED: the bound lies below the exact entropy, so something in it is wrong")
    if not v.learned:
        lines.append("FAILED: the model has not learned more than an order-3 Markov chain")
    if v.sound and v.learned:
        share = (v.markov[3] - v.bound) / (v.markov[3] - v.exact)
        lines.append(
            "passed: of what there is to learn beyond an order-3 Markov chain, the model has "
            f"learned {share:.0%}"
        )
    return "\n".join(lines)


def picture(run: Path, v: Verdict) -> Figure:
    """Returns the training curve between the order-3 Markov fit and the exact entropy."""
    guides = {
        f"order-3 Markov fit {v.markov[3]:.4f}": v.markov[3],
        f"source entropy {v.exact:.4f} (exact)": v.exact,
    }
    return training_curve(
        pd.read_csv(run / "metrics.csv"), read_json(run / "summary.json")["test"], guides
    )


def write_task(folder: Path, source: HiddenMarkovSource) -> None:
    """Writes a classification task: windows inside a gene of the demo genome, or free of genes.

    Train and test items come from walks of their own through the source, so the pretraining genome
    is not in them.
    """
    names = [element.name for element in source.elements]
    sizes = [len(element.enter) for element in source.elements]
    coding = np.repeat([name.startswith("gene") for name in names], sizes)
    for walk, split in enumerate(("train", "test")):
        # The walks of the genome have smaller numbers.
        items = _items(source, coding, 10_000 + walk)
        table = pd.DataFrame(items, columns=["class", "sequence"])
        folder.mkdir(exist_ok=True)
        table.to_csv(folder / f"{TASK}.{split}.tsv", sep="\t", index=False)


def _items(source: HiddenMarkovSource, coding: np.ndarray, walk: int) -> list[tuple[str, str]]:
    """Returns class and sequence of the items of one walk; `coding` marks the states of genes.

    Raises:
        InputError: if the walk has too few of a class.
    """
    states, tokens = source.walk(700_000, SEED, walk)
    inside = torch.from_numpy(coding)[states].unfold(0, TASK_LENGTH, TASK_LENGTH).double().mean(1)
    # The share of coding states in each window: 1 inside a gene, 0 away from all.
    windows: Tensor = tokens.unfold(0, TASK_LENGTH, TASK_LENGTH)
    chosen = {"gene": windows[inside == 1][:TASK_ITEMS], "other": windows[inside == 0][:TASK_ITEMS]}
    short = [label for label, rows in chosen.items() if len(rows) < TASK_ITEMS]
    if short:
        raise InputError(f"the source has too few windows of class {short[0]!r}")
    return [(label, DNA.decode(row)) for label, rows in chosen.items() for row in rows]


if __name__ == "__main__":
    sys.exit(main())
