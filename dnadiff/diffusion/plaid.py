"""Plaid (Gulrajani and Hashimoto 2023, arXiv 2305.18619): Gaussian noise on learned embeddings of the letters.

Write gamma for the log noise-to-signal ratio, alpha^2 = sigmoid(-gamma) and s^2 = sigmoid(gamma). A letter x with the
embedding E[x], of norm 1, is seen as z = alpha E[x] + s eps. All that z says of x is its *evidence*

    e_b = log q(z | x = b) + constant = (alpha / s^2) z.E_b.

So softmax(e) is what the network is given, and nothing else of z: a letter that is known has a one-hot there, one that
is not has 1/K, whatever the noise level. It answers with leave-one-out logits l; P = softmax(l + e), in which e is
Plaid's output prior, and x^ = P E. The bound on -log p(x) is

    E[-log P(x | z_0)] + KL(q(z_1 | x) || N(0, I)) + integral of (1/2) gamma'(t) exp(-gamma) E|E[x] - x^|^2 dt

summed over letters, with the ends gamma(0) and gamma(1) learned like the network. Its estimate is calmed in two ways.

*What chance says is known.* For l = 0, the answer P0 = softmax(e) of a network that knows nothing, the integral is
E[-log P0(x | z_1)] - E[-log P0(x | z_0)] for every letter x, by de Bruijn's identity. So only what the network adds to
chance is left to the reconstruction and to the integral, and -log P0(x | z_1) is added.

*The schedule.* The course of gamma between its ends changes the variance, not the bound. A uniform t draws gamma from
a density p, and an integral's estimate f / p has a second moment whose gradient is -E[(f / p)^2 grad log p]: fitting p
to the levels that are drawn, each with the weight (f / p)^2, needs no derivative of the network (`LearnedSchedule`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.diffusion.absorbing import cross_entropy
from dnadiff.diffusion.objective import Denoiser, Draw, Objective, select_rows
from dnadiff.rng import Stream

_BINS = 32
_REBUILT = 1 / 8  # of the rows in training
_SELF_CONDITIONED = 1 / 4


class Level(NamedTuple):
    """Noise levels at times t.

    Attributes:
        gamma: (B,) float64, log noise-to-signal ratio.
        slope: (B,) float64, its derivative by t.
        log_share: (B,) float64, log of the probability with which a uniform t falls into the bin of this level: what
            the schedule learns by.
    """

    gamma: Tensor
    slope: Tensor
    log_share: Tensor


class LearnedSchedule(nn.Module):
    """gamma(t), rising from `low` at t = 0 to `high` at t = 1, in float64.

    The way from low to high is cut into bins of equal width. A uniform t falls into each with a learned probability,
    and uniformly within. The ends have the bound's gradient; the probabilities have none of it, but that of
    `Level.log_share`.

    Args:
        low: gamma(0) at the start.
        high: gamma(1) at the start.

    Raises:
        ValueError: if high is not above low.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        if not low < high:
            raise ValueError(f"gamma must rise, and from {low} to {high} it does not")
        self.lowest = nn.Parameter(torch.tensor(float(low)))
        self.width = nn.Parameter(
            torch.tensor(float(high) - float(low), dtype=torch.float64).expm1().log().float()
        )  # softplus keeps it positive
        self.shares = nn.Parameter(torch.zeros(_BINS))

    @property
    def low(self) -> Tensor:
        """gamma(0), where letters are reconstructed."""
        return self.lowest.double()

    @property
    def high(self) -> Tensor:
        """gamma(1), where sampling starts."""
        return self.low + F.softplus(self.width.double())

    def forward(self, t: Tensor) -> Level:
        """Levels at times t (B,) float64 in [0, 1]."""
        log_share = self.shares.double().log_softmax(0)
        share = log_share.detach().exp()
        above = share.cumsum(0)
        place = torch.searchsorted(above, t).clamp(max=_BINS - 1)
        within = (1.0 - (above[place] - t) / share[place]).clamp(0.0, 1.0)
        bin_width = (self.high - self.low) / _BINS
        return Level(
            self.low + bin_width * (place + within), bin_width / share[place], log_share[place]
        )


