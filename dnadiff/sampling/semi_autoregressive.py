"""Sequences of any length, a window at a time (semi-autoregressive decoding; MDLM, Sahoo et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dnadiff.sampling.state import SamplingState


def semi_autoregressive(
    state: SamplingState, window: int, stride: int, draw: Callable[[SamplingState], Tensor]
) -> Tensor:
    """Slides a window from left to right; each draws what is still free in it, given all else in it.

    The window begins with what the one before has drawn, and moves by `stride`; the last ends with the sequence. So
    every letter is drawn by a network that is shown `window` letters, of which at least the first `window - stride` are
    known. That is exact if the source is stationary and remembers no more than those. Of a template that reaches beyond
    the window its own letters stay, but they are not seen from afar.

    Args:
        request: what to draw; L is more than `window`.
        window: positions that the network is shown at once.
        stride: by how much the window moves, less than `window`.
        draw: a sampler, which draws the free letters of its request.

    Returns:
        Tokens (B, L).
    """
    length = state.template.shape[1]
    position = torch.arange(length, device=state.template.device)
    tokens = state.template
    for start in (*range(0, length - window, stride), length - window):
        inside = (position >= start) & (position < start + window)
        free = state.free & inside & (tokens == state.alphabet.mask_id)
        if free.any():
            tokens = draw(
                replace(state, template=tokens, free=free, span=slice(start, start + window))
            )
    return tokens
