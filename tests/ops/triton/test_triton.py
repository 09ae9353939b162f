"""The Triton kernels, each file of tests in a process of its own.

Triton reads TRITON_INTERPRET when it is imported, so one process cannot both interpret and compile.
"""

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
    """Runs a file of tests with Triton in a new process."""
    # Inputs and comparisons are those of the other backends' tests, in the folder above.
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
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


def test_compiles_for_a_gpu_that_is_absent(tmp_path):
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
