"""Plaid (Gulrajani and Hashimoto 2023, arXiv 2305.18619): Gaussian noise on learned embeddings.

Write gamma for the log noise-to-signal ratio, alpha^2 = sigmoid(-gamma) and s^2 = sigmoid(gamma). A
base x with the embedding E[x], of norm 1, is observed as z = alpha E[x] + s eps. All information in
z about x is in its *evidence*, the log-likelihood of each base b:

    e_b = log q(z | x = b) + constant = (alpha / s^2) z.E_b.

So the network is given softmax(e) and not z itself. At any noise level softmax(e) is one-hot where
a base is known and 1/K where nothing is known. The network predicts leave-one-out logits l. With
P = softmax(l + e), where e is Plaid's output prior, and x^ = P E, the bound on -log p(x) is

    E[-log P(x | z_0)]                                               reconstruction
    + KL(q(z_1 | x) || N(0, I))                                      prior
    + integral of (1/2) gamma'(t) exp(-gamma) E|E[x] - x^|^2 dt      diffusion

summed over bases. The ends gamma(0) and gamma(1) are learned with the network. Two things lower the
variance of its estimate.

*Control variate.* A network without information, l = 0, predicts P0 = softmax(e). For it the
integral is E[-log P0(x | z_1)] - E[-log P0(x | z_0)] for every base x, by de Bruijn's identity. So
reconstruction and diffusion are estimated for the difference to this network only, and
-log P0(x | z_1) is added.

*Schedule.* How gamma rises between its ends changes the variance and not the bound. A uniform t
draws gamma from a density p. The estimate f / p of the integral of f has a second moment with the
gradient -E[(f / p)^2 grad log p]. So fitting p to the noise levels that were drawn, each with the
weight (f / p)^2, lowers the variance without a derivative of the network (`LearnedSchedule`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.diffusion.absorbing import cross_entropy
from dnadiff.diffusion.objective import Denoiser, Draw, Objective, select_rows
from dnadiff.rng import Stream

_BINS = 32  # of the learned schedule
_RECONSTRUCTED = 1 / 8  # share of the rows in training that estimate the reconstruction
_SELF_CONDITIONED = 1 / 4  # share of the rows in training with self-conditioning


class Level(NamedTuple):
    """Noise levels at times t.

    Attributes:
        gamma: (B,) float64, log noise-to-signal ratio.
        slope: (B,) float64, its derivative by t.
        log_share: (B,) float64, log of the probability that a uniform t falls into the bin of this
            level; the gradient of the schedule flows through it.
    """

    gamma: Tensor
    slope: Tensor
    log_share: Tensor


class LearnedSchedule(nn.Module):
    """gamma(t), rising from `low` at t = 0 to `high` at t = 1, in float64.

    The range from low to high is divided into bins of equal width. A uniform t falls into each with
    a learned probability, and uniformly within it. The ends receive the gradient of the bound. The
    probabilities receive only the gradient of `Level.log_share`, which lowers the variance.

    Args:
        low: initial gamma(0).
        high: initial gamma(1).

    Raises:
        ValueError: if high is not above low.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        if not low < high:
            raise ValueError(f"gamma must rise, and from {low} to {high} it does not")
        self.lowest = nn.Parameter(torch.tensor(float(low)))
        # The softplus of this parameter, always positive, is the distance between the ends.
        width = torch.tensor(float(high) - float(low), dtype=torch.float64)
        self.width = nn.Parameter(width.expm1().log().float())
        self.shares = nn.Parameter(torch.zeros(_BINS))

    @property
    def low(self) -> Tensor:
        """gamma(0), where bases are reconstructed."""
        return self.lowest.double()

    @property
    def high(self) -> Tensor:
        """gamma(1), where sampling starts."""
        return self.low + F.softplus(self.width.double())

    def forward(self, t: Tensor) -> Level:
        """Returns the noise levels at times t (B,) float64 in [0, 1]."""
        log_share = self.shares.double().log_softmax(0)
        # Detached, because a gradient of the bound through gamma must not reach the probabilities.
        share = log_share.detach().exp()
        above = share.cumsum(0)
        # The sum of the shares may be a little below 1 by rounding, and t above it.
        bin_ = torch.searchsorted(above, t).clamp(max=_BINS - 1)
        within = (1.0 - (above[bin_] - t) / share[bin_]).clamp(0.0, 1.0)

        bin_width = (self.high - self.low) / _BINS
        gamma = self.low + bin_width * (bin_ + within)
        return Level(gamma, bin_width / share[bin_], log_share[bin_])


