"""Calls the kernels of the packages mamba_ssm and causal_conv1d, where those are installed.

The packages are imported on the first call.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from dnadiff.ops.scan_arguments import ScanArguments


def selective_scan(given: ScanArguments) -> tuple[Tensor, Tensor]:
    """Computes `dnadiff.ops.selective_scan_fn`, without a gradient of the last state.

    mamba_ssm takes one type for all that varies along the sequence, float32 for the rest, and equal
    groups of B and C. It scans from left to right only, so that other scans are flipped. It copies
    sequences that are not contiguous along L.

    Returns:
        The output and the last state.
    """
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse = given
    if B.dim() > 2 and C.dim() > 2:
        B, C = given.grouped()

    varying = [t for t in (u, delta, B, C, z) if t is not None and t.dim() > 2]
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in varying))
    x, dt, gate, b, c = (_converted(t, dtype, reverse) for t in (u, delta, z, B, C))
    D, bias = (None if t is None else t.float() for t in (D, delta_bias))

    out, last_state = selective_scan_fn(x, dt, A.float(), b, c, D, gate, bias, delta_softplus, True)
    return (out.flip(-1) if reverse else out).to(u.dtype), last_state.detach()


def _converted(tensor: Tensor | None, dtype: torch.dtype, reverse: bool) -> Tensor | None:
    """Returns a tensor as mamba_ssm takes it.

    What varies along the sequence is converted to `dtype` and to left to right. Constant B or C (D,
    N) is converted to float32.
    """
    if tensor is None:
        return None
    if tensor.dim() == 2:
        return tensor.float()
    return (tensor.flip(-1) if reverse else tensor).to(dtype)


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool
) -> Tensor:
    """Computes `dnadiff.ops.causal_conv1d_fn`."""
    from causal_conv1d import causal_conv1d_fn

    bias = None if bias is None else bias.float()
    # Contiguous along L: causal_conv1d takes channels-last tensors only if 8 divides the channels.
    x = (x.flip(-1) if reverse else x).contiguous()
    out = causal_conv1d_fn(
        x, weight.float().contiguous(), bias, activation="silu" if silu else None
    )
    return out.flip(-1) if reverse else out
