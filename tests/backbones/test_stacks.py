"""Hyena and the Transformer against their literal implementations, and their own checkpoints."""

import json

import literal_stack
import pytest
import safetensors.torch
import torch

from dnadiff.backbones import load_pretrained
from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM
from dnadiff.backbones.hyena import HyenaConfig, HyenaLM, ImplicitFilter, long_conv
from dnadiff.backbones.transformer import TransformerConfig, TransformerLM, rotary_angles, rotate
from dnadiff.errors import InputError

HYENA = HyenaConfig(d_model=6, n_layer=2, l_max=16, filter_order=8)
TRANSFORMER = TransformerConfig(d_model=10, n_layer=2, head_dim=4)
CASES = {
    "hyena": (HyenaLM, HYENA, literal_stack.hyena(16)),
    "hyena, other sizes": (
        HyenaLM,
        HyenaConfig(
            d_model=4,
            n_layer=1,
            l_max=7,
            emb_dim=9,
            short_filter_order=4,
            filter_order=5,
            expand=1,
            vocab_size=12,
        ),
        literal_stack.hyena(7),
    ),
    "transformer": (TransformerLM, TRANSFORMER, literal_stack.attention(4, causal=False)),
    "causal transformer": (
        TransformerLM,
        TransformerConfig(d_model=10, n_layer=2, head_dim=4, causal=True),
        literal_stack.attention(4, causal=True),
    ),
    "transformer, other sizes": (
        TransformerLM,
        TransformerConfig(d_model=6, n_layer=1, head_dim=6, expand=3),
        literal_stack.attention(6, causal=False),
    ),
}


def random_lm(name):
    """Weights far from their initial values, so that no term is near 0 or 1."""
    torch.manual_seed(0)
    lm = CASES[name][0](CASES[name][1])
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return lm.eval()


