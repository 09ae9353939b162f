"""What every objective answers: how to corrupt, what to minimise, and what bound it certifies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from dnadiff.alphabet import DNA, Alphabet


class Denoiser(Protocol):
    """A function from corrupted tokens to what each letter may be; a network, or the exact answer of a known source.

    Returns logits (B, L, K) over the alphabet's letters: up to a constant, the log-probability of each letter at a
    position given *everything but that position's own noisy letter* (leave-one-out). The objective adds the
    position's own evidence.

    Attributes:
        causal: output i depends on tokens before i only.
        needs_sigma: the noise level must be given.
        outputs: K, or K + 1 with the mask last.
    """

    causal: bool
    needs_sigma: bool
    outputs: int

    def __call__(
        self, tokens: Tensor, sigma: Tensor | None = None, label: Tensor | None = None, soft: Tensor | None = None
    ) -> Tensor:
        """Logits (B, L, K) of corrupted tokens (B, L)."""
        ...


class Loss(NamedTuple):
    """One training step's loss: `value` (scalar) to minimise, and `nats_per_base` for the log."""

    value: Tensor
    nats_per_base: Tensor


class Bound(NamedTuple):
    """A bound on -log p of each sequence's scorable letters given what is visible around them.

    Attributes:
        nats: (B,) float64, the estimate for each sequence.
        se: (B,) float64, its standard error over the draws (0 where exact, NaN for a single draw).
        bases: (B,) int64, scorable letters in each sequence.
        kind: "upper" or "exact".
    """

    nats: Tensor
    se: Tensor
    bases: Tensor
    kind: Literal["upper", "exact"]


class Objective(nn.Module, ABC):
    """An objective owns its mathematics: corruption, loss and bound.

    Unknown letters and padding are never corrupted and never scored; they are visible context.
    """

    def __init__(self, alphabet: Alphabet = DNA) -> None:
        super().__init__()
        self.alphabet = alphabet

    @abstractmethod
    def loss(
        self, denoiser: Denoiser, tokens: Tensor, *, seed: int = 0, step: int = 0, index: Tensor | None = None
    ) -> Loss:
        """The loss of one batch.

        Args:
            denoiser: the network.
            tokens: (B, L) int64 clean token ids; rows without a scorable letter are ignored.
            seed: of the run.
            step: of the run; together with `index` it determines the noise.
            index: (B,) the number of each row within the global batch; 0..B-1 by default.

        Raises:
            ValueError: if no row has a scorable letter.
        """

    @abstractmethod
    def bound(
        self, denoiser: Denoiser, tokens: Tensor, *, draws: int = 8, seed: int = 0, index: Tensor | None = None
    ) -> Bound:
        """A bound on the negative log-likelihood of each sequence.

        Args:
            denoiser: the network, in evaluation mode.
            tokens: (B, L) int64 clean token ids.
            draws: network calls for each sequence.
            seed: of the estimate.
            index: (B,) the number of each sequence in its data set, which determines its noise; 0..B-1 by default.
        """


def row_index(tokens: Tensor, index: Tensor | None) -> Tensor:
    """`index`, or 0..B-1."""
    return torch.arange(tokens.shape[0], device=tokens.device) if index is None else index
