"""Draws the letters that a template restricts before all others, which then depend on them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from dnadiff.errors import InputError
from dnadiff.rng import Stream, uniform
from dnadiff.sampling.ancestral import on_grid
from dnadiff.sampling.first_hitting import one_by_one
from dnadiff.sampling.reveal import reveal, unmask_times
from dnadiff.sampling.state import SamplingState

MAX_COMBINATIONS = 4096
"""Largest number of combinations whose probabilities are all computed."""

_POPULATION = 1024  # combinations that are kept where there are more than that
_TOKENS_PER_CALL = 32_768


def draw_restricted(state: SamplingState, allowed: Tensor) -> SamplingState:
    """Draws the restricted letters from their joint distribution; returns a state with them fixed.

    Restricting letters while they are drawn one by one is not the exact conditional distribution:
    each draw has to be weighted by the total probability of the letters that were allowed. Here the
    weights are summed rather than sampled: every combination of allowed letters has the product of
    the network's probabilities from left to right, each given those before it, and one combination
    is drawn from the normalised products. So nothing is rejected, and up to `MAX_COMBINATIONS` the
    result is exact. Whenever there are more, they are resampled to a population of 1,024
    (sequential importance resampling, Gordon et al. 1993), whose error falls with its size.

    Rows with the same template share the network calls, one for each prefix of a combination.

    Args:
        state: of a network for absorbing noise.
        allowed: (B, L, K) bool, its `allowed`.

    Raises:
        InputError: if the network gives no combination a positive probability.
    """
    restricted = state.free & ~allowed.all(-1)
    tokens = state.template.clone()
    for rows in _alike(state, allowed, restricted):
        places = restricted[rows[0]].nonzero()[:, 0]
        if not len(places):
            continue
        row = int(rows[0])
        filled, share = _combinations(state, allowed[row], row, places)
        total = share.cumsum(0)
        # Nothing else is drawn at the first restricted position, so its own number is unused.
        quantile = state.quantile[rows, places[0]] * total[-1]
        tokens[rows] = filled[torch.searchsorted(total, quantile, right=True)]
    return replace(state, template=tokens, free=state.free & ~restricted)


def _alike(state: SamplingState, allowed: Tensor, restricted: Tensor) -> list[Tensor]:
    """Returns the row numbers of each group of rows with the same template and class."""
    kinds = torch.cat((state.template, (allowed & restricted[..., None]).flatten(1)), 1)
    if state.label is not None:
        kinds = torch.cat((kinds, state.label[:, None]), 1)
    _, kind = kinds.unique(dim=0, return_inverse=True)
    return [(kind == k).nonzero()[:, 0] for k in range(int(kind.max()) + 1)]


def _combinations(
    state: SamplingState, allowed: Tensor, row: int, places: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the ways (n, L) to fill a row's restricted positions, and the probability of each.

    Args:
        state: what is drawn.
        allowed: (L, K) bool, of this row.
        row: its number.
        places: (m,) its restricted positions.
    """
    filled = state.template[row : row + 1]
    nats = torch.zeros(1, dtype=torch.float64, device=places.device)
    for place in places.tolist():
        # Every combination so far is continued with every letter that is allowed here.
        letters = allowed[place].nonzero()[:, 0]
        nats = (nats[:, None] - _log_mu(state, filled, row, place)[:, letters]).flatten()
        filled = filled.repeat_interleave(len(letters), 0)
        filled[:, place] = (letters + state.alphabet.first_id).repeat(len(filled) // len(letters))

        if not torch.isfinite(nats.min()):
            remedy = "restrict less" if state.top_p >= 1 else "restrict less, or raise top_p"
            raise InputError(
                "the network gives no positive probability to any letters that the template "
                f"allows; {remedy}"
            )
        if len(filled) > MAX_COMBINATIONS:
            kept = _resampled((-nats).softmax(0), state.seed, place)
            filled = filled[kept]
            nats = torch.zeros(len(kept), dtype=torch.float64, device=kept.device)
    return filled, (-nats).softmax(0)


def _log_mu(state: SamplingState, filled: Tensor, row: int, place: int) -> Tensor:
    """Returns the unrestricted log-probabilities (n, K) of a position given n prefixes (n, L)."""
    laws = []
    for part in filled.split(max(1, _TOKENS_PER_CALL // filled.shape[1])):
        here = torch.zeros_like(part, dtype=torch.bool)
        here[:, place] = True
        label = None if state.label is None else state.label[row].expand(len(part))
        unrestricted = replace(state, template=part, free=here, allowed=None, label=label)
        all_hidden = torch.ones_like(part[:, 0], dtype=torch.float64)
        laws.append(unrestricted.predict(part, here, all_hidden).log_mu)
    return torch.cat(laws)


def _resampled(share: Tensor, seed: int, place: int) -> Tensor:
    """Returns which of a population with these shares (n,) to keep, by systematic resampling."""
    # One offset for a position, whatever the rows, keeps a sample the same in any batch.
    nobody = torch.zeros(1, dtype=torch.int64)
    offset = uniform(seed, Stream.POPULATION, nobody, 1, step=place)[0].to(share.device)
    marks = (torch.arange(_POPULATION, device=share.device) + offset) / _POPULATION
    total = share.cumsum(0)
    return torch.searchsorted(total, marks * total[-1], right=True)


def restricted_one_by_one(
    state: SamplingState, allowed: Tensor, steps: int | None
) -> SamplingState:
    """Draws every restricted letter from those allowed to it, while all other letters are hidden.

    That respects the restriction but is not the exact conditional distribution.

    Args:
        state: of a network for absorbing noise.
        allowed: (B, L, K) bool, its `allowed`.
        steps: calls at most; None for one call per letter.

    Returns:
        The state with these letters fixed.
    """
    restricted = replace(state, free=state.free & ~allowed.all(-1))
    times = unmask_times(restricted)
    plan = one_by_one(times) if steps is None else on_grid(times, steps)
    # They are drawn at the beginning of time, when the network expects all letters to be hidden.
    tokens = reveal(restricted, plan._replace(time=torch.ones_like(plan.time)))
    return replace(state, template=tokens, free=state.free & (tokens == state.alphabet.mask_id))
