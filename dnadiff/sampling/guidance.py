"""Steering a sampler towards a class, by a denoiser that wraps a denoiser.

Guidance with weight w draws from p(. | class)^w p(.)^(1 - w), normalised. What is mixed so is the law of what a step of
the sampler draws:

    absorbing noise   a letter, given that it is drawn now; also from left to right
    uniform noise     the noisy letter z_s, given z_t: the reverse kernels, not the laws mu of clean letters
    Gaussian noise    the noisy embedding z_s, given z_t. The kernels are Gaussians of one variance, whose means are
                      linear in the estimate x^ of the clean embedding: their mixture has w x^(class) + (1 - w) x^

Under absorbing noise any sampler can use the wrapped denoiser as it is: guidance changes which letter is drawn, never
when, and the rate at which masks are lifted is that of the network that is told the class. (The published classifier
guidance normalises over letters and mask together, which inflates that rate.) Samplers of the other noises ask each
network for itself (`terms`) and mix what they make of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.diffusion import Denoiser, Objective
from dnadiff.errors import UsageError
from dnadiff.sampling.state import SamplingState

ClassLogProb = Callable[[Tensor, Tensor | None], Tensor]
"""A classifier of masked sequences: tokens (B, L), and `token_probs` (B, L, K + 1) with the mask last or
None, to log p(class) (B,), which can be differentiated by `token_probs`."""

_LEAST = -1e4  # a letter that one of two networks excludes stays excluded, and infinity minus infinity does not arise


class Guide(Protocol):
    """A classifier of noised sequences into several classes."""

    labels: tuple[str, ...]

    def of(self, label: str) -> ClassLogProb:
        """The log-probability of one class."""
        ...


class _Guided:
    """What a wrapped denoiser has in common with the one inside."""

    causal = False

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.needs_sigma, self.outputs = (
            denoiser,
            denoiser.needs_sigma,
            denoiser.outputs,
        )


class ClassifierFree(_Guided):
    """Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598) of absorbing noise, or from left to right.

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
        self.causal, self.recurrent = denoiser.causal, getattr(denoiser, "recurrent", False)

    def __call__(
        self,
        tokens: Tensor,
        sigma: Tensor | None = None,
        label: Tensor | None = None,
        token_probs: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, L, outputs); `label` (B,) is the class to go to."""
        told = self.denoiser(tokens, sigma=sigma, label=label, token_probs=token_probs)
        return (
            told
            if self.weight == 1.0
            else self._mixed(told, self.denoiser(tokens, sigma=sigma, token_probs=token_probs))
        )

    def begin(
        self, batch: int, sigma: Tensor | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Of a recurrent network: as `LMDenoiser.begin`, with the states of both."""
        inside: Any = self.denoiser
        told, untold = inside.begin(batch, sigma, label), inside.begin(batch, sigma)
        return self._mixed(told[0], untold[0]), (told[1], untold[1])

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """As `LMDenoiser.step`."""
        inside: Any = self.denoiser
        told, untold = (inside.step(tokens, one) for one in state)
        return self._mixed(told[0], untold[0]), (told[1], untold[1])

    def _mixed(self, told: Tensor, untold: Tensor) -> Tensor:
        weights = [self.weight, 1.0 - self.weight]
        return _drawn_by(geometric_mixture(weights, [_letters(told), _letters(untold)]), told)


class ClassifierGuided(_Guided):
    """Guidance of absorbing noise by a classifier of masked sequences (Schiff et al. 2024, arXiv 2412.10193).

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
        classifier: ClassLogProb,
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
        self,
        tokens: Tensor,
        sigma: Tensor | None = None,
        label: Tensor | None = None,
        token_probs: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, L, outputs); the class is the classifier's, so `label` goes to the network as it is."""
        logits = self.denoiser(tokens, sigma=sigma, label=label, token_probs=token_probs)
        gain = self.gains(self.classifier, tokens, self.alphabet).clamp(min=_LEAST)
        return _drawn_by(_letters(logits).clamp(min=_LEAST) + self.weight * gain, logits)


