import json

import numpy as np
import pandas as pd
import pytest

from dnadiff.benchmark.table import COLUMNS
from dnadiff.errors import InputError
from dnadiff.report import plots
from dnadiff.report.page import report

METRICS = pd.DataFrame(
    {
        "step": [2, 4, 4],
        "bases_seen": [2e6, 4e6, 4e6],
        "bases_per_second": [1.0, 1.0, 1.0],
        "train_nats_per_base": [1.38, 1.35, np.nan],
        "valid_nats_per_base": [np.nan, np.nan, 1.34],
    }
)
BOUND = {
    "nats_per_base": 1.3,
    "se": 0.01,
    "ppl": 3.669,
    "bound": "upper",
    "windows": 9,
    "bases": 900,
}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "<run>"
    folder.mkdir()
    METRICS.to_csv(folder / "metrics.csv", index=False)
    (folder / "config.yaml").write_text("window: 99\n")
    return folder


def test_an_unfinished_run_says_so(run):
    html = report([run])
    assert "not finished" in html and html.count("<svg") == 1
    assert "&lt;run&gt;" in html and "<run>" not in html  # names are escaped


def test_a_finished_run_shows_its_bounds(run):
    summary = {"params": 1234, "steps": 4, "bases_seen": 4000000, "bases_per_second": 99.5}
    (run / "summary.json").write_text(
        json.dumps(summary | {"valid": BOUND, "test": BOUND | {"se": None}})
    )
    html = report([run])
    assert "1,234 parameters" in html and "<td>1.3000</td>" in html and "<td>0.0100</td>" in html
    assert "<td>-</td>" in html and "upper bound" in html and "window: 99" in html


def test_results_of_a_benchmark(tmp_path):
    rows = [
        dict(
            zip(
                COLUMNS,
                ("toy", model, kind, "test", metric, 0.7, 0.6, 0.8, 10, 20, 20, 0, ""),
                strict=True,
            )
        )
        for model, kind in (("mine", "linear"), ("gc", "baseline"))
        for metric in ("accuracy", "mcc", "auroc")
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "results.csv", index=False)
    html = report([tmp_path / "results.csv"])
    assert "<h3>toy</h3>" in html and html.count("<td>0.700</td>") == 6 and html.count("<svg") == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "a,b\n1,2\n", "no column 'task'"),
        ("x.csv", "", "cannot be read as a table"),
        ("x.fa", "", "no FASTA records|not a FASTA"),
        ("x.fa", "hello\n", "no FASTA records|not a FASTA"),
    ],
)
def test_other_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        report([tmp_path / name])


def test_the_curve_has_its_levels():
    axes = plots.training_curve(METRICS, BOUND, {"entropy": 1.2}).axes[0]
    levels = {line.get_label(): line.get_ydata()[0] for line in axes.lines}
    assert levels["entropy"] == 1.2 and levels["uniform bases, ln 4"] == pytest.approx(
        1.386, abs=1e-3
    )
    assert any(label.startswith("test bound 1.3000 ± 0.0100") for label in levels)


def test_composition_counts_bases():
    bases, spread = plots.composition(["AACG", "TTTT"]).axes
    assert [patch.get_height() for patch in bases.patches] == [0.25, 0.125, 0.125, 0.5]
    assert sum(patch.get_height() for patch in spread.patches) == 2
