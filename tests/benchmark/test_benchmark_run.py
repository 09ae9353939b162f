import logging
import math
import sys

import numpy as np
import pandas as pd
import pytest
from task_files import dna, write_places, write_tables, write_texts

from dnadiff.benchmark import table
from dnadiff.benchmark.baselines import kmer_frequencies
from dnadiff.benchmark.plan import OFFICIAL
from dnadiff.benchmark.run import Options, run
from dnadiff.errors import InputError, UsageError

EASY = {"no": dna(40, 60, seed=1, letters="ACGTAT"), "yes": dna(40, 60, seed=2, letters="ACGTGC")}
OTHERS = {"no": dna(20, 60, seed=3, letters="ACGTAT"), "yes": dna(20, 60, seed=4, letters="ACGTGC")}


def threes(sequences):
    return np.hstack(
        [kmer_frequencies([*sequences, "ACGT" * 9], 1)[:-1], [[len(s)] for s in sequences]]
    )


@pytest.fixture
def folder(tmp_path):
    write_texts(tmp_path / "data", "both", {"train": EASY, "test": OTHERS})
    write_tables(
        tmp_path / "data",
        "human_enhancers_cohn",
        {"test": {"negative": EASY["no"], "positive": EASY["yes"]}},
    )
    return tmp_path / "data"


def test_models_and_baselines_are_in_one_tidy_table(folder):
    calls = []
    results = run(["both"], {"a": threes}, data=folder, progress=lambda *state: calls.append(state))
    assert list(results.columns) == list(table.COLUMNS)
    assert results["model"].unique().tolist() == ["a", "majority", "length", "gc", "kmer"]
    assert results["protocol"].unique().tolist() == ["linear", "baseline"]
    assert set(results["metric"]) == {"accuracy", "mcc", "auroc"} and len(results) == 15
    assert (results["n_train"] == 80).all() and (results["n_test"] == 40).all()
    assert results["split"].unique().tolist() == ["given train and test"]
    accuracy = results[results["metric"] == "accuracy"].set_index("model")["value"]
    assert accuracy["a"] > 0.8 and accuracy["gc"] > 0.8 and accuracy["majority"] == 0.5
    assert calls == [("both: a", 120, 120), *(("both: baselines", i, 4) for i in (1, 2, 3, 4))]


def test_the_same_seed_gives_the_same_table(folder):
    first, again, other = (
        run(["human_enh"], {"a": threes}, Options(seed=seed), data=folder) for seed in (0, 0, 5)
    )
    pd.testing.assert_frame_equal(first, again)
    assert not first["value"].equals(other["value"])


def test_what_is_not_there_is_named_once_and_the_rest_runs(folder, caplog):
    write_places(folder, "human_ocr_ensembl", {"test": {"negative": ["0,chr1,0,9,+"]}})
    with caplog.at_level(logging.INFO, logger="dnadiff"):
        tasks = ["human_e", "human_ocr", "demo_h"]
        results = run(tasks, {}, Options(baselines=["gc"]), data=folder)
    assert results["task"].unique().tolist() == ["human_enhancers_cohn"]
    assert caplog.messages[0].startswith(
        "human_e stands for human_enhancers_cohn and human_enhancers_ensembl and"
    )
    left_out = [line for line in caplog.messages if line.startswith("left out")]
    assert left_out[0] == "left out: human_enhancers_ensembl: not found"
    assert "human_ocr_ensembl: only coordinates; give the genome" in left_out[2]
    assert len(left_out) == 4
    layouts = [line for line in caplog.messages if "TASK/{train,test}/CLASS/*.txt" in line]
    assert len(layouts) == 1 and "dnadiff[benchmarks]" in layouts[0]
    assert not any("--" in line for line in caplog.messages)  # flags are for the command line


def test_if_none_ran_that_is_an_error_of_one_line(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(
        InputError, match=r"no task could run; human_enhancers_cohn: not found; a data folder"
    ) as raised:
        run(["human_enhancers_c"], {}, data=tmp_path / "data", out=tmp_path / "out")
    assert not isinstance(raised.value, UsageError) and "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_task_that_cannot_be_used_says_why(tmp_path):
    write_texts(tmp_path, "mine", {"test": {"only": ["ACGT"]}})
    with pytest.raises(
        InputError, match=r"no task could run; .*mine: test has only the class only"
    ):
        run(["mine"], {}, data=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"baselines": ["cnn"]},
            "'cnn': no such baseline; choose among majority, length, gc, kmer",
        ),
        ({"protocol": "paper"}, "'paper': no such protocol; choose among linear"),
        ({"folds": 1}, "folds must be at least 2, got 1"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"max_items": 1}, "max_items must be at least 2, got 1"),
        ({"baselines": []}, "neither a model nor a baseline"),
        ({"tasks": ["bothh"]}, "'bothh': no such task; the nearest are both"),
    ],
)
def test_wrong_usage(folder, changes, message):
    tasks = changes.pop("tasks", ["both"])
    with pytest.raises(UsageError, match=message):
        run(tasks, {}, Options(**changes), data=folder)


