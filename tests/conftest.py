"""Fixtures that all tests share."""

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# Before anything imports the package: its functions check the shapes in their annotations. Outside
# the tests annotations are not looked at, and cost nothing.
install_import_hook("dnadiff.diffusion", "shape_checks.check_shapes")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Returns the folder of real genomes and benchmark text; skips the test if it is missing."""
    folder = Path(os.environ.get("DNADIFF_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder} (set DNADIFF_DATA)")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _two_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _private_cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keeps indexes and stores of tests out of the user's cache, in one folder for the session."""
    monkeypatch.setenv("DNADIFF_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
