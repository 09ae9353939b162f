"""Damaged and malicious files: one clear line each, and nothing runs."""

import pickle
import re
import warnings

import pytest
import safetensors.torch
import torch

from dnadiff.backbones.weights import find_weights, read_tensors, write_tensors
from dnadiff.errors import InputError

TENSORS = {
    "a": torch.arange(300.0),
    "b.c": torch.ones(2, 3, dtype=torch.bfloat16),
    "d": torch.tensor(5),
}


@pytest.fixture(params=["model.safetensors", "pytorch_model.bin"])
def path(request, tmp_path):
    path = tmp_path / request.param
    if path.suffix == ".bin":
        torch.save(TENSORS, path)
    else:
        write_tensors(path, TENSORS)
    return path


def refused(path):
    with warnings.catch_warnings(), pytest.raises(InputError) as error:
        warnings.simplefilter("error")
        read_tensors(path)
    line = str(error.value)
    assert line.startswith(f"{path}: ") and "\n" not in line and len(line) < len(str(path)) + 200
    return line


def test_what_is_written_is_read(path):
    again = read_tensors(path)
    assert again.keys() == TENSORS.keys()
    assert all(again[k].dtype == v.dtype and torch.equal(again[k], v) for k, v in TENSORS.items())


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.98])
def test_a_truncated_file_is_named(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert ("damaged or not a weights file" if share else "is empty") in refused(path)


def test_a_single_wrong_bit_is_noticed(path):
    data = bytearray(path.read_bytes())
    data[data.index(TENSORS["a"].numpy().tobytes()) + 402] ^= 1
    path.write_bytes(data)
    assert ": damaged: " in refused(path)


def test_a_wrong_digest_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(
        TENSORS, path, metadata={"format": "pt", "dnadiff.sha256": "0" * 64}
    )
    assert "do not match the SHA-256" in refused(path)


def test_a_published_file_states_no_digest(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(TENSORS, path, metadata={"format": "pt"})
    assert read_tensors(path).keys() == TENSORS.keys()


class Evil:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return (open, (str(self.witness), "w"))


@pytest.mark.parametrize("how", ["torch", "legacy torch", "plain pickle"])
def test_code_in_a_pickle_does_not_run(tmp_path, how):
    path, witness = tmp_path / "pytorch_model.bin", tmp_path / "ran"
    content = {"a": torch.ones(2), "b": Evil(witness)}
    if how == "plain pickle":
        path.write_bytes(pickle.dumps(content))
        pickle.loads(path.read_bytes())["b"].close()
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
        torch.load(path, weights_only=False)["b"].close()
    assert witness.exists()  # an ordinary load would have run it
    witness.unlink()
    line = refused(path)
    assert "refused: only tensors are read" in line and "weights_only" not in line
    assert not witness.exists()


@pytest.mark.parametrize(
    "content", [[torch.ones(2)], {"a": 1}, {1: torch.ones(2)}, {"state_dict": {"a": torch.ones(2)}}]
)
def test_anything_but_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "pytorch_model.bin")
    assert "not a table of named tensors" in refused(tmp_path / "pytorch_model.bin")


def test_text_is_not_a_weights_file(tmp_path):
    for name in ("model.safetensors", "pytorch_model.bin"):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\n")
        assert re.search(
            "damaged or not a weights file|only tensors are read|git lfs pull",
            refused(tmp_path / name),
        )


def test_safetensors_come_first_and_shards_are_named(tmp_path):
    with pytest.raises(
        InputError, match=r"no weights here; model\.safetensors or pytorch_model\.bin"
    ):
        find_weights(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match=r"index\.json: weights in several files"):
        find_weights(tmp_path)
    for name in ("pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).touch()
        assert find_weights(tmp_path).name == name


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_prefixes_of_training_wrappers_are_removed(path, prefix):
    wrapped = {prefix + name: tensor for name, tensor in TENSORS.items()}
    if path.suffix == ".safetensors":
        write_tensors(path, wrapped)
    else:
        torch.save(wrapped, path)
    assert read_tensors(path).keys() == TENSORS.keys()


def test_a_prefix_of_some_names_is_part_of_them(tmp_path):
    mixed = {f"model.{name}": tensor for name, tensor in TENSORS.items()} | {"head": torch.ones(2)}
    write_tensors(tmp_path / "model.safetensors", mixed)
    assert read_tensors(tmp_path / "model.safetensors").keys() == mixed.keys()
