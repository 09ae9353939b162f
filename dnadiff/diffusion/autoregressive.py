"""Left-to-right modelling: the likelihood itself, by the chain rule."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.diffusion.absorbing import cross_entropy
from dnadiff.diffusion.objective import Bound, Denoiser, Draw, Objective, select_rows
from dnadiff.errors import UsageError

_PROBED = 64


class Autoregressive(Objective):
    """-log p(x) = sum of -log p(x_i | x_1 .. x_{i-1}), exact.

    The network is given clean tokens, and its output i must depend on tokens before i only. One that sees both sides
    fits the same interface and returns a pseudo-likelihood, which can be below the entropy; so `bound` changes a token
    and refuses a network in which an output at or before it moves.

    An unknown letter is context for what follows it and is not scored.
    """

    time_conditioned = False
    causal = True
    corruption = "none"

    def __init__(self, *, alphabet: Alphabet = DNA) -> None:
        super().__init__(alphabet)

    def per_token_nelbo(
        self, denoiser: Denoiser, tokens: Tensor, draw: Draw | None = None
    ) -> Tensor:
        """-log p of each letter given those before it (B, L); there is nothing random in it."""
        log_p = F.log_softmax(self.call_denoiser(denoiser, tokens), -1)
        cost = cross_entropy(log_p, self.alphabet.letter_index(tokens))
        return cost.masked_fill(~self.alphabet.scorable(tokens), 0.0)

    @torch.no_grad()
    def bound(
        self,
        denoiser: Denoiser,
        tokens: Tensor,
        *,
        draws: int = 1,
        seed: int = 0,
        index: Tensor | None = None,
    ) -> Bound:
        """The exact negative log-likelihood of each sequence; one call whatever `draws` says.

        Raises:
            UsageError: if the network sees what it is to predict.
        """
        self.check(denoiser)
        self._probe(select_rows(denoiser, slice(1)), tokens[:1, :_PROBED])
        nats = self.per_token_nelbo(denoiser, tokens).double().sum(1)
        return Bound(nats, torch.zeros_like(nats), self.alphabet.scorable(tokens).sum(1), "exact")

    def _probe(self, denoiser: Denoiser, tokens: Tensor) -> None:
        """Changes the token in the middle, and looks for an output that moves at or before it.

        A convolution by Fourier transform spreads its rounding errors over the sequence, some 1e-5 of what truly moves;
        in bfloat16 they would show, so autocast stays outside.
        """
        place = tokens.shape[1] // 2
        changed = tokens.clone()
        changed[:, place] = torch.where(
            changed[:, place] == self.alphabet.ids[0], self.alphabet.ids[1], self.alphabet.ids[0]
        )
        with torch.autocast(tokens.device.type, enabled=False):
            moved = (
                (self.call_denoiser(denoiser, tokens) - self.call_denoiser(denoiser, changed))
                .abs()
                .amax(-1)
            )
        if moved[:, : place + 1].max() > 1e-3 * moved.max().clamp(min=1e-2):
            raise UsageError(
                "Autoregressive needs a network that sees only what lies to the left: this one's outputs move when a "
                "token at or after them is changed"
            )