def test_a_full_output_folder_is_refused_before_the_work(folder, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="not empty"):
        run(
            ["both"],
            {"a": lambda _: pytest.fail("work was done")},
            data=folder,
            out=tmp_path / "full",
        )


def test_nothing_is_left_of_a_run_that_fails(folder, tmp_path):
    def breaks(sequences):
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError):
        run(["both"], {"a": breaks}, data=folder, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_page_says_what_its_numbers_are(folder, tmp_path):
    results = run(["both", "human_enhancers_c"], {"a": threes}, data=folder, out=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "results.csv",
        "results.md",
        "results.png",
    ]
    page = (tmp_path / "out" / "results.md").read_text()
    assert "## both: given train and test\n" in page
    assert (
        "## human_enhancers_cohn: 5 grouped folds inside the incomplete test split, NOT the "
        "benchmark's number" in page
    )
    assert "test has 80 of the 6,948 published sequences" in page
    assert (
        "Published accuracy, by another protocol (whole network fine-tuned" in page
        and "MDLM 0.743" in page
    )
    lines = [line for line in page.splitlines() if line.startswith("| a | linear |")]
    value, low, high = results.loc[
        (results["model"] == "a") & (results["metric"] == "mcc"), ["value", "low", "high"]
    ].iloc[0]
    assert f"{value:.3f} ({low:.3f} to {high:.3f})" in lines[0]
    again = pd.read_csv(tmp_path / "out" / "results.csv")
    pd.testing.assert_frame_equal(again, results, check_dtype=False)
    pd.testing.assert_frame_equal(
        table.read(tmp_path / "out" / "results.csv"), results, check_dtype=False
    )
    assert (tmp_path / "out" / "results.png").read_bytes().startswith(b"\x89PNG")


def rows(split, task="human_enhancers_cohn"):
    values = {
        "accuracy": (0.5, 0.4, 0.6),
        "mcc": (0.0, math.nan, math.nan),
        "auroc": (math.nan,) * 3,
    }
    return pd.DataFrame(
        [
            (task, model, protocol, split, metric, *numbers, 80, 20, 20, 0, "a note; another")
            for model, protocol in [("m", "linear"), ("gc", "baseline")]
            for metric, numbers in values.items()
        ],
        columns=list(table.COLUMNS),
    )


def test_only_the_complete_official_split_is_the_benchmarks():
    assert "NOT the benchmark's number" not in table.markdown(rows(OFFICIAL))
    assert "NOT the benchmark's number" in table.markdown(rows("incomplete train and test"))
    assert "NOT the benchmark's number" not in table.markdown(
        rows("given train and test", task="mine")
    )


def test_undefined_numbers_are_marked():
    page = table.markdown(rows(OFFICIAL))
    assert "| m | linear | 0.500 (0.400 to 0.600) | 0.000 (no interval) | undefined |" in page
    assert "* a note\n* another\n" in page


def test_the_picture_sets_models_apart_and_leaves_pyplot_alone(monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    figure = table.picture(pd.concat([rows(OFFICIAL), rows("given train and test", task="mine")]))
    assert "matplotlib.pyplot" not in sys.modules
    top, below = figure.axes
    assert [label.get_text() for label in top.get_yticklabels()] == ["m (linear)", "gc (baseline)"]
    assert top.get_title() == "human_enhancers_cohn:\nofficial train and test"
    assert below.get_title() == "mine:\ngiven train and test"
    assert (
        len({line.get_color() for line in top.get_lines()}) == 3
    )  # model, baseline, and the line between


def test_kmers_beat_gc_on_real_sequences(shared_data):
    sequences = shared_data / "genomic_benchmarks" / "sequences"
    results = run(["human_nontata"], {}, Options(max_items=2500), data=sequences)
    assert results["split"].unique().tolist() == ["5 grouped folds inside the sampled test split"]
    area = results[results["metric"] == "auroc"].set_index("model")
    assert area.loc["majority", "value"] == area.loc["length", "value"] == 0.5
    assert area.loc["kmer", "value"] > area.loc["gc", "high"]
    assert 0.7 < area.loc["gc", "value"] < 0.85
