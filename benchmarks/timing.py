"""Timing for the benchmarks: runs taken in turn, ratios with intervals, and the load by others."""

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
    """Adds the flags that all benchmarks have."""
    parser.add_argument(
        "--repeats", type=int, default=repeats, help=f"runs of each, in turn ({repeats})"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of all (2)")
    parser.add_argument("--json", type=Path, help="also write the numbers here")


def add_kernel_flags(parser: argparse.ArgumentParser, repeats: int) -> None:
    """Adds the flags of benchmarks that compare a kernel with another library's."""
    add_flags(parser, repeats)
    text = "let the C library keep freed memory, as dnadiff's commands do; this helps the peer too"
    parser.add_argument("--keep-memory", action="store_true", help=text)


def compare(
    title: str,
    facts: dict,
    passes: Mapping[str, Mapping[str, Callable[[], Any]]],
    options: argparse.Namespace,
) -> dict:
    """Times the runs of each pass in turn, prints a table, and returns what --json writes.

    Args:
        title: text above the table.
        facts: description of what is timed, for the result.
        passes: the runs of each pass: for each name of a pass, functions by the name of their
            library.
        options: parsed flags.
    """
    if options.keep_memory:
        keep_freed_memory()
    for runs in passes.values():
        for run in runs.values():  # compiles, and has the system provide memory
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
    """Returns the milliseconds that a call takes."""
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def measure(
    runs: Mapping[str, Callable[[], Any]],
    repeats: int,
    clock: Callable[[Callable[[], Any]], float] = wall_clock,
) -> Times:
    """Returns the milliseconds of runs that take turns, so that all meet the same load."""
    times: Times = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(clock(run))
    return times


def summary(times: Times, units: Mapping[str, float] | None = None) -> dict:
    """Returns median and best milliseconds, and how many times slower than the first each run is.

    Args:
        times: milliseconds of each run.
        units: the work that one run of each does, where that differs; ratios are of time per unit.
    """
    first = next(iter(times))
    units = units or dict.fromkeys(times, 1.0)
    result: dict = {}
    for name, milliseconds in times.items():
        result[name] = {"median": float(np.median(milliseconds)), "best": min(milliseconds)}
        if name == first:
            continue
        # The ratio of neighbouring runs, since the load may change from one repetition to the next.
        ratios = np.array(milliseconds) / units[name] / (np.array(times[first]) / units[first])
        result[name]["ratio"] = float(np.median(ratios))
        result[name]["interval"] = interval(ratios)
    return result


def interval(ratios: np.ndarray) -> list[float]:
    """Returns the bootstrap 95 % interval of the median."""
    draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
    return np.percentile(np.median(draws, 1), [2.5, 97.5]).tolist()


def machine() -> dict:
    """Returns the class of the machine."""
    return {
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
    }


class Others:
    """Measures the load by other processes: `with Others() as others: ...`, then `others.cores`.

    Attributes:
        cores: mean number of cores that other processes used in the block; None where the system
            does not say (no /proc), or the block was shorter than its clock's tick.
    """

    cores: float | None = None

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
        if self.cores is None:
            return "unknown"
        return f"used {self.cores:.2f} cores meanwhile"


def _cpu_seconds() -> tuple[float, float, float] | None:
    """Returns the busy CPU seconds of the machine and of this process, and the time."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    # The first line of /proc/stat is of all cores together; see proc(5) for its columns.
    user, nice, system, _, _, irq, softirq = (int(x) for x in stat.read_text().split()[1:8])
    own = os.times()
    busy = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    return busy, own.user + own.system, own.elapsed


def table(rows: Sequence[Sequence[str]]) -> str:
    """Formats rows of text in columns, two aligned to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
            cells.append(cell.ljust(width) if i < 2 else cell.rjust(width))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def time_rows(times: Mapping[str, dict]) -> list[list[str]]:
    """Returns the rows of a table of summaries, by the name of the pass."""
    rows = [["", "", "median ms", "best ms", "times slower", "95 % interval"]]
    for name, runs in times.items():
        for run, row in runs.items():
            ratio = ["", ""]
            if "ratio" in row:
                ratio = [f"{row['ratio']:.1f}", "{:.1f} to {:.1f}".format(*row["interval"])]
            rows.append([name, run, f"{row['median']:.2f}", f"{row['best']:.2f}", *ratio])
    return rows


def exponentials(count: int) -> None:
    """Computes `count` powers with the kernels' own exponential, on PyTorch's number of threads.

    All numbers are in the first-level cache. A kernel that needs as many exponentials takes at
    least this long.
    """
    x, y = np.full((2, torch.get_num_threads(), _ROW), 0.5, np.float32)
    numba.set_num_threads(len(x))
    _raise(x, y, -(-count // x.size))


_ROW = 1024  # numbers of a thread: 4 KiB


@numba.njit(parallel=True)
def _raise(x: np.ndarray, y: np.ndarray, repeats: int) -> None:
    """Runs `_raise_row` on each row, one per thread."""
    for row in numba.prange(len(x)):
        _raise_row(x[row], y[row], repeats)


@numba.njit
def _raise_row(x: np.ndarray, y: np.ndarray, repeats: int) -> None:
    """Adds 2^(x scale) over a row, again and again."""
    for r in range(repeats):
        # Another scale each time, and a sum that is stored: nothing can be left out by the
        # compiler.
        scale = load(pointer(y), r % 64)
        total = load(pointer(y), 0)
        for i in range(0, x.size, WIDTH):
            total = total + exp2_product(load(pointer(x), i), scale)
        store(pointer(y), 0, total * 1e-3)
    keep(x)
    keep(y)
