"""Absorbing noise: letters turn into masks. Which ones to hide, and what a hidden letter costs.

Write u for the mask rate. With c(u) the number of letters times the expected cost of one that is hidden while every
other is hidden with probability u, the bound of masked diffusion is the integral of c over u from 0 to 1. Hiding one
letter for certain and the others at rate u ("forced one") estimates c(u) without a 1/u and without empty masks; drawing
u uniformly as well makes the number of hidden letters uniform on 1..n, which can then be drawn first ("exact count").
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Hidden(NamedTuple):
    """Which letters are hidden, at which noise level, and what a sum over them is worth.

    Attributes:
        mask: (B, L) bool.
        rate: (B,) float64, the mask rate u that the network is told.
        factor: (B,) float64: times the sum over hidden letters of their cost it estimates the bound.
    """

    mask: Tensor
    rate: Tensor
    factor: Tensor


def hide(scorable: Tensor, count: Tensor, keys: Tensor) -> Hidden:
    """Hides exactly `count` (B,) of the scorable positions of each row: those with the smallest keys.

    The rate is the largest of their keys. For uniform keys it is, given the count k of n, Beta(k, n-k+1) and
    independent of the mask's places: just the time that a time-conditioned network must be told, for if t ~ U(0,1), one
    letter is hidden for certain and each other with probability t, then t has this law given k.

    Args:
        scorable: (B, L) bool, the letters.
        count: (B,) int64, from 1 to their number; where there are none it means nothing.
        keys: (B, L) float64, uniform on (0, 1).
    """
    keys = keys.masked_fill(~scorable, 2.0)
    rate = keys.sort(1).values.gather(1, (count - 1)[:, None])[:, 0]
    mask = (keys <= rate[:, None]) & scorable
    return Hidden(mask, rate.clamp(max=1.0 - 2.0**-52), scorable.sum(1).double() / count)


def exact_count(scorable: Tensor, quantile: Tensor, keys: Tensor) -> Hidden:
    """Hides k = 1 + floor(n quantile) of the n scorable positions of each row, quantile (B,) in [0, 1); see `hide`."""
    n = scorable.sum(1)
    return hide(scorable, 1 + (n * quantile).long().clamp(max=(n - 1).clamp(min=0)), keys)


def forced_one(scorable: Tensor, rate: Tensor, keys: Tensor, chosen: Tensor) -> Hidden:
    """Hides one letter for certain, and each other with probability `rate` (B,): an estimate of c(rate).

    Args:
        scorable: (B, L) bool, the letters.
        rate: (B,) float64.
        keys: (B, L) float64, uniform on (0, 1).
        chosen: (B,) float64, uniform on (0, 1): which letter is hidden for certain.
    """
    n = scorable.sum(1)
    number = (n * chosen).long().clamp(max=(n - 1).clamp(min=0))
    certain = scorable & (scorable.cumsum(1) == number[:, None] + 1)
    mask = (keys < rate[:, None]) & scorable | certain
    return Hidden(mask, rate, n.double() / mask.sum(1).clamp(min=1))


def cross_entropy(log_p: Tensor, letters: Tensor) -> Tensor:
    """-log p (B, L) of letter indices (B, L) under log_p (B, L, K)."""
    return -log_p.gather(-1, letters[..., None])[..., 0]


def mask_output_cost(
    log_p: Tensor, letters: Tensor, rate: Tensor, earlier: Tensor | None
) -> Tensor:
    """Cost (B, L) of a hidden letter when the network may also answer "mask" (D3PM, Austin et al. 2021).

    Of the reverse step from mask rate u to v < u the Kullback-Leibler divergence of a masked letter is (u - v)/u times

        -log p(x0) + log((u - v)/u) + (v / (u - v)) (log(v/u) - log p(m)),

    with the network's answer plugged into q(z_s | z_t = m, x):

        log p(b) = log(u - v) + log x_b - log(u + (1-u) x_m),   log p(m) = log(v + (1-v) x_m) - log(u + (1-u) x_m).

    As v -> u this becomes the cost in continuous time; where the answer is never "mask", x_m = 0, both are -log x_x0.

    Args:
        log_p: (B, L, K + 1) log-probabilities, the mask last.
        letters: (B, L) letter indices.
        rate: (B,) u.
        earlier: (B,) v, or None for continuous time.
    """
    log_p = log_p.double()  # of (u - v)/u, one step's share, float32 would leave few digits
    log_x = log_p.gather(-1, letters[..., None])[..., 0]
    x_m = log_p[..., -1].exp()
    u = rate[:, None]
    # log(u + (1-u) x_m) - log u = log(1 + (1-u) x_m / u), and the same with v: no 0 * inf at v = 0.
    stay = torch.log1p((1 - u) * x_m / u)
    if earlier is None:
        return stay - log_x + u * (1 - x_m) / (u + (1 - u) * x_m) - 1.0
    v = earlier[:, None]
    still = torch.log1p((1 - v) * x_m / v.clamp(min=1e-300))
    return stay - log_x + torch.where(v > 0, v / (u - v) * (stay - still), 0.0)
