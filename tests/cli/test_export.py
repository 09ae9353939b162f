import json
import re

import pytest
import safetensors.torch
import torch

import dnadiff
from dnadiff.backbones import load_pretrained
from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.backbones.hyena import HyenaConfig, HyenaLM
from dnadiff.backbones.transformer import TransformerConfig, TransformerLM
from dnadiff.cli.main import main
from dnadiff.diffusion import MDLM, Autoregressive
from dnadiff.model import Model


@pytest.fixture(params=[True, False], ids=["PS", "Ph"])
def run(request, tmp_path, monkeypatch):
    """A folder with one run, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    lm = CaduceusLM(CaduceusConfig(d_model=8, n_layer=1, rcps=request.param))
    Model(LMDenoiser(lm), MDLM(), {"window": 64}).save("runs/one/model")
    return tmp_path / "runs" / "one"


def test_an_exported_model_gives_the_same_logits(run, capsys):
    assert main(["export", "--out", "out"]) == 0
    assert re.match(r"out: Caduceus-P[Sh], [\d,]+ parameters\n", capsys.readouterr().out)
    ids = torch.randint(3, 12, (2, 30), generator=torch.Generator().manual_seed(1))
    before, after = load_pretrained(run / "model"), load_pretrained("out")
    with torch.no_grad():
        assert torch.equal(before(ids), after(ids))
        assert torch.equal(before.backbone(ids), after.backbone(ids))
    assert dnadiff.load("out").digest == dnadiff.load(run).digest


def test_only_the_network_is_exported(run):
    assert main(["export", "--checkpoint", str(run), "--out", "out"]) == 0
    config = json.loads((run.parents[1] / "out" / "config.json").read_text())
    assert (
        "dnadiff" in json.loads((run / "model" / "config.json").read_text())
        and "dnadiff" not in config
    )
    assert config["architectures"] == ["CaduceusForMaskedLM"] and config["model_type"] == "caduceus"
    keys = safetensors.torch.load_file("out/model.safetensors").keys()
    assert all(key.startswith(("caduceus.", "lm_head.")) for key in keys)
    assert dnadiff.load(run).digest in (run.parents[1] / "out" / "README.md").read_text()


def test_an_export_is_a_model_under_either_flag(run, capsys):
    assert main(["export", "--out", "out"]) == 0
    drawn = []
    for flag in (
        ["--checkpoint", "out"],
        ["--init", "out"],
        ["--init=out"],
        ["--checkpoint", str(run)],
    ):
        capsys.readouterr()
        assert main(["generate", "--length", "20", "--steps", "4", *flag]) == 0
        drawn.append(capsys.readouterr().out)
    assert len(set(drawn)) == 1


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ([], 2, "no folder to write to: give --out FOLDER"),
        (["--out", "runs"], 1, "runs: not empty"),
        (["--out", "out", "--checkpoint", "nowhere"], 1, "nowhere: not a model"),
    ],
)
def test_a_bad_export_is_one_line_and_writes_nothing(run, capsys, flags, code, message):
    before = sorted(run.parents[1].rglob("*"))
    assert main(["export", *flags]) == code
    out, err = capsys.readouterr()
    assert out == "" and message in err.splitlines()[-1]
    assert sorted(run.parents[1].rglob("*")) == before


def saved(lm, folder):
    Model(LMDenoiser(lm), Autoregressive()).save(folder)
    return folder


def test_mamba_is_exported_as_a_caduceus_of_one_direction(tmp_path, capsys):
    lm = CaduceusLM(CaduceusConfig(d_model=8, n_layer=1, rcps=False, bidirectional=False))
    folder, out = saved(lm, tmp_path / "model"), tmp_path / "out"
    assert main(["export", "--checkpoint", str(folder), "--out", str(out)]) == 0
    assert "Mamba, a Caduceus of one direction" in capsys.readouterr().out
    assert load_pretrained(out).causal


@pytest.mark.parametrize(
    ("lm", "name"),
    [
        (HyenaLM(HyenaConfig(d_model=8, n_layer=1)), "hyena"),
        (TransformerLM(TransformerConfig(d_model=8, n_layer=1, causal=True)), "transformer"),
    ],
    ids=["hyena", "transformer"],
)
def test_a_backbone_without_a_published_format_is_refused(lm, name, tmp_path, capsys):
    folder, out = saved(lm, tmp_path / "model"), tmp_path / "out"
    assert main(["export", "--checkpoint", str(folder), "--out", str(out)]) == 1
    assert (
        f"there is no published format for a {name}" in capsys.readouterr().err and not out.exists()
    )
