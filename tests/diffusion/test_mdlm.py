import itertools

import pytest
import torch
from closed_forms import JointSource, MarkovSource, masked_nats

from dnadiff.alphabet import DNA
from dnadiff.diffusion import MDLM
from dnadiff.diffusion.absorbing import exact_count

N = DNA.unknown_id


def test_the_bound_of_the_exact_denoiser_is_the_entropy():
    source = MarkovSource(length=12)
    tokens = source.sample(20_000)
    bound = MDLM().bound(source, tokens, draws=4, seed=3)
    mean, se = bound.nats.mean(), bound.nats.std() / len(tokens) ** 0.5
    assert bound.kind == "upper"
    assert se < 0.005 * source.entropy()
    assert abs(mean - source.entropy()) < 3 * se
    # Paired with each sequence's own -log p the noise of the data is gone.
    paired = bound.nats - source.nll(tokens)
    assert abs(paired.mean()) < 3 * paired.std() / len(tokens) ** 0.5


def test_the_bound_of_a_sequence_is_the_mean_over_all_its_masks():
    source = JointSource(length=4)
    tokens = torch.tensor([[7, 9, 10, 8]])
    by_count = []
    for k in range(1, 5):
        masks = [
            torch.tensor([[i in chosen for i in range(4)]])
            for chosen in itertools.combinations(range(4), k)
        ]
        by_count.append(torch.stack([masked_nats(source, tokens, m) for m in masks]).mean())
    exact = torch.stack(by_count).mean()
    # For the exact denoiser the mean over all masks is a true upper bound on -log p of this
    # sequence, not equal to it.
    assert exact > -source.table[0, 2, 3, 1].log() - 1e-12
    many = MDLM().bound(source, tokens.expand(4000, 4), draws=8, seed=5)
    assert abs(many.nats.mean() - exact) < 4 * many.nats.std() / 4000**0.5


def test_unknown_letters_are_context_and_counts_run_over_the_letters_only():
    source = MarkovSource(length=10)
    tokens = source.sample(20_000)
    tokens[:, [2, 5]] = N
    bound = MDLM().bound(source, tokens, draws=4)
    paired = bound.nats - source.nll(tokens)
    assert torch.equal(bound.bases, torch.full((20_000,), 8))
    assert abs(paired.mean()) < 3 * paired.std() / 20_000**0.5


@pytest.mark.parametrize("n", [1, 2, 7])
def test_counts_are_uniform_and_times_follow_a_beta_distribution(n):
    rng = torch.Generator().manual_seed(0)
    scorable = torch.zeros(40_000, 9, dtype=torch.bool)
    scorable[:, :n] = True
    quantile = torch.rand(40_000, generator=rng, dtype=torch.float64)
    keys = torch.rand(40_000, 9, generator=rng, dtype=torch.float64)
    mask, t, factor = exact_count(scorable, quantile, keys)
    assert not mask[:, n:].any()
    torch.testing.assert_close(factor, n / mask.sum(1).double())
    share = torch.bincount(mask.sum(1), minlength=n + 1) / 40_000
    assert share[0] == 0
    assert torch.allclose(share[1:], torch.full((n,), 1 / n), atol=0.015)
    for k in range(1, n + 1):
        assert abs(t[mask.sum(1) == k].mean() - k / (n + 1)) < 0.02
    each = mask.double().mean(0)[:n]
    assert torch.allclose(
        each, torch.full((n,), (n + 1) / (2 * n), dtype=torch.float64), atol=0.015
    )


def test_loss_is_a_function_of_seed_step_and_row_number_alone():
    source = MarkovSource(length=16)
    tokens = source.sample(6)
    whole = MDLM().loss(source, tokens, seed=4, step=7)
    rows = [
        MDLM()
        .loss(source, tokens[i : i + 1], seed=4, step=7, index=torch.tensor([i]))
        .nats_per_base
        for i in range(6)
    ]
    assert torch.allclose(whole.value, torch.stack(rows).mean(), rtol=1e-12)
    assert whole.value != MDLM().loss(source, tokens, seed=4, step=8).value


def test_loss_is_unbiased_for_every_row():
    source = MarkovSource(length=8)
    tokens = source.sample(4)
    exact = MDLM().bound(source, tokens, draws=4096).nats / 8
    for row in (0, 3):  # the same row of many batches
        index = torch.full((1,), row)
        draws = [
            MDLM().loss(source, tokens[row, None], seed=1, step=step, index=index).value
            for step in range(400)
        ]
        draws = torch.stack(draws)
        assert abs(draws.mean() - exact[row]) < 4 * draws.std() / 400**0.5


def test_rows_without_a_base_are_not_counted():
    source = MarkovSource(length=5)
    tokens = source.sample(3)
    tokens[1] = N
    bound = MDLM().bound(source, tokens, draws=3)
    assert bound.nats[1] == 0 and bound.bases[1] == 0 and bound.se[1] == 0
    loss = MDLM().loss(source, tokens)
    assert torch.isfinite(loss.value)
    with pytest.raises(ValueError, match="no sequence"):
        MDLM().loss(source, tokens[1:2])


def test_one_letter_is_exact_and_one_draw_has_no_error_estimate():
    source = MarkovSource(length=4)
    tokens = source.sample(50)
    tokens[:, 1:] = N
    bound = MDLM().bound(source, tokens, draws=2)
    assert torch.allclose(bound.nats, source.nll(tokens))
    assert torch.allclose(bound.se, torch.zeros(50, dtype=torch.float64), atol=1e-12)
    assert MDLM().bound(source, tokens, draws=1).se.isnan().all()


class Conditioned(MarkovSource):
    """Records the noise levels of its calls."""

    needs_sigma = True

    def __call__(self, tokens, sigma=None, label=None, token_probs=None):
        self.share, self.sigma = (tokens == DNA.mask_id).double().mean(1), sigma
        return super().__call__(tokens)


def test_time_conditioning_gets_the_time_of_the_mask():
    source = Conditioned(length=12)
    MDLM().bound(source, source.sample(4000), draws=1)
    t = 1 - torch.exp(-source.sigma.double())
    assert torch.isfinite(source.sigma).all()
    # t is uniform, and the mean of t given k masked letters is k / 13.
    assert abs(t.mean() - 0.5) < 0.02 and abs(t.var() - 1 / 12) < 0.005
    k = (source.share * 12).round()
    for count in (1, 6, 12):
        assert abs(t[k == count].mean() - count / 13) < 0.02
