import json
from itertools import product

import pytest
import safetensors.torch
import torch
from literal import Literal, published, random_tensors, tied

from dnadiff.backbones import load_pretrained
from dnadiff.errors import InputError

EMBEDDING = "caduceus.backbone.embeddings.word_embeddings.embedding.weight"
IDS = torch.randint(0, 12, (2, 15), generator=torch.Generator().manual_seed(1))


def write(folder, config, tensors, name="model.safetensors"):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if name.endswith(".bin"):
        torch.save(tensors, folder / name)
    else:
        safetensors.torch.save_file(tensors, folder / name, metadata={"format": "pt"})
    return folder


def once(tensors, config):
    """Each weight once, as older transformers releases write it."""
    return {key: value for key, value in tensors.items() if not tied(key, config)}


def logits(folder):
    with torch.no_grad():
        return load_pretrained(folder)(IDS)


def relative(found, expected):
    return float((found.double() - expected).abs().max() / expected.abs().max())


def variants():
    names = ("rcps", "fused_add_norm", "rms_norm", "bidirectional_weight_tie")
    for *flags, strategy, n_layer in product(
        *[(True, False)] * 4, ("add", "ew_multiply"), (1, 2, 3)
    ):
        yield published(
            **dict(zip(names, flags, strict=True)), bidirectional_strategy=strategy, n_layer=n_layer
        )
    for rcps, fused in product((True, False), (True, False)):
        flags = {"rcps": rcps, "fused_add_norm": fused, "n_layer": 3}
        yield published(**flags, bidirectional=False)
        yield published(
            **flags,
            ssm_cfg={"bias": True, "conv_bias": False, "d_conv": 3, "dt_rank": 3, "expand": 3},
        )
        yield published(**flags, ssm_cfg={"bias": True}, bidirectional_weight_tie=False)
        yield published(**flags, ssm_cfg={"bias": True}, bidirectional_strategy="ew_multiply")
        yield published(**flags, norm_epsilon=0.1, pad_vocab_size_multiple=1, vocab_size=12)


VARIANTS = list(variants())


def named(config):
    flags = ("rcps", "fused_add_norm", "rms_norm", "bidirectional", "bidirectional_weight_tie")
    return "-".join(
        [
            str(config["n_layer"]),
            config["bidirectional_strategy"],
            *(flag for flag in flags if config[flag]),
        ]
    )


@pytest.mark.parametrize("config", VARIANTS, ids=named)
def test_a_published_checkpoint_computes_what_its_description_says(config, tmp_path):
    tensors = random_tensors(config)
    lm = load_pretrained(write(tmp_path, config, once(tensors, config)))
    literal = Literal(tensors, config)
    with torch.no_grad():
        assert relative(lm.backbone(IDS), literal.hidden(IDS)) < 1e-4
        assert relative(lm(IDS), literal.logits(IDS)) < 1e-4


@pytest.mark.parametrize("config", VARIANTS, ids=named)
def test_what_is_saved_has_the_published_names_and_the_same_weights(config, tmp_path):
    tensors = random_tensors(config)
    load_pretrained(write(tmp_path / "in", config, tensors)).save_pretrained(tmp_path / "out")
    saved = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    assert saved.keys() == tensors.keys()
    assert all(torch.equal(saved[key], tensors[key]) for key in saved)
    again = json.loads((tmp_path / "out" / "config.json").read_text())
    expected = config if config["rcps"] else config | {"complement_map": None}
    for field in expected.keys() - {"ssm_cfg", "initializer_cfg", "transformers_version"}:
        assert again[field] == expected[field], field
    assert config["ssm_cfg"].items() <= again["ssm_cfg"].items()


@pytest.mark.parametrize("rcps", [True, False])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("repeats", [True, False])
def test_both_formats_with_and_without_tied_weights_are_one_model(rcps, name, repeats, tmp_path):
    config = published(rcps=rcps)
    tensors = random_tensors(config)
    one = logits(write(tmp_path / "one", config, tensors))
    other = write(tmp_path / "other", config, tensors if repeats else once(tensors, config), name)
    assert torch.equal(logits(other), one)


def test_half_precision_weights_are_computed_in_float32(tmp_path):
    config = published(torch_dtype="bfloat16")
    tensors = {
        k: v.bfloat16() if v.is_floating_point() else v for k, v in random_tensors(config).items()
    }
    found = logits(write(tmp_path, config, tensors))
    assert found.dtype == torch.float32
    assert relative(found, Literal(tensors, config).logits(IDS)) < 1e-4


def test_a_base_model_without_a_head_is_the_same_backbone(tmp_path):
    config = published()
    tensors = random_tensors(config)
    base = {
        k.removeprefix("caduceus."): v for k, v in tensors.items() if not k.startswith("lm_head")
    }
    full = logits(write(tmp_path / "full", config, tensors))
    assert torch.equal(
        logits(write(tmp_path / "base", config | {"architectures": ["Caduceus"]}, base)), full
    )


def test_weights_of_an_objective_are_left_aside(tmp_path):
    config = published()
    tensors = random_tensors(config)
    one = logits(write(tmp_path / "one", config, tensors))
    tensors["dnadiff.schedule"] = torch.ones(2)
    load_pretrained(write(tmp_path / "two", config, tensors)).save_pretrained(tmp_path / "three")
    assert torch.equal(logits(tmp_path / "two"), one)
    assert "dnadiff.schedule" not in safetensors.torch.load_file(
        tmp_path / "three" / "model.safetensors"
    )


