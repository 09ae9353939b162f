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

from dnadiff.ops.cpu.compile import Rows, inside, kernel
from dnadiff.ops.cpu.functions import LN2, exp2_product, sigmoid, softplus
from dnadiff.ops.cpu.lanes import (
    WIDTH,
    align,
    fma,
    keep,
    load,
    load_number,
    pointer,
    shift,
    store,
    store_number,
    total_each,
)
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
from dnadiff.ops.cpu.tiles import CHUNK, TILE, Place, clear, element, load_tile, store_tile

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
    """What does not vary, as pointers: A[block, quad, state, lane] times log2(e), D[block, lane], bias[block, lane]."""

    A: Any
    D: Any
    bias: Any


class _Gradients(NamedTuple):
    """Where the backward pass writes.

    B and C are partial sums, with a batch of sequences for each slab. A, D, bias and states are pointers, for each
    sequence laid out as in _Weights; states starts as the gradient of the last states.
    """

    u: Rows
    delta: Rows
    z: Rows
    B: Rows
    C: Rows
    A: Any
    D: Any
    bias: Any
    states: Any


class _Tiles(NamedTuple):
    """A block of a chunk, tile by tile.

    `raw` is delta + bias, dt the step sizes, dtu = dt u; y is the output before the gate. Of the gradients, du and ddt
    are sums over states, and dy is that of y.
    """

    u: Any
    raw: Any
    dt: Any
    dtu: Any
    z: Any
    y: Any
    dz: Any
    dy: Any
    du: Any
    ddt: Any


class _Chunk(NamedTuple):
    """What the blocks of a chunk share: b and c [position, state], `width` numbers for a position.

    The backward pass adds up their gradients in db and dc [quad, position, state, lane], and works with the decays of
    a quad [position, state, lane] and with its states, the one at the border first. totals are sums over lanes.
    """

    width: int
    b: Any
    c: Any
    db: Any
    dc: Any
    decays: Any
    states: Any
    totals: Any


