"""The interface of a protocol: how a task is divided, and how a model predicts its classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from typing import Protocol as Interface

import numpy as np

from dnadiff.benchmark.plan import Plan

Embed = Callable[[list[str]], np.ndarray]
"""n sequences -> (n, d) float features; those of a sequence do not depend on the other "
"sequences."""

Progress = Callable[[str, int, int], None]
"""Called with (description, done, total) as work goes on."""


class Classifier(Interface):
    """A fitted classifier, as scikit-learn has it."""

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Maps features (n, d) to probabilities (n, K), columns in the order of class ids."""


Fit = Callable[[np.ndarray, np.ndarray, np.ndarray, int], Classifier]
"""features (n, d), labels (n,), components (n,), seed -> a fitted classifier."""


@dataclass(frozen=True)
class EvaluationProtocol:
    """A way to evaluate models on a task.

    Attributes:
        name: what the command line and the tables call it.
        plan: (task, data, *, folds, seed, max_items) -> Plan.
        predict: (model, plan, seed, progress) -> (n, K) probabilities, NaN where an item is not
            scored.
    """

    name: str
    plan: Callable[..., Plan]
    predict: Callable[[Any, Plan, int, Callable[[int, int], None]], np.ndarray]


def out_of_fold(plan: Plan, features: np.ndarray, fit: Fit, seed: int) -> np.ndarray:
    """Predicts every scored item by a classifier that was fitted on the items of other folds only.

    Args:
        plan: the items and their folds.
        features: (n, d), each row a function of its own sequence alone.
        fit: fits a classifier to some of the rows.
        seed: passed on to `fit`.

    Returns:
        (n, K) probabilities, NaN for items that are not scored.
    """
    # NaN, so that an item that is scored by mistake shows in every metric.
    probabilities = np.full((len(plan.labels), len(plan.classes)), np.nan)
    for train, test in plan.parts():
        fitted = fit(features[train], plan.labels[train], plan.components[train], seed)
        probabilities[test] = fitted.predict_proba(features[test])
    return probabilities
