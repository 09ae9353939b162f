"""Measures the size and speed of the backbones: forward, training step, left-to-right sampling.

    python benchmarks/backbones.py
    python benchmarks/backbones.py --only mamba hyena --json backbones.json

Each backbone has the size of the paper's model, or as many parameters. A step is the loss of its
objective (autoregressive for causal backbones, MDLM for others), backward, clipping and AdamW, on
random bases.

Sampling is timed for Mamba: one base for each of --samples sequences by its recurrent form, and by
a pass over the whole prefix. The latter is timed at a few lengths spread evenly over the window.
With --threads 1 CPU time is measured, on which other processes have little influence.
"""

from __future__ import annotations

import argparse
import os

# Before torch is imported: on a shared machine a waiting thread should sleep and not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import time
from collections.abc import Callable

import torch
from timing import Others, add_flags, machine, measure, summary, table, wall_clock
from torch import Tensor, nn

from dnadiff.backbones.caduceus import CaduceusConfig, CaduceusLM
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.backbones.hyena import HyenaConfig, HyenaLM
from dnadiff.backbones.language_model import LanguageModel
from dnadiff.backbones.transformer import TransformerConfig, TransformerLM
from dnadiff.diffusion import MDLM, Autoregressive
from dnadiff.files import write_json
from dnadiff.memory import keep_freed_memory

BACKBONES: dict[str, Callable[[], LanguageModel]] = {
    "caduceus-ps": lambda: CaduceusLM(CaduceusConfig()),
    "caduceus-ph": lambda: CaduceusLM(CaduceusConfig(rcps=False)),
    "mamba": lambda: CaduceusLM(CaduceusConfig(128, 4, rcps=False, bidirectional=False)),
    "hyena": lambda: HyenaLM(HyenaConfig()),
    "transformer": lambda: TransformerLM(TransformerConfig()),
    "causal transformer": lambda: TransformerLM(TransformerConfig(causal=True)),
}
_PREFIXES = 8  # lengths at which a pass over the prefix is timed


def main(arguments: list[str] | None = None) -> dict:
    """Measures, prints a table, and returns what --json writes."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as `dnadiff pretrain` does
    networks = {name: LMDenoiser(BACKBONES[name]()) for name in options.only}
    tokens = random_bases(options.batch, options.window)
    makers = {"forward": forward, "training step": training_step}

    with Others() as others:
        times = {}
        for what, make in makers.items():
            runs = {name: make(denoiser, tokens) for name, denoiser in networks.items()}
            for run in runs.values():  # compiles, and has the system provide memory
                run()
            times[what] = summary(measure(runs, options.repeats, clock(options)))
        sampled = {name: sampling(d, options) for name, d in networks.items() if d.recurrent}

    result = {
        "bases": tokens.numel(),
        "params": {name: sum(p.numel() for p in d.parameters()) for name, d in networks.items()},
        **machine(),
        "cores used by others": others.cores,
        "times": times,
        "sampled bases per second": sampled,
    }
    report(result, options, str(others))
    if options.json:
        write_json(options.json, result)
    return result


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parses the flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", nargs="+", choices=list(BACKBONES), default=list(BACKBONES), help="default: all"
    )
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=16, help="windows of a step (16)")
    parser.add_argument("--samples", type=int, default=64, help="sequences sampled together (64)")
    add_flags(parser, repeats=5)
    return parser.parse_args(arguments)


def clock(options: argparse.Namespace) -> Callable[[Callable[[], object]], float]:
    """Returns the clock: CPU time on one thread, else wall-clock time."""
    return processor_time if options.threads == 1 else wall_clock


def processor_time(run: Callable[[], object]) -> float:
    """Returns the milliseconds of CPU time that a call takes."""
    start = time.process_time()
    run()
    return 1e3 * (time.process_time() - start)


def forward(denoiser: LMDenoiser, tokens: Tensor) -> Callable[[], Tensor]:
    """Returns a function that makes one forward pass."""

    def logits() -> Tensor:
        with torch.no_grad():
            return denoiser(tokens)

    return logits


def training_step(denoiser: LMDenoiser, tokens: Tensor) -> Callable[[], float]:
    """Returns a function that makes one training step and returns the loss."""
    objective = Autoregressive() if denoiser.causal else MDLM()
    optimiser = torch.optim.AdamW(denoiser.parameters(), lr=1e-3, betas=(0.9, 0.95))

    def step() -> float:
        loss = objective.loss(denoiser, tokens)
        loss.value.backward()
        nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return loss.nats_per_base.item()

    return step


@torch.no_grad()
def sampling(denoiser: LMDenoiser, options: argparse.Namespace) -> dict[str, float]:
    """Returns bases per second by the recurrent form, and by passes over the whole prefix."""
    tokens = random_bases(options.samples, options.window)
    _, state = denoiser.begin(options.samples)
    # The middles of equal parts of the window, whose mean cost is that of all prefixes.
    ends = [options.window * (2 * i + 1) // (2 * _PREFIXES) + 1 for i in range(_PREFIXES)]
    prefixes = [tokens[:, :end] for end in ends]

    def steps() -> None:
        memory = state
        for i in range(_PREFIXES):
            _, memory = denoiser.step(tokens[:, i], memory)

    def calls() -> None:
        for prefix in prefixes:
            denoiser(prefix)

    steps()  # compiles, and has the system provide memory
    runs = {"recurrent": steps, "full passes": calls}
    times = summary(measure(runs, options.repeats, clock(options)))
    return {name: 1e3 * _PREFIXES * options.samples / row["median"] for name, row in times.items()}


def random_bases(batch: int, window: int) -> Tensor:
    """Returns token ids (batch, window) of random bases."""
    return torch.randint(7, 11, (batch, window), generator=torch.Generator().manual_seed(0))


def report(result: dict, options: argparse.Namespace, others: str) -> None:
    """Prints the tables."""
    print(
        f"{options.batch} windows of {options.window:,} bases, float32, {result['threads']} threads"
    )
    rows = [["", "parameters", "forward bases/s", "best", "training bases/s", "best"]]
    for name, params in result["params"].items():
        rates = []
        for row in result["times"].values():
            rates += [1e3 * result["bases"] / row[name][key] for key in ("median", "best")]
        rows.append([name, f"{params:,}", *(f"{rate:,.0f}" for rate in rates)])
    print(table(rows))
    for name, row in result["sampled bases per second"].items():
        recurrent, full = f"{row['recurrent']:,.0f}", f"{row['full passes']:,.0f}"
        print(f"{name}, {options.samples} sequences: {recurrent} bases/s by its recurrent form,")
        print(f"  {full} by full passes (mean over a window of {options.window:,})")
    print(f"other processes: {others}")


if __name__ == "__main__":
    main()
