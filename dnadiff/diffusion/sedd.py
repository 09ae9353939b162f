"""Score entropy discrete diffusion (SEDD, Lou et al. 2024, arXiv 2310.16834).

The network's answer is read as unnormalised probabilities w = exp(logits), from which the concrete scores follow. For
absorbing noise the scores of a masked position are s_b = w_b / (e^sigma - 1), and the score entropy becomes

    sigma' / (e^sigma - 1) * [ -log softmax(l)_x0 + (W - 1 - log W) ],    W = sum of w:

MDLM's integrand of the normalised network plus a penalty that is never negative, with nothing large at either end of
time. So normalising a trained SEDD never worsens its bound, and with W = 1 the two objectives agree term by term.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.diffusion.absorbing import cross_entropy, exact_count
from dnadiff.diffusion.objective import Denoiser, Draw, Objective
from dnadiff.noise import Stream


class SEDD(Objective):
    """Score entropy with absorbing noise: an upper bound on -log p, minimised as it stands.

    Args:
        alphabet: the letters.
    """

    def __init__(self, *, alphabet: Alphabet = DNA) -> None:
        super().__init__(alphabet)

    def nats(self, denoiser: Denoiser, tokens: Tensor, draw: Draw) -> Tensor:
        """One draw of the bound (B, L), by exact counts; one call."""
        scorable = self.alphabet.scorable(tokens)
        hidden = exact_count(scorable, draw.quantile, draw.uniform(Stream.MASK, tokens.shape[1]))
        logits = self.ask(denoiser, tokens.masked_fill(hidden.mask, self.alphabet.mask_id), hidden.rate)
        log_mass = logits.logsumexp(-1)
        cost = cross_entropy(logits - log_mass[..., None], self.alphabet.letter_index(tokens)) + excess(log_mass)
        return hidden.factor[:, None] * cost.masked_fill(~hidden.mask, 0.0)


def excess(u: Tensor) -> Tensor:
    """h(u) = e^u - 1 - u, which is never negative; by its series where the difference would leave no digits."""
    small = u.abs() < 1e-2
    near = torch.where(small, u, 0.0)
    series = near.square() / 2 * (1 + near / 3 * (1 + near / 4 * (1 + near / 5)))
    far = torch.where(small, 1.0, u)
    return torch.where(small, series, torch.expm1(far) - far)
