"""Hyena: long convolutions with gates in the place of attention (Poli et al. 2023, arXiv 2302.10866).

The model of HyenaDNA (Nguyen et al. 2023, arXiv 2306.15794), which reads DNA from left to right. Its operator is of
order 2: three projections of the input pass a short causal convolution each and become v, a and b; then

    y = a * conv(h, b * v),        conv(h, u)_t = sum_{s <= t} h_{t-s} u_s + skip * u_t.

Of the two convolutions that Poli et al. give an operator of order 2 (section 3.1) the published models keep one long
one; the short convolution of v serves as the other. The filter h of each channel is as long as the sequence and has no
weights of its own: its value at distance t is a small network of t, under a window that decays with t (section 3.3).

With `d_model` 128 and 2 layers it has 436,096 parameters. The 433K of the MDLM paper's table are these without twice
the embedding of 12 tokens, cut to thousands; so are the 467K of its Caduceus and the 465K of its Mamba.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dnadiff.backbones.stack import StackConfig, StackLM
from dnadiff.ops import causal_conv1d_fn

# The window of a channel falls to 1 % at 0.3 to 1.5 of l_max, channel by channel, and ends at 0.05 above zero.
_FASTEST, _SLOWEST = math.log(100) / 0.3, math.log(100) / 1.5
_FLOOR = 0.05
_FREQUENCY = 10.0  # of the sines at the start: without it the filters would begin too smooth


@dataclass(frozen=True, kw_only=True)
class HyenaConfig(StackConfig):
    """The shape of a Hyena, with the published model's sizes.

    Attributes:
        l_max: the distance that is one unit of time to the filters. Longer sequences are read too: the filters go on.
        filter_order: width of the filters' network.
        emb_dim: features of a distance: time itself, and the cosines and sines of (emb_dim - 1) / 2 frequencies.
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
            raise ValueError(f"emb_dim is {self.emb_dim}; an odd number from 3 is needed")


class Sine(nn.Module):
    """sin(frequency x), each channel with a frequency that is learned."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.full((width,), _FREQUENCY))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        return torch.sin(self.frequency * x)


class ImplicitFilter(nn.Module):
    """The value of each channel's filter at each distance, as a function of the distance (Poli et al., section 3.3)."""

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
        """Filters (length, d_model) float32 at the distances 0 .. length - 1; a value does not depend on `length`."""
        with torch.autocast(self.skip.device.type, enabled=False):
            t = (
                torch.arange(length, device=self.skip.device, dtype=self.skip.dtype)[:, None]
                / self.l_max
            )
            angle = 2 * math.pi * t * torch.arange(self.waves, device=t.device)
            values = self.network(torch.cat([t, angle.cos(), angle.sin()], 1))
            decay = torch.linspace(
                _SLOWEST, _FASTEST, len(self.skip), device=t.device, dtype=t.dtype
            )
            return values * (torch.exp(-t * decay) + _FLOOR)


class HyenaOperator(nn.Module):
    """Hyena's operator of order 2; see the module's docstring."""

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
    """Causal convolution of each channel along L with a filter as long as the sequence, in float32 or wider.

        y_t = sum_{s <= t} filters_{t-s} u_s

    By the fast Fourier transform, on twice the length so that the end does not wrap around to the beginning.

    Args:
        u: (B, L, d).
        filters: (L, d).
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
        """Always: its convolutions look to the left."""
        return True
