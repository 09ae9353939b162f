import pytest
import torch
from closed_forms import IndependentSource, MarkovSource

from dnadiff.alphabet import DNA
from dnadiff.diffusion import MDLM, Draw, MaskedLM

SOURCE = MarkovSource(length=12)


class Watched(MarkovSource):
    """Keeps the tokens of the last call."""

    def __call__(self, tokens, sigma=None, label=None, token_probs=None):
        self.shown = tokens
        return super().__call__(tokens)


def test_its_bound_is_that_of_masked_diffusion():
    tokens = SOURCE.sample(200)
    ours, theirs = (
        objective.bound(SOURCE, tokens, draws=3, seed=2) for objective in (MaskedLM(), MDLM())
    )
    assert torch.equal(ours.nats, theirs.nats) and ours.kind == "upper"


def test_the_pseudo_likelihood_is_the_mean_over_single_masks_and_lies_below_the_entropy():
    tokens = SOURCE.sample(20_000)
    exact = torch.zeros(20_000, dtype=torch.float64)
    for place in range(12):
        shown = tokens.clone()
        shown[:, place] = DNA.mask_id
        exact -= (
            SOURCE(shown)[:, place]
            .log_softmax(-1)
            .gather(1, DNA.letter_index(tokens[:, place])[:, None])[:, 0]
        )
    pseudo = MaskedLM().pseudo(SOURCE, tokens, draws=12)
    difference = pseudo.nats - exact
    assert abs(difference.mean()) < 3 * difference.std() / 20_000**0.5
    assert pseudo.kind == "pseudo" and exact.mean() < SOURCE.entropy() - 0.5


def test_fifteen_percent_are_predicted_and_most_of_those_are_masked():
    source = Watched(length=400)
    tokens = source.sample(400)
    tokens[:, 100:200] = DNA.unknown_id
    MaskedLM().loss(source, tokens)
    assert torch.equal(source.shown[:, 100:200], tokens[:, 100:200])
    masked = (source.shown == DNA.mask_id).double().mean() * 400 / 300
    replaced = (DNA.scorable(source.shown) & (source.shown != tokens)).double().mean() * 400 / 300
    assert abs(masked - 0.15 * 0.8) < 0.003
    assert (
        abs(replaced - 0.15 * 0.1 * 0.75) < 0.002
    )  # a quarter of the random letters is the letter itself


@pytest.mark.parametrize("letters", [20, 190, 350, 1024])
def test_the_number_of_predicted_bases_is_rounded_in_double_precision(letters):
    """In float32 0.15 times 190 is 28.500002, and 29 bases would be predicted."""
    objective, tokens = MaskedLM(), torch.full((3, letters), 7)
    draw = Draw(torch.zeros(3, dtype=torch.float64), 0, 0, torch.arange(3))
    terms = objective.per_token_loss(IndependentSource(length=letters), tokens, draw)
    assert (terms > 0).sum(1).tolist() == [round(0.15 * letters)] * 3


def test_the_loss_is_the_mean_cost_of_the_predicted_letters():
    """Visible bases are predicted too: the exact source is leave-one-out and does not use them."""
    tokens = SOURCE.sample(4000)
    loss = MaskedLM().loss(SOURCE, tokens)
    costs = []
    for seed in range(20):
        mask = torch.rand(4000, 12, generator=torch.Generator().manual_seed(seed)).argsort(1) < 2
        log_p = SOURCE(tokens.masked_fill(mask, DNA.mask_id)).log_softmax(-1)
        costs.append(-log_p.gather(-1, DNA.letter_index(tokens)[..., None])[..., 0][mask].mean())
    masked_only = torch.stack(costs).mean()
    assert masked_only * 0.9 < loss.value < masked_only * 1.3  # random letters mislead, a little
    assert loss.nats_per_base == loss.value
