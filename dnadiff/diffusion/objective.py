"""What every objective answers: how to corrupt, what to minimise, and what bound it certifies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.errors import UsageError
from dnadiff.rng import Stream, uniform

BoundKind = Literal["upper", "exact", "pseudo"]

# The golden ratio's fraction, (sqrt(5) - 1) / 2, as a 64-bit fixed-point number; written as the int64 of the same bits.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64


class Denoiser(Protocol):
    """A function from corrupted tokens to what each letter may be; a network, or the exact answer of a known source.

    Returns logits (B, L, K) over the alphabet's letters: up to a constant, the log-probability of each letter at a
    position given *everything but that position's own noisy letter* (leave-one-out). The objective adds the
    position's own evidence.

    Attributes:
        causal: output i depends on tokens before i only.
        needs_sigma: the noise level must be given.
        outputs: K, or K + 1 with the mask last.

    A network that can be shown its own earlier answer has one more, `self_conditioned`, which is true.
    """

    causal: bool
    needs_sigma: bool
    outputs: int

    def __call__(
        self,
        tokens: Tensor,
        sigma: Tensor | None = None,
        label: Tensor | None = None,
        token_probs: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, L, outputs) of corrupted tokens (B, L).

        Args:
            tokens: (B, L) int64 ids; the mask id where a letter is hidden.
            sigma: (B,) noise level -log(alpha), finite; for a network that is told.
            label: (B,) class, for a network trained with labels.
            token_probs: (B, L, K) weights on the letters' embeddings, which replace those of letters and masks; (B, L, 2 K)
                for a self-conditioned network, the second half its earlier answer, or zeros.
        """
        ...


class Conditioned:
    """A denoiser that is told the class of each row of a batch, whoever asks it about this batch.

    Args:
        denoiser: trained with labels.
        label: (B,) classes; their number where none is told.
    """

    def __init__(self, denoiser: Denoiser, label: Tensor) -> None:
        self.denoiser, self.label = denoiser, label
        self.causal, self.needs_sigma, self.outputs = (
            denoiser.causal,
            denoiser.needs_sigma,
            denoiser.outputs,
        )
        self.self_conditioned = getattr(denoiser, "self_conditioned", False)

    def __call__(
        self,
        tokens: Tensor,
        sigma: Tensor | None = None,
        label: Tensor | None = None,
        token_probs: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, L, outputs); the label is its own.

        Raises:
            ValueError: if there are not as many rows as it knows classes.
        """
        if len(tokens) != len(self.label):
            raise ValueError(f"{len(self.label)} classes are known, for {len(tokens)} rows")
        return self.denoiser(tokens, sigma=sigma, label=self.label, token_probs=token_probs)


def conditioned(denoiser: Denoiser, label: Tensor | None) -> Denoiser:
    """The denoiser that knows the classes (B,) of a batch; itself where there are none."""
    return denoiser if label is None else Conditioned(denoiser, label)


def select_rows(denoiser: Denoiser, rows: Tensor | slice) -> Denoiser:
    """The denoiser of some rows of a batch, for an objective that asks about those alone."""
    return (
        Conditioned(denoiser.denoiser, denoiser.label[rows])
        if isinstance(denoiser, Conditioned)
        else denoiser
    )


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
        kind: "upper" or "exact"; "pseudo" is no bound at all (see `MaskedLM.pseudo`).
    """

    nats: Tensor
    se: Tensor
    bases: Tensor
    kind: BoundKind


@dataclass(frozen=True)
class Draw:
    """The random numbers of one draw of a loss or a bound, one row for each sequence.

    Attributes:
        quantile: (B,) float64 in (0, 1), uniform, and spread evenly over the draws it belongs to: for the noise level.
        seed: of the run.
        step: of the run, or number of the draw.
        index: (B,) number of each sequence.
        antithetic: every number u is replaced by 1 - u.
    """

    quantile: Tensor
    seed: int
    step: int
    index: Tensor
    antithetic: bool = False

    def uniform(self, stream: Stream, size: int) -> Tensor:
        """Uniform numbers (B, size) float64 in the open interval (0, 1)."""
        numbers = uniform(self.seed, stream, self.index, size, step=self.step)
        return 1.0 - numbers if self.antithetic else numbers

    def normal(self, stream: Stream, size: int) -> Tensor:
        """Standard normal numbers (B, size) float64."""
        return torch.special.ndtri(self.uniform(stream, size))

    def opposite(self) -> Draw:
        """The antithetic draw: each has the law of the other, and where one is high the other is low."""
        return replace(self, quantile=1.0 - self.quantile, antithetic=not self.antithetic)


