import logging

import numpy as np
import pandas as pd
import pytest

from dnadiff.benchmark.tasks import registry, resolve
from dnadiff.errors import UsageError

NAMES = [
    "demo_coding_vs_intergenomic_seqs",
    "demo_human_or_worm",
    "drosophila_enhancers_stark",
    "dummy_mouse_enhancers_ensembl",
    "human_enhancers_cohn",
    "human_enhancers_ensembl",
    "human_ensembl_regulatory",
    "human_nontata_promoters",
    "human_ocr_ensembl",
]


def names(tasks):
    return [task.name for task in tasks]


def test_registry_has_the_nine_tasks_with_sorted_classes_and_their_references():
    tasks = registry()
    assert sorted(tasks) == NAMES
    for task in tasks.values():
        assert list(task.classes) == sorted(task.classes)
        assert all(list(task.rows[split]) == list(task.classes) for split in ("train", "test"))
    assert list(tasks["human_ensembl_regulatory"].classes) == ["enhancer", "ocr", "promoter"]
    assert list(tasks["demo_human_or_worm"].references) == ["hg38", "ce11"]
    assert tasks["human_nontata_promoters"].published_rows("test") == 9034
    assert tasks["human_nontata_promoters"].published["MDLM"] == 0.940


@pytest.mark.parametrize("name", NAMES)
def test_registry_agrees_with_the_published_coordinates(shared_data, name):
    task = registry()[name]
    lengths = []
    for split, rows in task.rows.items():
        files = sorted(
            (shared_data / "genomic_benchmarks" / "datasets" / name / split).glob("*.csv.gz")
        )
        frames = {
            path.name.removesuffix(".csv.gz"): pd.read_csv(path, usecols=["start", "end"])
            for path in files
        }
        assert {label: len(frame) for label, frame in frames.items()} == rows
        lengths += [(frame["end"] - frame["start"]).to_numpy() for frame in frames.values()]
    every = np.concatenate(lengths)
    assert task.length == {
        "shortest": every.min(),
        "median": int(np.median(every)),
        "longest": every.max(),
    }


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (["human_enhancers_cohn"], ["human_enhancers_cohn"]),
        (["human_enhancers"], ["human_enhancers_cohn", "human_enhancers_ensembl"]),
        (["human_ocr_ensembl", "human_o"], ["human_ocr_ensembl"]),
        (["dros", "demo_h"], ["drosophila_enhancers_stark", "demo_human_or_worm"]),
        (["all"], NAMES),
    ],
)
def test_names_and_their_beginnings_resolve(asked, found):
    assert names(resolve(asked)) == found


def test_a_beginning_is_explained(caplog):
    with caplog.at_level(logging.INFO, logger="dnadiff"):
        resolve(["human_enhancers"])
    assert caplog.messages == [
        "human_enhancers stands for human_enhancers_cohn and human_enhancers_ensembl"
    ]


def test_own_tasks_count_but_do_not_hide_the_registry():
    assert names(resolve(["mine"], own=["mine", "mine_too"])) == ["mine"]
    assert names(resolve(["min"], own=["mine", "mine_too"])) == ["mine", "mine_too"]
    assert names(resolve(["all"], own=["zebra"])) == [*NAMES, "zebra"]
    assert resolve(["human_enhancers_cohn"], own=["human_enhancers_cohn"])[0].rows


@pytest.mark.parametrize("name", ["human_enhancer_cohn", "enhancers_cohn", "Human_enhancers_cohn"])
def test_an_unknown_name_gets_the_nearest(name):
    with pytest.raises(UsageError, match=r"no such task; the nearest are .*human_enhancers_cohn"):
        resolve([name])


@pytest.mark.parametrize("asked", [[], [""], ["qqqqqqqq"]])
def test_a_name_like_no_other_lists_all_tasks(asked):
    with pytest.raises(UsageError, match="human_ocr_ensembl"):
        resolve(asked)
