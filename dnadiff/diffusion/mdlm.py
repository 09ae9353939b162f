"""Masked diffusion (MDLM, Sahoo et al. 2024, arXiv 2406.07524) with the SUBS parameterisation, and its ablations.

In continuous time the bound is the integral over the mask rate u of the mean cross-entropy of masked letters, for every
noise schedule that runs from no mask to all masks. Integrating over u exactly leaves the *exact-count* estimator: draw
k uniformly from 1..n, mask exactly k of the n scorable letters, and take n times their mean cross-entropy. It is
unbiased, has no 1/t and no empty mask, and is much calmer than the published estimator.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

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

_PUBLISHED_EPS = 1e-3


class MDLM(Objective):
    """Masked diffusion: an upper bound on -log p, minimised as it stands.

    Args:
        steps: T of the discrete-time bound, that of the ancestral sampler with T steps; None for continuous time.
        schedule: of the noise; it changes the discrete-time bound, and the variance of the estimator "time".
        estimator: of the continuous-time bound. "exact-count" integrates over time in closed form. "time" draws t
            uniformly and weighs with u'(t)/u(t), u the mask rate. "published" is what the paper's code computes: t from
            1e-3 to 1, mask rate (1 - 1e-3) t, weight 1/t; it is about 1e-3 nats a base too low, at both ends of time.
        carry_over: a visible letter is known. Without it (an ablation) the network must also reconstruct what it sees,
            which takes a second call and adds a pseudo-likelihood to the bound.
        zero_masking: the network never answers "mask". Without it (an ablation) it has a fifth output.
        complementary: train and evaluate on pairs of masks: the first k letters of a random order, and the last n+1-k.
            Two calls, whose errors partly cancel.
        alphabet: the letters.

    Raises:
        ValueError: if an option is unknown, or two do not go together.
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
        self.steps, self.schedule, self.estimator = steps, SCHEDULES[schedule], estimator
        self.carry_over, self.zero_masking, self.complementary = (
            carry_over,
            zero_masking,
            complementary,
        )

    @property
    def outputs(self) -> int:
        """K, or K + 1 without zero masking."""
        return len(self.alphabet) + (not self.zero_masking)

    def per_token_nelbo(self, denoiser: Denoiser, tokens: Tensor, draw: Draw) -> Tensor:
        """One draw of the bound (B, L); see `Objective.nats`. One call, and one more for each option that says so."""
        if self.complementary:
            return (
                self._one(denoiser, tokens, draw) + self._one(denoiser, tokens, draw.opposite())
            ) / 2
        return self._one(denoiser, tokens, draw)

    def _one(self, denoiser: Denoiser, tokens: Tensor, draw: Draw) -> Tensor:
        scorable = self.alphabet.scorable(tokens)
        letters = self.alphabet.letter_index(tokens)
        hidden, earlier = self._hide(scorable, draw)
        logits = self.call_denoiser(
            denoiser, tokens.masked_fill(hidden.mask, self.alphabet.mask_id), hidden.rate
        )
        log_p = F.log_softmax(logits, -1)
        if self.zero_masking:
            cost = cross_entropy(log_p, letters)
        else:
            cost = mask_output_cost(log_p, letters, hidden.rate, earlier)
        nats = hidden.factor[:, None] * cost.masked_fill(~hidden.mask, 0.0)
        if self.schedule.left and self.estimator != "published":
            nats = nats + self.schedule.left * math.log(len(self.alphabet)) * scorable
        if not self.carry_over:
            log_p = F.log_softmax(self.call_denoiser(denoiser, tokens, 0.0), -1)
            nats = nats + cross_entropy(log_p, letters).masked_fill(~scorable, 0.0)
        return nats

    def _hide(self, scorable: Tensor, draw: Draw) -> tuple[Hidden, Tensor | None]:
        """What is hidden; and the mask rate one step earlier, in discrete time."""
        keys = draw.uniform(Stream.MASK, scorable.shape[1])
        if self.steps is not None:
            place = (draw.quantile * self.steps).floor() + 1.0
            rate, earlier = (self.schedule.rate(i / self.steps) for i in (place, place - 1.0))
            hidden = forced_one(scorable, rate, keys, draw.uniform(Stream.ORDER, 1)[:, 0])
            return hidden._replace(factor=hidden.factor * self.steps * (rate - earlier)), earlier
        if self.estimator == "exact-count":
            return exact_count(scorable, draw.quantile, keys), None
        rate, factor = self.rate_and_factor(draw.quantile)
        return Hidden((keys < rate[:, None]) & scorable, rate, factor), None

    def rate_and_factor(self, quantile: Tensor) -> tuple[Tensor, Tensor]:
        """Mask rate, and weight of the masked cross-entropy, at a quantile of time: of "time" and "published"."""
        quantile = quantile.clamp(min=2.0**-53)
        if self.estimator == "published":
            t = _PUBLISHED_EPS + (1.0 - _PUBLISHED_EPS) * quantile
            return (1.0 - _PUBLISHED_EPS) * t, 1.0 / t
        rate = self.schedule.rate(quantile)
        return rate, self.schedule.slope(quantile) / rate


def _check(steps: int | None, schedule: str, estimator: str) -> None:
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
