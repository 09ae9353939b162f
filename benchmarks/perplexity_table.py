"""Makes the paper's HG38 table at any scale, on any genome: stage A, then each objective from it.

    python benchmarks/perplexity_table.py --genome sacCer3.fa.gz --scale small --out runs/yeast
    --write docs/results.md

Every row is a recipe of configs/paper. Those on Caduceus start from one masked language model
(stage A) and see the same windows; autoregressive ones start from scratch and see as many bases as
both stages together. Bounds are those of the test split, and differences are paired window by
window. Standard errors are over windows, and in brackets over blocks of 1 Mb. They are about the
choice of windows and not about the choice of a seed: one run of each row shows no order of the
objectives. A finished run is not repeated and an interrupted one is resumed, so the command can be
killed at any moment and given again.

With --scale full the recipes run as they are; "small" and "smoke" change the settings in `SCALES`,
for all rows alike.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from markov_floors import PLACE, with_errors

import dnadiff
from dnadiff.diffusion import MDLM, Bound, corpus_bound
from dnadiff.diffusion.corpus import ratio
from dnadiff.files import resource, write_text
from dnadiff.training.data import read_data
from dnadiff.training.pretrain import pretrain
from dnadiff.training.recipe import Recipe, read_settings

STAGE_A = "masked_lm"
ROWS = ("mamba", "hyena", "mdlm", "sedd", "d3pm", "plaid", "udlm", "sedd-uniform", "d3pm-uniform")
PAPER = {
    "mamba": "3.067 ± 0.010",
    "hyena": "3.153 ± 0.001",
    "plaid": "≤ 3.240 ± 0.005",
    "sedd": "≤ 3.216 ± 0.003",
    "mdlm": "≤ 3.199 ± 0.010",
}
"""Test perplexity on HG38, table 6 of Sahoo et al. 2024; ± is the range over five seeds."""

_SMALL = {
    "batch_size": 16,
    "accumulate": 1,
    "learning_rate": 4e-3,
    "checkpoint_every": 61,
    "log_every": 10,
    "eval_max_time": "01:00:00",
    "eval_draws": 2,
}
_SMOKE = {**_SMALL, "d_model": 16, "window": 64, "batch_size": 4, "eval_windows": 8}
SCALES: dict[str, dict[str, Any]] = {
    "full": {"steps": (10_000, 50_000), "settings": {}},
    "small": {"steps": (61, 122), "settings": {**_SMALL, "eval_windows": 512}},
    "smoke": {"steps": (3, 6), "settings": _SMOKE},
}
"""For each scale, the steps of stage A and of the fine-tuning, and what the recipes change."""


def main() -> None:
    """Runs the rows that are not finished, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--genome", required=True)
    parser.add_argument("--intervals")
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument(
        "--write", type=Path, help="put the table into this file, between its two marks"
    )
    options = parser.parse_args()
    data = {"genome": [options.genome], "intervals": options.intervals}
    run(options.out, STAGE_A, options.scale, data)
    for name in options.rows:
        run(options.out, name, options.scale, data)
    text = table(options.out, options.rows)
    print(text)
    if options.write:
        splice(options.write, text)


def run(out: Path, name: str, scale: str, data: dict[str, Any]) -> None:
    """Trains one row, resumes it, or leaves it as it is if it is finished."""
    folder = out / name
    if (folder / "summary.json").is_file():
        return
    settings = (
        read_settings(resource("configs", f"paper/{name}.yaml")) | SCALES[scale]["settings"] | data
    )
    before, after = SCALES[scale]["steps"]
    if "init" in settings:
        settings |= {"init": str(out / STAGE_A), "max_steps": after}
    else:
        settings["max_steps"] = before if name == STAGE_A else before + after
    recipe = Recipe(**settings)

    interrupted = (folder / "checkpoints" / "last.ckpt").is_file()
    if interrupted:
        recipe = Recipe.read(folder / "config.yaml")
    elif folder.is_dir():
        # It was killed before its first checkpoint, so it starts again, in an empty folder.
        for name_left in ("config.yaml", "metrics.csv", "audit.csv"):
            (folder / name_left).unlink(missing_ok=True)
    changed = {k: v for k, v in asdict(recipe).items() if v != getattr(Recipe, k, None)}
    print(f"{name}: {json.dumps(changed)}", flush=True)
    pretrain(recipe, folder, resume=interrupted)


