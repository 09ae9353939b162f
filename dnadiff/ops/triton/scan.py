"""The selective scan on a GPU, forward and backward, parallel along the sequence.

The recurrence, for each channel, with a state h of N numbers:

    a_t = exp(dt_t A),    h_t = a_t h_{t-1} + dt_t B_t u_t,    y_t = C_t . h_t + D u_t

and the output is y_t silu(z_t), with dt = softplus(delta + bias). As the recurrence is linear in h,
a stretch of it is a pair (product of a, h at the end from 0), and two stretches join to one: an
associative scan, which is parallel.

**Layout.** A sequence is cut into tiles of 16 positions by 32 channels. A tile is the work of one
program of one warp: a lane has a channel, and its 16 positions are in registers. So each row of a
channels-last tensor is one coalesced access, and a scan along the tile needs neither shared memory
nor other lanes.

**The forward pass** is three kernels:

    1. `_tile_states`: what every tile adds to the state at its end, if it began at 0. That is a sum
       over positions, each decayed by exp(A (sum of the later dt)).
    2. `_carry`: the state at every border between tiles, by a scan over tiles, in place.
    3. `_outputs`: the output of every tile, from the state at its beginning.

**The backward pass** is the same from the other end (`_tile_gradients`, `_carry`, `_gradients`),
with the gradient g of the state:

    a_t   = exp(dt_t A)                                g_t  = C_t dy_t + a_{t+1} g_{t+1}
    du_t  = dt_t (sum_n B_t g_t) + D dy_t              dC_t = sum_d dy_t h_t
    ddt_t = u_t (sum_n B_t g_t)                        dB_t = sum_d dt_t u_t g_t
          + sum_n A g_t a_t h_{t-1}                    dA   = sum_t dt_t g_t a_t h_{t-1}

**What is kept** for the backward pass is the inputs and the states at borders. These are as many
numbers as u when N is 16; the states between borders are computed again. So memory is O(L), not
O(L N).

**Why tiles** (counted in the machine code, not measured). Each pass takes 2 L D N exponentials, of
which an SM of a Hopper GPU computes 16 per cycle, and these limit the forward pass. A program that
walked its sequence from tile to tile would need half as many, but there would be only batch x D /
32
warps: two per SM for (batch, L, D, N) = (32, 1024, 236, 16), and eight on the whole GPU for
(1, 131072, 236, 16). With tiles there are 16,384 and 65,536. The backward pass is limited by the
sums over channels for dB and dC, five shuffles each. Memory traffic is less of a limit: the states
at borders are written and read twice in a pass, in addition to 6 tensors like u forward and 10
backward.

**Reproducible.** Nothing is added atomically. Programs write their shares of dA, dB, dC, dD and of
the gradient of the bias, and PyTorch adds them up in a fixed order. So results are the same in
every run, and those of a sequence do not depend on its batch.

A scan from right to left reads its sequences with a negative step. Only B and C are flipped; they
are copied in any case.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from dnadiff.ops.scan_arguments import ScanArguments
from dnadiff.ops.triton.tiles import OPTIONS, Rows, dsilu, pointers, rows, silu, softplus

STEPS, LANES = 16, 32  # positions of a tile, and its channels, one for each lane of a warp
SPAN = 64  # tiles that a step of the scan over tiles takes at once

# Kernels compute powers of 2, with A multiplied by log2(e). Their derivatives have a factor log(2).
_LN2 = tl.constexpr(math.log(2.0))


class _Shape(NamedTuple):
    """Sizes of a scan. The channels of a group share B and C."""

    length: int
    tiles: int
    groups: int
    channels: int  # of a group
    blocks: int  # of a group, LANES channels each; the last one may be short
    states: int


class _Place(NamedTuple):
    """The tile that a program works on."""

    sequence: Any
    tile: Any
    group: Any
    channel: Any  # (LANES,), counted through all groups
    there: Any  # (LANES,), whether the group has that channel
    inside: Any  # (STEPS, LANES), whether the sequence has that position as well


@triton.jit
def _place(shape: _Shape, STEPS: tl.constexpr, LANES: tl.constexpr) -> _Place:
    """Returns the tile of this program; the grid is (tiles, blocks of channels)."""
    # int64, because a tensor may have more than 2^31 numbers.
    sequence = (tl.program_id(0) // shape.tiles).to(tl.int64)
    tile = (tl.program_id(0) % shape.tiles).to(tl.int64)
    group = tl.program_id(1) // shape.blocks
    lane = (tl.program_id(1) % shape.blocks) * LANES + tl.arange(0, LANES)
    there = lane < shape.channels
    inside = (tile * STEPS + tl.arange(0, STEPS) < shape.length)[:, None] & there[None, :]
    return _Place(
        sequence, tile, group, (group * shape.channels + lane).to(tl.int64), there, inside
    )


@triton.jit
def _pointers(tensor: Rows, place: _Place) -> tl.tensor:
    """Returns pointers to a tile, and hides from Triton that neighbouring channels are contiguous.

    Otherwise Triton would give each lane several channels of a few positions, to load them with one
    instruction, and scans along the sequence would need other lanes.
    """
    STEPS: tl.constexpr = place.inside.shape[0]
    at = pointers(tensor, place.sequence, place.tile * STEPS, tl.arange(0, STEPS), place.channel)
    return tl.max_contiguous(at, (1, 1))


@triton.jit
def _load(source: Rows, place: _Place) -> tl.tensor:
    """Returns a tile (STEPS, LANES) in float32, 0 outside of the sequence or the group."""
    return tl.load(_pointers(source, place), place.inside, 0.0).to(tl.float32)


@triton.jit
def _store(target: Rows, place: _Place, tile: tl.tensor) -> None:
    """Writes a tile, as far as it is inside."""
    tl.store(_pointers(target, place), tile, place.inside)


@triton.jit
def _row(source: tl.tensor, channel: tl.tensor, there: tl.tensor) -> tl.tensor:
    """Returns one number for each channel (1, LANES); zeros if there is no source."""
    if source is None:
        return tl.zeros((1, channel.shape[0]), tl.float32)
    else:
        return tl.load(source + channel, there, 0.0)[None, :]


@triton.jit
def _column(source: tl.tensor, shape: _Shape, place: _Place, n: tl.tensor) -> tl.tensor:
    """Returns B or C of state n, as `_by_state` lays them out: a number per position (STEPS, 1)."""
    STEPS: tl.constexpr = place.inside.shape[0]
    start = ((place.sequence * shape.groups + place.group) * shape.states + n) * (
        shape.tiles * STEPS
    )
    return tl.load(source + start + place.tile * STEPS + tl.arange(0, STEPS))[:, None]


@triton.jit
def _border(states: tl.tensor, shape: _Shape, sequence: tl.tensor, border: tl.tensor) -> tl.tensor:
    """Returns a pointer to the states (N, D) at a border.

    Border k is before tile k, and the last border after the last tile.
    """
    return states + (sequence * (shape.tiles + 1) + border) * (
        shape.states * shape.groups * shape.channels
    )


@triton.jit
def _steps(raw: tl.tensor, inside: tl.tensor, SOFTPLUS: tl.constexpr) -> tl.tensor:
    """Returns a tile of step sizes dt.

    Outside of the sequence they are 0: a step of 0 leaves the state as it is.
    """
    return tl.where(inside, softplus(raw) if SOFTPLUS else raw, 0.0)


@triton.jit
def _gate(z: Rows, place: _Place) -> tl.tensor:
    """Returns a tile of silu(z), or 1 if there is no z."""
    if z is None:
        return 1.0
    else:
        return silu(_load(z, place))


# ---- how two stretches join ----------------------------------------------------------------------

# Each function below takes the numbers of two stretches, the second one after the first in the
# direction of the scan, and returns those of the joined stretch. All of them are associative.


@triton.jit
def _earlier(x: tl.tensor, total: tl.tensor, x2: tl.tensor, total2: tl.tensor) -> tuple:
    """Joins (the last number, the sum of those before it)."""
    return x2, total + x + total2


@triton.jit
def _state(a: tl.tensor, h: tl.tensor, a2: tl.tensor, h2: tl.tensor) -> tuple:
    """Joins (the product of a, the last h), where h_t = a_t h_{t-1} + x_t from h = 0."""
    return a2 * a, a2 * h + h2


@triton.jit
def _decayed(
    x: tl.tensor, a: tl.tensor, w: tl.tensor, x2: tl.tensor, a2: tl.tensor, w2: tl.tensor
) -> tuple:
    """Joins (the last x, the product of a, the last w), where w_t = a_t h_{t-1}.

    With h_t = w_t + x_t that is w_t = a_t (w_{t-1} + x_{t-1}). The backward pass needs w and h.
    """
    return x2, a2 * a, a2 * (w + x) + w2


@triton.jit
def _gradient(
    a: tl.tensor, p: tl.tensor, g: tl.tensor, a2: tl.tensor, p2: tl.tensor, g2: tl.tensor
) -> tuple:
    """Joins (the last a, the product of the others, the last g), from right to left.

    g_t = x_t + a_{t+1} g_{t+1} needs the a of the position before it in the scan's direction, which
    is why the last a of a stretch is kept apart from the others.
    """
    return a2, p2 * a * p, p2 * a * g + g2


# ---- the kernels ---------------------------------------------------------------------------------


@triton.jit
def _tile_states(
    shape: _Shape, u: Rows, delta: Rows, bias: tl.tensor, A: tl.tensor, B: tl.tensor,
    totals: tl.tensor, states: tl.tensor, SOFTPLUS: tl.constexpr, STEPS: tl.constexpr,
    LANES: tl.constexpr,
) -> None:  # fmt: skip
    """Writes what a tile adds to the state at its last border, and the sum of its step sizes."""
    place = _place(shape, STEPS, LANES)
    channel, there, width = place.channel, place.there, shape.groups * shape.channels
    dt = _steps(_load(delta, place) + _row(bias, channel, there), place.inside, SOFTPLUS)
    x = dt * _load(u, place)

    # The sum of the step sizes after each position, without its own.
    _, later = tl.associative_scan((dt, tl.zeros_like(dt)), 0, _earlier, reverse=True)
    end = _border(states, shape, place.sequence, place.tile + 1)
    for n in range(shape.states):
        decay = tl.exp2(later * _row(A + n * width, channel, there))
        added = tl.sum(decay * x * _column(B, shape, place, n), 0)
        tl.store(end + n * width + channel, added, there)

    # exp(A times this sum) is by how much the whole tile decays a state; `_carry` needs it.
    tl.store(
        totals + (place.sequence * shape.tiles + place.tile) * width + channel, tl.sum(dt, 0), there
    )


@triton.jit
def _tile_gradients(
    shape: _Shape, delta: Rows, bias: tl.tensor, z: Rows, dout: Rows, A: tl.tensor, C: tl.tensor,
    grads: tl.tensor, SOFTPLUS: tl.constexpr, STEPS: tl.constexpr, LANES: tl.constexpr,
) -> None:  # fmt: skip
    """Writes what a tile's outputs add to the gradient of the state at its first border."""
    place = _place(shape, STEPS, LANES)
    channel, there, width = place.channel, place.there, shape.groups * shape.channels
    dt = _steps(_load(delta, place) + _row(bias, channel, there), place.inside, SOFTPLUS)
    dy = _load(dout, place) * _gate(z, place)
    # From the beginning to each position, the position's own step included.
    so_far = tl.cumsum(dt, 0)
    begin = _border(grads, shape, place.sequence, place.tile)
    for n in range(shape.states):
        decay = tl.exp2(so_far * _row(A + n * width, channel, there))
        added = tl.sum(decay * dy * _column(C, shape, place, n), 0)
        tl.store(begin + n * width + channel, added, there)


