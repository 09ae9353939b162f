"""What `dnadiff doctor` reports of this machine, and of machines with faults."""

import json
import sys
from types import ModuleType

import pytest
import torch

from dnadiff.cli.doctor import EXTRAS, _extra
from dnadiff.cli.main import main
from dnadiff.ops.causal_conv import causal_conv_reference

KERNELS = ("selective_scan_fn", "causal_conv1d_fn", "mamba_mixer_fn", "add_norm_fn")


def test_tables(capsys):
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert any(line.split() == ["torch", torch.__version__] for line in lines)
    for kernel in KERNELS:
        (automatic,) = (
            line.split()
            for line in lines
            if line.startswith(f"{kernel} ") and " cpu " in line and "takes it" in line
        )
        assert automatic[1:5] == ["cpu", "cpu", "takes", "it"] and automatic[-1] == "ok"
    assert "pip install 'dnadiff[twobit]'" in out or "twobitreader" in sys.modules
    assert "WRONG" not in out and "\x1b" not in out
    # A machine that is busy with other work gets a line of progress.
    assert all(line.startswith("checking kernels: ") for line in err.splitlines())


def test_json_is_the_same(capsys):
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["cpu"]["cores"] >= 1 and facts["memory"]["total"] > 0
    assert facts["cpu"]["instructions"][0] == torch.backends.cpu.get_cpu_capability()
    taken = {
        check["kernel"]: check
        for check in facts["kernels"]
        if check["automatic"] and check["device"] == "cpu"
    }
    assert set(taken) == set(KERNELS)
    assert all(check["backend"] == "cpu" and 0 < check["error"] < 1e-6 for check in taken.values())
    assert (
        len([gpu for gpu in facts["gpus"] if gpu["device"].startswith("cuda")])
        == torch.cuda.device_count()
    )


def test_the_cache(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("DNADIFF_CACHE", str(tmp_path / "cache"))
    assert cache(capsys) == {
        "folder": str(tmp_path / "cache"),
        "writable": True,
        "files": 0,
        "bytes": 0,
    }
    assert not (tmp_path / "cache").exists()
    (tmp_path / "cache" / "genomes").mkdir(parents=True)
    (tmp_path / "cache" / "genomes" / "a.codes").write_bytes(bytes(1234))
    assert cache(capsys) == {
        "folder": str(tmp_path / "cache"),
        "writable": True,
        "files": 1,
        "bytes": 1234,
    }


def test_a_cache_that_cannot_be_written(capsys, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DNADIFF_CACHE", str(tmp_path / "file" / "cache"))
    assert not cache(capsys)["writable"]
    assert main(["doctor"]) == 0
    assert "CANNOT BE WRITTEN: set DNADIFF_CACHE" in capsys.readouterr().out


def cache(capsys):
    assert main(["doctor", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["cache"]


def test_a_wrong_kernel_is_exit_1(capsys, monkeypatch):
    def wrong(x, weight, bias, silu, reverse):
        return causal_conv_reference(x, weight, bias, not silu, reverse)

    monkeypatch.setattr("dnadiff.ops.cpu.conv.causal_conv", wrong)
    assert main(["doctor"]) == 1
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    (line,) = (words for words in lines if words and words[-1] == "WRONG")
    assert line[:3] == ["causal_conv1d_fn", "cpu", "cpu"]
    assert lines[-1][:4] == ["1", "WRONG:", "trust", "nothing"]
    assert main(["doctor", "--json"]) == 1
    (check,) = (c for c in json.loads(capsys.readouterr().out)["kernels"] if c["wrong"])
    assert (check["kernel"], check["backend"]) == ("causal_conv1d_fn", "cpu")


@pytest.mark.parametrize(
    "error", [ImportError("undefined symbol: _ZN3c10"), OSError("libcudart.so.11: cannot open")]
)
def test_an_installed_package_that_cannot_be_imported(capsys, monkeypatch, error):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "twobitreader":
                raise error

    monkeypatch.delitem(sys.modules, "twobitreader", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert main(["doctor", "--json"]) == 0
    extras = {extra["package"]: extra for extra in json.loads(capsys.readouterr().out)["extras"]}
    assert extras["twobitreader"]["problem"] == f"broken: {type(error).__name__}: {error}"
    assert extras["twobitreader"]["version"] is None


def test_extras_that_need_the_installed_torch_say_how_to_build_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)  # not installed, wherever this runs
    problem = _extra("mamba_ssm")["problem"]
    assert problem.startswith("not installed")
    for package in ("mamba_ssm", "causal_conv1d"):
        assert "pip install --no-build-isolation" in EXTRAS[package][1]


def test_a_gpu_is_named_and_checked(capsys, monkeypatch):
    about = ModuleType("about")
    about.name, about.total_memory, about.major, about.minor = "Some GPU", 80 * 10**9, 9, 0
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: about)
    checked = []
    monkeypatch.setattr(
        "dnadiff.ops.check.check_kernels", lambda device: checked.append(device) or []
    )
    assert main(["doctor"]) == 0
    assert "Some GPU, 80.0 GB, compute capability 9.0" in capsys.readouterr().out
    assert checked == ["cpu", "cuda:0"]
