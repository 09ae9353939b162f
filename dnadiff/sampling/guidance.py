"""Guides a sampler towards a class, with a denoiser that wraps the network.

Guidance with weight w draws from p(. | class)^w p(.)^(1 - w), normalised. The distributions that
are combined are those from which a step of the sampler draws:

    absorbing noise   a base, given that it is drawn now; also from left to right
    uniform noise     the noisy base z_s, given z_t: the reverse kernels, not the distributions mu
                      of clean bases
    Gaussian noise    the noisy embedding z_s, given z_t. The kernels are Gaussians of one variance,
                      and their means are linear in the estimate x^ of the clean embedding, so
                      combining them amounts to w x^(class) + (1 - w) x^

Under absorbing noise any sampler can use the wrapped denoiser as it is: guidance changes which base
is drawn and never when, and the unmasking rate is that of the conditional network. (The published
classifier guidance normalises over bases and mask together, which inflates the unmasking rate.)
Samplers for the other noises call the conditional and the unconditional network separately
(`guidance_terms`) and combine the kernels.
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
"""A classifier of masked sequences, for one class.

Takes tokens (B, L) and `token_probs`, (B, L, K + 1) with the mask last or None. Returns log
p(class) (B,), differentiable with respect to `token_probs`.
"""

# Log-probabilities are clamped here: a base that one of two networks excludes stays excluded, and
# infinity minus infinity does not arise.
_MIN_LOG_PROB = -1e4


class Guide(Protocol):
    """A classifier of noised sequences into several classes."""

    labels: tuple[str, ...]

    def of(self, label: str) -> ClassLogProb:
        """Returns the log-probability of one class."""
        ...


class _Guided:
    """Base class of guided denoisers: wraps a denoiser and copies its attributes."""

    causal = False

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.needs_sigma = denoiser.needs_sigma
        self.outputs = denoiser.outputs


class ClassifierFree(_Guided):
    """Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598).

        p(base) ~ p(base | class)^weight  p(base)^(1 - weight)

    It is for absorbing noise and for autoregressive sampling. Weight 1 samples from the class
    conditional as it was learned, 0 ignores the class. Above 1 the class is exaggerated: each base
    is drawn from a sharpened distribution, and the sequences as a whole follow no simple one.

    Args:
        denoiser: trained with labels, which were left out for some of the rows.
        weight: 0 or more.
    """

    def __init__(self, denoiser: Denoiser, weight: float) -> None:
        super().__init__(denoiser)
        self.weight = weight
        self.causal = denoiser.causal
        self.recurrent = getattr(denoiser, "recurrent", False)

    def __call__(
        self,
        tokens: Tensor,
        sigma: Tensor | None = None,
        label: Tensor | None = None,
        token_probs: Tensor | None = None,
    ) -> Tensor:
        """Returns logits (B, L, outputs) guided towards the classes `label` (B,)."""
        conditional = self.denoiser(tokens, sigma=sigma, label=label, token_probs=token_probs)
        # The unconditional logits would have the weight 0: save their call.
        if self.weight == 1.0:
            return conditional
        unconditional = self.denoiser(tokens, sigma=sigma, token_probs=token_probs)
        return self._guided(conditional, unconditional)

    def begin(
        self, batch: int, sigma: Tensor | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Starts a recurrent network as `LMDenoiser.begin`.

        The state is a pair: that of the conditional and that of the unconditional network.
        """
        network: Any = self.denoiser
        conditional = network.begin(batch, sigma, label)
        unconditional = network.begin(batch, sigma)
        logits = self._guided(conditional[0], unconditional[0])
        return logits, (conditional[1], unconditional[1])

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Takes one step of a recurrent network as `LMDenoiser.step`."""
        network: Any = self.denoiser
        conditional, unconditional = (network.step(tokens, part) for part in state)
        logits = self._guided(conditional[0], unconditional[0])
        return logits, (conditional[1], unconditional[1])

    def _guided(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        """Returns the guided logits (..., outputs) of conditional and unconditional ones."""
        weights = [self.weight, 1.0 - self.weight]
        log_probs = [_letter_log_probs(conditional), _letter_log_probs(unconditional)]
        return _with_letters(geometric_mixture(weights, log_probs), conditional)


class ClassifierGuided(_Guided):
    """Guidance by a classifier of masked sequences (Schiff et al. 2024, arXiv 2412.10193).

        p(b at l) ~ p(b at l) p(class | sequence with b at l)^weight,   normalised over the bases b

    It is for absorbing noise. With the exact classifier and weight 1 this is the class conditional.

    Args:
        denoiser: the unconditional network.
        classifier: log-probability of the class to sample.
        weight: 0 or more.
        exact: call the classifier for every base at every masked position, up to 4 L sequences for
            each row. Otherwise take its gradient (one call), which is exact where its
            log-probability is linear in the bases.
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
        self.classifier = classifier
        self.class_log_probs = _each_letter if exact else _first_order

    def __call__(
        self,
        tokens: Tensor,
        sigma: Tensor | None = None,
        label: Tensor | None = None,
        token_probs: Tensor | None = None,
    ) -> Tensor:
        """Returns guided logits (B, L, outputs); `label` is passed on to the network as it is."""
        logits = self.denoiser(tokens, sigma=sigma, label=label, token_probs=token_probs)
        gain = self.class_log_probs(self.classifier, tokens, self.alphabet)
        log_p = _letter_log_probs(logits).clamp(min=_MIN_LOG_PROB)
        return _with_letters(log_p + self.weight * gain.clamp(min=_MIN_LOG_PROB), logits)