class Objective(nn.Module, ABC):
    """An objective owns its mathematics: corruption, loss and bound.

    A subclass writes `per_token_nelbo`: what one random draw says that each letter costs. Unknown letters and padding are never
    corrupted and never scored; they are visible context.

    Attributes:
        time_conditioned: whether networks for this objective are told the noise level unless asked otherwise.
        causal: whether the network must see only what lies to the left.
        noise: what it corrupts with, and so which samplers are right: "absorbing", "uniform", "gaussian" or "none".
        normalised: whether the network's logits mean something only up to a constant for each position.
        options: the arguments it was made with, by name; enough to make it again.
    """

    time_conditioned: ClassVar[bool] = True
    causal: ClassVar[bool] = False
    corruption: str = "absorbing"
    normalised: ClassVar[bool] = True

    def __init__(self, alphabet: Alphabet = DNA, **options: Any) -> None:
        super().__init__()
        self.alphabet = alphabet
        self.options = options

    @property
    def outputs(self) -> int:
        """How many logits a position needs: K, or K + 1 with the mask last."""
        return len(self.alphabet)

    @property
    def self_conditioned(self) -> bool:
        """Whether the network is shown its own first answer, in a second half of `token_probs`."""
        return False

    @abstractmethod
    def per_token_nelbo(self, denoiser: Denoiser, tokens: Tensor, draw: Draw) -> Tensor:
        """One draw of the bound: each letter's share of it in nats (B, L), 0 where a token is no letter.

        Args:
            denoiser: the network.
            tokens: (B, L) int64 clean token ids.
            draw: its random numbers.
        """

    def per_token_loss(self, denoiser: Denoiser, tokens: Tensor, draw: Draw) -> Tensor:
        """What training minimises, as shares (B, L) like those of `per_token_nelbo`; the bound itself unless overridden."""
        return self.per_token_nelbo(denoiser, tokens, draw)

    def loss(
        self,
        denoiser: Denoiser,
        tokens: Tensor,
        *,
        seed: int = 0,
        step: int = 0,
        index: Tensor | None = None,
        weight: Tensor | None = None,
        total: float | None = None,
    ) -> Loss:
        """The loss of one batch, in nats per base.

        Args:
            denoiser: the network.
            tokens: (B, L) int64 clean token ids; rows without a scorable letter are ignored.
            seed: of the run.
            step: of the run; together with `index` it determines the noise.
            index: (B,) the number of each row within the global batch; 0..B-1 by default.
            weight: (B, L) of each letter in the loss; 1 by default. `nats_per_base` is not weighted.
            total: what the loss is divided by; by default this batch's own scorable letters, weighted. Where a step is
                cut into micro-batches, their mean, so that the mean of their losses is the loss of the whole step.

        Raises:
            UsageError: if the denoiser cannot carry this objective.
            ValueError: if no row has a scorable letter.
        """
        self.check(denoiser)
        index = row_index(tokens, index)
        scorable = self.alphabet.scorable(tokens)
        bases = scorable.sum()
        if bases == 0:
            raise ValueError("no sequence of this batch has a scorable letter")
        # One shift for the step and the golden ratio between rows: every row's quantile is uniform, and the rows of any
        # batch, however it is cut into micro-batches or devices, are spread evenly.
        shift = uniform(seed, Stream.COUNT, index.new_zeros(1), 1, step=step)[0]
        quantile = (shift + golden_multiples(index)) % 1.0
        nats = self.per_token_loss(denoiser, tokens, Draw(quantile, seed, step, index))
        weighted = nats if weight is None else weight * nats
        if total is None:
            total = float(bases if weight is None else (weight * scorable).sum())
        # A batch whose letters all have weight 0 has the loss 0, not 0 / 0.
        value = weighted.sum() / max(total, torch.finfo(torch.float32).tiny)
        return Loss(value, (nats.sum() / bases).detach())

    @torch.no_grad()
    def bound(
        self,
        denoiser: Denoiser,
        tokens: Tensor,
        *,
        draws: int = 8,
        seed: int = 0,
        index: Tensor | None = None,
    ) -> Bound:
        """A bound on the negative log-likelihood of each sequence; its draws are stratified in the noise level.

        Args:
            denoiser: the network, in evaluation mode.
            tokens: (B, L) int64 clean token ids.
            draws: how many; each is one network call, or two where the objective says so.
            seed: of the estimate.
            index: (B,) the number of each sequence in its data set, which determines its noise; 0..B-1 by default.

        Raises:
            UsageError: if the denoiser cannot carry this objective.
        """
        self.check(denoiser)
        return self._averaged(self.per_token_nelbo, denoiser, tokens, draws, seed, index, "upper")

    def _averaged(
        self,
        nats: Callable[[Denoiser, Tensor, Draw], Tensor],
        denoiser: Denoiser,
        tokens: Tensor,
        draws: int,
        seed: int,
        index: Tensor | None,
        kind: BoundKind,
    ) -> Bound:
        """The mean of `draws` stratified draws of `per_token_nelbo`, a function like the method of this name."""
        if draws < 1:
            raise UsageError(f"draws must be at least 1, not {draws}")
        index = row_index(tokens, index)
        shift = uniform(seed, Stream.COUNT, index, 1)[:, 0]
        quantiles = [(shift + draw / draws) % 1.0 for draw in range(draws)]
        parts = torch.stack(
            [
                nats(denoiser, tokens, Draw(q, seed, step, index)).double().sum(1)
                for step, q in enumerate(quantiles)
            ]
        )
        # The spread over stratified draws includes the spread between strata: this standard error errs high.
        se = parts.std(0) / draws**0.5 if draws > 1 else torch.full_like(parts[0], torch.nan)
        return Bound(parts.mean(0), se, self.alphabet.scorable(tokens).sum(1), kind)

    def check(self, denoiser: Denoiser) -> None:
        """Whether a denoiser can carry this objective.

        Raises:
            UsageError: saying why it cannot.
        """
        name = type(self).__name__
        if self.causal and not denoiser.causal:
            raise UsageError(
                f"{name} needs a causal network, one that sees only what lies to the left (backbone mamba, hyena or"
                f" transformer); this one sees both sides, so what it gives is a pseudo-likelihood"
            )
        if denoiser.outputs != self.outputs:
            raise UsageError(
                f"{name} needs {self.outputs} outputs for each position, the network has {denoiser.outputs}"
            )

    def call_denoiser(
        self,
        denoiser: Denoiser,
        tokens: Tensor,
        rate: Tensor | float | None = None,
        token_probs: Tensor | None = None,
    ) -> Tensor:
        """A denoiser's logits (B, L, outputs), in float32 or, where it computes so, float64.

        Args:
            denoiser: called once.
            tokens: (B, L) corrupted token ids.
            rate: (B,) share 1 - alpha of the signal that is lost, for a network that is told the noise level.
            token_probs: (B, L, K) or (B, L, 2 K), as the denoiser takes it.
        """
        sigma = None
        if denoiser.needs_sigma:
            rate = torch.as_tensor(
                0.0 if rate is None else rate, dtype=torch.float64, device=tokens.device
            )
            sigma = -torch.log1p(-rate.clamp(max=1.0 - 2.0**-30)).float().expand(len(tokens))
        logits = denoiser(tokens, sigma=sigma, token_probs=token_probs)
        return logits if logits.dtype == torch.float64 else logits.float()


def golden_multiples(index: Tensor) -> Tensor:
    """Fractional parts in [0, 1) float64 of int64 `index` times the golden ratio: evenly spread over any run of rows.

    The product is an integer one modulo 2^64, so its fraction is exact for every index. In floating point the digits of
    the fraction go to the integer part as the index grows: in float32 all rows have one fraction from 2^24 on.
    """
    fraction = ((index * _GOLDEN) >> 12) & ((1 << 52) - 1)
    return fraction.double() * 2.0**-52


def row_index(tokens: Tensor, index: Tensor | None) -> Tensor:
    """`index`, or 0..B-1."""
    return torch.arange(tokens.shape[0], device=tokens.device) if index is None else index
