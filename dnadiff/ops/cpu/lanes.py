"""Lanes, sixteen float32 numbers side by side: the type that every CPU kernel computes with.

Numba leaves it to LLVM to find the loops that can run on vectors, and in a recurrence LLVM finds
none. Here the vectors are written out: a value of type `Lanes` is LLVM's <16 x float>, which is one
register with AVX-512, two with AVX2 and four with NEON. LLVM does that split, so one source serves
all machines. Inside a kernel + - * / take Lanes, and a plain number among them stands for that
number in each lane.

`Lanes` of 64, four registers with AVX-512, are for long chains of arithmetic on contiguous memory:
each operation is then four independent instructions, none of which waits for another. `load_wide`
makes them, and all arithmetic takes them too.

Memory is addressed as (pointer, offset in elements), not as arrays: Numba counts references to an
array, and the counting would cost more than the arithmetic. A pointer to float32 sees numbers as
they are. A pointer to int16 sees the bits of bfloat16 numbers, widened when loaded and rounded to
nearest even when stored.

Each function below is a Numba *intrinsic*: when a kernel that calls it is compiled, it returns the
types of its arguments and result, and a function `lower` that writes the LLVM instructions. The
parameters `typingctx`, `context` and `sig` are part of that interface.
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


# ---- the type ------------------------------------------------------------------------------------


class LanesType(types.Type):
    """The type as Numba's type inference sees it."""

    def __init__(self, width: int) -> None:
        super().__init__(name=f"Lanes{width}")
        self.width = width

    def can_convert_from(self, typingctx: Any, other: types.Type) -> Conversion | None:
        """Lets a plain number stand where Lanes are expected."""
        return Conversion.safe if isinstance(other, (types.Float, types.Integer)) else None


LANES, WIDE_LANES = LanesType(WIDTH), LanesType(WIDE)


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    """The type as LLVM sees it: a vector of floats."""

    def __init__(self, manager: Any, numba_type: LanesType) -> None:
        super().__init__(manager, numba_type, ir.VectorType(_FLOAT, numba_type.width))


def _lanes_among(*kinds: types.Type) -> LanesType:
    """Returns the type of the Lanes among arguments; the others are plain numbers."""
    return next((kind for kind in kinds if isinstance(kind, LanesType)), LANES)


def _constant(kind: ir.Type, number: int) -> ir.Constant:
    """Returns a number as a constant of an LLVM type, in each lane if that is a vector."""
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def _fill(builder: ir.IRBuilder, number: ir.Value, width: int) -> ir.Value:
    """Copies a number to each lane: inserts it in lane 0, then takes lane 0 for all lanes.

    LLVM recognises this pair and emits one broadcast, from memory if the number was just loaded.
    """
    undefined = ir.Constant(ir.VectorType(_FLOAT, width), ir.Undefined)
    first = builder.insert_element(undefined, number, _INT32(0))
    return builder.shuffle_vector(first, undefined, _constant(ir.VectorType(_INT32, width), 0))


@lower_cast(types.Float, LanesType)
@lower_cast(types.Integer, LanesType)
def _cast(
    context: Any, builder: ir.IRBuilder, source: types.Type, target: LanesType, number: ir.Value
) -> ir.Value:
    """Converts a plain number to Lanes."""
    return _fill(builder, context.cast(builder, number, source, types.float32), target.width)


# ---- arithmetic ----------------------------------------------------------------------------------


def _define_operator(symbol: Callable, emit: Callable[..., ir.Value]) -> None:
    """Defines a Python operator on Lanes as the instruction that `emit` writes."""

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
    """Calls an intrinsic function of LLVM that takes and returns vectors of one type."""
    kind = args[0].type
    function = ir.FunctionType(kind, [kind] * len(args))
    return builder.call(
        cgutils.get_or_insert_function(builder.module, function, f"llvm.{name}.v{kind.count}f32"),
        args,
    )


