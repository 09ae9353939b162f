"""Score entropy discrete diffusion (SEDD, Lou et al. 2024, arXiv 2310.16834).

The logits l are read as unnormalised probabilities w = exp(l), from which the concrete scores
follow. For absorbing noise the scores at a masked position are s_b = w_b / (e^sigma - 1), and the
score entropy becomes

    sigma' / (e^sigma - 1) * [ -log softmax(l)_x0 + (W - 1 - log W) ],    W = sum of w.

That is MDLM's integrand for the normalised network plus a penalty W - 1 - log W >= 0. It stays
finite at both ends of time. So normalising a trained SEDD never worsens its bound, and with W = 1
the two objectives agree term by term.

For uniform noise the scores are ratios s_y = (alpha w_y + u/K) / (alpha w_z + u/K), u = 1 - alpha,
of the probabilities of noisy bases. With W = 1 the score entropy is UDLM's integrand.
"""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.diffusion.absorbing import cross_entropy, exact_count
from dnadiff.diffusion.objective import Denoiser, Draw, Objective
from dnadiff.diffusion.uniform import (
    Noise,
    beyond_chance,
    check_noise,
    excess,
    rate_cost,
    redraw,
    time_of,
)
from dnadiff.rng import Stream


class SEDD(Objective):
    """Score entropy: an upper bound on -log p, which is also the training loss.

    Args:
        noise: bases turn into masks ("absorbing") or into other bases ("uniform").
        alphabet: the letters.

    Raises:
        ValueError: if the noise is unknown.
    """

    normalised = False

    def __init__(self, *, noise: Noise = "absorbing", alphabet: Alphabet = DNA) -> None:
        super().__init__(alphabet, noise=noise)
        check_noise(noise)
        self.corruption = noise

    def per_token_nelbo(
        self, denoiser: Denoiser, tokens: Int64[Tensor, "B L"], draw: Draw
    ) -> Float[Tensor, "B L"]:
        """Returns a one-sample estimate of the terms (B, L) of the bound, in nats; one call."""
        # With masks the integral over time has a closed form, so each noise has its own estimator.
        if self.corruption == "absorbing":
            return self._absorbing(denoiser, tokens, draw)
        return self._uniform(denoiser, tokens, draw)

    def _absorbing(self, denoiser: Denoiser, tokens: Tensor, draw: Draw) -> Tensor:
        """Returns the terms (B, L) for absorbing noise, by the exact-count estimator."""
        scorable = self.alphabet.scorable(tokens)
        hidden = exact_count(scorable, draw.quantile, draw.uniform(Stream.MASK, tokens.shape[1]))
        masked = tokens.masked_fill(hidden.mask, self.alphabet.mask_id)
        logits = self.call_denoiser(denoiser, masked, hidden.rate)

        # log W, and the penalty W - 1 - log W without the cancellation at W near 1.
        total_score = logits.logsumexp(-1)
        log_p = logits - total_score[..., None]
        cost = cross_entropy(log_p, self.alphabet.letter_index(tokens)) + excess(total_score)
        return hidden.factor[:, None] * cost.masked_fill(~hidden.mask, 0.0)

    def _uniform(self, denoiser: Denoiser, tokens: Tensor, draw: Draw) -> Tensor:
        """Returns the terms (B, L) for uniform noise; see `dnadiff.diffusion.uniform`."""
        rate, factor = time_of(draw.quantile)
        redrawn = redraw(self.alphabet, tokens, rate, draw)
        logits = self.call_denoiser(denoiser, redrawn.tokens, rate, redrawn.token_probs)
        # The logits are not normalised: the score entropy also penalises a wrong total.
        return beyond_chance(lambda log_w: rate_cost(log_w, redrawn), logits, redrawn, factor)
