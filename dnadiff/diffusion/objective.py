"""The interface of all objectives: corruption of sequences, training loss, and likelihood bound.

Read this file first, then `mdlm`, the simplest of the diffusion objectives. An `Objective` takes a
`Denoiser` (any function from corrupted tokens to logits), clean tokens and a seed. It returns a
`Loss` for training, or a `Bound`: the negative evidence lower bound (NELBO), an upper bound on
-log p, in nats. All random numbers come from a `Draw`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor, nn

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.errors import UsageError
from dnadiff.rng import Stream, uniform

BoundKind = Literal["upper", "exact", "pseudo"]

# The fractional part of the golden ratio, (sqrt(5) - 1) / 2, as a 64-bit fixed-point number. It is
# written as the int64 with the same bits, because torch has no arithmetic on unsigned integers.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64

# A float32 sigma = -log(1 - rate) must be finite, so the rate stays this far below 1.
_MIN_SIGNAL = 2.0**-30


class Denoiser(Protocol):
    """A function from corrupted tokens to logits: a network, or the exact answer of a known source.

    The logits (B, L, K) are, up to a constant, the log-probability of each base at a position given
    *everything but the noisy base at that position* (leave-one-out). The objective adds the
    evidence of that noisy base.

    Attributes:
        causal: whether output i depends on tokens before i only.
        needs_sigma: whether the noise level must be given (time conditioning).
        outputs: K, or K + 1 with the mask last.

    A network with self-conditioning has a further attribute, `self_conditioned`, which is True.
    """

    causal: bool
    needs_sigma: bool
    outputs: int

    def __call__(
        self,
        tokens: Int64[Tensor, "B L"],
        sigma: Float[Tensor, " B"] | None = None,
        label: Int[Tensor, " B"] | None = None,
        token_probs: Float[Tensor, "B L weights"] | None = None,
    ) -> Float[Tensor, "B L outputs"]:
        """Returns logits (B, L, outputs) of corrupted tokens (B, L).

        Args:
            tokens: (B, L) int64 ids; the mask id where a base is masked.
            sigma: (B,) noise level -log(alpha), finite; for a network with time conditioning.
            label: (B,) class, for a network trained with labels.
            token_probs: (B, L, K) weights on the embeddings of the letters, which replace those of
                the letters and masks in `tokens`. With self-conditioning (B, L, 2 K), of which the
                second half is the network's earlier prediction, or zeros.
        """
        ...


class Conditioned:
    """A denoiser that conditions on the class of each row of one batch.

    Args:
        denoiser: trained with labels.
        label: (B,) class of each row; the number of classes for an unconditional row.
    """

    def __init__(self, denoiser: Denoiser, label: Int[Tensor, " B"]) -> None:
        self.denoiser = denoiser
        self.label = label
        self.causal = denoiser.causal
        self.needs_sigma = denoiser.needs_sigma
        self.outputs = denoiser.outputs
        self.self_conditioned = getattr(denoiser, "self_conditioned", False)

    def __call__(
        self,
        tokens: Int64[Tensor, "B L"],
        sigma: Float[Tensor, " B"] | None = None,
        label: Int[Tensor, " B"] | None = None,
        token_probs: Float[Tensor, "B L weights"] | None = None,
    ) -> Float[Tensor, "B L outputs"]:
        """Returns logits (B, L, outputs) given the classes of the batch; `label` is not used.

        Raises:
            ValueError: if the number of rows is not the number of classes.
        """
        if len(tokens) != len(self.label):
            raise ValueError(
                f"{len(tokens)} rows need as many classes, and there are {len(self.label)}"
            )
        return self.denoiser(tokens, sigma=sigma, label=self.label, token_probs=token_probs)


def conditioned(denoiser: Denoiser, label: Int[Tensor, " B"] | None) -> Denoiser:
    """Returns the denoiser conditioned on the classes (B,) of a batch, or as it is for None."""
    return denoiser if label is None else Conditioned(denoiser, label)


def select_rows(denoiser: Denoiser, rows: Tensor | slice) -> Denoiser:
    """Returns the denoiser for some rows of a batch, for an objective that calls it with those."""
    if isinstance(denoiser, Conditioned):
        return Conditioned(denoiser.denoiser, denoiser.label[rows])
    return denoiser


class Loss(NamedTuple):
    """The loss of one training step.

    Attributes:
        value: scalar to minimise.
        nats_per_base: scalar for the log, without weights and without gradient.
    """

    value: Float[Tensor, ""]
    nats_per_base: Float[Tensor, ""]


class Bound(NamedTuple):
    """A bound on -log p of the scorable bases of each sequence, given its other tokens.

    Attributes:
        nats: (B,) float64, the estimate for each sequence.
        se: (B,) float64, its standard error over the draws (0 if exact, NaN for a single draw).
        bases: (B,) int64, number of scorable bases (A, C, G, T) of each sequence.
        kind: "upper" or "exact"; "pseudo" is not a bound (see `MaskedLM.pseudo`).
    """

    nats: Float64[Tensor, " B"]
    se: Float64[Tensor, " B"]
    bases: Int64[Tensor, " B"]
    kind: BoundKind


@dataclass(frozen=True)
class Draw:
    """Random numbers for one sample of the corruption of a batch, one row for each sequence.

    Attributes:
        quantile: (B,) float64 in [0, 1), from which the noise level is computed. Each is uniform,
            and those of a batch (in `loss`) or of the draws of a sequence (in `bound`) are spread
            evenly, which lowers the variance.
        seed: of the run.
        step: of the run, or number of the draw.
        index: (B,) number of each sequence.
        antithetic: whether every random number u is replaced by 1 - u.
    """

    quantile: Float64[Tensor, " B"]
    seed: int
    step: int
    index: Int64[Tensor, " B"]
    antithetic: bool = False

    def uniform(self, stream: Stream, size: int) -> Float64[Tensor, "B {size}"]:
        """Returns uniform numbers (B, size) float64 in the open interval (0, 1)."""
        numbers = uniform(self.seed, stream, self.index, size, step=self.step)
        return 1.0 - numbers if self.antithetic else numbers

    def normal(self, stream: Stream, size: int) -> Float64[Tensor, "B {size}"]:
        """Returns standard normal numbers (B, size) float64."""
        return torch.special.ndtri(self.uniform(stream, size))

    def opposite(self) -> Draw:
        """Returns the antithetic draw: every random number u of this one replaced by 1 - u."""
        return replace(self, quantile=1.0 - self.quantile, antithetic=not self.antithetic)


class Objective(nn.Module, ABC):
    """Base class of objectives: corruption, loss and bound.

    A subclass implements `per_token_nelbo`, a one-sample estimate of each position's term of the
    bound. Unknown bases (N) and padding are never corrupted and never scored; they are context.

    Args:
        alphabet: the letters.
        **options: the other arguments of the subclass, by name.

    Attributes:
        time_conditioned: whether networks for this objective have time conditioning by default.
        causal: whether the network must be causal.
        corruption: "absorbing", "uniform", "gaussian" or "none"; it decides which samplers fit.
        normalised: whether a constant added to all logits of a position changes nothing. False for
            SEDD, whose scores are not normalised.
        options: the options as given, from which `make_objective` can make the objective again.
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
        """Number of logits for each position: K, or K + 1 with the mask last."""
        return len(self.alphabet)

    @property
    def self_conditioned(self) -> bool:
        """Whether networks take their own earlier prediction, as a second half of `token_probs`."""
        return False

    @abstractmethod
    def per_token_nelbo(
        self, denoiser: Denoiser, tokens: Int64[Tensor, "B L"], draw: Draw
    ) -> Float[Tensor, "B L"]:
        """Returns a one-sample estimate of each position's term of the bound.

        Args:
            denoiser: the network.
            tokens: (B, L) int64 clean token ids.
            draw: random numbers.

        Returns:
            (B, L) nats; 0 where a token is not scorable.
        """

    def per_token_loss(
        self, denoiser: Denoiser, tokens: Int64[Tensor, "B L"], draw: Draw
    ) -> Float[Tensor, "B L"]:
        """Returns the terms (B, L) that training minimises: those of the bound unless overridden.

        Arguments and shape are those of `per_token_nelbo`.
        """
        return self.per_token_nelbo(denoiser, tokens, draw)

    def loss(
        self,
        denoiser: Denoiser,
        tokens: Int64[Tensor, "B L"],
        *,
        seed: int = 0,
        step: int = 0,
        index: Int64[Tensor, " B"] | None = None,
        weight: Float[Tensor, "B L"] | None = None,
        total: float | None = None,
    ) -> Loss:
        """Returns the loss of one batch, in nats per base.

        Args:
            denoiser: the network.
            tokens: (B, L) int64 clean token ids; rows without a scorable base are ignored.
            seed: of the run.
            step: of the run; together with `index` it determines the random numbers.
            index: (B,) int64, the number of each row within the run; 0..B-1 by default.
            weight: (B, L) of each base in the loss; 1 by default. `nats_per_base` is not weighted.
            total: divisor of the loss; by default the sum of the weights of the scorable bases of
                this batch. If a step is split into micro-batches, pass the mean of these sums over
                the micro-batches: the mean of their losses is then the loss of the whole step.

        Raises:
            UsageError: if the denoiser does not fit this objective.
            ValueError: if no row has a scorable base.
        """
        self.check(denoiser)
        index = row_index(tokens, index)
        scorable = self.alphabet.scorable(tokens)
        bases = scorable.sum()
        if bases == 0:
            raise ValueError("no sequence of this batch has a scorable base")

        # One random shift for the step, plus a multiple of the golden ratio for each row. So every
        # quantile is uniform by itself, and the quantiles of any consecutive rows are spread
        # evenly, however the step is split over micro-batches and devices.
        shift = uniform(seed, Stream.COUNT, index.new_zeros(1), 1, step=step)[0]
        quantile = (shift + golden_multiples(index)) % 1.0
        nats = self.per_token_loss(denoiser, tokens, Draw(quantile, seed, step, index))

        if weight is None:
            weighted, weights = nats, bases
        else:
            # In float64, as the sum of many weights would overflow half precision.
            weighted, weights = weight * nats, (weight * scorable).sum(dtype=torch.float64)
        if total is None:
            total = float(weights)
        # A batch whose bases all have weight 0 has the loss 0, not 0 / 0.
        value = weighted.sum() / max(total, torch.finfo(torch.float32).tiny)
        return Loss(value, (nats.sum() / bases).detach())

    @torch.no_grad()
    def bound(
        self,
        denoiser: Denoiser,
        tokens: Int64[Tensor, "B L"],
        *,
        draws: int = 8,
        seed: int = 0,
        index: Int64[Tensor, " B"] | None = None,
    ) -> Bound:
        """Returns a bound on the negative log-likelihood of each sequence.

        It is a mean over draws, whose noise levels are stratified for each sequence.

        Args:
            denoiser: the network, in evaluation mode.
            tokens: (B, L) int64 clean token ids.
            draws: number of draws; each takes the network calls that the objective states, usually
                one.
            seed: of the estimate.
            index: (B,) int64, the number of each sequence in its data set, which determines its
                random numbers; 0..B-1 by default.

        Raises:
            UsageError: if the denoiser does not suit this objective, or if draws is below 1.
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
        """Returns the mean of stratified draws of `nats`, a function such as `per_token_nelbo`."""
        if draws < 1:
            raise UsageError(f"draws must be at least 1, not {draws}")
        index = row_index(tokens, index)
        shift = uniform(seed, Stream.COUNT, index, 1)[:, 0]

        estimates = []
        for number in range(draws):
            quantile = (shift + number / draws) % 1.0
            terms = nats(denoiser, tokens, Draw(quantile, seed, number, index))
            estimates.append(terms.double().sum(1))
        parts = torch.stack(estimates)

        # The spread of stratified draws includes the spread between strata, which the mean does not
        # have: this standard error is conservative.
        se = torch.full_like(parts[0], torch.nan)
        if draws > 1:
            se = parts.std(0) / draws**0.5
        return Bound(parts.mean(0), se, self.alphabet.scorable(tokens).sum(1), kind)

    def check(self, denoiser: Denoiser) -> None:
        """Checks that a denoiser fits this objective.

        Raises:
            UsageError: if it is not causal and has to be, or if it has another number of outputs.
        """
        name = type(self).__name__
        if self.causal and not denoiser.causal:
            raise UsageError(
                f"{name} needs a network that sees only what lies to the left (a causal backbone:"
                " mamba, hyena or transformer); this one sees both sides, so its result would be a"
                " pseudo-likelihood"
            )
        if denoiser.outputs != self.outputs:
            raise UsageError(
                f"{name} needs {self.outputs} outputs for each position, and the network has"
                f" {denoiser.outputs}"
            )

    def call_denoiser(
        self,
        denoiser: Denoiser,
        tokens: Int64[Tensor, "B L"],
        rate: Float[Tensor, " B"] | float | None = None,
        token_probs: Float[Tensor, "B L weights"] | None = None,
    ) -> Float[Tensor, "B L outputs"]:
        """Calls a denoiser once and returns its logits (B, L, outputs).

        Logits in half precision become float32; float64 stays.

        Args:
            denoiser: the network.
            tokens: (B, L) corrupted token ids.
            rate: (B,) noise level 1 - alpha, or one for all rows; None is 0. It reaches networks
                with time conditioning, as sigma = -log(alpha).
            token_probs: (B, L, K) or (B, L, 2 K), as the denoiser takes it.
        """
        sigma = None
        if denoiser.needs_sigma:
            rate = 0.0 if rate is None else rate
            rate = torch.as_tensor(rate, dtype=torch.float64, device=tokens.device)
            # log1p keeps the digits of rates near 0, and the clamp keeps sigma finite near 1.
            sigma = -torch.log1p(-rate.clamp(max=1.0 - _MIN_SIGNAL)).float()
            sigma = sigma.expand(len(tokens))
        logits = denoiser(tokens, sigma=sigma, token_probs=token_probs)
        return logits if logits.dtype == torch.float64 else logits.float()


def golden_multiples(index: Int64[Tensor, " B"]) -> Float64[Tensor, " B"]:
    """Returns the fractional parts, float64 in [0, 1), of int64 `index` times the golden ratio.

    The results for consecutive indices are spread evenly over the interval. The product is computed
    in integers modulo 2^64, so its fraction is exact for every index. In floating point, a large
    integer part would leave no digits for the fraction: in float32 all rows have the same fraction
    from index 2^24 on.
    """
    # A float64 holds 52 bits of a fraction exactly, so the high 52 of the 64 bits are used.
    fraction = ((index * _GOLDEN) >> 12) & ((1 << 52) - 1)
    return fraction.double() * 2.0**-52


def row_index(tokens: Tensor, index: Tensor | None) -> Tensor:
    """Returns `index`, or 0..B-1 where it is None."""
    return torch.arange(tokens.shape[0], device=tokens.device) if index is None else index
