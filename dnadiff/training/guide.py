"""Fits a classifier of masked sequences for guidance, on a model's own hidden states.

It guides a model that was trained without labels. The head is a multinomial logistic regression on
hidden states, averaged over positions and strands. It is fitted to sequences masked at rates from 0
to 1, because during sampling it sees sequences at every mask rate.
"""

from __future__ import annotations

import copy
import hashlib
import math
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

from dnadiff.alphabet import DNA
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.errors import InputError, UsageError
from dnadiff.genome.labelled import LabelledWindows, read_labelled
from dnadiff.model import Model
from dnadiff.rng import Stream, uniform
from dnadiff.sampling.guidance import ClassLogProb, check_guidable

RATES = (0.1, 0.5, 0.9)
"""Mask rates at which a guide is evaluated: little, half and most of a sequence is masked."""

# Numbers of sequences: enough for a head of some hundred parameters.
_TRAIN = 1024
_HELD_OUT = 256
_NOISINGS = 4  # maskings of each training sequence
_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # inverse L2 penalties
_MAX_ITERATIONS = 500
_TOKENS_PER_BATCH = 32_768


class Skill(NamedTuple):
    """Accuracy and log-loss of a guide on held-out sequences at one mask rate.

    Attributes:
        rate: share of the bases that are masked.
        accuracy: share of the sequences whose most probable class is right.
        majority: share of the most frequent class.
        nats: log-loss, the mean of -log p(class).
        shares: log-loss of the class shares of the same sequences, the lowest that is possible
            without looking at a sequence.
        se: standard error of the difference of the two.
        sequences: number of sequences.
    """

    rate: float
    accuracy: float
    majority: float
    nats: float
    shares: float
    se: float
    sequences: int

    @property
    def significant(self) -> bool:
        """Whether it beats the class shares by more than two standard errors."""
        return self.shares - self.nats > 2 * self.se

    def __str__(self) -> str:
        text = (
            f"guide, {self.rate:.0%} masked: accuracy {self.accuracy:.3f}"
            f" (most frequent class {self.majority:.3f}), log-loss {self.nats:.3f} against"
            f" {self.shares:.3f} nats for the class shares (+- {self.se:.3f}), from"
            f" {self.sequences:,} held-out sequences"
        )
        return text if self.significant else f"{text}; no better than the class shares"


class LinearGuide:
    """A linear head on pooled hidden states; see `dnadiff.sampling.guidance.Guide`.

    Args:
        denoiser: the network.
        labels: the classes.
        skills: its performance at each of `RATES`.
        weight: (classes, d_model) float64.
        bias: (classes,) float64.

    Attributes:
        labels: as given.
        skills: as given.
        source: name and digest of the table that it was fitted to, for the header of a sequence.
    """

    source = "LinearGuide"

    def __init__(
        self,
        denoiser: LMDenoiser,
        labels: tuple[str, ...],
        skills: tuple[Skill, ...],
        weight: Tensor,
        bias: Tensor,
    ) -> None:
        self.labels, self.skills = labels, skills
        self._denoiser, self._weight, self._bias = denoiser, weight, bias

    def log_p(self, tokens: Tensor, token_probs: Tensor | None = None) -> Tensor:
        """Returns log-probabilities (B, classes) float64 of masked tokens (B, L).

        Args:
            tokens: (B, L) int64 ids.
            token_probs: (B, L, K + 1) as in `ClassLogProb`, or None.
        """
        states = pooled(self._denoiser, tokens, token_probs)[:, None].double()
        # Not as a matrix product, whose rounding would depend on the number of rows.
        return F.log_softmax((states * self._weight).sum(-1) + self._bias, -1)

    def of(self, label: str) -> ClassLogProb:
        """Returns the log-probability (B,) of one class, as a `ClassLogProb`."""
        number = self.labels.index(label)
        return lambda tokens, token_probs: self.log_p(tokens, token_probs)[:, number]


