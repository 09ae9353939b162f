"""The kernels of the selective scan on a CPU; `dnadiff.ops.cpu.scan` and `.mixer` call them.

The recurrence, for each channel, with a state h of N numbers:

    a_t = exp(dt_t A),    h_t = a_t h_{t-1} + dt_t B_t u_t,    y_t = C_t . h_t + D u_t

and the output is y_t silu(z_t). Step sizes are dt = softplus(delta + bias). delta comes as it is
or, when `rank` is not 0, as the product of `rank` numbers per position with a matrix: multiplying
here saves writing delta to memory and reading it back.

**Layout.** A tensor (batch, channels, L) lies in memory as (batch, L, channels), so that a position
is a row of channels. Sixteen neighbouring channels (a *block*) fill one vector, one lane each, and
go through the sequence together: the recurrence is serial in t, but channels are independent. The
states of a block are taken four at a time (a *quad*): the four vectors of h, those of A, and what a
step computes just fit in the 32 registers of AVX-512.

**Order of the work.** The sequence is walked in chunks of 32 positions, and all blocks finish a
chunk before the next one begins. What a block needs in a chunk (a *tile* of 32 x 16 numbers per
quantity, 2 KiB) then stays in the first-level cache over all quads. Going through the whole
sequence block by block would fetch u, delta and z from memory anew for each quad.

**What the forward pass keeps** is the state before each chunk (a *border*), which is N / 32 numbers
per position and channel. All states would be N numbers, more than everything else together.

**The backward pass** walks the chunks from last to first, computes the states of a chunk again from
its border, and carries the gradient g of the state back through it:

    g_t   = C_t dy_t + a_{t+1} g_{t+1}                 dC_t = sum_d dy_t h_t
    du_t  = dt_t (sum_n B_t g_t) + D dy_t              dB_t = sum_d dt_t u_t g_t
    ddt_t = u_t (sum_n B_t g_t)                        dA   = sum_t dt_t a_t g_t h_{t-1}
          + sum_n A a_t g_t h_{t-1}

where n runs over states and d over channels. The sums over channels, dB and dC, are kept lane by
lane and added up across lanes once per chunk, since adding across lanes is slow. In the backward
pass the loop over quads is therefore outside the loop over blocks: the lanes of one quad fit in the
first-level cache beside a block's tiles, those of all states do not.

**Parallel work.** A task is one sequence and one slab of up to 128 channels. This division depends
on the number of channels alone, and the slabs' shares of dB and dC are added in a fixed order. So
results do not depend on the number of threads, nor on the other sequences of the batch.

Kernels compute powers of 2 and not of e, because 2^x is cheaper: A arrives multiplied by log2(e).
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

SLAB = 8  # blocks of a task; the second-level cache holds their tiles (96 KiB, backward)


# ---- what kernels are given ----------------------------------------------------------------------


class Shape(NamedTuple):
    """Sizes and switches of a scan. The channels of a group share B and C."""

    batch: int
    length: int
    chunks: int  # of a sequence
    groups: int
    blocks: int  # of a group
    slabs: int  # of a group
    states: int
    quads: int
    rank: int  # numbers per position that make up delta; 0 if delta comes as it is
    softplus: bool
    gated: bool


class Sequences(NamedTuple):
    """The inputs that vary along the sequence.

    Without a gate, z is any tensor of the right type, which is not read; so is `before` unless it
    is to be added to y.
    """

    u: Rows
    delta: Rows
    z: Rows
    B: Rows
    C: Rows
    before: Rows


class Weights(NamedTuple):
    """The inputs that do not vary along the sequence.

    A[block, quad, state, lane] is multiplied by log2(e); D and bias are [block, lane]; delta is
    [block, rank, lane].
    """

    A: Any
    D: Any
    bias: Any
    delta: Any


class Gradients(NamedTuple):
    """Where the backward pass writes the gradients of Sequences.

    B, C, and delta if it has a rank, are shared by all channels. Their gradients are partial sums,
    one for each slab: sequence b of slab s is row s batch + b.
    """

    u: Rows
    delta: Rows
    z: Rows
    B: Rows
    C: Rows


class Sums(NamedTuple):
    """Gradients of Weights, for each sequence apart and laid out as there.

    `states` is read as the gradient of the last states, and is that of the first states at the end.
    """

    A: Any
    D: Any
    bias: Any
    delta: Any
    states: Any


# ---- tasks and their scratch memory --------------------------------------------------------------


class _Task(NamedTuple):
    """One sequence of the batch and one slab, the blocks `first` to `end` - 1 of a group."""

    sequence: int
    group: int
    slab: int
    first: int
    end: int


class _Chunk(NamedTuple):
    """What all blocks share in a chunk, as float32.

    b[position, state] and c[position, state] have `width` numbers a row, a whole number of quads;
    low[position, rank] is what delta is made of.
    """

    width: int
    b: Any
    c: Any
    low: Any


class _Tiles(NamedTuple):
    """Tiles of a block in the forward pass: dt, dt u, and the output y before the gate."""

    dt: Any
    dtu: Any
    y: Any


class _BackTiles(NamedTuple):
    """Tiles of a block in the backward pass.

    `slope` is the derivative of the softplus, `dy` the gradient of y before the gate. The last two
    are sums over states, to which each quad adds: `gb` of B g, and `ddt` of A a g h_{t-1}.
    """

    dt: Any
    dtu: Any
    slope: Any
    dy: Any
    gb: Any
    ddt: Any


class _Lanes(NamedTuple):
    """Sums over the channels of a slab, not yet over the 16 lanes.

    b and c are [position, state of the quad, lane], low is [quad of ranks, position, rank, lane];
    `totals` has space for 16 sums.
    """

    b: Any
    c: Any
    low: Any
    totals: Any


_TILES, _BACK_TILES = len(_Tiles._fields) * TILE, len(_BackTiles._fields) * TILE


@njit
def _make_task(shape: Any, number: int) -> Any:
    """Returns the task of this number. Slabs vary fastest, then groups, then sequences."""
    slab, rest = number % shape.slabs, number // shape.slabs  # rest: sequence and group
    sequence, group = rest // shape.groups, rest % shape.groups
    begin = slab * SLAB
    return _Task(sequence, group, slab, begin, min(begin + SLAB, shape.blocks))


@njit
def _place(shape: Any, task: Any, block: int, chunk: int) -> Any:
    """Returns the place of a block in a chunk; the last chunk may be short."""
    t = chunk * CHUNK
    steps = min(CHUNK, shape.length - t)
    return Place(task.sequence, t, steps, (task.group * shape.blocks + block) * WIDTH)


@njit
def _make_chunk(memory: Any, shape: Any) -> Any:
    """Divides memory of `_chunk_size` numbers."""
    width = shape.quads * QUAD  # states, with those that fill up the last quad
    return _Chunk(width, memory, shift(memory, CHUNK * width), shift(memory, 2 * CHUNK * width))


@njit
def _chunk_size(shape: Any) -> int:
    """Returns the numbers that `_make_chunk` divides, with room to spare."""
    return CHUNK * (2 * shape.quads * QUAD + shape.rank + WIDTH)


@njit
def _load_numbers(target: Any, width: int, source: Any, count: int, place: Any) -> None:
    """Copies `count` numbers of each position to rows of `width`.

    What is beyond `count` in a row keeps its value. It is 0 from the beginning, so that the states
    that fill up the last quad take part in all sums with weight 0.
    """
    # Whole vectors first, then the rest number by number: a vector more could leave the tensor.
    at, whole = first(source, place), count - count % WIDTH
    for i in range(0, place.steps * width, width):
        for n in range(0, whole, WIDTH):
            store(target, i + n, load(source.data, at + n))
        for n in range(whole, count):
            store_number(target, i + n, load_number(source.data, at + n))
        at += source.step


@njit
def _load_chunk(chunk: Any, sequences: Any, shape: Any, task: Any, number: int) -> None:
    """Copies what all blocks share: B and C of the task's group, and the factor of delta."""
    t = number * CHUNK
    place = Place(task.sequence, t, min(CHUNK, shape.length - t), task.group * shape.states)
    _load_numbers(chunk.b, chunk.width, sequences.B, shape.states, place)
    _load_numbers(chunk.c, chunk.width, sequences.C, shape.states, place)
    if shape.rank > 0:  # delta belongs to no group: its numbers begin in column 0
        low_place = Place(task.sequence, t, place.steps, 0)
        _load_numbers(chunk.low, shape.rank, sequences.delta, shape.rank, low_place)


