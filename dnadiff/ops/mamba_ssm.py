"""The kernels of the packages mamba_ssm and causal_conv1d, where those are installed. They are imported when called."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from dnadiff.ops.scan_arguments import ScanArguments


def selective_scan(given: ScanArguments) -> tuple[Tensor, Tensor]:
    """The scan of `dnadiff.ops.selective_scan_fn`, and its last state, which has no gradient here.

    mamba_ssm wants one type for everything that varies along the sequence, float32 for the rest, equal groups of B and
    C, and sequences that are contiguous along L, which it copies if need be. It knows left to right only.
    """
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse = given
    if B.dim() > 2 and C.dim() > 2:
        B, C = given.grouped()
    varying = [t for t in (u, delta, B, C, z) if t is not None and t.dim() > 2]
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in varying))
    x, dt, gate, b, c = (_as_wanted(t, dtype, reverse) for t in (u, delta, z, B, C))
    D, bias = (None if t is None else t.float() for t in (D, delta_bias))
    out, last_state = selective_scan_fn(x, dt, A.float(), b, c, D, gate, bias, delta_softplus, True)
    return (out.flip(-1) if reverse else out).to(u.dtype), last_state.detach()


def _as_wanted(tensor: Tensor | None, dtype: torch.dtype, reverse: bool) -> Tensor | None:
    """What varies along the sequence in `dtype` and from left to right; constant B or C (D, N) in float32."""
    if tensor is None or tensor.dim() == 2:
        return None if tensor is None else tensor.float()
    return (tensor.flip(-1) if reverse else tensor).to(dtype)


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool
) -> Tensor:
    """The convolution of `dnadiff.ops.causal_conv1d_fn`.

    causal_conv1d takes channels-last tensors only if 8 divides the number of channels, so it gets the other order.
    """
    from causal_conv1d import causal_conv1d_fn

    bias = None if bias is None else bias.float()
    x = (x.flip(-1) if reverse else x).contiguous()
    out = causal_conv1d_fn(
        x, weight.float().contiguous(), bias, activation="silu" if silu else None
    )
    return out.flip(-1) if reverse else out
