"""The exact laws of T-step samplers on a short sequence, by enumerating every state.

Nothing here is shared with the samplers.
"""

import itertools
from functools import cache

import numpy as np
import torch
from closed_forms import JointSource
from scipy.stats import chisquare
from torch import Tensor

from dnadiff.alphabet import DNA

MASK = 4  # the fifth state of a position


class Source(JointSource):
    """Computes equal rows only once: a short sequence has few states, and a test has many rows."""

    def __call__(self, tokens: Tensor, sigma=None, label=None, token_probs=None) -> Tensor:
        asked = (
            tokens.double()
            if token_probs is None
            else torch.cat([tokens.double(), token_probs.flatten(1)], 1)
        )
        key = asked @ torch.rand(
            asked.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        _, first, place = np.unique(key.numpy(), return_index=True, return_inverse=True)
        return super().__call__(
            tokens[first], token_probs=None if token_probs is None else token_probs[first]
        )[place]


def skewed_source() -> Source:
    """The distribution of three letters for which the tests' figures were computed."""
    source = Source(length=3)
    source.table = torch.from_numpy(
        np.random.default_rng(2).dirichlet(np.ones(64) * 0.3).reshape(4, 4, 4)
    )
    return source


def distance(law: Tensor, source: JointSource) -> float:
    """Total variation between a law (4^L,) and the source."""
    return float((law - source.table.reshape(-1)).abs().sum() / 2)


def p_value(drawn, source, law):
    """Of a chi-square test; cells of which fewer than five are expected are taken together."""
    counts = torch.bincount(source.index(drawn), minlength=len(law)).double()
    expected = law * len(drawn)
    rare = expected < 5
    counts, expected = (torch.cat([x[~rare], x[rare].sum()[None]]) for x in (counts, expected))
    keep = expected > 0
    return chisquare(counts[keep].numpy(), expected[keep].numpy()).pvalue


def absorbing_law(source: JointSource, rates: list[float], lift, again=lambda t, s: 0.0) -> Tensor:
    """The law (4^L,) after walking down mask rates 1 = t_0 > ... > t_T = 0.

    Args:
        source: the exact denoiser.
        rates: of masks.
        lift: (t, s) to the probability that a mask becomes a letter.
        again: (t, s) to the probability that a letter becomes a mask.
    """
    states, mu = _masked_states(source.length), _answers(source)
    masked = (states == MASK)[..., None]
    letters = torch.eye(5, dtype=torch.float64)[states]
    none = torch.eye(5, dtype=torch.float64)[MASK]
    law = torch.zeros(len(states), dtype=torch.float64)
    law[-1] = 1.0
    for t, s in itertools.pairwise(rates):
        rise, fall = lift(t, s), again(t, s)
        rows = torch.where(
            masked, rise * mu + (1 - rise) * none, (1 - fall) * letters + fall * none
        )
        law = law @ _together(rows)
    return law[(states != MASK).all(1)]


def uniform_law(source: JointSource | list[tuple[float, JointSource]], steps: int) -> Tensor:
    """The law (4^L,) after T steps of the ancestral sampler of uniform noise.

    Of several sources with weights: the product of their reverse kernels, each to its weight.
    """
    terms = source if isinstance(source, list) else [(1.0, source)]
    sequences = terms[0][1].sequences
    letters = torch.eye(4, dtype=torch.float64)[sequences]
    law = torch.full((len(letters),), 1.0 / len(letters), dtype=torch.float64)
    for i in range(steps, 0, -1):
        a_t, a_s = 1 - i / steps, 1 - (i - 1) / steps
        rows = torch.ones_like(letters)
        for weight, one in terms:
            mu = one(sequences + DNA.first_id, token_probs=a_t * letters + (1 - a_t) / 4).exp()
            kernel = (a_t / a_s * letters + (1 - a_t / a_s) / 4) * (a_s * mu + (1 - a_s) / 4)
            rows = rows * (kernel / kernel.sum(-1, keepdim=True)) ** weight
        law = law @ _together(rows / rows.sum(-1, keepdim=True))
    return law


def one_by_one_law(terms: list[tuple[float, JointSource]], orders: list[tuple[int, ...]]) -> Tensor:
    """The law (4^L,) of drawing letter after letter, in one of these orders at random.

    A letter follows the product of the sources' conditionals given those before it, each to its
    weight.
    """
    total = torch.zeros_like(terms[0][1].table)
    for order in orders:
        law = torch.ones_like(total)
        for place, own in enumerate(order):
            hidden = list(order[place + 1 :])
            step = torch.ones_like(total)
            for weight, source in terms:
                seen = source.table.sum(hidden, keepdim=True) if hidden else source.table
                step = step * (seen / seen.sum(own, keepdim=True)) ** weight
            law = law * step / step.sum(own, keepdim=True)
        total += law / len(orders)
    return total.reshape(-1)


def windowed_law(table: Tensor, template: Tensor, windows, size: int) -> Tensor:
    """The law (4^L,) of drawing window after window, each exactly given what it shows.

    Args:
        table: (4, ..., 4) the law of the letters of a window, wherever it is.
        template: (L,) token ids.
        windows: what is drawn where, in this order (`Window`).
        size: of a window.
    """
    sequences = torch.cartesian_prod(*[torch.arange(4)] * len(template))
    known = template != DNA.mask_id
    agrees = (sequences == DNA.letter_index(template)) | ~known
    law = agrees.all(1).double()

    def marginal(seen: Tensor, start: int) -> Tensor:
        """The probability of each sequence's letters at the positions of a window that are seen."""
        hidden = (~seen).nonzero()[:, 0].tolist()
        p = table.sum(hidden, keepdim=True) if hidden else table
        letters = sequences[:, start : start + size] * seen
        return p[tuple(letters.T)]

    for window in windows:
        inside = slice(window.start, window.start + size)
        drawn = torch.zeros_like(known)
        drawn[window.first : window.last] = True
        drawn &= ~known
        before = marginal(known[inside], window.start)
        known = known | drawn
        after = marginal(known[inside], window.start)
        law = law * torch.where(before > 0, after / before, 0.0)
    assert known.all()
    return law


def grid(steps: int) -> list[float]:
    return [1 - i / steps for i in range(steps + 1)]


def ancestral_lift(t: float, s: float) -> float:
    return (t - s) / t


def remasking_lift(again):
    """The lift that keeps the share of masks on schedule when letters are hidden again."""
    return lambda t, s: ((1 - s) - (1 - again(t, s)) * (1 - t)) / t


@cache
def _masked_states(length: int) -> Tensor:
    return torch.cartesian_prod(*[torch.arange(5)] * length)


def _answers(source: JointSource) -> Tensor:
    """mu (5^L, L, 5) in every state; 0 for the mask."""
    states = _masked_states(source.length)
    mu = source(torch.where(states == MASK, DNA.mask_id, states + DNA.first_id)).exp()
    return torch.nn.functional.pad(mu, (0, 1))


def _together(rows: Tensor) -> Tensor:
    """Transitions (S, S) of all positions from those of each (S, L, states of a position)."""
    joint = rows[:, 0]
    for place in range(1, rows.shape[1]):
        joint = (joint[:, :, None] * rows[:, place, None]).flatten(1)
    return joint
