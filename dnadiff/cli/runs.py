"""Which model a command means."""

from __future__ import annotations

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
        raise InputError("no model under ./runs: make one with dnadiff pretrain --genome FILE, or give --checkpoint")
    newest = max(models, key=lambda run: (run / "model" / "config.json").stat().st_mtime)
    print(f"model: {newest} (the newest run; choose with --checkpoint)", file=sys.stderr)
    return newest