@njit
def _raw_step(
    shape: Any, sequences: Any, at: int, chunk: Any, t: int, weights: Any, index: int
) -> Any:
    """Returns delta + bias of a block at position t of the chunk."""
    raw = load(weights.bias, index * WIDTH)
    if shape.rank == 0:
        return raw + load(sequences.delta.data, at)
    # A few products (8 in the paper's model) take less time than a load from memory would.
    for r in range(shape.rank):
        w = load(weights.delta, (index * shape.rank + r) * WIDTH)
        raw = fma(load_number(chunk.low, t * shape.rank + r), w, raw)
    return raw


@njit
def _decay(dt: Any, A: Any) -> Any:
    """Returns the quad exp(dt A), where A is multiplied by log2(e)."""
    return (
        exp2_product(dt, A[0]),
        exp2_product(dt, A[1]),
        exp2_product(dt, A[2]),
        exp2_product(dt, A[3]),
    )


# ---- the forward pass ----------------------------------------------------------------------------


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
    """Fills the tiles with all that does not depend on the states; y starts with D u."""
    at_u, at_delta = first(sequences.u, place), first(sequences.delta, place)
    at_before = first(sequences.before, place)
    D = load(weights.D, index * WIDTH)

    # Offsets are stepped, not computed from t: the step is negative in a scan from right to left.
    for t in range(place.steps):
        i = t * WIDTH
        raw = _raw_step(shape, sequences, at_delta, chunk, t, weights, index)
        dt = softplus(raw) if shape.softplus else raw
        u = load(sequences.u.data, at_u)
        y = D * u
        # dt u is the same for all states, so it is multiplied once here and not in each quad.
        store(tiles.dt, i, dt)
        store(tiles.dtu, i, dt * u)
        store(tiles.y, i, y + load(sequences.before.data, at_before) if add else y)

        at_u += sequences.u.step
        at_delta += sequences.delta.step
        at_before += sequences.before.step


