"""The Triton kernels, each file of tests in a process of its own, because Triton must be told how to run beforehand."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dnadiff.ops.backend import triton_unsupported

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


def run_tests(file, tmp_path, **environment):
    helpers = str(HERE.parent)  # inputs and comparisons are those of the other backends' tests
    environment |= {
        "PYTHONPATH": os.pathsep.join((helpers, os.environ.get("PYTHONPATH", ""))).rstrip(
            os.pathsep
        )
    }
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(HERE / file)]
    ran = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    if " passed" not in ran.stdout:
        pytest.skip(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("kernel", ["scan", "conv", "norm"])
def test_agrees_with_the_reference_in_the_interpreter(kernel, tmp_path):
    run_tests(f"interpreted_{kernel}.py", tmp_path, TRITON_INTERPRET="1")


def test_compiles_for_gpus_that_are_not_here(tmp_path):
    run_tests("compiled.py", tmp_path, TRITON_INTERPRET="0")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_agrees_with_the_reference_on_this_gpu(tmp_path):
    run_tests("on_a_gpu.py", tmp_path, TRITON_INTERPRET="0")


def test_an_old_triton_is_not_used(monkeypatch):
    from dnadiff.ops import backend

    backend._too_old.cache_clear()
    monkeypatch.setattr(backend, "version", lambda package: "3.2.0")
    assert "older than 3.3" in triton_unsupported()
    backend._too_old.cache_clear()
