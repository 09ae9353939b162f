"""The verb: which models and baselines it runs."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from task_files import dna, write_tables

import dnadiff.model
from dnadiff.benchmark.baselines import BASELINES
from dnadiff.cli.benchmark import benchmark

CONTENT = {"a": dna(20, 40, seed=1), "b": dna(20, 40, seed=2)}
WITHOUT_PLACES = [name for name in BASELINES if not BASELINES[name].needs_places]


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "tasks").mkdir()
    write_tables(tmp_path / "tasks", "mine", {"train": CONTENT, "test": CONTENT})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        dnadiff.model,
        "load",
        lambda path: SimpleNamespace(embed=lambda s: np.array([[len(str(path))]] * len(s))),
    )
    return tmp_path


def models_of(folder):
    return pd.read_csv(folder / "out" / "results.csv")["model"].unique().tolist()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["kmer"], ["kmer"]),
        (["gc", "length"], ["gc", "length"]),
        (["all"], WITHOUT_PLACES),
        ([], WITHOUT_PLACES),
    ],
)
def test_baselines_alone_need_no_model(here, given, expected):
    benchmark(task=["mine"], baselines=given, data="tasks", out="out", quiet=True)
    assert models_of(here) == expected


def test_without_a_run_the_shipped_model_is_evaluated(here):
    benchmark(task=["mine"], data="tasks", out="out", quiet=True)
    assert models_of(here) == ["default", *WITHOUT_PLACES]


def test_models_of_the_same_name_are_both_evaluated(here):
    folders = ["a/run", "b/run/model", "c/x"]
    benchmark(
        task=["mine"], checkpoint=folders, baselines=["gc"], data="tasks", out="out", quiet=True
    )
    assert models_of(here) == ["a/run", "b/run/model", "x", "gc"]
