"""Properties that every objective must have."""

import pytest
import torch
from closed_forms import CausalMarkovSource, FromLogits, MarkovSource, with_mask_output

from dnadiff.alphabet import DNA
from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.diffusion import OBJECTIVES, Draw, make_objective, name_of

CASES = {
    "mdlm": ("mdlm", {}),
    "mdlm, 1000 steps": ("mdlm", {"steps": 1000}),
    "mdlm, no zero masking": ("mdlm", {"zero_masking": False}),
    "mdlm, no carry-over": ("mdlm", {"carry_over": False}),
    "mdlm, complementary": ("mdlm", {"complementary": True}),
    "mdlm, time": ("mdlm", {"estimator": "time", "schedule": "cosine"}),
    "sedd": ("sedd", {}),
    "sedd, uniform": ("sedd", {"noise": "uniform"}),
    "d3pm": ("d3pm", {"steps": 100}),
    "d3pm, zero masking": ("d3pm", {"steps": 100, "zero_masking": True, "carry_over": False}),
    "d3pm, uniform": ("d3pm", {"steps": 100, "noise": "uniform"}),
    "udlm": ("udlm", {}),
    "plaid": ("plaid", {}),
    "plaid, not self-conditioned": ("plaid", {"self_conditioning": False}),
    "autoregressive": ("autoregressive", {}),
    "masked_lm": ("masked_lm", {}),
}
OBJECTIVE = pytest.mark.parametrize("case", list(CASES))


def made(case):
    name, options = CASES[case]
    return make_objective(name, options)


def source_for(objective, length):
    source = (CausalMarkovSource if objective.causal else MarkovSource)(length)
    source.self_conditioned = objective.self_conditioned
    if objective.outputs == 4:
        return source
    return FromLogits(source, with_mask_output(0.01), outputs=5)


def network_for(objective):
    torch.manual_seed(0)
    shape = CaduceusConfig(
        d_model=16, n_layer=2, rcps=not objective.causal, bidirectional=not objective.causal
    )
    denoiser = LMDenoiser(
        CaduceusLM(shape),
        needs_sigma=objective.time_conditioned,
        outputs=objective.outputs,
        self_conditioned=objective.self_conditioned,
    )
    if denoiser.conditioning is not None:
        torch.nn.init.normal_(denoiser.conditioning.scale_shift.weight, std=0.3)
    return denoiser


def finite_gradients(*modules):
    """Returns whether there are gradients, all of them finite."""
    gradients = [p.grad for module in modules for p in module.parameters() if p.grad is not None]
    return bool(gradients) and all(gradient.isfinite().all() for gradient in gradients)


def test_every_objective_is_tested():
    assert {name for name, _ in CASES.values()} == set(OBJECTIVES)


@OBJECTIVE
def test_an_objective_can_be_made_from_its_name_and_options(case):
    objective = made(case)
    again = make_objective(name_of(objective), objective.options)
    assert type(again) is type(objective) and again.options == objective.options
    assert CASES[case][1].items() <= objective.options.items()


@OBJECTIVE
def test_the_bound_is_above_the_negative_log_likelihood_of_a_known_source(case):
    objective = made(case)
    source = source_for(objective, 12)
    known = MarkovSource(12)
    tokens = known.sample(5000)
    paired = objective.bound(source, tokens, draws=4).nats - known.nll(tokens)
    assert paired.mean() > -3 * paired.std() / 5000**0.5


@OBJECTIVE
def test_a_row_does_not_depend_on_its_batch(case):
    objective = made(case)
    source = source_for(objective, 12)
    tokens = MarkovSource(12).sample(6)
    tokens[2, 3:7] = DNA.unknown_id
    whole = objective.bound(source, tokens, draws=2, seed=5)
    for i in range(6):
        one = objective.bound(source, tokens[i : i + 1], draws=2, seed=5, index=torch.tensor([i]))
        torch.testing.assert_close(one.nats, whole.nats[i : i + 1], rtol=1e-12, atol=0)
    other = objective.bound(source, tokens, draws=2, seed=6).nats
    assert torch.equal(other, whole.nats) == (whole.kind == "exact")


