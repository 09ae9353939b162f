"""Times a training step and a forward pass of Caduceus-PS, and of the same network on mambapy.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --batch 32 --json step.json

A step is the MDLM loss, backward, clipping and AdamW, on random bases. The peer is the same network
with the same weights, whose mixers are PyTorch's operations and mambapy's parallel scan. It runs on
fewer windows at a time, because it is slow and takes much memory; ratios are of time per base. A
roofline follows: the time of multiplications, exponentials and memory traffic at the rates that
this machine reaches on each alone.
"""

from __future__ import annotations

import argparse
import os

# OpenMP reads this when torch is imported: waiting threads must not spin on a shared machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from timing import Others, add_flags, exponentials, machine, measure, summary, table
from torch import Tensor, nn
from torch.nn import functional as F

from dnadiff.backbones import caduceus
from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.diffusion import MDLM
from dnadiff.files import write_json
from dnadiff.memory import keep_freed_memory
from dnadiff.ops import DirectionWeights

_OUR_MIXER = caduceus.mamba_mixer_fn


def main(arguments: list[str] | None = None) -> dict:
    """Measures, prints, and returns what --json would write."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as `dnadiff pretrain` does; it helps the peer too
    config = CaduceusConfig(d_model=options.d_model, n_layer=options.n_layer)
    bases = {
        "dnadiff, float32": options.batch * options.window,
        "dnadiff, bfloat16": options.batch * options.window,
    }
    if not options.alone:
        bases["mambapy, float32"] = options.peer_batch * options.window
        check_agreement(config, options.window)
    makers = {"training step": partial(training_step, config), "forward": partial(forward, config)}
    times = {}
    with Others() as others:
        for name, make in makers.items():
            runs = {
                run: make(run, count // options.window, options.window)
                for run, count in bases.items()
            }
            # The first call compiles the kernels and allocates the memory of every tensor.
            for run in runs.values():
                run()
            times[name] = summary(measure(runs, options.repeats), bases)
    result = {
        "model": f"Caduceus-PS {options.d_model} x {options.n_layer}",
        "window": options.window,
        "bases": bases,
        **machine(),
        "cores used by others": others.cores,
        "times": times,
        "roofline": roofline(config, options.batch * options.window),
    }
    report(result, str(others))
    if options.json:
        write_json(options.json, result)
    return result


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Returns the flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--d-model", type=int, default=118)
    parser.add_argument("--n-layer", type=int, default=4)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=16, help="windows of dnadiff's step (16)")
    parser.add_argument("--peer-batch", type=int, default=1, help="windows of the peer's step (1)")
    parser.add_argument("--alone", action="store_true", help="without mambapy")
    add_flags(parser, repeats=7)
    return parser.parse_args(arguments)


def training_step(config: CaduceusConfig, run: str, batch: int, window: int) -> Callable[[], float]:
    """Returns a function that takes one step and returns its loss."""
    denoiser, objective, tokens = network(config), MDLM(), random_bases(batch, window)
    optimiser = torch.optim.AdamW(denoiser.parameters(), lr=1e-3, betas=(0.9, 0.95))

    def step() -> float:
        with mixer_of(run), torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in run):
            loss = objective.loss(denoiser, tokens)
        with mixer_of(run):
            loss.value.backward()
        nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return loss.nats_per_base.item()

    return step


def forward(config: CaduceusConfig, run: str, batch: int, window: int) -> Callable[[], Tensor]:
    """Returns a function that makes one forward pass and returns the logits."""
    denoiser, tokens = network(config), random_bases(batch, window)

    def logits() -> Tensor:
        with (
            torch.no_grad(),
            mixer_of(run),
            torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in run),
        ):
            return denoiser(tokens)

    return logits


def network(config: CaduceusConfig) -> LMDenoiser:
    """Returns the network, always with the same weights."""
    torch.manual_seed(0)
    return LMDenoiser(CaduceusLM(copy.deepcopy(config)))


def random_bases(batch: int, window: int) -> Tensor:
    """Returns token ids (batch, window), always the same."""
    return torch.randint(7, 11, (batch, window), generator=torch.Generator().manual_seed(0))


@contextmanager
def mixer_of(run: str) -> Iterator[None]:
    """Makes Caduceus use the mixer of a run inside the block."""
    caduceus.mamba_mixer_fn = mambapy_mixer if "mambapy" in run else _OUR_MIXER
    try:
        yield
    finally:
        caduceus.mamba_mixer_fn = _OUR_MIXER


def mambapy_mixer(
    x: Tensor,
    in_weight: Tensor,
    in_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    directions: Sequence[DirectionWeights],
) -> Tensor:
    """Computes `dnadiff.ops.mamba_mixer_fn` by PyTorch's operations and mambapy's scan."""
    try:
        from mambapy.mamba import MambaBlock
    except ImportError:
        raise SystemExit(
            "mambapy is not installed: pip install mambapy, or run with --alone"
        ) from None

    u, z = F.linear(x, in_weight, in_bias).chunk(2, -1)
    total = torch.zeros_like(u)
    for w in directions:
        # A reverse direction is a forward one on the flipped sequence.
        c = (u.flip(1) if w.reverse else u).mT
        c = F.pad(c, (w.conv_weight.shape[1] - 1, 0))
        c = F.silu(F.conv1d(c, w.conv_weight[:, None], w.conv_bias, groups=len(w.D))).mT
        rank, states = w.dt_proj.shape[1], w.A.shape[1]
        dt, b, c_out = F.linear(c, w.x_proj).split([rank, states, states], -1)
        delta = F.softplus(F.linear(dt, w.dt_proj, w.dt_bias))
        y = MambaBlock.selective_scan(None, c, delta, w.A, b, c_out, w.D)
        total = total + (y.flip(1) if w.reverse else y)
    return F.linear(total * F.silu(z), out_weight, out_bias)


def check_agreement(config: CaduceusConfig, window: int) -> None:
    """Refuses to time two different networks."""
    ours, peer = (
        forward(config, run, 1, window)() for run in ("dnadiff, float32", "mambapy, float32")
    )
    error = torch.linalg.vector_norm(ours - peer) / torch.linalg.vector_norm(peer)
    if error > 1e-4:
        raise SystemExit(f"the two networks differ by {error:.1e}")


def roofline(config: CaduceusConfig, bases: int) -> dict:
    """Returns the seconds of a training step and a forward pass at the measured rates.

    Per position and strand a layer multiplies d by 2 D, D by R + 2 N for each direction, and D by
    d; backward does twice that. It takes N + 2 exponentials per channel and direction and a gate,
    and backward takes them again. Memory counts each tensor of the size of D or 2 D once per
    reading or writing that cannot be avoided.

    Args:
        config: of the network; d, D, R and N above are d_model, d_inner, dt_rank and d_state.
        bases: of a batch.
    """
    d, inner = config.d_model, config.d_inner
    states = config.ssm_cfg.d_state

    # Per position and strand.
    multiply_adds = d * 2 * inner + 2 * inner * (config.dt_rank + 2 * states) + inner * d
    exponentials = inner * (2 * (states + 2) + 1)
    numbers = {
        "forward": 4 * d + inner * (2 + 2 * (1 + 1 + 1 + 1) + 4),
        "backward": 8 * d + inner * (4 + 2 * 9 + 4),
    }

    # Both strands pass through every layer.
    positions = 2 * bases * config.n_layer
    rate = rates(d, inner)
    result: dict = {"rates": rate}
    for run, size in (("float32", 4), ("bfloat16", 2)):
        for name, multiplied, raised, moved in (
            ("forward", 1, 1, numbers["forward"]),
            ("training step", 3, 2, numbers["forward"] + numbers["backward"]),
        ):
            parts = {
                "multiplying": positions
                * multiplied
                * multiply_adds
                / rate[f"{run} multiply-adds"],
                "exponentials": positions * raised * exponentials / rate["exponentials"],
                "memory": positions * moved * size / rate["bytes"],
            }
            result[f"{name}, {run}"] = {**parts, "sum": sum(parts.values()), "bases": bases}
    return result


def rates(d: int, inner: int) -> dict[str, float]:
    """Returns, per second: multiply-adds, exponentials of our own kernel, and bytes copied.

    The product has the shape of the first projection, d by 2 D.
    """
    positions = 32_768
    result = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, w = torch.randn(positions, d).to(dtype), torch.randn(2 * inner, d).to(dtype)
        out = torch.empty(positions, 2 * inner, dtype=dtype)
        seconds = best(partial(torch.mm, x, w.mT, out=out))
        result[f"{str(dtype).removeprefix('torch.')} multiply-adds"] = (
            positions * d * 2 * inner / seconds
        )
    count = 2**27
    result["exponentials"] = count / best(partial(exponentials, count))
    source = torch.randn(2**26)
    result["bytes"] = 2 * 4 * source.numel() / best(partial(torch.empty_like(source).copy_, source))
    return result


def best(run: Callable[[], object]) -> float:
    """Returns the seconds of the best of several runs, without the first, which warms up."""
    times = []
    for _ in range(8):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def report(result: dict, others: str) -> None:
    """Prints the tables."""
    print(f"{result['model']}, windows of {result['window']:,} bases, {result['threads']} threads")
    rows = [["", "", "bases/s", "best", "ms", "times slower", "95 % interval"]]
    for name, runs in result["times"].items():
        for run, row in runs.items():
            bases = result["bases"][run]
            ratio = ["", ""]
            if "ratio" in row:
                ratio = [f"{row['ratio']:.1f}", "{:.1f} to {:.1f}".format(*row["interval"])]
            rates = [f"{1e3 * bases / row[key]:,.0f}" for key in ("median", "best")]
            rows.append([name, run, *rates, f"{row['median']:.0f}", *ratio])
    print(table(rows))
    # A measurement counts for little if others used the cores meanwhile.
    print(f"other processes: {others}\n")
    roof = dict(result["roofline"])
    rate = roof.pop("rates")
    print(
        f"roofline: {rate['float32 multiply-adds'] / 1e9:.0f} (float32) and "
        f"{rate['bfloat16 multiply-adds'] / 1e9:.0f} (bfloat16) billion multiply-adds, "
        f"{rate['exponentials'] / 1e9:.1f} billion exponentials, {rate['bytes'] / 1e9:.0f} GB per "
        "second"
    )
    rows = [
        ["", "", "multiplying ms", "exponentials ms", "memory ms", "sum ms", "bases/s", "reached"]
    ]
    for name, row in roof.items():
        what, dtype = name.split(", ")
        measured = result["times"][what][f"dnadiff, {dtype}"]["median"]
        parts = [
            f"{1e3 * row[part]:.0f}" for part in ("multiplying", "exponentials", "memory", "sum")
        ]
        rows.append(
            [
                what,
                dtype,
                *parts,
                f"{row['bases'] / row['sum']:,.0f}",
                f"{1e5 * row['sum'] / measured:.0f} %",
            ]
        )
    print(table(rows))


if __name__ == "__main__":
    main()
