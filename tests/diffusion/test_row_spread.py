"""Counters stay exact: mask rates of rows far into a run, and sums over large batches."""

from fractions import Fraction

import pytest
import torch

from dnadiff.diffusion import MDLM
from dnadiff.diffusion.objective import golden_multiples

FAR = (0, 2**24, 10**8, 2**40, 2**55)


@pytest.mark.parametrize("first", FAR)
def test_rates_stay_distinct_and_evenly_spread(first):
    multiples = golden_multiples(torch.arange(1024) + first).sort().values
    assert len(multiples.unique()) == 1024
    # Of any n consecutive multiples of the golden ratio, gaps are below 2.62 / n (the three-gap
    # theorem).
    assert multiples.diff().max() < 2.62 / 1024


@pytest.mark.parametrize("index", FAR)
def test_multiples_are_exact(index):
    golden = Fraction(0x9E3779B97F4A7C15, 2**64)
    exact = (golden * index) % 1
    assert golden_multiples(torch.tensor([index])).item() == pytest.approx(float(exact), abs=2**-52)
    assert float(golden) == pytest.approx((5**0.5 - 1) / 2, abs=2**-53)


def test_a_batch_late_in_a_run_is_masked_at_many_rates():
    counts = []

    def denoiser(tokens, sigma=None, label=None, token_probs=None):
        counts.append((tokens == 3).sum(1))
        return torch.zeros(*tokens.shape, 4)

    denoiser.causal, denoiser.needs_sigma, denoiser.outputs = False, False, 4
    MDLM().loss(denoiser, torch.full((1024, 512), 7), step=5, index=torch.arange(1024) + 10**8)
    # The count is uniform on 1..512: 1,024 evenly spread rows meet nearly all of them.
    assert len(torch.cat(counts).unique()) > 450


def test_weights_in_half_precision_are_summed_without_overflow():
    """100,000 weights of 1 are more than the 65,504 that float16 can hold."""

    def denoiser(tokens, sigma=None, label=None, token_probs=None):
        return torch.zeros(*tokens.shape, 4)

    denoiser.causal, denoiser.needs_sigma, denoiser.outputs = False, False, 4
    tokens = torch.full((1000, 100), 7)
    weight = torch.ones(1000, 100, dtype=torch.float16)
    plain = MDLM().loss(denoiser, tokens).value
    assert MDLM().loss(denoiser, tokens, weight=weight).value == pytest.approx(float(plain))
