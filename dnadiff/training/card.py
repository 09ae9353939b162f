"""The model card: what a model was trained on, how well it does, and what it should not be used for."""

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
    """The README.md of a model folder."""
    data = [_source(genome, splits) for genome, splits in sources]
    data += [] if table is None else [_classes(table)]
    bounds = [_row(split, summary[split]) for split in ("valid", "test")]
    bounds += [
        _row(f"{split}, no class told", summary[split]["unconditional"])
        for split in ("valid", "test")
        if table is not None
    ]
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

{summary["steps"]:,} steps, {summary["bases_seen"]:,} bases, {summary["seconds"]:,.0f} seconds. Everything needed to
repeat it is in `../config.yaml`. The weights are an exponential moving average.

## Held-out bounds

| split | nats per base | standard error | perplexity | kind | windows | bases |
|---|---|---|---|---|---|---|
{chr(10).join(bounds)}

The standard error is over windows. "upper" says that the true value is at or below the figure. No choice was made by
looking at the test split.

## Limits

It knows what the training intervals show, in windows of this length. Sampled sequences are statistically similar to
that DNA; nothing has shown that they work in a cell. A likelihood is not a measure of pathogenicity.
"""


def _title(objective: str) -> str:
    plain = {
        "autoregressive": "An autoregressive language model of DNA",
        "masked_lm": "A masked language model of DNA",
    }
    return plain.get(objective, f"A diffusion language model of DNA ({objective.upper()})")


def _source(genome: Genome, splits: Splits) -> str:
    return f"* {genome.name} (SHA-256 `{genome.digest[:16]}`): {splits.how}"


def _classes(table: LabelledTable) -> str:
    return f"* {table.name} (SHA-256 `{table.digest[:16]}`): {table.how}; classes {', '.join(table.names)}"


def _row(split: str, bound: dict[str, Any]) -> str:
    se = "-" if bound["se"] is None else f"{bound['se']:.4f}"
    cells = f"{bound['nats_per_base']:.4f} | {se} | {bound['ppl']:.3f} | {bound['bound']}"
    return f"| {split} | {cells} | {bound['windows']:,} | {bound['bases']:,} |"
