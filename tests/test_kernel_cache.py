"""The disk cache of compiled kernels: no file in it stops a program or runs code of other users."""

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from dnadiff import kernel_cache
from dnadiff.kernel_cache import compile_kernel

SOURCE = """
from dnadiff.kernel_cache import compile_kernel

def double(x):
    return 2 * x

double = compile_kernel(double, announce=True)
"""

TAMPERED = {
    "empty": lambda content: b"",
    "cut in the digest": lambda content: content[:20],
    "cut in the middle": lambda content: content[: len(content) // 2],
    "cut at the end": lambda content: content[:-1],
    "one bit flipped": lambda content: content[:-100] + bytes([content[-100] ^ 1]) + content[-99:],
    "not a pickle": lambda content: b"\x00" * 200,
    "a pickle of something else": lambda content: pickle.dumps([1, 2, 3]),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where kernels are kept in these tests."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    kernel_cache._announce_compiling.cache_clear()
    kernel_cache._warn_not_kept.cache_clear()
    return tmp_path / "dnadiff"


@pytest.fixture
def module(tmp_path):
    """Runs a module as a new process would, calls its kernel once, and returns the kernel."""
    path = tmp_path / "kernel_under_test.py"
    path.write_text(SOURCE)

    def run():
        kernel_cache._sources_digest.cache_clear()
        namespace = {}
        exec(compile(path.read_text(), str(path), "exec"), namespace)
        assert namespace["double"](21) == 42
        return namespace["double"]

    run.path = path
    return run


def loaded(function):
    """Whether the function's machine code came from disk."""
    hits, misses = function.stats.cache_hits.total(), function.stats.cache_misses.total()
    assert hits + misses == 1
    return hits == 1


def test_compiles_once(folder, module, caplog):
    caplog.set_level("INFO")
    assert not loaded(module())
    assert caplog.messages == ["compiling kernels for this CPU, once: half a minute"]
    assert loaded(module())
    assert len(list(folder.iterdir())) == 1


def test_compiles_again_when_a_source_changes(folder, module):
    module()
    (module.path.parent / "neighbour.py").write_text("A = 1\n")
    assert not loaded(module())
    assert loaded(module())
    assert len(list(folder.iterdir())) == 1  # the old machine code was overwritten


@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED.keys())
def test_replaces_a_damaged_file(folder, module, tamper):
    module()
    (file,) = folder.iterdir()
    intact = file.read_bytes()
    file.write_bytes(tamper(intact))
    assert not loaded(module())
    assert loaded(module())


@pytest.mark.parametrize("who", ["group", "others"])
@pytest.mark.parametrize("what", ["folder", "file"])
def test_refuses_what_others_can_write(folder, module, who, what, caplog):
    module()
    (file,) = folder.iterdir()
    path = folder if what == "folder" else file
    path.chmod(path.stat().st_mode | (0o020 if who == "group" else 0o002))
    assert not loaded(module())
    if what == "folder":
        assert f"{folder}: other users can write it (chmod go-w '{folder}')" in caplog.text
    else:  # the file is replaced by one that only its owner can write
        assert loaded(module())


def test_refuses_a_folder_of_another_user(folder, module, monkeypatch, caplog):
    module()
    owner = folder.stat().st_uid
    if owner == 0:
        os.chown(folder, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert not loaded(module())
    assert f"{folder}: belongs to another user" in caplog.text


def test_does_not_unpickle_a_planted_file(folder, module, tmp_path):
    class Planted:
        def __reduce__(self):
            return (tmp_path.joinpath("executed").touch, ())

    module()
    (file,) = folder.iterdir()
    file.write_bytes(bytes(32) + pickle.dumps(Planted()))
    module()
    assert not tmp_path.joinpath("executed").exists()


def test_goes_on_when_the_disk_is_full(folder, module, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "open", full)
    assert not loaded(module())
    assert caplog.messages[-1].startswith("compiled kernels cannot be kept on disk")
    assert f"{folder}: No space left on device" in caplog.text


def test_goes_on_when_no_folder_can_be_made(module, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "below"))
    kernel_cache._warn_not_kept.cache_clear()
    assert not loaded(module())
    assert "Not a directory" in caplog.text


def test_takes_the_cache_folder_when_the_source_folder_cannot_be_used(
    module, tmp_path, monkeypatch, caplog
):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("DNADIFF_CACHE", str(tmp_path / "cache"))
    beside = tmp_path / "__pycache__"
    beside.mkdir()
    beside.chmod(0o777)
    assert not loaded(module())
    assert loaded(module())
    assert not list(beside.iterdir())
    assert len(list((tmp_path / "cache" / "kernels").iterdir())) == 1
    assert not caplog.messages


def test_user_without_a_home_folder(module, monkeypatch):
    def without_home():
        raise RuntimeError("Could not determine home directory.")

    for name in ("NUMBA_CACHE_DIR", "DNADIFF_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", without_home)
    assert not loaded(module())
    assert loaded(module())  # from __pycache__


def test_writes_files_that_only_their_owner_can_write_under_any_umask(folder, module):
    before = os.umask(0)
    try:
        module()
    finally:
        os.umask(before)
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o644
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_damaged_cache_does_not_stop_a_process(folder):
    """The kernels of the package itself, in processes of their own."""
    code = (
        "import numpy as np\n"
        "from dnadiff.genome.loops import chances\n"
        "print(chances(np.uint64(1), np.uint64(2), np.uint64(3)))"
    )

    def run():
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout

    first = run()
    files = list(folder.iterdir())
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:1000])
    assert run() == first


def test_a_plain_function_without_jit(monkeypatch):
    monkeypatch.setattr("numba.njit", lambda **_: lambda function: function)
    assert compile_kernel(_identity)(3) == 3


def _identity(x):
    return x
