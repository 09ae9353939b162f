"""What the backbones share: letters to vectors, norms, vectors to logits, and the calls that are made of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dnadiff.alphabet import DNA
from dnadiff.backbones.conditioning import modulate
from dnadiff.ops import add_norm_fn


class LanguageModel(nn.Module, ABC):
    """A backbone and a head that is tied to its embedding.

    Attributes:
        config: its shape, with `d_model` and `n_layer`.
        backbone: token ids to hidden states; its `embedding` is the matrix (rows, d_model).
        recurrent: whether it can also be run letter by letter with a state of constant size (`begin`, `step`).
    """

    config: Any
    backbone: Any
    recurrent: bool = False

    @property
    @abstractmethod
    def causal(self) -> bool:
        """Whether a hidden state depends on tokens up to its own only."""

    @property
    @abstractmethod
    def norms(self) -> int:
        """How many norms a condition may modulate."""

    @property
    def strands(self) -> int:
        """How many strands `states` holds: 2 for a network that reads the opposite strand as well, else 1."""
        return 1

    @abstractmethod
    def states(
        self,
        tokens: Tensor,
        token_probs: Tensor | None = None,
        modulation: Tensor | None = None,
        self_cond: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (strands * B, L, d_model), each strand read in its own direction.

        Args:
            tokens: (B, L) token ids.
            token_probs: (B, L, K) weights on the letters' embeddings, which replace the embedding of each letter or mask; see
                `embed` for more of them.
            modulation: (norms, 2, B, d_model) of each norm, the same for both strands; see `Conditioning`.
            self_cond: (K, d_model) embeddings that the second half of `token_probs`, then (B, L, 2 K), weighs.
        """

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits (B, L, rows) of token ids (B, L), over all rows of the embedding."""
        return self.denoise(input_ids, ids=range(len(self.backbone.embedding)))

    def denoise(
        self,
        tokens: Tensor,
        token_probs: Tensor | None = None,
        modulation: Tensor | None = None,
        ids: Sequence[int] = DNA.ids,
        self_cond: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, L, len(ids)) over `ids`; see `states` for the other arguments."""
        return self.logits(self.states(tokens, token_probs, modulation, self_cond), ids)

    def logits(self, states: Tensor, ids: Sequence[int]) -> Tensor:
        """Logits (..., len(ids)) of hidden states (..., d_model). Autocast stays outside.

        In bfloat16 a logit of 4 would be rounded to 1/64, and a probability with it.
        """
        embedding = self.backbone.embedding
        with torch.autocast(states.device.type, enabled=False):
            return F.linear(states.to(embedding.dtype), embedding[list(ids)])

    def begin(self, batch: int) -> Any:
        """Of a recurrent network: its state before the first token of `batch` sequences.

        Raises:
            ValueError: if it is not recurrent.
        """
        raise ValueError(
            f"{type(self).__name__} cannot be run letter by letter with a state of constant size"
        )

    def step(
        self,
        tokens: Tensor,
        state: Any,
        modulation: Tensor | None = None,
        ids: Sequence[int] = DNA.ids,
    ) -> tuple[Tensor, Any]:
        """What `denoise` says at the next position: logits (B, len(ids)) behind its tokens (B,), and the new state."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path, extra: Mapping[str, Any] | None = None) -> None:
        """Writes config.json and model.safetensors; see `dnadiff.backbones.published.save_pretrained`."""
        from dnadiff.backbones.published import save_pretrained

        save_pretrained(self, folder, extra)


def embed(
    ids: Tensor, token_probs: Tensor | None, embedding: Tensor, self_cond: Tensor | None = None
) -> Tensor:
    """Vectors (B, L, d) of token ids (B, L).

    Args:
        ids: token ids.
        token_probs: (B, L, K) makes letters and masks mixtures of letters; (B, L, K + 1) of letters and the mask; (B, L, 2 K),
            with `self_cond`, of letters and of its rows.
        embedding: (rows, d).
        self_cond: (K, d).
    """
    x = F.embedding(ids, embedding)
    if token_probs is None:
        return x
    table = embedding[[*DNA.ids, DNA.mask_id][: token_probs.shape[-1]]]
    if token_probs.shape[-1] == 2 * len(DNA) and self_cond is not None:
        table = torch.cat([table[: len(DNA)], self_cond])
    replaced = DNA.scorable(ids) | (ids == DNA.mask_id)
    with torch.autocast(
        x.device.type, enabled=False
    ):  # a one-hot is to equal the letter, and 1 in 1,000 to be told
        return torch.where(replaced[..., None], token_probs.to(table.dtype) @ table, x)


def complement_weights(token_probs: Tensor) -> Tensor:
    """Weights (B, L, K), (B, L, K + 1) or (B, L, 2 K) of `embed` on the complements of what they were on."""
    letters = [i - DNA.first_id for i in (DNA.complement_ids[letter] for letter in DNA.ids)]
    order = letters + [len(DNA) + i for i in letters]
    return token_probs[
        ...,
        order[: token_probs.shape[-1]]
        if token_probs.shape[-1] != len(DNA) + 1
        else [*letters, len(DNA)],
    ]


class Norm(nn.Module):
    """RMSNorm or LayerNorm of a residual stream, fused with the addition before it."""

    def __init__(self, d_model: int, eps: float, *, rms: bool) -> None:
        super().__init__()
        self.rms, self.eps = rms, eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = None if rms else nn.Parameter(torch.zeros(d_model))

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        modulation: Tensor | None = None,
        *,
        mirrored: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The normalised sum, modulated (2, B, d_model) as `Conditioning` says, and the sum itself: (B, L, d_model).

        `mirrored`: for channels that are flipped.
        """
        weight = self.weight.flip(0) if mirrored else self.weight
        bias = self.bias.flip(0) if mirrored and self.bias is not None else self.bias
        normed, total = add_norm_fn(x, residual, weight, bias, self.eps, rms=self.rms)
        if modulation is None:
            return normed, total
        return modulate(normed, modulation.flip(-1) if mirrored else modulation), total
