"""Sixteen float32 numbers side by side: the type that every CPU kernel computes with.

Numba leaves it to LLVM to find the loops that can run on vectors, and in a recurrence LLVM finds none. Here the vectors
are written out: a value of type `Lanes` is LLVM's <16 x float>, which is one register with AVX-512, two with AVX2 and
four with NEON; LLVM does that split, so one text serves all machines. Inside a kernel + - * / take Lanes, and plain
numbers among them stand for the same number in each lane.

`Lanes` of 64, four registers with AVX-512, are for long chains of arithmetic on memory that lies in one piece: each
instruction then has three others beside it that need not wait for its result. `load_wide` makes them, and all
arithmetic takes them too.

Memory is addressed as (pointer, offset in elements), not as arrays: Numba counts references to an array, and the
counting would cost more than the arithmetic. A pointer to float32 sees numbers as they are; one to int16 sees the bits
of bfloat16 numbers, widened when loaded and rounded to the nearest (even) when stored.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typeconv import Conversion
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, lower_cast, models, register_model

WIDTH = 16
WIDE = 64
_FLOAT, _INT16, _INT32, _INT64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_FLOATS, _INTS, _SHORTS = (ir.VectorType(element, WIDTH) for element in (_FLOAT, _INT32, _INT16))


_instructions: Any = intrinsic  # a type checker would count `typingctx` among the arguments


class LanesType(types.Type):
    """Numba's view of the vector."""

    def __init__(self, width: int) -> None:
        super().__init__(name=f"Lanes{width}")
        self.width = width

    def can_convert_from(self, typingctx: Any, other: types.Type) -> Conversion | None:
        """Lets a plain number stand where Lanes are expected."""
        return Conversion.safe if isinstance(other, (types.Float, types.Integer)) else None


LANES, WIDE_LANES = LanesType(WIDTH), LanesType(WIDE)


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: LanesType) -> None:
        super().__init__(manager, numba_type, ir.VectorType(_FLOAT, numba_type.width))


def _lanes_among(*kinds: types.Type) -> LanesType:
    """The type of the Lanes among arguments, of which others are plain numbers."""
    return next((kind for kind in kinds if isinstance(kind, LanesType)), LANES)


def _constant(kind: ir.Type, number: int) -> ir.Constant:
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def _fill(builder: ir.IRBuilder, number: ir.Value, width: int) -> ir.Value:
    undefined = ir.Constant(ir.VectorType(_FLOAT, width), ir.Undefined)
    first = builder.insert_element(undefined, number, _INT32(0))
    return builder.shuffle_vector(first, undefined, _constant(ir.VectorType(_INT32, width), 0))


@lower_cast(types.Float, LanesType)
@lower_cast(types.Integer, LanesType)
def _cast(
    context: Any, builder: ir.IRBuilder, source: types.Type, target: LanesType, number: ir.Value
) -> ir.Value:
    return _fill(builder, context.cast(builder, number, source, types.float32), target.width)


def _define_operator(symbol: Callable, emit: Callable[..., ir.Value]) -> None:
    """Gives a Python operator its meaning on Lanes: the instruction that `emit` writes."""

    @infer_global(symbol)
    class _Template(ConcreteTemplate):
        cases = tuple(signature(kind, kind, kind) for kind in (LANES, WIDE_LANES))

    @lower_builtin(symbol, LanesType, LanesType)
    def _lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return emit(builder, *args)


_define_operator(operator.add, ir.IRBuilder.fadd)
_define_operator(operator.sub, ir.IRBuilder.fsub)
_define_operator(operator.mul, ir.IRBuilder.fmul)
_define_operator(operator.truediv, ir.IRBuilder.fdiv)


def _llvm(builder: ir.IRBuilder, name: str, *args: ir.Value) -> ir.Value:
    """Calls an intrinsic function of LLVM that takes and returns vectors."""
    kind = args[0].type
    function = ir.FunctionType(kind, [kind] * len(args))
    return builder.call(
        cgutils.get_or_insert_function(builder.module, function, f"llvm.{name}.v{kind.count}f32"),
        args,
    )


