from dataclasses import replace

import pytest
import torch

from dnadiff.alphabet import DNA
from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM, SSMConfig
from dnadiff.backbones.conditioning import Conditioning
from dnadiff.backbones.denoiser import LMDenoiser

SMALL = CaduceusConfig(d_model=12, n_layer=3, ssm_cfg=SSMConfig(d_state=4))
TOKENS = torch.randint(7, 12, (3, 20), generator=torch.Generator().manual_seed(0))
SIGMA = torch.tensor([1e-6, 0.7, 20.0])


def conditioned(config=SMALL, *, started=True, **options):
    torch.manual_seed(1)
    denoiser = LMDenoiser(CaduceusLM(config), **options).eval()
    if not started:
        torch.nn.init.normal_(denoiser.conditioning.scale_shift.weight, std=0.5)
        torch.nn.init.normal_(denoiser.conditioning.scale_shift.bias, std=0.5)
    return denoiser


@pytest.mark.parametrize("rcps", [True, False])
def test_at_the_start_it_is_the_network_that_is_told_nothing(rcps):
    denoiser = conditioned(replace(SMALL, rcps=rcps), needs_sigma=True, labels=("a", "b"))
    plain = LMDenoiser(denoiser.lm)
    assert torch.equal(denoiser(TOKENS, sigma=SIGMA, label=torch.tensor([0, 1, 2])), plain(TOKENS))


@pytest.mark.parametrize("fused", [True, False])
def test_both_strands_are_told_the_same(fused):
    denoiser = conditioned(
        replace(SMALL, fused_add_norm=fused), started=False, needs_sigma=True, outputs=5
    )
    out, other = (
        denoiser(tokens, sigma=SIGMA) for tokens in (TOKENS, DNA.reverse_complement(TOKENS))
    )
    swapped = other.flip(1)[..., [3, 2, 1, 0, 4]]
    torch.testing.assert_close(out, swapped, rtol=1e-4, atol=1e-5)


def test_every_row_has_its_own_condition():
    denoiser = conditioned(started=False, needs_sigma=True, labels=("a", "b"))
    label = torch.tensor([0, 1, 2])
    whole = denoiser(TOKENS, sigma=SIGMA, label=label)
    for i in range(3):
        one = denoiser(TOKENS[i : i + 1], sigma=SIGMA[i : i + 1], label=label[i : i + 1])
        torch.testing.assert_close(one, whole[i : i + 1], rtol=1e-4, atol=1e-5)
    unlabelled = denoiser(TOKENS, sigma=SIGMA)
    torch.testing.assert_close(unlabelled[2], whole[2])  # the last label is "none given"
    assert (unlabelled[:2] - whole[:2]).abs().max() > 1e-2
    assert (denoiser(TOKENS, sigma=SIGMA.flip(0), label=label)[0] - whole[0]).abs().max() > 1e-2


def test_both_ends_of_time_are_told_apart():
    conditioning = Conditioning(2, 8, sigma=True)
    sigma = torch.tensor([0.0, 1e-6, 1e-5, 1e-3, 0.1, 1.0, 5.0, 10.0, 14.0, 25.0])
    features = conditioning._features(sigma)
    assert features.isfinite().all()
    assert torch.cdist(features, features).fill_diagonal_(9).min() > 0.05


def test_what_must_be_told_is_asked_for():
    denoiser = conditioned(needs_sigma=True, labels=("a", "b"))
    with pytest.raises(ValueError, match="needs the noise level"):
        denoiser(TOKENS)
    with pytest.raises(ValueError, match="from 0 to 1, or 2 for no class"):
        denoiser(TOKENS, sigma=SIGMA, label=torch.tensor([0, 3, 1]))
    with pytest.raises(ValueError, match="trained without labels"):
        LMDenoiser(denoiser.lm)(TOKENS, label=torch.tensor([0, 0, 0]))


def test_one_direction_sees_only_what_lies_to_the_left():
    denoiser = conditioned(replace(SMALL, rcps=False, bidirectional=False))
    assert denoiser.causal and not LMDenoiser(CaduceusLM(SMALL)).causal
    token_probs = torch.rand(3, 20, 4)
    changed, blurred = TOKENS.clone(), token_probs.clone()
    changed[:, 9] = torch.where(changed[:, 9] == 7, 8, 7)
    blurred[:, 9] += 1
    for one, other in (
        (denoiser(TOKENS), denoiser(changed)),
        (denoiser(TOKENS, token_probs=token_probs), denoiser(TOKENS, token_probs=blurred)),
    ):
        torch.testing.assert_close(one[:, :10], other[:, :10], rtol=0, atol=0)
        assert (one[:, 10:] - other[:, 10:]).abs().amax((1, 2)).min() > 1e-6


def test_the_papers_mamba_has_its_size():
    lm = CaduceusLM(CaduceusConfig(d_model=128, n_layer=4, rcps=False, bidirectional=False))
    size = sum(p.numel() for p in lm.parameters())
    assert (
        round((size - 2 * lm.backbone.embedding.numel()) / 1000) == 465
    )  # the paper subtracts the embedding twice
