import json

import pytest
import safetensors.torch
import torch
from test_caduceus import SMALL, random_ids, random_lm

from dnadiff.backbones.published import load_pretrained, save_pretrained
from dnadiff.errors import InputError


@pytest.fixture
def folder(tmp_path):
    save_pretrained(random_lm(SMALL), tmp_path)
    return tmp_path


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder, change):
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, folder / "model.safetensors")


def test_weights_are_read_from_a_pickle_of_tensors_too(folder):
    before = load_pretrained(folder)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors["lm_head.lm_head.weight"] = tensors["caduceus.backbone.embeddings.word_embeddings.embedding.weight"]
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with torch.no_grad():
        assert torch.equal(load_pretrained(folder)(random_ids()), before(random_ids()))


class Evil:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


def test_a_pickle_with_code_in_it_is_refused(folder, capsys):
    (folder / "model.safetensors").unlink()
    torch.save({"x": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model.bin: refused"):
        load_pretrained(folder)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("caduceus.backbone.norm_f.weight"), "caduceus.backbone.norm_f.weight is missing"),
        (lambda t: t.update(extra=torch.ones(1)), "unexpected weight extra"),
        (
            lambda t: t.update({"caduceus.backbone.norm_f.weight": torch.ones(3)}),
            r"norm_f.weight has shape \(3,\), \(12,\) is needed",
        ),
        (
            lambda t: t.update({"lm_head.lm_head.weight": torch.zeros(16, 12)}),
            "lm_head.lm_head.weight differs from the weight that it must be tied to",
        ),
    ],
)
def test_every_wrong_weight_is_named(folder, change, message):
    edit_tensors(folder, change)
    with pytest.raises(InputError, match=message):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mystery": 1}, "unknown field 'mystery'"),
        ({"ssm_cfg": {"d_stat": 4}}, "unknown field 'd_stat'"),
        ({"complement_map": {str(i): i for i in range(16)}}, "complement_map is not that of DNA"),
    ],
)
def test_every_wrong_field_is_named(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(InputError, match=message):
        load_pretrained(folder)


def test_the_complement_map_is_read_in_the_order_of_its_numbers(folder):
    before = load_pretrained(folder)
    table = json.loads((folder / "config.json").read_text())["complement_map"]
    edit_config(folder, complement_map=dict(sorted(table.items())))  # "10" before "2"
    with torch.no_grad():
        assert torch.equal(load_pretrained(folder)(random_ids()), before(random_ids()))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_or_truncated_file_is_named(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=name):
        load_pretrained(folder)
    path.unlink()
    with pytest.raises(InputError, match="config.json" if name == "config.json" else "neither model.safetensors"):
        load_pretrained(folder)
