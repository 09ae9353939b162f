"""Letters that a template restricts, drawn before all others, which conditions the rest on them."""

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

MOST = 4096
"""How many combinations of restricted letters there may be for their distribution to be a sum over all of them."""

_POPULATION = 1024  # stands for more combinations than that
_TOKENS_PER_CALL = 32_768


def settle(state: SamplingState, allowed: Tensor) -> SamplingState:
    """Draws every restricted letter from their joint distribution. Returns the request that is left.

    To restrict letters while they are drawn one by one is not the exact conditional distribution: each draw has to be
    weighed by the mass of the letters that were allowed. Here the weights are summed rather than sampled: every
    combination of allowed letters has the product of the network's probabilities from left to right, each given those
    before it, and one combination is drawn from the normalised products. So nothing is rejected, and there is no error
    of a finite number of particles, up to `MOST` combinations. Of more a population is kept, resampled where it
    outgrows 4,096 (sequential importance resampling, Gordon et al. 1993), whose error falls with its size.

    Rows with the same template share the calls, one for each beginning of a combination.

    Args:
        request: of a network for absorbing noise.
        allowed: (B, L, K) bool, its `allowed`.

    Raises:
        InputError: if the network gives no combination a chance.
    """
    restricted = state.free & ~allowed.all(-1)
    tokens = state.template.clone()
    kinds = torch.cat((tokens, (allowed & restricted[..., None]).flatten(1)), 1)
    if state.label is not None:
        kinds = torch.cat((kinds, state.label[:, None]), 1)
    _, kind = kinds.unique(dim=0, return_inverse=True)
    chance = state.numbers(Stream.LETTER)
    for rows in (torch.nonzero(kind == k)[:, 0] for k in range(int(kind.max()) + 1)):
        places = restricted[rows[0]].nonzero()[:, 0]
        if len(places):
            states, share = _combinations(state, allowed[rows[0]], int(rows[0]), places)
            total = share.cumsum(0)
            # Nothing else is drawn at the first restricted place, so that place's own number is free.
            tokens[rows] = states[
                torch.searchsorted(total, chance[rows, places[0]] * total[-1], right=True)
            ]
    return replace(state, template=tokens, free=state.free & ~restricted)


def _combinations(
    state: SamplingState, allowed: Tensor, row: int, places: Tensor
) -> tuple[Tensor, Tensor]:
    """The ways (n, L) to fill the restricted places of a row of the template, and the share (n,) of each."""
    states, nats = (
        state.template[row : row + 1],
        torch.zeros(1, dtype=torch.float64, device=places.device),
    )
    for place in places.tolist():
        letters = allowed[place].nonzero()[:, 0]
        nats = (nats[:, None] - _log_mu(state, states, row, place)[:, letters]).flatten()
        states = states.repeat_interleave(len(letters), 0)
        states[:, place] = (letters + state.alphabet.first_id).repeat(len(states) // len(letters))
        if not torch.isfinite(nats.min()):
            less = "restrict less" if state.top_p >= 1 else "restrict less, or raise --top-p"
            raise InputError(
                f"the network gives no chance to any letters that the template allows; {less}"
            )
        if len(states) > MOST:
            kept = _resampled((-nats).softmax(0), state.seed, place)
            states, nats = (
                states[kept],
                torch.zeros(len(kept), dtype=torch.float64, device=kept.device),
            )
    return states, (-nats).softmax(0)


def _log_mu(state: SamplingState, states: Tensor, row: int, place: int) -> Tensor:
    """What the network says (n, K) of a place of n beginnings (n, L), which may be any letter."""
    predictions = []
    for part in states.split(max(1, _TOKENS_PER_CALL // states.shape[1])):
        here = torch.zeros_like(part, dtype=torch.bool)
        here[:, place] = True
        label = None if state.label is None else state.label[row].expand(len(part))
        one = replace(
            state, template=part, free=here, allowed=None, label=label, index=state.index[:1]
        )
        predictions.append(
            one.predict(part, here, torch.ones_like(part[:, 0], dtype=torch.float64)).log_mu
        )
    return torch.cat(predictions)


def _resampled(share: Tensor, seed: int, place: int) -> Tensor:
    """Which to keep of a population with these shares: systematic resampling, the same for any batch."""
    offset = uniform(seed, Stream.POPULATION, torch.zeros(1, dtype=torch.int64), 1, step=place)[
        0
    ].to(share.device)
    marks = (torch.arange(_POPULATION, device=share.device) + offset) / _POPULATION
    total = share.cumsum(0)
    return torch.searchsorted(total, marks * total[-1], right=True)


def one_after_another(state: SamplingState, allowed: Tensor, steps: int | None) -> SamplingState:
    """Draws every restricted letter from those allowed to it, at the beginning of time, while all else is hidden.

    That respects the restriction but is not the exact conditional distribution.

    Args:
        request: of a network for absorbing noise.
        allowed: (B, L, K) bool, its `allowed`.
        steps: calls at most; None for one a letter.

    Returns:
        The request that is left.
    """
    restricted = replace(state, free=state.free & ~allowed.all(-1))
    times = unmask_times(restricted)
    plan = one_by_one(times) if steps is None else on_grid(times, steps)
    tokens = reveal(restricted, plan._replace(time=torch.ones_like(plan.time)))
    return replace(state, template=tokens, free=state.free & (tokens == state.alphabet.mask_id))
