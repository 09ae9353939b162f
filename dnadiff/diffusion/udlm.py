"""Uniform diffusion in continuous time (UDLM, Schiff et al. 2024, arXiv 2412.10193)."""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.diffusion.objective import Denoiser, Draw, Objective
from dnadiff.diffusion.uniform import beyond_chance, rate_cost, redraw, time_of


class UDLM(Objective):
    """Uniform diffusion: an upper bound on -log p, which is also the training loss.

    The bound is that of SEDD with uniform noise for a normalised network. The ends of time add
    nothing to it: at 0 there is no noise, and at 1 no signal. (The published code adds the
    network's reconstruction at time 0, which only loosens the bound.)

    Args:
        alphabet: the letters.
    """

    corruption = "uniform"

    def __init__(self, *, alphabet: Alphabet = DNA) -> None:
        super().__init__(alphabet)

    def per_token_nelbo(
        self, denoiser: Denoiser, tokens: Int64[Tensor, "B L"], draw: Draw
    ) -> Float[Tensor, "B L"]:
        """Returns a one-sample estimate of the terms (B, L) of the bound, in nats; one call."""
        rate, factor = time_of(draw.quantile)
        redrawn = redraw(self.alphabet, tokens, rate, draw)
        logits = self.call_denoiser(denoiser, redrawn.tokens, rate, redrawn.token_probs)
        log_mu = F.log_softmax(logits, -1)
        return beyond_chance(lambda log_w: rate_cost(log_w, redrawn), log_mu, redrawn, factor)