@njit
def _scan(states: Any, A: Any, chunk: Any, state: int, tiles: Any, steps: int) -> None:
    """Moves the four states from number `state` on through a chunk, and adds C h to y.

    This is the innermost loop of the forward pass. Registers hold A (4 vectors), h (4) and the
    constants of exp2 (6) throughout; a step loads dt, dt u and y, and the B and C of a state as one
    number that is spread over all lanes.
    """
    A_quad, h = load_quad(A, 0), load_quad(states, 0)
    for t in range(steps):
        i, n = t * WIDTH, t * chunk.width + state  # row t of a tile, and of B and C
        added = scale(load_numbers(chunk.b, n), load(tiles.dtu, i))
        h = multiply_add(_decay(load(tiles.dt, i), A_quad), h, added)
        store(tiles.y, i, dot(load_numbers(chunk.c, n), h, load(tiles.y, i)))
    store_quad(states, 0, h)


@njit
def _store_block(
    tiles: Any, shape: Any, sequences: Any, keep_y: bool, y: Any, out: Any, place: Any
) -> None:
    """Writes the output, y silu(z) where there is a gate; and y as well if it is to be kept."""
    at_z, at_y, at_out = first(sequences.z, place), first(y, place), first(out, place)
    for i in range(0, place.steps * WIDTH, WIDTH):
        x = load(tiles.y, i)
        if keep_y:
            store(y.data, at_y, x)
        if shape.gated:
            z = load(sequences.z.data, at_z)
            x = x * (z * sigmoid(z))
        store(out.data, at_out, x)

        at_z += sequences.z.step
        at_y += y.step
        at_out += out.step


