import numpy as np
import pytest
from scipy.stats import norm
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


def test_values_equal_those_of_scikit_learn(predictions):
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


def test_intervals_have_the_binomial_width():
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


@pytest.mark.parametrize("count", [1, 5, 19, 20])
def test_there_is_no_interval_below_twenty_components(predictions, count):
    rows = score(*predictions, components=np.arange(400) % count, resamples=100)
    assert rows["value"].notna().all()
    assert rows[["low", "high"]].notna().all(axis=None) == (count == 20)
    assert rows[["low", "high"]].isna().all(axis=None) == (count < 20)


def test_a_class_of_few_components_has_no_interval_of_correlation_and_ranking():
    labels = np.array([1] * 19 + [0] * 81)
    rows = score(labels, two(np.linspace(0, 1, 100)), resamples=100).set_index("metric")
    assert rows["low"].notna().to_dict() == {"accuracy": True, "mcc": False, "auroc": False}


def test_the_interval_of_predictions_without_an_error_is_exact():
    """All of 100 right: p is above the root of 0.025 = p^100 (Clopper and Pearson 1934)."""
    rows = score(np.array([0, 1] * 50), two([0.1, 0.9] * 50), resamples=50).set_index("metric")
    assert rows.loc["accuracy", "low"] == pytest.approx(0.025 ** (1 / 100))
    assert rows.loc["mcc", "low"] == pytest.approx(2 * 0.025 ** (1 / 50) - 1)  # 50 of each class
    assert rows.loc["auroc", "low"] == pytest.approx(0.025 ** (1 / 50))
    assert rows["high"].tolist() == [1, 1, 1]


def test_pairs_of_which_one_is_right_do_not_make_an_interval_of_no_width():
    rows = score(
        np.array([0, 1] * 50), two([0.3] * 100), components=np.arange(100) // 2, resamples=50
    ).set_index("metric")
    assert rows.loc["accuracy", "value"] == 0.5
    assert rows.loc["accuracy", "low"] < 0.42 and rows.loc["accuracy", "high"] > 0.58


def clustered(rng, sizes, accuracy, correlation):
    """Labels, probabilities and components; whether answers are right is beta-binomial."""
    components = np.repeat(np.arange(len(sizes)), sizes)
    if correlation == 1:
        chance = (rng.random(len(sizes)) < accuracy).astype(float)
    elif correlation == 0:
        chance = np.full(len(sizes), accuracy)
    else:
        total = 1 / correlation - 1
        chance = rng.beta(accuracy * total, (1 - accuracy) * total, len(sizes))
    labels = components % 2
    right = rng.random(len(components)) < chance[components]
    return labels, two(np.where(right, labels, 1 - labels)), components


SIZES = {
    "one": lambda count, rng: np.ones(count, int),
    "twenty": lambda count, rng: np.full(count, 20),
    "uneven": lambda count, rng: np.ceil(rng.lognormal(1, 1, count)).astype(int),
    "half in one": lambda count, rng: np.r_[np.ones(count - 1, int), count],
}


@pytest.mark.parametrize(
    ("count", "sizes", "accuracy", "correlation"),
    [
        (20, "one", 0.9, 0),
        (20, "twenty", 0.98, 0.3),
        (20, "uneven", 0.9, 1),
        (50, "uneven", 0.98, 0.3),
        (50, "twenty", 0.6, 0.3),
        (50, "half in one", 0.9, 0.3),
        (150, "uneven", 0.98, 1),
    ],
)
def test_intervals_cover_the_true_accuracy(count, sizes, accuracy, correlation):
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(200):
        drawn = clustered(rng, SIZES[sizes](count, rng), accuracy, correlation)
        row = score(drawn[0], drawn[1], components=drawn[2], resamples=100).iloc[0]
        covered.append(row["low"] <= accuracy <= row["high"])
    # 0.92 is two standard errors of 200 trials below 0.95.
    assert np.mean(covered) >= 0.92


@pytest.mark.parametrize("distance", [1.0, 3.0])
def test_intervals_cover_the_true_area_and_correlation(distance):
    """Scores are normal, with half of their variance shared in a component: the area is known."""
    rng = np.random.default_rng(2)
    area, accuracy = (norm.cdf(distance * scale) for scale in (2**-0.5, 0.5))
    covered = []
    for _ in range(200):
        components = np.arange(60).repeat(5)
        labels = components % 2
        noise = rng.normal(size=60)[components] + rng.normal(size=300)
        scores = distance * (labels - 0.5) + noise / 2**0.5
        rows = score(
            labels, two(1 / (1 + np.exp(-scores))), components=components, resamples=100
        ).set_index("metric")
        true = {"accuracy": accuracy, "mcc": 2 * accuracy - 1, "auroc": area}
        covered.append([rows.loc[m, "low"] <= true[m] <= rows.loc[m, "high"] for m in METRICS])
    assert (np.mean(covered, axis=0) >= 0.92).all(), np.mean(covered, axis=0)


def test_a_constant_prediction_has_a_constant_interval():
    rows = score(np.array([0, 1] * 50), two([0.3] * 100), resamples=100).set_index("metric")
    assert rows.loc["mcc", ["value", "low", "high"]].tolist() == [0, 0, 0]
    assert rows.loc["auroc", ["value", "low", "high"]].tolist() == [0.5, 0.5, 0.5]
