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
from dnadiff.sampling.request import Request, repetitions


def autoregressive(request: Request) -> Tensor:
    """Draws the free end of each row. Returns tokens (B, L).

    Where letters are restricted the restriction holds, but letters before it are drawn without regard to it: that is
    not the exact conditional distribution.

    Args:
        request: what to draw.

    Raises:
        UsageError: if the network sees both sides or is told a noise level, or a free place has a fixed one behind it.
    """
    _check(request.denoiser, request.free)
    quantile = request.numbers(Stream.LETTER)
    tokens, state, clean = request.template.clone(), None, torch.zeros_like(quantile[:, 0])
    for place in range(tokens.shape[1]):
        logits, state = _next(request.denoiser, tokens, place, state, request.label)
        now = torch.zeros_like(request.free)
        now[:, place] = request.free[:, place]
        request.draw(tokens, now, clean, quantile, request.read(logits[now[:, place]], now, clean).log_mu)
    return tokens


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
