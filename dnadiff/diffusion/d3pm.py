"""Diffusion in T steps (D3PM, Austin et al. 2021, arXiv 2107.03006), with absorbing or with uniform noise.

The bound is the sum over the steps of the Kullback-Leibler divergence between the reverse step given the clean sequence
and that of the network, whose answer is plugged into the former. The first step is the reconstruction.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.diffusion.mdlm import MDLM
from dnadiff.diffusion.objective import Denoiser, Draw, Objective
from dnadiff.diffusion.uniform import (
    Noise,
    beyond_chance,
    check_noise,
    redraw,
    share_below,
    step_cost,
    time_of,
)


class D3PM(Objective):
    """Diffusion in T steps: an upper bound on -log p, minimised as it stands.

    Args:
        noise: letters turn into masks ("absorbing") or into other letters ("uniform").
        steps: T.
        zero_masking: with absorbing noise, the network never answers "mask"; with it, and T to infinity, this is MDLM.
            Without it, as published, the network has a fifth output.
        carry_over: with absorbing noise, a visible letter is known. Without it the network must also reconstruct what
            it sees, see `MDLM`.
        alphabet: the letters.

    Raises:
        ValueError: if an option is unknown, or belongs to the other noise.
    """

    def __init__(
        self,
        *,
        noise: Noise = "absorbing",
        steps: int = 1000,
        zero_masking: bool = False,
        carry_over: bool = True,
        alphabet: Alphabet = DNA,
    ) -> None:
        super().__init__(
            alphabet, noise=noise, steps=steps, zero_masking=zero_masking, carry_over=carry_over
        )
        check_noise(noise)
        if steps < 1:
            raise ValueError(f"steps must be at least 1, not {steps}")
        if noise == "uniform" and (zero_masking or not carry_over):
            raise ValueError("zero_masking and carry_over are of absorbing noise: leave them out")
        self.corruption, self.steps = noise, steps
        self.masked = None
        if noise == "absorbing":
            self.masked = MDLM(
                steps=steps, zero_masking=zero_masking, carry_over=carry_over, alphabet=alphabet
            )

    @property
    def outputs(self) -> int:
        """K, or K + 1 with absorbing noise but for zero masking."""
        return len(self.alphabet) if self.masked is None else self.masked.outputs

    def per_token_nelbo(self, denoiser: Denoiser, tokens: Tensor, draw: Draw) -> Tensor:
        """One draw of the bound (B, L), one call (two without carry-over)."""
        if self.masked is not None:
            return self.masked.per_token_nelbo(denoiser, tokens, draw)
        # The step in which the level falls that continuous time would take: calm for the same reason.
        place = (time_of(draw.quantile)[0] * self.steps).floor()
        earlier, rate = place / self.steps, (place + 1.0) / self.steps
        redrawn = redraw(self.alphabet, tokens, rate, draw)
        log_mu = F.log_softmax(
            self.call_denoiser(denoiser, redrawn.tokens, rate, redrawn.token_probs), -1
        )
        factor = 1.0 / (share_below(rate) - share_below(earlier))
        return beyond_chance(
            lambda log_w: step_cost(log_w, redrawn, earlier), log_mu, redrawn, factor
        )
