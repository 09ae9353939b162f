"""Random numbers that are a pure function of (seed, stream, index, step, position).

The generator is counter-based: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy
as 1, 2, 3"). It encrypts a counter with a key, so there is no state to carry or to save: window 17
of seed 3 is the same in any batch, worker, device or resumed run.

    key       the seed, 64 bits
    counter   the pair of positions, the step, and stream and index; see `uniform`

**One seed gives common random numbers.** The numbers depend on the seed and not on the model. Two
models sampled with one seed draw every base with the same number, so their samples resemble each
other: between two short runs 79 % of the bases were equal. That makes a paired comparison of models
more precise, and is why bounds of two runs are compared window by window. But such samples are not
independent. Use different seeds where independence is assumed, as for a mean over models or a test
between two sets of samples.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF  # the low 32 bits of an int64
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)  # added to the key in every round


class Stream(IntEnum):
    """The purposes of random numbers; each has its own counters, so streams are independent.

    Renumbering a stream would change the result of every published seed: only append new ones.
    """

    WINDOW = 0  # which window of a genome
    STRAND = 1  # whether it is shown as its reverse complement
    COUNT = 2  # noise level of a row, or number of its masked bases
    MASK = 3  # which bases are masked or redrawn
    UNMASK = 4  # when a sampler unmasks a position
    LETTER = 5  # which base is drawn
    ORDER = 6  # which base is masked for certain
    SOURCE = 7  # the simulated genome
    FOLD = 8  # folds of a benchmark
    EVAL = 9  # which held-out windows are evaluated
    FATE = 10  # what becomes of a chosen base or row
    NOISE = 11  # Gaussian noise
    REDRAW = 12  # bases that are drawn again after a dead end
    PLACE = 13  # positions of motifs and probes
    LABEL = 14  # which rows are unconditional in training
    POPULATION = 15  # resampling of weighted samples


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
) -> tuple[Tensor, ...]:
    """Returns four random 32-bit words for each counter: Philox4x32 with ten rounds.

    Args:
        counter: four tensors of one shape, int64 with values below 2^32.
        key: two words below 2^32.

    Returns:
        Four tensors of that shape, int64 with values below 2^32.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # An int64 product wraps modulo 2^64, which keeps all 64 bits of the product of two words.
        p0 = c0 * _MULTIPLIERS[0]
        p1 = c2 * _MULTIPLIERS[1]

        # The shift of a negative int64 fills in ones from the left, which the mask removes.
        high0, low0 = (p0 >> 32) & _LOW, p0 & _LOW
        high1, low1 = (p1 >> 32) & _LOW, p1 & _LOW
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0

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
    """Returns uniform float64 numbers in the open interval (0, 1), of shape (*index.shape, size).

    Args:
        seed: 64-bit seed of the run.
        stream: purpose of the numbers.
        index: int64 tensor, the number of a sample, window or row; below 2^56.
        size: how many numbers for each; number j does not depend on `size`.
        step: of the run or of the sampler; below 2^32. A tensor is broadcast with `index`.
        first: position of the first number to return, so that the numbers can be computed in parts.
            A tensor has the shape of `index`.
    """
    index = index[..., None]
    if not isinstance(step, Tensor):
        step = torch.tensor(step, device=index.device)
    step = step[..., None]
    if isinstance(first, Tensor):
        first = first[..., None]

    # Each counter gives four words, and each number takes two of them: one counter for two numbers,
    # and one counter more than `size` needs where `first` is odd.
    pair = first // 2 + torch.arange(size // 2 + 1, device=index.device)
    stream_and_index = (int(stream) << 24) | (index >> 32)  # 8 bits, and the high 24 of the index
    counter = torch.broadcast_tensors(pair, step & _LOW, index & _LOW, stream_and_index)
    words = philox((*counter,), (seed & _LOW, (seed >> 32) & _LOW))

    high = torch.stack((words[0], words[2]), -1)
    low = torch.stack((words[1], words[3]), -1)
    # 52 bits fit into a float64 exactly; adding half a unit excludes 0 and 1.
    mantissa = (high << 20) | (low >> 12)
    numbers = ((mantissa.double() + 0.5) * 2.0**-52).flatten(-2)
    if not isinstance(first, Tensor):
        return numbers[..., first % 2 : first % 2 + size]
    place = first % 2 + torch.arange(size, device=index.device)
    return numbers.gather(-1, place.expand(*numbers.shape[:-1], size))
