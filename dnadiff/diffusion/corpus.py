"""Summarises a bound over windows: nats per base, with standard errors over windows and blocks.

Neighbouring windows of a genome resemble each other: all windows of a repeat, an isochore or a gene
family tend to be easy, or hard, to predict. The standard error over windows treats windows as
independent and is then too small, on real genomes by a factor of 1.5 to 3.6. The standard error
over blocks of `BLOCK_BASES` bases assumes only that different blocks are independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Int, Int64, Real
from torch import Tensor

from dnadiff.diffusion.objective import Bound, BoundKind, Denoiser, conditioned

BLOCK_BASES = 1_000_000
"""Length of a block, in bases; windows that start in the same one are treated as dependent."""


class CorpusBound(NamedTuple):
    """A bound on nats per base over a set of windows, with its standard errors.

    Attributes:
        nats_per_base: sum of nats over sum of bases.
        se: standard error over windows, NaN for a single window. It is right for independent
            windows.
        windows: number of windows with a scorable base.
        bases: number of scorable bases.
        bound: "upper", "exact" or "pseudo"; see `Bound`.
        se_blocks: standard error over blocks of the genome, right for windows that depend on each
            other within a block. None if the locations are not known or if there are fewer than two
            blocks. With fewer than about twenty it is itself uncertain, and tends to be too small.
        blocks: number of blocks; None if the locations are not known.
    """

    nats_per_base: float
    se: float
    windows: int
    bases: int
    bound: BoundKind
    se_blocks: float | None = None
    blocks: int | None = None

    @property
    def ppl(self) -> float:
        """Perplexity per base."""
        return math.exp(self.nats_per_base)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields and `ppl` as written into summary.json, with None for NaN."""
        se = None if math.isnan(self.se) else self.se
        return {**self._asdict(), "se": se, "ppl": self.ppl}


def ratio(
    nats: Real[Tensor, " W"],
    bases: Real[Tensor, " W"],
    groups: Int[Tensor, " W"] | None = None,
) -> tuple[float, float]:
    """Returns the ratio R = sum(nats) / sum(bases) and its standard error.

    With the residual e_i = nats_i - R bases_i of window i, and E_g the sum of e_i over the windows
    of group g,

        se^2 = G / (G - 1) * sum over g of E_g^2 / (sum of bases)^2,

    where G is the number of groups. This is the linearised variance of a ratio of totals in cluster
    sampling (Cochran 1977, Sampling Techniques, chapters 6 and 9A). It is also the cluster-robust
    variance of a weighted mean with the small-sample factor G / (G - 1) (Cameron and Miller 2015,
    Journal of Human Resources 50:317). Without groups each window is its own group.

    Args:
        nats: (W,) nats of each window; differences of two models for a paired comparison.
        bases: (W,) scorable bases of each window.
        groups: (W,) int64, the group of each window; windows of different groups are taken to be
            independent.

    Returns:
        Nats per base, and the standard error in nats per base: NaN if there are fewer than two
        groups.
    """
    nats, bases = nats.double(), bases.double()
    total = bases.sum()
    mean = nats.sum() / total
    residual = nats - mean * bases

    if groups is not None:
        # Summing within groups first keeps the covariances of windows of one group, and drops all
        # others.
        labels, group = groups.unique(return_inverse=True)
        residual = residual.new_zeros(len(labels)).index_add(0, group, residual)

    count = len(residual)
    if count < 2:
        return float(mean), math.nan
    # The residuals sum to zero, so one degree of freedom is lost, as in a sample variance.
    variance = residual.square().sum() * (count / (count - 1)) / total.square()
    return float(mean), float(variance.sqrt())


def block_numbers(locations: Sequence[tuple[Any, ...]]) -> Int64[Tensor, " W"]:
    """Returns the number (W,) int64 of the block in which each window starts, for `ratio`.

    Args:
        locations: (genome, chrom, start, end) of each window, or longer tuples that begin so, start
            0-based; a block has `BLOCK_BASES` bases.
    """
    # Equal chromosome names in two genomes are different blocks.
    blocks = [(genome, chrom, start // BLOCK_BASES) for genome, chrom, start, *_ in locations]
    number = {block: i for i, block in enumerate(dict.fromkeys(blocks))}
    return torch.tensor([number[block] for block in blocks], dtype=torch.int64)


def summarise(bound: Bound, locations: Sequence[tuple[Any, ...]] | None = None) -> CorpusBound:
    """Returns a bound over a set of windows; windows without a scorable base are left out.

    Args:
        bound: of each window.
        locations: (genome, chrom, start, end) of each window, in the order of `bound`, for the
            standard error over blocks. There may be more of them than windows in `bound`, since an
            evaluation with a time limit covers the first windows of its sample only.

    Raises:
        ValueError: if no window has a scorable base, or if there are fewer locations than windows.
    """
    known = bound.bases > 0
    if not known.any():
        raise ValueError("no window has a scorable base")
    nats, bases = bound.nats[known], bound.bases[known]
    mean, se = ratio(nats, bases)
    summary = CorpusBound(mean, se, len(nats), int(bases.sum()), bound.kind)
    if locations is None:
        return summary

    if len(locations) < len(known):
        raise ValueError(f"{len(known)} windows have only {len(locations)} locations")
    # Blocks are numbered before the windows without a base are left out, as `locations` has them.
    groups = block_numbers(locations[: len(known)]).to(known.device)[known]
    se_blocks = ratio(nats, bases, groups)[1]
    return summary._replace(
        se_blocks=None if math.isnan(se_blocks) else se_blocks, blocks=len(groups.unique())
    )


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
    """Returns the bound of each window of `batches`, on the CPU.

    Args:
        bound: an objective's method `bound`, or a function with the same arguments.
        denoiser: the network, in evaluation mode.
        batches: tokens (B, L) and classes (B,) of windows in a fixed order; None instead of the
            classes for a network without them, or for the unconditional bound. The random numbers
            of a window depend on its place in this order, not on the batches.
        draws: network calls for each window.
        seed: of the estimate.
        device: of the network.
        progress: called with the number of windows done after each batch.

    Raises:
        ValueError: if there are no windows.
    """
    parts: list[Bound] = []
    done = 0
    for tokens, label in batches:
        index = torch.arange(done, done + len(tokens), device=device)
        network = conditioned(denoiser, None if label is None else label.to(device))
        parts.append(bound(network, tokens.to(device), draws=draws, seed=seed, index=index))
        done += len(tokens)
        if progress is not None:
            progress(done)

    if not parts:
        raise ValueError("no windows to evaluate")
    columns = zip(*(part[:3] for part in parts), strict=True)
    nats, se, bases = (torch.cat(column).cpu() for column in columns)
    return Bound(nats, se, bases, parts[0].kind)
