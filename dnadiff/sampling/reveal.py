"""Revealing hidden letters in an order that is drawn before the network is called.

Under masked diffusion every hidden letter becomes visible at a time of its own, uniform on (0, 1) and independent of
everything else (log-linear schedule, time running from 1 down to 0). Those times can therefore be drawn first. A
sampler is then a way to group them (a `Plan`): the letters of one group are drawn together, from one call that sees all
earlier groups. Rows in which nothing happens at a step are not given to the network, so a row takes as many calls as
it has non-empty groups, with time conditioning or without.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dnadiff.alphabet import Alphabet
from dnadiff.diffusion import Denoiser
from dnadiff.noise import Stream, uniform

# Matrix products of fewer rows than this take another path, with another rounding, in common CPU libraries.
FEWEST_TOKENS = 16


class Plan(NamedTuple):
    """When each letter is drawn: `group` (B, L) int64, the step of each letter; `time` (B, G), each step's time."""

    group: Tensor
    time: Tensor


def unmask_times(hidden: Tensor, allowed: Tensor | None, seed: int, index: Tensor) -> Tensor:
    """When each hidden letter becomes visible, (B, L) float64: uniform on (0, 1), -1 where nothing is hidden.

    Where letters are restricted the time is one unit earlier, on (1, 2): they are drawn before all others, which
    conditions the rest on them. That respects the restriction but is not the exact conditional distribution.
    """
    times = uniform(seed, Stream.UNMASK, index, hidden.shape[1])
    if allowed is not None:
        times = times + (~allowed.all(-1))
    return times.masked_fill(~hidden, -1.0)


@torch.no_grad()
def reveal(
    denoiser: Denoiser,
    template: Tensor,
    plan: Plan,
    *,
    seed: int,
    index: Tensor,
    allowed: Tensor | None,
    label: Tensor | None,
    temperature: float,
    alphabet: Alphabet,
) -> Tensor:
    """Draws every hidden letter of (B, L) tokens, group after group; for the arguments see `sample`."""
    tokens = template.clone()
    group = plan.group.masked_fill(template != alphabet.mask_id, -1)
    # A letter is drawn once, so one number for each position serves it whenever its turn comes.
    quantile = uniform(seed, Stream.LETTER, index, tokens.shape[1])
    for step in group[group >= 0].unique().tolist():
        now = group == step
        rows = now.any(1).nonzero()[:, 0]
        logits = _call(denoiser, tokens[rows], plan.time[rows, step], None if label is None else label[rows])
        row, column = now[rows].nonzero(as_tuple=True)
        logits = logits[row, column, : len(alphabet)].double() / temperature
        if allowed is not None:
            logits = logits.masked_fill(~allowed[rows[row], column], -torch.inf)
        tokens[rows[row], column] = draw(logits, quantile[rows[row], column]) + alphabet.first_id
    return tokens


def _call(denoiser: Denoiser, tokens: Tensor, time: Tensor, label: Tensor | None) -> Tensor:
    """The denoiser's logits, never asked of so few tokens that their rounding would depend on the batch."""
    repeats = -(-FEWEST_TOKENS // tokens.numel())
    sigma = -torch.log1p(-time.clamp(max=1 - 1e-9)).float().repeat(repeats) if denoiser.needs_sigma else None
    label = None if label is None else label.repeat(repeats)
    return denoiser(tokens.repeat(repeats, 1), sigma=sigma, label=label)[: tokens.shape[0]]


def draw(logits: Tensor, quantile: Tensor) -> Tensor:
    """Letter indices (M,) by inversion in float64: quantile (M,) against the cumulated softmax of logits (M, K)."""
    cumulated = logits.softmax(-1).cumsum(-1)
    return (cumulated <= quantile[:, None] * cumulated[:, -1:]).sum(-1)