@njit
def _make_task(shape: Any, number: int) -> Any:
    slab, rest = number % shape.slabs, number // shape.slabs
    first = slab * SLAB
    return _Task(rest // shape.groups, rest % shape.groups, slab, first, min(first + SLAB, shape.blocks))


@njit
def _place(shape: Any, task: Any, block: int, chunk: int) -> Any:
    t, channel = chunk * CHUNK, block * WIDTH
    steps, lanes = min(CHUNK, shape.length - t), min(WIDTH, shape.channels - channel)
    return Place(task.sequence, t, steps, task.group * shape.channels + channel, lanes)


@njit
def _make_tiles(memory: Any) -> Any:
    return _Tiles(
        memory, shift(memory, TILE), shift(memory, 2 * TILE), shift(memory, 3 * TILE), shift(memory, 4 * TILE),
        shift(memory, 5 * TILE), shift(memory, 6 * TILE), shift(memory, 7 * TILE), shift(memory, 8 * TILE),
        shift(memory, 9 * TILE),
    )  # fmt: skip


_TILES = 10 * TILE


@njit
def _make_chunk(memory: Any, width: int, lanes: int) -> Any:
    """`lanes` is the size of db and dc; the forward pass needs none, and nothing that comes after them."""
    b, c = memory, shift(memory, CHUNK * width)
    db = shift(c, CHUNK * width)
    decays = shift(db, 2 * lanes)
    states = shift(decays, CHUNK * QUAD_WIDTH)
    return _Chunk(width, b, c, db, shift(db, lanes), decays, states, shift(states, (CHUNK + 1) * QUAD_WIDTH))


@njit
def _load_coefficients(target: Any, width: int, source: Any, shape: Any, task: Any, chunk: int) -> None:
    """Copies the B or C of a chunk; states that pad the last quad stay 0."""
    at = element(source, task.sequence, chunk * CHUNK, task.group * shape.states)
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
    bias, D = load(weights.bias, index * WIDTH), load(weights.D, index * WIDTH)
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
def _scan(states: Any, A: Any, chunk: Any, state: int, tiles: Any, steps: int) -> None:
    """Moves the four states from number `state` on through a chunk, and adds their part of the output to y."""
    A_quad, h = load_quad(A, 0), load_quad(states, 0)
    for t in range(steps):
        i, n = t * WIDTH, t * chunk.width + state
        b = scale(load_numbers(chunk.b, n), load(tiles.dtu, i))
        h = multiply_add(_decay(load(tiles.dt, i), A_quad), h, b)
        store(tiles.y, i, dot(load_numbers(chunk.c, n), h, load(tiles.y, i)))
    store_quad(states, 0, h)


@njit
def _gate(tiles: Any, steps: int) -> None:
    """Multiplies y by silu(z)."""
    for i in range(0, steps * WIDTH, WIDTH):
        z = load(tiles.z, i)
        store(tiles.y, i, load(tiles.y, i) * (z * sigmoid(z)))


@njit
def _copy(source: Any, target: Any, size: int) -> None:
    for i in range(0, size, WIDTH):
        store(target, i, load(source, i))


@njit
def _forward_block(
    index: int, place: Any, inputs: Any, weights: Any, out: Any, states: Any, tiles: Any, chunk: Any
) -> None:
    """Takes a block, whose states are given, through a chunk."""
    _load_inputs(tiles, inputs, weights, index, place)
    A = shift(weights.A, index * chunk.width * WIDTH)
    for state in range(0, chunk.width, QUAD):
        _scan(shift(states, state * WIDTH), shift(A, state * WIDTH), chunk, state, tiles, place.steps)
    if inputs.gated:
        _gate(tiles, place.steps)
    store_tile(tiles.y, out, place)


@njit
def _forward_task(
    task: Any, shape: Any, inputs: Any, weights: Any, out: Any, with_borders: bool, borders: Any, states: Any
) -> None:
    width, blocks = shape.quads * QUAD, shape.groups * shape.blocks
    arena = np.zeros(_TILES + 2 * CHUNK * width + WIDTH, np.float32)
    tiles = _make_tiles(align(pointer(arena)))
    shared = _make_chunk(shift(tiles.u, _TILES), width, 0)
    for chunk in range(shape.chunks):
        _load_coefficients(shared.b, width, inputs.B, shape, task, chunk)
        _load_coefficients(shared.c, width, inputs.C, shape, task, chunk)
        for block in range(task.first, task.end):
            index = task.group * shape.blocks + block
            now = shift(states, (task.sequence * blocks + index) * width * WIDTH)
            if with_borders:
                border = ((task.sequence * shape.chunks + chunk) * blocks + index) * width * WIDTH
                _copy(now, shift(borders, border), width * WIDTH)
            _forward_block(index, _place(shape, task, block, chunk), inputs, weights, out, now, tiles, shared)
    keep(arena)


@kernel
def forward(
    shape: Any, u: Any, delta: Any, z: Any, B: Any, C: Any, with_softplus: bool, gated: bool, A: Any, D: Any, bias: Any,
    out: Any, with_borders: bool, borders: Any, states: Any,
) -> None:  # fmt: skip
    """Writes the output, turns the first states into the last, and keeps those at chunk borders if it is asked to."""
    for number in numba.prange(shape.batch * shape.groups * shape.slabs):
        inputs = _Inputs(inside(u), inside(delta), inside(z), inside(B), inside(C), with_softplus, gated)
        weights = _Weights(pointer(A), pointer(D), pointer(bias))
        _forward_task(
            _make_task(shape, number), shape, inputs, weights, inside(out), with_borders, pointer(borders),
            pointer(states),
        )  # fmt: skip


@njit
def _replay(border: Any, A: Any, chunk: Any, state: int, tiles: Any, steps: int) -> None:
    """Like _scan, but keeps every decay, and every state after the one at the border."""
    A_quad, h = load_quad(A, 0), load_quad(border, 0)
    store_quad(chunk.states, 0, h)
    for t in range(steps):
        i, n = t * WIDTH, t * chunk.width + state
        b, decay = scale(load_numbers(chunk.b, n), load(tiles.dtu, i)), _decay(load(tiles.dt, i), A_quad)
        h = multiply_add(decay, h, b)
        store_quad(chunk.decays, t * QUAD_WIDTH, decay)
        store_quad(chunk.states, (t + 1) * QUAD_WIDTH, h)
        store(tiles.y, i, dot(load_numbers(chunk.c, n), h, load(tiles.y, i)))


@njit
def _scan_back(carry: Any, A: Any, dA: Any, chunk: Any, state: int, tiles: Any, steps: int) -> None:
    """Carries the gradients of four states back through a chunk, and adds to dA, db, dc, du and ddt."""
    A_quad, g, sum_A = load_quad(A, 0), load_quad(carry, 0), load_quad(dA, 0)
    db, dc = shift(chunk.db, state * CHUNK * WIDTH), shift(chunk.dc, state * CHUNK * WIDTH)
    for t in range(steps - 1, -1, -1):
        i, n, at = t * WIDTH, t * chunk.width + state, t * QUAD_WIDTH
        dt, dtu, dy = load(tiles.dt, i), load(tiles.dtu, i), load(tiles.dy, i)
        g = scale_add(load_numbers(chunk.c, n), dy, g)
        store_quad(dc, at, scale_add(load_quad(chunk.states, at + QUAD_WIDTH), dy, load_quad(dc, at)))
        store_quad(db, at, scale_add(g, dtu, load_quad(db, at)))
        store(tiles.du, i, dot(load_numbers(chunk.b, n), g, load(tiles.du, i)))
        g = multiply(g, load_quad(chunk.decays, at))
        through = multiply(g, load_quad(chunk.states, at))
        store(tiles.ddt, i, dot(through, A_quad, load(tiles.ddt, i)))
        sum_A = scale_add(through, dt, sum_A)
    store_quad(carry, 0, g)
    store_quad(dA, 0, sum_A)


@njit
def _load_gradient(tiles: Any, dout: Any, gated: bool, place: Any) -> None:
    """Fills dy = dout silu(z), and dz = dout silu'(z), which lacks the factor y; clears du and ddt.

    silu(z) = z s and silu'(z) = s + z s (1 - s), where s = sigmoid(z).
    """
    load_tile(tiles.dy, dout, place)
    for i in range(0, place.steps * WIDTH, WIDTH):
        if gated:
            z, dy = load(tiles.z, i), load(tiles.dy, i)
            s = sigmoid(z)
            store(tiles.dy, i, dy * (z * s))
            store(tiles.dz, i, dy * fma(z * s, 1.0 - s, s))
        store(tiles.du, i, 0.0)
        store(tiles.ddt, i, 0.0)


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
def _backward_block(
    index: int,
    place: Any,
    inputs: Any,
    weights: Any,
    dout: Any,
    border: Any,
    grads: Any,
    at: int,
    tiles: Any,
    chunk: Any,
) -> None:
    """Takes a block back through a chunk, from the states at its border; `at` is its place in the gradients."""
    _load_inputs(tiles, inputs, weights, index, place)
    _load_gradient(tiles, dout, inputs.gated, place)
    for state in range(0, chunk.width, QUAD):
        A = shift(weights.A, (index * chunk.width + state) * WIDTH)
        part = (at * chunk.width + state) * WIDTH
        _replay(shift(border, state * WIDTH), A, chunk, state, tiles, place.steps)
        _scan_back(shift(grads.states, part), A, shift(grads.A, part), chunk, state, tiles, place.steps)
    D, dD, dbias = load(weights.D, index * WIDTH), shift(grads.D, at * WIDTH), shift(grads.bias, at * WIDTH)
    _inputs_back(tiles, D, inputs.softplus, dD, dbias, place.steps)
    store_tile(tiles.du, grads.u, place)
    store_tile(tiles.ddt, grads.delta, place)
    if inputs.gated:
        for i in range(0, place.steps * WIDTH, WIDTH):
            store(tiles.dz, i, load(tiles.dz, i) * load(tiles.y, i))
        store_tile(tiles.dz, grads.z, place)


@njit
def _store_sums(lanes: Any, totals: Any, target: Any, shape: Any, task: Any, chunk: int) -> None:
    """Adds up the lanes of db or dc and writes the sums as rows of dB or dC; clears the lanes."""
    for i in range(0, shape.quads * CHUNK * QUAD_WIDTH, WIDTH * WIDTH):
        store(totals, i // WIDTH, total_each(lanes, i))
    clear(lanes, shape.quads * CHUNK * QUAD_WIDTH)
    at = element(target, task.slab * shape.batch + task.sequence, chunk * CHUNK, task.group * shape.states)
    for step in range(min(CHUNK, shape.length - chunk * CHUNK)):
        for quad in range(shape.quads):
            for n in range(min(QUAD, shape.states - quad * QUAD)):
                number = load_number(totals, (quad * CHUNK + step) * QUAD + n)
                store_number(target.data, at + quad * QUAD + n, number)
        at += target.step


@njit
def _backward_task(task: Any, shape: Any, inputs: Any, weights: Any, dout: Any, borders: Any, grads: Any) -> None:
    width, blocks = shape.quads * QUAD, shape.groups * shape.blocks
    lanes = CHUNK * width * WIDTH
    arena = np.zeros(_TILES + 3 * CHUNK * width + 2 * lanes + (2 * CHUNK + 1) * QUAD_WIDTH + WIDTH, np.float32)
    tiles = _make_tiles(align(pointer(arena)))
    shared = _make_chunk(shift(tiles.u, _TILES), width, lanes)
    for chunk in range(shape.chunks - 1, -1, -1):
        _load_coefficients(shared.b, width, inputs.B, shape, task, chunk)
        _load_coefficients(shared.c, width, inputs.C, shape, task, chunk)
        for block in range(task.first, task.end):
            index = task.group * shape.blocks + block
            at, place = task.sequence * blocks + index, _place(shape, task, block, chunk)
            border = shift(borders, ((task.sequence * shape.chunks + chunk) * blocks + index) * width * WIDTH)
            _backward_block(index, place, inputs, weights, dout, border, grads, at, tiles, shared)
        _store_sums(shared.db, shared.totals, grads.B, shape, task, chunk)
        _store_sums(shared.dc, shared.totals, grads.C, shape, task, chunk)
    keep(arena)


@kernel
def backward(
    shape: Any, u: Any, delta: Any, z: Any, B: Any, C: Any, with_softplus: bool, gated: bool, A: Any, D: Any, bias: Any,
    dout: Any, borders: Any,
    du: Any, ddelta: Any, dz: Any, dB: Any, dC: Any, dA: Any, dD: Any, dbias: Any, dstates: Any,
) -> None:  # fmt: skip
    """Writes the gradients; see _Gradients."""
    for number in numba.prange(shape.batch * shape.groups * shape.slabs):
        inputs = _Inputs(inside(u), inside(delta), inside(z), inside(B), inside(C), with_softplus, gated)
        weights = _Weights(pointer(A), pointer(D), pointer(bias))
        grads = _Gradients(
            inside(du), inside(ddelta), inside(dz), inside(dB), inside(dC), pointer(dA), pointer(dD), pointer(dbias),
            pointer(dstates),
        )  # fmt: skip
        _backward_task(_make_task(shape, number), shape, inputs, weights, inside(dout), pointer(borders), grads)
