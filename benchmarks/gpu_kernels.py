"""Times the Triton selective scan of dnadiff, mamba_ssm's and PyTorch's on a CUDA device.

    python benchmarks/gpu_kernels.py
    python benchmarks/gpu_kernels.py --shape 512 1024 236 16 --dtype bfloat16 --repeats 30 --json
    gpu.json

All compute softplus(delta + bias), the scan, the skip D u and the gate silu(z). Each has its
sequences in its fastest memory order, so that none has to copy them. Before anything is timed,
their results are compared. Ratios are medians over repetitions taken in turn, with a 95 % bootstrap
interval. The lower limit is the time in which the device copies as many bytes as the sequences, the
output and the gradients have, each read or written once: no kernel can be faster. The reference is
left out above 4,096 positions, which it takes one by one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from timing import measure, summary
from torch import Tensor

from dnadiff.files import write_json
from dnadiff.ops import selective_scan_fn
from dnadiff.ops.backend import installed

# The paper's network on windows of 1,024, and on one window of 131,072: batch, length, channels,
# states.
SHAPES = [[32, 1024, 236, 16], [1, 131072, 236, 16]]
MAX_REFERENCE_LENGTH = 4096
VARYING = ("u", "delta", "z", "B", "C")


class Contender(NamedTuple):
    """A backend, with the inputs in its memory order, channels last or positions last."""

    backend: str
    channels_last: bool
    inputs: dict[str, Tensor]


def main(arguments: list[str] | None = None) -> dict:
    """Measures, prints a table, and returns what --json writes."""
    options = parse(arguments)
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA device, and PyTorch sees none")

    bandwidth = copy_bandwidth()
    result = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "dtype": options.dtype,
        "copy bandwidth (GB/s)": bandwidth / 1e9,
        "shapes": [],
    }
    speed = f"it copies {bandwidth / 1e9:,.0f} GB/s"
    print(f"selective scan on {result['device']}, {options.dtype}; {speed}")

    dtype = getattr(torch, options.dtype)
    for shape in options.shape or SHAPES:
        row = compare(shape, dtype, "cuda", options.repeats, cuda_clock, bandwidth)
        result["shapes"].append(row)
        report(row)

    if options.json:
        write_json(options.json, result)
    return result


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parses the flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--shape",
        type=int,
        nargs=4,
        action="append",
        metavar=("B", "L", "D", "N"),
        help="repeatable",
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--repeats", type=int, default=15, help="rounds of runs (15)")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    return parser.parse_args(arguments)


def compare(
    shape: list[int],
    dtype: torch.dtype,
    device: str,
    repeats: int,
    clock: Callable,
    bandwidth: float,
) -> dict:
    """Checks that the contenders agree on inputs of a shape, and times them.

    Args:
        shape: batch, length, channels and states.
        dtype: type of all that varies along the sequence.
        device: as PyTorch names it.
        repeats: rounds of runs.
        clock: a function that returns the milliseconds of a run.
        bandwidth: bytes per second that the device copies.
    """
    contenders = make_contenders(shape, dtype, device)
    # Half precision rounds inputs and outputs to 8 or 11 bits.
    check_agreement(contenders, 1e-4 if dtype == torch.float32 else 2e-2)

    moved = bytes_moved(shape, dtype)
    result: dict = {"shape (B, L, D, N)": shape, "times": {}}
    for name, run in {"forward": forward, "forward + backward": forward_backward}.items():
        runs = {contender: partial(run, inputs) for contender, inputs in contenders.items()}
        times = summary(measure(runs, repeats, clock))
        result["times"][name] = {"floor": 1e3 * moved[name] / bandwidth, **times}
    return result


def make_contenders(shape: list[int], dtype: torch.dtype, device: str) -> dict[str, Contender]:
    """Returns the scans to compare by name, ours first."""
    ours = "triton" if device == "cuda" else "cpu"
    inputs = make_inputs(shape, dtype, device, channels_last=True)
    contenders = {"dnadiff": Contender(ours, True, inputs)}
    if installed("mamba_ssm") and device == "cuda":
        inputs = make_inputs(shape, dtype, device, channels_last=False)
        contenders["mamba_ssm"] = Contender("mamba_ssm", False, inputs)
    if shape[1] <= MAX_REFERENCE_LENGTH:
        contenders["reference"] = Contender("reference", True, contenders["dnadiff"].inputs)
    return contenders


def make_inputs(
    shape: list[int], dtype: torch.dtype, device: str, *, channels_last: bool
) -> dict[str, Tensor]:
    """Returns inputs of the size they have in a Mamba layer."""
    batch, length, channels, states = shape
    generator = torch.Generator().manual_seed(0)
    widths = {"u": channels, "delta": channels, "z": channels, "B": states, "C": states}
    inputs = {}
    for name, width in widths.items():
        x = torch.randn(batch, length, width, generator=generator).to(dtype)
        inputs[name] = x if channels_last else x.mT.contiguous()

    inputs["A"] = -torch.arange(1.0, states + 1).repeat(channels, 1)
    inputs["D"] = torch.ones(channels)
    inputs["delta_bias"] = torch.randn(channels, generator=generator) - 4  # small steps, as trained
    return {name: x.to(device).requires_grad_() for name, x in inputs.items()}


def scan(contender: Contender) -> Tensor:
    """Runs a contender's scan."""
    inputs = dict(contender.inputs)
    if contender.channels_last:
        inputs |= {name: inputs[name].mT for name in VARYING}
    return selective_scan_fn(**inputs, delta_softplus=True, backend=contender.backend)


