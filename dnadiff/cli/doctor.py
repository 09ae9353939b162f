"""``dnadiff doctor``: what this machine can run, and whether its kernels compute what they should."""

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
    "mamba_ssm": (
        "scan of that package",
        "pip install --no-build-isolation 'dnadiff[mamba]', since its build needs your torch",
    ),
    "causal_conv1d": ("convolution of that package", "pip install causal-conv1d"),
    "genomic_benchmarks": ("data of benchmark tasks", "pip install 'dnadiff[benchmarks]'"),
    "twobitreader": ("genomes in .2bit files", "pip install 'dnadiff[twobit]'"),
    "mambapy": ("comparison of speed", "pip install 'dnadiff[bench]'"),
}
"""Packages that dnadiff does without: what each is for, and how to get it."""


@command
def doctor(*, json: bool = False, quiet: bool = False) -> int:
    """Says what this machine has, and checks every kernel that it can run against the reference.

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
    """All that ``doctor --json`` prints. Sizes are in bytes; what cannot be told is None."""
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
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _instructions() -> list[str]:
    """Vector and matrix instructions that PyTorch knows of."""
    import torch

    tests = {
        "AVX512 bf16": "_is_avx512_bf16_supported",
        "AMX": "_is_amx_tile_supported",
    }  # not in every version
    more = [name for name, test in tests.items() if getattr(torch.cpu, test, bool)()]
    return [torch.backends.cpu.get_cpu_capability(), *more]


def _gpus() -> list[dict[str, Any]]:
    import torch

    found: list[dict[str, Any]] = []
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        found.append({"device": f"cuda:{i}", "name": about.name, "memory": about.total_memory})
        found[-1]["capability"] = f"{about.major}.{about.minor}"
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU", "memory": None, "capability": None})
    return found


def _cache(folder: Path) -> dict[str, Any]:
    """The cache folder, whether it can be written, or made, and the bytes of all its files."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    sizes = (
        [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        if folder.is_dir()
        else []
    )
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    return {"folder": str(folder), "writable": writable, "files": len(sizes), "bytes": sum(sizes)}


def _extra(package: str) -> dict[str, str | None]:
    """The version of a package, or what keeps it from being imported."""
    known: dict[str, str | None] = {
        "package": package,
        "for": EXTRAS[package][0],
        "version": None,
        "problem": None,
    }
    try:
        with warnings.catch_warnings(action="ignore"):
            importlib.import_module(package)
        return known | {"version": importlib.metadata.version(package)}
    except ModuleNotFoundError as error:
        missing = f"not installed ({EXTRAS[package][1]})"
        return known | {"problem": missing if error.name == package else f"broken: {error}"}
    except Exception as error:  # an extension built for another torch can raise anything
        return known | {
            "problem": f"broken: {type(error).__name__}: {' '.join(str(error).split())}"
        }


def _kernels(quiet: bool) -> list[dict[str, Any]]:
    """Every backend of every kernel on every device."""
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
    """Prints tables. Where stdout is no terminal nothing is coloured, and lines are as long as they have to be."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False)
    machine = Table.grid(padding=(0, 2))
    for name, text in _machine(facts).items():
        machine.add_row(name, text)
    console.print(machine)
    console.print()
    extras = Table("package", "for", "version", box=None, pad_edge=False)
    for extra in facts["extras"]:
        extras.add_row(extra["package"], extra["for"], extra["version"] or extra["problem"])
    console.print(extras)
    console.print()
    kernels = Table(
        "kernel", "device", "backend", "auto", "largest relative error", box=None, pad_edge=False
    )
    for check in facts["kernels"]:
        automatic = "takes it" if check["automatic"] else ""
        kernels.add_row(
            check["kernel"], check["device"], check["backend"], automatic, _verdict(check)
        )
    console.print(kernels)
    wrong = sum(check["wrong"] for check in facts["kernels"])
    if wrong:
        console.print(
            f"\n{wrong} WRONG: trust nothing that was computed with it; reinstall torch, numba or triton"
        )


def _machine(facts: dict[str, Any]) -> dict[str, str]:
    """One line for each part of the machine."""
    memory, cache = facts["memory"], facts["cache"]
    available = (
        "" if memory["available"] is None else f", {_size(memory['available'])} of it available"
    )
    state = (
        "can be written"
        if cache["writable"]
        else "CANNOT BE WRITTEN: set DNADIFF_CACHE to a folder that can"
    )
    lines = facts["versions"] | {
        "system": facts["system"],
        "cpu": f"{facts['cpu']['cores']} cores, {', '.join(facts['cpu']['instructions'])}",
        "memory": _size(memory["total"]) + available,
        "gpu": _no_gpu() if not facts["gpus"] else "",
        "cache": f"{cache['folder']}: {state}; {_size(cache['bytes'])} in {cache['files']:,} files",
    }
    gpus = {
        gpu[
            "device"
        ]: f"{gpu['name']}, {_size(gpu['memory'])}, compute capability {gpu['capability'] or 'unknown'}"
        for gpu in facts["gpus"]
    }
    return {name: text for name, text in (lines | gpus).items() if text}


def _no_gpu() -> str:
    """What to do where PyTorch sees no GPU."""
    import torch

    if torch.version.cuda is None:
        return "none that PyTorch can use: this torch is built without CUDA (see pytorch.org for one that is)"
    return f"none that PyTorch sees, though it is built for CUDA {torch.version.cuda}: does nvidia-smi show one?"


def _size(count: int | None) -> str:
    if count is None:
        return "of unknown size"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _verdict(check: dict[str, Any]) -> str:
    if check["obstacle"]:
        return f"not usable: {check['obstacle']}"
    if check["failure"]:
        return f"WRONG: {check['failure']}"
    return f"{check['error']:.1e} {'WRONG' if check['wrong'] else 'ok'}"
