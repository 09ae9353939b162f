"""Steering a sampler towards a class, by a denoiser that wraps a denoiser: any masked-diffusion sampler can use it.

Both kinds change which letter is drawn, never when: with absorbing noise the rate at which letters are unmasked does
not depend on the class. (The published classifier guidance normalises over letters and mask together, which inflates
that rate.)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.diffusion import Denoiser

LogClass = Callable[[Tensor, Tensor | None], Tensor]
"""A classifier of noised sequences: tokens (B, L) and `soft` (B, L, K) or None to log p(class | tokens), (B,)."""

_LEAST = -1e4  # a letter that one of two networks excludes stays excluded, and infinity minus infinity does not arise


class _Guided:
    """What a wrapped denoiser has in common with the one inside."""

    causal, outputs = False, len(DNA)

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.needs_sigma = denoiser, denoiser.needs_sigma


class ClassifierFree(_Guided):
    """Classifier-free guidance (Ho and Salimans 2022) of masked diffusion.

        p(letter) ~ p(letter | class)^weight  p(letter)^(1 - weight)

    Weight 1 samples the class conditional as it was learned, 0 ignores the class. Beyond 1 the class is exaggerated:
    each letter is drawn from a sharpened distribution, and the sequences follow no simple law.

    Args:
        denoiser: trained with labels, and sometimes without ("none given").
        weight: 0 or more.
    """

    def __init__(self, denoiser: Denoiser, weight: float) -> None:
        super().__init__(denoiser)
        self.weight = weight

    def __call__(
        self, tokens: Tensor, sigma: Tensor | None = None, label: Tensor | None = None, soft: Tensor | None = None
    ) -> Tensor:
        """Logits (B, L, K), normalised; `label` (B,) is the class to go to."""
        told = F.log_softmax(self.denoiser(tokens, sigma=sigma, label=label, soft=soft), -1)
        if self.weight == 1.0:
            return told
        untold = F.log_softmax(self.denoiser(tokens, sigma=sigma, soft=soft), -1)
        mixed = self.weight * told.clamp(min=_LEAST) + (1.0 - self.weight) * untold.clamp(min=_LEAST)
        return F.log_softmax(mixed, -1)


class ClassifierGuided(_Guided):
    """Classifier guidance of masked diffusion by a classifier of noised sequences.

        p(letter b at l) ~ p(letter b at l) p(class | sequence with b at l)^weight,   over the letters

    With the exact classifier and weight 1 that is the class conditional.

    Args:
        denoiser: of all classes together.
        classifier: log-probability of the class that is wanted.
        weight: 0 or more.
        exact: ask the classifier for every letter at every hidden place, 4 L sequences for each; or take its gradient
            (one call), which is exact where its log-probability is linear in the letters.
        alphabet: the letters.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        classifier: LogClass,
        weight: float,
        *,
        exact: bool = False,
        alphabet: Alphabet = DNA,
    ) -> None:
        super().__init__(denoiser)
        self.weight, self.alphabet = weight, alphabet
        self.gains = _each_letter if exact else _first_order
        self.classifier = classifier

    def __call__(
        self, tokens: Tensor, sigma: Tensor | None = None, label: Tensor | None = None, soft: Tensor | None = None
    ) -> Tensor:
        """Logits (B, L, K), normalised; the class is the classifier's, so `label` goes to the network as it is."""
        log_p = F.log_softmax(self.denoiser(tokens, sigma=sigma, label=label, soft=soft), -1)
        gain = self.gains(self.classifier, tokens, self.alphabet).clamp(min=_LEAST)
        return F.log_softmax(log_p.clamp(min=_LEAST) + self.weight * gain, -1)


def _each_letter(classifier: LogClass, tokens: Tensor, alphabet: Alphabet) -> Tensor:
    """What log p(class | tokens with letter b at place l) (B, L, K), where a letter is hidden; 0 elsewhere."""
    hidden = (tokens == alphabet.mask_id).nonzero()
    gain = torch.zeros(*tokens.shape, len(alphabet), dtype=torch.float64, device=tokens.device)
    for k, letter in enumerate(alphabet.ids):
        tried = tokens[hidden[:, 0]]
        tried[torch.arange(len(hidden), device=tokens.device), hidden[:, 1]] = letter
        gain[hidden[:, 0], hidden[:, 1], k] = classifier(tried, None).double()
    return gain


def _first_order(classifier: LogClass, tokens: Tensor, alphabet: Alphabet) -> Tensor:
    """The same up to a constant of each place, to first order about what is shown now.

    The base point is the mask: its embedding stays, and `soft` counts how much of each letter is added in its place.
    The gradient's part for the mask is the same for all letters, and drops out.
    """
    with torch.enable_grad():
        soft = torch.zeros(*tokens.shape, len(alphabet) + 1, device=tokens.device)
        index = torch.where(tokens == alphabet.mask_id, len(alphabet), alphabet.letter_index(tokens))
        soft.scatter_(-1, index[..., None], 1.0).requires_grad_()
        (slope,) = torch.autograd.grad(classifier(tokens, soft).sum(), soft)
    return slope[..., : len(alphabet)].double()
