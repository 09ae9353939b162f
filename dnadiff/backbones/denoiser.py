"""Wraps a language model as the denoiser that objectives and samplers call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dnadiff.alphabet import DNA
from dnadiff.backbones.conditioning import Conditioning
from dnadiff.backbones.language_model import LanguageModel
from dnadiff.backbones.network_input import NetworkInput, complement_probs
from dnadiff.backbones.ngram_memory import NgramMemory


class LMDenoiser(nn.Module):
    """Implements the interface `dnadiff.diffusion.Denoiser` with a language model.

    A causal model reads the sequence shifted right by one, with a start token in front, so that its
    output at a position depends only on earlier tokens. If the model is also recurrent, `begin` and
    `step` compute the same outputs position by position, each at the same small cost.

    Args:
        lm: the model.
        needs_sigma: whether it is conditioned on the noise level. Masked diffusion does not need
            this, because the number of masks in a sequence already shows its noise level.
        labels: names of the classes that it can be conditioned on.
        outputs: 4 for the nucleotides, or 5 with the mask last.
        self_conditioned: whether `token_probs` has a second half, an earlier prediction; the
            embeddings of that half start at zero.
        memory: whether an `NgramMemory` is added to the embedding.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        needs_sigma: bool = False,
        labels: tuple[str, ...] = (),
        outputs: int = len(DNA),
        self_conditioned: bool = False,
        memory: bool = False,
    ) -> None:
        super().__init__()
        self.lm, self.needs_sigma, self.labels, self.outputs = lm, needs_sigma, labels, outputs
        self.causal, self.self_conditioned = lm.causal, self_conditioned
        # A memory needs the last tokens, which the state of a recurrent network does not keep.
        self.recurrent = lm.recurrent and not memory

        width = lm.config.d_model
        self.conditioning = None
        if needs_sigma or labels:
            self.conditioning = Conditioning(lm.norms, width, sigma=needs_sigma, labels=len(labels))
        self.self_cond = None
        if self_conditioned:
            self.self_cond = nn.Embedding(len(DNA), width)
            nn.init.zeros_(self.self_cond.weight)
        self.memory = NgramMemory(width, causal=lm.causal) if memory else None

    def forward(
        self,
        tokens: Tensor,
        sigma: Tensor | None = None,
        label: Tensor | None = None,
        token_probs: Tensor | None = None,
    ) -> Tensor:
        """Computes logits (B, L, outputs) of corrupted tokens (B, L).

        Args:
            tokens: (B, L) int64 ids, the mask id where a nucleotide is hidden.
            sigma: (B,) noise level -log(alpha); ignored by a network without time conditioning.
            label: (B,) class, for a network with labels; the number of classes where none is given.
            token_probs: (B, L, 4) weights on nucleotide embeddings, which replace those of
                nucleotides and masks. A self-conditioned network takes (B, L, 8); the last 4 are
                the probabilities of its earlier prediction, or zeros.

        Raises:
            ValueError: if a label is given to a network without labels, or no noise level to a
                network that needs one.
        """
        modulation = self._modulation(sigma, label, len(tokens))
        # Shifted, so that the network's output after token i - 1 is the prediction of token i.
        if self.causal:
            tokens = F.pad(tokens[:, :-1], (1, 0), value=DNA.bos_id)
            if token_probs is not None:
                token_probs = F.pad(token_probs[:, :-1], (0, 0, 1, 0))
        return self.lm.denoise(self._input(tokens, token_probs, modulation), self._ids)

    def pooled(
        self, tokens: Tensor, sigma: Tensor | None = None, token_probs: Tensor | None = None
    ) -> Tensor:
        """Averages the last hidden states over positions and over both strands, without a class.

        PS computes both strands anyway; any other network reads each in turn.

        Args:
            tokens: (B, L) int64 ids.
            sigma: (B,) noise level; zero by default.
            token_probs: as for `forward`, or (B, L, K + 1) with a weight on the mask.

        Returns:
            (B, d_model).
        """
        # Such a network reads one strand, so the other becomes further rows of the batch.
        if self.lm.strands == 1:
            tokens = torch.cat([tokens, DNA.reverse_complement(tokens)])
            sigma = None if sigma is None else sigma.repeat(2)
            if token_probs is not None:
                token_probs = torch.cat([token_probs, complement_probs(token_probs).flip(1)])
        # Without masks or noise in the input, the matching noise level is zero.
        if sigma is None and self.needs_sigma:
            sigma = torch.zeros(len(tokens), device=tokens.device)

        modulation = self._modulation(sigma, None, len(tokens))
        states = self.lm.states(self._input(tokens, token_probs, modulation))
        forward, reverse = states.mean(1).chunk(2)
        return (forward + reverse) / 2

    def begin(
        self, batch: int, sigma: Tensor | None = None, label: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Starts a recurrent network.

        Args:
            batch: number of sequences, B.
            sigma: as for `forward`.
            label: as for `forward`.

        Returns:
            Logits (B, outputs) of the first nucleotide, and the state.
        """
        modulation = self._modulation(sigma, label, batch)
        tokens = torch.full((batch,), DNA.bos_id, device=next(self.parameters()).device)
        return self.step(tokens, (modulation, self.lm.begin(batch)))

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Reads the tokens (B,) of the current position.

        Args:
            tokens: token ids.
            state: what `begin` or the previous `step` returned; it is not changed.

        Returns:
            Logits (B, outputs) of the next nucleotide, and the new state.
        """
        modulation, before = state
        logits, after = self.lm.step(tokens, before, modulation, self._ids)
        return logits, (modulation, after)

    def _input(
        self, tokens: Tensor, token_probs: Tensor | None, modulation: Tensor | None
    ) -> NetworkInput:
        """Returns the input of one call, with the vectors of the memory for each strand."""
        self_cond = None if self.self_cond is None else self.self_cond.weight
        context = None
        if self.memory is not None:
            # The memory reads the tokens, so the opposite strand has to be spelled out for it.
            strands = tokens
            if self.lm.strands == 2:
                strands = torch.cat([tokens, DNA.reverse_complement(tokens)])
            context = self.memory(strands)
        return NetworkInput(tokens, token_probs, modulation, self_cond, context)

    def _modulation(self, sigma: Tensor | None, label: Tensor | None, batch: int) -> Tensor | None:
        """Returns scales and shifts of all norms, or None for an unconditioned network."""
        if label is not None and not self.labels:
            raise ValueError("this network was trained without labels")
        return None if self.conditioning is None else self.conditioning(sigma, label, batch)

    @property
    def _ids(self) -> list[int]:
        """Token ids of the outputs."""
        return [*DNA.ids, DNA.mask_id][: self.outputs]
