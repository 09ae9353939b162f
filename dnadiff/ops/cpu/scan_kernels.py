"""The selective scan on a CPU: the kernels. `dnadiff.ops.cpu.scan` and `dnadiff.ops.cpu.mixer` call them.

Sixteen channels go abreast, one lane each; positions follow one another. The sequence is walked in chunks of 32
positions, and within a chunk 16 channels after 16 (a block), so that all a chunk needs stays in the nearest cache. The
states of a block are taken four at a time, a quad.

The forward pass keeps the states at chunk borders only. The backward pass walks the chunks from last to first, computes
the states of a chunk again from its border, and carries the gradient g of the state back through it:

    a_t   = exp(dt_t A)                                g_t  = C_t dy_t + a_{t+1} g_{t+1}
    du_t  = dt_t (sum_n B_t g_t) + D dy_t              dC_t = sum_d dy_t h_t
    ddt_t = u_t (sum_n B_t g_t)                        dB_t = sum_d dt_t u_t g_t
          + sum_n A a_t g_t h_{t-1}                    dA   = sum_t dt_t a_t g_t h_{t-1}

The sums over channels, dB and dC, are kept lane by lane until a chunk is done. There the quads go around the blocks,
not the other way round: the lanes of one quad fit beside the rest in the nearest cache, those of all states do not.

Step sizes are softplus(delta + bias), where delta comes as it is or, when `rank` is not 0, as the product of `rank`
numbers of each position with a matrix: eight multiplications then save a pass through memory.

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
from dnadiff.ops.cpu.functions import LN2, exp2_product, sigmoid, softplus, softplus_slope
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
    store_quarters,
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
from dnadiff.ops.cpu.tiles import CHUNK, TILE, Place, clear, first, prefetch_chunk

SLAB = 8  # blocks


class Shape(NamedTuple):
    """How many there are of each, and what is to be done. The channels of a group share B and C."""

    batch: int
    length: int
    chunks: int
    groups: int
    blocks: int  # of a group
    slabs: int  # of a group
    states: int
    quads: int
    rank: int  # numbers that delta is a product of; 0 if it comes as it is
    softplus: bool
    gated: bool


class Sequences(NamedTuple):
    """What varies along the sequence. Where there is no gate, z stands for anything of its type; so does `before`.

    The output y is C h + D u, plus `before` if that is wanted.
    """

    u: Rows
    delta: Rows
    z: Rows
    B: Rows
    C: Rows
    before: Rows


class Weights(NamedTuple):
    """What does not vary: A[block, quad, state, lane] times log2(e); D, bias[block, lane]; delta[block, rank, lane]."""

    A: Any
    D: Any
    bias: Any
    delta: Any


class Gradients(NamedTuple):
    """Where the backward pass writes the gradients of Sequences.

    Those of what a whole slab shares (B, C, and delta if it has a rank) are partial sums: a batch of sequences for each
    slab.
    """

    u: Rows
    delta: Rows
    z: Rows
    B: Rows
    C: Rows


class Sums(NamedTuple):
    """For each sequence, gradients laid out as in Weights; `states` starts as the gradient of the last states."""

    A: Any
    D: Any
    bias: Any
    delta: Any
    states: Any


class _Task(NamedTuple):
    """One sequence of the batch, and one slab: blocks `first` to `end` of a group."""

    sequence: int
    group: int
    slab: int
    first: int
    end: int


class _Chunk(NamedTuple):
    """What all blocks of a chunk share: B and C, `width` numbers a position, and `rank` that delta is made of."""

    width: int
    b: Any
    c: Any
    low: Any


class _TiledStarts(NamedTuple):
    """A block of a chunk, tile by tile: step sizes dt, dt u, and the output y before the gate."""

    dt: Any
    dtu: Any
    y: Any


class _BackTiles(NamedTuple):
    """The same on the way back: dt, dt u, the slope of the softplus, the gradient of y, and sums over states.

    `gb` sums B g, and `ddt` A a g h.
    """

    dt: Any
    dtu: Any
    slope: Any
    dy: Any
    gb: Any
    ddt: Any


class _Lanes(NamedTuple):
    """Sums over the channels of a slab, not yet over the 16 lanes: [position, quad of numbers, lane]."""

    b: Any
    c: Any
    low: Any
    totals: Any


_TILES, _BACK_TILES = 3 * TILE, 6 * TILE


@njit
def _make_task(shape: Any, number: int) -> Any:
    slab, rest = number % shape.slabs, number // shape.slabs
    begin = slab * SLAB
    return _Task(
        rest // shape.groups, rest % shape.groups, slab, begin, min(begin + SLAB, shape.blocks)
    )


@njit
def _place(shape: Any, task: Any, block: int, chunk: int) -> Any:
    t = chunk * CHUNK
    return Place(
        task.sequence, t, min(CHUNK, shape.length - t), (task.group * shape.blocks + block) * WIDTH
    )


@njit
def _make_chunk(memory: Any, shape: Any) -> Any:
    width = shape.quads * QUAD
    return _Chunk(width, memory, shift(memory, CHUNK * width), shift(memory, 2 * CHUNK * width))


@njit
def _chunk_size(shape: Any) -> int:
    return CHUNK * (2 * shape.quads * QUAD + shape.rank + WIDTH)


@njit
def _load_numbers(target: Any, width: int, source: Any, count: int, place: Any) -> None:
    """Copies `count` numbers of each position; what fills up the width stays 0."""
    at, whole = first(source, place), count - count % WIDTH
    for i in range(0, place.steps * width, width):
        for n in range(0, whole, WIDTH):
            store(target, i + n, load(source.data, at + n))
        for n in range(whole, count):
            store_number(target, i + n, load_number(source.data, at + n))
        at += source.step


@njit
def _load_chunk(chunk: Any, sequences: Any, shape: Any, task: Any, number: int) -> None:
    t = number * CHUNK
    place = Place(task.sequence, t, min(CHUNK, shape.length - t), task.group * shape.states)
    _load_numbers(chunk.b, chunk.width, sequences.B, shape.states, place)
    _load_numbers(chunk.c, chunk.width, sequences.C, shape.states, place)
    if shape.rank > 0:
        _load_numbers(
            chunk.low,
            shape.rank,
            sequences.delta,
            shape.rank,
            Place(task.sequence, t, place.steps, 0),
        )


@njit
def _raw_step(
    shape: Any, sequences: Any, at: int, chunk: Any, t: int, weights: Any, index: int
) -> Any:
    """The sum delta + bias of a block at position t of the chunk."""
    raw = load(weights.bias, index * WIDTH)
    if shape.rank == 0:
        return raw + load(sequences.delta.data, at)
    for r in range(shape.rank):
        w = load(weights.delta, (index * shape.rank + r) * WIDTH)
        raw = fma(load_number(chunk.low, t * shape.rank + r), w, raw)
    return raw


@njit
def _decay(dt: Any, A: Any) -> Any:
    """The quad exp(dt A), where A is times log2(e)."""
    return (
        exp2_product(dt, A[0]),
        exp2_product(dt, A[1]),
        exp2_product(dt, A[2]),
        exp2_product(dt, A[3]),
    )


@njit
def _load_block(
    tiles: Any,
    shape: Any,
    sequences: Any,
    add: bool,
    weights: Any,
    index: int,
    chunk: Any,
    place: Any,
) -> None:
    """Fills the tiles with all that comes before the scan; y starts with the skip D u."""
    u, delta, before = (
        first(sequences.u, place),
        first(sequences.delta, place),
        first(sequences.before, place),
    )
    D = load(weights.D, index * WIDTH)
    for t in range(place.steps):
        i = t * WIDTH
        raw = _raw_step(shape, sequences, delta, chunk, t, weights, index)
        dt = softplus(raw) if shape.softplus else raw
        x = load(sequences.u.data, u)
        y = D * x
        store(tiles.dt, i, dt)
        store(tiles.dtu, i, dt * x)
        store(tiles.y, i, y + load(sequences.before.data, before) if add else y)
        u, delta, before = (
            u + sequences.u.step,
            delta + sequences.delta.step,
            before + sequences.before.step,
        )


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
def _store_block(
    tiles: Any, shape: Any, sequences: Any, keep_y: bool, y: Any, out: Any, place: Any
) -> None:
    """Writes the output, y silu(z) where there is a gate; and y too if it is to be kept."""
    at_z, at_y, at_out = first(sequences.z, place), first(y, place), first(out, place)
    for i in range(0, place.steps * WIDTH, WIDTH):
        x = load(tiles.y, i)
        if keep_y:
            store(y.data, at_y, x)
        if shape.gated:
            z = load(sequences.z.data, at_z)
            x = x * (z * sigmoid(z))
        store(out.data, at_out, x)
        at_z, at_y, at_out = at_z + sequences.z.step, at_y + y.step, at_out + out.step


@njit
def _prefetch_ahead(quad: int, sequences: Any, add: bool, y: Any, out: Any, place: Any) -> None:
    """While a quad is computed, a part of what the block will touch in the next chunk comes near."""
    if quad == 0:
        prefetch_chunk(sequences.u, place, 1)
    elif quad == 1:
        prefetch_chunk(sequences.z, place, 1)
    elif quad == 2:
        prefetch_chunk(out, place, 1)
    elif quad == 3:
        prefetch_chunk(sequences.before if add else y, place, 1)


@njit
def _copy(source: Any, target: Any, size: int) -> None:
    for i in range(0, size, WIDTH):
        store(target, i, load(source, i))


@njit
def _border(shape: Any, task: Any, chunk: int, index: int) -> int:
    """Where the states of a block before a chunk are kept."""
    at = (task.sequence * shape.chunks + chunk) * shape.groups * shape.blocks + index
    return at * shape.quads * QUAD_WIDTH


@njit
def _forward_task(
    task: Any, shape: Any, sequences: Any, add: bool, weights: Any, keep_all: bool, y: Any, out: Any, borders: Any,
    states: Any,
) -> None:  # fmt: skip
    size = shape.quads * QUAD_WIDTH
    arena = np.zeros(_TILES + _chunk_size(shape) + WIDTH, np.float32)
    memory = align(pointer(arena))
    tiles = _TiledStarts(memory, shift(memory, TILE), shift(memory, 2 * TILE))
    chunk = _make_chunk(shift(memory, _TILES), shape)
    for number in range(shape.chunks):
        _load_chunk(chunk, sequences, shape, task, number)
        for block in range(task.first, task.end):
            index, place = task.group * shape.blocks + block, _place(shape, task, block, number)
            now = shift(states, (task.sequence * shape.groups * shape.blocks + index) * size)
            if keep_all:
                _copy(now, shift(borders, _border(shape, task, number, index)), size)
            _load_block(tiles, shape, sequences, add, weights, index, chunk, place)
            A = shift(weights.A, index * size)
            for quad in range(shape.quads):
                at = quad * QUAD_WIDTH
                _prefetch_ahead(quad, sequences, add, y, out, place)
                _scan(shift(now, at), shift(A, at), chunk, quad * QUAD, tiles, place.steps)
            _store_block(tiles, shape, sequences, keep_all and shape.gated, y, out, place)
    keep(arena)


@kernel
def forward(
    shape: Any, u: Any, delta: Any, z: Any, B: Any, C: Any, before: Any, add: bool, A: Any, D: Any, bias: Any, dt: Any,
    keep_all: bool, y: Any, out: Any, borders: Any, states: Any,
) -> None:  # fmt: skip
    """Takes Sequences and Weights one by one; writes the output, and turns the first states into the last.

    With `add`, `before` is added to y. With `keep_all` the states at chunk borders are kept, and y if there is a gate.
    """
    for number in numba.prange(shape.batch * shape.groups * shape.slabs):
        _forward_task(
            _make_task(shape, number), shape,
            Sequences(inside(u), inside(delta), inside(z), inside(B), inside(C), inside(before)), add,
            Weights(pointer(A), pointer(D), pointer(bias), pointer(dt)), keep_all, inside(y), inside(out),
            pointer(borders), pointer(states),
        )  # fmt: skip


@njit
def _load_block_back(
    tiles: Any, shape: Any, sequences: Any, weights: Any, index: int, chunk: Any, dout: Any, y: Any, with_dz: bool,
    dz: Any, place: Any,
) -> None:  # fmt: skip
    """Fills the tiles; with dy = dout silu(z), and writes dz = dout y silu'(z) if it is wanted.

    silu(z) = z s and silu'(z) = s + z s (1 - s), where s = sigmoid(z).
    """
    at_u, at_delta, at_z = (
        first(sequences.u, place),
        first(sequences.delta, place),
        first(sequences.z, place),
    )
    at_dout, at_y, at_dz = first(dout, place), first(y, place), first(dz, place)
    for t in range(place.steps):
        i = t * WIDTH
        raw = _raw_step(shape, sequences, at_delta, chunk, t, weights, index)
        dt, slope = softplus_slope(raw) if shape.softplus else (raw, raw)
        dy = load(dout.data, at_dout)
        if shape.gated:
            z = load(sequences.z.data, at_z)
            s = sigmoid(z)
            gate = z * s
            if with_dz:
                store(dz.data, at_dz, dy * load(y.data, at_y) * fma(gate, 1.0 - s, s))
            dy = dy * gate
        store(tiles.dt, i, dt)
        store(tiles.dtu, i, dt * load(sequences.u.data, at_u))
        store(tiles.slope, i, slope)
        store(tiles.dy, i, dy)
        store(tiles.gb, i, 0.0)
        store(tiles.ddt, i, 0.0)
        at_u, at_delta, at_z = (
            at_u + sequences.u.step,
            at_delta + sequences.delta.step,
            at_z + sequences.z.step,
        )
        at_dout, at_y, at_dz = at_dout + dout.step, at_y + y.step, at_dz + dz.step


@njit
def _replay(
    border: Any, A: Any, chunk: Any, state: int, tiles: Any, decays: Any, states: Any, steps: int
) -> None:
    """Like _scan, but keeps every decay, and every state after the one at the border."""
    A_quad, h = load_quad(A, 0), load_quad(border, 0)
    store_quad(states, 0, h)
    for t in range(steps):
        i, n = t * WIDTH, t * chunk.width + state
        b, decay = (
            scale(load_numbers(chunk.b, n), load(tiles.dtu, i)),
            _decay(load(tiles.dt, i), A_quad),
        )
        h = multiply_add(decay, h, b)
        store_quad(decays, t * QUAD_WIDTH, decay)
        store_quad(states, (t + 1) * QUAD_WIDTH, h)


@njit
def _add_lanes(memory: Any, at: int, x: Any, y: Any) -> None:
    """Adds quad x times Lanes y to the sums of four numbers."""
    store_quad(memory, at, scale_add(x, y, load_quad(memory, at)))


@njit
def _scan_back(
    carry: Any,
    A: Any,
    dA: Any,
    chunk: Any,
    state: int,
    tiles: Any,
    decays: Any,
    states: Any,
    lanes: Any,
    steps: int,
) -> None:
    """Carries the gradients of four states back through a chunk, and adds to dA, dB, dC, gb and ddt."""
    A_quad, g, sum_A, h = (
        load_quad(A, 0),
        load_quad(carry, 0),
        load_quad(dA, 0),
        load_quad(states, steps * QUAD_WIDTH),
    )
    for t in range(steps - 1, -1, -1):
        i, n, at = t * WIDTH, t * chunk.width + state, t * QUAD_WIDTH
        dy = load(tiles.dy, i)
        g = scale_add(load_numbers(chunk.c, n), dy, g)
        _add_lanes(lanes.c, at, h, dy)
        _add_lanes(lanes.b, at, g, load(tiles.dtu, i))
        store(tiles.gb, i, dot(load_numbers(chunk.b, n), g, load(tiles.gb, i)))
        g, h = multiply(g, load_quad(decays, at)), load_quad(states, at)
        through = multiply(g, h)
        store(tiles.ddt, i, dot(through, A_quad, load(tiles.ddt, i)))
        sum_A = scale_add(through, load(tiles.dt, i), sum_A)
    store_quad(carry, 0, g)
    store_quad(dA, 0, sum_A)


@njit
def _prefetch_back(quad: int, sequences: Any, dout: Any, y: Any, grads: Any, place: Any) -> None:
    """As _prefetch_ahead, on the way back."""
    if quad == 0:
        prefetch_chunk(sequences.u, place, -1)
        prefetch_chunk(grads.u, place, -1)
    elif quad == 1:
        prefetch_chunk(sequences.z, place, -1)
        prefetch_chunk(grads.z, place, -1)
    elif quad == 2:
        prefetch_chunk(dout, place, -1)
    elif quad == 3:
        prefetch_chunk(y, place, -1)


@njit
def _store_block_back(
    tiles: Any, shape: Any, sequences: Any, weights: Any, index: int, du: Any, ddelta: Any, dD: Any, dbias: Any,
    place: Any,
) -> None:  # fmt: skip
    """Turns the sums over states into the gradients of u and delta, and adds to those of D and bias."""
    at_u, at_du, at_ddelta = first(sequences.u, place), first(du, place), first(ddelta, place)
    D, sum_D, sum_bias = load(weights.D, index * WIDTH), load(dD, 0), load(dbias, 0)
    for i in range(0, place.steps * WIDTH, WIDTH):
        u, dy, gb = load(sequences.u.data, at_u), load(tiles.dy, i), load(tiles.gb, i)
        ddt = fma(load(tiles.ddt, i), LN2, u * gb)  # A was times log2(e)
        if shape.softplus:
            ddt = ddt * load(tiles.slope, i)
        store(du.data, at_du, fma(gb, load(tiles.dt, i), dy * D))
        if shape.rank == 0:
            store(ddelta.data, at_ddelta, ddt)
        else:
            store(tiles.ddt, i, ddt)
        sum_D, sum_bias = fma(dy, u, sum_D), sum_bias + ddt
        at_u, at_du, at_ddelta = at_u + sequences.u.step, at_du + du.step, at_ddelta + ddelta.step
    store(dD, 0, sum_D)
    store(dbias, 0, sum_bias)


@njit
def _low_rank_back(
    tiles: Any, rank: int, weight: Any, chunk: Any, lanes: Any, dweight: Any, steps: int
) -> None:
    """Adds to the gradients of the two factors of delta."""
    for r in range(rank):
        w, sum_w = load(weight, r * WIDTH), load(dweight, r * WIDTH)
        for t in range(steps):
            i = t * WIDTH
            ddt, at = load(tiles.ddt, i), (r // QUAD * CHUNK + t) * QUAD_WIDTH + r % QUAD * WIDTH
            store(lanes, at, fma(ddt, w, load(lanes, at)))
            sum_w = fma(load_number(chunk.low, t * rank + r), ddt, sum_w)
        store(dweight, r * WIDTH, sum_w)


@njit
def _store_sums(lanes: Any, count: int, totals: Any, target: Any, place: Any) -> None:
    """Adds up the lanes of up to four numbers, writes the sums to rows, and clears the lanes."""
    for t in range(0, place.steps, QUAD):
        sums = total_each(lanes, t * QUAD_WIDTH)
        at = first(target, place) + t * target.step
        if count == QUAD and t + QUAD <= place.steps:
            store_quarters(target.data, at, target.step, sums)
        else:
            store(totals, 0, sums)
            for i in range(min(QUAD, place.steps - t)):
                for n in range(count):
                    store_number(
                        target.data, at + i * target.step + n, load_number(totals, i * QUAD + n)
                    )
    clear(lanes, place.steps * QUAD_WIDTH)


class _Back(NamedTuple):
    """All that the backward pass of a task is given."""

    task: Any
    shape: Any
    sequences: Any
    weights: Any
    dout: Any
    y: Any
    with_dz: bool
    borders: Any
    grads: Any
    sums: Any


class _Scratch(NamedTuple):
    """Its memory: tiles of each block; decays and states of one quad of one block; lanes; and the chunk."""

    tiles: Any
    decays: Any
    states: Any
    lanes: Any
    chunk: Any


@njit
def _scratch_size(shape: Any) -> int:
    sums = (2 * QUAD + shape.rank + QUAD) * TILE + WIDTH
    return SLAB * _BACK_TILES + (2 * CHUNK + 1) * QUAD_WIDTH + sums + _chunk_size(shape)


@njit
def _make_scratch(tiles: Any, shape: Any) -> Any:
    decays = shift(tiles, SLAB * _BACK_TILES)
    states = shift(decays, CHUNK * QUAD_WIDTH)
    b = shift(states, (CHUNK + 1) * QUAD_WIDTH)
    c = shift(b, QUAD * TILE)
    low = shift(c, QUAD * TILE)
    totals = shift(low, (shape.rank + QUAD) // QUAD * QUAD * TILE)
    return _Scratch(
        tiles, decays, states, _Lanes(b, c, low, totals), _make_chunk(shift(totals, WIDTH), shape)
    )


@njit
def _tiles_of(scratch: Any, block: int) -> Any:
    """The tiles of the block with this number in the slab."""
    dt = shift(scratch.tiles, block * _BACK_TILES)
    return _BackTiles(
        dt,
        shift(dt, TILE),
        shift(dt, 2 * TILE),
        shift(dt, 3 * TILE),
        shift(dt, 4 * TILE),
        shift(dt, 5 * TILE),
    )


@njit
def _quad_back(back: Any, scratch: Any, quad: int, block: int, number: int, steps: int) -> None:
    """Takes a quad of a block back through a chunk."""
    shape, task, chunk = back.shape, back.task, scratch.chunk
    index, tiles = task.group * shape.blocks + block, _tiles_of(scratch, block - task.first)
    size = shape.quads * QUAD_WIDTH
    at = index * size + quad * QUAD_WIDTH
    own = task.sequence * shape.groups * shape.blocks * size + at
    border = shift(back.borders, _border(shape, task, number, index) + quad * QUAD_WIDTH)
    A, state = shift(back.weights.A, at), quad * QUAD
    _replay(border, A, chunk, state, tiles, scratch.decays, scratch.states, steps)
    _prefetch_back(
        quad, back.sequences, back.dout, back.y, back.grads, _place(shape, task, block, number)
    )
    carry, dA = shift(back.sums.states, own), shift(back.sums.A, own)
    _scan_back(
        carry, A, dA, chunk, state, tiles, scratch.decays, scratch.states, scratch.lanes, steps
    )


@njit
def _finish_block(back: Any, scratch: Any, block: int, number: int) -> None:
    """What comes after the quads."""
    shape, task, sums = back.shape, back.task, back.sums
    index, tiles = task.group * shape.blocks + block, _tiles_of(scratch, block - task.first)
    own, place = (
        task.sequence * shape.groups * shape.blocks + index,
        _place(shape, task, block, number),
    )
    dD, dbias = shift(sums.D, own * WIDTH), shift(sums.bias, own * WIDTH)
    _store_block_back(
        tiles,
        shape,
        back.sequences,
        back.weights,
        index,
        back.grads.u,
        back.grads.delta,
        dD,
        dbias,
        place,
    )
    size = shape.rank * WIDTH
    weight, dweight = shift(back.weights.delta, index * size), shift(sums.delta, own * size)
    _low_rank_back(
        tiles, shape.rank, weight, scratch.chunk, scratch.lanes.low, dweight, place.steps
    )


@njit
def _chunk_back(back: Any, scratch: Any, number: int) -> None:
    """Takes all blocks of the task back through a chunk."""
    shape, task, grads, lanes = back.shape, back.task, back.grads, scratch.lanes
    t = number * CHUNK
    steps, share = min(CHUNK, shape.length - t), task.slab * shape.batch + task.sequence
    _load_chunk(scratch.chunk, back.sequences, shape, task, number)
    for block in range(task.first, task.end):
        _load_block_back(
            _tiles_of(scratch, block - task.first), shape, back.sequences, back.weights,
            task.group * shape.blocks + block, scratch.chunk, back.dout, back.y, back.with_dz, grads.z,
            _place(shape, task, block, number),
        )  # fmt: skip
    for quad in range(shape.quads):
        for block in range(task.first, task.end):
            _quad_back(back, scratch, quad, block, number, steps)
        place = Place(share, t, steps, task.group * shape.states + quad * QUAD)
        count = min(QUAD, shape.states - quad * QUAD)
        _store_sums(lanes.b, count, lanes.totals, grads.B, place)
        _store_sums(lanes.c, count, lanes.totals, grads.C, place)
    for block in range(task.first, task.end):
        _finish_block(back, scratch, block, number)
    for r in range(0, shape.rank, QUAD):
        count = min(QUAD, shape.rank - r)
        _store_sums(
            shift(lanes.low, r * TILE), count, lanes.totals, grads.delta, Place(share, t, steps, r)
        )


@njit
def _backward_task(back: Any) -> None:
    arena = np.zeros(_scratch_size(back.shape) + WIDTH, np.float32)
    scratch = _make_scratch(align(pointer(arena)), back.shape)
    for number in range(back.shape.chunks - 1, -1, -1):
        _chunk_back(back, scratch, number)
    keep(arena)


@kernel
def backward(
    shape: Any, u: Any, delta: Any, z: Any, B: Any, C: Any, before: Any, A: Any, D: Any, bias: Any, dt: Any,
    dout: Any, y: Any, with_dz: bool, borders: Any, du: Any, ddelta: Any, dz: Any, dB: Any, dC: Any,
    dA: Any, dD: Any, dbias: Any, ddt: Any, states: Any,
) -> None:  # fmt: skip
    """Takes Sequences and Weights one by one, and writes Gradients and Sums; that of z only `with_dz`."""
    for number in numba.prange(shape.batch * shape.groups * shape.slabs):
        sequences = Sequences(
            inside(u), inside(delta), inside(z), inside(B), inside(C), inside(before)
        )
        weights = Weights(pointer(A), pointer(D), pointer(bias), pointer(dt))
        grads = Gradients(inside(du), inside(ddelta), inside(dz), inside(dB), inside(dC))
        sums = Sums(pointer(dA), pointer(dD), pointer(dbias), pointer(ddt), pointer(states))
        _backward_task(
            _Back(
                _make_task(shape, number), shape, sequences, weights, inside(dout), inside(y), with_dz,
                pointer(borders), grads, sums,
            )
        )  # fmt: skip
