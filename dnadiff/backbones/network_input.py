"""The input of a network: token ids, and what replaces or is added to their embeddings."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from dnadiff.alphabet import DNA


@dataclass(frozen=True)
class NetworkInput:
    """Input of one call of a network: B sequences of length L.

    Attributes:
        tokens: (B, L) int64 token ids.
        token_probs: weights on nucleotide embeddings, which replace the embedding of each
            nucleotide and mask. (B, L, K) weighs the K nucleotides; (B, L, K + 1) also the mask,
            last; (B, L, 2 K) the nucleotides and then the rows of `self_cond`.
        modulation: (norms, 2, B, d_model) scale and shift of each norm, the same for both strands;
            see `dnadiff.backbones.conditioning.Conditioning`.
        self_cond: (K, d_model) embeddings for the second half of `token_probs` (self-conditioning).
        context: (strands * B, L, d_model) vectors that are added to the embeddings, each strand in
            its own direction; see `dnadiff.backbones.ngram_memory.NgramMemory`.
    """

    tokens: Tensor
    token_probs: Tensor | None = None
    modulation: Tensor | None = None
    self_cond: Tensor | None = None
    context: Tensor | None = None

    def opposite_strand(self, complement: Tensor) -> NetworkInput:
        """Returns the reverse complements, with the same modulation and without `context`.

        Args:
            complement: (rows,) int64, the complement of each token id.
        """
        probs = self.token_probs
        if probs is not None:
            probs = complement_probs(probs).flip(1)
        tokens = complement[self.tokens].flip(-1)
        return replace(self, tokens=tokens, token_probs=probs, context=None)


def embed(given: NetworkInput, embedding: Tensor) -> Tensor:
    """Returns the vectors (B, L, d) of an input, from the embedding matrix (rows, d).

    `NetworkInput.context` is not added here, because it covers both strands.
    """
    x = F.embedding(given.tokens, embedding)
    probs = given.token_probs
    if probs is None:
        return x

    # Rows in the order of the weights: nucleotides, then the mask or the self-conditioning rows.
    width = probs.shape[-1]
    table = embedding[[*DNA.ids, DNA.mask_id][:width]]
    if width == 2 * len(DNA) and given.self_cond is not None:
        table = torch.cat([table[: len(DNA)], given.self_cond])

    # N, padding and special tokens keep their own embedding: they are never noised.
    replaced = DNA.scorable(given.tokens) | (given.tokens == DNA.mask_id)
    # Outside autocast: a one-hot row must give the embedding exactly, and bfloat16 would round a
    # pair of weights such as 0.001 and 0.999 too coarsely.
    with torch.autocast(x.device.type, enabled=False):
        return torch.where(replaced[..., None], probs.to(table.dtype) @ table, x)


def complement_probs(token_probs: Tensor) -> Tensor:
    """Moves the weights of `NetworkInput.token_probs` to the complementary nucleotides.

    Positions stay where they are. The weight on the mask, where there is one, stays too.
    """
    letters = [DNA.complement_ids[letter] - DNA.first_id for letter in DNA.ids]
    width = token_probs.shape[-1]
    if width == len(DNA) + 1:
        return token_probs[..., [*letters, len(DNA)]]
    # Both halves of a self-conditioned input are over nucleotides.
    both_halves = letters + [len(DNA) + letter for letter in letters]
    return token_probs[..., both_halves[:width]]