@OBJECTIVE
def test_unknown_bases_and_rows_without_bases_are_not_scored(case):
    objective = made(case)
    source = source_for(objective, 12)
    tokens = MarkovSource(12).sample(3)
    tokens[0, 5:] = DNA.unknown_id
    tokens[1] = DNA.unknown_id
    tokens[2, 6:] = DNA.pad_id
    bound = objective.bound(source, tokens, draws=2)
    assert bound.bases.tolist() == [5, 0, 6] and bound.nats[1] == 0 and bound.se[1] == 0
    assert bound.nats.isfinite().all()
    with pytest.raises(ValueError, match="no sequence of this batch"):
        objective.loss(source, tokens[1:2])


@OBJECTIVE
def test_one_scorable_base_is_enough(case):
    objective = made(case)
    tokens = torch.full((64, 12), DNA.unknown_id)
    tokens[torch.arange(64), torch.arange(64) % 12] = 7 + torch.arange(64) % 4
    denoiser = network_for(objective)
    loss = objective.loss(denoiser, tokens)
    loss.value.backward()
    assert (
        loss.value.isfinite() and objective.bound(denoiser, tokens, draws=4).nats.isfinite().all()
    )
    assert finite_gradients(denoiser, objective)


@OBJECTIVE
def test_losses_and_gradients_are_finite_at_both_ends_of_time(case):
    objective = made(case)
    denoiser = network_for(objective)
    tokens = MarkovSource(32).sample(8)
    for quantile in (0.0, 2.0**-52, 1e-9, 1e-3, 0.5, 1 - 1e-3, 1 - 1e-9, 1 - 2.0**-53):
        objective.zero_grad()
        denoiser.zero_grad()
        draw = Draw(torch.full((8,), quantile, dtype=torch.float64), 0, 0, torch.arange(8))
        for nats in (objective.per_token_nelbo, objective.per_token_loss):
            value = nats(denoiser, tokens, draw).sum()
            value.backward()
            assert value.isfinite(), quantile
        assert finite_gradients(denoiser, objective), quantile


@OBJECTIVE
def test_bfloat16_changes_little(case):
    objective = made(case)
    denoiser = network_for(objective)
    tokens = MarkovSource(32).sample(16)
    plain = objective.bound(denoiser, tokens, draws=2).nats
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = objective.bound(denoiser, tokens, draws=2).nats
        loss = objective.loss(denoiser, tokens)
    loss.value.backward()
    assert (low - plain).abs().max() < 0.02 * plain.abs().max()
    assert finite_gradients(denoiser, objective)


@OBJECTIVE
def test_weights_of_letters_scale_their_share_of_the_loss(case):
    objective = made(case)
    source = source_for(objective, 12)
    tokens = MarkovSource(12).sample(8)
    plain = objective.loss(source, tokens, seed=3)
    one = objective.loss(source, tokens, seed=3, weight=torch.full((8, 12), 0.25))
    torch.testing.assert_close(one.value, plain.value)
    half = torch.zeros(8, 12)
    half[:, :5] = 1.0
    parts = [objective.loss(source, tokens, seed=3, weight=w) for w in (half, 1 - half)]
    torch.testing.assert_close(parts[0].value * 5 / 12 + parts[1].value * 7 / 12, plain.value)
    assert all(part.nats_per_base == plain.nats_per_base for part in parts)
    nothing = objective.loss(source, tokens, weight=torch.zeros(8, 12))
    assert nothing.value == 0


@OBJECTIVE
def test_loss_is_a_function_of_seed_step_and_row_number(case):
    objective = made(case)
    denoiser = network_for(objective)
    tokens = MarkovSource(32).sample(4)
    index = torch.tensor([5, 9, 2, 7])
    value = objective.loss(denoiser, tokens, seed=1, step=2, index=index).value
    assert value == objective.loss(denoiser, tokens, seed=1, step=2, index=index).value
    order = [2, 0, 3, 1]
    torch.testing.assert_close(
        objective.loss(denoiser, tokens[order], seed=1, step=2, index=index[order]).value, value
    )
