"""What kernels make of an operand that stays: packed once, and not in each call.

A template that copies an operand to another layout says so by `kept`:

    kept(w, "packed", shape, dtype, fill, body)

In general that is an array of the kernel's workspace which is filled before `body` runs. If the
operand is steady (weights of a prediction, see `passes.steady`) then filling it becomes a kernel of
its own, which runs when a weight has changed, and the array a further operand of the kernel:

    product(x, w, out)                      product_keep(w, packed)      once
      packed = w in panels           ->     product(x, w, out, packed)   each call
      out = x * packed

Whether an operand is steady a template may ask, too: what costs nothing in a call may be larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import tvm
from tvm import tirx

from . import emit
from .emit import Buffer, PrimFunc, Stmt

_MARK = "hornfels.kept"


@dataclass(frozen=True)
class Preparation:
    """A kernel that fills a kept array: its parameters are the operand and the array.

    Attributes
    ----------
    name : str
    function : PrimFunc
    operand : int
        Position of the operand among the parameters of the kernel that reads the array.
    nbytes : int
        Size of the array.
    """

    name: str
    function: PrimFunc
    operand: int
    nbytes: int


@dataclass
class _Steady:
    """The operands of the kernel that is being made which are steady, and the arrays of them."""

    operands: Sequence[Buffer] = ()
    arrays: list[tuple[Buffer, Buffer]] = field(default_factory=list)  # array, operand
    views: list[tuple[Buffer, Buffer]] = field(default_factory=list)  # view, operand

    def operand(self, array: Buffer) -> Buffer | None:
        """The operand that an array is, or is a view of."""
        seen = next((operand for view, operand in self.views if view.same_as(array)), array)
        return next((each for each in self.operands if each.same_as(seen)), None)


_STEADY: ContextVar[_Steady | None] = ContextVar("steady", default=None)


def is_steady(operand: Buffer) -> bool:
    """Whether an operand of the kernel that is being made stays from call to call."""
    steady = _STEADY.get()
    return steady is not None and steady.operand(operand) is not None


def see(operand: Buffer, view: Buffer) -> None:
    """Note that a buffer is a view of an operand, declared around all that reads it."""
    steady = _STEADY.get()
    if steady is not None:
        steady.views.append((view, operand))


def kept(
    operand: Buffer,
    name: str,
    shape: Sequence[int],
    dtype: str,
    fill: Callable[[Buffer], Stmt],
    body: Callable[[Buffer], Stmt],
) -> Stmt:
    """Declare an array that `fill` makes of one operand alone; in a loop only `keeping_nothing`.

    Parameters
    ----------
    operand : Buffer
        A parameter of the kernel, or a view that was shown to `see`.
    name, shape, dtype
        Of the array.
    fill, body : callable
        Get the array; what they return runs one after the other.
    """
    steady = _STEADY.get()
    parameter = steady.operand(operand) if steady is not None else None
    if steady is None or parameter is None:
        return emit.scratch(name, shape, dtype, lambda array: emit.seq(fill(array), body(array)))
    array = emit.buffer(name, shape, dtype)
    steady.arrays.append((array, parameter))
    return emit.seq(
        tirx.AttrStmt(array, _MARK, emit.constant(0, "int32"), fill(array)), body(array)
    )


def make_kernel(
    name: str,
    parameters: Sequence[Buffer],
    body: Callable[[], Stmt],
    *,
    steady: Sequence[int] = (),
    aliased: bool = False,
    plain: bool = False,
) -> tuple[PrimFunc, tuple[Preparation, ...]]:
    """Make a kernel, and those that fill the arrays which it keeps.

    Parameters
    ----------
    name, parameters, aliased, plain
        As in `emit.kernel`; kept arrays become further parameters behind these.
    body : callable
        Makes the loops.
    steady : sequence of int
        Positions of the parameters that are steady operands.
    """
    with _keeping([parameters[i] for i in steady]) as found:
        loops = body()
    if not found.arrays:
        return emit.kernel(name, parameters, loops, aliased=aliased, plain=plain), ()
    arrays, preparations = [], []
    loops, fills = _apart(loops, lambda statement: statement)
    for number, (array, fill) in enumerate(fills):
        operand = next(operand for each, operand in found.arrays if each.same_as(array))
        place = next(i for i in steady if parameters[i].same_as(operand))
        called = f"{name}_keep{number}"
        filling = emit.kernel(called, (operand, array), fill)
        preparations.append(Preparation(called, filling, place, _nbytes(array)))
        arrays.append(array)
    function = emit.kernel(name, (*parameters, *arrays), loops, aliased=aliased, plain=plain)
    return function, tuple(preparations)


@contextmanager
def keeping_nothing() -> Iterator[None]:
    """In the body of a loop, arrays are others in each turn."""
    token = _STEADY.set(None)
    try:
        yield
    finally:
        _STEADY.reset(token)


@contextmanager
def _keeping(operands: Sequence[Buffer]) -> Iterator[_Steady]:
    steady = _Steady(operands)
    token = _STEADY.set(steady)
    try:
        yield steady
    finally:
        _STEADY.reset(token)


_Around = Callable[[Stmt], Stmt]


def _apart(statement: Stmt, around: _Around) -> tuple[Stmt, list[tuple[Buffer, Stmt]]]:
    """Statements without those that fill kept arrays, and these.

    `around` puts the declarations of views and the imports in force here around a statement.
    """
    fills: list[tuple[Buffer, Stmt]] = []
    if isinstance(statement, tirx.SeqStmt):
        parts = []
        for part in statement.seq:
            if isinstance(part, tirx.DeclBuffer):
                around = _after(part, around)
            rest, found = _apart(part, around)
            fills += found
            parts.append(rest)
        return (emit.seq(*parts), fills) if fills else (statement, [])
    if not isinstance(statement, tirx.AttrStmt):
        return statement, []
    if statement.attr_key == _MARK:
        return emit.NOTHING, [(statement.node, around(statement.body))]
    attribute = statement

    def inside(body: Stmt) -> Stmt:
        return around(_with_body(attribute, body))

    body, fills = _apart(statement.body, inside)
    return (_with_body(statement, body), fills) if fills else (statement, [])


def _after(declaration: tirx.DeclBuffer, around: _Around) -> _Around:
    def declared(statement: Stmt) -> Stmt:
        read = tirx.analysis.undefined_vars(statement, [])
        is_read = any(each.same_as(declaration.buffer) for each in read)
        return around(emit.seq(declaration, statement) if is_read else statement)

    return declared


def _with_body(attribute: tirx.AttrStmt, body: Stmt) -> Stmt:
    return tirx.AttrStmt(attribute.node, attribute.attr_key, attribute.value, body)


def _nbytes(array: Buffer) -> int:
    element = max(1, tvm.DataType(emit.dtype_of(array)).bits // 8)
    return math.prod(emit.shape_of(array)) * element
