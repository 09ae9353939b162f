"""Builds the network of a run: new, or started from a trained model."""

from __future__ import annotations

import torch

from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.backbones.hyena import HyenaConfig, HyenaLM
from dnadiff.backbones.language_model import LanguageModel
from dnadiff.backbones.transformer import TransformerConfig, TransformerLM
from dnadiff.diffusion import Objective
from dnadiff.errors import UsageError
from dnadiff.model import Model, load
from dnadiff.training.recipe import Recipe


def build(recipe: Recipe, objective: Objective, labels: tuple[str, ...] = ()) -> LMDenoiser:
    """Returns the network: new, with weights that the seed determines, or started from `init`.

    A conditioning that the model of `recipe.init` lacks starts at zero, so that the network first
    computes what it did before. A conditioning that both have is copied, and so are the weights of
    the objective if type and options are the same. If the classes differ from those of the model,
    the whole conditioning starts from zero.

    Args:
        recipe: of the run.
        objective: what it minimises; its weights are set as well.
        labels: the classes on which the network is conditioned.

    Returns:
        The network on the CPU, in training mode.

    Raises:
        UsageError: if the network does not suit the objective.
    """
    # Initial weights are drawn from PyTorch's global generator; nothing else of a run is.
    torch.manual_seed(recipe.seed)
    needs_sigma = recipe.time_conditioning
    if needs_sigma is None:
        needs_sigma = objective.time_conditioned
    if needs_sigma and objective.causal:
        raise UsageError(
            f"{recipe.objective} has no noise level to condition on: leave time_conditioning out"
        )

    if recipe.init is None:
        network = _new_network(recipe, causal=objective.causal)
        denoiser = _denoiser(network, objective, needs_sigma, labels, recipe.memory)
    else:
        model = load(recipe.init, device="cpu")
        denoiser = _continued(model, objective, needs_sigma, labels, recipe.memory)
    objective.check(denoiser)
    return denoiser.train()


def _continued(
    model: Model, objective: Objective, needs_sigma: bool, labels: tuple[str, ...], memory: bool
) -> LMDenoiser:
    """Returns the network of a trained model for this objective, with all weights that fit."""
    before = model.denoiser
    # Like the backbone's shape, a memory is given by the model to start from; one may be added.
    memory = memory or before.memory is not None
    denoiser = _denoiser(before.lm, objective, needs_sigma, labels, memory)
    if before.memory is not None:
        denoiser.memory = before.memory

    if before.needs_sigma == needs_sigma and before.labels == labels:
        denoiser.conditioning = before.conditioning
    elif before.needs_sigma and needs_sigma and not before.labels:
        # The noise level is known already; only the classes are new.
        assert denoiser.conditioning is not None and before.conditioning is not None
        denoiser.conditioning.add_labels_to(before.conditioning)

    if before.self_conditioned == denoiser.self_conditioned:
        denoiser.self_cond = before.self_cond
    # A learned noise schedule or embedding is valid only for the objective it was learned with.
    same_type = type(model.objective) is type(objective)
    if same_type and model.objective.options == objective.options:
        objective.load_state_dict(model.objective.state_dict())
    return denoiser


def _denoiser(
    lm: LanguageModel,
    objective: Objective,
    needs_sigma: bool,
    labels: tuple[str, ...],
    memory: bool,
) -> LMDenoiser:
    """Returns a language model as the denoiser that the objective needs."""
    return LMDenoiser(
        lm,
        needs_sigma=needs_sigma,
        labels=labels,
        outputs=objective.outputs,
        self_conditioned=objective.self_conditioned,
        memory=memory,
    )


def _new_network(recipe: Recipe, *, causal: bool) -> LanguageModel:
    """Returns a new backbone; `causal` applies to the Transformer, which can be either."""
    d_model, n_layer = recipe.d_model, recipe.n_layer
    if recipe.backbone == "hyena":
        return HyenaLM(HyenaConfig(d_model=d_model, n_layer=n_layer, l_max=recipe.window))
    if recipe.backbone == "transformer":
        return TransformerLM(TransformerConfig(d_model=d_model, n_layer=n_layer, causal=causal))

    # Mamba is a Caduceus stack that reads one strand in one direction.
    strands, directions = recipe.backbone == "caduceus-ps", recipe.backbone != "mamba"
    return CaduceusLM(CaduceusConfig(d_model, n_layer, rcps=strands, bidirectional=directions))
