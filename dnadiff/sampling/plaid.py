"""Sampling of Plaid: ancestral steps of its Gaussian diffusion, then letters.

VDM, Kingma et al. 2021, section A.4; Plaid, Gulrajani and Hashimoto 2023, arXiv 2305.18619.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dnadiff.diffusion.plaid import Plaid, lost, noise, signal
from dnadiff.errors import UsageError
from dnadiff.rng import Stream
from dnadiff.sampling.ancestral import on_grid
from dnadiff.sampling.guidance import geometric_mixture, guidance_terms
from dnadiff.sampling.reveal import unmask_times
from dnadiff.sampling.sampler_config import SamplerConfig
from dnadiff.sampling.state import SamplingState

# The embeddings become bases in this number of groups, in a random order, so that the bases that a
# constraint changes are not all at the end of a sequence.
_GROUPS = 32


class Latent(NamedTuple):
    """Noisy embeddings, and the network's latest prediction of the letters.

    Attributes:
        z: (B, L, D) float64.
        predictions: for each network of the guidance, (B, L, K) probabilities of the letters.
        log_p: (M, K) log-probabilities of the free letters, row by row, of all networks together.
    """

    z: Tensor
    predictions: list[Tensor]
    log_p: Tensor


def plaid(state: SamplingState, config: SamplerConfig) -> Tensor:
    """Goes from Gaussian noise to embeddings to letters. Returns tokens (B, L).

    The template enters as evidence, which is minus infinity for every letter that it rules out.
    With the exact denoiser the error is of order 1 / `steps`, and the limit is the exact
    conditional distribution, for fixed and for restricted letters. Constraints are enforced when
    the embeddings become letters.

    Args:
        state: what to draw, with a network that was trained with `Plaid`.
        config: `steps` from gamma(1) to gamma(0); one call for each and one more, and with guidance
            twice as many.

    Raises:
        UsageError: if the state has no `Plaid` objective, whose embedding and schedule are needed.
    """
    assert config.steps is not None
    latent = None
    for step in range(config.steps + 1):
        latent = plaid_step(state, latent, step, config.steps)
    assert latent is not None
    return _letters(state, latent.log_p)


def plaid_step(state: SamplingState, latent: Latent | None, step: int, steps: int) -> Latent:
    """Lowers the noise of the embeddings by one step, and predicts the letters.

    With guidance the conditional and unconditional distributions of z_s are combined, which amounts
    to averaging the estimates x^ = P E with the weights w and 1 - w. A self-conditioned network is
    given its own prediction of the previous step.

    Args:
        state: what is drawn, with which network.
        latent: the result of the step before; None for pure noise.
        step: from 0, at gamma(1), to `steps`, at gamma(0).
        steps: T.

    Raises:
        UsageError: if the state's objective is not `Plaid`.
    """
    objective = state.objective
    if not isinstance(objective, Plaid):
        raise UsageError("plaid needs the objective that the network was trained with")
    weights, terms = zip(*guidance_terms(state), strict=True)
    gamma = _level(objective, state, step, steps)
    normal = _normal(objective, state, step)
    possible = state.possible

    if latent is None:
        z = normal
        zeros = torch.zeros_like(possible, dtype=torch.float64)
        earlier_predictions = [zeros] * len(terms)
    else:
        earlier_predictions = latent.predictions
        weighted = [w * p for w, p in zip(weights, earlier_predictions, strict=True)]
        denoised = sum(weighted[1:], weighted[0]) @ objective.embedding
        before = _level(objective, state, step - 1, steps)
        z = transition(latent.z, denoised, before, gamma, normal)

    # A letter that the template rules out is impossible, whatever the noisy embedding is.
    evidence = objective.evidence(z, gamma).masked_fill(~possible, -torch.inf)
    laws, predictions = [], []
    for term, earlier in zip(terms, earlier_predictions, strict=True):
        law = _law(objective, term, evidence, gamma, earlier)
        # A position that is not drawn is predicted uniformly over the letters it may be.
        prediction = possible.double() / possible.sum(-1, keepdim=True)
        prediction[state.free] = law.exp()
        laws.append(law)
        predictions.append(prediction)
    return Latent(z, predictions, geometric_mixture(weights, laws))


def _law(
    objective: Plaid, state: SamplingState, evidence: Tensor, gamma: Tensor, earlier: Tensor
) -> Tensor:
    """Returns the log-probabilities (M, K) of the free letters given all evidence (B, L, K)."""
    hidden = state.template.masked_fill(
        state.alphabet.scorable(state.template), state.alphabet.mask_id
    )
    token_probs = evidence.softmax(-1)
    if objective.self_conditioned:
        token_probs = torch.cat([token_probs, earlier], -1)
    log_mu = state.predict(hidden, state.free, lost(gamma), token_probs).log_mu
    return (log_mu + evidence[state.free]).log_softmax(-1)


def _letters(state: SamplingState, log_p: Tensor) -> Tensor:
    """Draws the free letters from their laws (M, K). Returns tokens (B, L)."""
    shape = (*state.template.shape, log_p.shape[-1])
    laws = torch.zeros(shape, dtype=log_p.dtype, device=log_p.device)
    laws[state.free] = log_p

    tokens = state.template
    group = on_grid(unmask_times(state), _GROUPS).group.masked_fill(~state.free, -1)
    for step in range(_GROUPS):
        tokens = state.draw_from(tokens, group == step, state.quantile, laws)
    return tokens


def transition(
    z: Tensor, denoised: Tensor, gamma: Tensor, earlier: Tensor, normal: Tensor
) -> Tensor:
    """Draws z_s (B, L, D) from q(z_s | z_t, x^), s < t, by Bayes' rule.

    With c = 1 - exp(gamma_s - gamma_t) it is
    (alpha_s / alpha_t) (1 - c) z_t + c alpha_s x^ + s_s sqrt(c) eps.

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


def _level(objective: Plaid, state: SamplingState, step: int, steps: int) -> Tensor:
    """Returns the noise level gamma (B,) of a step."""
    # The times are those of a grid from 1 to 0, rounded as `linspace` rounds them.
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=state.template.device)
    return objective.schedule(times[step : step + 1]).gamma.expand(len(state.template))


def _normal(objective: Plaid, state: SamplingState, step: int) -> Tensor:
    """Returns standard normal numbers (B, L, D) of one step."""
    dimension = objective.letters.embedding_dim
    quantile = state.numbers(Stream.NOISE, step, each=dimension)
    return torch.special.ndtri(quantile).unflatten(1, (-1, dimension))
