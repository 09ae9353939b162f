"""Left-to-right sampling: each letter from what a causal network says given all letters before it.

Of a network trained so these are exact samples, without a grid of times. A recurrent network (Mamba) is run letter by
letter with a state of constant size, at a cost per letter that does not depend on the length; any other causal one is
called on the whole prefix for each letter.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dnadiff.diffusion import Denoiser
from dnadiff.errors import UsageError
from dnadiff.rng import Stream
from dnadiff.sampling.constraints import ConstrainedBatch
from dnadiff.sampling.constraints.constrained_batch import REDRAWS, redraw_radius
from dnadiff.sampling.state import SamplingState, repetitions

_BACK = 32  # letters at most that are drawn again where a constraint leaves none


def autoregressive(state: SamplingState) -> Tensor:
    """Draws the free end of each row. Returns tokens (B, L).

    Where letters are restricted the restriction holds, but letters before it are drawn without regard to it: that is
    not the exact conditional distribution. Neither is what comes of constraints: letters that would break one are
    masked, and where none is left the last ones are drawn again, over a distance that grows.

    Args:
        request: what to draw.

    Raises:
        InputError: naming a constraint that leaves no letter.
        UsageError: if the network sees both sides or is told a noise level, or a free place has a fixed one behind it.
    """
    _check(state.denoiser, state.free)
    quantile = state.numbers(Stream.LETTER)
    tokens, clean = state.template.clone(), torch.zeros_like(quantile[:, 0])
    corners = None if state.draft is None else _Corners(state.draft, tokens)
    network = _Network(state.denoiser, state.label, remembers=0 if corners is None else _BACK)
    place = 0
    while place < tokens.shape[1]:
        now = torch.zeros_like(state.free)
        now[:, place] = state.free[:, place] & (tokens[:, place] == state.alphabet.mask_id)
        log_mu = state.read(network.logits(tokens, place)[now[:, place]], now, clean).log_mu
        if corners is None:
            state.draw(tokens, now, clean, quantile, log_mu)
            place += 1
        else:
            stuck = corners.draft.attempt(tokens, now, quantile, log_mu)
            place = corners.back(tokens, quantile, stuck, place) if stuck.any() else place + 1
    return tokens


class _Network:
    """A causal network, asked for the letter at one place after another.

    A denoiser whose attribute `recurrent` is true has `begin` and `step`, as `LMDenoiser` has.

    Args:
        denoiser: the network.
        label: (B,) class labels, or None.
        remembers: over how many places one may go back without running a recurrent network from the start.
    """

    def __init__(self, denoiser: Any, label: Tensor | None, remembers: int) -> None:
        self.denoiser, self.label, self.remembers = denoiser, label, remembers
        self.recurrent = getattr(denoiser, "recurrent", False)
        self.said: dict[
            int, tuple[Tensor, Any]
        ] = {}  # logits, and the state behind the letters before

    def logits(self, tokens: Tensor, place: int) -> Tensor:
        """Logits (B, outputs) of the letter at `place`, one more than at the last call or less, given those before."""
        self.said = {
            at: words
            for at, words in self.said.items()
            if place - 1 - self.remembers <= at <= place
        }
        if not self.recurrent:
            repeats = repetitions(len(tokens) * (place + 1))
            return self.denoiser(
                tokens[:, : place + 1].repeat(repeats, 1), label=self._label(repeats)
            )[: len(tokens), place]
        for at in range(place if place - 1 in self.said else 0, place + 1):
            if at not in self.said:
                self.said[at] = self._step(tokens, at)
        return self.said[place][0]

    def _step(self, tokens: Tensor, place: int) -> tuple[Tensor, Any]:
        rows = len(tokens)
        repeats = repetitions(rows)
        if place == 0:
            logits, state = self.denoiser.begin(rows * repeats, label=self._label(repeats))
        else:
            logits, state = self.denoiser.step(
                tokens[:, place - 1].repeat(repeats), self.said[place - 1][1]
            )
        return logits[:rows], state

    def _label(self, repeats: int) -> Tensor | None:
        """The labels of rows that are repeated: few rows would be rounded otherwise than many."""
        return None if self.label is None else self.label.repeat(repeats)


class _Corners:
    """Goes back from places where no letter fits. All rows go back together, but only the stuck ones draw anew."""

    def __init__(self, draft: ConstrainedBatch, tokens: Tensor) -> None:
        self.draft = draft
        self.furthest = torch.zeros_like(tokens[:, 0])
        self.tries = torch.zeros_like(tokens[:, 0])

    def back(self, tokens: Tensor, quantile: Tensor, stuck: Tensor, place: int) -> int:
        """Wipes out the last letters of stuck rows (B,) bool. Returns the place to go on from."""
        rows = stuck.nonzero()[:, 0]
        self.tries[rows[self.furthest[rows] < place - _BACK]] = 0
        self.furthest[rows] = self.furthest[rows].clamp(min=place)
        first = place
        for row in rows.tolist():
            if self.tries[row] == REDRAWS:
                self.draft.give_up(row, place)
            start = max(0, place - min(redraw_radius(int(self.tries[row])), _BACK))
            tokens[row, start:place].masked_fill_(
                self.draft.open[row, start:place], self.draft.alphabet.mask_id
            )
            first = min(first, start)
        self.tries[rows] += 1
        quantile[rows] = self.draft.numbers_again(rows)
        return first


def _check(denoiser: Denoiser, free: Tensor) -> None:
    if not denoiser.causal:
        raise UsageError(
            "autoregressive sampling needs a network that sees only what lies to the left: take ancestral"
        )
    if denoiser.needs_sigma:
        raise UsageError(
            "autoregressive sampling knows no noise level, and this network is told one: take ancestral"
        )
    behind = free[:, :-1] & ~free[:, 1:]
    if behind.any():
        row, place = behind.nonzero()[0].tolist()
        raise UsageError(
            f"autoregressive sampling goes from left to right, so a template is fixed letters and then free ones: "
            f"position {place + 2} of row {row} is fixed, and position {place + 1} before it is free"
        )
