"""The documentation builds without a warning, so every link and every documented name exists."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_site_builds_strictly(tmp_path):
    words = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    reference = (tmp_path / "site" / "api" / "index.html").read_text()
    assert "dnadiff.model.Model" in reference and "dnadiff.sampling.sample" in reference
