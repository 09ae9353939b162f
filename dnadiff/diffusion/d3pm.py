"""Diffusion in T steps (D3PM, Austin et al. 2021, arXiv 2107.03006), absorbing or uniform.

The bound is a sum of Kullback-Leibler divergences, one for each step. Each compares the reverse
step given the clean sequence with the reverse step given the network's prediction of it. The first
step is the reconstruction.
"""

from __future__ import annotations

from jaxtyping import Float, Int64
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
    """Diffusion in T steps: an upper bound on -log p, which is also the training loss.

    Args:
        noise: bases turn into masks ("absorbing") or into other bases ("uniform").
        steps: T.
        zero_masking: with absorbing noise, the network never predicts the mask; as T grows this
            becomes MDLM. False, as published, gives the network a fifth output, for the mask.
        carry_over: with absorbing noise, visible bases are copied to the output. With False the
            network must also predict the visible bases; see `MDLM`.
        alphabet: the letters.

    Raises:
        ValueError: if an option is unknown, out of range, or not for this noise.
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
            raise ValueError("zero_masking and carry_over are for absorbing noise: leave them out")
        self.corruption, self.steps = noise, steps

        # With absorbing noise the objective is a discrete-time MDLM.
        self.masked = None
        if noise == "absorbing":
            self.masked = MDLM(
                steps=steps, zero_masking=zero_masking, carry_over=carry_over, alphabet=alphabet
            )

    @property
    def outputs(self) -> int:
        """Number of logits for each position: K, or K + 1 with absorbing noise as published."""
        return len(self.alphabet) if self.masked is None else self.masked.outputs

    def per_token_nelbo(
        self, denoiser: Denoiser, tokens: Int64[Tensor, "B L"], draw: Draw
    ) -> Float[Tensor, "B L"]:
        """Returns a one-sample estimate of the terms (B, L) of the bound, in nats.

        It takes one call, or two without carry-over.
        """
        if self.masked is not None:
            return self.masked.per_token_nelbo(denoiser, tokens, draw)

        # Takes the step that contains the noise level of the continuous-time objective. The
        # density of that level is chosen for a low variance, which carries over to the steps.
        step = (time_of(draw.quantile)[0] * self.steps).floor()
        earlier, rate = step / self.steps, (step + 1.0) / self.steps
        redrawn = redraw(self.alphabet, tokens, rate, draw)
        logits = self.call_denoiser(denoiser, redrawn.tokens, rate, redrawn.token_probs)
        log_mu = F.log_softmax(logits, -1)

        # One over the probability with which this step was drawn.
        factor = 1.0 / (share_below(rate) - share_below(earlier))
        return beyond_chance(
            lambda log_w: step_cost(log_w, redrawn, earlier), log_mu, redrawn, factor
        )
