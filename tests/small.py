"""Small genomes and runs that the tests of several packages share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from dnadiff.alphabet import DNA
from dnadiff.training.module import Pretraining
from dnadiff.training.recipe import Recipe


@contextmanager
def power_cut(at: int) -> Iterator[None]:
    """Kills the training run inside the block at its step number `at`, without a signal."""
    step = Pretraining.training_step

    def killed(self, batch, batch_idx):
        if batch.step == at:
            raise RuntimeError("power cut")
        return step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(Pretraining, "training_step", killed)
        yield


def write_fasta(path: Path, contigs: dict[str, int | str], seed: int = 0) -> Path:
    """Writes a FASTA of random bases, or of the given text, 60 on a line."""
    rng = torch.Generator().manual_seed(seed)
    with path.open("w") as file:
        for name, content in contigs.items():
            if isinstance(content, int):
                content = DNA.decode(torch.randint(7, 11, (content,), generator=rng))
            lines = "\n".join(content[i : i + 60] for i in range(0, len(content), 60))
            file.write(f">{name}\n{lines}\n")
    return path


def tiny_recipe(genome: Path, **changes) -> Recipe:
    """Returns a recipe that trains for seconds."""
    settings = {
        "genome": [str(genome)],
        "d_model": 8,
        "n_layer": 1,
        "window": 64,
        "batch_size": 4,
        "max_steps": 6,
        "checkpoint_every": 3,
        "log_every": 2,
        "eval_windows": 8,
    }
    return Recipe(**(settings | changes))


CONTIGS = {"one": 6000, "two": 5000, "three": 900, "four": 800}
