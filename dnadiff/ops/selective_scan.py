"""The selective scan of Mamba, with several backends."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dnadiff.ops.backend import (
    choose,
    cpu_unsupported,
    mamba_ssm_unsupported,
    needs_gradient,
    triton_unsupported,
)
from dnadiff.ops.scan_arguments import ScanArguments


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Runs a selective state space model (Gu and Dao 2023, arXiv 2312.00752, algorithm 2).

    Every channel has a state h of N numbers. With dt = softplus(delta + delta_bias):

        h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t,   y_t = C_t . h_t + D u_t,   out_t = y_t silu(z_t)

    The signature, the layouts and the dtype rules are those of
    ``mamba_ssm.ops.selective_scan_interface``. The fastest memory order is channels last, as for
    ``torch.channels_last``: pass ``x.transpose(1, 2)`` of an x that is (batch, L, D) in memory and
    nothing is copied; results come back in the same order.

    Args:
        u: input (batch, D, L).
        delta: step sizes before bias and softplus (batch, D, L).
        A: decay rates (D, N), real, usually negative.
        B: input coefficients (batch, N, L) that vary along the sequence, or (batch, G, N, L) for
            groups of D/G consecutive channels, or constant (D, N).
        C: output coefficients, in one of the same layouts.
        D: skip weights (D,).
        z: gate (batch, D, L).
        delta_bias: added to delta (D,).
        delta_softplus: whether dt is softplus(delta + delta_bias) or just the sum.
        return_last_state: whether to return the state after the last step as well.
        reverse: whether to scan right to left. That is the same as flipping u, delta, z, B, C and
            the output along L, without the copies; the last state is then the one at position 0.
        backend: "reference" (PyTorch, step by step, any device and dtype), "cpu" or "triton"
            (compiled for CPUs or CUDA devices; not float64, nor constant B or C), "mamba_ssm" (that
            package, where it is installed; no gradient of the last state), or "auto", the fastest
            of the first three that can take these arguments.

    Returns:
        out (batch, D, L) in u's dtype, or (out, last_state) with last_state (batch, D, N) in
        float32 (float64 if u is).

    Raises:
        ValueError: if shapes or dtypes do not fit together, or the backend is unknown or cannot
            take these arguments.
    """
    given = ScanArguments(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)
    _check(given)

    # Each backend is imported where it is needed: Numba and Triton take a while to import.
    match choose(backend, "selective_scan_fn", scan_unsupported(given, return_last_state)):
        case "cpu":
            from dnadiff.ops.cpu.scan import selective_scan
        case "triton":
            from dnadiff.ops.triton.scan import selective_scan
        case "mamba_ssm":
            from dnadiff.ops.mamba_ssm import selective_scan
        case _:
            selective_scan = selective_scan_reference
    out, last_state = selective_scan(given)
    return (out, last_state) if return_last_state else out


def scan_unsupported(
    given: ScanArguments, return_last_state: bool = False
) -> dict[str, str | None]:
    """Returns, for each backend in the order of "auto", why it cannot be used, or None."""
    tensors = given.tensors
    constant = None
    if given.B.dim() == 2 or given.C.dim() == 2:
        constant = "B and C must vary along the sequence"
    limit = None
    if given.A.shape[1] > 256:
        limit = "it takes at most 256 states"
    if return_last_state and needs_gradient(*tensors):
        limit = "it has no gradient of the last state"

    # "auto" never takes mamba_ssm: the reference, which takes everything, comes before it.
    return {
        "cpu": constant or cpu_unsupported(*tensors),
        "triton": constant or triton_unsupported(*tensors),
        "reference": None,
        "mamba_ssm": mamba_ssm_unsupported("mamba_ssm", *tensors) or limit,
    }


def selective_scan_reference(given: ScanArguments) -> tuple[Tensor, Tensor]:
    """Computes the scan position by position in PyTorch, differentiable by autograd.

    It is slow, and written to be read: what the other backends are tested against.

    Returns:
        The output and the last state.
    """
    u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse = given
    batch, channels, length = u.shape
    dtype = torch.promote_types(u.dtype, torch.float32)
    x, dt, A, B, C = (t.to(dtype) for t in (u, delta, A, B, C))
    if delta_bias is not None:
        dt = dt + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        dt = F.softplus(dt)

    state = x.new_zeros(batch, channels, A.shape[1])
    ys: list[Tensor] = [x.new_empty(batch, channels)] * length
    positions = range(length)
    for t in reversed(positions) if reverse else positions:
        dt_t = dt[:, :, t, None]
        state = torch.exp(dt_t * A) * state + dt_t * _at(B, t, channels) * x[:, :, t, None]
        ys[t] = (_at(C, t, channels) * state).sum(-1)

    # Stacked as (batch, L, D), so that the result is channels last as that of the other backends.
    y = torch.stack(ys, 1).transpose(1, 2) if length else x
    if D is not None:
        y = y + D.to(dtype)[:, None] * x
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), state


def _at(coefficients: Tensor, t: int, channels: int) -> Tensor:
    """Returns B or C at position t, broadcastable to (batch, D, N)."""
    if coefficients.dim() == 2:
        return coefficients[None]
    if coefficients.dim() == 3:
        return coefficients[:, None, :, t]
    return coefficients[..., t].repeat_interleave(channels // coefficients.shape[1], 1)


def _check(given: ScanArguments) -> None:
    """Raises ValueError if shapes or dtypes do not fit together."""
    u, delta, A, B, C, D, z, delta_bias, _, _ = given
    if u.dim() != 3:
        raise ValueError(f"u must be (batch, D, L), got {tuple(u.shape)}")
    batch, channels, length = u.shape

    if A.dim() != 2 or A.shape[0] != channels:
        raise ValueError(f"A must be (D, N) with D = {channels} as in u, got {tuple(A.shape)}")
    for name, like_u in (("delta", delta), ("z", z)):
        if like_u is not None and like_u.shape != u.shape:
            raise ValueError(
                f"{name} must have the shape of u {tuple(u.shape)}, got {tuple(like_u.shape)}"
            )
    for name, vector in (("D", D), ("delta_bias", delta_bias)):
        if vector is not None and vector.shape != (channels,):
            raise ValueError(f"{name} must have the shape ({channels},), got {tuple(vector.shape)}")
    for name, coefficients in (("B", B), ("C", C)):
        _check_coefficients(name, coefficients, (batch, channels, length), A.shape[1])
    for name, tensor in (("u", u), ("delta", delta), ("A", A), ("B", B), ("C", C)):
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be real floating point, got {tensor.dtype}")


def _check_coefficients(
    name: str, coefficients: Tensor, u_shape: tuple[int, int, int], states: int
) -> None:
    """Raises ValueError if B or C has none of the three layouts."""
    batch, channels, length = u_shape
    shape = tuple(coefficients.shape)
    groups = shape[1] if len(shape) == 4 else 1
    allowed = [(channels, states), (batch, states, length), (batch, groups, states, length)]
    if shape not in allowed:
        raise ValueError(
            f"{name} must be (D, N) = {allowed[0]}, (batch, N, L) = {allowed[1]} "
            f"or (batch, G, N, L), got {shape}"
        )
    if groups == 0 or channels % groups:
        raise ValueError(
            f"{name} has {groups} groups, which must divide the {channels} channels of u"
        )
