"""Times sampling with five constraints and without any, from a denoiser that costs next to nothing.

    python benchmarks/constraints.py
    python benchmarks/constraints.py --rows 64 --steps 64

The difference is the cost of the constraints. `tests/sampling/test_constraints.py` checks that none
is violated.
"""

from __future__ import annotations

import argparse
import os

# Before torch is imported: a waiting thread should not spin on a shared machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from functools import partial

import torch
from timing import Others, add_flags, machine, measure, summary, table, time_rows
from torch import Tensor

from dnadiff.files import write_json
from dnadiff.sampling import Constraints, free_template, sample

FIVE = {
    "avoid": ["BsaI", "BsmBI", "EcoRI", "BamHI", "NotI"],
    "gc": ["0.4:0.6", "0.3:0.7:50"],
    "max_homopolymer": 6,
    "unique_kmer": 20,
    "require": ["TATAAAAG"],
}


class Neighbours:
    """A denoiser that looks up logits in a table of the two neighbours of each position."""

    causal, needs_sigma, outputs = False, False, 4

    def __init__(self) -> None:
        self.table = torch.randn(12, 12, 4, generator=torch.Generator().manual_seed(0)) / 2

    def __call__(
        self,
        tokens: Tensor,
        sigma: Tensor | None = None,
        label: Tensor | None = None,
        token_probs: Tensor | None = None,
    ) -> Tensor:
        """Returns logits (B, L, 4) of tokens (B, L)."""
        around = torch.nn.functional.pad(tokens, (1, 1), value=4)
        return self.table[around[:, :-2], around[:, 2:]]


def main(arguments: list[str] | None = None) -> dict:
    """Measures, prints the table, and returns what --json writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1000, help="sequences (1000)")
    parser.add_argument("--length", type=int, default=1024, help="bases of each (1024)")
    parser.add_argument("--steps", type=int, default=128, help="calls of the denoiser (128)")
    add_flags(parser, repeats=5)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    draw = partial(
        sample, Neighbours(), free_template(options.rows, options.length), steps=options.steps
    )
    runs = {"without": draw, "with": partial(draw, constraints=Constraints(**FIVE))}
    # The first call of each compiles its kernels.
    for run in runs.values():
        run()
    with Others() as others:
        times = {"sampling": summary(measure(runs, options.repeats))}
    print(
        f"{options.rows} sequences of {options.length} bases, {options.steps} steps,"
        f" {options.threads} threads"
    )
    print(table(time_rows(times)))
    print(f"other processes: {others}")
    result = {**machine(), "cores used by others": others.cores, "times": times}
    if options.json:
        write_json(options.json, result)
    return result


if __name__ == "__main__":
    main()