@triton.jit
def _carry(
    shape: _Shape, A: tl.tensor, totals: tl.tensor, states: tl.tensor,
    LEFT: tl.constexpr, SPAN: tl.constexpr, LANES: tl.constexpr,
) -> None:  # fmt: skip
    """Turns what every tile adds into the states at borders, from the state at the first border.

    A program takes one state of 32 channels through the sequence, SPAN tiles at a time: to the
    right for states, and to the left for their gradients.
    """
    sequence, n = (tl.program_id(0) // shape.states).to(tl.int64), tl.program_id(0) % shape.states
    width = shape.groups * shape.channels
    channel = tl.program_id(1) * LANES + tl.arange(0, LANES)
    there = channel < width
    rate = _row(A + n * width, channel, there)
    state = _row(
        _border(states, shape, sequence, shape.tiles if LEFT else 0) + n * width, channel, there
    )
    row = tl.arange(0, SPAN)[:, None]

    for first in range(0, shape.tiles, SPAN):
        inside = (first + row < shape.tiles) & there[None, :]
        tile = shape.tiles - 1 - first - row if LEFT else first + row
        total = totals + (sequence * shape.tiles + tile) * width + channel[None, :]
        end = (
            _border(states, shape, sequence, tile if LEFT else tile + 1)
            + n * width
            + channel[None, :]
        )
        # As in `_pointers`: each lane is to have one channel and all tiles.
        total, end = tl.max_contiguous(total, (1, 1)), tl.max_contiguous(end, (1, 1))

        # The state before the span enters with its first tile.
        a = tl.exp2(tl.load(total, inside, 0.0) * rate)
        added = tl.load(end, inside, 0.0) + tl.where(row == 0, a * state, 0.0)
        _, h = tl.associative_scan((a, added), 0, _state)
        tl.store(end, h, inside)
        # The last row, by a masked sum: Triton has no way to index a row of a tile.
        state = tl.sum(tl.where(row == SPAN - 1, h, 0.0), 0)[None, :]


@triton.jit
def _outputs(
    shape: _Shape, u: Rows, delta: Rows, bias: tl.tensor, z: Rows, A: tl.tensor, B: tl.tensor,
    C: tl.tensor, D: tl.tensor, states: tl.tensor, out: Rows, SOFTPLUS: tl.constexpr,
    STEPS: tl.constexpr, LANES: tl.constexpr,
) -> None:  # fmt: skip
    """Writes the output of a tile, from the state at the border where it begins."""
    place = _place(shape, STEPS, LANES)
    channel, there, width = place.channel, place.there, shape.groups * shape.channels
    dt = _steps(_load(delta, place) + _row(bias, channel, there), place.inside, SOFTPLUS)
    x = _load(u, place)
    y = x * _row(D, channel, there)
    x = dt * x
    is_first = tl.arange(0, STEPS)[:, None] == 0
    begin = _border(states, shape, place.sequence, place.tile)
    for n in range(shape.states):
        a = tl.exp2(dt * _row(A + n * width, channel, there))
        # The state at the border enters with the first position.
        state = _row(begin + n * width, channel, there)
        added = x * _column(B, shape, place, n) + tl.where(is_first, a * state, 0.0)
        _, h = tl.associative_scan((a, added), 0, _state)
        y += h * _column(C, shape, place, n)
    _store(out, place, y * _gate(z, place))


@triton.jit
def _gradients(
    shape: _Shape, u: Rows, delta: Rows, bias: tl.tensor, z: Rows, dout: Rows, A: tl.tensor,
    B: tl.tensor, C: tl.tensor, D: tl.tensor, states: tl.tensor, grads: tl.tensor, du: Rows,
    ddelta: Rows, dz: Rows, dB: tl.tensor, dC: tl.tensor, dD: tl.tensor, dbias: tl.tensor,
    SOFTPLUS: tl.constexpr, STEPS: tl.constexpr, LANES: tl.constexpr,
) -> None:  # fmt: skip
    """Writes the gradients of a tile's inputs, and its shares of the other gradients.

    `grads` has the gradients of the states at borders. The share of dA is written over the one that
    is read here, which no other program needs.
    """
    place = _place(shape, STEPS, LANES)
    channel, there, width = place.channel, place.there, shape.groups * shape.channels
    raw = _load(delta, place) + _row(bias, channel, there)
    dt = _steps(raw, place.inside, SOFTPLUS)
    x = _load(u, place)
    dy = _load(dout, place) * _gate(z, place)
    y = x * _row(D, channel, there)  # computed again, for dz
    sum_bg, sum_agw = tl.zeros_like(x), tl.zeros_like(x)
    step = tl.arange(0, STEPS)
    is_first, is_last = step[:, None] == 0, step[:, None] == STEPS - 1
    begin = _border(states, shape, place.sequence, place.tile)
    end = _border(grads, shape, place.sequence, place.tile + 1)
    block, batch = tl.program_id(1) % shape.blocks, tl.num_programs(0) // shape.tiles
    share = ((block * batch + place.sequence) * shape.groups + place.group) * shape.states

    for n in range(shape.states):
        rate = _row(A + n * width, channel, there)
        b, c = _column(B, shape, place, n), _column(C, shape, place, n)
        a = tl.exp2(dt * rate)

        # The states of the tile again: w = a h_{t-1}, from the state at the border where it begins.
        added = dt * x * b
        w = tl.where(is_first, a * _row(begin + n * width, channel, there), 0.0)
        _, _, w = tl.associative_scan((added, a, w), 0, _decayed)

        # Their gradients, from the gradient at the border where the tile ends.
        g = c * dy + tl.where(is_last, _row(end + n * width, channel, there), 0.0)
        _, _, g = tl.associative_scan(
            (a, tl.full(a.shape, 1.0, tl.float32), g), 0, _gradient, reverse=True
        )

        # Sums over states stay in registers; sums over channels or positions are written.
        h = w + added
        y += c * h
        sum_bg += b * g
        sum_agw += rate * (g * w)
        at = (share + n) * (shape.tiles * STEPS) + place.tile * STEPS + step
        tl.store(dB + at, tl.sum(dt * x * g, 1))
        tl.store(dC + at, tl.sum(dy * h, 1))
        tl.store(end + n * width + channel, tl.sum(dt * (g * w), 0) * _LN2, there)

    # The derivative of 2^(dt A) has a factor log(2), with respect to dt here and to A above.
    ddt = tl.where(place.inside, x * sum_bg + sum_agw * _LN2, 0.0)
    if SOFTPLUS:
        ddt *= tl.sigmoid(raw)
    _store(du, place, dt * sum_bg + dy * _row(D, channel, there))
    _store(ddelta, place, ddt)
    at = (place.sequence * shape.tiles + place.tile) * width + channel
    if bias is not None:
        tl.store(dbias + at, tl.sum(ddt, 0), there)
    if D is not None:
        tl.store(dD + at, tl.sum(dy * x, 0), there)
    if z is not None:
        _store(dz, place, _load(dout, place) * y * dsilu(_load(z, place)))


def selective_scan(given: ScanArguments) -> tuple[Tensor, Tensor]:
    """Computes `dnadiff.ops.selective_scan_fn` for B and C that vary along the sequence.

    u, delta and z are read as they are, in any floating-point type and with any strides; arithmetic
    is in float32.

    Returns:
        The output and the last state.
    """
    u, delta, A, _, _, D, z, delta_bias, delta_softplus, reverse = given
    B, C = (_by_state(t.flip(-1) if reverse else t) for t in given.grouped())
    D, bias = (None if t is None else t.float().contiguous() for t in (D, delta_bias))
    rates = (A.float() / math.log(2.0)).T.contiguous()  # kernels take powers of 2
    return _SelectiveScan.apply(u, delta, rates, B, C, D, z, bias, delta_softplus, reverse)


def _by_state(coefficients: Tensor) -> Tensor:
    """Returns B or C (batch, G, N, L) in float32, contiguous, with zeros added to whole tiles.

    A tile's part of a row is then a few vectors, the same for all lanes. These tensors are small
    compared to u.
    """
    return F.pad(coefficients.float(), (0, -coefficients.shape[-1] % STEPS)).contiguous()


class _SelectiveScan(torch.autograd.Function):
    """The scan for autograd.

    A is (N, D) times log2(e), B and C come from `_by_state`; all but u, delta and z are float32 and
    contiguous.
    """

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
        z: Tensor | None, bias: Tensor | None, delta_softplus: bool, reverse: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        shape, grid, mode = _launch(u, B, delta_softplus)
        totals = A.new_empty(len(u), shape.tiles, A.shape[1])
        states = A.new_empty(len(u), shape.tiles + 1, *A.shape)
        states[:, 0] = 0.0  # at the first border; kernels write the others
        out = torch.empty_like(u)
        x, dt, gate = (rows(t, reverse) for t in (u, delta, z))
        with torch.cuda.device_of(u):
            _tile_states[grid](shape, x, dt, bias, A, B, totals, states, **mode)
            _carry_all(shape, A, totals, states, left=False)
            _outputs[grid](shape, x, dt, bias, gate, A, B, C, D, states, rows(out, reverse), **mode)
        ctx.save_for_backward(u, delta, A, B, C, D, z, bias, totals, states)
        ctx.settings = delta_softplus, reverse
        return out, states[:, -1].mT.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, A, B, C, D, z, bias, totals, states = ctx.saved_tensors
        delta_softplus, reverse = ctx.settings
        shape, grid, mode = _launch(u, B, delta_softplus)
        grads = torch.empty_like(states)
        grads[:, -1] = dlast.mT  # at the last border; kernels write the others
        du, ddelta, dz = (None if t is None else torch.empty_like(t) for t in (u, delta, z))
        # Shares of every block of channels (dB, dC) and of every tile (dD, dbias).
        dB, dC = (B.new_empty(shape.blocks, *B.shape) for _ in range(2))
        dD, dbias = (None if t is None else torch.empty_like(totals) for t in (D, bias))
        x, dt, gate, dy = (rows(t, reverse) for t in (u, delta, z, dout))
        with torch.cuda.device_of(u):
            _tile_gradients[grid](shape, dt, bias, gate, dy, A, C, grads, **mode)
            _carry_all(shape, A, totals, grads, left=True)
            targets = *(rows(t, reverse) for t in (du, ddelta, dz)), dB, dC, dD, dbias
            _gradients[grid](
                shape, x, dt, bias, gate, dy, A, B, C, D, states, grads, *targets, **mode
            )
        # From here on `grads` holds shares of dA, at the border where each tile ends.
        dD, dbias = (None if t is None else t.sum((0, 1)) for t in (dD, dbias))
        return du, ddelta, grads[:, 1:].sum((0, 1)), dB.sum(0), dC.sum(0), dD, dz, dbias, None, None


def _launch(u: Tensor, B: Tensor, delta_softplus: bool) -> tuple[_Shape, tuple[int, int], dict]:
    """Returns sizes, grid and constants of the kernels that have a program for each tile."""
    batch, channels, length = u.shape
    _, groups, states, padded = B.shape
    tiles, blocks = padded // STEPS, triton.cdiv(channels // groups, LANES)
    mode = {"SOFTPLUS": delta_softplus, "STEPS": STEPS, "LANES": LANES, "num_warps": 1, **OPTIONS}
    return (
        _Shape(length, tiles, groups, channels // groups, blocks, states),
        (batch * tiles, groups * blocks),
        mode,
    )


def _carry_all(shape: _Shape, A: Tensor, totals: Tensor, states: Tensor, *, left: bool) -> None:
    """Launches `_carry` for all sequences, states and channels."""
    grid = len(states) * shape.states, triton.cdiv(A.shape[1], LANES)
    _carry[grid](
        shape, A, totals, states, LEFT=left, SPAN=SPAN, LANES=LANES, num_warps=1, **OPTIONS
    )
