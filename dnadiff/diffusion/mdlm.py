"""Masked diffusion (MDLM, Sahoo et al. 2024, arXiv 2406.07524) and its ablations.

Bases are masked at a rate u, and the network predicts each of them from the visible ones. In
continuous time the NELBO is an integral over the mask rate,

    NELBO = integral from 0 to 1 of (1/u) E[ sum over masked positions of -log mu(x) ] du,

for every noise schedule that runs from no mask to all masks. Integrating over u exactly gives the
*exact-count* estimator: draw k uniformly from 1..n, mask exactly k of the n scorable bases, and
take n times their mean cross-entropy. It is unbiased, has no weight 1/u and no empty mask, and has
a much lower variance than the published estimator (see docs/results.md).
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.diffusion.absorbing import (
    Hidden,
    cross_entropy,
    exact_count,
    forced_one,
    mask_output_cost,
)
from dnadiff.diffusion.objective import Denoiser, Draw, Objective
from dnadiff.diffusion.schedule import SCHEDULES, ScheduleName
from dnadiff.rng import Stream

Estimator = Literal["exact-count", "time", "published"]

_PUBLISHED_EPS = (
    1e-3  # where the paper's code starts time, and how much signal it leaves at the end
)


class MDLM(Objective):
    """Masked diffusion: an upper bound on -log p, which is also the training loss.

    Args:
        steps: T of the discrete-time bound, which is that of the ancestral sampler with T steps;
            None for continuous time.
        schedule: of the noise. It changes the discrete-time bound, and in continuous time only the
            variance of the estimator "time".
        estimator: of the continuous-time bound. "exact-count" integrates over time in closed form.
            "time" draws t uniformly, with the weight u'(t) / u(t) of the mask rate u. "published"
            is what the paper's code computes: t from 1e-3 to 1, mask rate (1 - 1e-3) t, weight 1/t.
            It is about 1e-3 nats per base too low, because of both ends of time.
        carry_over: visible bases are copied to the output. With False (an ablation) the network
            must also predict them, which takes a second call and adds the cost of reconstructing
            the clean sequence from itself to the bound.
        zero_masking: the network never predicts the mask. False (an ablation) gives it a fifth
            output, for the mask.
        complementary: use pairs of masks: the first k bases of a random order, and the last
            n + 1 - k. That takes two calls, whose errors partly cancel.
        alphabet: the letters.

    Raises:
        ValueError: if an option is unknown, or if two options contradict each other.
    """

    time_conditioned = False

    def __init__(
        self,
        *,
        steps: int | None = None,
        schedule: ScheduleName = "log-linear",
        estimator: Estimator = "exact-count",
        carry_over: bool = True,
        zero_masking: bool = True,
        complementary: bool = False,
        alphabet: Alphabet = DNA,
    ) -> None:
        super().__init__(
            alphabet,
            steps=steps,
            schedule=schedule,
            estimator=estimator,
            carry_over=carry_over,
            zero_masking=zero_masking,
            complementary=complementary,
        )
        _check(steps, schedule, estimator)
        self.steps = steps
        self.schedule = SCHEDULES[schedule]
        self.estimator = estimator
        self.carry_over = carry_over
        self.zero_masking = zero_masking
        self.complementary = complementary

    @property
    def outputs(self) -> int:
        """Number of logits for each position: K, or K + 1 without zero masking."""
        return len(self.alphabet) + (not self.zero_masking)

    def per_token_nelbo(
        self, denoiser: Denoiser, tokens: Int64[Tensor, "B L"], draw: Draw
    ) -> Float[Tensor, "B L"]:
        """Returns a one-sample estimate of the terms (B, L) of the bound, in nats.

        It takes one call of the network, or two with complementary masks, and as many more without
        carry-over. Arguments are those of `Objective.per_token_nelbo`.
        """
        nats = self._one_mask(denoiser, tokens, draw)
        if self.complementary:
            nats = (nats + self._one_mask(denoiser, tokens, draw.opposite())) / 2
        return nats

    def _one_mask(self, denoiser: Denoiser, tokens: Tensor, draw: Draw) -> Tensor:
        """Returns the terms (B, L) of the bound from one mask for each row."""
        scorable = self.alphabet.scorable(tokens)
        letters = self.alphabet.letter_index(tokens)
        hidden, earlier = self._hide(scorable, draw)
        masked = tokens.masked_fill(hidden.mask, self.alphabet.mask_id)
        logits = self.call_denoiser(denoiser, masked, hidden.rate)

        log_p = F.log_softmax(logits, -1)
        if self.zero_masking:
            cost = cross_entropy(log_p, letters)
        else:
            cost = mask_output_cost(log_p, letters, hidden.rate, earlier)
        nats = hidden.factor[:, None] * cost.masked_fill(~hidden.mask, 0.0)

        # A schedule that leaves some bases visible at the end of time needs the KL divergence from
        # the prior. The published code has such a schedule and leaves this term out.
        if self.schedule.left and self.estimator != "published":
            nats = nats + self.schedule.left * math.log(len(self.alphabet)) * scorable
        if not self.carry_over:
            # Reconstruction from the clean sequence, z_0 = x, by the network's raw output.
            log_p = F.log_softmax(self.call_denoiser(denoiser, tokens, 0.0), -1)
            nats = nats + cross_entropy(log_p, letters).masked_fill(~scorable, 0.0)
        return nats

    def _hide(self, scorable: Tensor, draw: Draw) -> tuple[Hidden, Tensor | None]:
        """Returns the masked bases, and in discrete time the mask rate (B,) one step earlier."""
        keys = draw.uniform(Stream.MASK, scorable.shape[1])
        if self.steps is not None:
            step = (draw.quantile * self.steps).floor() + 1.0  # uniform on 1..T
            rate = self.schedule.rate(step / self.steps)
            earlier = self.schedule.rate((step - 1.0) / self.steps)
            hidden = forced_one(scorable, rate, keys, draw.uniform(Stream.ORDER, 1)[:, 0])
            # `forced_one` estimates c(rate), the integrand over the mask rate; one of T equally
            # likely steps stands for the whole sum over them.
            return hidden._replace(factor=hidden.factor * self.steps * (rate - earlier)), earlier
        if self.estimator == "exact-count":
            return exact_count(scorable, draw.quantile, keys), None
        rate, factor = self.rate_and_factor(draw.quantile)
        return Hidden((keys < rate[:, None]) & scorable, rate, factor), None

    def rate_and_factor(self, quantile: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mask rates (B,) and weights (B,) at quantiles (B,) of time.

        A weight multiplies the cross-entropy of the masked bases. Only the estimators "time" and
        "published" draw the time.
        """
        # At time 0 the weight would be infinite; the quantile can be 0 by rounding alone.
        quantile = quantile.clamp(min=2.0**-53)
        if self.estimator == "published":
            t = _PUBLISHED_EPS + (1.0 - _PUBLISHED_EPS) * quantile
            return (1.0 - _PUBLISHED_EPS) * t, 1.0 / t
        rate = self.schedule.rate(quantile)
        return rate, self.schedule.slope(quantile) / rate


def _check(steps: int | None, schedule: str, estimator: str) -> None:
    """Raises a ValueError if an option is unknown, or if two options contradict each other."""
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}; there are {', '.join(SCHEDULES)}")
    if estimator not in get_args(Estimator):
        raise ValueError(
            f"unknown estimator {estimator!r}; there are {', '.join(get_args(Estimator))}"
        )
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if steps is not None and estimator != "exact-count":
        raise ValueError(f"estimator {estimator!r} is for continuous time: leave steps out")
    if steps is None and estimator == "exact-count" and SCHEDULES[schedule].left:
        raise ValueError(f"schedule {schedule!r} never masks everything: use estimator 'time'")
    if estimator == "published" and schedule != "log-linear":
        raise ValueError("estimator 'published' is that of the log-linear schedule")
