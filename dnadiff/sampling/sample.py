"""The one call that draws sequences, whatever the sampler."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.diffusion import Denoiser, Objective
from dnadiff.errors import UsageError
from dnadiff.sampling.constraints import ConstrainedBatch, Constraints, place_motifs
from dnadiff.sampling.remasking import Strategy
from dnadiff.sampling.restricted import MOST, one_after_another, settle
from dnadiff.sampling.sampler_config import SAMPLERS, SamplerConfig, choose
from dnadiff.sampling.semi_autoregressive import semi_autoregressive
from dnadiff.sampling.state import SamplingState
from dnadiff.sampling.templates import Template


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
    constraints: Constraints | None = None,
) -> Tensor:
    """Draws a sequence for each row of a template.

    Args:
        denoiser: see `dnadiff.diffusion.Denoiser`.
        template: (B, L) int64 token ids; the mask id is free, every other id is fixed context.
        allowed: (B, L, K) bool, the letters that may be drawn at each place; all by default. Under absorbing noise
            restricted letters are drawn before all others: from their joint distribution, or one after another where
            `constraints` is not exact.
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
        constraints: what the sequences must keep to.

    Returns:
        (B, L) token ids; fixed letters are kept, drawn ones are letters of the alphabet.

    Raises:
        UsageError: if a name is unknown, a number out of range, a setting belongs to another sampler, the sampler
            cannot be right for this denoiser, or for what is asked of it, or no letter is allowed at a place.
        InputError: naming a constraint that cannot be kept.
    """
    _check(temperature, top_p, allowed)
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
    constraints = Constraints(alphabet=alphabet) if constraints is None else constraints
    if choice.sampler == "autoregressive":
        _check_left_to_right(
            constraints, allowed is not None and not allowed[template == alphabet.mask_id].all()
        )
    index = torch.arange(template.shape[0], device=template.device) if index is None else index
    draft = None
    if constraints.require:
        template, allowed = place_motifs(template, allowed, constraints, seed=seed, index=index)
    if constraints.enforced:
        draft = ConstrainedBatch(template, allowed, constraints, seed=seed, index=index)
        draft.check()
    state = SamplingState(
        denoiser,
        template,
        free=template == alphabet.mask_id,
        allowed=allowed,
        label=label,
        objective=objective,
        seed=seed,
        index=index,
        temperature=temperature,
        top_p=top_p,
        alphabet=alphabet,
        draft=draft,
    )
    if objective is not None:
        objective.check(denoiser)
    if not state.free.any():
        return template.clone()
    if choice.window is None or choice.stride is None:
        return _draw(state, choice, constraints.exact)
    draw = partial(_draw, choice=choice, exact=constraints.exact)
    return semi_autoregressive(state, choice.window, choice.stride, draw)


def _check(temperature: float, top_p: float, allowed: Tensor | None) -> None:
    """Refuses what no sampler can use."""
    if not temperature > 0:
        raise UsageError(f"temperature must be above 0, not {temperature}")
    if not 0 < top_p <= 1:
        raise UsageError(f"top_p must be above 0 and at most 1, not {top_p}")
    if allowed is not None and not allowed.any(-1).all():
        row, place = (~allowed.any(-1)).nonzero()[0].tolist()
        raise UsageError(f"no letter is allowed at position {place + 1} of row {row}")


def letters_drawn(
    template: Template, choice: SamplerConfig, constraints: Constraints
) -> str | None:
    """How letters that a template or a motif restricts are drawn; None where there are none.

    "exact", "resampled" (from a population) or "approximate", as always in windows: the letters of earlier windows are
    drawn without regard to them.
    """
    alphabet = constraints.alphabet
    codes = [code for motif in constraints.require for code in motif.letters]
    letters = [
        len(alphabet.ambiguity[code])
        for code in codes
        if code not in {*alphabet.letters, alphabet.unknown}
    ]
    if template.allowed is not None:
        letters += template.allowed.sum(-1)[
            (template.allowed.sum(-1) > 1) & ~template.allowed.all(-1)
        ].tolist()
    if not letters:
        return None
    if constraints.enforced or choice.window is not None:
        return "approximate"
    if SAMPLERS[choice.sampler].corruption in ("uniform", "gaussian"):
        return "exact"
    if constraints.approximate:
        return "approximate"
    return "exact" if math.prod(letters) <= MOST else "resampled"


def _check_left_to_right(constraints: Constraints, restricted: bool) -> None:
    """Refuses what letters to the left would have to know of letters to the right."""
    if constraints.require:
        raise UsageError(
            "from left to right, the letters before a motif are drawn without regard to it: leave --require out, or"
            " take a model trained with masks"
        )
    if restricted and constraints.exact:
        raise UsageError(
            "from left to right, restricted letters cannot have their exact distribution (the letters before them are"
            " drawn without regard to them): say --approximate, or take a model trained with masks"
        )


def _draw(state: SamplingState, choice: SamplerConfig, exact: bool) -> Tensor:
    """All free letters of a request, by a sampler that is settled."""
    draw, noise, _ = SAMPLERS[choice.sampler]
    allowed = state.allowed
    if (
        noise == "absorbing" and allowed is not None
    ):  # others are told what is possible, and need no more
        steps = choice.settings.get("steps")
        state = settle(state, allowed) if exact else one_after_another(state, allowed, steps)
    return draw(state, **choice.settings)
