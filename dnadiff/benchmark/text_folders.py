"""Tasks as the genomic-benchmarks package keeps them: one text file for each sequence."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dnadiff.benchmark.items import SPLITS, Reading, class_of
from dnadiff.errors import InputError
from dnadiff.genome.tables import upper_dna


def read_text_folders(folder: Path) -> Reading | None:
    """Reads ``folder/{train,test}/CLASS/*.txt``, one sequence each; the folder's name is the class.

    Returns:
        None if there is no folder of a class.

    Raises:
        InputError: naming the folder or file that holds no sequence or no DNA, or whose name cannot
            be printed.
    """
    frames = {}
    for split in SPLITS:
        classes = _class_folders(folder / split)
        if classes:
            frames[split] = pd.concat([_read_class(path) for path in classes])
    return Reading(frames, str(folder)) if frames else None


def _class_folders(split: Path) -> list[Path]:
    """Returns the folders of classes in the folder of a split, sorted by name."""
    if not split.is_dir():
        return []
    folders = [path for path in split.iterdir() if path.is_dir()]
    # Hidden folders are made by programs, e.g. .ipynb_checkpoints.
    return sorted(path for path in folders if not path.name.startswith("."))


def _read_class(folder: Path) -> pd.DataFrame:
    """Reads the class and sequence of each file of one class."""
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise InputError(
            f"{folder}: no .txt file in it; a class folder holds one file for each sequence"
        )
    texts = []
    for path in files:
        # Bytes that are no text become a character that the check below names with its position.
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        texts.append("".join(text.split()))
        if not texts[-1]:
            raise InputError(f"{path}: empty sequence; fill it in or remove it")
    sequences = upper_dna(texts, lambda row: str(files[row]))
    return pd.DataFrame({"class": class_of(folder, folder.name), "sequence": sequences})