@_instructions
def fma(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
    """Returns x y + z, in one instruction and with one rounding where the CPU has it."""
    # Not LLVM's "fma", which calls a slow library function on CPUs without the instruction.
    kind = _lanes_among(x, y, z)
    return kind(kind, kind, kind), lambda context, builder, sig, args: _llvm(
        builder, "fmuladd", *args
    )


@_instructions
def absolute(typingctx: Any, x: Any) -> Any:
    """Returns |x|."""
    return x(x), lambda context, builder, sig, args: _llvm(builder, "fabs", *args)


@_instructions
def where_greater(typingctx: Any, x: Any, y: Any, yes: Any, no: Any) -> Any:
    """Returns `yes` in the lanes where x > y, `no` elsewhere (also where x or y is NaN)."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        x, y, yes, no = args
        return builder.select(builder.fcmp_ordered(">", x, y), yes, no)

    kind = _lanes_among(x, y, yes, no)
    return kind(kind, kind, kind, kind), lower


# ---- instructions of AVX-512 ---------------------------------------------------------------------


def _has_avx512(context: Any) -> bool:
    """Returns whether Numba compiles for AVX-512 and its extension DQ, which Xeon Phi lacks."""
    return "+avx512dq" in context.codegen().magic_tuple()[2]


@_instructions
def has_avx512(typingctx: Any) -> Any:
    """Returns whether `fraction`, `times_power` and `rough_reciprocal` can be used.

    The answer is a constant in the compiled code, so that asking costs nothing.
    """

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return context.get_constant(types.boolean, _has_avx512(context))

    return types.boolean(), lower


def _avx512(
    context: Any, builder: ir.IRBuilder, name: str, vectors: Any, *constants: ir.Value
) -> ir.Value:
    """Calls an instruction of AVX-512 on each 16 lanes, and joins the results."""
    # Kernels ask `has_avx512` first, but the branch that is never reached is compiled as well.
    if not _has_avx512(context):
        return vectors[0]

    kind = ir.FunctionType(
        _FLOATS, [_FLOATS] * len(vectors) + [constant.type for constant in constants]
    )
    function = cgutils.get_or_insert_function(
        builder.module, kind, f"llvm.x86.avx512.{name}.ps.512"
    )

    # The instruction takes 16 lanes, so wide Lanes are cut into fours and put together in pairs.
    width = vectors[0].type.count
    parts = [
        builder.call(function, [*(_lanes(builder, x, start, WIDTH) for x in vectors), *constants])
        for start in range(0, width, WIDTH)
    ]
    while len(parts) > 1:
        parts = [_join(builder, x, y) for x, y in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _lanes(builder: ir.IRBuilder, x: ir.Value, start: int, count: int) -> ir.Value:
    """Returns `count` lanes of x from `start` on."""
    places = ir.Constant(ir.VectorType(_INT32, count), list(range(start, start + count)))
    return builder.shuffle_vector(x, x, places)


def _join(builder: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """Returns the lanes of x followed by those of y."""
    count = 2 * x.type.count
    places = ir.Constant(ir.VectorType(_INT32, count), list(range(count)))
    return builder.shuffle_vector(x, y, places)


# Operands of the masked instructions: what lanes outside the mask hold, a mask of all 16 lanes, and
# "round as the CPU is set to" (_MM_FROUND_CUR_DIRECTION).
_UNDEFINED = ir.Constant(_FLOATS, ir.Undefined)
_EVERY_LANE, _CURRENT_ROUNDING = _INT16(-1), _INT32(4)


@_instructions
def fraction(typingctx: Any, x: Any) -> Any:
    """Returns x - floor(x), with AVX-512 (VREDUCEPS)."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        downwards = _INT32(1)  # how the whole part is rounded; no bits are kept after the point
        constants = downwards, _UNDEFINED, _EVERY_LANE, _CURRENT_ROUNDING
        return _avx512(context, builder, "mask.reduce", args, *constants)

    return x(x), lower


@_instructions
def times_power(typingctx: Any, x: Any, y: Any) -> Any:
    """Returns x 2^floor(y), with AVX-512 (VSCALEFPS), which overflows and underflows correctly."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return _avx512(
            context, builder, "mask.scalef", args, _UNDEFINED, _EVERY_LANE, _CURRENT_ROUNDING
        )

    return x(x, x), lower


@_instructions
def rough_reciprocal(typingctx: Any, x: Any) -> Any:
    """Returns 1 / x to 14 bits, with AVX-512 (VRCP14PS)."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return _avx512(context, builder, "rcp14", args, _UNDEFINED, _EVERY_LANE)

    return x(x), lower


@_instructions
def power_of_bits(typingctx: Any, x: Any) -> Any:
    """Returns the float32 with the lowest eight bits of x as its exponent field and fraction 0.

    The exponent field of a float32 is above 23 bits of fraction, hence the shift by 23. The ninth
    bit of x becomes the sign; callers keep x in a range where it is 0.
    """

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        floats = args[0].type
        ints = ir.VectorType(_INT32, floats.count)
        return builder.bitcast(
            builder.shl(builder.bitcast(args[0], ints), _constant(ints, 23)), floats
        )

    return x(x), lower


# ---- memory --------------------------------------------------------------------------------------


@_instructions
def pointer(typingctx: Any, array: Any) -> Any:
    """Returns a pointer to the first number of an array, which must be kept alive (see `keep`)."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return context.make_array(sig.args[0])(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), lower


@_instructions
def keep(typingctx: Any, array: Any) -> Any:
    """Does nothing, but keeps Numba from freeing the array before this call."""
    return types.void(array), lambda context, builder, sig, args: context.get_dummy_value()


@_instructions
def shift(typingctx: Any, memory: Any, offset: Any) -> Any:
    """Returns the pointer `offset` elements further on."""
    return memory(memory, types.intp), lambda context, builder, sig, args: builder.gep(
        args[0], [args[1]]
    )


@_instructions
def align(typingctx: Any, memory: Any) -> Any:
    """Returns the next address that is a multiple of 64 bytes.

    A cache line has 64 bytes, and so has a vector: from there on no vector lies in two lines.
    """

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        address = builder.add(builder.ptrtoint(args[0], _INT64), _INT64(63))
        return builder.inttoptr(builder.and_(address, _INT64(-64)), args[0].type)

    return memory(memory), lower


def _load(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type, alignment: int) -> ir.Value:
    """Loads a vector. Its alignment is that of one number, as rows may begin anywhere."""
    value = builder.load(builder.bitcast(address, kind.as_pointer()))
    value.align = alignment
    return value


def _store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, alignment: int) -> None:
    """Stores a vector, with the alignment of one number."""
    builder.store(value, builder.bitcast(address, value.type.as_pointer())).align = alignment


def _widen(builder: ir.IRBuilder, bits: ir.Value, ints: ir.Type, floats: ir.Type) -> ir.Value:
    """Returns float32 numbers from bfloat16 bits, which are the upper half of a float32."""
    return builder.bitcast(builder.shl(builder.zext(bits, ints), _constant(ints, 16)), floats)


def _narrow(builder: ir.IRBuilder, x: ir.Value, ints: ir.Type, shorts: ir.Type) -> ir.Value:
    """Returns the bfloat16 bits of float32 numbers, rounded to nearest, ties to even.

    Adding 0x7FFF carries into the upper half of the bits if the lower half is above a tie. The
    upper half's last bit is added as well, so that a tie carries if that makes the result even. (A
    NaN whose fraction is set in its low bits only would become infinity, but arithmetic makes no
    such NaN.)
    """
    bits, sixteen = builder.bitcast(x, ints), _constant(ints, 16)
    odd = builder.and_(builder.lshr(bits, sixteen), _constant(ints, 1))
    rounded = builder.add(bits, builder.add(odd, _constant(ints, 0x7FFF)))
    return builder.trunc(builder.lshr(rounded, sixteen), shorts)


@_instructions
def load(typingctx: Any, memory: Any, offset: Any) -> Any:
    """Returns the 16 numbers from `offset` on."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        address = builder.gep(args[0], [args[1]])
        if memory.dtype == types.float32:
            return _load(builder, address, _FLOATS, 4)
        return _widen(builder, _load(builder, address, _SHORTS, 2), _INTS, _FLOATS)

    return LANES(memory, types.intp), lower


