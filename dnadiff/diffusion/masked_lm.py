"""Masked language modelling (BERT, Devlin et al. 2019): stage A of the paper's pipeline.

It is also a baseline for masked diffusion.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.diffusion.absorbing import Hidden, cross_entropy, hide
from dnadiff.diffusion.mdlm import MDLM
from dnadiff.diffusion.objective import Bound, Denoiser, Draw, Objective
from dnadiff.rng import Stream

_CHOSEN = 0.15  # share of the bases that are predicted
# A chosen base is masked if its random number is below the first, replaced if below the second.
_MASKED, _REPLACED = 0.8, 0.9


class MaskedLM(Objective):
    """Predicts 15 % of the bases: 80 % of them masked, 10 % replaced at random, 10 % unchanged.

    The loss is not a bound. But a masked language model is a valid denoiser for masked diffusion,
    so `bound` is that of MDLM, an upper bound on -log p. `pseudo` is the pseudo-likelihood.

    Args:
        alphabet: the letters.
    """

    time_conditioned = False

    def __init__(self, *, alphabet: Alphabet = DNA) -> None:
        super().__init__(alphabet)
        self.mdlm = MDLM(alphabet=alphabet)

    def per_token_nelbo(
        self, denoiser: Denoiser, tokens: Int64[Tensor, "B L"], draw: Draw
    ) -> Float[Tensor, "B L"]:
        """Returns a one-sample estimate of the terms (B, L) of MDLM's bound, in nats."""
        return self.mdlm.per_token_nelbo(denoiser, tokens, draw)

    def per_token_loss(
        self, denoiser: Denoiser, tokens: Int64[Tensor, "B L"], draw: Draw
    ) -> Float[Tensor, "B L"]:
        """Returns the cross-entropy (B, L) of the chosen bases, 0 elsewhere.

        It is weighted so that the sum over the chosen bases estimates the sum over all bases.
        """
        scorable = self.alphabet.scorable(tokens)
        # In float64: an integer tensor times a Python number would be float32.
        count = (scorable.sum(1).double() * _CHOSEN).round().long().clamp(min=1)
        chosen = hide(scorable, count, draw.uniform(Stream.MASK, tokens.shape[1]))

        fate = draw.uniform(Stream.FATE, tokens.shape[1])
        letter_index = draw.uniform(Stream.LETTER, tokens.shape[1]) * len(self.alphabet)
        letter = letter_index.long() + self.alphabet.first_id
        shown = tokens.masked_fill(chosen.mask & (fate < _MASKED), self.alphabet.mask_id)
        shown = torch.where(chosen.mask & (fate >= _MASKED) & (fate < _REPLACED), letter, shown)
        return self._cost(denoiser, tokens, shown, chosen)

    @torch.no_grad()
    def pseudo(
        self,
        denoiser: Denoiser,
        tokens: Int64[Tensor, "B L"],
        *,
        draws: int = 8,
        seed: int = 0,
        index: Int64[Tensor, " B"] | None = None,
    ) -> Bound:
        """Returns the negative pseudo-log-likelihood, -sum of log p(x_i | all other bases).

        Each draw masks one base. It is not a bound: if bases depend on each other it lies below the
        entropy. The arguments are those of `bound`.
        """
        return self._averaged(self._one_hidden, denoiser, tokens, draws, seed, index, "pseudo")

    def _one_hidden(self, denoiser: Denoiser, tokens: Tensor, draw: Draw) -> Tensor:
        """Returns the terms (B, L) of the pseudo-likelihood from one masked base in each row."""
        keys = draw.uniform(Stream.MASK, tokens.shape[1])
        hidden = hide(self.alphabet.scorable(tokens), torch.ones_like(draw.index), keys)
        masked = tokens.masked_fill(hidden.mask, self.alphabet.mask_id)
        return self._cost(denoiser, tokens, masked, hidden)

    def _cost(self, denoiser: Denoiser, tokens: Tensor, shown: Tensor, hidden: Hidden) -> Tensor:
        """Returns the weighted cross-entropy (B, L) of the chosen bases, given tokens `shown`."""
        log_p = F.log_softmax(self.call_denoiser(denoiser, shown, hidden.rate), -1)
        cost = cross_entropy(log_p, self.alphabet.letter_index(tokens))
        return hidden.factor[:, None] * cost.masked_fill(~hidden.mask, 0.0)
