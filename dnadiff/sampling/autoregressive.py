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
from dnadiff.noise import Stream
from dnadiff.sampling.constraints import Draft
from dnadiff.sampling.constraints.draft import REDRAWS, reach
from dnadiff.sampling.request import Request, repetitions

_BACK = 32  # letters at most that are drawn again where a constraint leaves none


def autoregressive(request: Request) -> Tensor:
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
    _check(request.denoiser, request.free)
    quantile = request.numbers(Stream.LETTER)
    tokens, clean = request.template.clone(), torch.zeros_like(quantile[:, 0])
    corners = None if request.draft is None else _Corners(request.draft, tokens)
    said: dict[int, tuple[Tensor, Any]] = {}  # by the network, at the last places
    recurrent = getattr(request.denoiser, "recurrent", False)
    place = 0
    while place < tokens.shape[1]:
        # Who goes back again and again comes to where it is not known any more: a network with a state begins anew there.
        for at in range(0 if recurrent and place - 1 not in said else place, place + 1):
            if at not in said:
                said[at] = _next(
                    request.denoiser, tokens, at, said[at - 1][1] if recurrent and at else None, request.label
                )
        now = torch.zeros_like(request.free)
        now[:, place] = request.free[:, place] & (tokens[:, place] == request.alphabet.mask_id)
        log_mu = request.read(said[place][0][now[:, place]], now, clean).log_mu
        if corners is None:
            request.draw(tokens, now, clean, quantile, log_mu)
            place, kept = place + 1, place
        else:
            stuck = corners.draft.attempt(tokens, now, quantile, log_mu)
            place = corners.back(tokens, quantile, stuck, place) if stuck.any() else place + 1
            kept = place - 1 - _BACK
        said = {at: words for at, words in said.items() if kept <= at <= place}
    return tokens


class _Corners:
    """Goes back from places where no letter fits. All rows go back together, but only the stuck ones draw anew."""

    def __init__(self, draft: Draft, tokens: Tensor) -> None:
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
            start = max(0, place - min(reach(int(self.tries[row])), _BACK))
            tokens[row, start:place].masked_fill_(self.draft.open[row, start:place], self.draft.alphabet.mask_id)
            first = min(first, start)
        self.tries[rows] += 1
        quantile[rows] = self.draft.numbers_again(rows)
        return first


def _next(denoiser: Any, tokens: Tensor, place: int, state: Any, label: Tensor | None) -> tuple[Tensor, Any]:
    """Logits (B, outputs) of the letter at `place` given those before it, and what a recurrent network remembers.

    A denoiser whose attribute `recurrent` is true has `begin` and `step`, as `LMDenoiser` has. Rows are repeated where
    there are so few that rounding would depend on the batch.
    """
    rows, recurrent = len(tokens), getattr(denoiser, "recurrent", False)
    repeats = repetitions(rows if recurrent else rows * (place + 1))
    label = None if label is None else label.repeat(repeats)
    if not recurrent:
        return denoiser(tokens[:, : place + 1].repeat(repeats, 1), label=label)[:rows, place], None
    if place == 0:
        logits, state = denoiser.begin(rows * repeats, label=label)
    else:
        logits, state = denoiser.step(tokens[:, place - 1].repeat(repeats), state)
    return logits[:rows], state


def _check(denoiser: Denoiser, free: Tensor) -> None:
    if not denoiser.causal:
        raise UsageError("autoregressive sampling needs a network that sees only what lies to the left: take ancestral")
    if denoiser.needs_sigma:
        raise UsageError("autoregressive sampling knows no noise level, and this network is told one: take ancestral")
    behind = free[:, :-1] & ~free[:, 1:]
    if behind.any():
        row, place = behind.nonzero()[0].tolist()
        raise UsageError(
            f"autoregressive sampling goes from left to right, so a template is fixed letters and then free ones: "
            f"position {place + 2} of row {row} is fixed, and position {place + 1} before it is free"
        )
