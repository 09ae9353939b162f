"""The selective scan on a CPU: compiled kernels, forward and backward.

Sixteen channels go abreast, one lane each; positions follow one another. The sequence is walked in chunks of 32
positions, and within a chunk 16 channels after 16 (a block), so that all a chunk needs stays in the nearest cache. The
states of a block are taken four at a time (a quad), because four states with their decay rates fit in registers beside
the constants of exp2.

The forward pass keeps the states at chunk borders only. The backward pass walks the chunks from last to first, computes
the states of a chunk again from its border, and carries the gradient g of the state back through it:

    a_t  = exp(dt_t A)                           g_t  = C_t dy_t + a_{t+1} g_{t+1}
    dC_t = sum_d dy_t h_t                        dB_t = sum_d dt_t u_t g_t
    du_t = dt_t (sum_n g_t B_t) + D dy_t         dA   = sum_t dt_t a_t g_t h_{t-1}
    ddt_t = u_t (sum_n g_t B_t) + sum_n A a_t g_t h_{t-1}

One task is one sequence and one slab of up to 128 channels. That split depends on the number of channels alone, and the
slabs' shares of dB and dC are added in a fixed order: results do not depend on the number of threads, nor on which
other sequences are in the batch.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from dnadiff.ops.cpu.compile import Rows, channels_last, empty_rows, kernel, rows, threads
from dnadiff.ops.cpu.functions import LN2, LOG2E, exp2_product, sigmoid, softplus
from dnadiff.ops.cpu.lanes import WIDTH, fma, load, load_number, store, store_number, total_each
from dnadiff.ops.cpu.tiles import CHUNK, TILE, Place, element, load_tile, scratch, store_tile

_QUAD = 4
_QUAD_WIDTH = _QUAD * WIDTH
_SLAB = 8  # blocks


class _Shape(NamedTuple):
    """How many there are of each. The channels of a group share B and C."""

    batch: int
    length: int
    chunks: int
    groups: int
    channels: int  # of a group
    blocks: int  # of a group; the last one is padded
    slabs: int  # of a group
    states: int
    quads: int


class _Task(NamedTuple):
    """One sequence of the batch, and one slab: blocks `first` to `end` of a group."""

    sequence: int
    group: int
    slab: int
    first: int
    end: int


class _Inputs(NamedTuple):
    """What varies along the sequence. `z` is `u` again where there is no gate."""

    u: Rows
    delta: Rows
    z: Rows
    B: Rows
    C: Rows
    softplus: bool
    gated: bool


class _Weights(NamedTuple):
    """What does not: A[block, quad, state and lane] times log2(e), D[block, lane] and bias[block, lane]."""

    A: np.ndarray
    D: np.ndarray
    bias: np.ndarray


class _Tiles(NamedTuple):
    """What kernels work on: a chunk of a block. u and z are as given, raw is delta + bias, dt the step sizes and
    dtu = dt u; y is before the gate. dout, dy, du, ddt: gradients, du and ddt of the part that went through the states.
    """

    u: np.ndarray
    raw: np.ndarray
    dt: np.ndarray
    dtu: np.ndarray
    y: np.ndarray
    z: np.ndarray
    dout: np.ndarray
    dy: np.ndarray
    du: np.ndarray
    ddt: np.ndarray


class _Gradients(NamedTuple):
    """Where the backward pass writes. A, D and bias are as in _Weights, for each sequence. B and C are partial sums, a
    batch of sequences for each slab.
    """

    u: Rows
    delta: Rows
    z: Rows
    B: Rows
    C: Rows
    A: np.ndarray
    D: np.ndarray
    bias: np.ndarray


# Both passes


@njit
def _task(shape: Any, number: int) -> Any:
    slab, rest = number % shape.slabs, number // shape.slabs
    first = slab * _SLAB
    return _Task(rest // shape.groups, rest % shape.groups, slab, first, min(first + _SLAB, shape.blocks))


@njit
def _place(shape: Any, task: Any, block: int, chunk: int) -> Any:
    t, channel = chunk * CHUNK, block * WIDTH
    steps, lanes = min(CHUNK, shape.length - t), min(WIDTH, shape.channels - channel)
    return Place(task.sequence, t, steps, task.group * shape.channels + channel, lanes)


@njit
def _load_coefficients(coefficients: Any, source: Any, shape: Any, task: Any, chunk: int) -> None:
    """Copies the B or C of a chunk to coefficients[position, state]; states that pad the last quad stay 0."""
    at = element(source, task.sequence, chunk * CHUNK, task.group * shape.states)
    for target in range(0, min(CHUNK, shape.length - chunk * CHUNK) * coefficients.shape[1], coefficients.shape[1]):
        for n in range(shape.states):
            store_number(coefficients, target + n, load_number(source.data, at + n))
        at += source.step


@njit
def _copy(source: Any, target: Any) -> None:
    """Copies the states of a block."""
    for quad in range(source.shape[0]):
        for i in range(0, _QUAD_WIDTH, WIDTH):
            store(target[quad], i, load(source[quad], i))


@njit
def _tiles() -> Any:
    n = (TILE,)
    return _Tiles(
        scratch(n), scratch(n), scratch(n), scratch(n), scratch(n), scratch(n), scratch(n), scratch(n), scratch(n), scratch(n)
    )  # fmt: skip


@njit
def _load_inputs(tiles: Any, inputs: Any, weights: Any, index: int, place: Any) -> None:
    """Fills the tiles with all that comes before the scan, y with its skip D u."""
    load_tile(tiles.u, inputs.u, place)
    load_tile(tiles.raw, inputs.delta, place)
    if inputs.gated:
        load_tile(tiles.z, inputs.z, place)
    bias, D = load(weights.bias[index], 0), load(weights.D[index], 0)
    for i in range(0, place.steps * WIDTH, WIDTH):
        u, raw = load(tiles.u, i), load(tiles.raw, i) + bias
        dt = softplus(raw) if inputs.softplus else raw
        store(tiles.raw, i, raw)
        store(tiles.dt, i, dt)
        store(tiles.dtu, i, dt * u)
        store(tiles.y, i, D * u)


# Forward


@njit
def _scan_quad(h: Any, A: Any, b: Any, c: Any, state: int, tiles: Any, steps: int) -> None:
    """Moves four states h of 16 channels through a chunk and adds their part of the output to y."""
    a0, a1, a2, a3 = load(A, 0), load(A, WIDTH), load(A, 2 * WIDTH), load(A, 3 * WIDTH)
    h0, h1, h2, h3 = load(h, 0), load(h, WIDTH), load(h, 2 * WIDTH), load(h, 3 * WIDTH)
    for t in range(steps):
        i, n = t * WIDTH, t * b.shape[1] + state
        dt, dtu = load(tiles.dt, i), load(tiles.dtu, i)
        h0 = fma(exp2_product(dt, a0), h0, dtu * load_number(b, n))
        h1 = fma(exp2_product(dt, a1), h1, dtu * load_number(b, n + 1))
        h2 = fma(exp2_product(dt, a2), h2, dtu * load_number(b, n + 2))
        h3 = fma(exp2_product(dt, a3), h3, dtu * load_number(b, n + 3))
        y = fma(load_number(c, n), h0, fma(load_number(c, n + 1), h1, load(tiles.y, i)))
        store(tiles.y, i, fma(load_number(c, n + 2), h2, fma(load_number(c, n + 3), h3, y)))
    _store_quad(h, 0, h0, h1, h2, h3)


@njit
def _store_quad(target: Any, t: int, x0: Any, x1: Any, x2: Any, x3: Any) -> None:
    at = t * _QUAD_WIDTH
    store(target, at, x0)
    store(target, at + WIDTH, x1)
    store(target, at + 2 * WIDTH, x2)
    store(target, at + 3 * WIDTH, x3)


@njit
def _gate(tiles: Any, steps: int) -> None:
    """y = y silu(z)."""
    for i in range(0, steps * WIDTH, WIDTH):
        z = load(tiles.z, i)
        store(tiles.y, i, load(tiles.y, i) * (z * sigmoid(z)))


@njit
def _forward_task(task: Any, shape: Any, inputs: Any, weights: Any, out: Any, borders: Any, last: Any) -> None:
    states, tiles = scratch((task.end - task.first, shape.quads, _QUAD_WIDTH)), _tiles()
    b, c = scratch((CHUNK, shape.quads * _QUAD)), scratch((CHUNK, shape.quads * _QUAD))
    for chunk in range(shape.chunks):
        _load_coefficients(b, inputs.B, shape, task, chunk)
        _load_coefficients(c, inputs.C, shape, task, chunk)
        for block in range(task.first, task.end):
            place, index, h = (
                _place(shape, task, block, chunk),
                task.group * shape.blocks + block,
                states[block - task.first],
            )
            if borders.size:
                _copy(h, borders[task.sequence, chunk, index])
            _load_inputs(tiles, inputs, weights, index, place)
            for quad in range(shape.quads):
                _scan_quad(h[quad], weights.A[index, quad], b, c, quad * _QUAD, tiles, place.steps)
            if inputs.gated:
                _gate(tiles, place.steps)
            store_tile(tiles.y, out, place)
    for block in range(task.first, task.end):
        _copy(states[block - task.first], last[task.sequence, task.group * shape.blocks + block])


@kernel
def _forward(
    shape: Any, u: Any, delta: Any, z: Any, B: Any, C: Any, with_softplus: bool, gated: bool,
    A: Any, D: Any, bias: Any, out: Any, borders: Any, last: Any,
) -> None:  # fmt: skip
    """Writes the output and the last states; also the states at chunk borders, unless `borders` is empty."""
    for number in numba.prange(shape.batch * shape.groups * shape.slabs):
        inputs = _Inputs(u, delta, z, B, C, with_softplus, gated)
        _forward_task(_task(shape, number), shape, inputs, _Weights(A, D, bias), out, borders, last)


# Backward


@njit
def _replay_quad(h: Any, A: Any, b: Any, c: Any, state: int, tiles: Any, decays: Any, states: Any, steps: int) -> None:
    """Like _scan_quad, but keeps every decay, and every state after the one at the border."""
    a0, a1, a2, a3 = load(A, 0), load(A, WIDTH), load(A, 2 * WIDTH), load(A, 3 * WIDTH)
    h0, h1, h2, h3 = load(h, 0), load(h, WIDTH), load(h, 2 * WIDTH), load(h, 3 * WIDTH)
    _store_quad(states, 0, h0, h1, h2, h3)
    for t in range(steps):
        i, n = t * WIDTH, t * b.shape[1] + state
        dt, dtu = load(tiles.dt, i), load(tiles.dtu, i)
        e0, e1, e2, e3 = exp2_product(dt, a0), exp2_product(dt, a1), exp2_product(dt, a2), exp2_product(dt, a3)
        h0 = fma(e0, h0, dtu * load_number(b, n))
        h1 = fma(e1, h1, dtu * load_number(b, n + 1))
        h2 = fma(e2, h2, dtu * load_number(b, n + 2))
        h3 = fma(e3, h3, dtu * load_number(b, n + 3))
        y = fma(load_number(c, n), h0, fma(load_number(c, n + 1), h1, load(tiles.y, i)))
        store(tiles.y, i, fma(load_number(c, n + 2), h2, fma(load_number(c, n + 3), h3, y)))
        _store_quad(decays, t, e0, e1, e2, e3)
        _store_quad(states, t + 1, h0, h1, h2, h3)


@njit
def _back_quad(
    carry: Any,
    A: Any,
    b: Any,
    c: Any,
    state: int,
    tiles: Any,
    decays: Any,
    states: Any,
    dA: Any,
    db: Any,
    dc: Any,
    steps: int,
) -> None:
    """Carries the gradients of four states of 16 channels back through a chunk, adding to dA, db, dc, du and ddt."""
    a0, a1, a2, a3 = load(A, 0), load(A, WIDTH), load(A, 2 * WIDTH), load(A, 3 * WIDTH)
    g0, g1, g2, g3 = load(carry, 0), load(carry, WIDTH), load(carry, 2 * WIDTH), load(carry, 3 * WIDTH)
    s0, s1, s2, s3 = load(dA, 0), load(dA, WIDTH), load(dA, 2 * WIDTH), load(dA, 3 * WIDTH)
    for t in range(steps - 1, -1, -1):
        i, n, at = t * WIDTH, t * b.shape[1] + state, t * _QUAD_WIDTH
        now = load(tiles.dt, i), load(tiles.dtu, i), load(tiles.dy, i)
        sums = load(tiles.du, i), load(tiles.ddt, i)
        g0, s0, sums = _back_state(g0, s0, sums, a0, now, b, c, n, decays, states, db, dc, at)
        g1, s1, sums = _back_state(g1, s1, sums, a1, now, b, c, n + 1, decays, states, db, dc, at + WIDTH)
        g2, s2, sums = _back_state(g2, s2, sums, a2, now, b, c, n + 2, decays, states, db, dc, at + 2 * WIDTH)
        g3, s3, sums = _back_state(g3, s3, sums, a3, now, b, c, n + 3, decays, states, db, dc, at + 3 * WIDTH)
        store(tiles.du, i, sums[0])
        store(tiles.ddt, i, sums[1])
    _store_quad(carry, 0, g0, g1, g2, g3)
    _store_quad(dA, 0, s0, s1, s2, s3)


@njit
def _back_state(
    carry: Any,
    dA: Any,
    sums: Any,
    a: Any,
    now: Any,
    b: Any,
    c: Any,
    n: int,
    decays: Any,
    states: Any,
    db: Any,
    dc: Any,
    at: int,
) -> Any:
    """One step back for one state of 16 channels. Returns the new carry a_t g_t, dA, and (sum g B, sum A a g h)."""
    dt, dtu, dy = now
    g = fma(load_number(c, n), dy, carry)
    store(dc, at, fma(dy, load(states, at + _QUAD_WIDTH), load(dc, at)))
    store(db, at, fma(dtu, g, load(db, at)))
    carry = g * load(decays, at)
    through = carry * load(states, at)
    return carry, fma(through, dt, dA), (fma(g, load_number(b, n), sums[0]), fma(through, a, sums[1]))


@njit
def _load_gradient(tiles: Any, dout: Any, gated: bool, place: Any) -> None:
    """Fills dout, and dy = dout silu(z); clears du and ddt."""
    load_tile(tiles.dout, dout, place)
    for i in range(0, place.steps * WIDTH, WIDTH):
        z, dy = load(tiles.z, i), load(tiles.dout, i)
        store(tiles.dy, i, dy * (z * sigmoid(z)) if gated else dy)
        store(tiles.du, i, 0.0)
        store(tiles.ddt, i, 0.0)


@njit
def _back_gate(tiles: Any, steps: int) -> None:
    """Turns z into its gradient dout y silu'(z), silu'(z) = s + z s (1 - s) where s = sigmoid(z)."""
    for i in range(0, steps * WIDTH, WIDTH):
        z = load(tiles.z, i)
        s = sigmoid(z)
        store(tiles.z, i, load(tiles.dout, i) * load(tiles.y, i) * fma(z * s, 1.0 - s, s))


@njit
def _back_inputs(tiles: Any, weights: Any, index: int, with_softplus: bool, dD: Any, dbias: Any, steps: int) -> None:
    """Turns the sums over states into the gradients of u and delta, and adds to those of D and bias."""
    D, sum_D, sum_bias = load(weights.D[index], 0), load(dD, 0), load(dbias, 0)
    for i in range(0, steps * WIDTH, WIDTH):
        u, dy, gb = load(tiles.u, i), load(tiles.dy, i), load(tiles.du, i)
        ddt = fma(load(tiles.ddt, i), LN2, u * gb)  # A is times log2(e) here
        if with_softplus:
            ddt = ddt * sigmoid(load(tiles.raw, i))
        store(tiles.du, i, fma(gb, load(tiles.dt, i), dy * D))
        store(tiles.ddt, i, ddt)
        sum_D, sum_bias = fma(dy, u, sum_D), sum_bias + ddt
    store(dD, 0, sum_D)
    store(dbias, 0, sum_bias)


@njit
def _store_sums(sums: Any, totals: Any, target: Any, shape: Any, task: Any, chunk: int) -> None:
    """Adds up the lanes of sums[quad, position, state and lane] and writes them as rows of dB or dC; clears `sums`."""
    for i in range(0, sums.size, WIDTH * WIDTH):
        store(totals, i // WIDTH, total_each(sums, i))
    sums[:] = 0
    at = element(target, task.slab * shape.batch + task.sequence, chunk * CHUNK, task.group * shape.states)
    for step in range(min(CHUNK, shape.length - chunk * CHUNK)):
        for quad in range(shape.quads):
            for n in range(min(_QUAD, shape.states - quad * _QUAD)):
                total = load_number(totals, (quad * CHUNK + step) * _QUAD + n)
                store_number(target.data, at + quad * _QUAD + n, total)
        at += target.step


@njit
def _backward_task(
    task: Any, shape: Any, inputs: Any, weights: Any, dout: Any, borders: Any, carry: Any, grads: Any
) -> None:
    b, c = scratch((CHUNK, shape.quads * _QUAD)), scratch((CHUNK, shape.quads * _QUAD))
    db, dc = scratch((shape.quads, CHUNK * _QUAD_WIDTH)), scratch((shape.quads, CHUNK * _QUAD_WIDTH))
    totals = scratch((shape.quads * CHUNK * _QUAD,))
    tiles, decays, states = _tiles(), scratch((CHUNK * _QUAD_WIDTH,)), scratch(((CHUNK + 1) * _QUAD_WIDTH,))
    for chunk in range(shape.chunks - 1, -1, -1):
        _load_coefficients(b, inputs.B, shape, task, chunk)
        _load_coefficients(c, inputs.C, shape, task, chunk)
        for block in range(task.first, task.end):
            place, index, s = _place(shape, task, block, chunk), task.group * shape.blocks + block, task.sequence
            _load_inputs(tiles, inputs, weights, index, place)
            _load_gradient(tiles, dout, inputs.gated, place)
            for quad in range(shape.quads):
                A, h, g, dA = (
                    weights.A[index, quad],
                    borders[s, chunk, index, quad],
                    carry[s, index, quad],
                    grads.A[s, index, quad],
                )
                _replay_quad(h, A, b, c, quad * _QUAD, tiles, decays, states, place.steps)
                _back_quad(g, A, b, c, quad * _QUAD, tiles, decays, states, dA, db[quad], dc[quad], place.steps)
            _back_inputs(tiles, weights, index, inputs.softplus, grads.D[s, index], grads.bias[s, index], place.steps)
            store_tile(tiles.du, grads.u, place)
            store_tile(tiles.ddt, grads.delta, place)
            if inputs.gated:
                _back_gate(tiles, place.steps)
                store_tile(tiles.z, grads.z, place)
        _store_sums(db, totals, grads.B, shape, task, chunk)
        _store_sums(dc, totals, grads.C, shape, task, chunk)


@kernel
def _backward(
    shape: Any, u: Any, delta: Any, z: Any, B: Any, C: Any, with_softplus: bool, gated: bool, A: Any, D: Any, bias: Any,
    dout: Any, borders: Any, carry: Any,
    du: Any, ddelta: Any, dz: Any, dB: Any, dC: Any, dA: Any, dD: Any, dbias: Any,
) -> None:  # fmt: skip
    """Writes the gradients. `carry` is the gradient of the last states, and ends as that of the first ones."""
    for number in numba.prange(shape.batch * shape.groups * shape.slabs):
        inputs = _Inputs(u, delta, z, B, C, with_softplus, gated)
        grads = _Gradients(du, ddelta, dz, dB, dC, dA, dD, dbias)
        _backward_task(_task(shape, number), shape, inputs, _Weights(A, D, bias), dout, borders, carry, grads)


# Tensors


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """The scan of `dnadiff.ops.selective_scan_fn` for B and C that vary along the sequence, and its last state.

    u, delta and z are kept in bfloat16 where all of them are; what is computed is always float32.
    """
    half = all(x is None or x.dtype == torch.bfloat16 for x in (u, delta, z))
    x, dt, gate = (
        None if t is None else channels_last(t.to(torch.bfloat16 if half else torch.float32)) for t in (u, delta, z)
    )
    B, C = (t.float()[:, None] if t.dim() == 3 else t.float() for t in (B, C))
    groups = math.lcm(B.shape[1], C.shape[1])
    B, C = (channels_last(t.repeat_interleave(groups // t.shape[1], 1).flatten(1, 2)) for t in (B, C))
    D, bias = (None if t is None else t.float() for t in (D, delta_bias))
    keep = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (u, delta, A, B, C, D, z, delta_bias)
    )
    out, last = _SelectiveScan.apply(x, dt, A.float(), B, C, D, gate, bias, delta_softplus, reverse, groups, keep)
    return out.to(u.dtype), last


class _SelectiveScan(torch.autograd.Function):
    """All tensors are float32 or, u, delta and z together, bfloat16; (batch, C, L) tensors are channels last."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
        bias: Tensor | None, delta_softplus: bool, reverse: bool, groups: int, keep: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        shape = _shape(u, A, groups)
        out = empty_rows(u)
        blocks = groups * shape.blocks
        borders = torch.empty(shape.batch if keep else 0, shape.chunks, blocks, shape.quads, _QUAD_WIDTH)
        last = torch.empty(shape.batch, blocks, shape.quads, _QUAD_WIDTH)
        ctx.settings = shape, delta_softplus, reverse
        ctx.save_for_backward(u, delta, A, B, C, D, z, bias, borders)
        with threads():
            _forward(
                shape,
                *_arguments((u, delta, A, B, C, D, z, bias), *ctx.settings),
                rows(out, reverse),
                borders.numpy(),
                last.numpy(),
            )
        return out, _from_blocks(last, shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        shape, _, reverse = ctx.settings
        u, delta, A, B, C, D, z, bias, borders = ctx.saved_tensors
        du, ddelta, dz = (None if t is None else empty_rows(t) for t in (u, delta, z))
        dB, dC = (torch.empty(shape.slabs, shape.batch, shape.length, B.shape[1]) for _ in (B, C))
        carry = _to_blocks(dlast, shape)
        dA = torch.zeros_like(carry)
        dD, dbias = dA.new_zeros(2, *dA.shape[:2], WIDTH)
        targets = [rows(t, reverse) for t in (du, ddelta, du if dz is None else dz)]
        targets += [rows(t.flatten(0, 1).transpose(1, 2), reverse) for t in (dB, dC)]
        with threads():
            _backward(
                shape, *_arguments(ctx.saved_tensors[:8], *ctx.settings), rows(channels_last(dout), reverse), borders.numpy(), carry.numpy(),
                *targets, dA.numpy(), dD.numpy(), dbias.numpy(),
            )  # fmt: skip
        dA = _from_blocks(dA.sum(0), shape)
        dD, dbias = (
            None if like is None else _vector_from_blocks(t.sum(0), shape) for like, t in ((D, dD), (bias, dbias))
        )
        dB, dC = (t.sum(0).transpose(1, 2) for t in (dB, dC))
        return du, ddelta, dA, dB, dC, dD, dz, dbias, None, None, None, None


def _shape(u: Tensor, A: Tensor, groups: int) -> _Shape:
    batch, channels, length = u.shape
    channels //= groups
    blocks = -(-channels // WIDTH)
    states = A.shape[1]
    return _Shape(
        batch, length, -(-length // CHUNK), groups, channels, blocks, -(-blocks // _SLAB), states, -(-states // _QUAD)
    )


def _arguments(
    tensors: tuple[Tensor | None, ...], shape: _Shape, delta_softplus: bool, reverse: bool
) -> tuple[Any, ...]:
    """What both kernels take."""
    u, delta, A, B, C, D, z, bias = tensors
    varying = [rows(t, reverse) for t in (u, delta, u if z is None else z, B, C)]
    weights = [_to_blocks(A, shape) * LOG2E.item(), _vector_to_blocks(D, shape), _vector_to_blocks(bias, shape)]
    return *varying, delta_softplus, z is not None, *(t.numpy() for t in weights)


def _to_blocks(x: Tensor, shape: _Shape) -> Tensor:
    """(..., D, N) to (..., blocks, quads, 4 states of 16 channels), filled up with zeros."""
    x = x.detach().reshape(*x.shape[:-2], shape.groups, shape.channels, shape.states)
    x = F.pad(x, (0, shape.quads * _QUAD - shape.states, 0, shape.blocks * WIDTH - shape.channels))
    x = x.unflatten(-2, (shape.blocks, WIDTH)).transpose(-1, -2).contiguous()
    return x.view(*x.shape[:-4], shape.groups * shape.blocks, shape.quads, _QUAD_WIDTH)


def _from_blocks(x: Tensor, shape: _Shape) -> Tensor:
    """The reverse of _to_blocks."""
    x = x.view(*x.shape[:-3], shape.groups, shape.blocks, shape.quads * _QUAD, WIDTH).transpose(-1, -2)
    return x.flatten(-3, -2)[..., : shape.channels, : shape.states].flatten(-3, -2)


def _vector_to_blocks(x: Tensor | None, shape: _Shape) -> Tensor:
    """(D,) to (blocks, 16), filled up with zeros; zeros if there is no vector."""
    if x is None:
        return torch.zeros(shape.groups * shape.blocks, WIDTH)
    padding = shape.blocks * WIDTH - shape.channels
    return F.pad(x.detach().view(shape.groups, shape.channels), (0, padding)).view(-1, WIDTH)


def _vector_from_blocks(x: Tensor, shape: _Shape) -> Tensor:
    return x.view(shape.groups, shape.blocks * WIDTH)[:, : shape.channels].flatten()
