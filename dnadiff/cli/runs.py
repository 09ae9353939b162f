"""Which model a command means."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from dnadiff.errors import InputError


def newest_run(folder: Path = Path("runs")) -> Path:
    """The run in ./runs whose model is the newest; it is named on stderr.

    Raises:
        InputError: if there is none, saying how to make one.
    """
    models = [path.parents[1] for path in folder.glob("*/model/config.json")]
    if not models:
        raise InputError(
            "no model under ./runs: make one with dnadiff pretrain --genome FILE, or give --checkpoint"
        )
    newest = max(models, key=lambda run: (run / "model" / "config.json").stat().st_mtime)
    print(f"model: {newest} (the newest run; choose with --checkpoint)", file=sys.stderr)
    return newest


def init_means_checkpoint(words: list[str]) -> list[str]:
    """The words with --init as --checkpoint: the model to start from has one name wherever none is trained."""
    return [re.sub(r"^--init(?=$|=)", "--checkpoint", word) for word in words]
