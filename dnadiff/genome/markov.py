"""Markov models of DNA: the baseline that a language model has to beat."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.rng import Stream, uniform


@dataclass(frozen=True)
class MarkovModel:
    """Models DNA by the k bases before each base, with every lower order, counted on both strands.

    p(base | context) interpolates the count of the full context with the model of the next lower
    order, and so on down to the uniform distribution. The first bases of a window, and those after
    an N, are scored with as many bases of context as there are, so that p sums to one over all
    windows of a length.

    Attributes:
        tables: for each order j = 0..k, log p(base | j bases), (K^(j+1),) float64, in nats. The
            last base of the index is the one predicted and runs fastest.
        alphabet: its K letters.
    """

    tables: tuple[np.ndarray, ...]
    alphabet: Alphabet = DNA

    @property
    def order(self) -> int:
        """Number of bases of context."""
        return len(self.tables) - 1

    @classmethod
    def fit(
        cls, blocks: Iterable[Tensor], order: int, *, prior: float = 80.0, alphabet: Alphabet = DNA
    ) -> MarkovModel:
        """Fits a model to counts of k + 1 consecutive bases, on both strands.

        p_j(x | c) = (n(cx) + prior * p_{j-1}(x | c without its first base)) / (n(c) + prior), with
        p_{-1} uniform. This is the posterior mean under a Dirichlet prior centred on the lower
        order (MacKay and Peto 1995, "A hierarchical Dirichlet language model"). Counts of lower
        orders are sums over the first bases.

        Args:
            blocks: token ids (L,) or (B, L) of the training text. Nothing is counted across an N,
                or between blocks or rows.
            order: k, bases of context. Memory is about 40 * K^(k+1) bytes: 3 GB for order 12.
            prior: weight of the lower order, in observations. The default suits order 12 on tens of
                millions of bases of the human genome. 0 is the maximum-likelihood fit, with the
                lower order for a context that was never seen.
            alphabet: its letters are counted.

        Raises:
            ValueError: if the order or the prior is negative, or there is nothing to count.
        """
        if order < 0 or prior < 0:
            raise ValueError(f"order {order} and prior {prior} must not be negative")
        counts = _count(blocks, order, alphabet)
        if not counts.any():
            raise ValueError(f"no run of {order + 1} letters to count")
        if alphabet.complement is not None:
            counts = counts + _other_strand(counts, alphabet)
        return cls(tuple(_interpolate(counts, prior)), alphabet)

    def nll(self, tokens: Tensor) -> Tensor:
        """Returns the exact negative log-likelihood of windows, in nats.

        Args:
            tokens: (B, L) ids. What is not a base costs nothing and breaks the context.

        Returns:
            (B,) float64.
        """
        codes, context = _codes(tokens, self.order, self.alphabet)
        nats = np.zeros(codes.shape)
        for order, table in enumerate(self.tables):
            here = context == order
            # The last order + 1 bases of a longer code are its remainder.
            nats[here] = -table[codes[here] % len(table)]
        return torch.from_numpy(nats.sum(1))

    def sample(self, index: Tensor, length: int, *, seed: int = 0) -> Tensor:
        """Draws sequences from left to right.

        Args:
            index: (B,) int64 sample numbers; a sample is determined by (seed, number).
            length: in bases.
            seed: determines the samples.

        Returns:
            Token ids (B, length) int64.
        """
        letters = len(self.alphabet)
        quantile = uniform(seed, Stream.LETTER, index, length).numpy()
        drawn = np.empty(quantile.shape, np.int64)
        context = np.zeros(len(quantile), np.int64)
        for i in range(length):
            order = min(i, self.order)
            context %= letters**order
            probabilities = np.exp(self.tables[order].reshape(-1, letters)[context])
            # Inversion of the cumulative distribution. Its last value takes the place of 1, so that
            # rounding cannot lead beyond the last letter.
            cumulated = probabilities.cumsum(1)
            drawn[:, i] = (cumulated <= quantile[:, i, None] * cumulated[:, -1:]).sum(1)
            context = context * letters + drawn[:, i]
        return torch.from_numpy(drawn + self.alphabet.first_id)


def _codes(tokens: Tensor, order: int, alphabet: Alphabet) -> tuple[np.ndarray, np.ndarray]:
    """Returns the code and the number of context bases of each position of (B, L) tokens.

    The code is the number in base K that the last order + 1 bases spell. The context has 0..order
    bases, those between the position and the last N or the window's beginning; it is -1 where the
    position holds no base.

    Returns:
        Codes (B, L) int64 and contexts (B, L) int64.
    """
    scorable = alphabet.scorable(tokens).numpy(force=True)
    letters = np.where(scorable, alphabet.letter_index(tokens).numpy(force=True), -1)
    codes = np.zeros(letters.shape, np.int64)
    context = np.full(letters.shape, -1)
    for back in range(min(order + 1, letters.shape[1])):
        shifted = letters[:, : letters.shape[1] - back]
        codes[:, back:] += np.maximum(shifted, 0) * len(alphabet) ** back
        # A context grows only while no gap was met on the way back.
        unbroken = context[:, back:] == back - 1
        context[:, back:] += (shifted >= 0) & unbroken
    return codes, context


def _count(blocks: Iterable[Tensor], order: int, alphabet: Alphabet) -> np.ndarray:
    """Counts runs of order + 1 bases on the given strand: (K,) * (order + 1) int64."""
    # Integers, because a float would stop counting at 2^24 (float32) or 2^53 (float64).
    counts = np.zeros(len(alphabet) ** (order + 1), np.int64)
    for block in blocks:
        codes, context = _codes(torch.atleast_2d(block), order, alphabet)
        np.add.at(counts, codes[context == order], 1)
    return counts.reshape((len(alphabet),) * (order + 1))


def _other_strand(counts: np.ndarray, alphabet: Alphabet) -> np.ndarray:
    """Returns the counts that the reverse complement of the same text gives."""
    for axis in range(counts.ndim):
        counts = counts.take(alphabet.complement_index, axis)
    # The transpose reads each run backwards.
    return counts.transpose()


def _interpolate(counts: np.ndarray, prior: float) -> Iterable[np.ndarray]:
    """Yields the log probabilities of order 0, 1, ..., k from counts (K,) * (k + 1)."""
    letters = counts.shape[0]
    lower = np.full((1, letters), 1 / letters)
    for order in range(counts.ndim):
        first_axes = tuple(range(counts.ndim - 1 - order))
        seen = counts.sum(first_axes).reshape(-1, letters)
        total = seen.sum(1, keepdims=True)
        # Row c of this order, without its first base, is row c mod K^(order - 1) of the lower one.
        shorter = np.tile(lower, (len(seen) // len(lower), 1))
        # Without a prior, a context that was never seen takes the lower order as it is.
        known = total + prior > 0
        weight = np.where(known, total + prior, 1)
        lower = np.where(known, (seen + prior * shorter) / weight, shorter)
        with np.errstate(divide="ignore"):
            yield np.log(lower).reshape(-1)
