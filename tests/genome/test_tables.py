"""Labelled tables: every dialect reads alike, and what is wrong is named by its line."""

import csv
import gzip

import pandas as pd
import pytest

from dnadiff.errors import InputError
from dnadiff.genome.tables import StrandedInterval, read_table

ROWS = [("label", "sequence"), ("on", "ACGT"), ("off", "ggnn")]


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def text_of(separator, end="\n"):
    return "".join(separator.join(row) + end for row in ROWS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", text_of(",")),
        ("t.tsv", text_of("\t")),
        ("t.bed", text_of("\t")),
        ("t", text_of(",")),
        ("T.CSV", text_of(",")),
        ("T.TSV", text_of("\t")),
        ("t.csv", text_of(";")),
        ("t.csv", text_of("\t")),  # the header decides, not the name
        ("t.tsv", text_of(",")),
        ("t.csv", text_of(",", "\r\n")),
        ("t.csv", b"\xef\xbb\xbf" + text_of(",").encode()),
        ("t.csv.gz", gzip.compress(text_of(",").encode(), mtime=0)),
        ("T.CSV.GZ", gzip.compress(b"\xef\xbb\xbf" + text_of(";").encode(), mtime=0)),
        ("t.csv", gzip.compress(text_of(",").encode(), mtime=0)),
        ("t.csv", "\n\n" + text_of(",")),
        ("t.csv", 'label,sequence\n"on","ACGT"\noff, ggnn \n'),
        ("t.csv", "Class,note,SEQUENCE\n on ,x;y,ACGT\n,,\noff,,ggnn\n"),
        ("t.csv", "#label , sequence\non,ACGT\noff,ggnn"),
        ("t.csv", "class,label,sequence\nx,on,ACGT\nx,off,ggnn\n"),
    ],
)
def test_all_dialects_read_alike(tmp_path, name, content):
    table = read_table(write(tmp_path / name, content))
    assert table.labels() == ["on", "off"]
    assert table.sequences() == ["ACGT", "GGNN"]
    assert table.splits() is None and table.row_names() is None


@pytest.mark.parametrize("name", ["t.parquet", "T.PARQUET", "t.parquet.gz"])
def test_parquet_reads_as_text_does(tmp_path, name):
    frame = pd.DataFrame({"Class": [1, 2], "Sequence": ["ACGT", "ggnn"], "name": ["x", None]})
    frame.to_parquet(tmp_path / "plain")
    raw = (tmp_path / "plain").read_bytes()
    table = read_table(write(tmp_path / name, gzip.compress(raw) if name.endswith("gz") else raw))
    assert table.labels() == ["1", "2"] and table.sequences() == ["ACGT", "GGNN"]
    assert table.row_names() == ["x", ""]
    assert table.where(1).endswith(f"{name}, row 2")


def test_categories_of_parquet_are_read_as_their_names(tmp_path):
    frame = pd.DataFrame({"label": pd.Categorical(["b", "a"]), "sequence": ["A", "C"]})
    frame.to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").labels() == ["b", "a"]


@pytest.mark.parametrize("text", ["NA", "nan", "NaN", "None", "null", "#N/A", "<NA>", "n/a", ""])
def test_a_missing_sequence_is_refused_by_line(tmp_path, text):
    path = write(tmp_path / "t.tsv", f"label\tsequence\na\tACGT\n\n\nb\t{text}\n")
    with pytest.raises(InputError, match=r"t.tsv, line 5: no sequence.*; write it there, or"):
        read_table(path).sequences()


@pytest.mark.parametrize("value", [None, float("nan"), "NA"])
def test_a_missing_sequence_of_parquet_is_refused_by_row(tmp_path, value):
    frame = pd.DataFrame({"label": ["a", "b", "a"], "sequence": ["ACGT", "ACGA", value]})
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"t.parquet, row 3: no sequence"):
        read_table(tmp_path / "t.parquet").sequences()


