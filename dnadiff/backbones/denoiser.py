"""A language model as a denoiser: the one call that objectives and samplers make."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dnadiff.alphabet import DNA
from dnadiff.backbones.conditioning import Conditioning
from dnadiff.backbones.language_model import LanguageModel, complement_weights


class LMDenoiser(nn.Module):
    """Answers `dnadiff.diffusion.Denoiser`'s call with a language model.

    A causal model is given the sequence shifted by one, behind the token that begins a sequence, so that its output at
    a position depends on tokens before it only. If it is recurrent too, `begin` and `step` give the same outputs one
    after the other, each at the same small cost.

    Args:
        lm: the model.
        needs_sigma: whether it is told the noise level. A masked sequence shows its own.
        labels: the classes that it may be told, by name.
        outputs: 4, the letters, or 5 with the mask.
        self_conditioned: whether `token_probs` has a second half, an earlier answer; its embeddings start at zero.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        needs_sigma: bool = False,
        labels: tuple[str, ...] = (),
        outputs: int = len(DNA),
        self_conditioned: bool = False,
    ) -> None:
        super().__init__()
        self.lm, self.needs_sigma, self.labels, self.outputs = lm, needs_sigma, labels, outputs
        self.causal, self.recurrent, self.self_conditioned = (
            lm.causal,
            lm.recurrent,
            self_conditioned,
        )
        self.conditioning = None
        if needs_sigma or labels:
            self.conditioning = Conditioning(
                lm.norms, lm.config.d_model, sigma=needs_sigma, labels=len(labels)
            )
        self.self_cond = None
        if self_conditioned:
            self.self_cond = nn.Embedding(len(DNA), lm.config.d_model)
            nn.init.zeros_(self.self_cond.weight)

    def forward(
        self,
        tokens: Tensor,
        sigma: Tensor | None = None,
        label: Tensor | None = None,
        token_probs: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, L, outputs) of corrupted tokens (B, L).

        Args:
            tokens: (B, L) int64 ids, the mask id where a letter is hidden.
            sigma: (B,) noise level; ignored by a network that is not told.
            label: (B,) class, for a network with labels; their number where none is given.
            token_probs: (B, L, 4) weights on the letters' embeddings, which replace those of letters and masks; a
                self-conditioned network takes (B, L, 8), the last 4 the probabilities of its earlier answer, or zeros.

        Raises:
            ValueError: if a label is given to a network that has none, or a network that is told the noise is not.
        """
        modulation = self._modulation(sigma, label, len(tokens))
        if self.causal:
            tokens = torch.cat([tokens.new_full((len(tokens), 1), DNA.bos_id), tokens[:, :-1]], 1)
            token_probs = (
                None
                if token_probs is None
                else torch.cat(
                    [
                        token_probs.new_zeros(len(token_probs), 1, token_probs.shape[2]),
                        token_probs[:, :-1],
                    ],
                    1,
                )
            )
        self_cond = None if self.self_cond is None else self.self_cond.weight
        return self.lm.denoise(tokens, token_probs, modulation, self._ids, self_cond)

    def pooled(
        self, tokens: Tensor, sigma: Tensor | None = None, token_probs: Tensor | None = None
    ) -> Tensor:
        """Last hidden states (B, d_model) of tokens (B, L), averaged over positions and over both strands.

        PS computes both strands anyway; another network is shown each in turn. No class is told.

        Args:
            tokens: (B, L) int64 ids.
            sigma: (B,) noise level; that there is none by default.
            token_probs: as for `forward`, or (B, L, K + 1) with a weight on the mask.
        """
        if self.lm.strands == 1:
            tokens = torch.cat([tokens, DNA.reverse_complement(tokens)])
            sigma = None if sigma is None else sigma.repeat(2)
            token_probs = (
                None
                if token_probs is None
                else torch.cat([token_probs, complement_weights(token_probs).flip(1)])
            )
        if sigma is None and self.needs_sigma:
            sigma = torch.zeros(len(tokens), device=tokens.device)
        states = self.lm.states(tokens, token_probs, self._modulation(sigma, None, len(tokens)))
        forward, reverse = states.mean(1).chunk(2)
        return (forward + reverse) / 2

    def begin(
        self, batch: int, sigma: Tensor | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Of a recurrent network: logits (B, outputs) of the first letter of `batch` sequences, and its state.

        Args:
            batch: B.
            sigma: as for `forward`.
            label: as for `forward`.
        """
        modulation = self._modulation(sigma, label, batch)
        tokens = torch.full((batch,), DNA.bos_id, device=next(self.parameters()).device)
        return self.step(tokens, (modulation, self.lm.begin(batch)))

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits (B, outputs) of the next letter, behind the tokens (B,) at this place, and the new state.

        `state` is what `begin` or the `step` before returned; it is not changed.
        """
        modulation, memory = state
        logits, memory = self.lm.step(tokens, memory, modulation, self._ids)
        return logits, (modulation, memory)

    def _modulation(self, sigma: Tensor | None, label: Tensor | None, batch: int) -> Tensor | None:
        if label is not None and not self.labels:
            raise ValueError("this network was trained without labels")
        return None if self.conditioning is None else self.conditioning(sigma, label, batch)

    @property
    def _ids(self) -> list[int]:
        """Token ids of the outputs."""
        return [*DNA.ids, DNA.mask_id][: self.outputs]
