"""hf: names, against a stand-in for huggingface_hub with real files in the layout of its cache."""

import hashlib
import sys
from types import ModuleType

import pytest
import torch
from literal import published, random_tensors
from test_published import IDS, logits, write

import dnadiff
from dnadiff.backbones.hub import local_folder
from dnadiff.cli.main import main
from dnadiff.errors import InputError

COMMIT = "c0ffee" * 6 + "abcd"


def fake_errors():
    """The hierarchy of huggingface_hub.errors."""
    module = ModuleType("huggingface_hub.errors")
    module.HFValidationError = type("HFValidationError", (ValueError,), {})
    module.HfHubHTTPError = type("HfHubHTTPError", (OSError,), {})
    for name in ("RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError"):
        setattr(module, name, type(name, (module.HfHubHTTPError,), {}))
    module.LocalEntryNotFoundError = type(
        "LocalEntryNotFoundError", (module.EntryNotFoundError,), {}
    )
    return module


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """huggingface_hub with one repository, me/dna; `asked` is what was asked of it."""
    module = ModuleType("huggingface_hub")
    module.errors, module.asked, module.problem = fake_errors(), [], None
    remote, cache = tmp_path / "remote", tmp_path / "cache"
    config = published()
    write(remote, config, random_tensors(config))
    (remote / "modeling_caduceus.py").write_text("raise SystemExit('remote code ran')")

    def hf_hub_download(repository, name, revision=None):
        module.asked.append((name, revision))
        if module.problem is not None:
            raise module.problem
        if repository != "me/dna":
            raise module.errors.RepositoryNotFoundError("404\nlong story")
        if revision not in (None, "v1", COMMIT):
            raise module.errors.RevisionNotFoundError("404\nlong story")
        if not (remote / name).is_file():
            raise module.errors.EntryNotFoundError("404\nlong story")
        data = (remote / name).read_bytes()
        blob, link = (
            cache / "blobs" / hashlib.sha256(data).hexdigest(),
            cache / "snapshots" / COMMIT / name,
        )
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        if not blob.exists():
            blob.write_bytes(data)
        link.unlink(missing_ok=True)
        link.symlink_to(blob)
        return str(link)

    module.hf_hub_download, module.remote, module.cache = hf_hub_download, remote, cache
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", module.errors)
    return module


def test_a_folder_is_itself_and_asks_nobody(hub, tmp_path):
    assert local_folder(tmp_path) == tmp_path
    assert local_folder("hf/me").as_posix() == "hf/me"
    assert hub.asked == []


def test_a_name_loads_what_its_files_load(hub):
    expected = logits(hub.remote)
    assert torch.equal(logits("hf:me/dna"), expected)
    with torch.no_grad():
        assert torch.equal(dnadiff.load("hf:me/dna@v1").denoiser.lm(IDS), expected)
    # Both files of one revision, and nothing else.
    assert hub.asked == [
        ("config.json", None), ("model.safetensors", COMMIT),
        ("config.json", "v1"), ("model.safetensors", COMMIT),
    ]  # fmt: skip


def test_a_pickle_of_tensors_is_taken_where_there_is_nothing_better(hub):
    expected = logits(hub.remote)
    (hub.remote / "model.safetensors").unlink()
    config = published()
    write(hub.remote, config, random_tensors(config), "pytorch_model.bin")
    assert torch.equal(logits("hf:me/dna"), expected)


def test_a_damaged_download_is_refused(hub):
    logits("hf:me/dna")
    blob = (hub.cache / "snapshots" / COMMIT / "model.safetensors").resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(
        InputError, match=r"model\.safetensors: damaged: its SHA-256 is not the published one"
    ):
        local_folder("hf:me/dna")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:me/other", "hf:me/other: there is no such model, or it is not public"),
        ("hf:me/dna@v2", "hf:me/dna@v2: there is no revision v2"),
        ("hf:dna", "hf:dna: write hf:OWNER/NAME or hf:OWNER/NAME@REVISION"),
        ("hf:me/dna@", "write hf:OWNER/NAME"),
        ("hf:me/dna/model.safetensors", "write hf:OWNER/NAME"),
    ],
)
def test_a_wrong_name_is_one_line(hub, capsys, name, message):
    assert main(["generate", "--checkpoint", name]) == 1
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1 and "long story" not in err


def test_what_cannot_be_had_is_named(hub):
    for path in hub.remote.iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"hf:me/dna: config.json: there is no such file"):
        local_folder("hf:me/dna")
    (hub.remote / "config.json").write_text("{}")
    with pytest.raises(
        InputError, match=r"model.safetensors or pytorch_model.bin: there is no such file"
    ):
        local_folder("hf:me/dna")
    hub.problem = hub.errors.LocalEntryNotFoundError("offline mode is enabled")
    with pytest.raises(
        InputError, match="not in the cache, and the network is switched off or cannot be reached"
    ):
        local_folder("hf:me/dna")
    hub.problem = hub.errors.HfHubHTTPError("500 Server Error\nlong story")
    with pytest.raises(InputError, match=r"^hf:me/dna: config\.json: 500 Server Error$"):
        local_folder("hf:me/dna")


def test_without_the_extra_the_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"hf:me/dna: .* pip install 'dnadiff\[hub\]'"):
        local_folder("hf:me/dna")
