"""``dnadiff pretrain``: a genome in, a run folder out."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from dnadiff.errors import UsageError
from dnadiff.training.recipe import Recipe


def pretrain(
    out: str | None = None, resume: str | None = None, quiet: bool = False, **settings: Any
) -> None:
    """Trains a diffusion language model on a genome, or on sequences with classes, and writes a run folder.

    Held-out chromosomes, or sequences, are evaluated at the end.

    Args:
        out: the run folder, absent or empty; by default runs/GENOME-OBJECTIVE-DATE.
        resume: go on with this interrupted run, from its last checkpoint; its config.yaml gives
            all other flags. "auto" goes on with the run in --out if it has a checkpoint, and starts
            it otherwise, so that the same command can be given again after every interruption.
        quiet: print nothing but the summary.
        **settings: see `dnadiff.training.recipe.Recipe`.
    """
    recipe = Recipe(**settings)
    if resume == "auto":
        if out is None:
            raise UsageError("--resume auto needs --out, the folder of the run")
        folder, goes_on = Path(out), "auto"
    else:
        folder, goes_on = Path(resume or out or _new_run(recipe)), resume is not None
    from dnadiff.training.pretrain import pretrain as train

    summary = train(recipe, folder, resume=goes_on, quiet=quiet)
    if summary:
        test = summary["test"]
        sign = {"upper": "<=", "exact": "="}[test["bound"]]
        print(
            f"{folder}: test {sign} {test['nats_per_base']:.4f} +- {test['se'] or float('nan'):.4f} nats per base, "
            f"perplexity {test['ppl']:.3f} ({test['windows']:,} windows)"
            + (
                f"; no class told {sign} {test['unconditional']['nats_per_base']:.4f}"
                if "unconditional" in test
                else ""
            )
        )


def prepare(words: list[str]) -> list[str]:
    """Fills in the recipe where none is named: the interrupted run's own, or the one for this machine."""
    for i, word in enumerate(words):
        if word == "--config" or word.startswith("--config="):
            return words
        if word == "--resume" or word.startswith("--resume="):
            run = word.partition("=")[2] or (words[i + 1] if i + 1 < len(words) else "")
            if run == "auto":
                continue
            return ["--config", f"{run}/config.yaml", *words]
    import torch

    name = "caduceus-ps-118" if torch.cuda.is_available() else "laptop"
    what = {
        "caduceus-ps-118": "the paper's recipe, 50,000 steps of 2^20 bases, days on one GPU",
        "laptop": "the paper's architecture on a CPU, an hour of training",
    }[name]
    print(
        f"recipe {name}: {what}; choose another with --config, or limit it with --max-time",
        file=sys.stderr,
    )
    return ["--config", name, *words]


def _new_run(recipe: Recipe) -> Path:
    stem = Path(recipe.labels or recipe.genome[0]).name.split(".")[0]
    return Path("runs") / f"{stem}-{recipe.objective}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"


COMMANDS = {"pretrain": pretrain}
