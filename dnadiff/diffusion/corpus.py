"""A bound over a set of windows: the figure that is reported, with its standard error over windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dnadiff.diffusion.objective import Bound, BoundKind, Denoiser, conditioned


class CorpusBound(NamedTuple):
    """A bound on nats per base over windows: sum of nats over sum of bases, and its standard error over windows."""

    nats_per_base: float
    se: float
    windows: int
    bases: int
    bound: BoundKind

    @property
    def ppl(self) -> float:
        """Perplexity per base."""
        return math.exp(self.nats_per_base)

    def to_dict(self) -> dict[str, Any]:
        """As written into summary.json; a standard error that a single window cannot give is None."""
        return {**self._asdict(), "se": None if math.isnan(self.se) else self.se, "ppl": self.ppl}


def ratio(nats: Tensor, bases: Tensor) -> tuple[float, float]:
    """The ratio sum(nats) / sum(bases) over windows (W,) and its standard error (the delta method; NaN for one)."""
    nats, total = nats.double(), bases.sum().double()
    mean = nats.sum() / total
    if len(nats) < 2:
        return float(mean), math.nan
    residual = nats - mean * bases
    return float(mean), float(
        residual.square().sum().mul(len(nats) / (len(nats) - 1)).sqrt() / total
    )


def summarise(bound: Bound) -> CorpusBound:
    """The figure for a set of windows; those without a letter count nothing.

    Raises:
        ValueError: if there is no scorable base at all.
    """
    known = bound.bases > 0
    if not known.any():
        raise ValueError("no window has a scorable base")
    mean, se = ratio(bound.nats[known], bound.bases[known])
    return CorpusBound(mean, se, int(known.sum()), int(bound.bases.sum()), bound.kind)


def corpus_bound(
    bound: Callable[..., Bound],
    denoiser: Denoiser,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    *,
    draws: int,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Bound:
    """The bound of each window of `batches`, on the CPU.

    Args:
        bound: an objective's method `bound`, or another with its arguments.
        denoiser: the network, in evaluation mode.
        batches: tokens (B, L) of windows in a fixed order, as the noise of each is a function of its place in it; and
            their classes (B,), or None for a bound without.
        draws: network calls for each window.
        seed: of the estimate.
        device: where the network is.
        progress: called with the number of windows done after each batch.

    Raises:
        ValueError: if there are no windows.
    """
    parts: list[Bound] = []
    done = 0
    for tokens, label in batches:
        index = torch.arange(done, done + len(tokens), device=device)
        asked = conditioned(denoiser, None if label is None else label.to(device))
        parts.append(bound(asked, tokens.to(device), draws=draws, seed=seed, index=index))
        done += len(tokens)
        if progress is not None:
            progress(done)
    if not parts:
        raise ValueError("no windows to evaluate")
    nats, se, bases = (
        torch.cat(column).cpu() for column in zip(*(part[:3] for part in parts), strict=True)
    )
    return Bound(nats, se, bases, parts[0].kind)
