"""Times the causal convolution of dnadiff and PyTorch's on the same numbers, in turn.

    python benchmarks/conv.py
    python benchmarks/conv.py --shape 1 131072 236 --dtype bfloat16 --json conv.json

Both convolve each channel with four taps and apply SiLU. PyTorch's is `F.conv1d` with as many
groups as channels, on (batch, channels, length) in memory, its fastest order. dnadiff's takes
channels last.
"""

from __future__ import annotations

import argparse
import os

# Before torch is imported: on a shared machine a waiting thread should sleep and not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from collections.abc import Callable
from functools import partial

import torch
from timing import add_kernel_flags, compare
from torch import Tensor
from torch.nn import functional as F

from dnadiff.ops import causal_conv1d_fn

TAPS = 4
Run = Callable[[dict[str, Tensor]], Tensor]


def main(arguments: list[str] | None = None) -> dict:
    """Measures, prints a table, and returns what --json writes."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    leaves = make_leaves(*options.shape, getattr(torch, options.dtype))
    passes = {}
    for name, step in {"forward": forward, "forward + backward": forward_backward}.items():
        runs = {"dnadiff": partial(step, ours, leaves), "pytorch": partial(step, pytorch, leaves)}
        check_agreement(*(run().float() for run in runs.values()))
        passes[name] = runs

    title = f"convolution, (B, L, D) = {tuple(options.shape)}, {options.dtype}"
    facts = {"shape (B, L, D)": options.shape, "dtype": options.dtype}
    return compare(title, facts, passes, options)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parses the flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--shape", type=int, nargs=3, default=[32, 1024, 256], metavar=("B", "L", "D")
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    add_kernel_flags(parser, repeats=30)
    return parser.parse_args(arguments)


def check_agreement(x: Tensor, y: Tensor) -> None:
    """Exits if two results are not the same, up to rounding in bfloat16."""
    error = torch.linalg.vector_norm(x - y) / torch.linalg.vector_norm(y)
    if error > 2e-2:
        raise SystemExit(f"the two convolutions differ by {error:.1e}")


def make_leaves(batch: int, length: int, channels: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Returns the same inputs in the fastest memory order of each convolution."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, length, channels, generator=generator).to(dtype)
    leaves = {
        "channels_last": x,
        "channels_first": x.mT.contiguous(),
        "weight": torch.randn(channels, TAPS, generator=generator),
        "bias": torch.randn(channels, generator=generator),
    }
    return {name: leaf.requires_grad_() for name, leaf in leaves.items()}


def ours(leaves: dict[str, Tensor]) -> Tensor:
    """Computes the convolution with dnadiff."""
    x, weight, bias = leaves["channels_last"].mT, leaves["weight"], leaves["bias"]
    return causal_conv1d_fn(x, weight, bias, activation="silu")


def pytorch(leaves: dict[str, Tensor]) -> Tensor:
    """Computes the convolution with PyTorch."""
    x, weight, bias = leaves["channels_first"], leaves["weight"], leaves["bias"]
    padded = F.pad(x, (TAPS - 1, 0))  # positions before the sequence are 0, and none come after it
    filters = weight.to(x.dtype)[:, None]
    return F.silu(F.conv1d(padded, filters, bias.to(x.dtype), groups=x.shape[1]))


def forward(run: Run, leaves: dict[str, Tensor]) -> Tensor:
    """Runs a convolution without gradients."""
    with torch.no_grad():
        return run(leaves)


def forward_backward(run: Run, leaves: dict[str, Tensor]) -> Tensor:
    """Runs a convolution and its backward pass, and returns the gradient of the filters."""
    for leaf in leaves.values():
        leaf.grad = None  # adding to old gradients would be timed as well
    out = run(leaves)
    out.backward(torch.ones_like(out))
    return leaves["weight"].grad


if __name__ == "__main__":
    main()