def apply_guidance(
    denoiser: Denoiser,
    label: str | None,
    weight: float | None,
    guide: Guide | None,
    objective: Objective,
) -> tuple[Denoiser, int | None]:
    """The denoiser that draws sequences of a class, and the number of the class that it is to be told.

    Args:
        denoiser: the network; its `labels` are the names of the classes that it can be told.
        label: the class that is wanted; None for any.
        weight: of the guidance, 1 if None. Without a guide, 1 is the network as it was trained, in one call.
        guide: a classifier, instead of the network's own labels.
        objective: what the network was trained for.

    Raises:
        UsageError: if there is no such class, or something is given that has no meaning without a class.
    """
    if label is None:
        if weight is not None or guide is not None:
            raise UsageError(
                f"--{'guide' if weight is None else 'guidance'} goes with --label: say which class"
            )
        return denoiser, None
    names = getattr(denoiser, "labels", ()) if guide is None else guide.labels
    if not names:
        raise UsageError(
            "this model was trained without labels: leave --label out, or give --guide TABLE"
        )
    if label not in names:
        raise UsageError(f"no class {label!r}; there are {', '.join(names)}")
    weight = 1.0 if weight is None else weight
    if not 0 <= weight < math.inf:
        raise UsageError(f"guidance must be 0 or more, not {weight}")
    if guide is not None:
        check_guidable(objective)
        return ClassifierGuided(denoiser, guide.of(label), weight), None
    if weight == 0:
        return denoiser, None
    return denoiser if weight == 1 else ClassifierFree(denoiser, weight), names.index(label)


def check_guidable(objective: Objective) -> None:
    """Whether a classifier of masked sequences can guide a model.

    Raises:
        UsageError: if it was not trained with masks.
    """
    if objective.corruption != "absorbing":
        raise UsageError(
            f"--guide is for models trained with masks, and this one was trained with {objective.noise} noise: train "
            f"it with --labels instead"
        )


def guidance_terms(state: SamplingState) -> list[tuple[float, SamplingState]]:
    """Weights, which sum to 1, and requests whose laws a sampler is to mix; without guidance, the request alone.

    Raises:
        UsageError: for guidance by a classifier.
    """
    guided = state.denoiser
    if isinstance(guided, ClassifierGuided):
        raise UsageError("guidance by a classifier is for absorbing noise")
    if not isinstance(guided, ClassifierFree):
        return [(1.0, state)]
    told = replace(state, denoiser=guided.denoiser)
    both = [(guided.weight, told), (1.0 - guided.weight, replace(told, label=None))]
    return [(weight, one) for weight, one in both if weight != 0]


def geometric_mixture(weights: Sequence[float], log_laws: Sequence[Tensor]) -> Tensor:
    """Logarithm of the product of laws (..., K), each to its power; normalised."""
    if len(weights) == 1:
        return log_laws[0].log_softmax(-1)
    terms = [weight * law.clamp(min=_LEAST) for weight, law in zip(weights, log_laws, strict=True)]
    return torch.stack(terms).sum(0).log_softmax(-1)


def _letters(logits: Tensor) -> Tensor:
    """Log-probabilities (..., K) of the letters of logits (..., outputs)."""
    return F.log_softmax(logits[..., : len(DNA)], -1)


def _drawn_by(log_p: Tensor, logits: Tensor) -> Tensor:
    """Logits (..., outputs) whose letters follow log_p (..., K), with the mass and the mask of `logits`.

    On these the rate depends at which masks are lifted, for scores (SEDD) and for networks that may answer "mask".
    """
    mass = logits[..., : len(DNA)].logsumexp(-1, keepdim=True)
    return torch.cat([log_p.log_softmax(-1) + mass, logits[..., len(DNA) :]], -1)


def _each_letter(classifier: ClassLogProb, tokens: Tensor, alphabet: Alphabet) -> Tensor:
    """What log p(class | tokens with letter b at place l) (B, L, K), where a letter is hidden; 0 elsewhere."""
    hidden = (tokens == alphabet.mask_id).nonzero()
    gain = torch.zeros(*tokens.shape, len(alphabet), dtype=torch.float64, device=tokens.device)
    for k, letter in enumerate(alphabet.ids):
        tried = tokens[hidden[:, 0]]
        tried[torch.arange(len(hidden), device=tokens.device), hidden[:, 1]] = letter
        gain[hidden[:, 0], hidden[:, 1], k] = classifier(tried, None).double()
    return gain


def _first_order(classifier: ClassLogProb, tokens: Tensor, alphabet: Alphabet) -> Tensor:
    """The same up to a constant of each place, to first order about what is shown now.

    The base point is the mask: its embedding stays, and `token_probs` counts how much of each letter is added in its place.
    The gradient's part for the mask is the same for all letters, and drops out.
    """
    with torch.enable_grad():
        token_probs = torch.zeros(*tokens.shape, len(alphabet) + 1, device=tokens.device)
        index = torch.where(
            tokens == alphabet.mask_id, len(alphabet), alphabet.letter_index(tokens)
        )
        token_probs.scatter_(-1, index[..., None], 1.0).requires_grad_()
        (slope,) = torch.autograd.grad(classifier(tokens, token_probs).sum(), token_probs)
    return slope[..., : len(alphabet)].double()
