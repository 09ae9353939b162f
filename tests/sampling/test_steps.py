"""Single steps of the samplers: pure functions whose repetition is the sampler."""

import pytest
import torch
from closed_forms import CausalMarkovSource, MarkovSource

from dnadiff.alphabet import DNA
from dnadiff.diffusion import Plaid
from dnadiff.sampling import SamplerConfig, free_template, sample
from dnadiff.sampling.analytic import analytic_step
from dnadiff.sampling.ancestral import on_grid
from dnadiff.sampling.autoregressive import CausalNetwork, autoregressive_step
from dnadiff.sampling.first_hitting import one_by_one
from dnadiff.sampling.plaid import plaid_step
from dnadiff.sampling.remasking import Remasked, mask_rates, remasking_step
from dnadiff.sampling.reveal import reveal_step, unmask_times
from dnadiff.sampling.state import SamplingState
from dnadiff.sampling.uniform import uniform_start, uniform_step

ROWS, LENGTH, STEPS = 20, 8, 5


def state_of(denoiser, objective=None):
    template = free_template(ROWS, LENGTH)
    return SamplingState(
        denoiser,
        template,
        free=template == DNA.mask_id,
        allowed=None,
        label=None,
        objective=objective,
        seed=3,
        index=torch.arange(ROWS),
        temperature=1.0,
        top_p=1.0,
        alphabet=DNA,
    )


def unchanged(step, tokens):
    """What a step returns, which must not change what it is given."""
    before = tokens.clone()
    after = step(tokens)
    assert torch.equal(tokens, before)
    return after


def by_steps(sampler):
    """The samples of a sampler, one public step after another, and its options."""
    state, config = state_of(MarkovSource(LENGTH)), SamplerConfig(sampler)
    tokens = state.template
    if sampler in ("ancestral", "first_hitting"):
        times = unmask_times(state)
        plan = on_grid(times, STEPS) if sampler == "ancestral" else one_by_one(times)
        for step in range(plan.time.shape[1]):
            tokens = unchanged(lambda t, step=step: reveal_step(state, t, plan, step), tokens)
    elif sampler == "analytic":
        for step in range(STEPS):
            tokens = unchanged(lambda t, step=step: analytic_step(state, t, step, STEPS), tokens)
    elif sampler == "uniform":
        tokens = uniform_start(state)
        for step in range(STEPS):
            tokens = unchanged(lambda t, step=step: uniform_step(state, t, step, STEPS), tokens)
    else:
        config = SamplerConfig("remasking", steps=STEPS, remask="rescale", eta=0.5)
        drawn = Remasked(tokens, torch.zeros(tokens.shape, dtype=torch.float64))
        for step in range(1, STEPS + 1):
            before = drawn.tokens.clone(), drawn.certainty.clone()
            after = remasking_step(state, drawn, step, config, mask_rates(config))
            assert torch.equal(drawn.tokens, before[0]) and torch.equal(drawn.certainty, before[1])
            drawn = after
        return drawn.tokens, config
    return tokens, SamplerConfig(sampler, steps=None if sampler == "first_hitting" else STEPS)


@pytest.mark.parametrize(
    "sampler", ["ancestral", "first_hitting", "analytic", "uniform", "remasking"]
)
def test_a_sampler_is_its_steps_one_after_another(sampler):
    tokens, config = by_steps(sampler)
    whole = sample(MarkovSource(LENGTH), free_template(ROWS, LENGTH), sampler=config, seed=3)
    assert torch.equal(tokens, whole)


def test_plaid_is_its_steps_and_then_letters():
    class Seeing(MarkovSource):
        needs_sigma, self_conditioned = True, True

        def __call__(self, tokens, sigma=None, label=None, token_probs=None):
            return super().__call__(tokens, token_probs=token_probs[..., :4])

    objective = Plaid(gamma=(-6.0, 8.0), dimension=4)
    with torch.no_grad():
        state, latent = state_of(Seeing(LENGTH), objective), None
        for step in range(STEPS + 1):
            before = None if latent is None else latent.z.clone()
            after = plaid_step(state, latent, step, STEPS)
            assert latent is None or torch.equal(latent.z, before)
            latent = after
    drawn = sample(
        Seeing(LENGTH), free_template(ROWS, LENGTH), objective=objective, steps=STEPS, seed=3
    )
    # At this noise level hardly any letter is in doubt, and the likeliest one is drawn.
    likeliest = latent.log_p.argmax(-1).view(ROWS, LENGTH) + DNA.first_id
    assert (drawn == likeliest).double().mean() > 0.9


def test_from_left_to_right_is_one_column_after_another():
    class Prefix(CausalMarkovSource):
        def __call__(self, tokens, sigma=None, label=None, token_probs=None):
            whole = torch.full((len(tokens), self.length), DNA.mask_id)
            whole[:, : tokens.shape[1]] = tokens
            return super().__call__(whole)[:, : tokens.shape[1]]

    source = Prefix(LENGTH)
    state = state_of(source)
    tokens, network = state.template.clone(), CausalNetwork(source, None)
    for place in range(LENGTH):
        before = tokens.clone()
        column = autoregressive_step(state, tokens, place, network.logits(tokens, place))
        assert torch.equal(tokens, before)
        tokens[:, place] = column
    assert torch.equal(tokens, sample(source, free_template(ROWS, LENGTH), seed=3))


def test_a_step_in_which_no_letter_falls_does_not_call_the_network():
    def denoiser(*args, **kwargs):
        raise AssertionError

    state = state_of(denoiser)
    plan = on_grid(unmask_times(state), 1)
    assert torch.equal(reveal_step(state, state.template, plan, 7), state.template)
