import numpy as np
import pytest
from task_files import dna, other_strand

from dnadiff.benchmark.baselines import BASELINES, fit_tree, gc, kmer_frequencies, lengths
from dnadiff.benchmark.logistic import STRENGTHS, fit_logistic
from dnadiff.benchmark.metrics import score
from dnadiff.benchmark.plan import Plan
from dnadiff.benchmark.probe import embeddings, probe
from dnadiff.benchmark.protocol import out_of_fold


def plan_of(sequences, labels, folds=4):
    labels = np.asarray(labels)
    everyone = np.arange(len(labels))
    return Plan(
        tuple("abc"[: labels.max() + 1]), sequences, labels, everyone, everyone % folds, "own", ()
    )


def accuracy(plan, probabilities):
    return (
        score(plan.labels, probabilities, folds=plan.fold, resamples=2)
        .set_index("metric")
        .loc["accuracy", "value"]
    )


def area(plan, probabilities):
    return (
        score(plan.labels, probabilities, folds=plan.fold, resamples=2)
        .set_index("metric")
        .loc["auroc", "value"]
    )


def threes(sequences):
    return kmer_frequencies(sequences, 3)


def silent(done, total):
    pass


RICH = dna(150, 60, seed=1, letters="ACGTGC")
POOR = dna(150, 60, seed=2, letters="ACGTAT")
LONG = dna(150, 70, seed=3)
SHORT = dna(150, 50, seed=4)
MOTIF = [s[:20] + "TATAAATATAAA" + s[32:] for s in dna(150, 60, seed=5)]
PLAIN = dna(150, 60, seed=6)


@pytest.mark.parametrize(
    ("negative", "positive", "who_sees_it"),
    [
        (POOR, RICH, {"gc", "kmer"}),
        (SHORT, LONG, {"length"}),
        (PLAIN, MOTIF, {"kmer", "gc"}),
        (PLAIN, LONG[:60], {"majority", "length"}),
        (PLAIN, dna(150, 60, seed=8), set()),
    ],
    ids=["gc", "length", "motif", "majority", "nothing"],
)
def test_each_baseline_sees_what_it_is_made_to_see(negative, positive, who_sees_it):
    plan = plan_of([*negative, *positive], [0] * len(negative) + [1] * len(positive), folds=3)
    scores = {
        name: accuracy(plan, out_of_fold(plan, baseline.features(plan), baseline.fit, 0))
        for name, baseline in BASELINES.items()
        if not baseline.needs_places
    }
    assert {name for name in who_sees_it if scores[name] > 0.65} == who_sees_it, scores
    if not {"kmer", "majority"} & who_sees_it:
        assert scores["kmer"] < 0.6, scores
    if not {"length", "majority"} & who_sees_it:
        assert scores["length"] == scores["majority"] == 0.5


def test_features_by_hand():
    sequences = ["GGCA", "NNGN", "acgt".upper(), "NNNN"]
    assert lengths(sequences).tolist() == [[4], [4], [4], [4]]
    assert gc(sequences).tolist() == [[0.75], [1], [0.5], [0]]
    # canonical 1-mers are A (or T) and C (or G)
    assert kmer_frequencies(sequences, 1).tolist() == [[0.25, 0.75], [0, 1], [0.5, 0.5], [0, 0]]
    assert kmer_frequencies(["AC", "GT", "AA"], 2).tolist() == [[0, 1], [0, 1], [1, 0]]


def test_kmers_are_the_same_on_both_strands():
    sequences = dna(20, 300, seed=9)
    turned = [other_strand(sequence) for sequence in sequences]
    assert np.array_equal(*np.split(kmer_frequencies([*sequences, *turned]), 2))
    assert kmer_frequencies(dna(100, 500, seed=3)).shape == (100, 512)


def test_no_sequence_has_a_kmer():
    assert kmer_frequencies(["ACG", "NNNNNNN"], 5).tolist() == [[0], [0]]


@pytest.mark.parametrize("name", [name for name in BASELINES if not BASELINES[name].needs_places])
def test_labels_of_a_fold_do_not_touch_its_own_predictions(name):
    sequences = [*POOR, *RICH]
    plan = plan_of(sequences, [0] * 150 + [1] * 150)
    features, fit = BASELINES[name].features(plan), BASELINES[name].fit
    turned = plan_of(sequences, np.where(plan.fold == 0, 1 - plan.labels, plan.labels))
    before, after = (out_of_fold(p, features, fit, 0) for p in (plan, turned))
    assert np.array_equal(before[plan.fold == 0], after[plan.fold == 0])
    assert not np.array_equal(before, after)