def forward(contender: Contender) -> None:
    """Runs a scan without gradients."""
    with torch.no_grad():
        scan(contender)


def forward_backward(contender: Contender) -> None:
    """Runs a scan and its backward pass."""
    for tensor in contender.inputs.values():
        tensor.grad = None  # adding to old gradients would be timed as well
    out = scan(contender)
    out.backward(torch.ones_like(out))


def check_agreement(contenders: dict[str, Contender], tolerance: float) -> None:
    """Exits if the contenders do not compute the same. This also compiles everything."""
    ours, *rest = (results(contender) for contender in contenders.values())
    for name, other in zip(list(contenders)[1:], rest, strict=True):
        for tensor, x in ours.items():
            y = other[tensor]
            error = torch.linalg.vector_norm(x - y) / torch.linalg.vector_norm(y)
            if not error <= tolerance:  # so that NaN is an error too
                raise SystemExit(f"dnadiff and {name} differ by {error:.1e} in {tensor}")


def results(contender: Contender) -> dict[str, Tensor]:
    """Returns the output and all gradients in float32, with positions last."""
    forward_backward(contender)
    found = {"out": scan(contender).detach().float()}
    for name, x in contender.inputs.items():
        gradient = x.grad.float()
        transposed = contender.channels_last and name in VARYING
        found[f"d{name}"] = gradient.mT if transposed else gradient
    return found


def bytes_moved(shape: list[int], dtype: torch.dtype) -> dict[str, int]:
    """Returns the bytes of the sequences that each pass reads and writes; the weights are small."""
    batch, length, channels, states = shape
    position = batch * length * dtype.itemsize
    once = position * (4 * channels + 2 * states)  # u, delta, z, B, C and the output
    back = position * (7 * channels + 4 * states)  # u, delta, z, dout, du, ddelta, dz, B, C, dB, dC
    return {"forward": once, "forward + backward": once + back}


def copy_bandwidth() -> float:
    """Returns the bytes per second that a large copy reads and writes, in the best of ten."""
    x = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    y = torch.empty_like(x)
    return 2e3 * x.numel() / min(cuda_clock(lambda: y.copy_(x)) for _ in range(10))


def cuda_clock(run: Callable[[], object], calls: int = 5) -> float:
    """Returns the milliseconds that a call takes on the device.

    Several calls are queued, so that the device does not wait for Python between them.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / calls


def report(result: dict) -> None:
    """Prints the table of one shape."""
    print(f"\n(B, L, D, N) = {tuple(result['shape (B, L, D, N)'])}")
    print(
        f"{'':20}{'':12}{'median ms':>11}{'best ms':>10}{'/ limit':>9}{'times slower':>14}"
        "  95 % interval"
    )
    for name, rows in result["times"].items():
        floor = rows["floor"]
        print(f"{name:20}{'lower limit':12}{floor:11.3f}")
        for contender, row in rows.items():
            if contender == "floor":
                continue
            line = f"{name:20}{contender:12}{row['median']:11.3f}{row['best']:10.3f}"
            line += f"{row['median'] / floor:9.1f}"
            if "ratio" in row:
                low, high = row["interval"]
                line += f"{row['ratio']:14.2f}  {low:.2f} to {high:.2f}"
            print(line)


if __name__ == "__main__":
    main()
