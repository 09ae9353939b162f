"""What a network is told beside the sequence: the noise level, a class. One mechanism for every backbone.

Each normalised residual stream is scaled and shifted by numbers that are computed from the condition (adaLN, Peebles
and Xie 2023, arXiv 2212.09748). They start at zero, and a network that is told nothing has none: an unconditioned model
is exactly the published one, and a conditioned one starts from it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_WIDTH = 32  # of the condition's vector: the modulation of a 118 x 4 Caduceus then has about 40,000 weights
_FREQUENCIES = 16
_LARGEST = 15.0  # of the log-odds of the noise, either way: shares of 3e-7


class Conditioning(nn.Module):
    """From the noise level and the class to the scale and the shift of each norm.

    Args:
        norms: how many norms the backbone has.
        d_model: channels of each.
        sigma: whether it is told the noise level.
        labels: number of classes; 0 for none.
    """

    frequencies: Tensor

    def __init__(self, norms: int, d_model: int, *, sigma: bool, labels: int = 0) -> None:
        super().__init__()
        self.norms, self.d_model, self.labels = norms, d_model, labels
        self.time = (
            nn.Sequential(nn.Linear(2 * _FREQUENCIES, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, _WIDTH))
            if sigma
            else None
        )
        # The last row is for "no class given", which training with labels also shows (classifier-free guidance).
        self.label = nn.Embedding(labels + 1, _WIDTH) if labels else None
        self.scale_shift = nn.Linear(_WIDTH, 2 * norms * d_model)
        nn.init.zeros_(self.scale_shift.weight)
        nn.init.zeros_(self.scale_shift.bias)
        periods = torch.logspace(0, math.log10(4 * _LARGEST), _FREQUENCIES)
        self.register_buffer("frequencies", 2 * math.pi / periods, persistent=False)

    def forward(self, sigma: Tensor | None, label: Tensor | None, batch: int) -> Tensor:
        """Scales and shifts (norms, 2, B, d_model).

        Args:
            sigma: (B,) noise level, -log(alpha).
            label: (B,) classes; None, or the number of classes, where none is given.
            batch: B.

        Raises:
            ValueError: if a network that is told the noise level is not, or a label is none.
        """
        told = self.scale_shift.bias.new_zeros(batch, _WIDTH)
        if self.time is not None:
            if sigma is None:
                raise ValueError("this network must be told the noise level (sigma)")
            told = told + self.time(self._features(sigma))
        if self.label is not None:
            label = (
                torch.full((batch,), self.labels, device=told.device) if label is None else label
            )
            if label.numel() and not 0 <= int(label.min()) <= int(label.max()) <= self.labels:
                raise ValueError(
                    f"a label must be from 0 to {self.labels - 1}, or {self.labels} for none"
                )
            told = told + self.label(label)
        out = self.scale_shift(nn.functional.silu(told))
        return out.view(batch, self.norms, 2, self.d_model).permute(1, 2, 0, 3)

    def add_labels_to(self, trained: Conditioning) -> None:
        """Takes over what `trained` makes of the noise level; the classes, which it is not told, start at zero."""
        assert self.label is not None
        self.time, self.scale_shift = trained.time, trained.scale_shift
        nn.init.zeros_(self.label.weight)

    def _features(self, sigma: Tensor) -> Tensor:
        """Waves (B, 2 F) of the log-odds that a letter is noise, log(e^sigma - 1): both ends of time are spread out."""
        sigma = sigma.float()
        log_odds = (sigma + torch.log(-torch.expm1(-sigma.clamp(min=1e-9)))).clamp(
            -_LARGEST, _LARGEST
        )
        angle = log_odds[:, None] * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], 1)


def modulate(normed: Tensor, modulation: Tensor) -> Tensor:
    """Normed (B, L, d) times 1 + scale, plus shift; modulation is (2, B, d)."""
    scale, shift = modulation.to(normed.dtype)[:, :, None]
    return torch.addcmul(shift, normed, 1 + scale)
