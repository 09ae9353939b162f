from dataclasses import replace

import numpy as np
import pytest
from task_files import dna, other_strand

from dnadiff.benchmark.items import Items, TaskData
from dnadiff.benchmark.plan import OFFICIAL, TRAIN_ONLY, make_plan
from dnadiff.benchmark.tasks import Task
from dnadiff.errors import InputError

A, B = Task("t"), ("no", "yes")
KNOWN = replace(A, rows={"train": {"no": 20, "yes": 20}, "test": {"no": 10, "yes": 10}})


def items(count, seed):
    return Items(dna(count, 80, seed=seed), np.tile([0, 1], count // 2))


def data(train=None, test=None, **changes):
    return TaskData("t", B, train, test, **({"dropped": {}, "source": "here"} | changes))


def test_both_splits_are_used_as_they_are():
    plan = make_plan(KNOWN, data(items(40, 1), items(20, 2)), folds=5)
    assert plan.split == OFFICIAL and plan.folds == 1
    assert (plan.fold == np.repeat([TRAIN_ONLY, 0], [40, 20])).all()
    ((train, test),) = plan.parts()
    assert (train == np.arange(40)).all() and (test == np.arange(40, 60)).all()
    assert plan.scored.sum() == 20
    assert plan.notes[-1] == "0.0% of the test sequences are in a group with a training sequence"


def test_the_notes_count_test_sequences_that_overlap_training():
    train, test = items(40, 1), items(20, 2)
    test.sequences[:5] = [other_strand(sequence) for sequence in train.sequences[:5]]
    notes = make_plan(KNOWN, data(train, test)).notes
    assert "25.0% of the test sequences are in a group with a training sequence" in notes


@pytest.mark.parametrize(
    ("task", "found", "settings", "split", "note"),
    [
        (
            KNOWN,
            data(test=items(20, 2)),
            {},
            "5 grouped folds inside the official test split",
            None,
        ),
        (
            KNOWN,
            data(train=items(40, 2)),
            {"folds": 3},
            "3 grouped folds inside the official train split",
            None,
        ),
        (A, data(test=items(20, 2)), {}, "5 grouped folds inside the given test split", None),
        (A, data(items(40, 1), items(20, 2)), {}, "given train and test", None),
        (
            KNOWN,
            data(items(40, 1), items(18, 2), dropped={"on N": 2}),
            {},
            "incomplete train and test",
            "test has 18 of the 20 published sequences",
        ),
        (
            KNOWN,
            data(items(40, 1), items(18, 2), dropped={"on N": 2}),
            {},
            "incomplete train and test",
            "2 items on N were dropped",
        ),
        (
            KNOWN,
            data(test=items(20, 2)),
            {"max_items": 10},
            "5 grouped folds inside the sampled test split",
            "random sample of 10 of 20 test sequences",
        ),
    ],
)
def test_the_split_says_what_it_is(task, found, settings, split, note):
    plan = make_plan(task, found, **settings)
    assert plan.split == split
    assert note is None or note in plan.notes


def test_copies_are_in_one_fold():
    half = items(40, 1)
    both = Items(
        half.sequences + [other_strand(sequence) for sequence in half.sequences],
        np.concatenate([half.labels] * 2),
    )
    plan = make_plan(A, data(test=both), folds=4)
    assert (plan.fold[:40] == plan.fold[40:]).all()
    assert sorted(index for _, test in plan.parts() for index in test) == list(range(80))
    for train, test in plan.parts():
        assert not set(plan.components[train]) & set(plan.components[test])


def test_the_notes_name_one_large_component():
    many = items(40, 1)
    many.sequences[:24] = [
        many.sequences[0][:40] + sequence[:40] for sequence in many.sequences[:24]
    ]
    notes = make_plan(A, data(test=many)).notes
    assert notes == (
        "the largest group of sequences that share 31-mers holds 60.0% of them",
        "the folds are unequal: the largest holds 60.0%",
    )


def test_the_notes_name_folds_with_uneven_classes():
    many = items(40, 1)
    many.sequences[:12:2] = [
        many.sequences[0][:40] + sequence[:40] for sequence in many.sequences[:12:2]
    ]
    notes = make_plan(A, data(test=many)).notes
    assert notes[1].startswith("the share of a class differs by up to 17.1% between folds")


@pytest.mark.parametrize(
    "found",
    [
        Items(dna(1, 60) * 40, np.tile([0, 1], 20)),
        Items(dna(3, 60), np.array([0, 1, 1])),
        Items([*dna(1, 60) * 8, *dna(12, 60, seed=3)], np.repeat([0, 1], [8, 12])),
    ],
    ids=["all copies", "fewer than folds", "one class in one component"],
)
def test_what_cannot_be_divided_is_refused(found):
    with pytest.raises(
        InputError,
        match=r"here: .* cannot be divided into 5 folds .*use fewer folds or more data",
    ):
        make_plan(A, data(test=found))


def test_plans_are_a_function_of_the_seed():
    found = data(test=items(40, 1))
    first, again, other = (make_plan(A, found, seed=seed, max_items=30) for seed in (1, 1, 2))
    assert (first.fold == again.fold).all() and first.sequences == again.sequences
    assert first.sequences != other.sequences
