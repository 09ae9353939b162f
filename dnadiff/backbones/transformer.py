"""A Transformer with rotary positions, looking both ways or to the left (Vaswani et al. 2017; Su et al. 2021).

Heads have a width of their own, 32 channels, and there are as many as cover `d_model`, so that any `d_model` will do.
With `d_model` 118, 4 layers and an MLP of twice that width it has 471,884 parameters, about as many as a Caduceus of
that size (470,702).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dnadiff.backbones.stack import StackConfig, StackLM

_LONGEST = 10_000.0  # the slowest pair of channels turns by almost one radian in so many positions


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(StackConfig):
    """The shape of a Transformer.

    Attributes:
        causal: a position sees itself and what lies to its left; else it sees the whole sequence.
        head_dim: channels of each head, an even number: rotations turn pairs.
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
            raise ValueError(f"head_dim is {self.head_dim}; an even number is needed")

    @property
    def heads(self) -> int:
        """As many as cover `d_model`."""
        return -(-self.d_model // self.head_dim)


class Attention(nn.Module):
    """Softmax attention; queries and keys are rotated by angles in proportion to their positions."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.causal, self.heads, self.head_dim = config.causal, config.heads, config.head_dim
        width = self.heads * self.head_dim
        self.in_proj = nn.Linear(config.d_model, 3 * width)
        self.out_proj = nn.Linear(width, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes (B, L, d_model) along L."""
        q, k, v = (
            self.in_proj(x).unflatten(-1, (3, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        )
        angles = rotary_angles(x.shape[1], self.head_dim, x.device)
        mixed = F.scaled_dot_product_attention(
            rotate(q, angles), rotate(k, angles), v, is_causal=self.causal
        )
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


def rotary_angles(length: int, width: int, device: torch.device | None = None) -> Tensor:
    """Angle (length, width / 2) float64 of each pair of channels at each position (Su et al. 2021, equation 15)."""
    speeds = _LONGEST ** -(torch.arange(0, width, 2, dtype=torch.float64, device=device) / width)
    return torch.arange(length, device=device)[:, None] * speeds


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turns channel pairs (i, i + width / 2) of x (..., L, width) by angles (L, width / 2), in float32 or wider."""
    first, second = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, -1)
    cos, sin = angles.cos().to(first.dtype), angles.sin().to(first.dtype)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1).to(x.dtype)


class TransformerLM(StackLM):
    """A Transformer with its language-model head."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, [Attention(config) for _ in range(config.n_layer)])

    @property
    def causal(self) -> bool:
        """Whether it looks to the left only."""
        return self.config.causal
