"""The one call that draws sequences, whatever the sampler."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.diffusion import Denoiser
from dnadiff.errors import UsageError
from dnadiff.sampling.ancestral import ancestral
from dnadiff.sampling.autoregressive import autoregressive
from dnadiff.sampling.first_hitting import first_hitting
from dnadiff.sampling.reveal import Plan, reveal, unmask_times

SAMPLERS = ("ancestral", "first_hitting", "autoregressive")
DEFAULT_STEPS = 128


def sample(
    denoiser: Denoiser,
    template: Tensor,
    allowed: Tensor | None = None,
    label: Tensor | None = None,
    sampler: str = "auto",
    steps: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    index: Tensor | None = None,
    alphabet: Alphabet = DNA,
) -> Tensor:
    """Draws a sequence for each row of a template.

    Args:
        denoiser: see `dnadiff.diffusion.Denoiser`.
        template: (B, L) int64 token ids; the mask id is free, every other id is fixed context.
        allowed: (B, L, K) bool, the letters that may be drawn at each place; all by default.
        label: (B,) class labels, for a network trained with them.
        sampler: "ancestral" (`steps` calls at most), "first_hitting" (a call for each letter), "autoregressive" (left
            to right, for causal networks), or "auto" (see `sampler_for`).
        steps: calls of the ancestral sampler; 128 by default.
        temperature: above 0; 1 samples the model as it is.
        seed: of the run.
        index: (B,) sample numbers, 0..B-1 by default. A sample is determined by (seed, number), whatever its batch.
        alphabet: the letters.

    Returns:
        (B, L) token ids; fixed letters are kept, drawn ones are letters of the alphabet.

    Raises:
        UsageError: for an unknown sampler, or one that the network or the template does not suit, steps below 1 or
            given to another sampler than ancestral, a temperature that is not above 0, or a place where no letter is
            allowed.
    """
    if not temperature > 0:
        raise UsageError(f"temperature must be above 0, not {temperature}")
    if allowed is not None and not allowed.any(-1).all():
        row, place = (~allowed.any(-1)).nonzero()[0].tolist()
        raise UsageError(f"no letter is allowed at position {place + 1} of row {row}")
    index = torch.arange(template.shape[0], device=template.device) if index is None else index
    sampler = sampler_for(denoiser, sampler)
    if steps is not None and sampler in ("first_hitting", "autoregressive"):
        raise UsageError(f"{sampler} takes one call for each free letter: leave --steps out")
    draw = autoregressive
    if sampler != "autoregressive":
        times = unmask_times(template == alphabet.mask_id, allowed, seed, index)
        draw = partial(reveal, plan=_plan(sampler, steps, times))
    return draw(
        denoiser,
        template,
        seed=seed,
        index=index,
        allowed=allowed,
        label=label,
        temperature=temperature,
        alphabet=alphabet,
    )


def sampler_for(denoiser: Denoiser, sampler: str = "auto") -> str:
    """What "auto" means: autoregressive for causal networks that are told no noise level, ancestral for others."""
    if sampler != "auto":
        return sampler
    return "autoregressive" if denoiser.causal and not denoiser.needs_sigma else "ancestral"


def _plan(sampler: str, steps: int | None, times: Tensor) -> Plan:
    if sampler == "ancestral":
        steps = DEFAULT_STEPS if steps is None else steps
        if steps < 1:
            raise UsageError(f"steps must be at least 1, not {steps}")
        return ancestral(times, steps)
    if sampler == "first_hitting":
        return first_hitting(times)
    raise UsageError(f"unknown sampler {sampler!r}; there are {', '.join(SAMPLERS)}")
