"""Makes a finished run the model that ships as `default`: data/default, stored in bfloat16.

    python benchmarks/markov_floors.py RUN > floors.md
    python benchmarks/ship_default.py RUN --floors floors.md

The stored model is evaluated again on the run's own test windows with the same masks, because
rounding weights to bfloat16 changes the model; its card gives the bound of what ships.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dnadiff.diffusion.corpus import block_numbers, corpus_bound, ratio, summarise
from dnadiff.files import read_json, write_text
from dnadiff.model import DEFAULT, Model, load
from dnadiff.training.data import read_data
from dnadiff.training.recipe import Recipe

TARGET = Path(__file__).parents[1] / "data" / DEFAULT

# What a model hub reads of a card.
FRONT_MATTER = """\
---
library_name: dnadiff
license: apache-2.0
tags:
  - DNA
  - genomics
  - masked-diffusion
  - caduceus
---

"""


def main() -> None:
    """Writes data/default and prints its card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--floors", type=Path, help="output of markov_floors.py for this run")
    options = parser.parse_args()

    model = load(options.run, device="cpu")
    summary = read_json(options.run / "summary.json")
    recipe = Recipe.read(options.run / "config.yaml")

    if TARGET.exists():
        shutil.rmtree(TARGET)
    model.save(TARGET, torch.bfloat16)
    test, difference = evaluate(load(TARGET, device="cpu"), recipe, options.run)
    model.about = dict(model.about) | {"test": test, "bases_seen": summary["bases_seen"]}
    model.save(TARGET, torch.bfloat16)
    text = card(load(TARGET, device="cpu"), recipe, summary, test, difference)
    if options.floors is not None:
        text += f"\n## Beside Markov chains\n\n{options.floors.read_text(encoding='utf-8')}"
    write_text(TARGET / "README.md", text)
    print(text)


def evaluate(model: Model, recipe: Recipe, run: Path) -> tuple[dict[str, Any], str]:
    """Returns the test bound of the stored model, and its paired difference to the run's own."""
    sample = read_data(recipe, lambda line: None, quiet=True).held_out["test"]
    before = pd.read_csv(run / "bounds.csv").query("split == 'test'")
    count = len(before)
    places = list(sample.locations)[:count]
    batches = (
        (sample.tokens(slice(start, min(start + recipe.batch_size, count))), None)
        for start in range(0, count, recipe.batch_size)
    )
    bound = corpus_bound(
        model.objective.bound, model.denoiser, batches, draws=recipe.eval_draws, seed=recipe.seed
    )
    gap = bound.nats - torch.tensor(before.nats.to_numpy())
    value, error = ratio(gap, bound.bases)
    blocks = ratio(gap, bound.bases, block_numbers(places))[1]
    return summarise(bound, places).to_dict(), f"{value:+.1e} ± {error:.1e} ({blocks:.1e})"


def card(
    model: Model, recipe: Recipe, summary: dict[str, Any], test: dict[str, Any], difference: str
) -> str:
    """Returns the model card."""
    genomes = "\n".join(
        f"* {genome['name']} (SHA-256 `{genome['sha256'][:16]}`): {genome['split']}"
        for genome in model.about["genomes"]
    )
    return f"""\
{FRONT_MATTER}# default: the model that ships with dnadiff

{recipe.backbone}, {model.params:,} parameters, digest `{model.digest}`, weights in bfloat16, MDLM.

    import dnadiff
    model = dnadiff.load("default")
    model.generate(4, length=1024)

## Data

{genomes}

The FASTA is a sparse copy of hg38: 42 Mb of training sequence in which gene-rich regions are
over-represented. Windows of {recipe.window:,} bases of either strand. N is visible context; it is
never masked, scored or sampled.

## Training

{summary["steps"]:,} steps of {recipe.batch_size} windows, {summary["bases_seen"]:,} bases in all,
on two CPU cores in float32: a small fraction of what the paper used (50,000 steps of 2^20 bases).
`configs/default.yaml` is the recipe. The weights are an exponential moving average.

## Held-out bound

Test (chromosomes 20, 21 and 22): at most {test["nats_per_base"]:.4f} nats per base, perplexity
{test["ppl"]:.3f}; standard error {test["se"]:.4f} over {test["windows"]:,} windows,
{test["se_blocks"]:.4f} over {test["blocks"]:,} blocks of 1 Mb; {test["bases"]:,} bases. Storing the
weights in bfloat16 changed it by {difference} (paired; errors over windows, over blocks). Nothing
was chosen by looking at the test split.

## Limits

It has seen little: an order-8 Markov chain, a table of 8-mers, predicts these windows better. It is
here so that every command works before you have trained a model, not for conclusions. Samples
resemble human DNA in short-range statistics; nothing has shown that they work in a cell. A
likelihood is not a measure of pathogenicity.

## Citation

CITATION.cff in the dnadiff repository; Sahoo et al. 2024 (arXiv 2406.07524) for the objective,
Schiff et al. 2024 (arXiv 2403.03234) for the backbone.
"""


if __name__ == "__main__":
    main()
