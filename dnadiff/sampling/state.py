"""What is to be drawn, and the one place where letters are drawn from what a network says.

Whatever the sampler, a letter is drawn by inversion in float64 from mu, the network's law of that letter given
everything but the letter's own noise. (A race of float32 exponentials, as in the Gumbel trick, loses the events that
are rarer than about 1e-7.) Every random number is a pure function of (seed, sample, step, position), so a sample is the
same in any batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dnadiff.alphabet import Alphabet
from dnadiff.diffusion import Denoiser, Objective
from dnadiff.rng import Stream, uniform
from dnadiff.sampling.constraints import ConstrainedBatch

# Matrix products of fewer rows than this take another path, with another rounding, in common CPU libraries.
_FEWEST_TOKENS = 16


class Prediction(NamedTuple):
    """What the network says of M places.

    Attributes:
        log_mu: (M, K) float64, log-probabilities of the letters; temperature, nucleus and restrictions are in it.
        log_mass: (M,) float64, log W: by how much faster than the schedule the network has the letter appear. 0 but for
            unnormalised scores (SEDD), where it is that of their sum, and for a network that may answer "mask".
    """

    log_mu: Tensor
    log_mass: Tensor


@dataclass(frozen=True, eq=False)
class SamplingState:
    """What is to be drawn, with which network.

    Attributes:
        denoiser: see `dnadiff.diffusion.Denoiser`.
        template: (B, L) int64 token ids.
        free: (B, L) bool, the positions to draw, all of which hold the mask id; everything else stays.
        allowed: (B, L, K) bool, the letters that may be drawn; None for all.
        label: (B,) class labels, or None.
        objective: what the denoiser was trained for; None for masked diffusion.
        seed: of the run.
        index: (B,) sample numbers.
        temperature: divides log mu.
        top_p: draws are from the likeliest letters that together have this share of mu.
        alphabet: the letters.
        draft: where the letters are drawn, if they have to keep to constraints.
        span: the positions that the network is shown; all `free` ones are among them.
    """

    denoiser: Denoiser
    template: Tensor
    free: Tensor
    allowed: Tensor | None
    label: Tensor | None
    objective: Objective | None
    seed: int
    index: Tensor
    temperature: float
    top_p: float
    alphabet: Alphabet
    draft: ConstrainedBatch | None = None
    span: slice = field(default_factory=lambda: slice(None))

    def numbers(self, stream: Stream, step: int = 0) -> Tensor:
        """Random numbers (B, L) float64, uniform on (0, 1), one for each position and step; 0 outside the span."""
        shown = range(self.template.shape[1])[self.span]
        numbers = torch.zeros_like(self.template, dtype=torch.float64)
        numbers[:, self.span] = uniform(
            self.seed, stream, self.index, len(shown), step=step, first=shown.start
        )
        return numbers

    def possible(self) -> Tensor:
        """Which letters (B, span, K) bool a position may turn out to be: its own if it is fixed, else those allowed."""
        template = self.template[:, self.span]
        own = F.one_hot(self.alphabet.letter_index(template), len(self.alphabet)).bool()
        open_ = torch.ones_like(own) if self.allowed is None else self.allowed[:, self.span]
        return torch.where(self.alphabet.scorable(template)[..., None], own, open_)

    def draw(
        self,
        tokens: Tensor,
        now: Tensor,
        time: Tensor,
        quantile: Tensor,
        log_mu: Tensor | None = None,
    ) -> None:
        """Draws letters in place, each independently of the others, or so that together they break no constraint.

        Under constraints letters that were drawn before may be drawn again, anywhere in the span.

        Args:
            tokens: (B, L) int64 token ids as the network is to see them.
            now: (B, L) bool, the places to draw.
            time: (B,) float64 mask rate.
            quantile: (B, L) float64 in (0, 1).
            log_mu: (M, K) of these places, row by row, if they are known; the network is asked otherwise.
        """

        def ask(where: Tensor) -> Tensor:
            return (
                log_mu
                if log_mu is not None and where is now
                else self.predict(tokens, where, time).log_mu
            )

        if self.draft is None:
            tokens[now] = pick(ask(now), quantile[now]) + self.alphabet.first_id
        else:
            shown = torch.zeros_like(now)
            shown[:, self.span] = True
            self.draft.draw(tokens, now, quantile, ask, shown)

    def draw_from(self, tokens: Tensor, now: Tensor, quantile: Tensor, log_p: Tensor) -> None:
        """The same from laws (B, L, K) that stay as they are whatever is drawn; only `free` letters are drawn again."""
        if self.draft is None:
            tokens[now] = pick(log_p[now], quantile[now]) + self.alphabet.first_id
        else:
            self.draft.draw(tokens, now, quantile, lambda where: log_p[where], self.free)

    def predict(
        self, tokens: Tensor, where: Tensor, time: Tensor, token_probs: Tensor | None = None
    ) -> Prediction:
        """Asks the network about the places where a (B, L) tensor is True; rows without any are not shown to it.

        Args:
            tokens: (B, L) int64 noisy token ids.
            where: (B, L) bool.
            time: (B,) float64, the share 1 - alpha of the signal that is lost.
            token_probs: (B, span, K) weights on letters' embeddings, or None.
        """
        rows = where.any(1).nonzero()[:, 0]
        return self.read(
            self._call(rows, tokens, time, token_probs)[where[rows, self.span]], where, time
        )

    def read(self, logits: Tensor, where: Tensor, time: Tensor) -> Prediction:
        """What the network's logits (M, outputs) of the places `where` (B, L) mean."""
        logits = logits.double()
        log_mass = self._log_mass(logits, where, time)
        logits = logits[:, : len(self.alphabet)]
        logits = (logits - logits.amax(-1, keepdim=True)) / self.temperature
        if self.allowed is not None:
            logits = logits.masked_fill(~self.allowed[where], -torch.inf)
        return Prediction(nucleus(logits.log_softmax(-1), self.top_p), log_mass)

    def _call(
        self, rows: Tensor, tokens: Tensor, time: Tensor, token_probs: Tensor | None
    ) -> Tensor:
        """The network's logits of these rows, never asked of so few tokens that rounding depends on the batch."""
        shown = tokens[rows, self.span]
        repeats = repetitions(shown.numel())
        sigma = -torch.log1p(-time[rows].clamp(max=1.0 - 2.0**-30)).float().repeat(repeats)
        logits = self.denoiser(
            shown.repeat(repeats, 1),
            sigma=sigma if self.denoiser.needs_sigma else None,
            label=None if self.label is None else self.label[rows].repeat(repeats),
            token_probs=None if token_probs is None else token_probs[rows].repeat(repeats, 1, 1),
        )
        return logits[: len(rows)]

    def _log_mass(self, logits: Tensor, where: Tensor, time: Tensor) -> Tensor:
        """The mass, log W (M,), of logits (M, outputs) of the places `where` at mask rates (B,).

        A network that answers "mask" with probability x_m unmasks at the rate of a score with the mass
        W = t (1 - x_m) / (t + (1 - t) x_m)  (D3PM, Austin et al. 2021, with x_theta plugged in).
        """
        if logits.shape[1] > len(self.alphabet):
            log_x, t = logits.log_softmax(-1), time[where.nonzero()[:, 0]]
            return log_x[:, :-1].logsumexp(-1) + (t / (t + (1 - t) * log_x[:, -1].exp())).log()
        if self.objective is None or self.objective.normalised:
            return torch.zeros_like(logits[:, 0])
        return logits.logsumexp(-1)


def repetitions(rows: int) -> int:
    """How often to repeat what the network is shown, so that products of few rows are rounded as those of many."""
    return -(-_FEWEST_TOKENS // max(rows, 1))


def nucleus(log_p: Tensor, share: float) -> Tensor:
    """log_p (M, K) of the smallest set of likeliest letters with at least this share of it, normalised again.

    Nucleus sampling (Holtzman et al. 2020, arXiv 1904.09751).
    """
    if share >= 1.0:
        return log_p
    ordered, order = log_p.sort(stable=True, dim=-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    outside = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= share)
    return log_p.masked_fill(outside, -torch.inf).log_softmax(-1)


def pick(logits: Tensor, quantile: Tensor) -> Tensor:
    """Letter indices (M,) by inversion in float64: quantile (M,) against the cumulated softmax of logits (M, K)."""
    cumulated = logits.softmax(-1).cumsum(-1)
    return (cumulated <= quantile[:, None] * cumulated[:, -1:]).sum(-1)
