import pytest
import torch
from closed_forms import IndependentSource, JointSource, MarkovSource, MixtureSource

from dnadiff.alphabet import DNA
from dnadiff.diffusion import UDLM

SOURCES = [IndependentSource(length=8, seed=1), MarkovSource(length=12), MixtureSource(length=4)]


def above_entropy(nats, source, tokens):
    """Mean difference of a bound and -log p, paired by sequence, and its standard error."""
    paired = nats - source.nll(tokens)
    return paired.mean(), paired.std() / len(tokens) ** 0.5


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: type(source).__name__)
def test_the_bound_of_the_exact_denoiser_is_the_entropy(source):
    tokens = source.sample(10_000)
    bound = UDLM().bound(source, tokens, draws=4, seed=3)
    assert bound.kind == "upper"
    above, se = above_entropy(bound.nats, source, tokens)
    assert se < 0.005 * source.entropy()
    assert abs(above) < 3 * se
    se = bound.nats.std() / len(tokens) ** 0.5
    assert se < 0.005 * source.entropy()
    assert abs(bound.nats.mean() - source.entropy()) < 3 * se


def test_the_bound_is_tight_for_leave_one_out_predictions_and_not_for_the_posterior():
    class Posterior(JointSource):
        def __call__(self, tokens, sigma=None, label=None, token_probs=None):
            return super().__call__(tokens, token_probs=token_probs) + token_probs.log()

    for source, least in ((Posterior(length=1), 0.5), (Posterior(length=3), 1.5)):
        tokens = source.sample(10_000)
        above, se = above_entropy(UDLM().bound(source, tokens, draws=4).nats, source, tokens)
        assert above > least and above > 20 * se
        exact = JointSource(source.length)
        above, se = above_entropy(UDLM().bound(exact, tokens, draws=4).nats, exact, tokens)
        assert abs(above) < 3 * se


def test_unknown_letters_are_context():
    source = MarkovSource(length=10)
    tokens = source.sample(10_000)
    tokens[:, [2, 5]] = DNA.unknown_id
    bound = UDLM().bound(source, tokens, draws=4)
    above, se = above_entropy(bound.nats, source, tokens)
    assert torch.equal(bound.bases, torch.full((10_000,), 8))
    assert abs(above) < 3 * se < 0.015 * bound.nats.mean()


def test_rows_without_a_base_are_not_counted():
    source = MarkovSource(length=5)
    tokens = source.sample(3)
    tokens[1] = DNA.unknown_id
    bound = UDLM().bound(source, tokens, draws=3)
    assert bound.nats[1] == 0 and bound.bases[1] == 0 and bound.se[1] == 0
    assert UDLM().loss(source, tokens).value.isfinite()


def test_loss_is_a_function_of_seed_step_and_row_number_alone():
    source = MarkovSource(length=16)
    tokens = source.sample(6)
    whole = UDLM().loss(source, tokens, seed=4, step=7)
    rows = [
        UDLM().loss(source, tokens[i : i + 1], seed=4, step=7, index=torch.tensor([i])).value
        for i in range(6)
    ]
    assert torch.allclose(whole.value, torch.stack(rows).mean(), rtol=1e-12)
    assert whole.value != UDLM().loss(source, tokens, seed=4, step=8).value


def test_time_conditioning_gets_the_noise_level():
    class Conditioned(MarkovSource):
        needs_sigma = True

        def __call__(self, tokens, sigma=None, label=None, token_probs=None):
            self.tokens, self.sigma, self.token_probs = tokens, sigma, token_probs
            return super().__call__(tokens, token_probs=token_probs)

    source = Conditioned(length=12)
    UDLM().bound(source, source.sample(4000), draws=1)
    assert source.sigma.shape == (4000,) and source.sigma.isfinite().all()
    alpha = (-source.sigma.double()).exp()
    shown = source.token_probs.gather(-1, DNA.letter_index(source.tokens)[..., None])[..., 0]
    assert torch.allclose(shown, (alpha + (1 - alpha) / 4)[:, None].expand_as(shown), atol=1e-6)
    assert torch.allclose(source.token_probs.sum(-1), torch.ones(4000, 12, dtype=torch.float64))
