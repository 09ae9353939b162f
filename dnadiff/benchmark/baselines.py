"""Baselines without a model: class frequency, length, GC, short k-mers, place in the genome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd
from sklearn.dummy import DummyClassifier
from sklearn.tree import DecisionTreeClassifier

from dnadiff.benchmark.kmers import canonical_kmers
from dnadiff.benchmark.logistic import fit_logistic
from dnadiff.benchmark.plan import Plan
from dnadiff.benchmark.protocol import Classifier, Fit

KMER = 5
_CONTIG_STRIDE = (
    1e10  # bases from the beginning of one contig to that of the next; more than any contig has
)


@dataclass(frozen=True)
class Baseline:
    """Features of an item alone, and the classifier that is fitted to them.

    Attributes:
        features: a plan of n items -> (n, d).
        fit: fits the classifier.
        description: what it is, for the table.
        needs_places: whether it can be fitted only where the items' coordinates are known.
    """

    features: Callable[[Plan], np.ndarray]
    fit: Fit
    description: str
    needs_places: bool = False


def lengths(sequences: Sequence[str]) -> np.ndarray:
    """Returns (n, 1): length in bases."""
    return np.array([[len(sequence)] for sequence in sequences], float)


def gc(sequences: Sequence[str]) -> np.ndarray:
    """Returns (n, 1): share of G and C among the known bases; 0 if none is known."""
    rows = [list(map(sequence.count, "GCAT")) for sequence in sequences]
    counts = np.array(rows, float)
    total = counts.sum(1, keepdims=True)
    return counts[:, :2].sum(1, keepdims=True) / np.maximum(total, 1)


def kmer_frequencies(sequences: Sequence[str], k: int = KMER) -> np.ndarray:
    """Returns (n, d) float32: the share of each canonical k-mer; zeros for sequences without any.

    d is 512 for k = 5. That k was fixed, not tuned: 4 and 6 do no better on human_enhancers_cohn
    and human_nontata_promoters.
    """
    batches = [*canonical_kmers(sequences, k)]
    names = np.unique(np.concatenate([kmers for kmers, _ in batches]))
    frequencies = np.zeros((len(sequences), max(1, names.size)), np.float32)
    for kmers, owner in batches:
        if owner.size:
            # One cell for each sequence of the batch and each k-mer, counted in one pass.
            first, after = owner[0], owner[-1] + 1
            cells = (owner - first) * names.size + np.searchsorted(names, kmers)
            counts = np.bincount(cells, minlength=(after - first) * names.size)
            frequencies[first:after] = counts.reshape(-1, names.size)
    return frequencies / np.maximum(frequencies.sum(1, keepdims=True), 1)


def places(plan: Plan) -> np.ndarray:
    """Returns (n, 2): start and end of each item, on an axis where contigs follow each other.

    Raises:
        ValueError: if the plan has no places.
    """
    if plan.places is None:
        raise ValueError("the places of these items are not known")
    # Contigs so far apart that no interval overlaps one of another contig.
    contig = _CONTIG_STRIDE * pd.factorize(plan.places["chrom"])[0].astype(float)
    return np.stack((contig + plan.places["start"], contig + plan.places["end"]), 1)


class Lookup:
    """Predicts classes from overlapping training items: what memorisation alone achieves.

    Args:
        places: (n, 2) start and end, as `places` gives them.
        labels: (n,) class ids 0..K-1.
    """

    def __init__(self, places: np.ndarray, labels: np.ndarray) -> None:
        order = np.argsort(places[:, 0])
        self._starts, self._ends = places[order].T
        self._one_hot = np.eye(labels.max() + 1)[labels[order]]
        self._longest = (self._ends - self._starts).max()
        # A place that nothing overlaps gets the classes of the training items that no other one
        # overlaps.
        own = self._one_hot * (self._ends - self._starts)[:, None]
        others = self._shared(places[order]) - own
        alone = self._one_hot[~others.any(1)]
        self._otherwise = (alone if len(alone) else self._one_hot).mean(0)

    def predict_proba(self, places: np.ndarray) -> np.ndarray:
        """Returns class shares (m, K) among the bases that places (m, 2) have in training items."""
        shared = self._shared(places)
        total = shared.sum(1, keepdims=True)
        return np.where(total, shared / np.maximum(total, 1), self._otherwise)

    def _shared(self, places: np.ndarray) -> np.ndarray:
        """Returns the bases (m, K) that each place shares with the training items of each class."""
        # Items are sorted by start: one that overlaps a place starts before its end, and at most
        # the longest item's length before its start.
        shared = np.zeros((len(places), self._one_hot.shape[1]))
        first = np.searchsorted(self._starts, places[:, 0] - self._longest)
        last = np.searchsorted(self._starts, places[:, 1])
        for i, (start, end) in enumerate(places):
            near = slice(first[i], last[i])
            bases = np.minimum(self._ends[near], end) - np.maximum(self._starts[near], start)
            shared[i] = bases.clip(0) @ self._one_hot[near]
        return shared


def fit_lookup(
    features: np.ndarray, labels: np.ndarray, components: np.ndarray, seed: int
) -> Classifier:
    """Fits a `Lookup` to the places of training items."""
    return Lookup(features, labels)


def fit_prior(
    features: np.ndarray, labels: np.ndarray, components: np.ndarray, seed: int
) -> Classifier:
    """Fits a classifier that predicts the shares of the classes among the training items."""
    return DummyClassifier(strategy="prior").fit(features, labels)


def fit_tree(
    features: np.ndarray, labels: np.ndarray, components: np.ndarray, seed: int
) -> Classifier:
    """Fits a decision tree with leaves of 50 items or more, or of a twentieth of few items.

    On one feature a tree is a histogram with fitted edges, so it finds a dependence of any shape.
    """
    # Large leaves: a tree that follows single items would do worse than the most frequent class.
    leaf = max(1, min(50, len(labels) // 20))
    return DecisionTreeClassifier(min_samples_leaf=leaf, random_state=0).fit(features, labels)


BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {
        "majority": Baseline(
            lambda plan: np.zeros((len(plan.labels), 1)), fit_prior, "the most frequent class"
        ),
        "length": Baseline(
            lambda plan: lengths(plan.sequences),
            fit_tree,
            "a decision tree on the sequence's length",
        ),
        "gc": Baseline(
            lambda plan: gc(plan.sequences), fit_tree, "a decision tree on the share of G and C"
        ),
        "kmer": Baseline(
            lambda plan: kmer_frequencies(plan.sequences),
            fit_logistic,
            f"logistic regression on canonical {KMER}-mer frequencies",
        ),
        "chromosome": Baseline(
            lambda plan: places(plan)[:, :1] // _CONTIG_STRIDE,
            fit_tree,
            "a decision tree on the chromosome",
            needs_places=True,
        ),
        "lookup": Baseline(
            places,
            fit_lookup,
            "the class of the training items that overlap it in the genome",
            needs_places=True,
        ),
    }
)
