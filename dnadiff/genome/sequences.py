"""Reads the sequences that a Python user passes: every public function takes them through here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from Bio.Seq import Seq
from Bio.SeqRecord import SeqRecord

from dnadiff.errors import InputError, UsageError
from dnadiff.genome.records import parse_fasta
from dnadiff.genome.tables import MISSING_VALUES
from dnadiff.genome.text import lines

Sequences = Iterable[str | Seq | SeqRecord] | Mapping[Any, str | Seq | SeqRecord] | pd.Series | Path
"""What `read_sequences` takes; not one bare string."""

_UNNAMED = {"", "<unknown id>"}  # ids that Biopython gives to a record without one


@dataclass(frozen=True)
class NamedSequences:
    """Sequences in the order in which they were given.

    Attributes:
        texts: the sequences.
        names: of each: the label of a Series, the key of a dict, the id of a record, or sequence_1,
            sequence_2, ... where there is none.
        index: of the Series that they came from, for tables of results; None for all other types.
    """

    texts: list[str]
    names: list[str]
    index: pd.Index | None = None

    def __len__(self) -> int:
        return len(self.texts)


def read_sequences(given: Sequences) -> NamedSequences:
    """Returns sequences of any of the usual types as a list of strings, with their names.

    Args:
        given: a list, tuple, generator or one-dimensional numpy array of strings, `Bio.Seq.Seq` or
            `Bio.SeqRecord.SeqRecord`; a pandas Series of them, whose order counts and not its
            labels; a dict from names to them; or a FASTA file as a `pathlib.Path`. A string is
            always a sequence and never the name of a file.

    Raises:
        UsageError: if it is of another type, or is a single sequence.
        InputError: if a sequence is empty, missing (None, NaN) or of another type, by its position;
            or if the file cannot be read.
    """
    if isinstance(given, Path):
        records = parse_fasta(given, "".join(lines(given, "FASTA")))
        return NamedSequences([text for _, text in records], [name for name, _ in records])
    _check_type(given)

    # Iteration over a Series goes by position; given[i] would go by label.
    items = list(given.values()) if isinstance(given, Mapping) else list(given)
    if isinstance(given, pd.Series):
        labels = None if _is_default(given.index) else list(given.index)
    else:
        labels = list(given) if isinstance(given, Mapping) else None

    texts, names = [], []
    for i, item in enumerate(items):
        texts.append(_text(item, i))
        names.append(_name(item, i) if labels is None else str(labels[i]))
    # A table of results gets the index of the Series, so that it can be joined to its table.
    index = given.index if isinstance(given, pd.Series) else None
    return NamedSequences(texts, names, index)


def _check_type(given: Any) -> None:
    """Refuses what is one sequence, has no order, or cannot be iterated over."""
    if isinstance(given, str | bytes | Seq | SeqRecord):
        # All of these are iterable by letters, so each letter would pass for a sequence.
        raise UsageError(
            f"one {type(given).__name__} is given where several sequences are needed: write "
            "[sequence] for a list of one, or pathlib.Path(name) for a FASTA file"
        )
    if isinstance(given, pd.DataFrame):
        raise UsageError("a table is given where sequences are needed: give its column of them")
    if isinstance(given, Set) and not isinstance(given, Mapping):
        raise UsageError("a set of sequences has no order: give a list")
    if isinstance(given, np.ndarray) and given.ndim != 1:
        raise UsageError(f"an array of sequences must have one dimension, not {given.ndim}")
    if not isinstance(given, Iterable):
        raise UsageError(
            f"sequences cannot be of type {type(given).__name__}: give a list of strings"
        )


def _is_default(index: pd.Index) -> bool:
    """Tells whether an index only counts 0, 1, 2, ..., and so names nothing."""
    return isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1


def _text(item: Any, i: int) -> str:
    """Returns the letters of one item, the one at position `i` from 0.

    Raises:
        InputError: naming its position from 1.
    """
    if isinstance(item, SeqRecord):
        item = item.seq
    if isinstance(item, str | Seq):
        text = str(item)
        if not text:
            raise InputError(f"sequence {i + 1} is empty")
        # "NA" and "nan" would pass as IUPAC letters: they are what pandas and spreadsheets write
        # for no value.
        if text.lower() in MISSING_VALUES:
            raise InputError(f"sequence {i + 1} is missing ({text!r}): leave it out")
        return text
    # pandas.isna of an array would be an array, so only scalars are asked for.
    if item is None or (np.isscalar(item) and pd.isna(item)) or item is pd.NA:  # type: ignore[arg-type]
        raise InputError(f"sequence {i + 1} is missing ({item}): leave it out")
    raise InputError(
        f"sequence {i + 1} is of type {type(item).__name__}; a string, Seq or SeqRecord is needed"
    )


def _name(item: Any, i: int) -> str:
    """Returns the id of a record, or else a name by position."""
    name = item.id if isinstance(item, SeqRecord) else None
    return f"sequence_{i + 1}" if name is None or name in _UNNAMED else str(name)
