"""Residual addition and normalisation in one pass, with several backends."""

from __future__ import annotations

import torch
from torch import Tensor

from dnadiff.ops.backend import choose, cpu_unsupported, triton_unsupported


def add_norm_fn(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    rms: bool = True,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Adds a layer's output to the residual stream and normalises the sum for the next layer.

        r = x + residual
        rms:      normed = weight r / sqrt(mean(r^2) + eps) + bias            (Zhang, Sennrich 2019)
        not rms:  normed = weight (r - mean(r)) / sqrt(var(r) + eps) + bias   (Ba et al. 2016)

    Args:
        x: output of a layer (..., D).
        residual: residual stream (..., D), or None before the first layer.
        weight: (D,).
        bias: (D,).
        eps: added under the root, so that it is never 0.
        rms: whether to compute RMSNorm and not LayerNorm.
        backend: "reference" (PyTorch, any device and dtype), "cpu" or "triton" (compiled for CPUs
            or CUDA devices; not float64), or "auto", the fastest that can take these arguments.

    Returns:
        normed (..., D) in x's dtype, and r (..., D) in the wider dtype of x and residual.

    Raises:
        ValueError: if shapes do not fit together, or the backend is unknown or cannot take these
            arguments.
    """
    _check(x, residual, weight, bias)

    # Each backend is imported where it is needed: Numba and Triton take a while to import.
    match choose(backend, "add_norm_fn", norm_unsupported(x, residual, weight, bias)):
        case "cpu":
            from dnadiff.ops.cpu.norm import add_norm
        case "triton":
            from dnadiff.ops.triton.norm import add_norm
        case _:
            add_norm = add_norm_reference
    return add_norm(x, residual, weight, bias, eps, rms)


def norm_unsupported(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None = None
) -> dict[str, str | None]:
    """Returns, for each backend in the order of "auto", why it cannot be used, or None."""
    tensors = x, residual, weight, bias
    return {
        "cpu": cpu_unsupported(*tensors),
        "triton": triton_unsupported(*tensors),
        "reference": None,
    }


def add_norm_reference(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, rms: bool
) -> tuple[Tensor, Tensor]:
    """Computes the addition and the norm in PyTorch, differentiable by autograd."""
    stream = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    dtype = torch.promote_types(stream, torch.float32)
    total = x.to(dtype)
    if residual is not None:
        total = total + residual.to(dtype)
    total = total.to(stream)

    # The sum as rounded to its dtype is normalised, since that is what the next layer adds to.
    centred = total.to(dtype)
    if not rms:
        centred = centred - centred.mean(-1, keepdim=True)
    normed = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps) * weight.to(dtype)
    if bias is not None:
        normed = normed + bias.to(dtype)
    return normed.to(x.dtype), total


def _check(x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None) -> None:
    """Raises ValueError if shapes do not fit together."""
    if x.dim() == 0 or x.shape[-1] == 0 or not x.is_floating_point():
        raise ValueError(f"x must be (..., D) in floating point, got {tuple(x.shape)} in {x.dtype}")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(
            f"residual must have the shape of x {tuple(x.shape)}, got {tuple(residual.shape)}"
        )
    for name, vector in (("weight", weight), ("bias", bias)):
        if vector is not None and vector.shape != x.shape[-1:]:
            raise ValueError(
                f"{name} must have the shape ({x.shape[-1]},), got {tuple(vector.shape)}"
            )
