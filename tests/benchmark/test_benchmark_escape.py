"""Names that users chose never reach a terminal, a page or a spreadsheet as something else."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_files import write_texts

from dnadiff.benchmark import table
from dnadiff.benchmark.escape import csv_cell, from_csv_cell, markdown, printable
from dnadiff.benchmark.run import Options, run
from dnadiff.errors import InputError
from dnadiff.report.page import report


@given(st.text(st.sampled_from("'=+-@\t\ra")))
def test_cells_are_restored_and_never_begin_a_formula(text):
    assert from_csv_cell(csv_cell(text)) == text
    assert csv_cell(text)[:1] not in tuple("=+-@\t\r")


def test_escapes_by_hand():
    assert printable("a\x1b[2Jb\n é") == r"a\x1b[2Jb\n é"
    assert markdown("a|b<i>\n") == r"a\|b\<i\>\\n"
    assert csv_cell("=1+1") == "'=1+1" and csv_cell("a=1") == "a=1" and csv_cell("'a") == "'a"


DANGEROUS = "=HYPERLINK(1)\x1b[31m|<b>$x"


@pytest.fixture
def results(tmp_path):
    content = {"a": ["ACGT"] * 9, "b": ["GGCC"] * 9}
    write_texts(tmp_path / "data", "mine", {"train": content, "test": content})
    models = {DANGEROUS: lambda sequences: [[s.count("A")] for s in sequences]}
    options = Options(baselines=["gc"])
    return run(["mine"], models, options, data=tmp_path / "data", out=tmp_path / "out")


def test_a_model_with_a_dangerous_name(results, tmp_path):
    raw = (tmp_path / "out" / "results.csv").read_text()
    assert "'=HYPERLINK" in raw and ",=HYPERLINK" not in raw
    assert table.read(tmp_path / "out" / "results.csv")["model"][0] == DANGEROUS
    page = (tmp_path / "out" / "results.md").read_text()
    assert "\x1b" not in page and "<b>" not in page.replace("\\<b\\>", "")
    assert r"| =HYPERLINK(1)\\x1b\[31m\|\<b\>$x | linear |" in page
    html = report([tmp_path / "out" / "results.csv"])
    assert "\x1b" not in html and "<b>" not in html and r"\x1b[31m|&lt;b&gt;$x" in html


def test_results_without_a_number_of_groups_are_still_shown(results, tmp_path):
    old = pd.read_csv(tmp_path / "out" / "results.csv").drop(columns="n_components")
    old.to_csv(tmp_path / "old.csv", index=False)
    assert "18 sequences scored." in report([tmp_path / "old.csv"])


def test_a_class_that_cannot_be_printed_is_refused(tmp_path):
    write_texts(tmp_path, "mine", {"train": {"a": ["ACGT"], "b\x1b[2J": ["ACGA"]}})
    with pytest.raises(InputError, match=r"b\\x1b\[2J: its class has a character") as raised:
        run(["mine"], {}, data=tmp_path)
    assert str(raised.value).isprintable()


def test_a_task_that_cannot_be_printed_is_shown_escaped(tmp_path, capsys, caplog):
    write_texts(tmp_path, "mi\x1bne", {"train": {"a": ["ACGT"] * 9, "b": ["GGGG"] * 9}})
    with pytest.raises(InputError) as raised:
        run(["mi"], {}, data=tmp_path)
    page = str(raised.value) + "".join(caplog.messages)
    assert "\x1b" not in page and r"mi\x1bne" in page
