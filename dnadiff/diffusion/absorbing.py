"""Absorbing noise: chooses which bases to mask, and computes their terms of the bound.

Write u for the mask rate and n for the number of scorable bases. Let c(u) be n times the expected
cross-entropy of a masked base while each other base is masked with probability u. Then the bound of
masked diffusion is the integral of c(u) over u from 0 to 1.

Masking one base for certain and each other base with probability u (`forced_one`) estimates c(u)
without a weight 1/u and without empty masks. If u is also uniform, then the number of masked bases
is uniform on 1..n, so that number can be drawn first (`exact_count`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor


class Hidden(NamedTuple):
    """The masked bases of a batch.

    Attributes:
        mask: (B, L) bool, True where a base is masked.
        rate: (B,) float64, the mask rate u, for networks with time conditioning.
        factor: (B,) float64; the estimate of the bound is this factor times the sum of the
            cross-entropies of the masked bases.
    """

    mask: Bool[Tensor, "B L"]
    rate: Float64[Tensor, " B"]
    factor: Float64[Tensor, " B"]


def hide(
    scorable: Bool[Tensor, "B L"], count: Int64[Tensor, " B"], keys: Float64[Tensor, "B L"]
) -> Hidden:
    """Masks exactly `count` of the scorable positions of each row: those with the smallest keys.

    The rate is the largest of their keys. For a count k out of n it follows Beta(k, n - k + 1) and
    does not depend on which positions are masked. That is also the distribution of t given k when t
    is uniform, one base is masked for certain and each other with probability t. So the rate is the
    time to give to a network with time conditioning.

    Args:
        scorable: (B, L) bool.
        count: (B,) int64, from 1 to the number of scorable positions; not used where that is 0.
        keys: (B, L) float64, uniform on (0, 1).
    """
    # Keys above 1 come last in the order, so positions that are not scorable are never masked.
    keys = keys.masked_fill(~scorable, 2.0)
    rate = keys.sort(1).values.gather(1, (count - 1)[:, None])[:, 0]
    mask = (keys <= rate[:, None]) & scorable
    # A row without scorable positions has the rate 2; no time is above 1.
    return Hidden(mask, rate.clamp(max=1.0 - 2.0**-52), scorable.sum(1).double() / count)


def exact_count(
    scorable: Bool[Tensor, "B L"], quantile: Float64[Tensor, " B"], keys: Float64[Tensor, "B L"]
) -> Hidden:
    """Masks k = 1 + floor(n quantile) of the n scorable positions of each row; see `hide`.

    Args:
        scorable: (B, L) bool.
        quantile: (B,) float64 in [0, 1), uniform.
        keys: (B, L) float64, uniform on (0, 1).
    """
    n = scorable.sum(1)
    # n times a quantile just below 1 may be rounded up to n.
    others = (n * quantile.double()).long().clamp(max=(n - 1).clamp(min=0))
    return hide(scorable, 1 + others, keys)


def forced_one(
    scorable: Bool[Tensor, "B L"],
    rate: Float64[Tensor, " B"],
    keys: Float64[Tensor, "B L"],
    chosen: Float64[Tensor, " B"],
) -> Hidden:
    """Masks one base for certain and each other with probability `rate`, to estimate c(rate).

    Args:
        scorable: (B, L) bool.
        rate: (B,) float64.
        keys: (B, L) float64, uniform on (0, 1).
        chosen: (B,) float64, uniform on (0, 1), for the choice of the base that is masked for
            certain.
    """
    n = scorable.sum(1)
    number = (n * chosen.double()).long().clamp(max=(n - 1).clamp(min=0))
    certain = scorable & (scorable.cumsum(1) == number[:, None] + 1)
    mask = (keys < rate[:, None]) & scorable | certain
    return Hidden(mask, rate, n.double() / mask.sum(1).clamp(min=1))


def cross_entropy(
    log_p: Float[Tensor, "B L K"], letters: Int64[Tensor, "B L"]
) -> Float[Tensor, "B L"]:
    """Returns -log p (B, L) of letter indices (B, L) under log-probabilities log_p (B, L, K)."""
    return -log_p.gather(-1, letters[..., None])[..., 0]


def mask_output_cost(
    log_p: Float[Tensor, "B L outputs"],
    letters: Int64[Tensor, "B L"],
    rate: Float64[Tensor, " B"],
    earlier: Float64[Tensor, " B"] | None,
) -> Float64[Tensor, "B L"]:
    """Returns the cost (B, L) of a masked base for a network with an output x_m for the mask.

    This is D3PM with absorbing noise (Austin et al. 2021). For the reverse step from mask rate u to
    v < u, the Kullback-Leibler divergence at a masked position is (u - v)/u times

        -log p(x0) + log((u - v)/u) + (v / (u - v)) (log(v/u) - log p(m)),

    with the network's output x plugged into q(z_s | z_t = m, x):

        log p(b) = log(u - v) + log x_b - log(u + (1-u) x_m)
        log p(m) = log(v + (1-v) x_m) - log(u + (1-u) x_m).

    As v -> u this becomes the cost in continuous time. If x_m = 0, both are -log x_x0.

    Args:
        log_p: (B, L, K + 1) log-probabilities, the mask last.
        letters: (B, L) letter indices.
        rate: (B,) u.
        earlier: (B,) v, or None for continuous time.
    """
    # The share (u - v)/u of one of many steps is small: float32 would leave it few digits.
    log_p = log_p.double()
    log_x = log_p.gather(-1, letters[..., None])[..., 0]
    x_m = log_p[..., -1].exp()
    u = rate[:, None]
    # log(u + (1-u) x_m) - log u = log(1 + (1-u) x_m / u), and the same with v: no 0 * inf at v = 0.
    stay = torch.log1p((1 - u) * x_m / u)
    if earlier is None:
        return stay - log_x + u * (1 - x_m) / (u + (1 - u) * x_m) - 1.0
    v = earlier[:, None]
    # At v = 0 the last bracket is 0; the clamp keeps its gradient finite.
    still = torch.log1p((1 - v) * x_m / v.clamp(min=1e-300))
    return stay - log_x + torch.where(v > 0, v / (u - v) * (stay - still), 0.0)
