import numpy as np
import pandas as pd
import pytest
from Bio.Seq import Seq
from Bio.SeqRecord import SeqRecord

from dnadiff.errors import InputError, UsageError
from dnadiff.genome.sequences import read_sequences

TEXTS = ["ACGT", "GGCC", "TTAA"]
UNNAMED = ["sequence_1", "sequence_2", "sequence_3"]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (TEXTS, UNNAMED),
        (tuple(TEXTS), UNNAMED),
        ((text for text in TEXTS), UNNAMED),
        (np.array(TEXTS), UNNAMED),
        (np.array(TEXTS, dtype=object), UNNAMED),
        ([Seq(text) for text in TEXTS], UNNAMED),
        ([SeqRecord(Seq(text)) for text in TEXTS], UNNAMED),
        ([SeqRecord(Seq(text), id=f"r{i}") for i, text in enumerate(TEXTS)], ["r0", "r1", "r2"]),
        (dict(zip("abc", TEXTS, strict=True)), ["a", "b", "c"]),
        (pd.Series(TEXTS), UNNAMED),
        (pd.Series(TEXTS, index=[2, 0, 1]), ["2", "0", "1"]),
        (pd.Series(TEXTS, index=["x", "x", "y"]), ["x", "x", "y"]),
        (pd.Series(["A", *TEXTS])[lambda s: s.str.len() > 1], ["1", "2", "3"]),
    ],
)
def test_every_usual_type_is_read_by_position(given, names):
    found = read_sequences(given)
    assert found.texts == TEXTS and found.names == names and len(found) == 3
    assert found.index is (given.index if isinstance(given, pd.Series) else None)


def test_a_path_is_a_fasta_file(tmp_path):
    (tmp_path / "x.fa").write_text(">one first\nAC\nGT\n>two\nGGCC\n")
    found = read_sequences(tmp_path / "x.fa")
    assert (found.names, found.texts) == (["one", "two"], ["ACGT", "GGCC"])
    with pytest.raises(InputError, match=r"none\.fa"):
        read_sequences(tmp_path / "none.fa")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ACGT", r"one str .* write \[sequence\]"),
        (b"ACGT", "one bytes"),
        (Seq("ACGT"), "one Seq "),
        (SeqRecord(Seq("ACGT")), "one SeqRecord"),
        (pd.DataFrame({"sequence": TEXTS}), "give its column"),
        (set(TEXTS), "no order"),
        (np.array([TEXTS]), "one dimension, not 2"),
        (5, "cannot be of type int"),
        (None, "cannot be of type NoneType"),
    ],
)
def test_what_is_no_series_of_sequences_is_refused(given, message):
    with pytest.raises(UsageError, match=message):
        read_sequences(given)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (None, "sequence 2 is missing"),
        (float("nan"), "sequence 2 is missing"),
        (pd.NA, "sequence 2 is missing"),
        ("", "sequence 2 is empty"),
        (b"ACGT", "sequence 2 is of type bytes"),
        (["A", "C"], "sequence 2 is of type list"),
        (7, "sequence 2 is of type int"),
    ],
)
def test_an_item_that_is_no_sequence_is_named_by_its_position(item, message):
    with pytest.raises(InputError, match=message):
        read_sequences(["ACGT", item])


def test_no_sequences_are_no_error():
    assert len(read_sequences([])) == 0


@pytest.mark.parametrize("text", ["NA", "nan", "None", "#N/A", "null"])
def test_text_that_stands_for_a_missing_value_is_refused_by_position(text):
    with pytest.raises(InputError, match=r"sequence 2 is missing"):
        read_sequences(["ACGT", text])