@pytest.fixture
def folder(tmp_path):
    config = published()
    return write(tmp_path, config, random_tensors(config))


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_absent_and_null_fields_mean_what_the_published_code_takes_them_to_mean(tmp_path):
    config = published(rcps=False, n_layer=1)
    tensors = random_tensors(config)
    full = logits(write(tmp_path, config, tensors))
    absent = (
        "rcps",
        "complement_map",
        "fused_add_norm",
        "rms_norm",
        "norm_epsilon",
        "bidirectional",
        "residual_in_fp32",
    )
    less = {k: v for k, v in config.items() if k not in absent} | {"bidirectional_strategy": None}
    assert torch.equal(logits(write(tmp_path, less, tensors)), full)
    assert load_pretrained(tmp_path).config.residual_in_fp32
    config = published(rcps=False, n_layer=1, ssm_cfg={"d_state": 16})
    write(tmp_path, config | {"ssm_cfg": None}, random_tensors(config))
    assert relative(logits(tmp_path), Literal(random_tensors(config), config).logits(IDS)) < 1e-4


def test_the_complement_map_is_read_by_its_keys(folder):
    before = logits(folder)
    edit_config(
        folder, complement_map=dict(sorted(published()["complement_map"].items()))
    )  # "10" before "2"
    assert torch.equal(logits(folder), before)


FIELDS = [
    ({"mystery": 1}, "unknown field 'mystery'"),
    ({"ssm_cfg": {"d_stat": 4}}, "unknown field 'd_stat'"),
    ({"complement_map": {str(i): i for i in range(16)}}, "complement_map is not that of DNA"),
    ({"complement_map": [0, 1]}, "complement_map is not that of DNA"),
    ({"complement_map": None}, "rcps is true, but there is no complement_map"),
    (
        {"bidirectional_strategy": "mean"},
        "bidirectional_strategy cannot be 'mean'; it must be 'add' or 'ew_multiply'",
    ),
    ({"d_model": "6"}, "d_model cannot be '6'; it must be a whole number above 0"),
    ({"n_layer": 0}, "n_layer cannot be 0; it must be a whole number above 0"),
    ({"fused_add_norm": "yes"}, "fused_add_norm cannot be 'yes'; it must be true or false"),
    (
        {"norm_epsilon": float("nan")},
        "norm_epsilon cannot be nan; it must be a number that is not negative",
    ),
    ({"ssm_cfg": 3}, "ssm_cfg cannot be 3; it must be a table of settings"),
    (
        {"ssm_cfg": {"dt_rank": "all"}},
        "dt_rank cannot be 'all'; it must be a whole number above 0 or 'auto'",
    ),
    ({"vocab_size": 5}, "vocab_size is 5; DNA needs 12"),
    ({"model_type": "mamba"}, "not the configuration of a Caduceus"),
]


@pytest.mark.parametrize(
    ("changes", "message"), FIELDS, ids=[str(changes) for changes, _ in FIELDS]
)
def test_every_wrong_field_is_named(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(InputError, match=f"config.json: .*{message}"):
        load_pretrained(folder)


@pytest.mark.parametrize("field", ["d_model", "n_layer", "vocab_size"])
def test_a_shape_is_never_guessed(folder, field):
    config = json.loads((folder / "config.json").read_text())
    del config[field]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"config.json: the field {field} is missing"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    "key", sorted(once(random_tensors(published(n_layer=1, rms_norm=False)), published()))
)
def test_every_missing_or_misshapen_weight_is_named(key, tmp_path):
    config = published(n_layer=1, rms_norm=False)
    tensors = once(random_tensors(config), config)
    if not key.endswith("complement_map"):
        rest = {k: v for k, v in tensors.items() if k != key}
        with pytest.raises(InputError, match=f"model.safetensors: the weight {key} is missing"):
            load_pretrained(write(tmp_path, config, rest))
    wrong = tensors | {key: torch.ones(3)}
    with pytest.raises(
        InputError,
        match=rf"model.safetensors: {key} (has shape \(3,\); it must be|is not that of DNA)",
    ):
        load_pretrained(write(tmp_path, config, wrong))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"extra": torch.ones(1)}, "unexpected weight extra"),
        (lambda t: {"score.weight": torch.ones(2, 6)}, "a classifier .*load_classifier"),
        (
            lambda t: {EMBEDDING: t[EMBEDDING].mul(100).char()},
            ".*embedding.weight is of type torch.int8",
        ),
        (
            lambda t: {EMBEDDING: t[EMBEDDING].log()},
            ".*embedding.weight has an infinite value or a NaN",
        ),
        (
            lambda t: {"lm_head.lm_head.weight": torch.zeros(16, 6)},
            f"lm_head.lm_head.weight differs from {EMBEDDING}, to which",
        ),
        (
            lambda t: {
                k: v + 1 for k, v in t.items() if "1.mixer.submodule.mamba_rev.out_proj" in k
            },
            ".*mamba_rev.out_proj.weight differs from",
        ),
        (
            lambda t: {"lm_head.complement_map": torch.arange(16)},
            "lm_head.complement_map is not that of DNA",
        ),
    ],
)
def test_every_wrong_weight_is_named(folder, change, message):
    config = published()
    tensors = random_tensors(config)
    write(folder, config, tensors | change(tensors))
    with pytest.raises(InputError, match=f"model.safetensors: {message}"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_layer": 10**9}, "n_layer is 1,000,000,000; at most 1,000 is read"),
        ({"vocab_size": 10**8}, "vocab_size is 100,000,000; at most"),
        ({"d_model": 8192, "n_layer": 20}, "more than model.safetensors can hold"),
    ],
)
def test_a_hostile_configuration_allocates_nothing(tmp_path, changes, said):
    config = published()
    folder = write(tmp_path / "large", config | changes, random_tensors(config))
    with pytest.raises(InputError, match=said):
        load_pretrained(folder)