@_instructions
def load_wide(typingctx: Any, memory: Any, offset: Any) -> Any:
    """Returns the 64 float32 numbers from `offset` on."""

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
    """Writes 16 float32 numbers as four rows of 4, `step` elements apart, from `offset` on."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        memory, offset, step, x = args
        for quarter in range(4):
            _store(builder, _lanes(builder, x, 4 * quarter, 4), builder.gep(memory, [offset]), 4)
            offset = builder.add(offset, step)
        return context.get_dummy_value()

    return types.void(memory, types.intp, types.intp, LANES), lower


@_instructions
def prefetch(typingctx: Any, memory: Any, offset: Any) -> Any:
    """Asks the CPU to fetch the cache line at `offset`, which need not exist."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        address = builder.bitcast(builder.gep(args[0], [args[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [address.type, _INT32, _INT32, _INT32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch")
        # To be read, into all levels of the cache, as data and not as instructions.
        read, all_levels, data = _INT32(0), _INT32(3), _INT32(1)
        builder.call(function, [address, read, all_levels, data])
        return context.get_dummy_value()

    return types.void(memory, types.intp), lower


@_instructions
def load_number(typingctx: Any, memory: Any, offset: Any) -> Any:
    """Returns the one number at `offset`."""

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


# ---- sums over lanes -----------------------------------------------------------------------------


@_instructions
def total(typingctx: Any, x: Any) -> Any:
    """Returns the sum over the 16 lanes, a plain number, always in the same order of additions.

    The upper half of the lanes is added to the lower half four times: 16 lanes, 8, 4, 2, 1.
    """

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
    """Returns Lanes whose lane i is the sum over the lanes of the i-th of 16 consecutive vectors.

    Taken singly, each vector would need four additions in which most lanes are unused. Here the
    halves of two vectors are added in one vector: 16 vectors become 8, then 4, 2 and 1, with 15
    additions in all.
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
    """Adds the two halves of each run of 2 `half` lanes, in x and in y; x's sums come first.

    For `half` = 8 the result is 8 sums of x, then 8 of y. For `half` = 4, where x and y have two
    runs each, it is 4 sums of x, 4 of y, 4 of x, 4 of y; and so on.
    """
    low: list[int] = []  # lanes of the lower halves; those of y count from WIDTH on
    for start in range(0, WIDTH, 2 * half):
        low += range(start, start + half)
        low += range(WIDTH + start, WIDTH + start + half)

    left = builder.shuffle_vector(x, y, ir.Constant(_INTS, low))
    right = builder.shuffle_vector(x, y, ir.Constant(_INTS, [i + half for i in low]))
    return builder.fadd(left, right)
