import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from task_files import dna, other_strand

from dnadiff.benchmark import kmers as kmers_module
from dnadiff.benchmark.folds import assign, groups, spread
from dnadiff.benchmark.kmers import canonical_kmers


def spelled(sequence, k):
    """Canonical k-mers by their definition, as numbers with A 0, C 1, G 2, T 3."""
    words = [sequence[i : i + k] for i in range(len(sequence) - k + 1)]
    known = [min(word, other_strand(word)) for word in words if set(word) <= set("ACGT")]
    return [int("".join(str("ACGT".index(letter)) for letter in word), 4) for word in known]


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 6, 7, 8, 13, 30, 31])
@pytest.mark.parametrize("batch", [1, 90, 1 << 22])
def test_kmers_are_those_of_the_definition(k, batch, monkeypatch):
    monkeypatch.setattr(kmers_module, "_BATCH_BASES", batch)
    sequences = [
        *dna(3, 40, seed=1),
        "ACG",
        *dna(3, 35, seed=2, letters="ACGTN"),
        "A" * 31,
        "T" * 31,
    ]
    got = [
        pair
        for kmers, owner in canonical_kmers(sequences, k)
        for pair in zip(owner, kmers, strict=True)
    ]
    assert got == [
        (i, kmer) for i, sequence in enumerate(sequences) for kmer in spelled(sequence, k)
    ]


@pytest.mark.parametrize("k", [0, 32])
def test_kmers_longer_than_64_bits_are_refused(k):
    with pytest.raises(ValueError, match=str(k)):
        [*canonical_kmers(["ACGT"], k)]


SHARED = dna(1, 31, seed=3)[0]
LEFT, RIGHT, OTHER = dna(3, 50, seed=7)


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        (LEFT + SHARED, SHARED + RIGHT, True),
        (LEFT + SHARED[:30] + "A", "C" + SHARED[:30] + "T" + RIGHT, False),
        (LEFT + SHARED, other_strand(SHARED) + RIGHT, True),
        (LEFT + SHARED, other_strand(SHARED)[:30] + other_strand(SHARED)[-2] + RIGHT, False),
        (LEFT + SHARED, SHARED[::-1] + RIGHT, False),
        (LEFT + SHARED[:15] + "N" + SHARED[16:], SHARED + RIGHT, False),
        (SHARED, SHARED, True),
        ("N" * 50, "N" * 50, True),
        ("ACGT", "ACGTA", False),
        ("ACCT", "ACCT", True),
        ("ACCT", "AGGT", True),
        (LEFT, RIGHT, False),
    ],
    ids=[
        "31",
        "30",
        "31 turned",
        "30 turned",
        "reversed only",
        "an N",
        "equal",
        "no base",
        "short",
        "short equal",
        "short turned",
        "nothing",
    ],
)
def test_sequences_are_joined_by_31_bases_on_either_strand(first, second, joined):
    found = groups([first, OTHER, second])
    assert bool(found[0] == found[2]) is joined
    assert found[1] not in (found[0], found[2])


def test_chains_are_one_component():
    text = dna(1, 200, seed=9)[0]
    pieces = [text[i : i + 60] for i in range(0, 140, 29)]
    strands = [piece if i % 2 else other_strand(piece) for i, piece in enumerate(pieces)]
    assert len(set(groups([*strands, *dna(4, 60, seed=11)]))) == 1 + 4
    apart = [text[i : i + 60] for i in range(0, 140, 30)]  # overlaps of 30 bases
    assert len(set(groups(apart))) == len(apart)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ACGTN", min_size=1, max_size=9), min_size=1, max_size=12))
def test_components_are_those_of_pairwise_comparison(sequences):
    k = 4
    words = [
        set(spelled(sequence, k)) or {min(sequence, other_strand(sequence))}
        for sequence in sequences
    ]
    expected = list(range(len(sequences)))
    for _ in sequences:
        expected = [
            min(expected[j] for j in range(len(words)) if words[i] & words[j])
            for i in range(len(sequences))
        ]
    found = groups(sequences, k)
    pairs = set(zip(found.tolist(), expected, strict=True))
    assert len(pairs) == len(set(found.tolist())) == len(set(expected))


@pytest.fixture
def labelled():
    rng = np.random.default_rng(0)
    components = np.sort(rng.integers(0, 120, 600))
    return rng.integers(0, 3, 600), components


def test_folds_keep_components_whole_and_balance_the_classes(labelled):
    labels, components = labelled
    fold = assign(labels, components, 5, seed=1)
    assert all(len(set(fold[components == component])) == 1 for component in set(components))
    counts = np.array(
        [[np.sum((fold == i) & (labels == label)) for label in range(3)] for i in range(5)]
    )
    assert (abs(counts - counts.mean(0)) <= 4).all()


def test_folds_are_a_function_of_the_seed(labelled):
    assert np.array_equal(assign(*labelled, 5, seed=1), assign(*labelled, 5, seed=1))
    assert not np.array_equal(assign(*labelled, 5, seed=1), assign(*labelled, 5, seed=2))


def test_a_component_larger_than_a_fold_stays_whole():
    labels = np.tile([0, 1], 50)
    components = np.where(np.arange(100) < 60, 0, np.arange(100))
    fold = assign(labels, components, 5, seed=0)
    assert len(set(fold[:60])) == 1
    assert np.sort(np.bincount(fold, minlength=5)).tolist() == [10, 10, 10, 10, 60]


def test_samples_keep_the_shares_of_the_classes():
    labels = np.repeat([0, 1, 2], [700, 299, 1])
    chosen = spread(labels, 100, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [70, 30, 1]
    assert np.array_equal(chosen, np.unique(chosen))
    assert not np.array_equal(chosen, spread(labels, 100, seed=1))
    assert np.array_equal(spread(labels, 1000, seed=0), np.arange(1000))


@pytest.mark.parametrize(
    ("name", "components", "largest"),
    [("human_enhancers_cohn", 5494, 1329), ("human_nontata_promoters", 5579, 821)],
)
def test_components_of_the_published_test_splits(shared_data, name, components, largest):
    path = shared_data / "genomic_benchmarks" / "sequences" / f"{name}.test.tsv.gz"
    sizes = np.bincount(groups(pd.read_csv(path, sep="\t")["sequence"].tolist()))
    assert (len(sizes), sizes.max()) == (components, largest)
