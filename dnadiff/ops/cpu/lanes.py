"""Sixteen float32 numbers side by side: the type that every CPU kernel computes with.

Numba leaves it to LLVM to find the loops that can run on vectors, and in a recurrence LLVM finds none. Here the vectors
are written out: a value of type `Lanes` is LLVM's <16 x float>, which is one register with AVX-512, two with AVX2 and
four with NEON; LLVM does that split, so one text serves all machines. Inside a kernel + - * / take Lanes, and plain
numbers among them stand for the same number in each lane.

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
_FLOAT, _INT16, _INT32, _INT64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_FLOATS, _INTS, _SHORTS = (ir.VectorType(element, WIDTH) for element in (_FLOAT, _INT32, _INT16))


_instructions: Any = intrinsic  # a type checker would count `typingctx` among the arguments


class LanesType(types.Type):
    """Numba's view of the vector."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")

    def can_convert_from(self, typingctx: Any, other: types.Type) -> Conversion | None:
        """Lets a plain number stand where Lanes are expected."""
        return Conversion.safe if isinstance(other, (types.Float, types.Integer)) else None


LANES = LanesType()


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: types.Type) -> None:
        super().__init__(manager, numba_type, _FLOATS)


def _constant(kind: ir.Type, number: int) -> ir.Constant:
    return ir.Constant(kind, [number] * WIDTH if isinstance(kind, ir.VectorType) else number)


def _fill(builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    first = builder.insert_element(undefined, number, _INT32(0))
    return builder.shuffle_vector(first, undefined, _constant(_INTS, 0))


@lower_cast(types.Float, LANES)
@lower_cast(types.Integer, LANES)
def _cast(context: Any, builder: ir.IRBuilder, source: types.Type, target: types.Type, number: ir.Value) -> ir.Value:
    return _fill(builder, context.cast(builder, number, source, types.float32))


def _define_operator(symbol: Callable, emit: Callable[..., ir.Value]) -> None:
    """Gives a Python operator its meaning on Lanes: the instruction that `emit` writes."""

    @infer_global(symbol)
    class _Template(ConcreteTemplate):
        cases = (signature(LANES, LANES, LANES),)

    @lower_builtin(symbol, LANES, LANES)
    def _lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return emit(builder, *args)


_define_operator(operator.add, ir.IRBuilder.fadd)
_define_operator(operator.sub, ir.IRBuilder.fsub)
_define_operator(operator.mul, ir.IRBuilder.fmul)
_define_operator(operator.truediv, ir.IRBuilder.fdiv)


def _llvm(builder: ir.IRBuilder, name: str, *args: ir.Value) -> ir.Value:
    """Calls an intrinsic function of LLVM that takes and returns vectors."""
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * len(args))
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v16f32"), args)