def fit_guide(
    model: Model,
    table: str | Path,
    label: str | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> LinearGuide:
    """Fits a guide to labelled sequences and evaluates it on held-out ones.

    It is fitted to at most 1,024 training sequences, each masked four times at random rates. The
    penalty is the one with the smallest log-loss on the valid sequences over all of `RATES`; the
    skills are those on the test sequences, which are used for nothing else.

    Args:
        model: trained with masks.
        table: of labelled sequences, see `read_labelled`.
        label: a class that must be in the table.
        seed: of the sample and of the masks.
        progress: called with (sequences passed through the network, their total).

    Raises:
        UsageError: if the model was not trained with masks, or if there is no such class.
        InputError: if the table cannot be read, or if the guide beats the class shares at none of
            `RATES`.
    """
    check_guidable(model.objective)
    read = read_labelled(table, model.about.get("window", 1024), seed)
    names = read.names
    if label is not None and label not in names:
        raise UsageError(f"{table}: no class {label!r} in it; there are {', '.join(names)}")

    train = read.windows["train"].limited(_TRAIN)
    valid, test = (read.windows[split].limited(_HELD_OUT) for split in ("valid", "test"))
    counts = torch.bincount(train.label, minlength=len(names))
    if not counts.all():
        raise InputError(
            f"{table}: the class {names[int(counts.argmin())]!r} is too rare to fit a guide to"
        )

    # Guidance needs gradients with respect to the input only; those of the weights cost time.
    denoiser = copy.deepcopy(model.denoiser).requires_grad_(False)
    todo = train.windows * _NOISINGS + (valid.windows + test.windows) * len(RATES)
    states = _HiddenStates(denoiser, seed, model.device, todo, progress)
    rates = uniform(seed, Stream.COUNT, torch.arange(train.windows), _NOISINGS).T
    weight, bias = _fit(
        states.at_rates(train, rates),
        train.label.repeat(_NOISINGS).numpy(),
        states.at_rates(valid, RATES),
        valid.label.repeat(len(RATES)).numpy(),
    )

    skills = tuple(
        _skill(rate, _log_p(states(test, rate, step), weight, bias), test.label)
        for step, rate in enumerate(RATES)
    )
    if not any(skill.significant for skill in skills):
        raise InputError(
            f"{table}: the hidden states of this model do not tell its classes apart"
            f" ({skills[0]}): guidance by them would only add noise; give more sequences, or train"
            " with labels"
        )
    head = (torch.from_numpy(part).to(model.device) for part in (weight, bias))
    guide = LinearGuide(denoiser, names, skills, *head)
    digest = hashlib.sha256(Path(table).read_bytes()).hexdigest()[:8]
    guide.source = f"{Path(table).name}:{digest}"
    return guide


def pooled(denoiser: LMDenoiser, tokens: Tensor, token_probs: Tensor | None = None) -> Tensor:
    """Returns the pooled hidden states (B, d_model) of masked tokens (B, L).

    A network with time conditioning is given the noise level at which the share of masks is the
    expected one.

    Args:
        denoiser: the network.
        tokens: (B, L) int64 ids.
        token_probs: (B, L, K + 1) as in `ClassLogProb`, or None.
    """
    sigma = None
    if denoiser.needs_sigma:
        hidden = tokens == DNA.mask_id
        letters = (hidden | DNA.scorable(tokens)).sum(1).clamp(min=1)
        # Integer tensors divide to float32, in which 1 - share loses its digits where nearly all is
        # masked; so in float64.
        share = hidden.sum(1).double() / letters
        sigma = -torch.log1p(-share.clamp(max=1.0 - 2.0**-30)).float()
    return denoiser.pooled(tokens, sigma, token_probs)


class _HiddenStates:
    """Computes the hidden states of masked windows, and reports progress."""

    def __init__(
        self,
        denoiser: LMDenoiser,
        seed: int,
        device: torch.device,
        total: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.denoiser, self.seed, self.device = denoiser, seed, device
        self.done, self.total, self.progress = 0, total, progress

    def at_rates(self, windows: LabelledWindows, rates: Iterable[Tensor | float]) -> np.ndarray:
        """Returns hidden states (n * rates, d) float64 of all windows at each of several rates."""
        return np.concatenate([self(windows, rate, step) for step, rate in enumerate(rates)])

    @torch.no_grad()
    def __call__(self, windows: LabelledWindows, rate: Tensor | float, step: int) -> np.ndarray:
        """Returns hidden states (n, d) float64 of all windows, masked once.

        Args:
            windows: n of them.
            rate: mask rates (n,), or one for all.
                step: number of the masking; masks of different numbers are independent.
        """
        tokens = windows.tokens(slice(None))
        chance = uniform(
            self.seed, Stream.MASK, torch.arange(len(tokens)), tokens.shape[1], step=step
        )
        rates = torch.as_tensor(rate).expand(len(tokens))
        hidden = DNA.scorable(tokens) & (chance < rates[:, None])
        shown = tokens.masked_fill(hidden, DNA.mask_id)

        # Only sequences of one length share a batch, so none is padded. Sampled sequences have no
        # padding either, so the head must not learn from it.
        sizes = (tokens != DNA.pad_id).sum(1)
        out = np.empty((len(tokens), self.denoiser.lm.config.d_model))
        for size in sizes.unique().tolist():
            for rows in (sizes == size).nonzero()[:, 0].split(max(1, _TOKENS_PER_BATCH // size)):
                states = pooled(self.denoiser, shown[rows, :size].to(self.device))
                out[rows] = states.double().cpu().numpy()
                self.done += len(rows)
                if self.progress is not None:
                    self.progress(self.done, self.total)
        return out


def _fit(
    x: np.ndarray, y: np.ndarray, x_valid: np.ndarray, y_valid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fits logistic regressions of several penalties and returns the best on the valid sequences.

    Args:
        x: (n, d) hidden states of training sequences.
        y: (n,) their classes.
        x_valid: (m, d) hidden states of valid sequences.
        y_valid: (m,) their classes.

    Returns:
        Weights (classes, d) and biases (classes,), for hidden states that are not scaled.
    """
    scaler = StandardScaler().fit(x)
    # With one thread the order of the sums, and so every digit, is the same on all machines.
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fits = [
            LogisticRegression(C=strength, max_iter=_MAX_ITERATIONS).fit(scaler.transform(x), y)
            for strength in _STRENGTHS
        ]

    scaled = scaler.transform(x_valid)
    best = min(
        fits, key=lambda fit: log_loss(y_valid, fit.predict_proba(scaled), labels=fit.classes_)
    )

    # The scaling is folded into the weights, so that hidden states can be used as they are.
    weight = best.coef_ / scaler.scale_
    bias = best.intercept_ - best.coef_ @ (scaler.mean_ / scaler.scale_)
    if len(weight) == 1:
        # For two classes scikit-learn only gives the log-odds of the second one.
        return np.concatenate([np.zeros_like(weight), weight]), np.append(0.0, bias)
    return weight, bias


def _log_p(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Tensor:
    """Returns log-probabilities (n, classes) of hidden states (n, d)."""
    return F.log_softmax(torch.from_numpy(x @ weight.T + bias), -1)


def _skill(rate: float, log_p: Tensor, label: Tensor) -> Skill:
    """Returns the skill at a mask rate of log-probabilities (n, classes), given the labels (n,)."""
    share = torch.bincount(label).double() / len(label)
    nats = -log_p.gather(1, label[:, None])[:, 0]
    by_shares = -share.log()[label]
    gain = by_shares - nats
    se = float(gain.std() / math.sqrt(len(gain))) if len(gain) > 1 else math.inf
    return Skill(
        rate,
        accuracy=float((log_p.argmax(1) == label).double().mean()),
        majority=float(share.max()),
        nats=float(nats.mean()),
        shares=float(by_shares.mean()),
        se=se,
        sequences=len(gain),
    )
