"""Fixtures for the tests of dnadiff.genome."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from fasta_files import Records, fasta_text, write

from dnadiff.genome import Genome


@pytest.fixture(scope="session")
def fasta(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Returns a function that writes records to a FASTA file, bgzipped if its name ends in .gz."""
    number = itertools.count()

    def make(records: Records, name: str = "genome.fa", width: int = 60, end: str = "\n") -> Path:
        folder = tmp_path_factory.mktemp(f"fasta{next(number)}")
        return write(
            folder / name,
            fasta_text(records, width, end),
            "bgzip" if name.endswith(".gz") else "plain",
        )

    return make


@pytest.fixture(scope="session")
def genome_of(fasta: Callable[..., Path]) -> Callable[..., Genome]:
    """Returns a function that writes records to a FASTA file and opens it as a genome."""
    return lambda records, **options: Genome.open(fasta(records, **options))