@_instructions
def fma(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
    """The sum x y + z, in one instruction where the CPU has it."""
    return LANES(LANES, LANES, LANES), lambda context, builder, sig, args: _llvm(builder, "fmuladd", *args)


@_instructions
def absolute(typingctx: Any, x: Any) -> Any:
    """|x|."""
    return LANES(LANES), lambda context, builder, sig, args: _llvm(builder, "fabs", *args)


@_instructions
def where_greater(typingctx: Any, x: Any, y: Any, yes: Any, no: Any) -> Any:
    """Lane by lane `yes` where x > y, `no` elsewhere (also where x or y is not a number)."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        x, y, yes, no = args
        return builder.select(builder.fcmp_ordered(">", x, y), yes, no)

    return LANES(LANES, LANES, LANES, LANES), lower


# 2^(x y), in steps for `dnadiff.ops.cpu.functions.exp2_product`. AVX-512 has instructions that round, and that multiply
# by a power of two with all the right ends. Elsewhere 1.5 * 2^23 is added, which rounds to a whole number and leaves it
# in the lowest bits; with 127 more, and kept between 0 and 255, those bits are the exponent field of the power of two,
# 0 standing for zero and 255 for infinity. Such a number is called `whole` below.
_ROUND = 1.5 * 2**23 + 127


def _floats(number: float) -> ir.Constant:
    return ir.Constant(_FLOATS, [number] * WIDTH)


def _has_avx512(context: Any) -> bool:
    """Whether the machine that Numba compiles for has AVX-512."""
    return "+avx512f" in context.codegen().magic_tuple()[2]


@_instructions
def whole_product(typingctx: Any, x: Any, y: Any) -> Any:
    """The whole number next to x y."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        if _has_avx512(context):
            return _llvm(builder, "rint", builder.fmul(*args))
        whole, least, most = (
            _llvm(builder, "fmuladd", *args, _floats(_ROUND)),
            _floats(_ROUND - 127),
            _floats(_ROUND + 128),
        )
        whole = builder.select(builder.fcmp_ordered("<", whole, least), least, whole)  # NaN stays
        return builder.select(builder.fcmp_ordered(">", whole, most), most, whole)

    return LANES(LANES, LANES), lower


@_instructions
def minus(typingctx: Any, whole: Any) -> Any:
    """What a whole number stands for, with the opposite sign."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.fneg(args[0]) if _has_avx512(context) else builder.fsub(_floats(_ROUND), args[0])

    return LANES(LANES), lower


@_instructions
def times_power(typingctx: Any, x: Any, whole: Any) -> Any:
    """The product x 2^k, where k is the whole number."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        if not _has_avx512(context):
            power = builder.shl(builder.bitcast(args[1], _INTS), _constant(_INTS, 23))
            return builder.fmul(args[0], builder.bitcast(power, _FLOATS))
        kind = ir.FunctionType(_FLOATS, [_FLOATS, _FLOATS, _FLOATS, _INT16, _INT32])
        scale = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.mask.scalef.ps.512")
        every, current_rounding = _INT16(-1), _INT32(4)
        return builder.call(scale, [*args, ir.Constant(_FLOATS, ir.Undefined), every, current_rounding])

    return LANES(LANES, LANES), lower


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
    return memory(memory, types.intp), lambda context, builder, sig, args: builder.gep(args[0], [args[1]])


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
def store(typingctx: Any, memory: Any, offset: Any, x: Any) -> Any:
    """Writes the 16 numbers x from `offset` on."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        address = builder.gep(args[0], [args[1]])
        if memory.dtype == types.float32:
            _store(builder, args[2], address, 4)
        else:
            _store(builder, _narrow(builder, args[2], _INTS, _SHORTS), address, 2)
        return context.get_dummy_value()

    return types.void(memory, types.intp, LANES), lower


@_instructions
def prefetch(typingctx: Any, memory: Any, offset: Any) -> Any:
    """Starts to bring the memory at `offset` near, if there is any: the address need not exist."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        address = builder.bitcast(builder.gep(args[0], [args[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [address.type, _INT32, _INT32, _INT32])
        read, keep, data = _INT32(0), _INT32(3), _INT32(1)
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch"), [address, read, keep, data])
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
        value = args[2] if memory.dtype == types.float32 else _narrow(builder, args[2], _INT32, _INT16)
        builder.store(value, builder.gep(args[0], [args[1]]))
        return context.get_dummy_value()

    return types.void(memory, types.intp, types.float32), lower


@_instructions
def total(typingctx: Any, x: Any) -> Any:
    """The sum over the 16 lanes, a plain number; always the same order of additions."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        x = args[0]
        for half in (8, 4, 2, 1):
            upper = builder.shuffle_vector(x, x, ir.Constant(_INTS, [(i + half) % WIDTH for i in range(WIDTH)]))
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
        rows = [_load(builder, builder.gep(base, [_INT64(WIDTH * i)]), _FLOATS, 4) for i in range(WIDTH)]
        for half in (8, 4, 2, 1):
            rows = [_add_halves(builder, x, y, half) for x, y in zip(rows[:half], rows[half:], strict=True)]
        return rows[0]

    return LANES(memory, types.intp), lower


def _add_halves(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, half: int) -> ir.Value:
    """In each run of 2 `half` lanes: the two halves of x added, then the two halves of y added."""
    starts = range(0, WIDTH, 2 * half)
    low = [side + start + i for start in starts for side in (0, WIDTH) for i in range(half)]
    left = builder.shuffle_vector(x, y, ir.Constant(_INTS, low))
    right = builder.shuffle_vector(x, y, ir.Constant(_INTS, [i + half for i in low]))
    return builder.fadd(left, right)
