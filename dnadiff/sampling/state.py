"""State of a sampling run; every sampler draws letters here, from the network's logits.

A letter is drawn by inversion in float64 from mu, the network's distribution of that letter given
everything except the letter's own noise. (Float32 Gumbel noise would lose events that are rarer
than about 1e-7.) Every random number is a pure function of (seed, sample, step, position), so a
sample is the same in any batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from dnadiff.alphabet import Alphabet
from dnadiff.diffusion import Denoiser, Objective
from dnadiff.rng import Stream, uniform

# Common CPU libraries round matrix products differently if they have fewer rows than this.
_MIN_TOKENS = 16


class Prediction(NamedTuple):
    """The network's prediction of the letters at M positions.

    Attributes:
        log_mu: (M, K) float64, log-probabilities of the letters, after temperature, nucleus and
            restrictions.
        log_total_score: (M,) float64, log W, the logarithm of the total of the letters' scores. The
            network unmasks W times as fast as the schedule. 0, except for unnormalised scores
            (SEDD) and for a network that can predict the mask.
    """

    log_mu: Tensor
    log_total_score: Tensor


class LetterDrawer(Protocol):
    """Draws letters that together violate no constraint, as `ConstrainedBatch.draw` does."""

    def draw(
        self, tokens: Tensor, now: Tensor, quantile: Tensor, logits: LogitsOf, within: Tensor
    ) -> None:
        """Draws the letters `now` (B, L) in place; may draw those in `within` (B, L) again."""
        ...


class LogitsOf(Protocol):
    """Returns the logits (M, K) of the positions where a (B, L) bool tensor is True."""

    def __call__(self, where: Tensor, /) -> Tensor:
        """See the class."""
        ...


@dataclass(frozen=True, eq=False)
class SamplingState:
    """The letters to draw, and the network to draw them with.

    Attributes:
        denoiser: see `dnadiff.diffusion.Denoiser`.
        template: (B, L) int64 token ids.
        free: (B, L) bool, the positions to draw, all of which hold the mask id. All others stay as
            they are; a mask among them is a letter that is left hidden.
        allowed: (B, L, K) bool, the letters that may be drawn; None for all.
        label: (B,) class labels, or None for no class.
        objective: what the denoiser was trained for; None for masked diffusion.
        seed: of the run.
        index: (B,) sample numbers.
        temperature: divides log mu.
        top_p: letters are drawn from the likeliest ones whose total probability reaches this.
        alphabet: the letters.
        constrained: draws the letters if sequences must satisfy constraints; None otherwise.
        first: (B,) int64, where each row begins in its sequence, if it is a window of one.
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
    constrained: LetterDrawer | None = None
    first: Tensor | None = None

    def numbers(self, stream: Stream, step: int = 0, each: int = 1) -> Tensor:
        """Returns random numbers (B, L * each) float64, uniform on (0, 1).

        They belong to (seed, sample, step, position in the sequence), whatever the window.
        """
        first = 0 if self.first is None else self.first * each
        size = self.template.shape[1] * each
        return uniform(self.seed, stream, self.index, size, step=step, first=first)

    @cached_property
    def quantile(self) -> Tensor:
        """One random number (B, L) for each position, for samplers that draw a letter once."""
        return self.numbers(Stream.LETTER)

    @cached_property
    def possible(self) -> Tensor:
        """The letters (B, L, K) bool that each position may turn out to be.

        That is its own letter if it is fixed, else those that are allowed.
        """
        own = F.one_hot(self.alphabet.letter_index(self.template), len(self.alphabet)).bool()
        others = torch.ones_like(own) if self.allowed is None else self.allowed
        return torch.where(self.alphabet.scorable(self.template)[..., None], own, others)

    def draw(
        self,
        tokens: Tensor,
        now: Tensor,
        time: Tensor,
        quantile: Tensor,
        log_mu: Tensor | None = None,
    ) -> Tensor:
        """Draws letters, independently of each other, and returns the tokens (B, L) with them.

        Under constraints they are drawn so that together they violate none. Letters that were drawn
        earlier may then be drawn again, anywhere in the row.

        Args:
            tokens: (B, L) int64 token ids as the network sees them.
            now: (B, L) bool, the positions to draw.
            time: (B,) float64 mask rate.
            quantile: (B, L) float64 in (0, 1).
            log_mu: (M, K) of these positions, row by row, if they are known; the network is called
                otherwise.
        """
        drawn = tokens.clone() if self.constrained is not None else tokens

        def law_of(where: Tensor) -> Tensor:
            """Returns log mu (M, K) of some positions."""
            # Only the first call is for the positions whose distribution the caller already has.
            if log_mu is not None and where is now:
                return log_mu
            return self.predict(drawn, where, time).log_mu

        if self.constrained is not None:
            self.constrained.draw(drawn, now, quantile, law_of, torch.ones_like(now))
            return drawn
        letters = pick(law_of(now), quantile[now]) + self.alphabet.first_id
        return tokens.masked_scatter(now, letters)

    def draw_from(self, tokens: Tensor, now: Tensor, quantile: Tensor, log_p: Tensor) -> Tensor:
        """Draws letters from log-probabilities (B, L, K) that do not depend on the other letters.

        Under constraints, only `free` letters are drawn again. Returns tokens (B, L).
        """
        if self.constrained is None:
            letters = pick(log_p[now], quantile[now]) + self.alphabet.first_id
            return tokens.masked_scatter(now, letters)
        drawn = tokens.clone()
        self.constrained.draw(drawn, now, quantile, lambda where: log_p[where], self.free)
        return drawn

    def predict(
        self, tokens: Tensor, where: Tensor, time: Tensor, token_probs: Tensor | None = None
    ) -> Prediction:
        """Calls the network on the rows that have a position to predict.

        Args:
            tokens: (B, L) int64 noisy token ids.
            where: (B, L) bool, the M positions to predict.
            time: (B,) float64, 1 - alpha, the share of the signal that is lost.
            token_probs: (B, L, K) weights on the letters' embeddings, or None.
        """
        # Rows without a position to predict are left out, which saves most of a late step's cost.
        rows = where.any(1).nonzero()[:, 0]
        logits = self._call(rows, tokens, time, token_probs)[where[rows]]
        return self.read(logits, where, time)

    def read(self, logits: Tensor, where: Tensor, time: Tensor) -> Prediction:
        """Returns the prediction for logits (M, outputs) of the positions `where` (B, L)."""
        logits = logits.double()
        log_total_score = self._log_total_score(logits, where, time)

        # The largest logit becomes 0, so that a low temperature cannot overflow.
        logits = logits[:, : len(self.alphabet)]
        logits = (logits - logits.amax(-1, keepdim=True)) / self.temperature
        if self.allowed is not None:
            logits = logits.masked_fill(~self.allowed[where], -torch.inf)
        return Prediction(nucleus(logits.log_softmax(-1), self.top_p), log_total_score)

    def _call(
        self, rows: Tensor, tokens: Tensor, time: Tensor, token_probs: Tensor | None
    ) -> Tensor:
        """Returns the network's logits of these rows.

        Few rows are repeated, so that rounding does not depend on the size of the batch.
        """
        shown = tokens[rows]
        repeats = repetitions(shown.numel())

        sigma = label = None
        if self.denoiser.needs_sigma:
            # At t = 1 sigma would be infinite; the network is given a large finite level.
            lost = time[rows].clamp(max=1.0 - 2.0**-30)
            sigma = -torch.log1p(-lost).float().repeat(repeats)
        if self.label is not None:
            label = self.label[rows].repeat(repeats)
        if token_probs is not None:
            token_probs = token_probs[rows].repeat(repeats, 1, 1)

        logits = self.denoiser(
            shown.repeat(repeats, 1), sigma=sigma, label=label, token_probs=token_probs
        )
        return logits[: len(rows)]

    def _log_total_score(self, logits: Tensor, where: Tensor, time: Tensor) -> Tensor:
        """Returns log W (M,) of logits (M, outputs) of the positions `where` at mask rates (B,).

        A network that predicts the mask with probability x_m unmasks at the rate of scores with the
        total W = t (1 - x_m) / (t + (1 - t) x_m)  (D3PM, Austin et al. 2021, with the network's
        prediction as x_theta).
        """
        if logits.shape[1] > len(self.alphabet):
            log_x, t = logits.log_softmax(-1), time[where.nonzero()[:, 0]]
            rate = (t / (t + (1 - t) * log_x[:, -1].exp())).log()
            return log_x[:, :-1].logsumexp(-1) + rate
        if self.objective is None or self.objective.normalised:
            return torch.zeros_like(logits[:, 0])
        return logits.logsumexp(-1)


