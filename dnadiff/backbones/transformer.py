"""A Transformer with rotary positions, bidirectional or causal.

Vaswani et al. 2017 (arXiv 1706.03762); Su et al. 2021 (arXiv 2104.09864).

A head has 32 channels whatever `d_model` is, and there are as many heads as cover `d_model`, so any
`d_model` works. With `d_model` 118, 4 layers and an MLP of twice that width it has 471,884
trainable parameters, about as many as a Caduceus of that size (470,702).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dnadiff.backbones.stack import StackConfig, StackLM

_ROTARY_BASE = 10_000.0  # the slowest channel pair turns by about one radian in this many positions


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(StackConfig):
    """The shape of a Transformer.

    Attributes:
        causal: whether a position attends only to itself and positions to its left.
        head_dim: channels of each head; even, because rotations turn pairs of channels.
    """

    model_type: ClassVar[str] = "dnadiff-transformer"

    d_model: int = 118
    n_layer: int = 4
    expand: int = 2
    causal: bool = False
    head_dim: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}; it must be even")

    @property
    def heads(self) -> int:
        """Number of heads: as many as cover `d_model`."""
        return -(-self.d_model // self.head_dim)


class Attention(nn.Module):
    """Softmax attention with rotary positions.

    Queries and keys are rotated in proportion to position.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.causal, self.heads, self.head_dim = config.causal, config.heads, config.head_dim
        width = self.heads * self.head_dim
        self.in_proj = nn.Linear(config.d_model, 3 * width)
        self.out_proj = nn.Linear(width, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes (B, L, d_model) along L."""
        split = self.in_proj(x).unflatten(-1, (3, self.heads, self.head_dim))
        q, k, v = split.permute(2, 0, 3, 1, 4)  # each (B, heads, L, head_dim)
        angles = rotary_angles(x.shape[1], self.head_dim, x.device)
        # Rotations make the product of query and key a function of their distance.
        mixed = F.scaled_dot_product_attention(
            rotate(q, angles), rotate(k, angles), v, is_causal=self.causal
        )
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


def rotary_angles(length: int, width: int, device: torch.device | None = None) -> Tensor:
    """Returns the angle (length, width / 2) float64 of each channel pair at each position.

    Su et al. 2021 (arXiv 2104.09864), equation 15. In float64, because float32 cannot resolve the
    angles of the fast pairs at positions of 10^5 and more.
    """
    speeds = _ROTARY_BASE ** -(
        torch.arange(0, width, 2, dtype=torch.float64, device=device) / width
    )
    return torch.arange(length, device=device)[:, None] * speeds


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotates channel pairs (i, i + width / 2) of x (..., L, width) by angles (L, width / 2).

    Computes in float32 or wider and returns the type of `x`.
    """
    first, second = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, -1)
    cos, sin = angles.cos().to(first.dtype), angles.sin().to(first.dtype)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1).to(x.dtype)


class TransformerLM(StackLM):
    """A Transformer with its language-model head."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, [Attention(config) for _ in range(config.n_layer)])

    @property
    def causal(self) -> bool:
        """Whether positions attend only to the left."""
        return self.config.causal
