import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from closed_forms import masked_nats
from literal import Literal

from dnadiff.alphabet import DNA
from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM, SSMConfig
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.backbones.published import load_pretrained

SMALL = CaduceusConfig(d_model=12, n_layer=2, ssm_cfg=SSMConfig(d_state=4))

VARIANTS = {
    "ps fused, even depth": SMALL,
    "ps fused, odd depth": replace(SMALL, n_layer=3),
    "ps unfused": replace(SMALL, n_layer=3, fused_add_norm=False),
    "ph fused": replace(SMALL, rcps=False),
    "ph unfused": replace(SMALL, rcps=False, fused_add_norm=False),
    "untied": replace(SMALL, n_layer=3, bidirectional_weight_tie=False),
    "multiplied": replace(SMALL, n_layer=1, bidirectional_strategy="ew_multiply"),
    "layer norm": replace(SMALL, rms_norm=False),
    "layer norm, unfused": replace(SMALL, rms_norm=False, fused_add_norm=False),
    "one direction": replace(SMALL, bidirectional=False),
    "biases": replace(
        SMALL,
        n_layer=3,
        ssm_cfg=SSMConfig(d_state=4, bias=True, conv_bias=False, d_conv=3, dt_rank=3),
    ),
}


def random_lm(config: CaduceusConfig, seed: int = 0) -> CaduceusLM:
    """Weights far from their initial values, so that no term is near 0 or 1."""
    torch.manual_seed(seed)
    lm = CaduceusLM(config).eval()
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return lm


def random_ids(batch: int = 2, length: int = 21) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randint(3, 12, (batch, length), generator=rng)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_equals_the_literal_implementation(name, tmp_path):
    lm = random_lm(VARIANTS[name])
    lm.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    literal = Literal(safetensors.torch.load_file(tmp_path / "model.safetensors"), config)
    ids = random_ids()
    with torch.no_grad():
        hidden, logits = lm.backbone(ids), lm(ids)
    assert hidden.shape == (2, 21, 24 if VARIANTS[name].rcps else 12)
    assert logits.shape == (2, 21, 16)
    torch.testing.assert_close(hidden.double(), literal.hidden(ids), rtol=2e-4, atol=2e-4)
    torch.testing.assert_close(logits.double(), literal.logits(ids), rtol=2e-4, atol=2e-3)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_saved_loads_again(name, tmp_path):
    lm = random_lm(VARIANTS[name])
    lm.save_pretrained(tmp_path)
    again = load_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(lm(random_ids()), again(random_ids()))


def test_swapping_strands_changes_the_function():
    swapped = random_lm(SMALL)
    plain = random_lm(replace(SMALL, fused_add_norm=False))
    with torch.no_grad():
        assert (swapped(random_ids()) - plain(random_ids())).abs().max() > 0.1


@pytest.mark.parametrize("name", [name for name, config in VARIANTS.items() if config.rcps])
def test_ps_is_equivariant(name):
    denoiser = LMDenoiser(random_lm(VARIANTS[name]))
    ids = random_ids()
    with torch.no_grad():
        forward, opposite = denoiser(ids), denoiser(DNA.reverse_complement(ids))
    torch.testing.assert_close(
        opposite.flip(1, 2), forward, rtol=1e-4, atol=1e-4
    )  # ACGT complemented is TGCA


def test_ps_gives_both_strands_the_same_bound_under_mirrored_masks():
    denoiser = LMDenoiser(random_lm(SMALL))
    tokens = torch.randint(7, 11, (8, 30), generator=torch.Generator().manual_seed(2))
    mask = torch.rand(8, 30, generator=torch.Generator().manual_seed(3)) < 0.4
    with torch.no_grad():
        one = masked_nats(denoiser, tokens, mask)
        other = masked_nats(denoiser, DNA.reverse_complement(tokens), mask.flip(1))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("rcps", [True, False])
def test_one_hot_weights_equal_the_letters(rcps):
    denoiser = LMDenoiser(random_lm(replace(SMALL, rcps=rcps)))
    ids = torch.tensor([[7, 8, 9, 10, 11, 4, 7, 10, 8, 9] * 2])
    token_probs = torch.nn.functional.one_hot(DNA.letter_index(ids), 4).float()
    hidden = ids.masked_fill(DNA.scorable(ids), DNA.mask_id)
    with torch.no_grad():
        torch.testing.assert_close(denoiser(hidden, token_probs=token_probs), denoiser(ids))
        assert (denoiser(hidden) - denoiser(ids)).abs().max() > 0.01


def test_the_letters_logits_are_those_of_the_whole_vocabulary():
    lm = random_lm(SMALL)
    with torch.no_grad():
        torch.testing.assert_close(LMDenoiser(lm)(random_ids()), lm(random_ids())[..., 7:11])


def test_a_label_is_refused():
    with pytest.raises(ValueError, match="without labels"):
        LMDenoiser(random_lm(SMALL))(random_ids(), label=torch.tensor([1, 2]))


def test_the_papers_model_has_the_papers_number_of_parameters():
    assert sum(p.numel() for p in CaduceusLM(CaduceusConfig()).parameters()) == 470_702


def test_the_same_seed_gives_the_same_weights():
    torch.manual_seed(3)
    one = CaduceusLM(SMALL).state_dict()
    torch.manual_seed(3)
    two = CaduceusLM(SMALL).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_row_is_the_same_in_any_batch(batch):
    denoiser = LMDenoiser(CaduceusLM(CaduceusConfig(n_layer=1)).eval())
    ids = torch.randint(7, 11, (8, 40), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        assert torch.equal(denoiser(ids)[:batch], denoiser(ids[:batch]))