def repetitions(tokens: int) -> int:
    """Returns how often to repeat a batch so that it has at least 16 tokens."""
    return -(-_MIN_TOKENS // max(tokens, 1))


def nucleus(log_p: Tensor, share: float) -> Tensor:
    """Keeps the most likely letters whose total probability is at least `share`.

    Nucleus sampling (Holtzman et al. 2020, arXiv 1904.09751).

    Args:
        log_p: (M, K) log-probabilities.
        share: in (0, 1]; 1 keeps all.

    Returns:
        Log-probabilities (M, K), normalised again; minus infinity for the letters left out.
    """
    if share >= 1.0:
        return log_p
    ordered, order = log_p.sort(stable=True, dim=-1, descending=True)
    # A letter is kept if those before it do not reach the share, so the first one always is.
    before = ordered.exp().cumsum(-1) - ordered.exp()
    outside = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= share)
    return log_p.masked_fill(outside, -torch.inf).log_softmax(-1)


def pick(logits: Tensor, quantile: Tensor) -> Tensor:
    """Draws letter indices (M,) by inversion of the cumulative softmax of logits (M, K).

    Args:
        logits: (M, K) float64.
        quantile: (M,) float64 in (0, 1).
    """
    cumulated = logits.softmax(-1).cumsum(-1)
    # The last column need not be exactly 1, and the quantile must stay below it.
    return (cumulated <= quantile[:, None] * cumulated[:, -1:]).sum(-1)
