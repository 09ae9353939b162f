"""Sampling of Plaid: ancestral steps of its Gaussian diffusion (VDM, Kingma et al. 2021, section A.4), then letters."""

from __future__ import annotations

import torch
from torch import Tensor

from dnadiff.diffusion.plaid import Plaid, lost, noise, signal
from dnadiff.errors import UsageError
from dnadiff.rng import Stream, uniform
from dnadiff.sampling.ancestral import on_grid
from dnadiff.sampling.guidance import geometric_mixture, guidance_terms
from dnadiff.sampling.reveal import unmask_times
from dnadiff.sampling.state import SamplingState

_GROUPS = 32  # so that what a constraint enforces is not all at the end of a sequence


def plaid(state: SamplingState, steps: int) -> Tensor:
    """From Gaussian noise to embeddings to letters. Returns tokens (B, L).

    What a template says of a letter is evidence like any other: minus infinity for every letter that it rules out. With
    the exact denoiser the error is of order 1 / `steps` and the limit is the exact conditional distribution, for fixed
    letters and for restricted ones. Constraints are kept when the embeddings become letters, in a random order.

    Towards a class (`guidance`) the laws of z_s are mixed, which is to mix the estimates x^ = P E with the weights w
    and 1 - w; and in the end the laws of the letters. Each network is shown its own earlier answer.

    Args:
        request: what to draw, of a network that was trained with `Plaid`.
        steps: from gamma(1) to gamma(0); a call each and one more, and with guidance twice as many. A self-conditioned
            network is shown its answer of the step before.

    Raises:
        UsageError: if the objective is not known, which has the embedding and the schedule.
    """
    objective, tokens, free = state.objective, state.template, state.free
    if not isinstance(objective, Plaid):
        raise UsageError("plaid needs the objective that the network was trained with")
    hidden = tokens.masked_fill(state.alphabet.scorable(tokens), state.alphabet.mask_id)
    possible = state.possible()
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=tokens.device)
    levels = objective.schedule(times).gamma[:, None].expand(-1, len(tokens))
    weights, asked = zip(*guidance_terms(state), strict=True)
    z, predictions = (
        _normal(objective, state, 0),
        [torch.zeros_like(possible, dtype=torch.float64) for _ in asked],
    )
    for step, gamma in enumerate(levels):
        if step > 0:
            denoised = (
                sum(w * prediction for w, prediction in zip(weights, predictions, strict=True))
                @ objective.embedding
            )
            z = transition(z, denoised, levels[step - 1], gamma, _normal(objective, state, step))
        evidence = objective.evidence(z, gamma).masked_fill(~possible, -torch.inf)
        laws = []
        for i, one in enumerate(asked):
            token_probs = evidence.softmax(-1)
            if objective.self_conditioned:
                token_probs = torch.cat([token_probs, predictions[i]], -1)
            log_mu = one.predict(hidden, free, lost(gamma), token_probs).log_mu
            laws.append((log_mu + evidence[free[:, state.span]]).log_softmax(-1))
            predictions[i] = possible.double() / possible.sum(-1, keepdim=True)
            predictions[i][free[:, state.span]] = laws[i].exp()
    return _letters(state, geometric_mixture(weights, laws))


def _letters(state: SamplingState, log_p: Tensor) -> Tensor:
    """Draws the free letters from their laws (M, K). Returns tokens (B, L)."""
    tokens, quantile = state.template.clone(), state.numbers(Stream.LETTER)
    laws = torch.zeros(*tokens.shape, log_p.shape[-1], dtype=log_p.dtype, device=tokens.device)
    laws[state.free] = log_p
    group = on_grid(unmask_times(state), _GROUPS).group.masked_fill(~state.free, -1)
    for step in range(_GROUPS):
        state.draw_from(tokens, group == step, quantile, laws)
    return tokens


def transition(
    z: Tensor, denoised: Tensor, gamma: Tensor, earlier: Tensor, normal: Tensor
) -> Tensor:
    """Draws z_s (B, L, D) from q(z_s | z_t, x^), s < t, by Bayes' rule.

    With c = 1 - exp(gamma_s - gamma_t) it is (alpha_s / alpha_t) (1 - c) z_t + c alpha_s x^ + s_s sqrt(c) eps.

    Args:
        z: (B, L, D), z_t.
        denoised: (B, L, D), x^.
        gamma: (B,) gamma_t.
        earlier: (B,) gamma_s, not above gamma_t.
        normal: (B, L, D) eps, standard normal.
    """
    c = -torch.expm1(earlier - gamma)[:, None, None]
    mean = signal(earlier) / signal(gamma) * (1 - c) * z + c * signal(earlier) * denoised
    return mean + noise(earlier) * c.sqrt() * normal


def _normal(objective: Plaid, state: SamplingState, step: int) -> Tensor:
    """Standard normal numbers (B, span, D) of one step."""
    shown, dimension = range(state.template.shape[1])[state.span], objective.letters.embedding_dim
    quantile = uniform(
        state.seed,
        Stream.NOISE,
        state.index,
        len(shown) * dimension,
        step=step,
        first=shown.start * dimension,
    )
    return torch.special.ndtri(quantile).unflatten(1, (len(shown), dimension))
