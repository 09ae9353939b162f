"""The benchmark of the GPU kernels, as far as it runs on a CPU."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_kernels.py"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec = importlib.util.spec_from_file_location("gpu_kernels", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_message_without_a_gpu():
    run = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr == "this benchmark needs a CUDA device, and PyTorch sees none\n"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_comparison_on_a_cpu(benchmark, capsys, dtype):
    import timing

    result = benchmark.compare([1, 40, 20, 5], dtype, "cpu", 3, timing.wall_clock, 1e9)
    itemsize = 4 if dtype == torch.float32 else 2
    assert result["times"]["forward"]["floor"] == pytest.approx(
        40 * itemsize * (4 * 20 + 2 * 5) / 1e6
    )
    assert set(result["times"]["forward + backward"]) == {"floor", "dnadiff", "reference"}
    benchmark.report(json.loads(json.dumps(result)))
    assert capsys.readouterr().out.count("reference") == 2


def test_different_functions_are_not_timed(benchmark):
    contenders = benchmark.make_contenders([1, 8, 4, 2], torch.float32, "cpu")
    other = benchmark.make_inputs([1, 8, 4, 2], torch.float32, "cpu", channels_last=False)
    other["D"].data += 0.01
    contenders["reference"] = benchmark.Contender("reference", False, other)
    with pytest.raises(SystemExit, match=r"dnadiff and reference differ by .* in out"):
        benchmark.check_agreement(contenders, 1e-4)