def test_a_class_may_be_called_na_or_null_but_not_nothing(tmp_path):
    path = write(tmp_path / "t.csv", "label,sequence\nNA,ACGT\nnull,ACGA\nNone,A\nnan,C\n")
    assert read_table(path).labels() == ["NA", "null", "None", "nan"]
    pd.DataFrame({"label": ["a", None], "sequence": ["A", "C"]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"t.parquet, row 2: its label is empty"):
        read_table(tmp_path / "t.parquet").labels()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty; its first line must name the columns"),
        ("\n\n", "empty; its first line must name the columns"),
        ("label,sequence\n", "nothing but a header"),
        ("label,sequence\n,\n", "nothing but a header"),
        ("label,sequence\na,ACGT\nb\n", "line 3: 1 cells, where the header names 2 columns"),
        ("label,sequence\na,ACGT\n\nb,A,C\n", "line 4: 3 cells, where the header names 2 columns"),
        ("label,Label ,sequence\na,b,A\n", "line 1: 2 columns are named label"),
        ("\nlabel,x,x\na,b,A\n", "line 2: 2 columns are named x"),
        ('label,sequence\na,"ACGT\nb,ACGA\n', "line 2: quotation marks that do not match"),
        ('label,sequence\na,"AC\nb,"ACGA\n', "line 2: quotation marks that do not match"),
        ('label,sequence\na,"AC\nGT"\n', "line 2: a quoted cell goes on to line 3"),
        ('label,sequence\na,"AC"GT\n', "line 2: quotation marks that do not match"),
    ],
)
def test_tables_of_the_wrong_shape(tmp_path, text, message):
    with pytest.raises(InputError, match=f"t.csv(, |: ){message}"):
        read_table(write(tmp_path / "t.csv", text))


def test_columns_without_a_name_may_be_several(tmp_path):
    """As pandas and R write them for row numbers."""
    path = write(tmp_path / "t.csv", ",,label,sequence\n0,1,a,ACGT\n")
    assert read_table(path).sequences() == ["ACGT"]


def test_a_sequence_may_be_longer_than_the_csv_module_allows(tmp_path):
    limit = csv.field_size_limit()
    path = write(tmp_path / "t.csv", f"label,sequence\na,{'ACGT' * limit}\n")
    assert len(read_table(path).sequences()[0]) == 4 * limit
    assert csv.field_size_limit() == limit


def test_intervals_are_zero_based_and_stranded(tmp_path):
    rows = ["label,chrom,start,end,strand", "a,chr1,0,10,+", "a,2,5,9,-", "b,x,1,2,", "b,x,1,2,."]
    table = read_table(write(tmp_path / "t.csv", "\n".join(rows)))
    assert table.has_intervals and not table.has_sequences
    assert table.intervals() == [
        StrandedInterval("chr1", 0, 10, "+"),
        StrandedInterval("2", 5, 9, "-"),
        StrandedInterval("x", 1, 2, "+"),
        StrandedInterval("x", 1, 2, "+"),
    ]
    without = write(tmp_path / "u.csv", "class;Region;Start;End\na;chr1;0;10\n")
    assert read_table(without).intervals() == [StrandedInterval("chr1", 0, 10, "+")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("NA,1,2,+", "no chromosome"),
        (",1,2,+", "no chromosome"),
        ("chr1,NA,2,+", "'NA' is not an integer coordinate"),
        ("chr1,1.0,2,+", "'1.0' is not an integer coordinate"),
        ("chr1,1,,+", "'' is not an integer coordinate"),
        ("chr1,1,٢,+", "'٢' is not an integer coordinate"),
        ("chr1,1,2,x", "'x' in the strand column"),
    ],
)
def test_intervals_that_cannot_be_meant(tmp_path, row, message):
    path = write(tmp_path / "t.csv", f"chrom,start,end,strand\nchr1,1,2,+\n{row}\n")
    with pytest.raises(InputError, match=f"t.csv, line 3: {message}"):
        read_table(path).intervals()


def test_what_is_not_parquet_is_named(tmp_path):
    with pytest.raises(InputError, match=r"t.parquet: cannot be read as Parquet"):
        read_table(write(tmp_path / "t.parquet", "label,sequence\na,A\n"))
