"""Measures speed and peak memory of Caduceus-PS on windows of increasing length.

    python benchmarks/long_windows.py
    python benchmarks/long_windows.py --backward
    python benchmarks/long_windows.py --d-model 256 --n-layer 16 --windows 131072 --json long.json

Each line comes from a process of its own, so that its peak of memory is that of one window length.
In the first pass the system provides the memory page by page; later passes reuse it.
"""

from __future__ import annotations

import argparse
import json
import os

# Before torch is imported: on a shared machine a waiting thread should sleep and not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import resource
import subprocess
import sys
from functools import partial

import torch
from timing import add_flags, machine, table, wall_clock
from torch import Tensor

from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.diffusion import MDLM
from dnadiff.files import write_json
from dnadiff.memory import keep_freed_memory


def main(arguments: list[str] | None = None) -> dict:
    """Measures, prints a table, and returns what --json writes."""
    options = parse(arguments)
    if options.one:
        result = one(options)
        print(json.dumps(result))
        return result

    torch.set_num_threads(options.threads)
    runs = []
    for precision in ("float32", "bfloat16"):
        runs += [in_a_process(options, precision, window) for window in options.windows]
    model = f"Caduceus-PS {options.d_model} x {options.n_layer}"
    result = {"model": model, **machine(), "runs": runs}

    what = "loss and backward" if options.backward else "forward"
    print(f"{result['model']}, {what}, {result['threads']} threads")
    rows = [["", "window", "windows", "bases/s at first", "bases/s", "peak GiB"]]
    for run in runs:
        speeds = f"{run['bases_per_second_at_first']:,.0f}", f"{run['bases_per_second']:,.0f}"
        window, peak = f"{run['window']:,}", f"{run['peak'] / 2**30:.2f}"
        rows.append([run["precision"], window, str(run["batch"]), *speeds, peak])
    print(table(rows))
    if options.json:
        write_json(options.json, result)
    return result


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parses the flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--d-model", type=int, default=118)
    parser.add_argument("--n-layer", type=int, default=4)
    parser.add_argument("--windows", type=int, nargs="+", default=[1024, 8192, 131072])
    parser.add_argument("--bases", type=int, default=16384, help="least bases of a pass (16384)")
    parser.add_argument("--backward", action="store_true", help="the MDLM loss and its gradients")
    add_flags(parser, repeats=3)
    parser.add_argument("--one", choices=("float32", "bfloat16"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def in_a_process(options: argparse.Namespace, precision: str, window: int) -> dict:
    """Returns what `one` measures in a new process."""
    command = [sys.executable, __file__, "--one", precision, "--windows", str(window)]
    for name in ("d_model", "n_layer", "bases", "repeats", "threads"):
        command += ["--" + name.replace("_", "-"), str(getattr(options, name))]
    if options.backward:
        command.append("--backward")
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def one(options: argparse.Namespace) -> dict:
    """Measures one precision and one window length in this process.

    Returns bases per second of the first pass and of the best later one, and this process's peak of
    memory in bytes.
    """
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as dnadiff's commands do
    (window,) = options.windows
    batch = max(1, options.bases // window)

    torch.manual_seed(0)
    config = CaduceusConfig(d_model=options.d_model, n_layer=options.n_layer)
    denoiser = LMDenoiser(CaduceusLM(config))
    tokens = torch.randint(7, 11, (batch, window))
    run = partial(backward if options.backward else forward, denoiser, options.one == "bfloat16")
    run(tokens[:1, :64])  # compiles, and takes hardly any memory
    first, *later = (wall_clock(partial(run, tokens)) for _ in range(1 + options.repeats))
    return {
        "precision": options.one,
        "window": window,
        "batch": batch,
        "bases_per_second_at_first": 1e3 * batch * window / first,
        "bases_per_second": 1e3 * batch * window / min(later),
        # The system counts kibibytes.
        "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def forward(denoiser: LMDenoiser, half: bool, tokens: Tensor) -> None:
    """Runs a pass without gradients."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        denoiser(tokens)


def backward(denoiser: LMDenoiser, half: bool, tokens: Tensor) -> None:
    """Computes a loss and its gradients."""
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = MDLM().loss(denoiser, tokens)
    loss.value.backward()
    denoiser.zero_grad()


if __name__ == "__main__":
    main()
