"""Draws sequences with any sampler: the entry points `sample` and `draw_sequences`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Unpack

import torch
from torch import Tensor

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.diffusion import Denoiser, Objective
from dnadiff.errors import UsageError
from dnadiff.sampling.analytic import analytic
from dnadiff.sampling.ancestral import ancestral
from dnadiff.sampling.autoregressive import autoregressive
from dnadiff.sampling.constraints import ConstrainedBatch, Constraints, place_motifs
from dnadiff.sampling.first_hitting import first_hitting
from dnadiff.sampling.plaid import plaid
from dnadiff.sampling.remasking import remasking
from dnadiff.sampling.restricted import draw_restricted, restricted_one_by_one
from dnadiff.sampling.sampler_config import (
    SAMPLERS,
    ExtraSettings,
    SamplerConfig,
    make_config,
    resolve_sampler,
)
from dnadiff.sampling.semi_autoregressive import semi_autoregressive
from dnadiff.sampling.state import SamplingState
from dnadiff.sampling.uniform import uniform

_DRAW: dict[str, Callable[[SamplingState, SamplerConfig], Tensor]] = {
    "ancestral": ancestral,
    "first_hitting": first_hitting,
    "analytic": analytic,
    "remasking": remasking,
    "uniform": uniform,
    "plaid": plaid,
    "autoregressive": autoregressive,
}


def sample(
    denoiser: Denoiser,
    template: Tensor,
    allowed: Tensor | None = None,
    label: Tensor | None = None,
    sampler: str | SamplerConfig = "auto",
    steps: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    index: Tensor | None = None,
    alphabet: Alphabet = DNA,
    *,
    objective: Objective | None = None,
    constraints: Constraints | None = None,
    **settings: Unpack[ExtraSettings],
) -> Tensor:
    """Draws a sequence for each row of a template.

    Args:
        denoiser: see `dnadiff.diffusion.Denoiser`.
        template: (B, L) int64 token ids; the mask id is free, every other id is fixed context.
        allowed: (B, L, K) bool, the letters that may be drawn at each position; all by default.
            Under absorbing noise restricted letters are drawn before all others: from their joint
            distribution, or one after another where `constraints` is not exact.
        label: (B,) class labels, for a network trained with them; None for no class.
        sampler: a name, or a `SamplerConfig` with all settings; see there for the names.
        steps: network calls at most; see `SamplerConfig`.
        temperature: 1 samples the model as it is; see `SamplerConfig`.
        seed: of the run. Two models with the same seed share their random numbers.
        index: (B,) sample numbers, 0..B-1 by default. A sample is determined by (seed, number),
            whatever its batch.
        alphabet: the letters.
        objective: what the denoiser was trained for; absorbing noise (masks) by default.
        constraints: what the sequences must satisfy.
        settings: top_p, remask, eta, window and stride; see `SamplerConfig`.

    Returns:
        (B, L) token ids; fixed letters are kept, drawn ones are letters of the alphabet.

    Raises:
        UsageError: if a setting is not valid, the sampler does not suit this denoiser, or no letter
            is allowed at a position.
        InputError: naming a constraint that cannot be satisfied.
    """
    # Invalid or contradictory settings are refused here, before anything is computed.
    config = make_config(sampler, steps=steps, temperature=temperature, **settings)
    config = resolve_sampler(
        config, denoiser, template.shape[1], objective=objective, alphabet=alphabet
    )
    return draw_sequences(
        denoiser,
        template,
        config,
        allowed=allowed,
        label=label,
        objective=objective,
        constraints=Constraints(alphabet=alphabet) if constraints is None else constraints,
        seed=seed,
        index=index,
        alphabet=alphabet,
    )


@torch.no_grad()
def draw_sequences(
    denoiser: Denoiser,
    template: Tensor,
    config: SamplerConfig,
    *,
    allowed: Tensor | None,
    label: Tensor | None,
    objective: Objective | None,
    constraints: Constraints,
    seed: int,
    index: Tensor | None = None,
    alphabet: Alphabet = DNA,
) -> Tensor:
    """Draws as `sample` does, with a configuration that `resolve_sampler` has returned.

    Raises:
        UsageError: if no letter is allowed at a position, or the sampler cannot respect a
            restriction or a required motif.
        InputError: naming a constraint that cannot be satisfied.
    """
    # What cannot be drawn is refused before the network is called.
    _check_allowed(allowed)
    if config.sampler == "autoregressive":
        free = template == alphabet.mask_id
        restricts = allowed is not None and not bool(allowed[free].all())
        _check_left_to_right(constraints, restricts)
    if index is None:
        index = torch.arange(template.shape[0], device=template.device)

    # Motifs get their positions first: their letters are then part of the template.
    batch = None
    if constraints.require:
        template, allowed = place_motifs(template, allowed, constraints, seed=seed, index=index)
    if constraints.enforced:
        batch = ConstrainedBatch(template, allowed, constraints, seed=seed, index=index)
        batch.check()
    # A network with another number of outputs would be read without an error, and wrongly.
    if objective is not None:
        objective.check(denoiser)

    state = SamplingState(
        denoiser,
        template,
        free=template == alphabet.mask_id,
        allowed=allowed,
        label=label,
        objective=objective,
        seed=seed,
        index=index,
        temperature=config.temperature,
        top_p=config.top_p,
        alphabet=alphabet,
        constrained=batch,
    )
    # A copy, because callers may change the result and still need their template.
    if not state.free.any():
        return template.clone()
    draw = partial(_draw, config=config, exact=constraints.exact)
    if config.window is None or config.stride is None:
        return draw(state)
    # Only masks can be left in a window for a later one; other noises draw every position.
    masks = SAMPLERS[config.sampler].corruption == "absorbing"
    return semi_autoregressive(state, config.window, config.stride, draw, whole=not masks)


def _draw(state: SamplingState, config: SamplerConfig, exact: bool) -> Tensor:
    """Draws all free letters of a state. Returns tokens (B, L)."""
    allowed = state.allowed
    # Samplers of other noises see a restriction as evidence, and need nothing more.
    if SAMPLERS[config.sampler].corruption == "absorbing" and allowed is not None:
        if exact:
            state = draw_restricted(state, allowed)
        else:
            state = restricted_one_by_one(state, allowed, config.steps)
    return _DRAW[config.sampler](state, config)


def _check_allowed(allowed: Tensor | None) -> None:
    """Refuses positions at which no letter is allowed."""
    if allowed is not None and not allowed.any(-1).all():
        row, place = (~allowed.any(-1)).nonzero()[0].tolist()
        raise UsageError(f"no letter is allowed at position {place + 1} of row {row}")


def _check_left_to_right(constraints: Constraints, restricts: bool) -> None:
    """Refuses requests for which letters on the left must depend on letters to their right."""
    # A motif becomes fixed letters of the template, with free letters to its left.
    if constraints.require:
        raise UsageError(
            "from left to right, the letters before a motif are drawn without regard to it: leave "
            "require out, or take a model trained with masks"
        )
    if restricts and constraints.exact:
        raise UsageError(
            "from left to right, restricted letters cannot have their exact distribution (the "
            "letters before them are drawn without regard to them): set approximate, or take a "
            "model trained with masks"
        )
