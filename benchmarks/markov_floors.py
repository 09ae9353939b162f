"""What a language model must beat: Markov chains, fitted on a run's training windows and scored on its test windows.

    python benchmarks/markov_floors.py RUN [--orders 3 8 12]

The chains are fitted on both strands of the training intervals of the run's own split and give exact likelihoods; the
differences to the run's bound are paired window by window.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import pandas as pd
import torch

from dnadiff.diffusion.corpus import ratio
from dnadiff.genome.fasta import Genome
from dnadiff.genome.markov import MarkovModel
from dnadiff.training.data import splits_of
from dnadiff.training.recipe import Recipe


def main() -> None:
    """Prints a table of nats per base, perplexity and paired difference to the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--orders", type=int, nargs="+", default=[3, 8, 12])
    options = parser.parse_args()
    recipe = Recipe.read(options.run / "config.yaml")
    genome = Genome.open(recipe.genome[0])
    splits = splits_of(recipe, genome)
    training = [genome.tokens(i.chrom, i.start, i.end) for i in splits["train"]]
    bounds = pd.read_csv(options.run / "bounds.csv").query("split == 'test'")
    tokens = torch.stack(
        [genome.tokens(row.chrom, row.start, row.end) for row in bounds.itertuples()]
    )
    nats, bases = torch.tensor(bounds.nats.to_numpy()), torch.tensor(bounds.bases.to_numpy())
    bound, se = ratio(nats, bases)
    print(
        f"{len(bounds):,} test windows, {int(bases.sum()):,} bases; nats per base +- standard error over windows\n"
    )
    print(
        "| model | nats per base | perplexity | model's bound minus this (paired) |\n|---|---|---|---|"
    )
    for order in options.orders:
        exact = MarkovModel.fit(training, order).nll(tokens)
        value, error = ratio(exact, bases)
        gap, gap_error = ratio(nats - exact, bases)
        scores = (
            f"{value:.4f} +- {error:.4f} | {math.exp(value):.3f} | {gap:+.4f} +- {gap_error:.4f}"
        )
        print(f"| order-{order} Markov | {scores} |")
    print(f"| {options.run.name} | <= {bound:.4f} +- {se:.4f} | {math.exp(bound):.3f} | |")


if __name__ == "__main__":
    main()
