"""Random numbers that are a pure function of (seed, stream, index, step, position).

A counter-based generator, Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), has no
state to save: window 17 of seed 3 is the same window in any batch, worker, device or resumed run.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


class Stream(IntEnum):
    """What a random number is for. Two streams never share a number."""

    WINDOW = 0
    STRAND = 1
    COUNT = 2
    MASK = 3
    UNMASK = 4
    LETTER = 5
    ORDER = 6
    SOURCE = 7
    FOLD = 8
    EVAL = 9
    FATE = 10
    NOISE = 11
    REDRAW = 12
    PLACE = 13
    LABEL = 14
    POPULATION = 15


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
) -> tuple[Tensor, ...]:
    """Four 32-bit words (in int64 tensors) for each counter of four 32-bit words: Philox4x32 with ten rounds."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = (
            c0 * _MULTIPLIERS[0],
            c2 * _MULTIPLIERS[1],
        )  # wraps modulo 2^64, which keeps all the bits
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _LOW) ^ c1 ^ k0,
            p1 & _LOW,
            ((p0 >> 32) & _LOW) ^ c3 ^ k1,
            p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def uniform(
    seed: int,
    stream: Stream,
    index: Tensor,
    size: int,
    *,
    step: int | Tensor = 0,
    first: int | Tensor = 0,
) -> Tensor:
    """Uniform float64 numbers in the open interval (0, 1), of shape (*index.shape, size).

    Args:
        seed: 64-bit seed of the run.
        stream: what the numbers are for.
        index: int64 tensor, which sample, window or row; below 2^56.
        size: how many numbers for each; number j does not depend on `size`.
        step: which step of the run or of the sampler; below 2^32. A tensor is broadcast with `index`.
        first: leave out the numbers before this one; a tensor has the shape of `index`.
    """
    index = index[..., None]
    step = (step if isinstance(step, Tensor) else torch.tensor(step, device=index.device))[
        ..., None
    ]
    # A counter gives two numbers. One pair more than `size` needs allows for an odd `first`.
    pair = torch.arange(size // 2 + 1, device=index.device)
    pair = pair + (first[..., None] // 2 if isinstance(first, Tensor) else first // 2)
    words = philox(
        (
            *torch.broadcast_tensors(
                pair, step & _LOW, index & _LOW, (int(stream) << 24) | (index >> 32)
            ),
        ),
        (seed & _LOW, (seed >> 32) & _LOW),
    )
    high = torch.stack((words[0], words[2]), -1)
    low = torch.stack((words[1], words[3]), -1)
    mantissa = (high << 20) | (low >> 12)  # 52 bits; half a unit more keeps 0 and 1 out
    numbers = ((mantissa.double() + 0.5) * 2.0**-52).flatten(-2)
    if isinstance(first, Tensor):
        place = first[..., None] % 2 + torch.arange(size, device=index.device)
        return numbers.gather(-1, place.expand(*numbers.shape[:-1], size))
    return numbers[..., first % 2 : first % 2 + size]
