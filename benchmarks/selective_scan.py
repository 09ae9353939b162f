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

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from timing import Others, machine, measure, summary, table, time_rows
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
    with Others() as others:
        times = {
            "forward": measure({name: partial(forward, scan, inputs) for name, scan in scans.items()}, options.repeats),
            "forward + backward": measure(
                {name: partial(forward_backward, scan, inputs) for name, scan in scans.items()}, options.repeats
            ),
        }
    result = {
        "shape (B, L, D, N)": options.shape,
        "dtype": "float32",
        **machine(),
        "cores used by others": others.cores,
        "times": {name: summary(samples) for name, samples in times.items()},
    }
    print(f"selective scan, (B, L, D, N) = {tuple(options.shape)}, float32, {options.threads} threads")
    print(table(time_rows(result["times"])))
    print(f"other processes: {others}")
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


if __name__ == "__main__":
    main()
