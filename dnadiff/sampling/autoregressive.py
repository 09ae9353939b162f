"""Left-to-right sampling: each base from a causal network's prediction given all earlier bases.

The samples follow the network's distribution exactly, without a grid of times. A recurrent network
(Mamba) is run base by base with a state of constant size, at a cost per base that does not depend
on the length; any other causal network is called on the whole prefix for each base.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dnadiff.diffusion import Denoiser
from dnadiff.errors import UsageError
from dnadiff.sampling.constraints import ConstrainedBatch
from dnadiff.sampling.constraints.constrained_batch import REDRAWS, redraw_radius
from dnadiff.sampling.sampler_config import SamplerConfig
from dnadiff.sampling.state import SamplingState, pick, repetitions

_MAX_REDRAWN = 32  # bases that are drawn again at most where a constraint leaves no possible base


def autoregressive(state: SamplingState, config: SamplerConfig) -> Tensor:
    """Draws the free end of each row. Returns tokens (B, L).

    Restricted letters are respected, but the letters before them are drawn without regard to them,
    so the distribution is not the exact conditional one. It is not exact under constraints either:
    letters that would violate one are excluded, and where no letter is left the letters before it
    are drawn again, over a distance that grows with each attempt.

    Args:
        state: what to draw.
        config: has no setting for this sampler.

    Raises:
        InputError: naming a constraint that leaves no letter.
        UsageError: if the network sees both sides or takes a noise level, or if a fixed letter
            follows a free one.
    """
    _check(state.denoiser, state.free)
    if isinstance(state.constrained, ConstrainedBatch):
        return _constrained(state, state.constrained)
    tokens = state.template.clone()
    network = CausalNetwork(state.denoiser, state.label)
    for place in range(tokens.shape[1]):
        logits = network.logits(tokens, place)
        tokens[:, place] = autoregressive_step(state, tokens, place, logits)
    return tokens


def autoregressive_step(state: SamplingState, tokens: Tensor, place: int, logits: Tensor) -> Tensor:
    """Draws the letter of one position in each row. Returns its token ids (B,).

    Args:
        state: what is drawn.
        tokens: (B, L) token ids, drawn before `place`.
        place: the position, from 0.
        logits: (B, outputs) of the network at that position; see `CausalNetwork`.
    """
    now = _undrawn(state, tokens, place)
    drawn = pick(_log_mu(state, now, place, logits), state.quantile[now, place])
    return tokens[:, place].masked_scatter(now, drawn + state.alphabet.first_id)


def _constrained(state: SamplingState, batch: ConstrainedBatch) -> Tensor:
    """Draws from left to right, and goes back where a constraint leaves no letter."""
    tokens, quantile = state.template.clone(), state.quantile.clone()
    network = CausalNetwork(state.denoiser, state.label, remembers=_MAX_REDRAWN)
    dead_ends = _DeadEnds(batch, tokens)
    place = 0
    while place < tokens.shape[1]:
        now = torch.zeros_like(state.free)
        now[:, place] = _undrawn(state, tokens, place)
        logits = network.logits(tokens, place)
        stuck = batch.attempt(tokens, now, quantile, _log_mu(state, now[:, place], place, logits))
        place = dead_ends.back(tokens, quantile, stuck, place) if stuck.any() else place + 1
    return tokens


def _undrawn(state: SamplingState, tokens: Tensor, place: int) -> Tensor:
    """Returns which rows (B,) bool still have to draw the letter at a position."""
    return state.free[:, place] & (tokens[:, place] == state.alphabet.mask_id)


def _log_mu(state: SamplingState, now: Tensor, place: int, logits: Tensor) -> Tensor:
    """Returns the letters' log-probabilities (M, K) at a position of the rows `now` (B,) bool."""
    # One column is read at a time: whole rows would make the cost quadratic in the length.
    if state.allowed is not None:
        state = replace(state, allowed=state.allowed[:, place : place + 1])
    clean = torch.zeros(len(now), dtype=torch.float64, device=now.device)
    return state.read(logits[now], now[:, None], clean).log_mu


