"""The Mamba mixer in any number of directions, with several backends, and one step of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from dnadiff.ops.backend import choose, cpu_unsupported, mamba_ssm_unsupported, triton_unsupported
from dnadiff.ops.causal_conv import causal_conv1d_fn
from dnadiff.ops.mixer_arguments import DirectionWeights
from dnadiff.ops.selective_scan import selective_scan_fn


def mamba_mixer_fn(
    x: Tensor,
    in_weight: Tensor,
    in_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    directions: Sequence[DirectionWeights],
    *,
    backend: str = "auto",
) -> Tensor:
    """Computes the mixer of Mamba (Gu and Dao 2023, figure 3) with one pair of projections.

        u, z = in_weight x + in_bias
        c = silu(conv(u)),  dt, B, C = x_proj c,  y = scan(c, dt_proj dt, A, B, C, D)   per
        direction out = out_weight ((sum of y) silu(z)) + out_bias

    Two directions make the BiMamba block of Caduceus (Schiff et al. 2024) with tied projections: as
    these are linear and the gate is common, one of each serves both directions.

    Args:
        x: (batch, L, d_model).
        in_weight: (2 D, d_model), for u and for the gate z.
        in_bias: (2 D,).
        out_weight: (d_model, D).
        out_bias: (d_model,).
        directions: one or more.
        backend: "cpu" (compiled as a whole; not float64); or "reference", "triton" or "mamba_ssm",
            where the mixer is made of `causal_conv1d_fn` and `selective_scan_fn` of that backend;
            or "auto", the fastest of the first three that can take these arguments.

    Returns:
        (batch, L, d_model) in x's dtype, or autocast's. Under autocast to bfloat16 all that is kept
        of the size of x is bfloat16; A, D, step sizes and states are float32.

    Raises:
        ValueError: if there is no direction, or the backend is unknown or cannot take these
            arguments.
    """
    if not directions:
        raise ValueError("a mixer needs at least one direction")
    unsupported = mixer_unsupported(x, in_weight, out_weight, directions)
    chosen = choose(backend, "mamba_mixer_fn", unsupported)
    if chosen == "cpu":
        from dnadiff.ops.cpu.mixer import mixer  # imports Numba, which takes a while

        return mixer(x, in_weight, in_bias, out_weight, out_bias, directions)

    # Each direction is gated by itself, which gives the same sum: the gate is a factor of it.
    u, z = F.linear(x, in_weight, in_bias).mT.chunk(2, 1)
    y = torch.stack([_one_direction(u, z, direction, chosen) for direction in directions]).sum(0)
    return F.linear(y.mT, out_weight, out_bias)


class MixerState(NamedTuple):
    """State of a left-to-right mixer after some positions, of constant size.

    Attributes:
        window: the last W - 1 inputs of the convolution (batch, D, W - 1), the latest one last.
        hidden: state of the scan (batch, N, D), in float32 or wider.
    """

    window: Tensor
    hidden: Tensor

    @classmethod
    def empty(cls, batch: int, direction: DirectionWeights) -> MixerState:
        """Returns the state before the first position."""
        (channels, width), states = direction.conv_weight.shape, direction.A.shape[1]
        window = direction.conv_weight.new_zeros(batch, channels, width - 1)
        return cls(window, direction.A.new_zeros(batch, states, channels))


@torch.no_grad()
def mamba_mixer_step(
    x: Tensor,
    state: MixerState,
    in_weight: Tensor,
    in_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    direction: DirectionWeights,
) -> tuple[Tensor, MixerState]:
    """Computes `mamba_mixer_fn` of one direction at the next position, without gradients.

    The cost does not depend on the number of positions before.

    Args:
        x: (batch, d_model), the next position.
        state: the state after the position before; `MixerState.empty` at the first position.
        in_weight: (2 D, d_model), as for `mamba_mixer_fn`.
        in_bias: (2 D,).
        out_weight: (d_model, D).
        out_bias: (d_model,).
        direction: the weights of a direction that is not reversed.

    Returns:
        (batch, d_model), and the state after this position.

    Raises:
        ValueError: if the direction runs right to left.
    """
    w = direction
    if w.reverse:
        raise ValueError(
            "a direction that runs right to left cannot be taken one position at a time"
        )

    u, z = F.linear(x, in_weight, in_bias).chunk(2, -1)
    window = torch.cat([state.window, u[..., None]], -1)
    c = (window * w.conv_weight).sum(-1)
    c = F.silu(c if w.conv_bias is None else c + w.conv_bias)

    dt, b, c_out = F.linear(c, w.x_proj).split([w.dt_proj.shape[1], w.A.shape[1], w.A.shape[1]], -1)
    delta = F.softplus(F.linear(dt, w.dt_proj, w.dt_bias))[:, None]
    # In place from here on: for (batch, N, D) numbers, new memory would take longer than
    # arithmetic.
    decay = (delta * w.A.mT.contiguous()).exp_()
    hidden = decay.mul_(state.hidden).addcmul_(delta * c[:, None], b[..., None])
    y = (c_out[:, None] @ hidden)[:, 0] + w.D * c
    return F.linear(y * F.silu(z), out_weight, out_bias), MixerState(window[..., 1:], hidden)


def mixer_unsupported(
    x: Tensor, in_weight: Tensor, out_weight: Tensor, directions: Sequence[DirectionWeights]
) -> dict[str, str | None]:
    """Returns, for each backend in the order of "auto", why it cannot be used, or None."""
    weights = [t for direction in directions for t in direction if isinstance(t, Tensor)]
    tensors = x, in_weight, out_weight, *weights
    return {
        "cpu": cpu_unsupported(*tensors),
        "triton": triton_unsupported(*tensors),
        "reference": None,
        "mamba_ssm": mamba_ssm_unsupported("mamba_ssm", *tensors)
        or mamba_ssm_unsupported("causal_conv1d", *tensors),
    }


def _one_direction(u: Tensor, z: Tensor, w: DirectionWeights, backend: str) -> Tensor:
    """Returns the gated output (batch, D, L) of one direction."""
    c = causal_conv1d_fn(
        u, w.conv_weight, w.conv_bias, activation="silu", reverse=w.reverse, backend=backend
    )
    dt, b, c_out = F.linear(c.mT, w.x_proj).split(
        [w.dt_proj.shape[1], w.A.shape[1], w.A.shape[1]], -1
    )
    delta = F.linear(dt, w.dt_proj)
    y = selective_scan_fn(
        c, delta.mT, w.A, b.mT, c_out.mT, w.D, z=z, delta_bias=w.dt_bias, delta_softplus=True,
        reverse=w.reverse, backend=backend,
    )  # fmt: skip
    return cast(Tensor, y)
