"""The one call that draws sequences, whatever the sampler."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.diffusion import Denoiser, Objective
from dnadiff.errors import UsageError
from dnadiff.sampling.ancestral import on_grid
from dnadiff.sampling.choice import SAMPLERS, Choice, choose
from dnadiff.sampling.first_hitting import one_by_one
from dnadiff.sampling.remasking import Strategy
from dnadiff.sampling.request import Request
from dnadiff.sampling.reveal import reveal, unmask_times
from dnadiff.sampling.semi_autoregressive import semi_autoregressive


@torch.no_grad()
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
    *,
    top_p: float = 1.0,
    objective: Objective | None = None,
    remask: Strategy | None = None,
    eta: float | None = None,
    window: int | None = None,
    stride: int | None = None,
) -> Tensor:
    """Draws a sequence for each row of a template.

    Args:
        denoiser: see `dnadiff.diffusion.Denoiser`.
        template: (B, L) int64 token ids; the mask id is free, every other id is fixed context.
        allowed: (B, L, K) bool, the letters that may be drawn at each place; all by default. Under absorbing noise
            restricted letters are drawn before all others: the restriction always holds, but the distribution is an
            approximation.
        label: (B,) class labels, for a network trained with them.
        sampler: a name in `SAMPLERS`, each with a file of its own. "auto" takes the objective's own: "ancestral" for
            absorbing noise ("analytic" for a network that may answer "mask"), "uniform" for uniform noise, "plaid",
            and "autoregressive" for causal networks that are told no noise level. "semi_autoregressive" is the same,
            and insists on a window.
        steps: T, 128 by default, of all but first_hitting and autoregressive, which take a call for each free letter.
            No more calls than that (plaid: one more); in windows, for each window.
        temperature: above 0; mu is raised to 1/temperature. 1 samples the model as it is.
        seed: of the run.
        index: (B,) sample numbers, 0..B-1 by default. A sample is determined by (seed, number), whatever its batch.
        alphabet: the letters.
        top_p: in (0, 1]; letters are drawn from the likeliest ones that together have this share of mu. 1 samples the
            model as it is.
        objective: what the denoiser was trained for; one that hides letters by default.
        remask: how "remasking" hides letters again; "cap" by default.
        eta: how many of them; 1/steps by default.
        window: a sequence longer than this is drawn a window at a time, with any sampler.
        stride: by how much the window moves; half of it by default.

    Returns:
        (B, L) token ids; fixed letters are kept, drawn ones are letters of the alphabet.

    Raises:
        UsageError: if a name is unknown, a number out of range, a setting belongs to another sampler, the sampler
            cannot be right for this denoiser, or no letter is allowed at a place.
    """
    if not temperature > 0:
        raise UsageError(f"temperature must be above 0, not {temperature}")
    if not 0 < top_p <= 1:
        raise UsageError(f"top_p must be above 0 and at most 1, not {top_p}")
    if allowed is not None and not allowed.any(-1).all():
        row, place = (~allowed.any(-1)).nonzero()[0].tolist()
        raise UsageError(f"no letter is allowed at position {place + 1} of row {row}")
    choice = choose(
        denoiser,
        template.shape[1],
        sampler,
        objective=objective,
        steps=steps,
        remask=remask,
        eta=eta,
        window=window,
        stride=stride,
        alphabet=alphabet,
    )
    request = Request(
        denoiser,
        template,
        free=template == alphabet.mask_id,
        allowed=allowed,
        label=label,
        objective=objective,
        seed=seed,
        index=torch.arange(template.shape[0], device=template.device) if index is None else index,
        temperature=temperature,
        top_p=top_p,
        alphabet=alphabet,
    )
    if objective is not None:
        objective.check(denoiser)
    if not request.free.any():
        return template.clone()
    if choice.window is None or choice.stride is None:
        return _draw(request, choice)
    return semi_autoregressive(request, choice.window, choice.stride, partial(_draw, choice=choice))


def _draw(request: Request, choice: Choice) -> Tensor:
    """All free letters of a request, by a sampler that is settled."""
    draw, noise, _ = SAMPLERS[choice.sampler]
    if noise == "absorbing" and request.allowed is not None:
        request = _restricted_first(request, request.allowed, choice.settings.get("steps"))
    return draw(request, **choice.settings)


def _restricted_first(request: Request, allowed: Tensor, steps: int | None) -> Request:
    """The request with its restricted letters drawn, which conditions the rest on them.

    That respects the restriction but is not the exact conditional distribution.
    """
    restricted = replace(request, free=request.free & ~allowed.all(-1))
    times = unmask_times(restricted)
    plan = one_by_one(times) if steps is None else on_grid(times, steps)
    # They are drawn at the beginning of time, while all else is hidden.
    tokens = reveal(restricted, plan._replace(time=torch.ones_like(plan.time)))
    return replace(request, template=tokens, free=request.free & allowed.all(-1))
