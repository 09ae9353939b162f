"""Every objective on every backbone trains, ends with a bound and loads again, or says why not."""

import pytest
import torch
from small import CONTIGS, tiny_recipe, write_fasta

import dnadiff
from dnadiff.backbones.hyena import HyenaConfig, HyenaLM
from dnadiff.diffusion import OBJECTIVES
from dnadiff.errors import UsageError
from dnadiff.training.module import decay_groups
from dnadiff.training.pretrain import build, pretrain

BACKBONES = ("caduceus-ps", "caduceus-ph", "mamba", "hyena", "transformer")


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    return write_fasta(tmp_path_factory.mktemp("genome") / "tiny.fa", CONTIGS)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_objective_on_every_backbone(genome, tmp_path, objective, backbone):
    recipe = tiny_recipe(
        genome,
        objective=objective,
        backbone=backbone,
        window=32,
        max_steps=1,
        eval_windows=2,
        eval_draws=1,
    )
    wants_left = OBJECTIVES[objective].causal
    if wants_left and backbone.startswith("caduceus"):
        with pytest.raises(
            UsageError, match="needs a network that sees only what lies to the left"
        ):
            pretrain(recipe, tmp_path / "run", quiet=True)
        assert not (tmp_path / "run").exists()
        return
    summary = pretrain(recipe, tmp_path / "run", quiet=True)
    assert summary["test"]["bound"] == ("exact" if wants_left else "upper")
    model = dnadiff.load(tmp_path / "run", device="cpu")
    assert model.denoiser.causal == (backbone in ("mamba", "hyena") or wants_left)
    assert model.params == summary["params"]


def test_a_hyenas_filters_are_as_long_as_its_window(genome):
    objective = OBJECTIVES["autoregressive"]()
    assert build(tiny_recipe(genome, backbone="hyena", window=48), objective).lm.config.l_max == 48


def test_a_network_that_sees_both_sides_cannot_go_on_from_left_to_right(genome, tmp_path):
    recipe = tiny_recipe(genome, backbone="transformer", window=32, max_steps=1, eval_windows=2)
    pretrain(recipe, tmp_path / "run", quiet=True)
    with pytest.raises(UsageError, match="only what lies to the left"):
        build(tiny_recipe(genome, init=str(tmp_path / "run")), OBJECTIVES["autoregressive"]())


def test_implicit_filters_do_not_decay():
    lm = HyenaLM(HyenaConfig(d_model=8, n_layer=1))
    names = {id(p): name for name, p in lm.named_parameters()}
    decayed, free = decay_groups(lm)
    assert {names[id(p)].split(".", 3)[-1] for p in decayed} == {
        "mixer.in_proj.weight", "mixer.short_conv.weight", "mixer.out_proj.weight",
        "mlp.in_proj.weight", "mlp.out_proj.weight",
    }  # fmt: skip
    assert len(decayed) + len(free) == len(names) and all(torch.is_tensor(p) for p in free)
