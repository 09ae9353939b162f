"""A classifier of masked sequences on a model's own hidden states: it leads the model to a class that it was not told.

The head is a multinomial logistic regression on hidden states of *masked* sequences, averaged over positions and
strands, at every mask rate from 0 to 1: while sequences are drawn, most of what it sees is hidden.
"""

from __future__ import annotations

import copy
import hashlib
import math
import warnings
from collections.abc import Callable
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
"""Mask rates at which a guide is judged: little, half and most of a sequence is hidden."""

_TRAIN, _HELD_OUT = (
    1024,
    256,
)  # sequences, as many as a head of some hundred numbers can be fitted to and judged by
_NOISINGS = 4  # of each training sequence
_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # inverse L2 penalties
_MOST_ITERATIONS = 500
_TOKENS_PER_BATCH = 32_768


class Skill(NamedTuple):
    """How well a guide tells the classes of held-out sequences apart at one mask rate.

    Attributes:
        rate: share of the letters that are hidden.
        accuracy: share of the sequences of which the likeliest class is right.
        majority: the share of the most frequent class.
        nats: mean of -log p(class).
        shares: the same for the shares that the classes have in these very sequences, the best that a guide which looks
            at nothing could do.
        se: standard error of their difference.
        sequences: how many there are.
    """

    rate: float
    accuracy: float
    majority: float
    nats: float
    shares: float
    se: float
    sequences: int

    @property
    def some(self) -> bool:
        """Whether it knows more than the shares of the classes, by two standard errors."""
        return self.shares - self.nats > 2 * self.se

    def __str__(self) -> str:
        return (
            f"guide, {self.rate:.0%} hidden: accuracy {self.accuracy:.3f} (most frequent class {self.majority:.3f}), "
            f"log-loss {self.nats:.3f} against {self.shares:.3f} nats for the class shares (+- {self.se:.3f}), from "
            f"{self.sequences:,} held-out sequences{'' if self.some else '; it knows nothing there'}"
        )


class LinearGuide:
    """A linear head on the pooled hidden states of a network; see `dnadiff.sampling.guidance.Guide`.

    Attributes:
        labels: the classes.
        skills: how good it is, at each of `RATES`.
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
        """Log-probabilities (B, classes) float64 of masked tokens (B, L); `token_probs` (B, L, K + 1) as in `ClassLogProb`."""
        states = pooled(self._denoiser, tokens, token_probs)[:, None].double()
        # Not as a matrix product, whose rounding would depend on the number of rows.
        return F.log_softmax((states * self._weight).sum(-1) + self._bias, -1)

    def of(self, label: str) -> ClassLogProb:
        """The log-probability (B,) of one class, as a function of tokens and `token_probs`."""
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
    """Fits a guide to labelled sequences and judges it by held-out ones.

    At most 1,024 training sequences, each masked four times at random rates. The penalty is the one with the smallest
    log-loss on valid sequences, over all of `RATES`; the skills are those on test sequences, which choose nothing.

    Args:
        model: trained with masks.
        table: of labelled sequences, see `read_labelled`.
        label: a class that there must be.
        seed: of the sample and of the masks.
        progress: called with (sequences shown to the network, all).

    Raises:
        UsageError: if the model was not trained with masks, or there is no such class.
        InputError: if the table cannot be read, or the guide knows nothing at any of `RATES`.
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
    denoiser = copy.deepcopy(model.denoiser).requires_grad_(
        False
    )  # its gradient is that of letters, not of weights
    todo = train.windows * _NOISINGS + (valid.windows + test.windows) * len(RATES)
    show = _Shower(denoiser, seed, model.device, todo, progress)
    rates = uniform(seed, Stream.COUNT, torch.arange(train.windows), _NOISINGS).T
    weight, bias = _fit(
        np.concatenate([show(train, rate, step) for step, rate in enumerate(rates)]),
        train.label.repeat(_NOISINGS).numpy(),
        np.concatenate([show(valid, rate, step) for step, rate in enumerate(RATES)]),
        valid.label.repeat(len(RATES)).numpy(),
    )
    skills = tuple(
        _skill(rate, _log_p(show(test, rate, step), weight, bias), test.label)
        for step, rate in enumerate(RATES)
    )
    if not any(skill.some for skill in skills):
        raise InputError(
            f"{table}: the hidden states of this model do not tell its classes apart ({skills[0]}): to guide by them "
            f"would only add noise; give more sequences, or train with --labels"
        )
    head = (torch.from_numpy(part).to(model.device) for part in (weight, bias))
    guide = LinearGuide(denoiser, names, skills, *head)
    digest = hashlib.sha256(Path(table).read_bytes()).hexdigest()[:8]
    guide.source = f"{Path(table).name}:{digest}"
    return guide