def random_ids(length=21):
    return torch.randint(2, 12, (2, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", CASES)
def test_it_equals_the_literal_implementation(name, tmp_path):
    lm = random_lm(name)
    lm.save_pretrained(tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    expected = literal_stack.logits(tensors, random_ids(), CASES[name][2])
    with torch.no_grad():
        found = lm(random_ids())
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(lm.double()(random_ids()), expected, rtol=1e-10, atol=1e-10)
    assert expected.std() > 0.3


@pytest.mark.parametrize("length", [1, 2, 31, 64])
def test_the_long_convolution_is_the_sum_over_pairs_and_so_are_its_gradients(length):
    rng = torch.Generator().manual_seed(0)
    u, h, g = (
        torch.randn(shape, generator=rng) for shape in ((2, length, 3), (length, 3), (2, length, 3))
    )
    u.requires_grad_(), h.requires_grad_()
    pairs = torch.arange(length)[:, None] - torch.arange(length)  # distance from each place to each
    literal = torch.einsum(
        "tsd,bsd->btd", torch.where((pairs >= 0)[..., None], h[pairs.clamp(min=0)], 0.0), u
    )
    for found, expected in zip(
        (long_conv(u, h), *torch.autograd.grad(long_conv(u, h), (u, h), g)),
        (literal, *torch.autograd.grad(literal, (u, h), g)),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_filter_does_not_depend_on_the_length_that_is_asked_for():
    torch.manual_seed(0)
    implicit = ImplicitFilter(HYENA)
    with torch.no_grad():
        torch.testing.assert_close(implicit(40)[:10], implicit(10), rtol=1e-6, atol=1e-7)
        assert implicit(400).isfinite().all()  # far beyond l_max


def test_rotated_vectors_know_each_others_distance_only():
    q, k = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    angles = rotary_angles(3000, 8)
    scores = rotate(q.expand(3000, 8), angles) @ rotate(k.expand(3000, 8), angles).T
    for distance in (0, 1, -7, 2000):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-9, atol=1e-9)
    assert len(scores[0].round(decimals=6).unique()) > 2900


@pytest.mark.parametrize(
    ("lm", "params"),
    [
        (HyenaLM(HyenaConfig()), 436_096),
        (TransformerLM(TransformerConfig()), 471_884),
        (CaduceusLM(CaduceusConfig(128, 4, rcps=False, bidirectional=False)), 468_608),
    ],
    ids=["hyena", "transformer", "mamba"],
)
def test_sizes_are_those_that_the_documentation_gives(lm, params):
    assert sum(p.numel() for p in lm.parameters()) == params


def test_the_papers_table_leaves_twice_the_embedding_of_twelve_tokens_out():
    table = {
        467: CaduceusLM(CaduceusConfig()),
        465: CaduceusLM(CaduceusConfig(128, 4, rcps=False, bidirectional=False)),
        433: HyenaLM(HyenaConfig()),
    }
    for thousands, lm in table.items():
        params = sum(p.numel() for p in lm.parameters()) - 2 * 12 * lm.config.d_model
        assert params // 1000 == thousands


@pytest.mark.parametrize("name", CASES)
def test_new_weights_have_the_documented_scales(name):
    cls, config, _ = CASES[name]
    lm = cls(type(config)(d_model=256, n_layer=2))
    for key, parameter in lm.named_parameters():
        if key.endswith(("in_proj.weight", "embeddings.weight")):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), key
        if key.endswith("out_proj.weight"):
            assert parameter.std().item() == pytest.approx(0.01, rel=0.1), key
        if key.endswith("proj.bias"):
            assert not parameter.any(), key


# Checkpoints: as strict as the published format.


@pytest.fixture(params=["hyena", "causal transformer"])
def folder(request, tmp_path):
    random_lm(request.param).save_pretrained(tmp_path)
    return tmp_path


def edit_config(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("name", CASES)
def test_what_is_saved_loads_again(name, tmp_path):
    lm = random_lm(name)
    lm.save_pretrained(tmp_path)
    again = load_pretrained(tmp_path).eval()
    assert type(again) is type(lm) and again.config == lm.config
    with torch.no_grad():
        assert torch.equal(again(random_ids()), lm(random_ids()))


def test_a_config_says_all_there_is_to_say(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] in ("dnadiff-hyena", "dnadiff-transformer")
    for field in config.keys() - {"model_type"}:
        edit_config(folder, lambda c, field=field: c.pop(field))
        with pytest.raises(InputError, match=rf"config\.json: the field {field} is missing"):
            load_pretrained(folder)
        edit_config(folder, lambda c, field=field: c.update({field: config[field]}))
    load_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mystery": 1}, "unknown field 'mystery'; dnadiff cannot compute a dnadiff-"),
        ({"rcps": True}, "unknown field 'rcps'"),
        ({"d_model": "6"}, "d_model cannot be '6'; it must be a whole number above 0"),
        ({"n_layer": 0}, "n_layer cannot be 0; it must be a whole number above 0"),
        ({"norm_epsilon": float("nan")}, "norm_epsilon cannot be nan"),
        ({"vocab_size": 5}, "vocab_size is 5; DNA needs 12"),
        ({"model_type": "dnadiff-rnn"}, "not the configuration of a Caduceus"),
        ({"model_type": ["dnadiff-hyena"]}, "not the configuration of a Caduceus"),
    ],
    ids=str,
)
def test_every_wrong_field_is_named(folder, changes, message):
    edit_config(folder, lambda config: config.update(changes))
    with pytest.raises(InputError, match=rf"config\.json: .*{message}"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("hyena", {"emb_dim": 4}, "emb_dim is 4; it must be odd"),
        ("hyena", {"emb_dim": 1}, "emb_dim is 1; it must be odd"),
        ("transformer", {"head_dim": 5}, "head_dim is 5; it must be even"),
        ("transformer", {"causal": 1}, "causal cannot be 1; it must be true or false"),
    ],
)
def test_fields_of_one_architecture(name, changes, message, tmp_path):
    random_lm(name).save_pretrained(tmp_path)
    edit_config(tmp_path, lambda config: config.update(changes))
    with pytest.raises(InputError, match=message):
        load_pretrained(tmp_path)


def test_every_wrong_weight_is_named(folder):
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    for key in tensors:
        for wrong, message in (
            ({k: v for k, v in tensors.items() if k != key}, f"the weight {key} is missing"),
            (tensors | {key: torch.ones(3, 1, 1)}, rf"{key} has shape \(3, 1, 1\); it must be"),
        ):
            safetensors.torch.save_file(wrong, path)
            with pytest.raises(InputError, match=rf"model\.safetensors: {message}"):
                load_pretrained(folder)
    for wrong, message in (
        ({"extra": torch.ones(1)}, "unexpected weight extra"),
        ({"lm_head.weight": torch.ones(16, 6)}, r"unexpected weight lm_head\.weight"),
        (
            {"backbone.norm_f.bias": tensors["backbone.norm_f.bias"] / 0},
            "an infinite value or a NaN; the file is damaged",
        ),
        (
            {"backbone.norm_f.bias": torch.ones_like(tensors["backbone.norm_f.bias"]).char()},
            "of type torch.int8",
        ),
    ):
        safetensors.torch.save_file(tensors | wrong, path)
        with pytest.raises(InputError, match=message):
            load_pretrained(folder)
    safetensors.torch.save_file(tensors | {"dnadiff.objective.schedule": torch.ones(2)}, path)
    load_pretrained(folder)  # an objective's own weights are not the network's


def test_a_damaged_file_is_named(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"model\.safetensors: damaged"):
        load_pretrained(folder)
