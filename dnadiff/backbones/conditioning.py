"""Conditioning on the noise level and on a class (adaLN), the same for every backbone.

The output of each norm is scaled and shifted by values computed from the noise level and the class
(adaptive layer norm, Peebles and Xie 2023, arXiv 2212.09748). An unconditioned network has no such
scales and shifts, and is exactly the published one. In a conditioned network they start at zero, so
it first computes the same function.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_WIDTH = 32  # of the conditioning vector; it adds about 40,000 weights to a 118 x 4 Caduceus
_FREQUENCIES = 16
_MAX_LOG_ODDS = 15.0  # log-odds are clamped to +-15: mask rates from 3e-7 to 1 - 3e-7


class Conditioning(nn.Module):
    """Maps the noise level and the class to a scale and a shift for each norm.

    Args:
        norms: number of norms in the backbone.
        d_model: channels of each.
        sigma: whether there is a noise level.
        labels: number of classes; 0 for none.
    """

    frequencies: Tensor

    def __init__(self, norms: int, d_model: int, *, sigma: bool, labels: int = 0) -> None:
        super().__init__()
        self.norms, self.d_model, self.labels = norms, d_model, labels
        self.time = None
        if sigma:
            self.time = nn.Sequential(
                nn.Linear(2 * _FREQUENCIES, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, _WIDTH)
            )
        # The last row is for "no class", which training with labels also sees: classifier-free
        # guidance needs the unconditional distribution (Ho and Salimans 2022).
        self.label = nn.Embedding(labels + 1, _WIDTH) if labels else None
        self.scale_shift = nn.Linear(_WIDTH, 2 * norms * d_model)
        nn.init.zeros_(self.scale_shift.weight)
        nn.init.zeros_(self.scale_shift.bias)

        # The longest wave is twice the range of log-odds, so that no two levels look alike.
        periods = torch.logspace(0, math.log10(4 * _MAX_LOG_ODDS), _FREQUENCIES)
        self.register_buffer("frequencies", 2 * math.pi / periods, persistent=False)

    def forward(self, sigma: Tensor | None, label: Tensor | None, batch: int) -> Tensor:
        """Returns scales and shifts (norms, 2, B, d_model).

        Args:
            sigma: (B,) noise level, -log(alpha).
            label: (B,) classes; None, or the number of classes, where none is given.
            batch: B.

        Raises:
            ValueError: if a noise level is needed and missing, or a label is out of range.
        """
        condition = self.scale_shift.bias.new_zeros(batch, _WIDTH)
        if self.time is not None:
            if sigma is None:
                raise ValueError("this network needs the noise level (sigma)")
            condition = condition + self.time(self._features(sigma))
        if self.label is not None:
            condition = condition + self.label(self._checked_labels(label, batch))
        out = self.scale_shift(nn.functional.silu(condition))
        return out.view(batch, self.norms, 2, self.d_model).permute(1, 2, 0, 3)

    def _checked_labels(self, label: Tensor | None, batch: int) -> Tensor:
        """Returns the classes (B,), all of them "no class" if `label` is None."""
        if label is None:
            return torch.full((batch,), self.labels, device=self.scale_shift.bias.device)
        if label.numel() and not 0 <= int(label.min()) <= int(label.max()) <= self.labels:
            raise ValueError(
                f"a label must be from 0 to {self.labels - 1}, or {self.labels} for no class"
            )
        return label

    def add_labels_to(self, trained: Conditioning) -> None:
        """Takes over the time conditioning of `trained`, and starts the new classes at zero."""
        assert self.label is not None
        self.time, self.scale_shift = trained.time, trained.scale_shift
        nn.init.zeros_(self.label.weight)

    def _features(self, sigma: Tensor) -> Tensor:
        """Returns sines and cosines (B, 2 F) of the log-odds of noise, log(e^sigma - 1).

        Log-odds resolve both ends of time, whereas on the scale of sigma all low noise is near 0.
        """
        sigma = sigma.float()
        # log(e^s - 1) = s + log(1 - e^-s), which does not overflow for large s.
        log_odds = sigma + torch.log(-torch.expm1(-sigma.clamp(min=1e-9)))
        log_odds = log_odds.clamp(-_MAX_LOG_ODDS, _MAX_LOG_ODDS)
        angle = log_odds[:, None] * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], 1)


def modulate(normed: Tensor, modulation: Tensor) -> Tensor:
    """Returns normed (B, L, d) * (1 + scale) + shift, for modulation (2, B, d)."""
    scale, shift = modulation.to(normed.dtype)[:, :, None]
    return torch.addcmul(shift, normed, 1 + scale)
