"""Scores Markov chains, fitted on a run's training windows, on its test windows.

    python benchmarks/markov_floors.py RUN [--orders 3 8 12]

A language model is of use only if it beats them. The chains are fitted on both strands of the
training intervals of the run's own split, and they give exact likelihoods. Their differences to the
run's bound are paired window by window. Every figure has two standard errors, over windows and over
blocks of 1 Mb; the second holds where neighbouring windows resemble each other.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from dnadiff.diffusion.corpus import block_numbers, ratio
from dnadiff.genome.fasta import Genome
from dnadiff.genome.markov import MarkovModel
from dnadiff.training.data import splits_of
from dnadiff.training.recipe import Recipe

PLACE = ["genome", "chrom", "start", "end"]


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
    places = list(bounds[PLACE].itertuples(index=False, name=None))
    tokens = torch.stack([genome.tokens(chrom, start, end) for _, chrom, start, end in places])
    nats, bases = torch.tensor(bounds.nats.to_numpy()), torch.tensor(bounds.bases.to_numpy())

    blocks = len(block_numbers(places).unique())
    print(
        f"{len(bounds):,} test windows in {blocks:,} blocks of 1 Mb, {int(bases.sum()):,} bases;"
        " nats per base +- standard error over windows (over blocks)\n"
    )
    print(
        "| model | nats per base | perplexity | model's bound minus this (paired) |\n"
        "|---|---|---|---|"
    )
    for order in options.orders:
        exact = MarkovModel.fit(training, order).nll(tokens)
        perplexity = math.exp(ratio(exact, bases)[0])
        gap = with_errors(nats - exact, bases, places, "+.4f")
        print(
            f"| order-{order} Markov | {with_errors(exact, bases, places)} | {perplexity:.3f} |"
            f" {gap} |"
        )
    perplexity = math.exp(ratio(nats, bases)[0])
    print(f"| {options.run.name} | <= {with_errors(nats, bases, places)} | {perplexity:.3f} | |")


def with_errors(
    nats: Tensor, bases: Tensor, places: Sequence[tuple[Any, ...]], form: str = ".4f"
) -> str:
    """Returns nats per base with its standard errors over windows and over blocks, as text.

    Args:
        nats: (W,) of each window.
        bases: (W,) of each window.
        places: (genome, chrom, start, end) of each window.
        form: format of the nats per base.
    """
    value, windows = ratio(nats, bases)
    blocks = ratio(nats, bases, block_numbers(places))[1]
    # One block has no spread.
    in_blocks = "one block" if math.isnan(blocks) else f"{blocks:.4f}"
    return f"{value:{form}} ± {windows:.4f} ({in_blocks})"


if __name__ == "__main__":
    main()
