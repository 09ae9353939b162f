"""A language model as a denoiser: the one call that objectives and samplers make."""

from __future__ import annotations

from torch import Tensor, nn

from dnadiff.alphabet import DNA
from dnadiff.backbones.caduceus import CaduceusLM


class LMDenoiser(nn.Module):
    """Answers `dnadiff.diffusion.Denoiser`'s call with a bidirectional language model that is not told the time."""

    causal = False
    needs_sigma = False
    outputs = len(DNA)

    def __init__(self, lm: CaduceusLM) -> None:
        super().__init__()
        self.lm = lm

    def forward(
        self, tokens: Tensor, sigma: Tensor | None = None, label: Tensor | None = None, soft: Tensor | None = None
    ) -> Tensor:
        """Logits (B, L, 4) of corrupted tokens (B, L).

        Args:
            tokens: (B, L) int64 ids, the mask id where a letter is hidden.
            sigma: ignored: a masked sequence shows its own noise level.
            label: must be None.
            soft: (B, L, 4) weights on the letters' embeddings, which replace those of letters and masks.

        Raises:
            ValueError: if a label is given to a network that has none.
        """
        if label is not None:
            raise ValueError("this network was trained without labels")
        return self.lm.denoise(tokens, soft)