def pooled(denoiser: LMDenoiser, tokens: Tensor, token_probs: Tensor | None = None) -> Tensor:
    """Hidden states (B, d_model) of masked tokens (B, L); where a noise level is told it is the share of masks."""
    sigma = None
    if denoiser.needs_sigma:
        hidden = tokens == DNA.mask_id
        share = hidden.sum(1) / (hidden | DNA.scorable(tokens)).sum(1).clamp(min=1)
        sigma = -torch.log1p(-share.double().clamp(max=1.0 - 2.0**-30)).float()
    return denoiser.pooled(tokens, sigma, token_probs)


class _Shower:
    """Shows masked windows to a network, and tells how far it is."""

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

    @torch.no_grad()
    def __call__(self, windows: LabelledWindows, rate: Tensor | float, step: int) -> np.ndarray:
        """Hidden states (n, d) float64 of all windows, masked at rates (n,) or one; each batch is of one length."""
        tokens = windows.tokens(slice(None))
        chance = uniform(
            self.seed, Stream.MASK, torch.arange(len(tokens)), tokens.shape[1], step=step
        )
        hidden = DNA.scorable(tokens) & (
            chance < torch.as_tensor(rate).expand(len(tokens))[:, None]
        )
        shown = tokens.masked_fill(hidden, DNA.mask_id)
        sizes = (tokens != DNA.pad_id).sum(
            1
        )  # padding would tell of the length, which nothing that is drawn has
        out = np.empty((len(tokens), self.denoiser.lm.config.d_model))
        for size in sizes.unique().tolist():
            for rows in (sizes == size).nonzero()[:, 0].split(max(1, _TOKENS_PER_BATCH // size)):
                out[rows] = (
                    pooled(self.denoiser, shown[rows, :size].to(self.device)).double().cpu().numpy()
                )
                self.done += len(rows)
                if self.progress is not None:
                    self.progress(self.done, self.total)
        return out


def _fit(
    x: np.ndarray, y: np.ndarray, x_valid: np.ndarray, y_valid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (classes, d) and biases (classes,) of the logistic regression that suits valid best."""
    scaler = StandardScaler().fit(x)
    # One thread: the sums, and so the numbers, are then the same everywhere.
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fits = [
            LogisticRegression(C=strength, max_iter=_MOST_ITERATIONS).fit(scaler.transform(x), y)
            for strength in _STRENGTHS
        ]
    scaled = scaler.transform(x_valid)
    best = min(
        fits, key=lambda fit: log_loss(y_valid, fit.predict_proba(scaled), labels=fit.classes_)
    )
    weight, bias = (
        best.coef_ / scaler.scale_,
        best.intercept_ - best.coef_ @ (scaler.mean_ / scaler.scale_),
    )
    if len(weight) == 1:  # of two classes only the odds of the second are given
        return np.concatenate([np.zeros_like(weight), weight]), np.append(0.0, bias)
    return weight, bias


def _log_p(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Tensor:
    return F.log_softmax(torch.from_numpy(x @ weight.T + bias), -1)


def _skill(rate: float, log_p: Tensor, label: Tensor) -> Skill:
    """The skill of log-probabilities (n, classes)."""
    share = torch.bincount(label).double() / len(label)
    nats, by_shares = -log_p.gather(1, label[:, None])[:, 0], -share.log()[label]
    gain = by_shares - nats
    return Skill(
        rate,
        accuracy=float((log_p.argmax(1) == label).double().mean()),
        majority=float(share.max()),
        nats=float(nats.mean()),
        shares=float(by_shares.mean()),
        se=float(gain.std() / math.sqrt(len(gain))) if len(gain) > 1 else math.inf,
        sequences=len(gain),
    )
