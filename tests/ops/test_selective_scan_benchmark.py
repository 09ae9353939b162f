"""The benchmark script runs, and says what it measured."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "selective_scan.py"


def test_small_run_without_the_peer(tmp_path):
    command = [sys.executable, SCRIPT, "--alone", "--shape", "1", "40", "20", "5", "--repeats", "3"]
    run = subprocess.run([*command, "--json", tmp_path / "out.json"], capture_output=True, text=True, check=True)
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["shape (B, L, D, N)"] == [1, 40, 20, 5]
    assert 0 < result["times"]["forward"]["dnadiff"]["best"] <= result["times"]["forward"]["dnadiff"]["median"]
    assert "forward + backward" in run.stdout
