"""Small tasks on disk, and sequences to fill them with."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd


def dna(count: int, length: int, seed: int = 0, letters: str = "ACGT") -> list[str]:
    """Random sequences."""
    rng = np.random.default_rng(seed)
    return ["".join(row) for row in rng.choice(list(letters), (count, length))]


def other_strand(sequence: str) -> str:
    return sequence[::-1].translate(str.maketrans("ACGT", "TGCA"))


def write_texts(root: Path, name: str, splits: dict[str, dict[str, list[str]]]) -> Path:
    """The package's layout: TASK/{train,test}/CLASS/*.txt."""
    for split, classes in splits.items():
        for label, sequences in classes.items():
            folder = root / name / split / label
            folder.mkdir(parents=True)
            for i, sequence in enumerate(sequences):
                (folder / f"{i}.txt").write_text(sequence)
    return root


def write_tables(
    root: Path, name: str, splits: dict[str, dict[str, list[str]]], ending: str = "tsv.gz"
) -> Path:
    """Flat tables: TASK.{train,test}.ENDING."""
    for split, classes in splits.items():
        frame = pd.DataFrame(
            [(label, sequence) for label, sequences in classes.items() for sequence in sequences],
            columns=["class", "sequence"],
        )
        path = root / f"{name}.{split}.{ending}"
        if "parquet" in ending:
            frame.to_parquet(path)
        else:
            frame.to_csv(path, index=False, sep="\t" if "tsv" in ending else ",")
    return root


def write_places(root: Path, name: str, splits: dict[str, dict[str, list[str]]]) -> Path:
    """The package's layout of coordinates: TASK/{train,test}/CLASS.csv.gz, from lines of text."""
    for split, classes in splits.items():
        folder = root / name / split
        folder.mkdir(parents=True)
        for label, lines in classes.items():
            with gzip.open(folder / f"{label}.csv.gz", "wt") as file:
                file.write("\n".join(["id,region,start,end,strand", *lines]) + "\n")
    return root
