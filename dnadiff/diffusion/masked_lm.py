"""Masked language modelling (BERT, Devlin et al. 2019): stage A of the paper's pipeline, and its baseline."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.diffusion.absorbing import Hidden, cross_entropy, hide
from dnadiff.diffusion.mdlm import MDLM
from dnadiff.diffusion.objective import Bound, Denoiser, Draw, Objective
from dnadiff.rng import Stream

_CHOSEN = 0.15
_MASKED, _REPLACED = 0.8, 0.9


class MaskedLM(Objective):
    """Predicts 15 % of the letters, of which 80 % are masked, 10 % replaced by a random letter, and 10 % left.

    Its loss is no bound. But a masked language model is a legal denoiser of masked diffusion, so `bound` is MDLM's,
    which is a true upper bound on -log p; the pseudo-likelihood is reported beside it, by `pseudo`.
    """

    time_conditioned = False

    def __init__(self, *, alphabet: Alphabet = DNA) -> None:
        super().__init__(alphabet)
        self.mdlm = MDLM(alphabet=alphabet)

    def per_token_nelbo(self, denoiser: Denoiser, tokens: Tensor, draw: Draw) -> Tensor:
        """One draw of MDLM's bound (B, L)."""
        return self.mdlm.per_token_nelbo(denoiser, tokens, draw)

    def per_token_loss(self, denoiser: Denoiser, tokens: Tensor, draw: Draw) -> Tensor:
        """The cross-entropy of the chosen letters (B, L), so weighted that their mean stands for every letter."""
        scorable = self.alphabet.scorable(tokens)
        count = (scorable.sum(1).double() * _CHOSEN).round().long().clamp(min=1)
        chosen = hide(scorable, count, draw.uniform(Stream.MASK, tokens.shape[1]))
        fate = draw.uniform(Stream.FATE, tokens.shape[1])
        letter = (
            draw.uniform(Stream.LETTER, tokens.shape[1]) * len(self.alphabet)
        ).long() + self.alphabet.first_id
        shown = tokens.masked_fill(chosen.mask & (fate < _MASKED), self.alphabet.mask_id)
        shown = torch.where(chosen.mask & (fate >= _MASKED) & (fate < _REPLACED), letter, shown)
        return self._cost(denoiser, tokens, shown, chosen)

    @torch.no_grad()
    def pseudo(
        self,
        denoiser: Denoiser,
        tokens: Tensor,
        *,
        draws: int = 8,
        seed: int = 0,
        index: Tensor | None = None,
    ) -> Bound:
        """The negative pseudo-log-likelihood, -sum of log p(x_i | all other letters), from one hidden letter a draw.

        It is no bound on anything: for related letters it lies below the entropy. The arguments are those of `bound`.
        """
        return self._averaged(self._one_hidden, denoiser, tokens, draws, seed, index, "pseudo")

    def _one_hidden(self, denoiser: Denoiser, tokens: Tensor, draw: Draw) -> Tensor:
        one = torch.ones_like(draw.index)
        hidden = hide(
            self.alphabet.scorable(tokens), one, draw.uniform(Stream.MASK, tokens.shape[1])
        )
        return self._cost(
            denoiser, tokens, tokens.masked_fill(hidden.mask, self.alphabet.mask_id), hidden
        )

    def _cost(self, denoiser: Denoiser, tokens: Tensor, shown: Tensor, hidden: Hidden) -> Tensor:
        log_p = F.log_softmax(self.call_denoiser(denoiser, shown, hidden.rate), -1)
        cost = cross_entropy(log_p, self.alphabet.letter_index(tokens))
        return hidden.factor[:, None] * cost.masked_fill(~hidden.mask, 0.0)
