"""Hyena: long gated convolutions instead of attention (Poli et al. 2023, arXiv 2302.10866).

This is the model of HyenaDNA (Nguyen et al. 2023, arXiv 2306.15794), which reads DNA from left to
right. Its operator has order 2: three projections of the input pass through a short causal
convolution each and become v, a and b; then

    y = a * conv(h, b * v),        conv(h, u)_t = sum_{s <= t} h_{t-s} u_s + skip * u_t.

Poli et al. (section 3.1) give an operator of order 2 two long convolutions. The published models
keep one; the short convolution of v serves as the other. The filter h of each channel is as long as
the sequence and has no weights of its own: its value at distance t is a small network's output for
t, multiplied by a window that decays with t (section 3.3).

With `d_model` 128 and 2 layers it has 436,096 trainable parameters. The MDLM paper's table prints
433K: it subtracts the embedding of 12 tokens twice and truncates to thousands, as it does for its
Caduceus (467K) and its Mamba (465K).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dnadiff.backbones.stack import StackConfig, StackLM
from dnadiff.ops import causal_conv1d_fn

# The window exp(-decay t) of the fastest channel falls to 1 % at 0.3 l_max, that of the slowest at
# 1.5 l_max. A floor keeps distant positions from vanishing. Values of the published models.
_FASTEST, _SLOWEST = math.log(100) / 0.3, math.log(100) / 1.5
_FLOOR = 0.05
_FREQUENCY = 10.0  # of the sine activations at the start: low frequencies give too smooth filters


@dataclass(frozen=True, kw_only=True)
class HyenaConfig(StackConfig):
    """The shape of a Hyena; the defaults are the published model's.

    Attributes:
        l_max: distance that counts as time 1 in the filters. Longer sequences can be read too.
        filter_order: width of the network that gives the filters.
        emb_dim: features of a distance: time itself, and the cosines and sines of
            (emb_dim - 1) / 2 frequencies.
        short_filter_order: positions of the short convolutions.
    """

    model_type: ClassVar[str] = "dnadiff-hyena"

    d_model: int = 128
    n_layer: int = 2
    expand: int = 4
    l_max: int = 1024
    filter_order: int = 64
    emb_dim: int = 5
    short_filter_order: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.emb_dim < 3 or self.emb_dim % 2 == 0:
            raise ValueError(f"emb_dim is {self.emb_dim}; it must be odd and at least 3")


class Sine(nn.Module):
    """Activation sin(frequency x), with a learned frequency for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.full((width,), _FREQUENCY))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., width) to the same shape."""
        return torch.sin(self.frequency * x)


class ImplicitFilter(nn.Module):
    """Computes each channel's filter as a function of distance (Poli et al., section 3.3)."""

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        self.l_max, self.waves, width = config.l_max, (config.emb_dim - 1) // 2, config.filter_order
        sine = Sine(width)  # one for all layers, as published
        self.network = nn.Sequential(
            nn.Linear(config.emb_dim, width), sine,
            nn.Linear(width, width), sine,
            nn.Linear(width, width), sine,
            nn.Linear(width, config.d_model, bias=False),
        )  # fmt: skip
        self.skip = nn.Parameter(torch.randn(config.d_model))

    def forward(self, length: int) -> Tensor:
        """Returns filters (length, d_model) float32 at the distances 0 .. length - 1.

        The value at a distance does not depend on `length`.
        """
        with torch.autocast(self.skip.device.type, enabled=False):
            distance = torch.arange(length, device=self.skip.device, dtype=self.skip.dtype)
            t = distance[:, None] / self.l_max
            angle = 2 * math.pi * t * torch.arange(self.waves, device=t.device)
            values = self.network(torch.cat([t, angle.cos(), angle.sin()], 1))
            decay = torch.linspace(
                _SLOWEST, _FASTEST, len(self.skip), device=t.device, dtype=t.dtype
            )
            return values * (torch.exp(-t * decay) + _FLOOR)


class HyenaOperator(nn.Module):
    """Mixes positions by Hyena's operator of order 2; see the module's docstring."""

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        d, width = config.d_model, config.short_filter_order
        self.in_proj = nn.Linear(d, 3 * d)
        self.short_conv = nn.Conv1d(3 * d, 3 * d, width, groups=3 * d, padding=width - 1)
        self.filter = ImplicitFilter(config)
        self.out_proj = nn.Linear(d, d)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes (B, L, d_model) along L, from left to right."""
        projected = causal_conv1d_fn(
            self.in_proj(x).mT, self.short_conv.weight[:, 0], self.short_conv.bias
        )
        a, b, v = projected.mT.chunk(3, -1)
        u = b * v
        mixed = long_conv(u, self.filter(x.shape[1])) + self.filter.skip * u
        return self.out_proj(a * mixed.to(a.dtype))


def long_conv(u: Tensor, filters: Tensor) -> Tensor:
    """Convolves each channel causally with a filter as long as the sequence, in float32 or wider.

        y_t = sum_{s <= t} filters_{t-s} u_s

    Uses the fast Fourier transform on at least twice the length, so that the end does not wrap
    around to the beginning.

    Args:
        u: (B, L, d).
        filters: (L, d).

    Returns:
        (B, L, d).
    """
    length = u.shape[1]
    size = 1 << (2 * length - 1).bit_length()
    with torch.autocast(u.device.type, enabled=False):
        u = u.to(torch.promote_types(u.dtype, torch.float32))
        spectrum = torch.fft.rfft(u.mT, size) * torch.fft.rfft(filters.mT, size)
        return torch.fft.irfft(spectrum, size)[..., :length].mT


class HyenaLM(StackLM):
    """HyenaDNA with its language-model head."""

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__(config, [HyenaOperator(config) for _ in range(config.n_layer)])

    @property
    def causal(self) -> bool:
        """True: its convolutions only look to the left."""
        return True
