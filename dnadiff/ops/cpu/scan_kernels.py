"""The selective scan on a CPU: the kernels. `dnadiff.ops.cpu.scan` calls them.

Sixteen channels go abreast, one lane each; positions follow one another. The sequence is walked in chunks of 32
positions, and within a chunk 16 channels after 16 (a block), so that all a chunk needs stays in the nearest cache. The
states of a block are taken four at a time, a quad.

The forward pass keeps the states at chunk borders only. The backward pass walks the chunks from last to first, computes
the states of a chunk again from its border, and carries the gradient g of the state back through it:

    a_t   = exp(dt_t A)                                g_t  = C_t dy_t + a_{t+1} g_{t+1}
    du_t  = dt_t (sum_n B_t g_t) + D dy_t              dC_t = sum_d dy_t h_t
    ddt_t = u_t (sum_n B_t g_t)                        dB_t = sum_d dt_t u_t g_t
          + sum_n A a_t g_t h_{t-1}                    dA   = sum_t dt_t a_t g_t h_{t-1}

One task is one sequence and one slab of up to 128 channels. That split depends on the number of channels alone, and the
slabs' shares of dB and dC are added in a fixed order: results do not depend on the number of threads, nor on which
other sequences are in the batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numba import njit

from dnadiff.ops.cpu.compile import Rows, kernel
from dnadiff.ops.cpu.functions import LN2, exp2_product, sigmoid, softplus
from dnadiff.ops.cpu.lanes import WIDTH, fma, load, load_number, store, store_number, total_each
from dnadiff.ops.cpu.quads import (
    QUAD,
    QUAD_WIDTH,
    dot,
    load_numbers,
    load_quad,
    multiply,
    multiply_add,
    scale,
    scale_add,
    store_quad,
)
from dnadiff.ops.cpu.tiles import CHUNK, TILE, Place, element, load_tile, scratch, store_tile

SLAB = 8  # blocks


class Shape(NamedTuple):
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
    """What does not vary: A[block, quad, state and lane] times log2(e), D[block, lane] and bias[block, lane]."""

    A: np.ndarray
    D: np.ndarray
    bias: np.ndarray


class _Gradients(NamedTuple):
    """Where the backward pass writes. B and C are partial sums, a batch of sequences for each slab; A, D and bias are
    as in _Weights, for each sequence; so is `states`, which starts as the gradient of the last states.
    """  # noqa: D205

    u: Rows
    delta: Rows
    z: Rows
    B: Rows
    C: Rows
    A: np.ndarray
    D: np.ndarray
    bias: np.ndarray
    states: np.ndarray


class _Tiles(NamedTuple):
    """A block of a chunk. `raw` is delta + bias, dt the step sizes, dtu = dt u; y is the output before the gate. Of the
    gradients, du and ddt are sums over states, and dy is dout before the gate.
    """  # noqa: D205

    u: np.ndarray
    raw: np.ndarray
    dt: np.ndarray
    dtu: np.ndarray
    z: np.ndarray
    y: np.ndarray
    dout: np.ndarray
    dy: np.ndarray
    du: np.ndarray
    ddt: np.ndarray


class _Chunk(NamedTuple):
    """What the blocks of a chunk share: b and c [position, state], and the lanes of their gradients, db and dc
    [quad, position, state and lane].
    """  # noqa: D205

    b: np.ndarray
    c: np.ndarray
    db: np.ndarray
    dc: np.ndarray


@njit
def _make_task(shape: Any, number: int) -> Any:
    slab, rest = number % shape.slabs, number // shape.slabs
    first = slab * SLAB
    return _Task(rest // shape.groups, rest % shape.groups, slab, first, min(first + SLAB, shape.blocks))


@njit
def _make_tiles() -> Any:
    tiles = scratch((10, TILE))
    return _Tiles(
        tiles[0], tiles[1], tiles[2], tiles[3], tiles[4], tiles[5], tiles[6], tiles[7], tiles[8], tiles[9]
    )  # fmt: skip


@njit
def _place(shape: Any, task: Any, block: int, chunk: int) -> Any:
    t, channel = chunk * CHUNK, block * WIDTH
    steps, lanes = min(CHUNK, shape.length - t), min(WIDTH, shape.channels - channel)
    return Place(task.sequence, t, steps, task.group * shape.channels + channel, lanes)


@njit
def _load_coefficients(target: Any, source: Any, shape: Any, task: Any, chunk: int) -> None:
    """Copies the B or C of a chunk; states that pad the last quad stay 0."""
    at, width = element(source, task.sequence, chunk * CHUNK, task.group * shape.states), target.shape[1]
    for i in range(0, min(CHUNK, shape.length - chunk * CHUNK) * width, width):
        for n in range(shape.states):
            store_number(target, i + n, load_number(source.data, at + n))
        at += source.step


@njit
def _load_inputs(tiles: Any, inputs: Any, weights: Any, index: int, place: Any) -> None:
    """Fills the tiles with all that comes before the scan, and y with the skip D u."""
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


@njit
def _decay(dt: Any, A: Any) -> Any:
    """The quad exp(dt A), where A is times log2(e)."""
    return exp2_product(dt, A[0]), exp2_product(dt, A[1]), exp2_product(dt, A[2]), exp2_product(dt, A[3])


@njit
def _scan(h: Any, A: Any, chunk: Any, state: int, tiles: Any, steps: int) -> None:
    """Moves the four states h from `state` on through a chunk, and adds their part of the output to y."""
    A_quad, h_quad, states = load_quad(A, 0), load_quad(h, 0), chunk.b.shape[1]
    for t in range(steps):
        i, n = t * WIDTH, t * states + state
        b = scale(load_numbers(chunk.b, n), load(tiles.dtu, i))
        h_quad = multiply_add(_decay(load(tiles.dt, i), A_quad), h_quad, b)
        store(tiles.y, i, dot(load_numbers(chunk.c, n), h_quad, load(tiles.y, i)))
    store_quad(h, 0, h_quad)


@njit
def _gate(tiles: Any, steps: int) -> None:
    """Multiplies y by silu(z)."""
    for i in range(0, steps * WIDTH, WIDTH):
        z = load(tiles.z, i)
        store(tiles.y, i, load(tiles.y, i) * (z * sigmoid(z)))


@njit
def _forward_task(task: Any, shape: Any, inputs: Any, weights: Any, out: Any, borders: Any, last: Any) -> None:
    tiles, coefficients = _make_tiles(), scratch((2, CHUNK, shape.quads * QUAD))
    chunk_data = _Chunk(coefficients[0], coefficients[1], coefficients[0], coefficients[1])
    states = scratch((task.end - task.first, shape.quads, QUAD_WIDTH))
    for chunk in range(shape.chunks):
        _load_coefficients(chunk_data.b, inputs.B, shape, task, chunk)
        _load_coefficients(chunk_data.c, inputs.C, shape, task, chunk)
        for block in range(task.first, task.end):
            place, index = _place(shape, task, block, chunk), task.group * shape.blocks + block
            h = states[block - task.first]
            if borders.size:
                borders[task.sequence, chunk, index] = h
            _load_inputs(tiles, inputs, weights, index, place)
            for quad in range(shape.quads):
                _scan(h[quad], weights.A[index, quad], chunk_data, quad * QUAD, tiles, place.steps)
            if inputs.gated:
                _gate(tiles, place.steps)
            store_tile(tiles.y, out, place)
    first = task.group * shape.blocks + task.first
    last[task.sequence, first : first + states.shape[0]] = states


@kernel
def forward(
    shape: Any, u: Any, delta: Any, z: Any, B: Any, C: Any, with_softplus: bool, gated: bool,
    A: Any, D: Any, bias: Any, out: Any, borders: Any, last: Any,
) -> None:  # fmt: skip
    """Writes the output and the last states; also the states at chunk borders, unless `borders` is empty."""
    for number in numba.prange(shape.batch * shape.groups * shape.slabs):
        inputs = _Inputs(u, delta, z, B, C, with_softplus, gated)
        _forward_task(_make_task(shape, number), shape, inputs, _Weights(A, D, bias), out, borders, last)


@njit
def _replay(border: Any, A: Any, chunk: Any, state: int, tiles: Any, steps: int, decays: Any, states: Any) -> None:
    """Like _scan, but keeps every decay, and every state after the one at the border."""
    A_quad, h_quad, width = load_quad(A, 0), load_quad(border, 0), chunk.b.shape[1]
    store_quad(states, 0, h_quad)
    for t in range(steps):
        i, n = t * WIDTH, t * width + state
        b, decay = scale(load_numbers(chunk.b, n), load(tiles.dtu, i)), _decay(load(tiles.dt, i), A_quad)
        h_quad = multiply_add(decay, h_quad, b)
        store_quad(decays, t * QUAD_WIDTH, decay)
        store_quad(states, (t + 1) * QUAD_WIDTH, h_quad)
        store(tiles.y, i, dot(load_numbers(chunk.c, n), h_quad, load(tiles.y, i)))


@njit
def _scan_back(
    carry: Any, A: Any, chunk: Any, state: int, tiles: Any, steps: int, decays: Any, states: Any, dA: Any
) -> None:
    """Carries the gradients of four states back through a chunk, and adds to dA, db, dc, du and ddt."""
    A_quad, g, sum_A, width = load_quad(A, 0), load_quad(carry, 0), load_quad(dA, 0), chunk.b.shape[1]
    db, dc = chunk.db[state // QUAD], chunk.dc[state // QUAD]
    for t in range(steps - 1, -1, -1):
        i, n, at = t * WIDTH, t * width + state, t * QUAD_WIDTH
        dt, dtu, dy = load(tiles.dt, i), load(tiles.dtu, i), load(tiles.dy, i)
        g = scale_add(load_numbers(chunk.c, n), dy, g)
        store_quad(dc, at, scale_add(load_quad(states, at + QUAD_WIDTH), dy, load_quad(dc, at)))
        store_quad(db, at, scale_add(g, dtu, load_quad(db, at)))
        store(tiles.du, i, dot(load_numbers(chunk.b, n), g, load(tiles.du, i)))
        g = multiply(g, load_quad(decays, at))
        through = multiply(g, load_quad(states, at))
        store(tiles.ddt, i, dot(through, A_quad, load(tiles.ddt, i)))
        sum_A = scale_add(through, dt, sum_A)
    store_quad(carry, 0, g)
    store_quad(dA, 0, sum_A)


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
def _gate_back(tiles: Any, steps: int) -> None:
    """Turns z into its gradient dout y silu'(z), where silu'(z) = s + z s (1 - s) with s = sigmoid(z)."""
    for i in range(0, steps * WIDTH, WIDTH):
        z = load(tiles.z, i)
        s = sigmoid(z)
        store(tiles.z, i, load(tiles.dout, i) * load(tiles.y, i) * fma(z * s, 1.0 - s, s))


@njit
def _inputs_back(tiles: Any, D: Any, with_softplus: bool, dD: Any, dbias: Any, steps: int) -> None:
    """Turns the sums over states into the gradients of u and delta, and adds to those of D and bias."""
    sum_D, sum_bias = load(dD, 0), load(dbias, 0)
    for i in range(0, steps * WIDTH, WIDTH):
        u, dy, gb = load(tiles.u, i), load(tiles.dy, i), load(tiles.du, i)
        ddt = fma(load(tiles.ddt, i), LN2, u * gb)  # A was times log2(e)
        if with_softplus:
            ddt = ddt * sigmoid(load(tiles.raw, i))
        store(tiles.du, i, fma(gb, load(tiles.dt, i), dy * D))
        store(tiles.ddt, i, ddt)
        sum_D, sum_bias = fma(dy, u, sum_D), sum_bias + ddt
    store(dD, 0, sum_D)
    store(dbias, 0, sum_bias)


@njit
def _store_sums(lanes: Any, totals: Any, target: Any, shape: Any, task: Any, chunk: int) -> None:
    """Adds up the lanes of db or dc and writes the sums as rows; clears the lanes."""
    for i in range(0, lanes.size, WIDTH * WIDTH):
        store(totals, i // WIDTH, total_each(lanes, i))
    lanes[:] = 0
    at = element(target, task.slab * shape.batch + task.sequence, chunk * CHUNK, task.group * shape.states)
    for step in range(min(CHUNK, shape.length - chunk * CHUNK)):
        for quad in range(shape.quads):
            for n in range(min(QUAD, shape.states - quad * QUAD)):
                number = load_number(totals, (quad * CHUNK + step) * QUAD + n)
                store_number(target.data, at + quad * QUAD + n, number)
        at += target.step


@njit
def _backward_block(
    index: int, place: Any, inputs: Any, weights: Any, dout: Any, borders: Any, grads: Any, tiles: Any, chunk: Any,
    decays: Any, states: Any,
) -> None:  # fmt: skip
    """Takes a block back through a chunk, from the states at its border."""
    _load_inputs(tiles, inputs, weights, index, place)
    _load_gradient(tiles, dout, inputs.gated, place)
    carry, dA = grads.states[place.sequence, index], grads.A[place.sequence, index]
    for quad in range(borders.shape[0]):
        A = weights.A[index, quad]
        _replay(borders[quad], A, chunk, quad * QUAD, tiles, place.steps, decays, states)
        _scan_back(carry[quad], A, chunk, quad * QUAD, tiles, place.steps, decays, states, dA[quad])
    dD, dbias = grads.D[place.sequence, index], grads.bias[place.sequence, index]
    _inputs_back(tiles, load(weights.D[index], 0), inputs.softplus, dD, dbias, place.steps)
    store_tile(tiles.du, grads.u, place)
    store_tile(tiles.ddt, grads.delta, place)
    if inputs.gated:
        _gate_back(tiles, place.steps)
        store_tile(tiles.z, grads.z, place)


@njit
def _backward_task(task: Any, shape: Any, inputs: Any, weights: Any, dout: Any, borders: Any, grads: Any) -> None:
    tiles, decays, states = _make_tiles(), scratch((CHUNK * QUAD_WIDTH,)), scratch(((CHUNK + 1) * QUAD_WIDTH,))
    coefficients, lanes = scratch((2, CHUNK, shape.quads * QUAD)), scratch((2, shape.quads, CHUNK * QUAD_WIDTH))
    chunk_data = _Chunk(coefficients[0], coefficients[1], lanes[0], lanes[1])
    totals = scratch((CHUNK * shape.quads * QUAD,))
    for chunk in range(shape.chunks - 1, -1, -1):
        _load_coefficients(chunk_data.b, inputs.B, shape, task, chunk)
        _load_coefficients(chunk_data.c, inputs.C, shape, task, chunk)
        for block in range(task.first, task.end):
            place, index = _place(shape, task, block, chunk), task.group * shape.blocks + block
            border = borders[task.sequence, chunk, index]
            _backward_block(
                index, place, inputs, weights, dout, border, grads, tiles, chunk_data, decays, states
            )  # fmt: skip
        _store_sums(chunk_data.db, totals, grads.B, shape, task, chunk)
        _store_sums(chunk_data.dc, totals, grads.C, shape, task, chunk)


@kernel
def backward(
    shape: Any, u: Any, delta: Any, z: Any, B: Any, C: Any, with_softplus: bool, gated: bool, A: Any, D: Any, bias: Any,
    dout: Any, borders: Any,
    du: Any, ddelta: Any, dz: Any, dB: Any, dC: Any, dA: Any, dD: Any, dbias: Any, dstates: Any,
) -> None:  # fmt: skip
    """Writes the gradients; see _Gradients."""
    for number in numba.prange(shape.batch * shape.groups * shape.slabs):
        inputs = _Inputs(u, delta, z, B, C, with_softplus, gated)
        grads = _Gradients(du, ddelta, dz, dB, dC, dA, dD, dbias, dstates)
        _backward_task(_make_task(shape, number), shape, inputs, _Weights(A, D, bias), dout, borders, grads)