@njit
def _prefetch_ahead(quad: int, sequences: Any, add: bool, y: Any, out: Any, place: Any) -> None:
    """Prefetches a part of what the block will read and write in the next chunk.

    Each quad asks for another tensor, so that the requests are spread over the block's arithmetic.
    """
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
    """Copies `size` numbers, a multiple of 16."""
    for i in range(0, size, WIDTH):
        store(target, i, load(source, i))


@njit
def _border(shape: Any, task: Any, chunk: int, index: int) -> int:
    """Returns the offset of a block's states before a chunk, in [sequence, chunk, block, ...]."""
    at = (task.sequence * shape.chunks + chunk) * shape.groups * shape.blocks + index
    return at * shape.quads * QUAD_WIDTH


@njit
def _forward_task(
    task: Any, shape: Any, sequences: Any, add: bool, weights: Any, keep_all: bool, y: Any,
    out: Any, borders: Any, states: Any,
) -> None:  # fmt: skip
    """Scans one slab of one sequence."""
    size = shape.quads * QUAD_WIDTH  # of a block's states
    # One allocation per task, divided by hand; WIDTH numbers more let `align` move to a cache line.
    arena = np.zeros(_TILES + _chunk_size(shape) + WIDTH, np.float32)
    memory = align(pointer(arena))
    tiles = _Tiles(memory, shift(memory, TILE), shift(memory, 2 * TILE))
    chunk = _make_chunk(shift(memory, _TILES), shape)

    for number in range(shape.chunks):
        _load_chunk(chunk, sequences, shape, task, number)
        for block in range(task.first, task.end):
            index, place = task.group * shape.blocks + block, _place(shape, task, block, number)
            # The states between chunks live in `states`: the registers are needed by other blocks.
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
    shape: Any, u: Any, delta: Any, z: Any, B: Any, C: Any, before: Any, add: bool, A: Any, D: Any,
    bias: Any, dt: Any, keep_all: bool, y: Any, out: Any, borders: Any, states: Any,
) -> None:  # fmt: skip
    """Writes the output, and turns the first states into the last.

    With `add`, `before` is added to y. With `keep_all` the states at borders are kept, and y if
    there is a gate. Sequences and Weights come field by field, because Numba's parallel loops do
    not take tuples of tuples.
    """
    for number in numba.prange(shape.batch * shape.groups * shape.slabs):
        sequences = Sequences(
            inside(u), inside(delta), inside(z), inside(B), inside(C), inside(before)
        )
        weights = Weights(pointer(A), pointer(D), pointer(bias), pointer(dt))
        _forward_task(
            _make_task(shape, number), shape, sequences, add, weights, keep_all, inside(y),
            inside(out), pointer(borders), pointer(states),
        )  # fmt: skip


# ---- the backward pass ---------------------------------------------------------------------------


@njit
def _load_block_back(
    tiles: Any, shape: Any, sequences: Any, weights: Any, index: int, chunk: Any, dout: Any, y: Any,
    with_dz: bool, dz: Any, place: Any,
) -> None:  # fmt: skip
    """Fills the tiles, with dy = dout silu(z), and writes dz = dout y silu'(z) if it is wanted.

    silu(z) = z s and silu'(z) = s + z s (1 - s), where s = sigmoid(z).
    """
    at_u, at_delta = first(sequences.u, place), first(sequences.delta, place)
    at_z, at_dz = first(sequences.z, place), first(dz, place)
    at_dout, at_y = first(dout, place), first(y, place)

    for t in range(place.steps):
        i = t * WIDTH
        raw = _raw_step(shape, sequences, at_delta, chunk, t, weights, index)
        # Without a softplus the slope is 1, and its tile is not read.
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
        store(tiles.gb, i, 0.0)  # sums over states begin
        store(tiles.ddt, i, 0.0)

        at_u += sequences.u.step
        at_delta += sequences.delta.step
        at_z += sequences.z.step
        at_dout += dout.step
        at_y += y.step
        at_dz += dz.step


