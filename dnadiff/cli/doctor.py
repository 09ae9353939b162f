"""``dnadiff doctor``: what this machine can run, and whether its kernels compute correctly."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
import warnings
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import Any

from dnadiff import __version__
from dnadiff.cli.flags import command
from dnadiff.files import cache_folder
from dnadiff.memory import system_memory

EXTRAS = {
    "triton": ("kernels on a GPU", "comes with torch for CUDA, or pip install triton"),
    # Its build imports torch, which an isolated build environment does not have.
    "mamba_ssm": (
        "scan of that package",
        "pip install --no-build-isolation 'dnadiff[mamba]', after torch for CUDA",
    ),
    "causal_conv1d": (
        "convolution of that package",
        "pip install --no-build-isolation causal-conv1d, after torch for CUDA",
    ),
    "genomic_benchmarks": ("data of benchmark tasks", "pip install 'dnadiff[benchmarks]'"),
    "twobitreader": ("genomes in .2bit files", "pip install 'dnadiff[twobit]'"),
    "mambapy": ("comparison of speed", "pip install 'dnadiff[bench]'"),
}
"""Optional packages: what each is for, and how to get it."""

_CPU_FEATURES = {"AVX512 bf16": "_is_avx512_bf16_supported", "AMX": "_is_amx_tile_supported"}
"""Instruction sets, and the functions of `torch.cpu` that test for them; old versions have none."""


@command
def doctor(*, json: bool = False, quiet: bool = False) -> int:
    """Describes this machine, and checks every kernel that it can run against the reference.

    Args:
        json: print JSON instead of tables.
        quiet: no progress bar.
    """
    facts = diagnose(quiet=quiet or json)
    if json:
        print(dumps(facts, indent=2, allow_nan=False))
    else:
        _show(facts)
    return int(any(check["wrong"] for check in facts["kernels"]))


def diagnose(*, quiet: bool = True) -> dict[str, Any]:
    """Returns all that ``doctor --json`` prints.

    Args:
        quiet: no progress bar.

    Returns:
        Tables and lists that JSON can hold. Sizes are in bytes; what is not known is None.
    """
    import torch

    return {
        "versions": {
            "dnadiff": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
        },
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": {"cores": _cores(), "instructions": _instructions()},
        "memory": system_memory(),
        "gpus": _gpus(),
        "cache": _cache(cache_folder()),
        "extras": [_extra(package) for package in EXTRAS],
        "kernels": _kernels(quiet),
    }


def _cores() -> int:
    """Returns how many cores this process may use."""
    # SLURM and containers grant fewer than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _instructions() -> list[str]:
    """Returns the vector and matrix instructions that PyTorch uses here."""
    import torch

    found = [torch.backends.cpu.get_cpu_capability()]
    for name, test in _CPU_FEATURES.items():
        # bool() is False: the answer of a version without the test.
        if getattr(torch.cpu, test, bool)():
            found.append(name)
    return found


def _gpus() -> list[dict[str, Any]]:
    """Returns the GPUs that PyTorch can use, with their memory in bytes."""
    import torch

    found: list[dict[str, Any]] = []
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        found.append(
            {
                "device": f"cuda:{i}",
                "name": about.name,
                "memory": about.total_memory,
                "capability": f"{about.major}.{about.minor}",
            }
        )
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU", "memory": None, "capability": None})
    return found


def _cache(folder: Path) -> dict[str, Any]:
    """Returns the cache folder, whether it can be written or made, and the bytes of its files."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    sizes: list[int] = []
    if folder.is_dir():
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return {"folder": str(folder), "writable": writable, "files": len(sizes), "bytes": sum(sizes)}


def _extra(package: str) -> dict[str, str | None]:
    """Returns the version of a package, or why it cannot be imported."""
    purpose, install = EXTRAS[package]
    found: dict[str, str | None] = {
        "package": package,
        "for": purpose,
        "version": None,
        "problem": None,
    }
    try:
        with warnings.catch_warnings(action="ignore"):
            importlib.import_module(package)
        found["version"] = importlib.metadata.version(package)
    except ModuleNotFoundError as error:
        # The package may be there, and one that it imports may be missing.
        missing = error.name == package
        found["problem"] = f"not installed ({install})" if missing else f"broken: {error}"
    except Exception as error:  # an extension built for another torch can raise anything
        message = " ".join(str(error).split())
        found["problem"] = f"broken: {type(error).__name__}: {message}"
    return found


