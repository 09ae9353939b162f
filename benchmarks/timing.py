"""What the benchmarks share: runs taken in turn, ratios with intervals, and whether anything else was running."""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from dnadiff.files import write_json
from dnadiff.memory import keep_freed_memory
from dnadiff.ops.cpu.functions import exp2_product
from dnadiff.ops.cpu.lanes import WIDTH, keep, load, pointer, store

Times = dict[str, list[float]]


def add_flags(parser: argparse.ArgumentParser, repeats: int) -> None:
    """The flags that all have."""
    parser.add_argument(
        "--repeats", type=int, default=repeats, help=f"runs of each, in turn ({repeats})"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of all (2)")
    parser.add_argument("--json", type=Path, help="also write the numbers here")


def add_kernel_flags(parser: argparse.ArgumentParser, repeats: int) -> None:
    """The flags of those that time a kernel beside a peer's."""
    add_flags(parser, repeats)
    text = "let the C library keep freed memory, as dnadiff's commands do; it helps the peer too"
    parser.add_argument("--keep-memory", action="store_true", help=text)


def compare(
    title: str,
    facts: dict,
    passes: Mapping[str, Mapping[str, Callable[[], Any]]],
    options: argparse.Namespace,
) -> dict:
    """Times the runs of each pass in turn, prints a table, and returns what --json writes.

    Args:
        title: printed above the table.
        facts: what was timed, for the result.
        passes: runs by name, by name of what they do.
        options: parsed flags.
    """
    if options.keep_memory:
        keep_freed_memory()
    for runs in passes.values():
        for run in runs.values():  # compiles, and has every tensor's memory once
            run()
    with Others() as others:
        times = {name: summary(measure(runs, options.repeats)) for name, runs in passes.items()}
    result = {**facts, **machine(), "cores used by others": others.cores, "times": times}
    print(f"{title}, {options.threads} threads")
    print(table(time_rows(times)))
    print(f"other processes: {others}")
    if options.json:
        write_json(options.json, result)
    return result


def wall_clock(run: Callable[[], Any]) -> float:
    """Milliseconds that a call takes."""
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def measure(
    runs: Mapping[str, Callable[[], Any]],
    repeats: int,
    clock: Callable[[Callable[[], Any]], float] = wall_clock,
) -> Times:
    """Milliseconds of each run. They are taken in turn, so that all meet the same machine."""
    times: Times = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(clock(run))
    return times


def summary(times: Times, units: Mapping[str, float] | None = None) -> dict:
    """Median and best milliseconds, and how many times slower than the first each other one is.

    Args:
        times: milliseconds.
        units: how much work one run of each does, where that differs; ratios are of time per unit.
    """
    first = next(iter(times))
    units = units or dict.fromkeys(times, 1.0)
    result: dict = {
        name: {"median": float(np.median(t)), "best": min(t)} for name, t in times.items()
    }
    for name in times:
        if name != first:
            ratios = np.array(times[name]) / units[name] / (np.array(times[first]) / units[first])
            result[name]["ratio"] = float(np.median(ratios))
            result[name]["interval"] = interval(ratios)
    return result


def interval(ratios: np.ndarray) -> list[float]:
    """Bootstrap 95 % interval of the median."""
    draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
    return np.percentile(np.median(draws, 1), [2.5, 97.5]).tolist()


def machine() -> dict:
    """The class of the machine."""
    return {
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
    }


class Others:
    """What other processes use meanwhile: `with Others() as others: ...`, then `others.cores`."""

    cores: float | None = (
        None  # mean number; None where it cannot be told (no /proc, or below its tick)
    )

    def __enter__(self) -> Others:
        self._before = _cpu_seconds()
        return self

    def __exit__(self, *error: object) -> None:
        after = _cpu_seconds()
        if self._before is None or after is None:
            return
        busy, own, elapsed = (y - x for x, y in zip(self._before, after, strict=True))
        self.cores = max(busy - own, 0.0) / elapsed if elapsed > 0 else None

    def __str__(self) -> str:
        return "not known here" if self.cores is None else f"used {self.cores:.2f} cores meanwhile"


def _cpu_seconds() -> tuple[float, float, float] | None:
    """Busy CPU seconds of the machine and of this process, and the time."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _, _, irq, softirq = (int(x) for x in stat.read_text().split()[1:8])
    own = os.times()
    busy = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    return busy, own.user + own.system, own.elapsed


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as columns; the first two are aligned to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    sides = [str.ljust] * 2 + [str.rjust] * (len(widths) - 2)
    lines = [
        "  ".join(side(*cell) for side, *cell in zip(sides, row, widths, strict=True))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def time_rows(times: Mapping[str, dict]) -> list[list[str]]:
    """A table of summaries by name of what was timed."""
    rows = [["", "", "median ms", "best ms", "times slower", "95 % interval"]]
    for name, runs in times.items():
        for run, row in runs.items():
            ratio = (
                [f"{row['ratio']:.1f}", "{:.1f} to {:.1f}".format(*row["interval"])]
                if "ratio" in row
                else ["", ""]
            )
            rows.append([name, run, f"{row['median']:.2f}", f"{row['best']:.2f}", *ratio])
    return rows


def exponentials(count: int) -> None:
    """Takes `count` powers with the kernels' own exponential, from memory that is near, on as many threads as PyTorch.

    What needs so many cannot be faster.
    """
    x, y = np.full((2, torch.get_num_threads(), _ROW), 0.5, np.float32)
    numba.set_num_threads(len(x))
    _raise(x, y, -(-count // x.size))


_ROW = 1024  # numbers of a thread


@numba.njit(parallel=True)
def _raise(x: np.ndarray, y: np.ndarray, repeats: int) -> None:
    for row in numba.prange(len(x)):
        _raise_row(x[row], y[row], repeats)


@numba.njit
def _raise_row(x: np.ndarray, y: np.ndarray, repeats: int) -> None:
    for r in range(repeats):
        scale = load(pointer(y), r % 64)
        total = load(pointer(y), 0)
        for i in range(0, x.size, WIDTH):
            total = total + exp2_product(load(pointer(x), i), scale)
        store(pointer(y), 0, total * 1e-3)
    keep(x)
    keep(y)
