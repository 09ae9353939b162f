import numpy as np
import pytest
from sklearn.metrics import accuracy_score, matthews_corrcoef, roc_auc_score

from dnadiff.benchmark.metrics import METRICS, score


def values(*args, **kwargs):
    return dict(zip(METRICS, score(*args, resamples=2, **kwargs)["value"], strict=True))


def two(scores):
    scores = np.asarray(scores, float)
    return np.stack((1 - scores, scores), axis=1)


@pytest.fixture(params=[2, 3, 5])
def predictions(request):
    rng = np.random.default_rng(request.param)
    labels = rng.integers(0, request.param, 400)
    probabilities = rng.dirichlet(np.ones(request.param), 400).round(2)  # rounding makes ties
    probabilities[np.arange(400), labels] += 0.3
    return labels, probabilities / probabilities.sum(1, keepdims=True)


def test_values_are_scikit_learns(predictions):
    labels, probabilities = predictions
    said = probabilities.argmax(1)
    got = values(labels, probabilities)
    assert got["accuracy"] == pytest.approx(accuracy_score(labels, said))
    assert got["mcc"] == pytest.approx(matthews_corrcoef(labels, said))
    binary = probabilities.shape[1] == 2
    expected = roc_auc_score(
        labels, probabilities[:, 1] if binary else probabilities, multi_class="ovr"
    )
    assert got["auroc"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], (1, 1, 1)),
        ([0, 0, 1, 1], [0.9, 0.8, 0.2, 0.1], (0, -1, 0)),
        ([0, 0, 1, 1], [0.7, 0.7, 0.7, 0.7], (0.5, 0, 0.5)),
        ([0, 1, 1, 1], [0.2, 0.2, 0.2, 0.2], (0.25, 0, 0.5)),
        ([0, 0, 1, 1], [0.1, 0.6, 0.6, 0.9], (0.75, 1 / np.sqrt(3), 0.875)),
        ([1, 1], [0.1, 0.9], (0.5, 0, np.nan)),
    ],
)
def test_values_by_hand(labels, scores, expected):
    assert [*values(np.array(labels), two(scores)).values()] == pytest.approx(expected, nan_ok=True)


def test_scores_of_different_folds_are_never_compared():
    labels = np.array([0, 1, 0, 1, 0])
    scores = two([0.1, 0.2, 0.8, 0.9, 0.95])
    folds = np.array([0, 0, 1, 1, 2])
    assert values(labels, scores)["auroc"] == pytest.approx(3 / 6)
    assert values(labels, scores, folds=folds)["auroc"] == 1
    shuffled = np.array([3, 0, 4, 2, 1])
    assert values(labels[shuffled], scores[shuffled], folds=folds[shuffled])["auroc"] == 1


def width(labels, probabilities, **kwargs):
    rows = score(labels, probabilities, resamples=2000, **kwargs).set_index("metric")
    return rows.loc["accuracy", "high"] - rows.loc["accuracy", "low"]


def test_intervals_are_as_wide_as_theory_has_them():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 1500)
    probabilities = two(np.where(rng.random(1500) < 0.8, labels, 1 - labels))
    binomial = 2 * 1.96 * np.sqrt(0.8 * 0.2 / 1500)
    assert width(labels, probabilities) == pytest.approx(binomial, rel=0.1)
    # Every item four times over says no more than once.
    copies = np.arange(1500).repeat(4)
    repeated = width(labels.repeat(4), probabilities.repeat(4, axis=0), components=copies)
    assert repeated == pytest.approx(binomial, rel=0.1)


def test_intervals_hold_the_value_and_are_a_function_of_the_seed(predictions):
    first, again, other = (score(*predictions, seed=seed, resamples=200) for seed in (1, 1, 2))
    assert first.equals(again) and not first.equals(other)
    assert first["value"].equals(other["value"])
    assert ((first["low"] < first["value"]) & (first["value"] < first["high"])).all()


def test_one_component_has_no_interval(predictions):
    rows = score(*predictions, components=np.zeros(400, int))
    assert rows[["low", "high"]].isna().all(axis=None) and rows["value"].notna().all()


def test_a_resample_without_a_class_is_left_out_of_the_interval():
    rows = score(np.array([0, 1, 1]), two([0.2, 0.6, 0.1]), resamples=100).set_index("metric")
    assert rows.loc["auroc", "value"] == 0.5
    assert (rows.loc["auroc", "low"], rows.loc["auroc", "high"]) == (0, 1)


def test_a_constant_prediction_has_a_constant_interval():
    rows = score(np.array([0, 1] * 50), two([0.3] * 100), resamples=100).set_index("metric")
    assert rows.loc["mcc", ["value", "low", "high"]].tolist() == [0, 0, 0]
    assert rows.loc["auroc", ["value", "low", "high"]].tolist() == [0.5, 0.5, 0.5]
