"""Trains the model that ships as `default`: starts or goes on, and releases what there is at any moment.

    python benchmarks/train_default.py --genome hg38.fa.gz --intervals covered.bed --out runs/default
    python benchmarks/train_default.py --release --out runs/default

The first command may be killed at any time and given again. The second copies the run, lowers the learning rate over
another tenth of its steps, and ends the copy with its final bounds: `runs/default-STEPS`.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from dnadiff.files import resource
from dnadiff.training.pretrain import pretrain
from dnadiff.training.recipe import Recipe, read_settings

COOLDOWN = 0.1  # of the released run's steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--genome")
    parser.add_argument("--intervals")
    parser.add_argument("--out", type=Path, default=Path("runs/default"))
    parser.add_argument(
        "--release", action="store_true", help="end a copy of the run, with its final bounds"
    )
    arguments = parser.parse_args()
    if arguments.release:
        release(arguments.out)
    else:
        train(arguments.out, arguments.genome, arguments.intervals)


def train(run: Path, genome: str | None, intervals: str | None) -> None:
    """Starts the run, or goes on with it from its last checkpoint."""
    if (run / "checkpoints" / "last.ckpt").is_file():
        pretrain(Recipe.read(run / "config.yaml"), run, resume=True)
        return
    if run.exists():
        shutil.rmtree(run)  # ended before its first checkpoint: there is nothing to lose
    settings = read_settings(resource("configs", "default.yaml"))
    pretrain(Recipe(genome=[str(genome)], intervals=intervals, **settings), run)


def release(run: Path) -> None:
    """Ends a copy of the run after a cooldown of a tenth of its steps."""
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True, map_location="cpu")
    steps = round(state["global_step"] / (1 - COOLDOWN))
    copy = run.with_name(f"{run.name}-{steps}")
    shutil.copytree(run, copy)
    # Warm-up is a share of the run; it is over, and must stay so in a shorter run.
    recipe = replace(
        Recipe.read(run / "config.yaml"), max_steps=steps, warmup=0.0, cooldown=COOLDOWN
    )
    (copy / "config.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    pretrain(recipe, copy, resume=True)


if __name__ == "__main__":
    main()
