"""Causal depthwise convolution, with several backends."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dnadiff.ops.backend import choose, cpu_unsupported, mamba_ssm_unsupported, triton_unsupported


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Convolves each channel with its own filter of W positions, the present one and those before.

        y_t = bias + sum_k weight_k x_{t - (W - 1) + k},     x = 0 before the beginning

    As in ``causal_conv1d.causal_conv1d_fn``. The fastest memory order is channels last: pass
    ``x.transpose(1, 2)`` of an x that is (batch, L, D) in memory and nothing is copied.

    Args:
        x: input (batch, D, L).
        weight: filters (D, W), the present position last.
        bias: (D,).
        activation: None or "silu".
        reverse: whether filters see the W - 1 positions after the present one instead; the same as
            flip, convolve, flip.
        backend: "reference" (PyTorch, any device and dtype), "cpu" or "triton" (compiled for CPUs
            or CUDA devices; not float64), "mamba_ssm" (its companion causal_conv1d, where that is
            installed), or "auto", the fastest of the first three that can take these arguments.

    Returns:
        y (batch, D, L) in x's dtype.

    Raises:
        ValueError: if shapes do not fit together, the activation is unknown, or the backend is
            unknown or cannot take these arguments.
    """
    _check(x, weight, bias, activation)

    # Each backend is imported where it is needed: Numba and Triton take a while to import.
    match choose(backend, "causal_conv1d_fn", conv_unsupported(x, weight, bias)):
        case "cpu":
            from dnadiff.ops.cpu.conv import causal_conv
        case "triton":
            from dnadiff.ops.triton.conv import causal_conv
        case "mamba_ssm":
            from dnadiff.ops.mamba_ssm import causal_conv
        case _:
            causal_conv = causal_conv_reference
    return causal_conv(x, weight, bias, activation is not None, reverse)


def conv_unsupported(
    x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> dict[str, str | None]:
    """Returns, for each backend in the order of "auto", why it cannot be used, or None."""
    limit = None if weight.shape[1] in (2, 3, 4) else "it takes filters of 2 to 4 positions"
    return {
        "cpu": cpu_unsupported(x, weight, bias),
        "triton": triton_unsupported(x, weight, bias),
        "reference": None,
        "mamba_ssm": mamba_ssm_unsupported("causal_conv1d", x, weight, bias) or limit,
    }


def causal_conv_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool
) -> Tensor:
    """Computes the convolution in PyTorch, differentiable by autograd."""
    channels, width = weight.shape
    dtype = torch.promote_types(x.dtype, torch.float32)
    filters = (weight.flip(-1) if reverse else weight).to(dtype)[:, None]
    # F.conv1d refuses a sequence shorter than its filter, so one position too many is padded, and
    # its result is dropped below.
    padded = F.pad(x.to(dtype), (0, width) if reverse else (width, 0))
    y = F.conv1d(padded, filters, None if bias is None else bias.to(dtype), groups=channels)
    y = y[..., :-1] if reverse else y[..., 1:]
    return (F.silu(y) if silu else y).to(x.dtype)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> None:
    """Raises ValueError if shapes do not fit together or the activation is unknown."""
    if x.dim() != 3 or not x.is_floating_point():
        raise ValueError(
            f"x must be (batch, D, L) in floating point, got {tuple(x.shape)} in {x.dtype}"
        )
    if weight.dim() != 2 or weight.shape[0] != x.shape[1] or weight.shape[1] == 0:
        raise ValueError(
            f"weight must be (D, W) with D = {x.shape[1]} as in x, got {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have the shape ({x.shape[1]},), got {tuple(bias.shape)}")
    if activation not in (None, "silu"):
        raise ValueError(f"activation {activation!r} is unknown; choose None or 'silu'")
