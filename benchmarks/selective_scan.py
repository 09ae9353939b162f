"""Times the selective scan of dnadiff beside mambapy's parallel scan, on the same numbers, in one process, in turn.

    python benchmarks/selective_scan.py
    python benchmarks/selective_scan.py --shape 1 8192 236 16 --repeats 30 --json scan.json

Both compute softplus(delta + bias), the scan, the skip D u and the gate silu(z). Each repetition runs one after the
other, so that both meet the same machine; the ratio is the median over these pairs, with a 95 % bootstrap interval.
What other processes used meanwhile is printed too (on Linux): a ratio may stand that, milliseconds do not.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: a waiting thread shall not spin on a shared machine

import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dnadiff.files import write_json
from dnadiff.ops import selective_scan_fn

Scan = Callable[..., Tensor]


def main(arguments: list[str] | None = None) -> dict:
    """Measures, prints, and returns what --json would write."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    inputs = make_inputs(*options.shape)
    scans = {"dnadiff": ours} | ({} if options.alone else {"mambapy": load_mambapy()})
    check_agreement(scans, inputs)
    before = cpu_seconds()
    times = {
        "forward": measure(lambda scan: forward(scan, inputs), scans, options.repeats),
        "forward + backward": measure(lambda scan: forward_backward(scan, inputs), scans, options.repeats),
    }
    result = {
        "shape (B, L, D, N)": options.shape,
        "dtype": "float32",
        "threads": options.threads,
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "torch": torch.__version__,
        "cores used by others": others(before, cpu_seconds()),
        "times": {name: summary(samples) for name, samples in times.items()},
    }
    report(result)
    if options.json:
        write_json(options.json, result)
    return result


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", type=int, nargs=4, default=[8, 1024, 256, 16], metavar=("B", "L", "D", "N"))
    parser.add_argument("--repeats", type=int, default=15, help="pairs of runs (15)")
    parser.add_argument("--threads", type=int, default=2, help="threads of both (2)")
    parser.add_argument("--alone", action="store_true", help="without mambapy")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    return parser.parse_args(arguments)


def make_inputs(batch: int, length: int, channels: int, states: int) -> dict[str, Tensor]:
    """Numbers of the size they have in a Mamba layer, as the leaves of a graph, (batch, L, channels) in memory."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    inputs = {name: normal(batch, length, channels) for name in ("u", "delta", "z")}
    inputs |= {name: normal(batch, length, states) for name in ("B", "C")}
    inputs["A"] = -torch.arange(1.0, states + 1).repeat(channels, 1)
    inputs |= {"D": torch.ones(channels), "bias": normal(channels) - 4}
    return {name: tensor.requires_grad_() for name, tensor in inputs.items()}


def ours(u: Tensor, delta: Tensor, z: Tensor, B: Tensor, C: Tensor, A: Tensor, D: Tensor, bias: Tensor) -> Tensor:
    u, delta, z, B, C = (x.transpose(1, 2) for x in (u, delta, z, B, C))
    return selective_scan_fn(u, delta, A, B, C, D, z, bias, delta_softplus=True).transpose(1, 2)


def load_mambapy() -> Scan:
    """The peer, with the step sizes, skip and gate that ours has inside."""
    try:
        from mambapy.mamba import MambaBlock
    except ImportError:
        raise SystemExit("mambapy is not here: pip install mambapy, or run with --alone") from None

    def scan(u: Tensor, delta: Tensor, z: Tensor, B: Tensor, C: Tensor, A: Tensor, D: Tensor, bias: Tensor) -> Tensor:
        return MambaBlock.selective_scan(None, u, F.softplus(delta + bias), A, B, C, D) * F.silu(z)

    return scan


def forward(scan: Scan, inputs: dict[str, Tensor]) -> None:
    with torch.no_grad():
        scan(**inputs)


def forward_backward(scan: Scan, inputs: dict[str, Tensor]) -> None:
    for tensor in inputs.values():
        tensor.grad = None
    out = scan(**inputs)
    out.backward(torch.ones_like(out))


def check_agreement(scans: dict[str, Scan], inputs: dict[str, Tensor]) -> None:
    """Runs everything once, which also compiles it, and refuses to time two different functions."""
    results = []
    for scan in scans.values():
        forward_backward(scan, inputs)
        results.append([scan(**inputs).detach(), *(tensor.grad for tensor in inputs.values())])
    for other in results[1:]:
        for x, y in zip(results[0], other, strict=True):
            error = torch.linalg.vector_norm(x - y) / torch.linalg.vector_norm(y)
            if error > 1e-4:
                raise SystemExit(f"the two scans differ by {error:.1e} in a tensor of shape {tuple(x.shape)}")


def measure(run: Callable[[Scan], None], scans: dict[str, Scan], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each run, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in scans}
    for _ in range(repeats):
        for name, scan in scans.items():
            start = time.perf_counter()
            run(scan)
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def summary(times: dict[str, list[float]]) -> dict:
    """Median and best milliseconds, and how many times faster the first is than each other one."""
    first = next(iter(times))
    result: dict = {name: {"median": float(np.median(t)), "best": min(t)} for name, t in times.items()}
    for name in times:
        if name != first:
            ratios = np.array(times[name]) / np.array(times[first])
            result[name]["ratio"] = float(np.median(ratios))
            result[name]["interval"] = interval(ratios)
    return result


def interval(ratios: np.ndarray) -> list[float]:
    """Bootstrap 95 % interval of the median."""
    draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
    return np.percentile(np.median(draws, 1), [2.5, 97.5]).tolist()


def cpu_seconds() -> tuple[float, float, float] | None:
    """Busy CPU seconds of the machine and of this process, and the time; None where /proc/stat is not there."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _, _, irq, softirq = (int(x) for x in stat.read_text().split()[1:8])
    own = os.times()
    busy = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    return busy, own.user + own.system, own.elapsed


def others(before: tuple[float, float, float] | None, after: tuple[float, float, float] | None) -> float | None:
    """Mean number of cores that other processes used; None where that cannot be told (no /proc, or below its tick)."""
    if before is None or after is None:
        return None
    busy, own, elapsed = (y - x for x, y in zip(before, after, strict=True))
    return max(busy - own, 0.0) / elapsed if elapsed > 0 else None


def report(result: dict) -> None:
    """Prints the table."""
    print(f"selective scan, (B, L, D, N) = {tuple(result['shape (B, L, D, N)'])}, float32, {result['threads']} threads")
    print(f"{'':20}{'':10}{'median ms':>11}{'best ms':>10}{'times slower':>14}  95 % interval")
    for name, rows in result["times"].items():
        for scan, row in rows.items():
            line = f"{name:20}{scan:10}{row['median']:11.2f}{row['best']:10.2f}"
            if "ratio" in row:
                line += f"{row['ratio']:14.1f}  {row['interval'][0]:.1f} to {row['interval'][1]:.1f}"
            print(line)
    used = result["cores used by others"]
    print("other processes: not known here" if used is None else f"other processes used {used:.2f} cores meanwhile")


if __name__ == "__main__":
    main()
