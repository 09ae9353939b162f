"""All pairs of a clean and a noisy letter, to compare costs with formulas for each pair."""

import torch

from dnadiff.alphabet import DNA
from dnadiff.diffusion.uniform import Redrawn, noised


def all_pairs(rate: float) -> Redrawn:
    """Returns every clean letter (rows) with every noisy one (columns)."""
    clean = torch.arange(4)[:, None].expand(4, 4) + DNA.first_id
    one_hot = torch.nn.functional.one_hot(clean - DNA.first_id, 4).double().log()
    rate = torch.full((4,), rate, dtype=torch.float64)
    noisy = one_hot.transpose(0, 1)
    return Redrawn(
        clean.T, noised(noisy, rate).exp(), one_hot, noisy, torch.ones(4, 4, dtype=torch.bool), rate
    )


def probability(rate: float) -> torch.Tensor:
    """q(z | x) of `all_pairs`."""
    return (1 - rate) * torch.eye(4, dtype=torch.float64) + rate / 4
