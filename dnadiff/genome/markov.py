"""Markov models of DNA: the floor that anything called a language model must stand above."""

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
    """An order-k Markov model with every lower order inside it, counted on both strands.

    p(letter | context) interpolates the count of the full context with the model of one order less, which interpolates
    with the next, down to the uniform distribution. The first letters of a window, and those after an N, are scored
    with as many letters of context as there are, so that p sums to one over all windows of a length.

    Attributes:
        tables: for each order j = 0..k, log p(letter | j letters), (K^(j+1),) float64, in nats. The last letter of the
            index is the one predicted and runs fastest.
        alphabet: its K letters.
    """

    tables: tuple[np.ndarray, ...]
    alphabet: Alphabet = DNA

    @property
    def order(self) -> int:
        """The number of letters of context."""
        return len(self.tables) - 1

    @classmethod
    def fit(
        cls, blocks: Iterable[Tensor], order: int, *, prior: float = 80.0, alphabet: Alphabet = DNA
    ) -> MarkovModel:
        """Counts k+1 letters at a time, on both strands.

        p_j(x | c) = (n(cx) + prior * p_{j-1}(x | c without its first letter)) / (n(c) + prior),  p_{-1} uniform:
        the mean of the posterior under a Dirichlet prior centred on the lower order (MacKay and Peto 1995, "A
        hierarchical Dirichlet language model"). Counts of lower orders are sums over the first letters.

        Args:
            blocks: token ids (L,) or (B, L) of the training text. Nothing is counted across an N, or between blocks or
                rows.
            order: k, letters of context. Memory is about 40 * K^(k+1) bytes: 3 GB for order 12.
            prior: how many observations the lower order is worth. The default suits order 12 on tens of millions of
                bases of the human genome. 0 is the maximum-likelihood fit, with the lower order where a context was
                never seen.

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
        """Exact -log p, in nats, of the letters of each window. Tokens (B, L) ids -> (B,) float64."""
        codes, context = _codes(tokens, self.order, self.alphabet)
        nats = np.zeros(codes.shape)
        for j, table in enumerate(self.tables):
            here = context == j
            nats[here] = -table[codes[here] % len(table)]
        return torch.from_numpy(nats.sum(1))

    def sample(self, index: Tensor, length: int, *, seed: int = 0) -> Tensor:
        """Draws sequences from left to right. Token ids (B, length) int64.

        Args:
            index: (B,) int64 sample numbers; a sample is determined by (seed, number).
            length: in letters.
            seed: determines the samples.
        """
        letters = len(self.alphabet)
        quantile = uniform(seed, Stream.LETTER, index, length).numpy()
        drawn, context = np.empty(quantile.shape, np.int64), np.zeros(len(quantile), np.int64)
        for i in range(length):
            order = min(i, self.order)
            context %= letters**order
            cumulated = np.exp(self.tables[order].reshape(-1, letters)[context]).cumsum(1)
            drawn[:, i] = (cumulated <= quantile[:, i, None] * cumulated[:, -1:]).sum(1)
            context = context * letters + drawn[:, i]
        return torch.from_numpy(drawn + self.alphabet.first_id)


def _codes(tokens: Tensor, order: int, alphabet: Alphabet) -> tuple[np.ndarray, np.ndarray]:
    """For each place (B, L): the number that the last order + 1 letters spell, and how many letters of context it has.

    The context is 0..order letters, as many as stand between the place and the last N or the window's begin; -1 where
    the place holds no letter itself.
    """
    letters = np.where(
        alphabet.scorable(tokens).numpy(force=True),
        alphabet.letter_index(tokens).numpy(force=True),
        -1,
    )
    codes = np.zeros(letters.shape, np.int64)
    context = np.full(letters.shape, -1)
    for back in range(min(order + 1, letters.shape[1])):
        shifted = letters[:, : letters.shape[1] - back]
        codes[:, back:] += np.maximum(shifted, 0) * len(alphabet) ** back
        context[:, back:] += (shifted >= 0) & (context[:, back:] == back - 1)
    return codes, context


def _count(blocks: Iterable[Tensor], order: int, alphabet: Alphabet) -> np.ndarray:
    """Counts (K,) * (order + 1) of runs of order + 1 letters, on the given strand."""
    counts = np.zeros(len(alphabet) ** (order + 1))
    for block in blocks:
        codes, context = _codes(torch.atleast_2d(block), order, alphabet)
        np.add.at(counts, codes[context == order], 1)
    return counts.reshape((len(alphabet),) * (order + 1))


def _other_strand(counts: np.ndarray, alphabet: Alphabet) -> np.ndarray:
    """The counts that the reverse complement of the same text gives."""
    complement = np.array(alphabet.complement_ids)[alphabet.ids] - alphabet.first_id
    for axis in range(counts.ndim):
        counts = counts.take(complement, axis)
    return counts.transpose()


def _interpolate(counts: np.ndarray, prior: float) -> Iterable[np.ndarray]:
    """Yields the log probabilities of order 0, 1, ..., k from counts (K,) * (k + 1)."""
    letters = counts.shape[0]
    lower = np.full((1, letters), 1 / letters)
    for order in range(counts.ndim):
        seen = counts.sum(tuple(range(counts.ndim - 1 - order))).reshape(-1, letters)
        total = seen.sum(1, keepdims=True)
        shorter = np.tile(
            lower, (len(seen) // len(lower), 1)
        )  # context c without its first letter is row c mod K^(k-1)
        known = total + prior > 0
        lower = np.where(
            known, (seen + prior * shorter) / np.where(known, total + prior, 1), shorter
        )
        with np.errstate(divide="ignore"):
            yield np.log(lower).reshape(-1)
