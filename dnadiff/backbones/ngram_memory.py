"""Hashed n-gram tables, whose rows for the neighbouring nucleotides are added to the embedding.

Genomes contain many repeats, and tables indexed by up to eleven neighbouring nucleotides store far
more of them than the weights of a small network. For each order n and each side, the n-gram that
ends at a position (left context) or begins there (right context) selects a row of a table. The
selected rows of all tables are concatenated and pass through one linear map, and the result is
added to the embedding of the position.

The digits of an n-gram are the four nucleotides and a fifth for every other token, usually the
mask. At high mask rates most long n-grams contain masks, and the short n-grams carry most of the
information. If a table has a row for every n-gram of its order, no two share one. The n-grams of
longer orders are hashed to `MAX_ROWS` rows, so that several share a row.

Both strands use the same tables, each read in its own direction, so Caduceus-PS remains equivariant
to reverse complementation. Source: hashed n-gram embeddings, Huang et al. 2025 (arXiv 2501.16975).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dnadiff.alphabet import DNA

ORDERS = (4, 6, 8, 11)
WIDTH = 16  # numbers of each row
MAX_ROWS = 1 << 15  # of one table

_DIGITS = len(DNA) + 1
# Knuth's multiplicative hash: the high bits of a product with 2^64 divided by the golden ratio.
_HASH = 0x9E3779B97F4A7C15 - 2**64


class NgramMemory(nn.Module):
    """Tables of left and right n-grams, and a linear map from their rows to the embedding.

    The map starts at zero, so a new memory does not change what the network computes.

    Args:
        d_model: channels of the embedding.
        causal: whether only left contexts may be used.
    """

    def __init__(self, d_model: int, *, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        sides = 1 if causal else 2
        self.rows = [min(_DIGITS**n, MAX_ROWS) for n in ORDERS]
        # One matrix for all tables: a single lookup and one parameter for the optimiser.
        self.table = nn.Embedding(sides * sum(self.rows), WIDTH)
        self.project = nn.Linear(sides * len(ORDERS) * WIDTH, d_model, bias=False)
        nn.init.normal_(self.table.weight, std=0.1)
        nn.init.zeros_(self.project.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns the vectors (B, L, d_model) that are added to the embeddings of tokens (B, L)."""
        return self.project(self.table(self.index(tokens)).flatten(-2))

    def index(self, tokens: Tensor) -> Tensor:
        """Returns the rows (B, L, tables) int64 that each position looks up."""
        digits = DNA.letter_index(tokens)
        digits = torch.where(DNA.scorable(tokens), digits, _DIGITS - 1)

        found, first_row = [], 0
        for side in range(1 if self.causal else 2):
            # A right context is a left context of the sequence read backwards.
            ordered = digits.flip(1) if side else digits
            for n, rows in zip(ORDERS, self.rows, strict=True):
                row = _row(_codes(ordered, n), n, rows)
                found.append(first_row + (row.flip(1) if side else row))
                first_row += rows
        return torch.stack(found, -1)


def _codes(digits: Tensor, n: int) -> Tensor:
    """Returns the numbers (B, L) of the n-grams that end at each position.

    Positions before the start count as unknown.
    """
    padded = F.pad(digits, (n - 1, 0), value=_DIGITS - 1)
    length = digits.shape[1]
    code = torch.zeros_like(digits)
    for j in range(n):
        code = code * _DIGITS + padded[:, j : j + length]
    return code


def _row(code: Tensor, n: int, rows: int) -> Tensor:
    """Returns each n-gram's row in a table: its number if all of them fit, else a hash of it."""
    if _DIGITS**n <= rows:
        return code
    bits = int(math.log2(rows))
    # The shift of a negative int64 fills with ones, so keep only the bits that were asked for.
    return ((code * _HASH) >> (64 - bits)) & (rows - 1)