def _kernels(quiet: bool) -> list[dict[str, Any]]:
    """Returns the check of every backend of every kernel on every device."""
    from dnadiff.ops.check import check_kernels
    from dnadiff.progress import bar

    checks = []
    with bar("checking kernels", quiet=quiet) as progress:
        for device in ("cpu", *(gpu["device"] for gpu in _gpus())):
            for check in check_kernels(device):
                checks.append(asdict(check) | {"wrong": check.wrong})
                progress(len(checks), 0)
    return checks


def _show(facts: dict[str, Any]) -> None:
    """Prints tables; without colours, and with lines of any length, where stdout is no terminal."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False)
    for table in (_machine_table(facts), _extras_table(facts), _kernels_table(facts)):
        console.print(table)
        console.print()
    wrong = sum(check["wrong"] for check in facts["kernels"])
    if wrong:
        console.print(
            f"{wrong} WRONG: trust nothing that was computed with it; reinstall torch, numba or "
            f"triton"
        )


def _machine_table(facts: dict[str, Any]) -> Any:
    """Returns the table of the machine's parts."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, text in _machine(facts).items():
        table.add_row(name, text)
    return table


def _extras_table(facts: dict[str, Any]) -> Any:
    """Returns the table of optional packages."""
    from rich.table import Table

    table = Table("package", "for", "version", box=None, pad_edge=False)
    for extra in facts["extras"]:
        table.add_row(extra["package"], extra["for"], extra["version"] or extra["problem"])
    return table


def _kernels_table(facts: dict[str, Any]) -> Any:
    """Returns the table of kernels, with the error of each against the reference."""
    from rich.table import Table

    headings = ("kernel", "device", "backend", "auto", "largest relative error")
    table = Table(*headings, box=None, pad_edge=False)
    for check in facts["kernels"]:
        automatic = "takes it" if check["automatic"] else ""
        table.add_row(
            check["kernel"], check["device"], check["backend"], automatic, _verdict(check)
        )
    return table


def _machine(facts: dict[str, Any]) -> dict[str, str]:
    """Returns one line for each part of the machine."""
    memory, cache = facts["memory"], facts["cache"]
    available = ""
    if memory["available"] is not None:
        available = f", {_size(memory['available'])} of it available"
    state = "can be written"
    if not cache["writable"]:
        state = "CANNOT BE WRITTEN: set DNADIFF_CACHE to a folder that can"

    lines = facts["versions"] | {
        "system": facts["system"],
        "cpu": f"{facts['cpu']['cores']} cores, {', '.join(facts['cpu']['instructions'])}",
        "memory": _size(memory["total"]) + available,
        "cache": f"{cache['folder']}: {state}; {_size(cache['bytes'])} in {cache['files']:,} files",
    }
    if not facts["gpus"]:
        lines["gpu"] = _no_gpu()
    for gpu in facts["gpus"]:
        capability = gpu["capability"] or "unknown"
        lines[gpu["device"]] = (
            f"{gpu['name']}, {_size(gpu['memory'])}, compute capability {capability}"
        )
    return lines


def _no_gpu() -> str:
    """Returns why PyTorch sees no GPU, and what to do."""
    import torch

    if torch.version.cuda is None:
        return (
            "none that PyTorch can use: this torch is built without CUDA (see pytorch.org for one "
            "that is)"
        )
    return (
        f"none that PyTorch sees, though it is built for CUDA {torch.version.cuda}: does "
        f"nvidia-smi show one?"
    )


def _size(count: int | None) -> str:
    """Returns a number of bytes as people read it."""
    if count is None:
        return "of unknown size"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _verdict(check: dict[str, Any]) -> str:
    """Returns the error of a kernel and whether it is small enough, or why it cannot run."""
    if check["unsupported_reason"]:
        return f"not usable: {check['unsupported_reason']}"
    if check["failure"]:
        return f"WRONG: {check['failure']}"
    return f"{check['error']:.1e} {'WRONG' if check['wrong'] else 'ok'}"
