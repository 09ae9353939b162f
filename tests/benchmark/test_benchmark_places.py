"""Baselines on the place in the genome alone; and the sequences that are cut from it."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import write_fasta
from task_files import write_places, write_texts

from dnadiff.benchmark.baselines import Lookup, fit_tree, places
from dnadiff.benchmark.items import PLACE
from dnadiff.benchmark.plan import make_plan
from dnadiff.benchmark.run import Options, run
from dnadiff.benchmark.sources import find
from dnadiff.benchmark.tasks import Task, registry
from dnadiff.errors import InputError
from dnadiff.genome.fasta import Genome

intervals = st.tuples(st.integers(0, 40), st.integers(1, 12)).map(lambda pair: (pair[0], sum(pair)))
items = st.lists(st.tuples(intervals, st.integers(0, 2)), min_size=1, max_size=12)


def literal_lookup(train, place):
    """Shares of three classes, with sets of bases."""

    def shares(place, others):
        bases = [
            sum(len({*range(*place)} & {*range(*at)}) for at, label in others if label == k)
            for k in range(3)
        ]
        return np.array(bases) / sum(bases) if sum(bases) else None

    found = shares(place, train)
    if found is not None:
        return found
    alone = [
        label
        for i, (at, label) in enumerate(train)
        if shares(at, train[:i] + train[i + 1 :]) is None
    ]
    counts = np.bincount(alone or [label for _, label in train], minlength=3)
    return counts / counts.sum()


@given(items, st.lists(intervals, min_size=1, max_size=6))
def test_the_lookup_equals_one_by_sets_of_bases(train, asked):
    train = [*train, ((60, 61), 2)]  # so that all three classes are known
    lookup = Lookup(
        np.array([at for at, _ in train], float), np.array([label for _, label in train])
    )
    expected = [literal_lookup(train, place) for place in asked]
    assert np.allclose(lookup.predict_proba(np.array(asked, float)), expected)


@pytest.fixture
def genome(tmp_path):
    return Genome.open(write_fasta(tmp_path / "genome.fa", {"chr1": 4000, "chr2": 4000}))


LINES = {
    "train": {
        "a": [f"{i},chr1,{60 * i},{60 * i + 50},+" for i in range(30)],
        "b": [f"{i},chr2,{60 * i},{60 * i + 50},-" for i in range(30)],
    },
    "test": {
        "a": [f"{i},chr1,{60 * i + 5},{60 * i + 50},-" for i in range(9)],
        "b": [f"{i},chr2,{60 * i + 9},{60 * i + 59},+" for i in range(9)],
    },
}


def test_places_follow_the_items_through_plan_and_sample(tmp_path, genome):
    write_places(tmp_path, "mine", LINES)
    found = find(Task("mine"), tmp_path, genome)
    for plan in (make_plan(Task("mine"), found), make_plan(Task("mine"), found, max_items=8)):
        assert len(plan.places) == len(plan.sequences)
        for sequence, (chrom, start, end, strand) in zip(
            plan.sequences, plan.places[PLACE].to_numpy(), strict=True
        ):
            assert (
                len(sequence) == end - start
                and genome.tokens(chrom, start, end, strand) is not None
            )
        assert set(places(plan)[:, 0] // 1e10) == {0, 1}
        assert ((places(plan)[:, 1] - places(plan)[:, 0]) == [len(s) for s in plan.sequences]).all()


def test_a_task_of_coordinates_is_solved_by_looking_them_up(tmp_path, genome):
    write_places(tmp_path, "mine", LINES)
    calls = []
    results = run(
        ["mine"], {}, data=tmp_path, genome=genome, progress=lambda *state: calls.append(state[1:])
    )
    accuracy = results[results["metric"] == "accuracy"].set_index("model")["value"]
    assert accuracy["lookup"] == accuracy["chromosome"] == 1 and accuracy["majority"] == 0.5
    assert calls == [(i, 6) for i in range(1, 7)]


def test_where_no_places_are_known_the_other_baselines_run(tmp_path):
    write_texts(
        tmp_path,
        "mine",
        {split: {"a": ["ACGT"] * 9, "b": ["GGCC"] * 9} for split in ("train", "test")},
    )
    assert "lookup" not in set(run(["mine"], {}, data=tmp_path)["model"])
    with pytest.raises(
        InputError, match="mine: lookup: only where its items are given as coordinates"
    ):
        run(["mine"], {}, Options(baselines=["lookup"]), data=tmp_path)


def published(folder, task, split):
    """Coordinates and class ids of a published split."""
    files = sorted((folder / task / split).glob("*.csv.gz"))
    return pd.concat(
        pd.read_csv(path, dtype={"region": str}).assign(label=label)
        for label, path in enumerate(files)
    ).reset_index()


@pytest.mark.parametrize(
    ("task", "lookup", "chromosome"),
    [("human_enhancers_ensembl", 0.875, 0.542), ("human_nontata_promoters", 0.997, 0.696)],
)
def test_published_tasks_that_need_no_model(shared_data, task, lookup, chromosome):
    train, test = (
        published(shared_data / "genomic_benchmarks" / "datasets", task, s)
        for s in ("train", "test")
    )
    contig = 1e10 * pd.factorize(pd.concat((train, test))["region"])[0]
    axis = np.stack([contig + np.r_[train[side], test[side]] for side in ("start", "end")], 1)
    train_axis, test_axis = np.split(axis, [len(train)])
    found = Lookup(train_axis, train["label"].to_numpy()).predict_proba(test_axis).argmax(1)
    assert (found == test["label"]).mean() == pytest.approx(lookup, abs=5e-4)
    tree = fit_tree(contig[: len(train), None], train["label"].to_numpy(), None, 0)
    assert (tree.predict(contig[len(train) :, None]) == test["label"]).mean() == pytest.approx(
        chromosome, abs=5e-4
    )


@pytest.mark.parametrize(
    ("task", "held"),
    [
        ("human_enhancers_cohn", {"negative": 63, "positive": 93}),
        ("human_nontata_promoters", {"negative": 103, "positive": 172}),
    ],
)
def test_sequences_cut_by_coordinates_are_the_official_text(shared_data, task, held):
    """Every test sequence whose bases we hold is one that the benchmark publishes for its class.

    The text is published in an order of its own, so a sequence is looked for among all of its
    class; 251 bases and more do not agree by chance. About half of the bases were lifted over from
    GRCh37, with 1 difference in a million: one in a few thousand sequences could differ from the
    text in a base, and would have to lie in an interval of source "lifted". None of these does.
    """
    folder = shared_data / "genomic_benchmarks"
    cut = find(
        registry()[task], folder / "datasets", Genome.open(shared_data / "genomes" / "hg38.fa.gz")
    ).test
    text = find(registry()[task], folder / "sequences").test
    official = [
        {s for s, c in zip(text.sequences, text.labels, strict=True) if c == label}
        for label in (0, 1)
    ]
    wrong = [
        tuple(cut.places.iloc[i])
        for i, (sequence, label) in enumerate(zip(cut.sequences, cut.labels, strict=True))
        if sequence not in official[label]
    ]
    assert wrong == []
    assert np.bincount(cut.labels).tolist() == [*held.values()]
    assert len({*cut.sequences}) == len(cut)  # so that none stands for another
