"""Measures the variance of the estimators of the masked-diffusion bound, and of their gradients.

    python benchmarks/estimators.py RUN [--windows 64] [--draws 64] [--steps 48]

On the network of a finished run, at equal numbers of network calls:

1. bounds: for each estimator, the standard deviation over draws of one test window's bound in nats
   per base. Its mean minus that of the exact-count estimator shows its bias.
2. gradients: the variance of a step's gradient, summed over all weights and divided by that of
   independent exact counts; over the masks with the same windows, and over masks and windows. Pairs
   of masks take two calls, so a step with the same number of calls has half the windows. Errors are
   standard errors over four blocks of steps, and four blocks give only a rough one.

Windows and network are fixed here, and only the random masks vary. So these errors are about the
estimators, and not about a genome: there are none over blocks of the genome.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import dnadiff
from dnadiff.diffusion import MDLM, Draw, Objective
from dnadiff.progress import bar
from dnadiff.rng import Stream, uniform
from dnadiff.training.data import read_data
from dnadiff.training.recipe import Recipe

BOUNDS = {
    "exact count": MDLM(),
    "exact count, complementary pairs": MDLM(complementary=True),
    "time, weight 1/t": MDLM(estimator="time"),
    "time, cosine": MDLM(estimator="time", schedule="cosine"),
    "as published": MDLM(estimator="published"),
}
GRADIENTS: dict[str, tuple[MDLM, bool]] = {
    "exact count, independent": (MDLM(), False),
    "exact count, spread over the rows": (MDLM(), True),
    "the same, complementary pairs": (MDLM(complementary=True), True),
    "as published, independent": (MDLM(estimator="published"), False),
    "as published, spread over the rows": (MDLM(estimator="published"), True),
}


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--windows", type=int, default=64, help="test windows of the first table")
    parser.add_argument("--draws", type=int, default=64, help="network calls for each")
    parser.add_argument(
        "--batch", type=int, default=16, help="network rows of a training step, second table"
    )
    parser.add_argument("--steps", type=int, default=48, help="steps whose gradients are compared")
    options = parser.parse_args()
    recipe, model = Recipe.read(options.run / "config.yaml"), dnadiff.load(options.run)
    data = read_data(recipe, lambda text: None, quiet=True)
    tokens = data.held_out["test"].tokens(slice(0, options.windows)).to(model.device)
    print(bound_table(model.denoiser, tokens, options.draws))
    windows = lambda index: data.train.tokens(index).to(model.device)  # noqa: E731
    print(gradient_table(model.denoiser, windows, options.batch, options.steps))


def bound_table(denoiser: torch.nn.Module, tokens: Tensor, calls: int) -> str:
    """Returns a table of the standard deviation for one call and the bias of each estimator."""
    lines = [
        f"{len(tokens)} windows of {tokens.shape[1]:,} bases, {calls} calls each, the same windows"
        " for all estimators\n",
        "| estimator | sd of one call, nats per base | mean minus exact count |",
        "|---|---|---|",
    ]
    reference = None
    for name, objective in BOUNDS.items():
        per_draw = 2 if objective.complementary else 1
        values = torch.stack(
            [one_draw(denoiser, objective, tokens, i) for i in bar_range(calls // per_draw, name)]
        )
        # A pair is two calls: its sd is that of a mean of two.
        sd = values.var(0).mean().mul(per_draw).sqrt()
        means = values.mean(0)
        reference = means if reference is None else reference
        shift = means - reference
        error = (values.var(0) / len(values)).mean().div(len(tokens)).sqrt()
        bias = "" if name == "exact count" else f"{shift.mean():+.4f} ± {error:.4f}"
        lines.append(f"| {name} | {sd:.4f} | {bias} |")
    return "\n".join(lines) + "\n"


@torch.no_grad()
def one_draw(
    denoiser: torch.nn.Module, objective: Objective, tokens: Tensor, number: int
) -> Tensor:
    """Returns nats per base (B,) from one draw, independent of all others."""
    index = torch.arange(len(tokens), device=tokens.device)
    quantile = uniform(0, Stream.COUNT, index, 1, step=number)[:, 0]
    terms = objective.per_token_nelbo(denoiser, tokens, Draw(quantile, 0, number, index))
    return terms.double().sum(1) / objective.alphabet.scorable(tokens).sum(1)


def gradient_table(
    denoiser: torch.nn.Module, windows: Callable[[Tensor], Tensor], rows: int, steps: int
) -> str:
    """Returns a table of the variance of the gradient for each way to draw the masks of a step.

    Each is relative to the first. The two columns have the same windows in every step, and new
    ones.
    """
    lines = [
        f"gradients of {steps} steps of {rows} network rows, relative to the first line\n",
        "| masks of a step | variance over masks | variance over masks and windows |",
        "|---|---|---|",
    ]
    first: list[float] = []
    for name, (objective, spread) in GRADIENTS.items():
        # With pairs of masks half the windows take the same number of calls.
        count = rows // 2 if objective.complementary else rows
        cells = []
        for kind, fresh in enumerate((False, True)):
            loss = partial(step_loss, denoiser, objective, windows, count, spread, fresh)
            value, error = gradient_variance(denoiser, loss, steps, name)
            first += [value] if len(first) == kind else []
            cells.append(f"{value / first[kind]:.2f} ± {error / first[kind]:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def step_loss(
    denoiser: torch.nn.Module,
    objective: Objective,
    windows: Callable[[Tensor], Tensor],
    count: int,
    spread: bool,
    fresh: bool,
    step: int,
) -> Tensor:
    """Returns the loss of one step.

    Args:
        denoiser: the network.
        objective: of which the loss is.
        windows: returns the tokens (B, L) of training windows (B,).
        count: rows of the step.
        spread: whether mask counts are spread evenly over the rows, as in training, or independent.
        fresh: whether every step has new windows, or all steps the same.
        step: number of the step.
    """
    index = torch.arange(count)
    tokens = windows(index + fresh * step * count)
    if spread:
        return objective.loss(denoiser, tokens, seed=1, step=step).value
    quantile = uniform(1, Stream.COUNT, index.to(tokens.device), 1, step=step)[:, 0]
    nats = objective.per_token_loss(
        denoiser, tokens, Draw(quantile, 1, step, index.to(tokens.device))
    )
    return nats.sum() / objective.alphabet.scorable(tokens).sum()


def gradient_variance(
    denoiser: torch.nn.Module, loss: Callable[[int], Tensor], steps: int, name: str
) -> tuple[float, float]:
    """Returns the variance of the gradient, summed over weights, and its standard error.

    The standard error is over four blocks of steps.
    """
    blocks = []
    weights = list(denoiser.parameters())
    for block in range(4):
        total, squares, count = 0.0, 0.0, steps // 4
        for i in bar_range(count, f"{name} {block + 1}/4"):
            flat = torch.cat(
                [g.flatten() for g in torch.autograd.grad(loss(block * count + i), weights)]
            ).double()
            total, squares = total + flat, squares + float(flat.square().sum())
        # Sum of squares minus the square of the sum, without keeping every gradient.
        blocks.append((squares - float(total.square().sum()) / count) / (count - 1))
    values = torch.tensor(blocks)
    return float(values.mean()), float(values.std() / math.sqrt(4))


def bar_range(count: int, name: str) -> Iterator[int]:
    """Yields a range, with a progress bar."""
    with bar(name) as progress:
        for i in range(count):
            progress(i + 1, count)
            yield i


if __name__ == "__main__":
    main()
