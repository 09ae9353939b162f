"""A language model as a denoiser: the one call that objectives and samplers make."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dnadiff.alphabet import DNA
from dnadiff.backbones.caduceus import CaduceusLM
from dnadiff.backbones.conditioning import Conditioning


class LMDenoiser(nn.Module):
    """Answers `dnadiff.diffusion.Denoiser`'s call with a language model.

    A causal model is given the sequence shifted by one, behind the token that begins a sequence, so that its output at
    a position depends on tokens before it only.

    Args:
        lm: the model.
        needs_sigma: whether it is told the noise level. A masked sequence shows its own.
        labels: the classes that it may be told, by name.
        outputs: 4, the letters, or 5 with the mask.
    """

    def __init__(
        self, lm: CaduceusLM, *, needs_sigma: bool = False, labels: tuple[str, ...] = (), outputs: int = len(DNA)
    ) -> None:
        super().__init__()
        self.lm, self.needs_sigma, self.labels, self.outputs = lm, needs_sigma, labels, outputs
        self.causal = lm.causal
        self.conditioning = None
        if needs_sigma or labels:
            self.conditioning = Conditioning(lm.norms, lm.config.d_model, sigma=needs_sigma, labels=len(labels))

    def forward(
        self, tokens: Tensor, sigma: Tensor | None = None, label: Tensor | None = None, soft: Tensor | None = None
    ) -> Tensor:
        """Logits (B, L, outputs) of corrupted tokens (B, L).

        Args:
            tokens: (B, L) int64 ids, the mask id where a letter is hidden.
            sigma: (B,) noise level; ignored by a network that is not told.
            label: (B,) class, for a network with labels; their number where none is given.
            soft: (B, L, 4) weights on the letters' embeddings, which replace those of letters and masks.

        Raises:
            ValueError: if a label is given to a network that has none, or a network that is told the noise is not.
        """
        if label is not None and not self.labels:
            raise ValueError("this network was trained without labels")
        modulation = None if self.conditioning is None else self.conditioning(sigma, label, len(tokens))
        if self.causal:
            tokens = torch.cat([tokens.new_full((len(tokens), 1), DNA.bos_id), tokens[:, :-1]], 1)
            soft = None if soft is None else torch.cat([soft.new_zeros(len(soft), 1, soft.shape[2]), soft[:, :-1]], 1)
        ids = [*DNA.ids, DNA.mask_id][: self.outputs]
        return self.lm.denoise(tokens, soft, modulation, ids)
