"""What needs no model: the commonest class, the length, the GC content, short k-mers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.tree import DecisionTreeClassifier

from dnadiff.benchmark.kmers import canonical_kmers
from dnadiff.benchmark.logistic import fit_logistic
from dnadiff.benchmark.protocol import Classifier, Fit

KMER = 5


@dataclass(frozen=True)
class Baseline:
    """Features of a sequence by itself, and the classifier that is fitted to them.

    Attributes:
        features: n sequences -> (n, d).
        fit: the classifier.
        description: what it is, for the table.
    """

    features: Callable[[Sequence[str]], np.ndarray]
    fit: Fit
    description: str


def lengths(sequences: Sequence[str]) -> np.ndarray:
    """(n, 1): length in bases."""
    return np.array([[len(sequence)] for sequence in sequences], float)


def gc(sequences: Sequence[str]) -> np.ndarray:
    """(n, 1): share of G and C among the known bases."""
    counts = np.array([[sequence.count(base) for base in "GCAT"] for sequence in sequences], float)
    return counts[:, :2].sum(1, keepdims=True) / np.maximum(counts.sum(1, keepdims=True), 1)


def kmer_frequencies(sequences: Sequence[str], k: int = KMER) -> np.ndarray:
    """(n, d) float32: share of each canonical k-mer among the sequence's k-mers, zero if it has none.

    d is 512 for k = 5. That k was fixed, not tuned: 4 and 6 do no better on human_enhancers_cohn and
    human_nontata_promoters.
    """
    batches = [*canonical_kmers(sequences, k)]
    names = np.unique(np.concatenate([kmers for kmers, _ in batches]))
    frequencies = np.zeros((len(sequences), max(1, names.size)), np.float32)
    for kmers, owner in batches:
        if owner.size:
            first, after = owner[0], owner[-1] + 1
            cells = (owner - first) * names.size + np.searchsorted(names, kmers)
            counts = np.bincount(cells, minlength=(after - first) * names.size)
            frequencies[first:after] = counts.reshape(-1, names.size)
    return frequencies / np.maximum(frequencies.sum(1, keepdims=True), 1)


def fit_prior(features: np.ndarray, labels: np.ndarray, components: np.ndarray, seed: int) -> Classifier:
    """The shares of the classes among the training items."""
    return DummyClassifier(strategy="prior").fit(features, labels)


def fit_tree(features: np.ndarray, labels: np.ndarray, components: np.ndarray, seed: int) -> Classifier:
    """A decision tree with leaves of 50 items or more (of a twentieth of the items, if they are few).

    On one feature that is a histogram with edges where they serve best, so no shape of dependence escapes it.
    """
    leaf = max(1, min(50, len(labels) // 20))
    return DecisionTreeClassifier(min_samples_leaf=leaf, random_state=0).fit(features, labels)


BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {
        "majority": Baseline(lambda sequences: np.zeros((len(sequences), 1)), fit_prior, "the commonest class"),
        "length": Baseline(lengths, fit_tree, "a decision tree on the sequence's length"),
        "gc": Baseline(gc, fit_tree, "a decision tree on the share of G and C"),
        "kmer": Baseline(kmer_frequencies, fit_logistic, f"logistic regression on canonical {KMER}-mer frequencies"),
    }
)
