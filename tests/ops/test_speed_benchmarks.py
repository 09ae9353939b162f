"""The benchmarks run on small inputs, and print and write what they measured."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from Bio import bgzf

FOLDER = Path(__file__).parents[2] / "benchmarks"


def run(script, *flags, out):
    command = [sys.executable, FOLDER / script, *flags, "--repeats", "3", "--json", out]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(out.read_text()), printed


@pytest.mark.parametrize(
    ("script", "flags", "names"),
    [
        (
            "selective_scan.py",
            ["--alone", "--shape", "1", "40", "20", "5"],
            ["forward", "forward + backward"],
        ),
        ("conv.py", ["--shape", "1", "40", "20"], ["forward", "forward + backward"]),
        (
            "conv.py",
            ["--shape", "1", "40", "20", "--dtype", "bfloat16"],
            ["forward", "forward + backward"],
        ),
    ],
)
def test_kernels(tmp_path, script, flags, names):
    result, printed = run(script, *flags, out=tmp_path / "out.json")
    assert list(result["times"]) == names
    for name in names:
        assert (
            0
            < result["times"][name]["dnadiff"]["best"]
            <= result["times"][name]["dnadiff"]["median"]
        )
        assert name in printed


def test_training_step(tmp_path):
    flags = ["--alone", "--d-model", "16", "--n-layer", "1", "--window", "32", "--batch", "2"]
    result, printed = run("training_step.py", *flags, out=tmp_path / "out.json")
    for name in ("training step", "forward"):
        for dtype in ("float32", "bfloat16"):
            assert result["times"][name][f"dnadiff, {dtype}"]["median"] > 0
            roof = result["roofline"][f"{name}, {dtype}"]
            assert roof["sum"] == pytest.approx(
                roof["multiplying"] + roof["exponentials"] + roof["memory"]
            )
    assert "bases/s" in printed and "roofline" in printed


@pytest.mark.parametrize("flags", [["--plain"], ["--no-index"]])
def test_genome_windows(tmp_path, monkeypatch, flags):
    monkeypatch.setenv("DNADIFF_CACHE", str(tmp_path / "cache"))
    genome = tmp_path / "genome.fa.gz"
    letters = "".join(np.random.default_rng(0).choice(list("ACGT"), 40_000))
    with bgzf.BgzfWriter(str(genome), "wb") as file:
        file.write(f">a\n{letters}\n>b\n{letters[:4000]}\n>c\n{letters[:4000]}\n".encode())
    small = ["--genome", genome, "--window", "64", "--batch", "4", "--peer-windows", "2"]
    result, printed = run("genome_windows.py", *small, *flags, out=tmp_path / "out.json")
    assert ("index" in result) == ("--no-index" not in flags) == ("store built in" in printed)
    assert (
        result["bases"] == 48_000
        and result["start"]["seconds of the process"] > result["start"]["seconds"] > 0
    )
    for name in ("dnadiff", "bytes alone", "pyfaidx"):
        assert result["windows"][name]["bases_per_second"] > 0 and name in printed


def test_different_convolutions_are_not_timed(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import conv
    import torch

    with pytest.raises(SystemExit, match="differ by"):
        conv.check_agreement(torch.ones(3), torch.full((3,), 1.1))


def test_long_windows(tmp_path):
    flags = ["--d-model", "16", "--n-layer", "1", "--windows", "32", "64", "--bases", "64"]
    result, printed = run("long_windows.py", *flags, out=tmp_path / "out.json")
    assert [(r["window"], r["batch"]) for r in result["runs"]] == [(32, 2), (64, 1)] * 2
    assert all(r["peak"] > 2**20 and r["bases_per_second"] > 0 for r in result["runs"])
    assert "peak GiB" in printed


def test_backbones(tmp_path):
    flags = ["--only", "mamba", "hyena", "--window", "32", "--batch", "2", "--samples", "4"]
    result, printed = run("backbones.py", *flags, out=tmp_path / "out.json")
    assert result["params"] == {"mamba": 468_608, "hyena": 436_096}
    for name in ("forward", "training step"):
        assert all(result["times"][name][backbone]["median"] > 0 for backbone in ("mamba", "hyena"))
    assert list(result["sampled bases per second"]) == ["mamba"]
    assert result["sampled bases per second"]["mamba"]["recurrent"] > 0
    assert "bases/s by its recurrent form" in printed
