"""Times the selective scan of dnadiff beside mambapy's parallel scan, on the same numbers, in one process, in turn.

    python benchmarks/selective_scan.py
    python benchmarks/selective_scan.py --shape 1 8192 236 16 --repeats 30 --json scan.json

Both compute softplus(delta + bias), the scan, the skip D u and the gate silu(z). Each repetition runs one after the
other, so that all meet the same machine; the ratio is the median over these pairs, with a 95 % bootstrap interval.
What other processes used meanwhile is printed too (on Linux): a ratio may stand that, milliseconds do not. Beside the
public call stand the compiled kernels without what surrounds them (making and laying out tensors, autograd), and the
exponentials that they must take without anything else: a floor, at the rate of this machine in the same minute.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault(
    "OMP_WAIT_POLICY", "passive"
)  # before torch: a waiting thread shall not spin on a shared machine

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
    """Measures, prints, and returns what --json would write."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    inputs = make_inputs(*options.shape)
    peers = {} if options.alone else {"mambapy": load_mambapy()}
    check_agreement([ours, *peers.values()], inputs)
    alone, powers = kernels_alone(inputs), powers_taken(*options.shape)
    passes = {
        name: {
            "dnadiff": partial(step, ours, inputs),
            "its kernels alone": alone[name],
            "its exponentials alone": partial(exponentials, powers[name]),
            **{peer: partial(step, scan, inputs) for peer, scan in peers.items()},
        }
        for name, step in {"forward": forward, "forward + backward": forward_backward}.items()
    }
    title = f"selective scan, (B, L, D, N) = {tuple(options.shape)}, float32"
    return compare(
        title, {"shape (B, L, D, N)": options.shape, "dtype": "float32"}, passes, options
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--shape", type=int, nargs=4, default=[8, 1024, 256, 16], metavar=("B", "L", "D", "N")
    )
    parser.add_argument("--alone", action="store_true", help="without mambapy")
    add_kernel_flags(parser, repeats=15)
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


def ours(
    u: Tensor, delta: Tensor, z: Tensor, B: Tensor, C: Tensor, A: Tensor, D: Tensor, bias: Tensor
) -> Tensor:
    u, delta, z, B, C = (x.transpose(1, 2) for x in (u, delta, z, B, C))
    return selective_scan_fn(u, delta, A, B, C, D, z, bias, delta_softplus=True).transpose(1, 2)


def kernels_alone(inputs: dict[str, Tensor]) -> dict[str, Callable[[], None]]:
    """What our scan calls in the end, on tensors that are laid out as it wants them and have been touched before."""
    u, delta, z = (
        channels_last(pad_channels(inputs[name].detach().mT, 1)) for name in ("u", "delta", "z")
    )
    B, C = (inputs[name].detach().mT for name in ("B", "C"))
    A, D, bias = (pad_channels(inputs[name], 0) for name in ("A", "D", "bias"))
    shape = scan_shape(u, A, softplus=True, gated=True)
    weights = as_blocks(shape, A, D, bias)
    sequences = as_rows(False, u, delta, B, C, z=z)
    y, out, dout, du, ddelta, dz = (torch.ones_like(u) for _ in range(6))
    shares = [
        torch.zeros(shape.slabs * shape.batch, shape.length, shape.states).mT for _ in range(2)
    ]

    def forward() -> None:
        scan_forward(shape, sequences, weights, out, out, reverse=False, keep=False)

    def forward_backward() -> None:
        borders, _ = scan_forward(shape, sequences, weights, y, out, reverse=False, keep=True)
        scan_backward(
            shape, sequences, weights, dout, y, borders, (du, ddelta, dz, *shares), reverse=False
        )

    return {"forward": forward, "forward + backward": forward_backward}


def powers_taken(batch: int, length: int, channels: int, states: int) -> dict[str, int]:
    """Exponentials of each pass: of every state's decay, the step size and the gate; and again on the way back."""
    count = batch * length * channels * (states + 2)
    return {"forward": count, "forward + backward": 2 * count}


def load_mambapy() -> Scan:
    """The peer, with the step sizes, skip and gate that ours has inside."""
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
    with torch.no_grad():
        scan(**inputs)


def forward_backward(scan: Scan, inputs: dict[str, Tensor]) -> None:
    for tensor in inputs.values():
        tensor.grad = None
    out = scan(**inputs)
    out.backward(torch.ones_like(out))


def check_agreement(scans: Sequence[Scan], inputs: dict[str, Tensor]) -> None:
    """Runs everything once, which also compiles it, and refuses to time two different functions."""
    results = []
    for scan in scans:
        forward_backward(scan, inputs)
        results.append([scan(**inputs).detach(), *(tensor.grad for tensor in inputs.values())])
    for other in results[1:]:
        for x, y in zip(results[0], other, strict=True):
            error = torch.linalg.vector_norm(x - y) / torch.linalg.vector_norm(y)
            if error > 1e-4:
                raise SystemExit(
                    f"the two scans differ by {error:.1e} in a tensor of shape {tuple(x.shape)}"
                )


if __name__ == "__main__":
    main()
