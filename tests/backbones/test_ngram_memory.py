"""The n-gram memory: which rows it looks up, strands, direction of reading, and saving."""

from dataclasses import replace

import pytest
import torch

from dnadiff.alphabet import DNA
from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM, SSMConfig
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.backbones.ngram_memory import MAX_ROWS, ORDERS, NgramMemory
from dnadiff.diffusion import MDLM
from dnadiff.model import Model, load
from dnadiff.training.network import build
from dnadiff.training.recipe import Recipe

SMALL = CaduceusConfig(d_model=12, n_layer=2, ssm_cfg=SSMConfig(d_state=4))
TOKENS = torch.randint(7, 11, (2, 40), generator=torch.Generator().manual_seed(0))
TOKENS[:, 5:9] = DNA.mask_id
TOKENS[1, 20] = DNA.unknown_id


def filled(config=SMALL):
    """A network whose memory matters: its output map is not zero."""
    torch.manual_seed(2)
    denoiser = LMDenoiser(CaduceusLM(config), memory=True).eval()
    torch.nn.init.normal_(denoiser.memory.project.weight, std=0.5)
    return denoiser


def literal_row(window, rows):
    """Row of one n-gram, by Python's integers; `window` reads from the far end to the position."""
    code = 0
    for token in window:
        code = 5 * code + (token - 7 if 7 <= token <= 10 else 4)
    if 5 ** len(window) <= rows:
        return code
    product = code * 0x9E3779B97F4A7C15 % 2**64
    return product >> (64 - rows.bit_length() + 1)


def test_rows_are_those_of_a_literal_lookup():
    memory = NgramMemory(12)
    found, padded = memory.index(TOKENS), torch.nn.functional.pad(TOKENS, (20, 20), value=0)
    first = 0
    for table in range(2 * len(ORDERS)):
        n, rows = ORDERS[table % 4], memory.rows[table % 4]
        for b in range(len(TOKENS)):
            for i in range(TOKENS.shape[1]):
                at = 20 + i
                left = padded[b, at - n + 1 : at + 1].tolist()
                right = padded[b, at : at + n].flip(0).tolist()
                expected = first + literal_row(right if table >= 4 else left, rows)
                assert found[b, i, table] == expected
        first += rows
    assert first == len(memory.table.weight)


def test_short_n_grams_have_rows_of_their_own_and_long_ones_fill_the_table():
    memory = NgramMemory(12)
    assert memory.rows == [625, 15625, MAX_ROWS, MAX_ROWS]
    random = torch.randint(7, 11, (64, 1024), generator=torch.Generator().manual_seed(1))
    rows = memory.index(random)[..., 3]  # 65,536 n-grams of 11, nearly all different
    # Of a perfect hash 1 - e^-2 = 86 % of the rows would be met.
    assert 0.84 < len(rows.unique()) / MAX_ROWS < 0.88


def test_a_new_memory_changes_nothing():
    torch.manual_seed(3)
    lm = CaduceusLM(SMALL).eval()
    with torch.no_grad():
        assert torch.equal(LMDenoiser(lm, memory=True)(TOKENS), LMDenoiser(lm)(TOKENS))


@pytest.mark.parametrize("fused", [True, False])
@torch.no_grad()
def test_both_strands_are_treated_alike(fused):
    denoiser = filled(replace(SMALL, fused_add_norm=fused))
    forward, opposite = denoiser(TOKENS), denoiser(DNA.reverse_complement(TOKENS))
    torch.testing.assert_close(opposite.flip(1, 2), forward, rtol=1e-4, atol=1e-5)
    # It does depend on the memory.
    assert (forward - LMDenoiser(denoiser.lm)(TOKENS)).abs().max() > 0.01


@torch.no_grad()
def test_a_causal_network_keeps_to_the_left():
    denoiser = filled(replace(SMALL, rcps=False, bidirectional=False))
    assert denoiser.causal and not denoiser.recurrent
    before = denoiser(TOKENS)
    changed = TOKENS.clone()
    changed[:, 30] = 7 + (changed[:, 30] - 6) % 4
    after = denoiser(changed)
    assert torch.equal(after[:, :31], before[:, :31])
    assert not torch.equal(after[:, 31:], before[:, 31:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_memory_is_loaded_again(dtype, tmp_path):
    held = Model(filled(), MDLM())
    held.save(tmp_path, dtype)
    again = load(tmp_path, device="cpu")
    stored = held.denoiser.memory.table.weight.to(dtype).float()
    assert torch.equal(again.denoiser.memory.table.weight, stored)
    assert (again.digest == held.digest) == (dtype == torch.float32)
    # Weights in bfloat16 have 8 bits: the outputs agree to about a percent.
    with torch.no_grad():
        found, expected = again.denoiser(TOKENS), held.denoiser(TOKENS)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)


def test_a_run_that_starts_from_another_model_may_add_a_memory_and_keeps_one(tmp_path):
    Model(LMDenoiser(CaduceusLM(SMALL)), MDLM()).save(tmp_path / "plain")
    Model(filled(), MDLM()).save(tmp_path / "with")
    recipe = Recipe(genome=["x.fa"], max_steps=1, memory=True, init=str(tmp_path / "plain"))
    assert build(recipe, MDLM()).memory is not None
    recipe = Recipe(genome=["x.fa"], max_steps=1, init=str(tmp_path / "with"))
    assert torch.equal(build(recipe, MDLM()).memory.table.weight, filled().memory.table.weight)
