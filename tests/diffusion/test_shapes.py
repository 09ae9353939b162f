"""Shapes in annotations are checked in the tests; see `shape_checks`."""

import subprocess
import sys

import pytest
import torch
from jaxtyping import TypeCheckError

from dnadiff.diffusion import MDLM, Draw
from dnadiff.diffusion.absorbing import cross_entropy

LOG_P = torch.zeros(2, 3, 4)


def test_a_tensor_of_another_shape_or_type_is_an_error():
    cross_entropy(LOG_P, torch.zeros(2, 3, dtype=torch.int64))
    for wrong in (torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 3)):
        with pytest.raises(TypeCheckError, match="letters"):
            cross_entropy(LOG_P, wrong)


def test_fields_of_a_draw_are_checked():
    with pytest.raises(TypeCheckError, match="quantile"):
        Draw(torch.zeros(3), 0, 0, torch.arange(3))  # float32


def test_a_network_with_outputs_of_the_wrong_length_is_an_error():
    def denoiser(tokens, sigma=None, label=None, token_probs=None):
        return torch.zeros(len(tokens), tokens.shape[1] - 1, 4)

    denoiser.causal, denoiser.needs_sigma, denoiser.outputs = False, False, 4
    with pytest.raises(TypeCheckError, match="call_denoiser"):
        MDLM().loss(denoiser, torch.full((2, 8), 7))


def test_outside_the_tests_functions_are_not_wrapped():
    code = (
        "import sys; from dnadiff.diffusion import MDLM;"
        "assert not hasattr(MDLM.loss, '__wrapped__'); assert 'beartype' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
