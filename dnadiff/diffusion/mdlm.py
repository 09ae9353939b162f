"""Masked diffusion (MDLM, Sahoo et al. 2024, arXiv 2406.07524) with the SUBS parameterisation.

In continuous time the bound is the integral over the mask rate u of the mean cross-entropy of masked letters, for every
noise schedule that runs from no mask to all masks. Integrating over u exactly leaves the *exact-count* estimator: draw
k uniformly from 1..n, mask exactly k of the n scorable letters, and take n times their mean cross-entropy. It is
unbiased, has no 1/t and no empty mask, and is much calmer than the published estimator.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.diffusion.objective import Bound, Denoiser, Loss, Objective, row_index
from dnadiff.noise import Stream, uniform

_GOLDEN = 0.6180339887498949


class MDLM(Objective):
    """Masked diffusion in continuous time: an upper bound on -log p, minimised as it stands."""

    def loss(
        self, denoiser: Denoiser, tokens: Tensor, *, seed: int = 0, step: int = 0, index: Tensor | None = None
    ) -> Loss:
        """Nats per base of one draw of the bound for each row; see `Objective.loss`."""
        index = row_index(tokens, index)
        # One shift for the step and the golden ratio between rows: every row's count is uniform, and the rows of any
        # batch, however it is cut into micro-batches or devices, are spread evenly.
        shift = uniform(seed, Stream.COUNT, index.new_zeros(1), 1, step=step)[0]
        quantile = (shift + index * _GOLDEN) % 1.0
        keys = uniform(seed, Stream.MASK, index, tokens.shape[1], step=step)
        nats = self._nats(denoiser, tokens, quantile, keys)
        bases = self.alphabet.scorable(tokens).sum()
        if bases == 0:
            raise ValueError("no sequence of this batch has a scorable letter")
        value = nats.sum() / bases
        return Loss(value, value.detach())

    @torch.no_grad()
    def bound(
        self, denoiser: Denoiser, tokens: Tensor, *, draws: int = 8, seed: int = 0, index: Tensor | None = None
    ) -> Bound:
        """The exact-count bound, with counts stratified over the draws of each sequence; see `Objective.bound`."""
        index = row_index(tokens, index)
        shift = uniform(seed, Stream.COUNT, index, 1)[:, 0]
        nats = torch.stack(
            [
                self._nats(
                    denoiser,
                    tokens,
                    (shift + draw / draws) % 1.0,
                    uniform(seed, Stream.MASK, index, tokens.shape[1], step=draw),
                ).double()
                for draw in range(draws)
            ]
        )
        # The spread over stratified draws includes the spread between strata: this standard error errs high.
        se = nats.std(0) / draws**0.5 if draws > 1 else torch.full_like(nats[0], torch.nan)
        return Bound(nats.mean(0), se, self.alphabet.scorable(tokens).sum(1), "upper")

    def _nats(self, denoiser: Denoiser, tokens: Tensor, quantile: Tensor, keys: Tensor) -> Tensor:
        """One draw of the bound for each row (B,), from its count's quantile (B,) and a random key per letter."""
        mask, t = exact_count_mask(self.alphabet.scorable(tokens), quantile, keys)
        sigma = -torch.log1p(-t).to(torch.get_default_dtype()) if denoiser.needs_sigma else None
        return masked_nats(denoiser, tokens, mask, self.alphabet, sigma)


def exact_count_mask(scorable: Tensor, quantile: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Masks exactly k = 1 + floor(n quantile) of the n scorable positions of each row: those with the smallest keys.

    Returns the mask (B, L) and the time t (B,), the k-th smallest key. For uniform keys t given k is Beta(k, n-k+1) and
    independent of the mask's places: just the time that a time-conditioned network must be told (MATH of MDLM: if
    t ~ U(0,1) and each position is masked with probability t, then t has this law given k).
    """
    n = scorable.sum(1)
    k = 1 + (n * quantile).long().clamp(max=(n - 1).clamp(min=0))
    keys = keys.masked_fill(~scorable, 2.0)
    t = keys.sort(1).values.gather(1, (k - 1)[:, None])[:, 0]
    mask = (keys <= t[:, None]) & scorable
    return mask, t.clamp(max=1.0 - 2.0**-52)


def masked_nats(
    denoiser: Denoiser, tokens: Tensor, mask: Tensor, alphabet: Alphabet = DNA, sigma: Tensor | None = None
) -> Tensor:
    """Scorable letters times the mean cross-entropy of the masked ones, (B,) nats; 0 where none is masked.

    Args:
        denoiser: called once, on `tokens` with the masked ones hidden.
        tokens: (B, L) clean token ids.
        mask: (B, L) bool, which scorable letters to hide.
        alphabet: the letters.
        sigma: (B,) noise level, for a network that is told.
    """
    logits = denoiser(tokens.masked_fill(mask, alphabet.mask_id), sigma=sigma)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    log_p = F.log_softmax(logits, -1).gather(-1, alphabet.letter_index(tokens)[..., None])[..., 0]
    ce = -log_p.masked_fill(~mask, 0.0).sum(1)
    return ce * (alphabet.scorable(tokens).sum(1) / mask.sum(1).clamp(min=1))