def table(out: Path, rows: list[str]) -> str:
    """Returns the table in Markdown."""
    lines = [
        "| model | parameters | bases seen | test nats per base | perplexity | minus MDLM, paired |"
        " paper, HG38 |",
        "|---|---|---|---|---|---|---|",
    ]
    # All rows have the same test windows, so each is compared with MDLM window by window.
    reference = windows(out / "mdlm") if "mdlm" in rows else None
    for name in rows:
        summary = _summary(out / name)
        # A row that starts from stage A has seen its bases too.
        if Recipe.read(out / name / "config.yaml").init:
            summary["bases_seen"] += _summary(out / STAGE_A)["bases_seen"]
        lines.append(_row(name, summary, windows(out / name), reference, PAPER.get(name, "")))
        if name == "sedd":
            lines.append(_row("sedd, normalised", summary, rescored(out / name), reference, ""))
    return "\n".join(lines) + "\n"


def _summary(folder: Path) -> dict[str, Any]:
    """Reads a run's summary.json."""
    return json.loads((folder / "summary.json").read_text())


def windows(folder: Path) -> pd.DataFrame:
    """Returns the bounds of a run's test windows, indexed by `PLACE`."""
    return pd.read_csv(folder / "bounds.csv").query("split == 'test'").set_index(PLACE)


def rescored(folder: Path) -> pd.DataFrame:
    """Returns the same windows under MDLM's bound, which normalises the scores of a network."""
    kept = folder / "normalised_bounds.csv"
    if not kept.is_file():
        recipe, model = Recipe.read(folder / "config.yaml"), dnadiff.load(folder)
        sample = read_data(recipe, lambda text: None, quiet=True).held_out["test"]
        rows = torch.arange(sample.windows).split(recipe.batch_size)
        batches = ((sample.tokens(part), None) for part in rows)
        bound: Bound = corpus_bound(
            MDLM().bound,
            model.denoiser,
            batches,
            draws=recipe.eval_draws,
            seed=recipe.seed,
            device=model.device,
        )
        places = pd.DataFrame([place[:4] for place in sample.locations], columns=PLACE)
        scored = places.assign(nats=bound.nats.tolist(), bases=bound.bases.tolist())
        write_text(kept, scored.to_csv(index=False))
    return pd.read_csv(kept).set_index(PLACE)


def _row(
    name: str,
    summary: dict[str, Any],
    own: pd.DataFrame,
    reference: pd.DataFrame | None,
    paper: str,
) -> str:
    """Returns one row of the table."""
    bases = torch.tensor(own.bases.to_numpy())
    nats = torch.tensor(own.nats.to_numpy())
    value = ratio(nats, bases)[0]
    sign = "" if summary["test"]["bound"] == "exact" else "≤ "
    paired = ""
    if reference is not None and not own.nats.equals(reference.nats):
        # An evaluation that ran out of time has fewer windows.
        both = own.index.intersection(reference.index)
        difference = torch.tensor((own.nats[both] - reference.nats[both]).to_numpy())
        paired = with_errors(difference, torch.tensor(own.bases[both].to_numpy()), [*both], "+.4f")
    figure = with_errors(nats, bases, [*own.index])
    figures = f"{sign}{figure} | {sign}{math.exp(value):.3f} | {paired} | {paper}"
    return f"| {name} | {summary['params']:,} | {summary['bases_seen']:,} | {figures} |"


def splice(path: Path, text: str) -> None:
    """Replaces the text between the two marks of a document."""
    before, rest = path.read_text(encoding="utf-8").split("<!-- table -->\n", 1)
    _, after = rest.split("<!-- end of table -->\n", 1)
    write_text(path, f"{before}<!-- table -->\n{text}<!-- end of table -->\n{after}")


if __name__ == "__main__":
    main()
