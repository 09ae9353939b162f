"""Times the selective scan of dnadiff and mambapy's parallel scan on the same numbers, in turn.

    python benchmarks/selective_scan.py
    python benchmarks/selective_scan.py --shape 1 8192 236 16 --repeats 30 --json scan.json

Both compute softplus(delta + bias), the scan, the skip D u and the gate silu(z). Each repetition
runs one after the other in one process, so that all meet the same load by others. The ratio is the
median over these pairs, with a 95 % bootstrap interval. The load by other processes is printed (on
Linux): ratios depend on it less than milliseconds.

Two parts of our scan are timed as well: the compiled kernels without the surrounding Python
(allocation, layout, autograd), and the exponentials alone, which are a lower limit at the present
rate of the machine.
"""

from __future__ import annotations

import argparse
import os

# Before torch is imported: on a shared machine a waiting thread should sleep and not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from collections.abc import Callable, Sequence
from functools import partial

import torch
from timing import add_kernel_flags, compare, exponentials
from torch import Tensor
from torch.nn import functional as F

from dnadiff.ops import selective_scan_fn
from dnadiff.ops.cpu.compile import channels_last
from dnadiff.ops.cpu.scan import (
    as_blocks,
    as_rows,
    pad_channels,
    scan_backward,
    scan_forward,
    scan_shape,
)

Scan = Callable[..., Tensor]


def main(arguments: list[str] | None = None) -> dict:
    """Measures, prints a table, and returns what --json writes."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    inputs = make_inputs(*options.shape)
    peers = {} if options.alone else {"mambapy": load_mambapy()}
    check_agreement([ours, *peers.values()], inputs)

    alone, powers = kernels_alone(inputs), powers_taken(*options.shape)
    passes: dict[str, dict[str, Callable[[], object]]] = {}
    for name, step in {"forward": forward, "forward + backward": forward_backward}.items():
        passes[name] = {
            "dnadiff": partial(step, ours, inputs),
            "its kernels alone": alone[name],
            "its exponentials alone": partial(exponentials, powers[name]),
        }
        for peer, scan in peers.items():
            passes[name][peer] = partial(step, scan, inputs)

    title = f"selective scan, (B, L, D, N) = {tuple(options.shape)}, float32"
    facts = {"shape (B, L, D, N)": options.shape, "dtype": "float32"}
    return compare(title, facts, passes, options)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parses the flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--shape", type=int, nargs=4, default=[8, 1024, 256, 16], metavar=("B", "L", "D", "N")
    )
    parser.add_argument("--alone", action="store_true", help="without mambapy")
    add_kernel_flags(parser, repeats=15)
    return parser.parse_args(arguments)


def make_inputs(batch: int, length: int, channels: int, states: int) -> dict[str, Tensor]:
    """Returns inputs of the size they have in a Mamba layer, (batch, L, channels) in memory."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    inputs = {name: normal(batch, length, channels) for name in ("u", "delta", "z")}
    inputs |= {name: normal(batch, length, states) for name in ("B", "C")}
    # As Mamba initialises them: A is -1 to -N in every channel, and step sizes are small.
    inputs["A"] = -torch.arange(1.0, states + 1).repeat(channels, 1)
    inputs |= {"D": torch.ones(channels), "bias": normal(channels) - 4}
    return {name: tensor.requires_grad_() for name, tensor in inputs.items()}


def ours(
    u: Tensor, delta: Tensor, z: Tensor, B: Tensor, C: Tensor, A: Tensor, D: Tensor, bias: Tensor
) -> Tensor:
    """Computes the scan with dnadiff."""
    u, delta, z, B, C = (x.transpose(1, 2) for x in (u, delta, z, B, C))
    return selective_scan_fn(u, delta, A, B, C, D, z, bias, delta_softplus=True).transpose(1, 2)


def kernels_alone(inputs: dict[str, Tensor]) -> dict[str, Callable[[], None]]:
    """Returns calls of the compiled kernels alone, on tensors that are laid out and in memory."""
    varying = (inputs[name].detach().mT for name in ("u", "delta", "z"))
    u, delta, z = (channels_last(pad_channels(x, 1)) for x in varying)
    B, C = (inputs[name].detach().mT for name in ("B", "C"))
    A, D, bias = (pad_channels(inputs[name], 0) for name in ("A", "D", "bias"))

    # All memory is allocated and touched here, so that only kernels are timed.
    shape = scan_shape(u, A, softplus=True, gated=True)
    weights = as_blocks(shape, A, D, bias)
    sequences = as_rows(False, u, delta, B, C, z=z)
    y, out, dout, du, ddelta, dz = (torch.ones_like(u) for _ in range(6))
    rows = shape.slabs * shape.batch
    shares = [torch.zeros(rows, shape.length, shape.states).mT for _ in range(2)]  # dB, dC

    def forward() -> None:
        scan_forward(shape, sequences, weights, out, out, reverse=False, keep=False)

    def forward_backward() -> None:
        borders, _ = scan_forward(shape, sequences, weights, y, out, reverse=False, keep=True)
        scan_backward(
            shape, sequences, weights, dout, y, borders, (du, ddelta, dz, *shares), reverse=False
        )

    return {"forward": forward, "forward + backward": forward_backward}


def powers_taken(batch: int, length: int, channels: int, states: int) -> dict[str, int]:
    """Returns the number of exponentials of each pass.

    They are those of every state's decay, of the step size and of the gate; the backward pass
    computes all of them again.
    """
    count = batch * length * channels * (states + 2)
    return {"forward": count, "forward + backward": 2 * count}


def load_mambapy() -> Scan:
    """Returns mambapy's scan, with the step sizes, skip and gate that ours includes."""
    try:
        from mambapy.mamba import MambaBlock
    except ImportError:
        raise SystemExit("mambapy is not here: pip install mambapy, or run with --alone") from None

    def scan(
        u: Tensor,
        delta: Tensor,
        z: Tensor,
        B: Tensor,
        C: Tensor,
        A: Tensor,
        D: Tensor,
        bias: Tensor,
    ) -> Tensor:
        return MambaBlock.selective_scan(None, u, F.softplus(delta + bias), A, B, C, D) * F.silu(z)

    return scan


def forward(scan: Scan, inputs: dict[str, Tensor]) -> None:
    """Runs a scan without gradients."""
    with torch.no_grad():
        scan(**inputs)


def forward_backward(scan: Scan, inputs: dict[str, Tensor]) -> None:
    """Runs a scan and its backward pass."""
    for tensor in inputs.values():
        tensor.grad = None  # adding to old gradients would be timed as well
    out = scan(**inputs)
    out.backward(torch.ones_like(out))


def check_agreement(scans: Sequence[Scan], inputs: dict[str, Tensor]) -> None:
    """Exits if the scans do not compute the same. This also compiles everything."""
    results = []
    for scan in scans:
        forward_backward(scan, inputs)
        results.append([scan(**inputs).detach(), *(tensor.grad for tensor in inputs.values())])
    for other in results[1:]:
        for x, y in zip(results[0], other, strict=True):
            error = torch.linalg.vector_norm(x - y) / torch.linalg.vector_norm(y)
            if error > 1e-4:
                where = f"a tensor of shape {tuple(x.shape)}"
                raise SystemExit(f"the two scans differ by {error:.1e} in {where}")


if __name__ == "__main__":
    main()
