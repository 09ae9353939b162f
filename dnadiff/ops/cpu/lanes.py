"""Sixteen float32 numbers side by side: the type that every CPU kernel computes with.

Numba leaves it to LLVM to find the loops that can run on vectors, and in a recurrence LLVM finds none. Here the vectors
are written out: a value of type `Lanes` is LLVM's <16 x float>, which is one register with AVX-512, two with AVX2 and
four with NEON; LLVM does that split, so one text serves all machines. Inside a kernel + - * / take Lanes, and plain
numbers among them stand for the same number in each lane.

Memory is addressed as (one-dimensional array, offset in elements). An array of float32 holds numbers as they are; one
of int16 holds the bits of bfloat16 numbers, widened when loaded and rounded to the nearest (even) when stored.
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
_FLOAT, _INT32, _INT16 = ir.FloatType(), ir.IntType(32), ir.IntType(16)
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


def _fill(builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    first = builder.insert_element(undefined, number, _INT32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_INTS, [0] * WIDTH))


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


@_instructions
def add_to_exponent(typingctx: Any, x: Any, k: Any) -> Any:
    """The product x 2^k, where k is a whole number in the lowest bits of its lane (see `dnadiff.ops.cpu.functions.exp2_product`)."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        x, k = args
        power = builder.shl(builder.bitcast(k, _INTS), ir.Constant(_INTS, [23] * WIDTH))
        return builder.fmul(x, builder.bitcast(power, _FLOATS))

    return LANES(LANES, LANES), lower


def _address(context: Any, builder: ir.IRBuilder, array_type: Any, array: ir.Value, offset: ir.Value) -> ir.Value:
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])


def _load(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type, alignment: int) -> ir.Value:
    value = builder.load(builder.bitcast(address, kind.as_pointer()))
    value.align = alignment
    return value


def _store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, alignment: int) -> None:
    builder.store(value, builder.bitcast(address, value.type.as_pointer())).align = alignment


def _widen(builder: ir.IRBuilder, bits: ir.Value, ints: ir.Type, floats: ir.Type) -> ir.Value:
    """The numbers whose bfloat16 bits are given."""
    return builder.bitcast(builder.shl(builder.zext(bits, ints), ir.Constant(ints, _every(ints, 16))), floats)


def _every(kind: ir.Type, number: int) -> int | list[int]:
    return [number] * WIDTH if isinstance(kind, ir.VectorType) else number


def _narrow(builder: ir.IRBuilder, x: ir.Value, ints: ir.Type, shorts: ir.Type) -> ir.Value:
    """The bfloat16 bits of numbers, rounded to the nearest, ties to even."""
    bits = builder.bitcast(x, ints)
    constant = lambda number: ir.Constant(ints, _every(ints, number))  # noqa: E731
    odd = builder.and_(builder.lshr(bits, constant(16)), constant(1))
    rounded = builder.add(bits, builder.add(odd, constant(0x7FFF)))
    return builder.trunc(builder.lshr(rounded, constant(16)), shorts)


@_instructions
def load(typingctx: Any, array: Any, offset: Any) -> Any:
    """The 16 numbers from `offset` on."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        address = _address(context, builder, sig.args[0], *args)
        if array.dtype == types.float32:
            return _load(builder, address, _FLOATS, 4)
        return _widen(builder, _load(builder, address, _SHORTS, 2), _INTS, _FLOATS)

    return LANES(array, types.intp), lower


@_instructions
def store(typingctx: Any, array: Any, offset: Any, x: Any) -> Any:
    """Writes the 16 numbers x from `offset` on."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        address = _address(context, builder, sig.args[0], *args[:2])
        if array.dtype == types.float32:
            _store(builder, args[2], address, 4)
        else:
            _store(builder, _narrow(builder, args[2], _INTS, _SHORTS), address, 2)
        return context.get_dummy_value()

    return types.void(array, types.intp, LANES), lower


@_instructions
def load_number(typingctx: Any, array: Any, offset: Any) -> Any:
    """The one number at `offset`."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        bits = builder.load(_address(context, builder, sig.args[0], *args))
        return bits if array.dtype == types.float32 else _widen(builder, bits, _INT32, _FLOAT)

    return types.float32(array, types.intp), lower


@_instructions
def store_number(typingctx: Any, array: Any, offset: Any, x: Any) -> Any:
    """Writes the one number x at `offset`."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        value = args[2] if array.dtype == types.float32 else _narrow(builder, args[2], _INT32, _INT16)
        builder.store(value, _address(context, builder, sig.args[0], *args[:2]))
        return context.get_dummy_value()

    return types.void(array, types.intp, types.float32), lower


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
def total_each(typingctx: Any, array: Any, offset: Any) -> Any:
    """Lane i of the result is the sum over the lanes of the i-th of 16 vectors that lie one after the other.

    The vectors are added in pairs whose lanes interleave, so that 15 additions do the work of 16 x 15.
    """

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        base = _address(context, builder, sig.args[0], *args)
        rows = [_load(builder, builder.gep(base, [ir.IntType(64)(WIDTH * i)]), _FLOATS, 4) for i in range(WIDTH)]
        for half in (8, 4, 2, 1):
            rows = [_add_halves(builder, x, y, half) for x, y in zip(rows[:half], rows[half:], strict=True)]
        return rows[0]

    return LANES(array, types.intp), lower


def _add_halves(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, half: int) -> ir.Value:
    """In each run of 2 `half` lanes: the two halves of x added, then the two halves of y added."""
    starts = range(0, WIDTH, 2 * half)
    low = [side + start + i for start in starts for side in (0, WIDTH) for i in range(half)]
    left = builder.shuffle_vector(x, y, ir.Constant(_INTS, low))
    right = builder.shuffle_vector(x, y, ir.Constant(_INTS, [i + half for i in low]))
    return builder.fadd(left, right)