def test_items_that_are_only_fitted_on_have_no_prediction():
    plan = plan_of([*POOR, *RICH], [0] * 150 + [1] * 150)
    official = Plan(
        plan.classes,
        plan.sequences,
        plan.labels,
        plan.components,
        np.minimum(plan.fold, 1) - 1,
        "own",
        (),
    )
    probabilities = out_of_fold(official, threes(plan.sequences), fit_logistic, 0)
    assert np.array_equal(np.isnan(probabilities).all(1), ~official.scored)
    assert probabilities[official.scored].sum(1) == pytest.approx(1)


def test_a_tree_finds_a_class_in_the_middle():
    lengths_of = np.array([[100.0], [200], [300]] * 60)
    fitted = fit_tree(lengths_of, np.array([0, 1, 0] * 60), np.arange(180), 0)
    assert fitted.predict_proba(np.array([[100.0], [200], [300]])).tolist() == [
        [1, 0],
        [0, 1],
        [1, 0],
    ]


def test_the_probe_learns_from_embeddings_and_not_from_noise():
    plan = plan_of([*PLAIN, *MOTIF], [0] * 150 + [1] * 150)
    assert accuracy(plan, probe(threes, plan, 0, silent)) > 0.9
    areas = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        areas.append(
            area(plan, probe(lambda s, rng=rng: rng.normal(size=(len(s), 30)), plan, 0, silent))
        )
    assert np.mean(areas) == pytest.approx(0.5, abs=0.06)


def test_the_probe_knows_several_classes():
    plan = plan_of([*POOR, *RICH, *MOTIF], [0] * 150 + [1] * 150 + [2] * 150)
    probabilities = probe(threes, plan, 0, silent)
    assert probabilities.shape == (450, 3)
    assert accuracy(plan, probabilities) > 0.75


def test_each_sequence_is_embedded_once_and_keeps_its_place():
    sequences = [*LONG, *SHORT, "ACGT", *RICH]
    embedded, moves = [], []

    def embed(chunk):
        embedded.extend(chunk)
        return np.array([[len(sequence), sequence.count("A")] for sequence in chunk])

    got = embeddings(embed, sequences, lambda done, total: moves.append((done, total)))
    assert got.tolist() == [[len(sequence), sequence.count("A")] for sequence in sequences]
    assert sorted(embedded) == sorted(sequences) and embedded == sorted(embedded, key=len)
    assert moves == [(256, 451), (451, 451)]


@pytest.mark.parametrize("values", [np.zeros(4), np.zeros((3, 2)), np.full((4, 2), np.nan)])
def test_embeddings_of_a_wrong_shape_are_refused(values):
    with pytest.raises(ValueError, match=r"embeddings of 4 sequences: shape"):
        embeddings(lambda _: values, ["A", "C", "G", "T"], silent)


def chosen_strength(features, labels, components):
    return fit_logistic(features, labels, components, 0)[-1].C


def test_the_penalty_is_strong_for_noise_and_weak_for_signal():
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 200)
    noise = rng.normal(size=(400, 50))
    signal = noise.copy()
    signal[:, 0] += 3 * labels
    everyone = np.arange(400)
    assert chosen_strength(noise, labels, everyone) == STRENGTHS[0]
    assert chosen_strength(signal, labels, everyone) >= 1e-2


def test_the_penalty_is_chosen_across_components_not_within_them():
    # Four near-copies of each item share a random label: within components noise looks like signal.
    rng = np.random.default_rng(0)
    features = rng.normal(size=(100, 40)).repeat(4, axis=0) + 0.01 * rng.normal(size=(400, 40))
    labels = rng.integers(0, 2, 100).repeat(4)
    assert chosen_strength(features, labels, np.arange(400)) > 1e-3
    assert chosen_strength(features, labels, np.arange(100).repeat(4)) == STRENGTHS[0]


def test_too_few_components_to_choose_by():
    assert (
        chosen_strength(np.array([[0.0], [1], [0], [1]]), np.array([0, 1, 0, 1]), np.zeros(4, int))
        == 1
    )


def test_nearly_equal_features_give_finite_probabilities():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(300, 1))
    features = base + 1e-6 * rng.normal(size=(300, 60))  # nearly one feature, sixty times
    labels = (base[:, 0] + rng.normal(size=300) > 0).astype(int)
    assert np.isfinite(
        fit_logistic(features, labels, np.arange(300), 0).predict_proba(features)
    ).all()
