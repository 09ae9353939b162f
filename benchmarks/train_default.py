"""Trains the model that ships as `default`, and ends a copy of the run at any moment.

    python benchmarks/train_default.py --genome hg38.fa.gz --intervals my.bed --out runs/default
    python benchmarks/train_default.py --release --out runs/default

The first command may be killed at any time and given again. The second copies the run, lowers the
learning rate over another tenth of its steps, and ends the copy with its final bounds:
`runs/default-STEPS`.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from dnadiff.errors import InputError
from dnadiff.files import resource
from dnadiff.training.checkpoints import newest_checkpoint
from dnadiff.training.pretrain import pretrain
from dnadiff.training.recipe import Recipe, read_settings

COOLDOWN = 0.1  # share of the released run's steps


def main() -> None:
    """Reads the flags and does what they say."""
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
    settings = read_settings(resource("configs", "default.yaml"))
    pretrain(Recipe(genome=[str(genome)], intervals=intervals, **settings), run, resume="auto")


def release(run: Path) -> None:
    """Ends a copy of the run after a cooldown of a tenth of its steps."""
    found = newest_checkpoint(run / "checkpoints")
    if found is None:
        raise InputError(f"{run}: there is no checkpoint in it yet")
    steps = round(found[1]["global_step"] / (1 - COOLDOWN))
    copy = run.with_name(f"{run.name}-{steps}")
    # The run may be training; its lock is not the copy's.
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns(".*"))

    # A resumed run may have another end. Warm-up is a share of the run: it is over, and must stay
    # over in a shorter run.
    recipe = replace(
        Recipe.read(run / "config.yaml"), max_steps=steps, warmup=0.0, cooldown=COOLDOWN
    )
    pretrain(recipe, copy, resume=True)


if __name__ == "__main__":
    main()