def apply_guidance(
    denoiser: Denoiser,
    label: str | None,
    weight: float | None,
    guide: Guide | None,
    objective: Objective,
) -> tuple[Denoiser, int | None]:
    """Returns the denoiser that samples a class, and the number of the class to condition on.

    Args:
        denoiser: the network; its `labels` are the names of its classes.
        label: the class to sample; None for the unconditional distribution.
        weight: of the guidance, 1 if None. Without a guide, 1 is the network as it was trained, in
            one call.
        guide: a classifier, instead of the network's own labels.
        objective: for which the network was trained.

    Raises:
        UsageError: if there is no such class, or if a weight or a guide is given without a class.
    """
    if label is None:
        for name, value in (("guidance", weight), ("guide", guide)):
            if value is not None:
                raise UsageError(f"{name} goes with label: say which class")
        return denoiser, None

    names = getattr(denoiser, "labels", ()) if guide is None else guide.labels
    if not names:
        raise UsageError(
            "this model was trained without labels: leave label out, or give a guide for it"
        )
    if label not in names:
        raise UsageError(f"no class {label!r}; there are {', '.join(names)}")
    weight = 1.0 if weight is None else weight
    if not 0 <= weight < math.inf:
        raise UsageError(f"guidance must be 0 or more, not {weight}")

    if guide is not None:
        # The class acts through the classifier alone, so the network gets no class.
        check_guidable(objective)
        return ClassifierGuided(denoiser, guide.of(label), weight), None
    if weight == 0:
        return denoiser, None
    if weight == 1:
        return denoiser, names.index(label)
    return ClassifierFree(denoiser, weight), names.index(label)


def check_guidable(objective: Objective) -> None:
    """Checks that a classifier of masked sequences can guide a model.

    Raises:
        UsageError: if the model was not trained with masks.
    """
    if objective.corruption == "absorbing":
        return
    trained = f"with {objective.corruption} noise"
    if objective.corruption == "none":
        trained = "from left to right"
    raise UsageError(
        f"a guide is for models trained with masks, and this one was trained {trained}: train it"
        " with labels instead"
    )


def guidance_terms(state: SamplingState) -> list[tuple[float, SamplingState]]:
    """Returns weights, which sum to 1, and the states whose distributions a sampler combines.

    Without guidance that is the given state alone, with weight 1.

    Raises:
        UsageError: for guidance by a classifier.
    """
    guided = state.denoiser
    if isinstance(guided, ClassifierGuided):
        raise UsageError("guidance by a classifier is for absorbing noise")
    if not isinstance(guided, ClassifierFree):
        return [(1.0, state)]
    conditional = replace(state, denoiser=guided.denoiser)
    unconditional = replace(conditional, label=None)
    both = [(guided.weight, conditional), (1.0 - guided.weight, unconditional)]
    # A weight of 0 would still cost a call of the network.
    return [(weight, part) for weight, part in both if weight != 0]


def geometric_mixture(weights: Sequence[float], log_probs: Sequence[Tensor]) -> Tensor:
    """Returns the log of the normalised product of distributions (..., K), each to its power."""
    # A single weight is 1, and unclamped logits keep bases excluded for certain.
    if len(weights) == 1:
        return log_probs[0].log_softmax(-1)
    terms = []
    for weight, log_p in zip(weights, log_probs, strict=True):
        terms.append(weight * log_p.clamp(min=_MIN_LOG_PROB))
    return torch.stack(terms).sum(0).log_softmax(-1)


def _letter_log_probs(logits: Tensor) -> Tensor:
    """Returns log-probabilities (..., K) of the letters from logits (..., outputs)."""
    return F.log_softmax(logits[..., : len(DNA)], -1)


def _with_letters(log_p: Tensor, logits: Tensor) -> Tensor:
    """Returns `logits` (..., outputs) with letters that follow log_p (..., K).

    The total score of the letters and the output for the mask stay as they are: the unmasking rate
    depends on them, for scores (SEDD) and for networks with an output for the mask.
    """
    total_score = logits[..., : len(DNA)].logsumexp(-1, keepdim=True)
    return torch.cat([log_p.log_softmax(-1) + total_score, logits[..., len(DNA) :]], -1)


def _each_letter(classifier: ClassLogProb, tokens: Tensor, alphabet: Alphabet) -> Tensor:
    """Returns log p(class | tokens with letter b at position l) (B, L, K) for masked l, else 0."""
    hidden = (tokens == alphabet.mask_id).nonzero()
    # Zero at the positions that are not masked: guidance must not change their bases.
    gain = torch.zeros(*tokens.shape, len(alphabet), dtype=torch.float64, device=tokens.device)
    for k, letter in enumerate(alphabet.ids):
        # One copy of its row for each masked position, with this letter there.
        tried = tokens[hidden[:, 0]]
        tried[torch.arange(len(hidden), device=tokens.device), hidden[:, 1]] = letter
        gain[hidden[:, 0], hidden[:, 1], k] = classifier(tried, None).double()
    return gain


def _first_order(classifier: ClassLogProb, tokens: Tensor, alphabet: Alphabet) -> Tensor:
    """Returns what `_each_letter` does, to first order and up to a constant for each position.

    The expansion is about the present input, in which a masked position has weight 1 on the mask.
    Replacing it by a base changes log p by the derivative of that base minus that of the mask; the
    latter is the same for all bases and drops out.
    """
    masked = tokens == alphabet.mask_id
    # The caller may run without gradients, as sampling does; the classifier's are needed here.
    with torch.enable_grad():
        token_probs = torch.zeros(*tokens.shape, len(alphabet) + 1, device=tokens.device)
        index = torch.where(masked, len(alphabet), alphabet.letter_index(tokens))
        token_probs.scatter_(-1, index[..., None], 1.0).requires_grad_()
        (slope,) = torch.autograd.grad(classifier(tokens, token_probs).sum(), token_probs)
    return slope[..., : len(alphabet)].double()