@njit
def _replay(
    border: Any, A: Any, chunk: Any, state: int, tiles: Any, decays: Any, states: Any, steps: int
) -> None:
    """Scans a quad as `_scan` does, and keeps every decay and every state, the border's first.

    Decays are kept as well, because an exponential costs eight instructions and a load costs one.
    """
    A_quad, h = load_quad(A, 0), load_quad(border, 0)
    store_quad(states, 0, h)
    for t in range(steps):
        i, n = t * WIDTH, t * chunk.width + state
        added = scale(load_numbers(chunk.b, n), load(tiles.dtu, i))
        decay = _decay(load(tiles.dt, i), A_quad)
        h = multiply_add(decay, h, added)
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
    """Carries the gradients of four states back through a chunk; adds to dA, dB, dC, gb and ddt.

    Registers hold A, g, the sum for dA, and h, four vectors each. `carry` is a_{t+1} g_{t+1}: the
    decay is multiplied at the end of a step, so that the chunk before can go on from there.
    """
    A_quad, g, sum_A = load_quad(A, 0), load_quad(carry, 0), load_quad(dA, 0)
    h = load_quad(states, steps * QUAD_WIDTH)
    for t in range(steps - 1, -1, -1):
        i, n, at = t * WIDTH, t * chunk.width + state, t * QUAD_WIDTH

        # g_t is complete once the output's gradient is added, and h is h_t.
        dy = load(tiles.dy, i)
        g = scale_add(load_numbers(chunk.c, n), dy, g)
        _add_lanes(lanes.c, at, h, dy)
        _add_lanes(lanes.b, at, g, load(tiles.dtu, i))
        store(tiles.gb, i, dot(load_numbers(chunk.b, n), g, load(tiles.gb, i)))

        # One step back: g becomes a_t g_t, and h becomes h_{t-1}. Their product is d(dt A).
        g, h = multiply(g, load_quad(decays, at)), load_quad(states, at)
        through = multiply(g, h)
        store(tiles.ddt, i, dot(through, A_quad, load(tiles.ddt, i)))
        sum_A = scale_add(through, load(tiles.dt, i), sum_A)
    store_quad(carry, 0, g)
    store_quad(dA, 0, sum_A)


@njit
def _prefetch_back(quad: int, sequences: Any, dout: Any, y: Any, grads: Any, place: Any) -> None:
    """Prefetches as `_prefetch_ahead` does, for the chunk before."""
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
    tiles: Any, shape: Any, sequences: Any, weights: Any, index: int, du: Any, ddelta: Any, dD: Any,
    dbias: Any, place: Any,
) -> None:  # fmt: skip
    """Turns the sums over states into the gradients of u and delta; adds to those of D and bias.

    If delta has a rank, its gradient stays in the tile `ddt` for `_low_rank_back`.
    """
    at_u, at_du, at_ddelta = first(sequences.u, place), first(du, place), first(ddelta, place)
    D, sum_D, sum_bias = load(weights.D, index * WIDTH), load(dD, 0), load(dbias, 0)

    for i in range(0, place.steps * WIDTH, WIDTH):
        u, dy, gb = load(sequences.u.data, at_u), load(tiles.dy, i), load(tiles.gb, i)
        # The sum over states was taken with A log2(e); multiplying by log(2) undoes that.
        ddt = fma(load(tiles.ddt, i), LN2, u * gb)
        if shape.softplus:
            ddt = ddt * load(tiles.slope, i)

        # du = dt (sum of B g) + D dy.
        store(du.data, at_du, fma(gb, load(tiles.dt, i), dy * D))
        if shape.rank == 0:
            store(ddelta.data, at_ddelta, ddt)
        else:
            store(tiles.ddt, i, ddt)
        sum_D, sum_bias = fma(dy, u, sum_D), sum_bias + ddt

        at_u += sequences.u.step
        at_du += du.step
        at_ddelta += ddelta.step
    store(dD, 0, sum_D)
    store(dbias, 0, sum_bias)