class Plaid(Objective):
    """Gaussian diffusion of letter embeddings: an upper bound on -log p, minimised as it stands.

    A draw of the bound takes two calls, one of them for the reconstruction, and with self-conditioning four. In
    training one row in eight is reconstructed and the others are at a time t, so a step takes one call.

    Args:
        gamma: log noise-to-signal ratio at both ends of time, where learning starts.
        dimension: D of the embeddings. What z says of the letters is z E^T, so any dimension from K on gives the same
            process.
        self_conditioning: the network is shown its own first answer to the same z; in training for a quarter of the
            rows.
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
        """Whether the network is shown its own first answer."""
        return self.self_conditioning

    @property
    def embedding(self) -> Tensor:
        """E (K, D) float64, rows of norm 1."""
        return F.normalize(self.letters.weight.double(), dim=-1)

    def per_token_nelbo(self, denoiser: Denoiser, tokens: Tensor, draw: Draw) -> Tensor:
        """One draw of the bound (B, L); see the class for its calls."""
        letters, normal = self.alphabet.letter_index(tokens), self._normal(tokens, draw)
        level, low = self.schedule(draw.quantile), self.schedule.low.expand(len(tokens))
        always = torch.ones_like(draw.index, dtype=torch.bool)
        rebuilt = self._answers(denoiser, tokens, low, normal, always)
        denoised = self._answers(denoiser, tokens, level.gamma, normal, always)
        gain = self._reconstruction(rebuilt, letters) + self._diffusion(denoised, letters, level)
        return (self._by_chance(letters, normal) + gain).masked_fill(
            ~self.alphabet.scorable(tokens), 0.0
        )

    def per_token_loss(self, denoiser: Denoiser, tokens: Tensor, draw: Draw) -> Tensor:
        """The same (B, L) in one call, each row reconstructed or at a time t; with the schedule's gradient."""
        letters, normal = self.alphabet.letter_index(tokens), self._normal(tokens, draw)
        scorable = self.alphabet.scorable(tokens)
        early = draw.quantile < _REBUILT
        level = self.schedule(((draw.quantile - _REBUILT) / (1 - _REBUILT)).clamp(min=0.0))
        gamma = torch.where(early, self.schedule.low, level.gamma)
        twice = draw.uniform(Stream.FATE, 1)[:, 0] < _SELF_CONDITIONED
        answers = self._answers(denoiser, tokens, gamma, normal, twice)
        rebuilt = self._reconstruction(answers, letters)
        denoised = self._diffusion(answers, letters, level)
        calm = second_moment_gradient(denoised, scorable, level.log_share)
        gain = torch.where(early[:, None], rebuilt / _REBUILT, denoised / (1 - _REBUILT) + calm)
        return (self._by_chance(letters, normal) + gain).masked_fill(~scorable, 0.0)

    def noised(self, letters: Tensor, gamma: Tensor, normal: Tensor) -> Tensor:
        """The noisy embeddings z (B, L, D) of letter indices (B, L) at levels gamma (B,), with noise eps (B, L, D)."""
        return signal(gamma) * self.embedding[letters] + noise(gamma) * normal

    def evidence(self, z: Tensor, gamma: Tensor) -> Tensor:
        """The evidence e (B, L, K) of noisy embeddings z (B, L, D) at levels gamma (B,)."""
        return signal(gamma) / noise(gamma).square() * (z @ self.embedding.T)

    def log_posterior(
        self,
        denoiser: Denoiser,
        tokens: Tensor,
        evidence: Tensor,
        gamma: Tensor,
        self_cond: Tensor | None = None,
    ) -> Tensor:
        """The logarithm of P (B, L, K), the law of each letter given all of the evidence; one call.

        Args:
            denoiser: the network.
            tokens: (B, L), with the mask id where there is evidence instead of a token.
            evidence: (B, L, K); minus infinity for a letter that is ruled out.
            gamma: (B,) noise level.
            self_cond: (B, L, K) an earlier answer P, or zeros; for self-conditioning.
        """
        token_probs = evidence.softmax(-1)
        if _can_be_shown(denoiser):
            token_probs = torch.cat(
                [token_probs, torch.zeros_like(token_probs) if self_cond is None else self_cond], -1
            )
        return F.log_softmax(
            self.call_denoiser(denoiser, tokens, lost(gamma), token_probs) + evidence, -1
        )

    def prior(self) -> Tensor:
        """KL(q(z_1 | x) || N(0, I)) of one letter, in nats: D/2 (s^2 - 1 - log s^2) + alpha^2 / 2."""
        high = self.schedule.high
        left = torch.sigmoid(-high)
        return self.letters.embedding_dim / 2 * (F.softplus(-high) - left) + left / 2

    def distance(self, log_p: Tensor, letters: Tensor) -> Tensor:
        """|E[x] - x^|^2 (B, L) of letter indices (B, L) under answers log P (B, L, K)."""
        embedding = self.embedding
        return (embedding[letters] - log_p.exp() @ embedding).square().sum(-1)

    def _normal(self, tokens: Tensor, draw: Draw) -> Tensor:
        """The noise (B, L, D); it serves every level of a draw, since each term is an expectation of its own."""
        dimension = self.letters.embedding_dim
        return draw.normal(Stream.NOISE, tokens.shape[1] * dimension).unflatten(1, (-1, dimension))

    def _answers(
        self, denoiser: Denoiser, tokens: Tensor, gamma: Tensor, normal: Tensor, twice: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both log P and log P0 (B, L, K) at levels gamma (B,); rows `twice` (B,) are shown a first answer."""
        evidence = self.evidence(
            self.noised(self.alphabet.letter_index(tokens), gamma, normal), gamma
        )
        hidden = tokens.masked_fill(self.alphabet.scorable(tokens), self.alphabet.mask_id)
        self_cond = torch.zeros_like(evidence)
        if self.self_conditioning and _can_be_shown(denoiser) and twice.any():
            some = select_rows(denoiser, twice)
            with torch.no_grad():
                self_cond[twice] = self.log_posterior(
                    some, hidden[twice], evidence[twice], gamma[twice]
                ).exp()
        return self.log_posterior(denoiser, hidden, evidence, gamma, self_cond), F.log_softmax(
            evidence, -1
        )

    def _by_chance(self, letters: Tensor, normal: Tensor) -> Tensor:
        """The bound (B, L) of a network that knows nothing."""
        high = self.schedule.high.expand(len(letters))
        evidence = self.evidence(self.noised(letters, high, normal), high)
        return self.prior() + cross_entropy(F.log_softmax(evidence, -1), letters)

    def _reconstruction(self, answers: tuple[Tensor, Tensor], letters: Tensor) -> Tensor:
        """What the network adds (B, L) to the reconstruction by chance."""
        log_p, by_chance = answers
        return cross_entropy(log_p, letters) - cross_entropy(by_chance, letters)

    def _diffusion(self, answers: tuple[Tensor, Tensor], letters: Tensor, level: Level) -> Tensor:
        """What the network adds (B, L) to the integrand of chance."""
        log_p, by_chance = answers
        weight = level.slope * torch.exp(-level.gamma) / 2
        return weight[:, None] * (self.distance(log_p, letters) - self.distance(by_chance, letters))


def _can_be_shown(denoiser: Denoiser) -> bool:
    """Whether a network takes its earlier answer, as a second half of `token_probs`; one that does not goes without."""
    return getattr(denoiser, "self_conditioned", False)


def second_moment_gradient(nats: Tensor, scorable: Tensor, log_share: Tensor) -> Tensor:
    """Zeros (B, L) whose gradient is that of the second moment of a row's nats per base.

    Each row weighs as much as one letter: AdamW's steps do not depend on the size of a gradient, but the norm by which
    all gradients are clipped does, and that should be the network's.

    Args:
        nats: (B, L) integrand, of which only the values matter.
        scorable: (B, L) bool, its letters.
        log_share: (B,) see `Level`.
    """
    count = scorable.sum(1).clamp(min=1)
    per_base = nats.detach().masked_fill(~scorable, 0.0).sum(1) / count
    fit = -per_base.square() * log_share / count
    return (fit - fit.detach())[:, None].expand_as(nats)


def signal(gamma: Tensor) -> Tensor:
    """The signal alpha (B, 1, 1) at levels gamma (B,)."""
    return torch.sigmoid(-gamma).sqrt()[:, None, None]


def lost(gamma: Tensor) -> Tensor:
    """What is lost of the signal, 1 - alpha (B,), at levels gamma (B,)."""
    return -torch.expm1(-F.softplus(gamma) / 2)


def noise(gamma: Tensor) -> Tensor:
    """The noise s (B, 1, 1) at levels gamma (B,)."""
    return torch.sigmoid(gamma).sqrt()[:, None, None]