class Plaid(Objective):
    """Gaussian diffusion of embeddings: an upper bound on -log p, which is also the training loss.

    A draw of the bound takes two calls, one of them for the reconstruction, and four with
    self-conditioning. In training one row in eight estimates the reconstruction and the others the
    diffusion term, so a step takes one call, and for self-conditioning another of some rows.

    Args:
        gamma: initial log noise-to-signal ratio at both ends of time.
        dimension: D of the embeddings. The evidence depends on z only through z E^T, so every
            dimension of at least K gives the same process.
        self_conditioning: the network is also given its own first prediction for the same z; in
            training, for a quarter of the rows.
        alphabet: the letters.

    Raises:
        ValueError: if gamma does not rise, or the dimension is below 1.
    """

    corruption = "gaussian"

    def __init__(
        self,
        *,
        gamma: Sequence[float] = (-3.0, 6.0),
        dimension: int = 16,
        self_conditioning: bool = True,
        alphabet: Alphabet = DNA,
    ) -> None:
        super().__init__(
            alphabet, gamma=list(gamma), dimension=dimension, self_conditioning=self_conditioning
        )
        if len(gamma) != 2 or not all(
            isinstance(end, int | float) and abs(end) < 50 for end in gamma
        ):
            raise ValueError(f"gamma needs two numbers, each nearer to 0 than 50, not {gamma!r}")
        if dimension < 1:
            raise ValueError(f"dimension must be at least 1, not {dimension}")
        self.self_conditioning = self_conditioning
        self.schedule = LearnedSchedule(*gamma)
        self.letters = nn.Embedding(len(alphabet), dimension)
        nn.init.orthogonal_(self.letters.weight, generator=torch.Generator().manual_seed(0))

    @property
    def self_conditioned(self) -> bool:
        """Whether the network takes its own first prediction."""
        return self.self_conditioning

    @property
    def embedding(self) -> Tensor:
        """The embedding E (K, D) float64, with rows of norm 1."""
        return F.normalize(self.letters.weight.double(), dim=-1)

    def per_token_nelbo(
        self, denoiser: Denoiser, tokens: Int64[Tensor, "B L"], draw: Draw
    ) -> Float[Tensor, "B L"]:
        """Returns a one-sample estimate of the terms (B, L) of the bound, in nats.

        The number of calls is in the docstring of the class.
        """
        letters, normal = self.alphabet.letter_index(tokens), self._normal(tokens, draw)
        level, low = self.schedule(draw.quantile), self.schedule.low.expand(len(tokens))
        always = torch.ones_like(draw.index, dtype=torch.bool)

        rebuilt = self._predictions(denoiser, tokens, low, normal, always)
        denoised = self._predictions(denoiser, tokens, level.gamma, normal, always)
        gain = self._reconstruction(rebuilt, letters) + self._diffusion(denoised, letters, level)
        nats = self._without_network(letters, normal) + gain
        return nats.masked_fill(~self.alphabet.scorable(tokens), 0.0)

    def per_token_loss(
        self, denoiser: Denoiser, tokens: Int64[Tensor, "B L"], draw: Draw
    ) -> Float[Tensor, "B L"]:
        """Returns terms (B, L) of the same expectation, with the gradient of the schedule.

        Each row estimates either the reconstruction or the diffusion term, weighted by one over the
        probability of its kind.
        """
        letters, normal = self.alphabet.letter_index(tokens), self._normal(tokens, draw)
        scorable = self.alphabet.scorable(tokens)
        early = draw.quantile < _RECONSTRUCTED
        # What is left of the quantile above the share is again uniform on (0, 1).
        time = ((draw.quantile - _RECONSTRUCTED) / (1 - _RECONSTRUCTED)).clamp(min=0.0)
        level = self.schedule(time)
        gamma = torch.where(early, self.schedule.low, level.gamma)
        twice = draw.uniform(Stream.FATE, 1)[:, 0] < _SELF_CONDITIONED

        predictions = self._predictions(denoiser, tokens, gamma, normal, twice)
        rebuilt = self._reconstruction(predictions, letters) / _RECONSTRUCTED
        integrand = self._diffusion(predictions, letters, level)
        learn_schedule = second_moment_gradient(integrand, scorable, level.log_share)
        denoised = integrand / (1 - _RECONSTRUCTED) + learn_schedule
        gain = torch.where(early[:, None], rebuilt, denoised)
        return (self._without_network(letters, normal) + gain).masked_fill(~scorable, 0.0)

    def noised(self, letters: Tensor, gamma: Tensor, normal: Tensor) -> Tensor:
        """Returns noisy embeddings z (B, L, D).

        Args:
            letters: (B, L) letter indices.
            gamma: (B,) noise level.
            normal: (B, L, D) standard normal numbers eps.
        """
        return signal(gamma) * self.embedding[letters] + noise(gamma) * normal

    def evidence(self, z: Tensor, gamma: Tensor) -> Tensor:
        """Returns the evidence e (B, L, K) of noisy embeddings z (B, L, D) at levels gamma (B,)."""
        return signal(gamma) / noise(gamma).square() * (z @ self.embedding.T)

    def log_posterior(
        self,
        denoiser: Denoiser,
        tokens: Tensor,
        evidence: Tensor,
        gamma: Tensor,
        self_cond: Tensor | None = None,
    ) -> Tensor:
        """Returns log P (B, L, K), of each base given all of the evidence, in one call.

        Args:
            denoiser: the network.
            tokens: (B, L), with the mask id where there is evidence instead of a token.
            evidence: (B, L, K); minus infinity for a letter that is ruled out.
            gamma: (B,) noise level.
            self_cond: (B, L, K) an earlier prediction P, or zeros, for self-conditioning.
        """
        token_probs = evidence.softmax(-1)
        if _is_self_conditioned(denoiser):
            if self_cond is None:
                self_cond = torch.zeros_like(token_probs)
            token_probs = torch.cat([token_probs, self_cond], -1)
        logits = self.call_denoiser(denoiser, tokens, lost(gamma), token_probs)
        return F.log_softmax(logits + evidence, -1)

    def prior(self) -> Tensor:
        """Returns KL(q(z_1 | x) || N(0, I)) of one base in nats, a scalar.

        It is D/2 (s^2 - 1 - log s^2) + alpha^2 / 2.
        """
        # In terms of gamma(1), in which 1 - s^2 and log s^2 keep their digits.
        high = self.schedule.high
        left = torch.sigmoid(-high)
        return self.letters.embedding_dim / 2 * (F.softplus(-high) - left) + left / 2

    def distance(self, log_p: Tensor, letters: Tensor) -> Tensor:
        """Returns |E[x] - x^|^2 (B, L) of letter indices (B, L) for predictions log P (B, L, K)."""
        embedding = self.embedding
        return (embedding[letters] - log_p.exp() @ embedding).square().sum(-1)

    def _normal(self, tokens: Tensor, draw: Draw) -> Tensor:
        """Returns standard normal noise (B, L, D).

        The same noise is used at every level of a draw, as each term of the bound is an expectation
        by itself.
        """
        dimension = self.letters.embedding_dim
        return draw.normal(Stream.NOISE, tokens.shape[1] * dimension).unflatten(1, (-1, dimension))

    def _predictions(
        self, denoiser: Denoiser, tokens: Tensor, gamma: Tensor, normal: Tensor, twice: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns log P and log P0 (B, L, K).

        Args:
            denoiser: the network.
            tokens: (B, L) clean token ids.
            gamma: (B,) noise level.
            normal: (B, L, D) noise.
            twice: (B,) bool, the rows with self-conditioning.
        """
        z = self.noised(self.alphabet.letter_index(tokens), gamma, normal)
        evidence = self.evidence(z, gamma)
        hidden = tokens.masked_fill(self.alphabet.scorable(tokens), self.alphabet.mask_id)

        self_cond = torch.zeros_like(evidence)
        if self.self_conditioning and _is_self_conditioned(denoiser) and twice.any():
            some = select_rows(denoiser, twice)
            # As published, the first prediction is an input, through which no gradient flows.
            with torch.no_grad():
                first = self.log_posterior(some, hidden[twice], evidence[twice], gamma[twice])
                self_cond[twice] = first.exp()

        log_p = self.log_posterior(denoiser, hidden, evidence, gamma, self_cond)
        return log_p, F.log_softmax(evidence, -1)

    def _without_network(self, letters: Tensor, normal: Tensor) -> Tensor:
        """Returns the bound (B, L) of a network without information: prior and -log P0(x | z_1)."""
        high = self.schedule.high.expand(len(letters))
        evidence = self.evidence(self.noised(letters, high, normal), high)
        return self.prior() + cross_entropy(F.log_softmax(evidence, -1), letters)

    def _reconstruction(self, predictions: tuple[Tensor, Tensor], letters: Tensor) -> Tensor:
        """Returns by how much (B, L) the network changes the reconstruction term."""
        log_p, log_p0 = predictions
        return cross_entropy(log_p, letters) - cross_entropy(log_p0, letters)

    def _diffusion(
        self, predictions: tuple[Tensor, Tensor], letters: Tensor, level: Level
    ) -> Tensor:
        """Returns by how much (B, L) the network changes the integrand of the diffusion term."""
        log_p, log_p0 = predictions
        weight = level.slope * torch.exp(-level.gamma) / 2
        return weight[:, None] * (self.distance(log_p, letters) - self.distance(log_p0, letters))


def _is_self_conditioned(denoiser: Denoiser) -> bool:
    """Returns whether a network takes its earlier prediction, a second half of `token_probs`."""
    return getattr(denoiser, "self_conditioned", False)


def second_moment_gradient(nats: Tensor, scorable: Tensor, log_share: Tensor) -> Tensor:
    """Returns zeros (B, L) whose gradient is that of the second moment of a row's nats per base.

    A whole row has the weight of one base. AdamW's steps do not depend on the size of this
    gradient, but the norm used for clipping does, and that norm should come from the network.

    Args:
        nats: (B, L) integrand, of which only the values are used.
        scorable: (B, L) bool.
        log_share: (B,) see `Level`.
    """
    count = scorable.sum(1).clamp(min=1)
    per_base = nats.detach().masked_fill(~scorable, 0.0).sum(1) / count
    fit = -per_base.square() * log_share / count
    return (fit - fit.detach())[:, None].expand_as(nats)


def signal(gamma: Tensor) -> Tensor:
    """Returns the signal alpha (B, 1, 1) at levels gamma (B,)."""
    return torch.sigmoid(-gamma).sqrt()[:, None, None]


def lost(gamma: Tensor) -> Tensor:
    """Returns the lost signal 1 - alpha (B,) at levels gamma (B,), without cancellation."""
    return -torch.expm1(-F.softplus(gamma) / 2)


def noise(gamma: Tensor) -> Tensor:
    """Returns the noise s (B, 1, 1) at levels gamma (B,)."""
    return torch.sigmoid(gamma).sqrt()[:, None, None]