@njit
def _low_rank_back(
    tiles: Any, rank: int, weight: Any, chunk: Any, lanes: Any, dweight: Any, steps: int
) -> None:
    """Adds to the gradients of the two factors of delta, the positions' numbers and the matrix.

    The lanes lie in quads of ranks, as those of B and C do in quads of states, so that
    `_store_sums` serves all three.
    """
    for r in range(rank):
        w, sum_w = load(weight, r * WIDTH), load(dweight, r * WIDTH)
        for t in range(steps):
            ddt = load(tiles.ddt, t * WIDTH)
            at = (r // QUAD * CHUNK + t) * QUAD_WIDTH + r % QUAD * WIDTH
            store(lanes, at, fma(ddt, w, load(lanes, at)))
            sum_w = fma(load_number(chunk.low, t * rank + r), ddt, sum_w)
        store(dweight, r * WIDTH, sum_w)


@njit
def _store_sums(lanes: Any, count: int, totals: Any, target: Any, place: Any) -> None:
    """Adds up the lanes of up to four numbers, writes the sums to rows, and clears the lanes.

    Four positions of four numbers are 16 vectors, whose 16 sums `total_each` takes together.
    """
    for t in range(0, place.steps, QUAD):
        sums = total_each(lanes, t * QUAD_WIDTH)
        at = first(target, place) + t * target.step
        if count == QUAD and t + QUAD <= place.steps:
            store_quarters(target.data, at, target.step, sums)
        else:  # the last states of a row, or the last positions: number by number
            store(totals, 0, sums)
            for i in range(min(QUAD, place.steps - t)):
                row = at + i * target.step
                for n in range(count):
                    store_number(target.data, row + n, load_number(totals, i * QUAD + n))
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
    """The scratch memory of a backward task.

    `tiles` are those of all blocks of the slab, since every quad comes back to every block.
    `decays` and `states` are of one quad of one block.
    """

    tiles: Any
    decays: Any
    states: Any
    lanes: Any
    chunk: Any


@njit
def _scratch_size(shape: Any) -> int:
    """Returns the numbers that `_make_scratch` divides."""
    sums = (2 * QUAD + shape.rank + QUAD) * TILE + WIDTH
    return SLAB * _BACK_TILES + (2 * CHUNK + 1) * QUAD_WIDTH + sums + _chunk_size(shape)


@njit
def _make_scratch(tiles: Any, shape: Any) -> Any:
    """Divides memory of `_scratch_size` numbers."""
    decays = shift(tiles, SLAB * _BACK_TILES)
    states = shift(decays, CHUNK * QUAD_WIDTH)
    b = shift(states, (CHUNK + 1) * QUAD_WIDTH)  # one state more than positions: the border's
    c = shift(b, QUAD * TILE)
    low = shift(c, QUAD * TILE)
    totals = shift(low, (shape.rank + QUAD) // QUAD * QUAD * TILE)
    chunk = _make_chunk(shift(totals, WIDTH), shape)
    return _Scratch(tiles, decays, states, _Lanes(b, c, low, totals), chunk)


@njit
def _tiles_of(scratch: Any, block: int) -> Any:
    """Returns the tiles of the block with this number in the slab."""
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
    """Takes a quad of a block back through a chunk: first forward again, then backward."""
    shape, task, chunk = back.shape, back.task, scratch.chunk
    index, tiles = task.group * shape.blocks + block, _tiles_of(scratch, block - task.first)
    size = shape.quads * QUAD_WIDTH
    at = index * size + quad * QUAD_WIDTH

    border = shift(back.borders, _border(shape, task, number, index) + quad * QUAD_WIDTH)
    A, state = shift(back.weights.A, at), quad * QUAD
    _replay(border, A, chunk, state, tiles, scratch.decays, scratch.states, steps)
    _prefetch_back(
        quad, back.sequences, back.dout, back.y, back.grads, _place(shape, task, block, number)
    )

    # Sums are kept for each sequence apart, and PyTorch adds them up in a fixed order.
    own = task.sequence * shape.groups * shape.blocks * size + at
    carry, dA = shift(back.sums.states, own), shift(back.sums.A, own)
    _scan_back(
        carry, A, dA, chunk, state, tiles, scratch.decays, scratch.states, scratch.lanes, steps
    )


@njit
def _finish_block(back: Any, scratch: Any, block: int, number: int) -> None:
    """Writes a block's gradients of u and delta in a chunk, once all quads have added to them."""
    shape, task, sums = back.shape, back.task, back.sums
    index, tiles = task.group * shape.blocks + block, _tiles_of(scratch, block - task.first)
    own = task.sequence * shape.groups * shape.blocks + index
    place = _place(shape, task, block, number)
    _store_block_back(
        tiles, shape, back.sequences, back.weights, index, back.grads.u, back.grads.delta,
        shift(sums.D, own * WIDTH), shift(sums.bias, own * WIDTH), place,
    )  # fmt: skip

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
    # `share` is the row of the partial sums that this slab writes for this sequence.
    steps, share = min(CHUNK, shape.length - t), task.slab * shape.batch + task.sequence

    _load_chunk(scratch.chunk, back.sequences, shape, task, number)
    for block in range(task.first, task.end):
        index, tiles = task.group * shape.blocks + block, _tiles_of(scratch, block - task.first)
        _load_block_back(
            tiles, shape, back.sequences, back.weights, index, scratch.chunk, back.dout, back.y,
            back.with_dz, grads.z, _place(shape, task, block, number),
        )  # fmt: skip

    # Quads outside, blocks inside: dB and dC of a quad are complete after its last block.
    for quad in range(shape.quads):
        for block in range(task.first, task.end):
            _quad_back(back, scratch, quad, block, number, steps)
        place = Place(share, t, steps, task.group * shape.states + quad * QUAD)
        count = min(QUAD, shape.states - quad * QUAD)
        _store_sums(lanes.b, count, lanes.totals, grads.B, place)
        _store_sums(lanes.c, count, lanes.totals, grads.C, place)

    for block in range(task.first, task.end):
        _finish_block(back, scratch, block, number)
    # The gradient of delta's factor is shared by all blocks, and complete only now.
    for r in range(0, shape.rank, QUAD):
        place = Place(share, t, steps, r)
        count = min(QUAD, shape.rank - r)
        _store_sums(shift(lanes.low, r * TILE), count, lanes.totals, grads.delta, place)


@njit
def _backward_task(back: Any) -> None:
    """Takes one slab of one sequence back from its end to its beginning."""
    arena = np.zeros(_scratch_size(back.shape) + WIDTH, np.float32)  # WIDTH more, for `align`
    scratch = _make_scratch(align(pointer(arena)), back.shape)
    for number in range(back.shape.chunks - 1, -1, -1):
        _chunk_back(back, scratch, number)
    keep(arena)


@kernel
def backward(
    shape: Any, u: Any, delta: Any, z: Any, B: Any, C: Any, before: Any, A: Any, D: Any, bias: Any,
    dt: Any, dout: Any, y: Any, with_dz: bool, borders: Any, du: Any, ddelta: Any, dz: Any, dB: Any,
    dC: Any, dA: Any, dD: Any, dbias: Any, ddt: Any, states: Any,
) -> None:  # fmt: skip
    """Writes Gradients, that of z only `with_dz`, and adds to Sums; all come field by field."""
    for number in numba.prange(shape.batch * shape.groups * shape.slabs):
        sequences = Sequences(
            inside(u), inside(delta), inside(z), inside(B), inside(C), inside(before)
        )
        weights = Weights(pointer(A), pointer(D), pointer(bias), pointer(dt))
        grads = Gradients(inside(du), inside(ddelta), inside(dz), inside(dB), inside(dC))
        sums = Sums(pointer(dA), pointer(dD), pointer(dbias), pointer(ddt), pointer(states))
        back = _Back(
            _make_task(shape, number), shape, sequences, weights, inside(dout), inside(y), with_dz,
            pointer(borders), grads, sums,
        )  # fmt: skip
        _backward_task(back)