@_instructions
def fma(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
    """The sum x y + z, in one instruction where the CPU has it."""
    kind = _lanes_among(x, y, z)
    return kind(kind, kind, kind), lambda context, builder, sig, args: _llvm(
        builder, "fmuladd", *args
    )


@_instructions
def absolute(typingctx: Any, x: Any) -> Any:
    """|x|."""
    return x(x), lambda context, builder, sig, args: _llvm(builder, "fabs", *args)


@_instructions
def where_greater(typingctx: Any, x: Any, y: Any, yes: Any, no: Any) -> Any:
    """Lane by lane `yes` where x > y, `no` elsewhere (also where x or y is not a number)."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        x, y, yes, no = args
        return builder.select(builder.fcmp_ordered(">", x, y), yes, no)

    kind = _lanes_among(x, y, yes, no)
    return kind(kind, kind, kind, kind), lower


def _has_avx512(context: Any) -> bool:
    """Whether the machine that Numba compiles for has AVX-512 (with DQ, as every one but the first has)."""
    return "+avx512dq" in context.codegen().magic_tuple()[2]


@_instructions
def has_avx512(typingctx: Any) -> Any:
    """Whether `fraction`, `times_power` and `rough_reciprocal` are there; known when compiling, so that it is free."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return context.get_constant(types.boolean, _has_avx512(context))

    return types.boolean(), lower


def _avx512(
    context: Any, builder: ir.IRBuilder, name: str, vectors: Any, *constants: ir.Value
) -> ir.Value:
    """Calls an instruction of AVX-512 on each 16 lanes. What is never reached must compile all the same."""
    if not _has_avx512(context):
        return vectors[0]
    kind = ir.FunctionType(
        _FLOATS, [_FLOATS] * len(vectors) + [constant.type for constant in constants]
    )
    function = cgutils.get_or_insert_function(
        builder.module, kind, f"llvm.x86.avx512.{name}.ps.512"
    )
    width = vectors[0].type.count
    parts = [
        builder.call(function, [*(_lanes(builder, x, start, WIDTH) for x in vectors), *constants])
        for start in range(0, width, WIDTH)
    ]
    while len(parts) > 1:
        parts = [_join(builder, x, y) for x, y in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _lanes(builder: ir.IRBuilder, x: ir.Value, start: int, count: int) -> ir.Value:
    """So many lanes of x from `start` on."""
    places = ir.Constant(ir.VectorType(_INT32, count), list(range(start, start + count)))
    return builder.shuffle_vector(x, x, places)


def _join(builder: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    count = 2 * x.type.count
    return builder.shuffle_vector(
        x, y, ir.Constant(ir.VectorType(_INT32, count), list(range(count)))
    )


_UNDEFINED, _EVERY_LANE, _CURRENT_ROUNDING = (
    ir.Constant(_FLOATS, ir.Undefined),
    _INT16(-1),
    _INT32(4),
)


@_instructions
def fraction(typingctx: Any, x: Any) -> Any:
    """X - floor(x), with AVX-512."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        downwards = _INT32(1)
        constants = downwards, _UNDEFINED, _EVERY_LANE, _CURRENT_ROUNDING
        return _avx512(context, builder, "mask.reduce", args, *constants)

    return x(x), lower


@_instructions
def times_power(typingctx: Any, x: Any, y: Any) -> Any:
    """The product x 2^floor(y), with all the right ends, with AVX-512."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return _avx512(
            context, builder, "mask.scalef", args, _UNDEFINED, _EVERY_LANE, _CURRENT_ROUNDING
        )

    return x(x, x), lower


@_instructions
def rough_reciprocal(typingctx: Any, x: Any) -> Any:
    """1 / x to 14 bits, with AVX-512."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return _avx512(context, builder, "rcp14", args, _UNDEFINED, _EVERY_LANE)

    return x(x), lower


@_instructions
def power_of_bits(typingctx: Any, x: Any) -> Any:
    """The float32 whose exponent field is the lowest eight bits of x, with nothing behind the point."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        floats = args[0].type
        ints = ir.VectorType(_INT32, floats.count)
        return builder.bitcast(
            builder.shl(builder.bitcast(args[0], ints), _constant(ints, 23)), floats
        )

    return x(x), lower


@_instructions
def pointer(typingctx: Any, array: Any) -> Any:
    """Where the numbers of an array begin. Somebody must hold the array as long (see `keep`)."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return context.make_array(sig.args[0])(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), lower


@_instructions
def keep(typingctx: Any, array: Any) -> Any:
    """Does nothing, but Numba will not free the array before it."""
    return types.void(array), lambda context, builder, sig, args: context.get_dummy_value()


@_instructions
def shift(typingctx: Any, memory: Any, offset: Any) -> Any:
    """The pointer `offset` elements further on."""
    return memory(memory, types.intp), lambda context, builder, sig, args: builder.gep(
        args[0], [args[1]]
    )


@_instructions
def align(typingctx: Any, memory: Any) -> Any:
    """The next address that is a multiple of 64 bytes: vectors from there on straddle no two cache lines."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        address = builder.add(builder.ptrtoint(args[0], _INT64), _INT64(63))
        return builder.inttoptr(builder.and_(address, _INT64(-64)), args[0].type)

    return memory(memory), lower


def _load(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type, alignment: int) -> ir.Value:
    value = builder.load(builder.bitcast(address, kind.as_pointer()))
    value.align = alignment
    return value


def _store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, alignment: int) -> None:
    builder.store(value, builder.bitcast(address, value.type.as_pointer())).align = alignment


def _widen(builder: ir.IRBuilder, bits: ir.Value, ints: ir.Type, floats: ir.Type) -> ir.Value:
    """The numbers whose bfloat16 bits are given."""
    return builder.bitcast(builder.shl(builder.zext(bits, ints), _constant(ints, 16)), floats)


def _narrow(builder: ir.IRBuilder, x: ir.Value, ints: ir.Type, shorts: ir.Type) -> ir.Value:
    """The bfloat16 bits of numbers, rounded to the nearest, ties to even."""
    bits, sixteen = builder.bitcast(x, ints), _constant(ints, 16)
    odd = builder.and_(builder.lshr(bits, sixteen), _constant(ints, 1))
    rounded = builder.add(bits, builder.add(odd, _constant(ints, 0x7FFF)))
    return builder.trunc(builder.lshr(rounded, sixteen), shorts)


@_instructions
def load(typingctx: Any, memory: Any, offset: Any) -> Any:
    """The 16 numbers from `offset` on."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        address = builder.gep(args[0], [args[1]])
        if memory.dtype == types.float32:
            return _load(builder, address, _FLOATS, 4)
        return _widen(builder, _load(builder, address, _SHORTS, 2), _INTS, _FLOATS)

    return LANES(memory, types.intp), lower


@_instructions
def load_wide(typingctx: Any, memory: Any, offset: Any) -> Any:
    """The 64 float32 numbers from `offset` on."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return _load(builder, builder.gep(args[0], [args[1]]), ir.VectorType(_FLOAT, WIDE), 4)

    return WIDE_LANES(memory, types.intp), lower


@_instructions
def store(typingctx: Any, memory: Any, offset: Any, x: Any) -> Any:
    """Writes the 16 numbers x from `offset` on, or 64 if x is wide (float32 only)."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        address = builder.gep(args[0], [args[1]])
        if memory.dtype == types.float32:
            _store(builder, args[2], address, 4)
        else:
            _store(builder, _narrow(builder, args[2], _INTS, _SHORTS), address, 2)
        return context.get_dummy_value()

    return types.void(memory, types.intp, _lanes_among(x)), lower


@_instructions
def store_quarters(typingctx: Any, memory: Any, offset: Any, step: Any, x: Any) -> Any:
    """Writes the first 4 of 16 numbers at `offset`, the next 4 `step` further on, and so forth; float32 only."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        memory, offset, step, x = args
        for quarter in range(4):
            _store(builder, _lanes(builder, x, 4 * quarter, 4), builder.gep(memory, [offset]), 4)
            offset = builder.add(offset, step)
        return context.get_dummy_value()

    return types.void(memory, types.intp, types.intp, LANES), lower


@_instructions
def prefetch(typingctx: Any, memory: Any, offset: Any) -> Any:
    """Starts to bring the memory at `offset` near, if there is any: the address need not exist."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        address = builder.bitcast(builder.gep(args[0], [args[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [address.type, _INT32, _INT32, _INT32])
        read, keep, data = _INT32(0), _INT32(3), _INT32(1)
        builder.call(
            cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch"),
            [address, read, keep, data],
        )
        return context.get_dummy_value()

    return types.void(memory, types.intp), lower


@_instructions
def load_number(typingctx: Any, memory: Any, offset: Any) -> Any:
    """The one number at `offset`."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        bits = builder.load(builder.gep(args[0], [args[1]]))
        return bits if memory.dtype == types.float32 else _widen(builder, bits, _INT32, _FLOAT)

    return types.float32(memory, types.intp), lower


@_instructions
def store_number(typingctx: Any, memory: Any, offset: Any, x: Any) -> Any:
    """Writes the one number x at `offset`."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        value = (
            args[2] if memory.dtype == types.float32 else _narrow(builder, args[2], _INT32, _INT16)
        )
        builder.store(value, builder.gep(args[0], [args[1]]))
        return context.get_dummy_value()

    return types.void(memory, types.intp, types.float32), lower


@_instructions
def total(typingctx: Any, x: Any) -> Any:
    """The sum over the 16 lanes, a plain number; always the same order of additions."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        x = args[0]
        for half in (8, 4, 2, 1):
            upper = builder.shuffle_vector(
                x, x, ir.Constant(_INTS, [(i + half) % WIDTH for i in range(WIDTH)])
            )
            x = builder.fadd(x, upper)
        return builder.extract_element(x, _INT32(0))

    return types.float32(LANES), lower


@_instructions
def total_each(typingctx: Any, memory: Any, offset: Any) -> Any:
    """Lane i of the result is the sum over the lanes of the i-th of 16 vectors that lie one after the other.

    The vectors are added in pairs whose lanes interleave, so that 15 additions do the work of 16 x 15.
    """

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        base = builder.gep(args[0], [args[1]])
        rows = [
            _load(builder, builder.gep(base, [_INT64(WIDTH * i)]), _FLOATS, 4) for i in range(WIDTH)
        ]
        for half in (8, 4, 2, 1):
            rows = [
                _add_halves(builder, x, y, half)
                for x, y in zip(rows[:half], rows[half:], strict=True)
            ]
        return rows[0]

    return LANES(memory, types.intp), lower


def _add_halves(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, half: int) -> ir.Value:
    """In each run of 2 `half` lanes: the two halves of x added, then the two halves of y added."""
    starts = range(0, WIDTH, 2 * half)
    low = [side + start + i for start in starts for side in (0, WIDTH) for i in range(half)]
    left = builder.shuffle_vector(x, y, ir.Constant(_INTS, low))
    right = builder.shuffle_vector(x, y, ir.Constant(_INTS, [i + half for i in low]))
    return builder.fadd(left, right)