class CausalNetwork:
    """Calls a causal network for the letter at one position after another.

    A denoiser whose attribute `recurrent` is true has `begin` and `step`, as `LMDenoiser` has.

    Args:
        denoiser: the network.
        label: (B,) class labels, or None for no class.
        remembers: how many positions a caller can go back without a recurrent network being run
            from the start again.
    """

    def __init__(self, denoiser: Any, label: Tensor | None, remembers: int = 0) -> None:
        self.denoiser, self.label, self.remembers = denoiser, label, remembers
        self.recurrent = getattr(denoiser, "recurrent", False)
        # By position: the logits, and the state after the letters before it.
        self.outputs: dict[int, tuple[Tensor, Any]] = {}

    def logits(self, tokens: Tensor, place: int) -> Tensor:
        """Returns logits (B, outputs) of the letter at `place`, given those before it.

        Args:
            tokens: (B, L) token ids.
            place: at most one more than at the last call.
        """
        if not self.recurrent:
            repeats = repetitions(len(tokens) * (place + 1))
            prefix = tokens[:, : place + 1].repeat(repeats, 1)
            return self.denoiser(prefix, label=self._label(repeats))[: len(tokens), place]

        oldest = place - 1 - self.remembers
        self.outputs = {at: out for at, out in self.outputs.items() if oldest <= at <= place}
        # After going back too far the network is run again from the beginning of the sequence.
        first = place if place - 1 in self.outputs else 0
        for at in range(first, place + 1):
            if at not in self.outputs:
                self.outputs[at] = self._step(tokens, at)
        return self.outputs[place][0]

    def _step(self, tokens: Tensor, place: int) -> tuple[Tensor, Any]:
        """Runs a recurrent network by one letter. Returns its logits and its new state."""
        rows = len(tokens)
        repeats = repetitions(rows)
        if place == 0:
            logits, state = self.denoiser.begin(rows * repeats, label=self._label(repeats))
        else:
            before = tokens[:, place - 1].repeat(repeats)
            logits, state = self.denoiser.step(before, self.outputs[place - 1][1])
        return logits[:rows], state

    def _label(self, repeats: int) -> Tensor | None:
        """Returns the labels of repeated rows."""
        # Matrix products of few rows are rounded differently, so few rows are repeated.
        return None if self.label is None else self.label.repeat(repeats)


class _DeadEnds:
    """Goes back from positions where no letter fits.

    All rows go back together, but only rows at a dead end draw letters again.
    """

    def __init__(self, batch: ConstrainedBatch, tokens: Tensor) -> None:
        self.batch = batch
        self.furthest = torch.zeros_like(tokens[:, 0])
        self.tries = torch.zeros_like(tokens[:, 0])

    def back(self, tokens: Tensor, quantile: Tensor, stuck: Tensor, place: int) -> int:
        """Masks the last letters of rows at a dead end. Returns the position to continue from.

        Args:
            tokens: (B, L) token ids, changed in place.
            quantile: (B, L) random numbers, changed in place.
            stuck: (B,) bool.
            place: where no letter fits.
        """
        rows = stuck.nonzero()[:, 0]
        # A row that has got well past its last dead end has its attempts counted from 0 again.
        self.tries[rows[self.furthest[rows] < place - _MAX_REDRAWN]] = 0
        self.furthest[rows] = self.furthest[rows].clamp(min=place)

        first = place
        for row in rows.tolist():
            if self.tries[row] == REDRAWS:
                self.batch.give_up(row, place)
            start = max(0, place - min(redraw_radius(int(self.tries[row])), _MAX_REDRAWN))
            tokens[row, start:place].masked_fill_(
                self.batch.open[row, start:place], self.batch.alphabet.mask_id
            )
            first = min(first, start)
        self.tries[rows] += 1
        quantile[rows] = self.batch.numbers_again(rows)
        return first


def _check(denoiser: Denoiser, free: Tensor) -> None:
    """Refuses networks and templates that left-to-right sampling cannot use."""
    if not denoiser.causal:
        raise UsageError(
            "autoregressive sampling needs a network that sees only what lies to the left: take "
            "ancestral"
        )
    if denoiser.needs_sigma:
        raise UsageError(
            "autoregressive sampling has no noise level, and this network takes one: take ancestral"
        )
    fixed_after_free = free[:, :-1] & ~free[:, 1:]
    if fixed_after_free.any():
        row, place = fixed_after_free.nonzero()[0].tolist()
        raise UsageError(
            "autoregressive sampling goes from left to right, so a template is fixed letters and "
            f"then free ones: position {place + 2} of row {row} is fixed, and position {place + 1} "
            "before it is free"
        )
