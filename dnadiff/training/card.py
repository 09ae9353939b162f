"""Writes the model card: training data, held-out bounds, and limits of use."""

from __future__ import annotations

from typing import Any

from dnadiff.genome.fasta import Genome
from dnadiff.genome.labelled import LabelledTable
from dnadiff.genome.splits import Splits
from dnadiff.model import Model
from dnadiff.training.recipe import Recipe


def model_card(
    model: Model,
    recipe: Recipe,
    sources: list[tuple[Genome, Splits]],
    table: LabelledTable | None,
    summary: dict[str, Any],
) -> str:
    """Returns the README.md of a model folder.

    Args:
        model: the trained model.
        recipe: of the run.
        sources: genomes and their splits.
        table: the labelled table, if there is one.
        summary: what summary.json holds.
    """
    data = [_source(genome, splits) for genome, splits in sources]
    bounds = [_row(split, summary[split]) for split in ("valid", "test")]
    if table is not None:
        data.append(_classes(table))
        for split in ("valid", "test"):
            bounds.append(_row(f"{split}, unconditional", summary[split]["unconditional"]))
    return f"""\
# {_title(recipe.objective)}

{recipe.backbone}, {summary["params"]:,} parameters, digest `{model.digest}`, made with dnadiff.

    import dnadiff
    model = dnadiff.load("this folder")
    model.generate(4, length=1024)

## Data

{chr(10).join(data)}

Windows of {recipe.window:,} bases. N is visible context; it is never masked, scored or sampled.

## Training

{summary["steps"]:,} steps, {summary["bases_seen"]:,} bases, {summary["seconds"]:,.0f} seconds.
Everything needed to repeat it is in `../config.yaml`. The weights are an exponential moving
average.

## Held-out bounds

| split | nats per base | se, windows | se, blocks | perplexity | kind | windows | blocks | bases |
|---|---|---|---|---|---|---|---|---|
{chr(10).join(bounds)}

The errors (se) are standard errors. The error over windows treats windows as independent.
Neighbouring windows are not, so it is too small as an error of a property of the genome. The error
over blocks of 1 Mb accounts for this; with fewer than 20 blocks it is itself uncertain. "upper"
means that the true value is at or below the figure. No choice was made by looking at the test
split.

## Limits

The model has learned from the training intervals, in windows of this length. Sampled sequences are
statistically similar to that DNA; nothing has shown that they work in a cell. A likelihood is not a
measure of pathogenicity.
"""


def _title(objective: str) -> str:
    """Returns the heading."""
    plain = {
        "autoregressive": "An autoregressive language model of DNA",
        "masked_lm": "A masked language model of DNA",
    }
    return plain.get(objective, f"A diffusion language model of DNA ({objective.upper()})")


def _source(genome: Genome, splits: Splits) -> str:
    """Returns the line on a genome."""
    return f"* {genome.name} (SHA-256 `{genome.digest[:16]}`): {splits.how}"


def _classes(table: LabelledTable) -> str:
    """Returns the line on a labelled table."""
    names = ", ".join(table.names)
    return f"* {table.name} (SHA-256 `{table.digest[:16]}`): {table.how}; classes {names}"


def _row(split: str, bound: dict[str, Any]) -> str:
    """Returns a row of the table of bounds."""
    cells = (
        split,
        f"{bound['nats_per_base']:.4f}",
        _error(bound["se"]),
        _error(bound["se_blocks"]),
        f"{bound['ppl']:.3f}",
        bound["bound"],
        f"{bound['windows']:,}",
        "-" if bound["blocks"] is None else f"{bound['blocks']:,}",
        f"{bound['bases']:,}",
    )
    return f"| {' | '.join(cells)} |"


def _error(se: float | None) -> str:
    """Returns a standard error, or a dash if it is not known."""
    return "-" if se is None else f"{se:.4f}"
