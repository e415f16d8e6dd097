"""Loop nests under construction: every expression is computed once, in the outermost loop it can.

A `Nest` is a stack of scopes, one for the kernel's beginning and one for each open loop. `bind`
puts an expression into the scope of the innermost loop that it depends on; equal expressions in
one scope share a variable. So loop-invariant work leaves the loops, and a value that is used
twice is computed once, without a pass that has to find out.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm import tirx
from tvm.ir import TensorLoad
from tvm.tirx import ForKind

from . import index as ix
from .emit import Buffer, Expr, Stmt, buffer, is_nothing, seq, split_range, stack_array
from .emit import lane as emit_lane
from .index import Index, Indices

_NUMBERS = (tirx.IntImm, tirx.FloatImm)


@dataclass
class _Scope:
    lane: Expr | None = None  # the variable of a vectorized loop over `lanes`
    lanes: int = 1
    statements: list[Stmt] = field(default_factory=list)
    known: dict[Hashable, Any] = field(default_factory=dict)


class Nest:
    """The statements of a kernel, from outside in."""

    def __init__(self, *, inline: bool = False, narrows: frozenset[int] = frozenset()) -> None:
        self._scopes = [_Scope()]
        self.inline = inline
        self.narrows = narrows
        """Lanes of vectors that one instruction rounds to bf16."""
        self.needs_memory = False
        """Whether something was to be written out that is right only if it goes through memory."""

    @staticmethod
    def inside_lanes(*, inline: bool, narrows: frozenset[int] = frozenset()) -> Nest:
        """A nest for the body of the innermost loop that `emit` is making.

        `inline` writes expressions out where they are used, for bodies of a few operations.
        """
        nest = Nest(inline=inline, narrows=narrows)
        lane, lanes = emit_lane()
        if lanes > 1:
            nest._scopes[0] = _Scope(lane, lanes)
        return nest

    @property
    def level(self) -> int:
        """Depth of the innermost open scope; 0 is the beginning of the kernel."""
        return len(self._scopes) - 1

    def emit(self, *statements: Stmt) -> None:
        """Append to the innermost open scope."""
        self._scopes[-1].statements.extend(s for s in statements if not is_nothing(s))

    def bind(self, value: Expr, level: int, name: str = "v") -> Expr:
        """Compute `value` once in the scope at `level`.

        Other than loads are passed through an array on the stack: TVM's analyzer replaces every
        variable by what it is bound to, which takes exponential time in a chain of variables
        that are used twice, but does not look into memory. LLVM takes the arrays away.
        """
        if self.inline:
            return value
        if not isinstance(value, TensorLoad):
            value = self._through_stack(value, level)
        variable = tirx.Var(name, value.ty)
        self._scopes[level].statements.append(tirx.Bind(variable, value))
        return variable

    def in_memory(self, value: Expr, level: int) -> Expr:
        """`value` for a call of the C library: lanes are split there, and a lane of a vector is
        found again in memory only."""
        if self._scopes[level].lane is None or isinstance(value, _NUMBERS):
            return value
        if self.inline:
            self.needs_memory = True
            return value
        return self._through_stack(value, level)

    def lanes_at(self, level: int) -> int:
        """Lanes of the loop at `level`, 1 if it is no vector."""
        return self._scopes[level].lanes

    def in_vector(self, value: Expr, level: int) -> Expr | None:
        """`value` in a form that is a vector where the loop at `level` is one, for instructions
        that there are for vectors of `narrows` alone; None where it would not be one."""
        scope = self._scopes[level]
        if scope.lane is None or scope.lanes not in self.narrows:
            return None
        if not self.inline:
            return self._through_stack(value, level)
        return value if _mentions(value, scope.lane) else None

    def _through_stack(self, value: Expr, level: int) -> Expr:
        scope = self._scopes[level]
        array = stack_array("t", (scope.lanes,), str(value.ty))
        holder = scope if scope.lane is None or level == 0 else self._scopes[level - 1]
        holder.statements.append(tirx.AllocBuffer(array))
        place = [_int(0) if scope.lane is None else scope.lane]
        scope.statements.append(tirx.BufferStore(array, value, place))
        return tirx.BufferLoad(array, place)

    def find(self, key: Hashable) -> Any | None:
        """What `remember` stored under `key` in a scope that is still open."""
        for scope in reversed(self._scopes):
            found = scope.known.get(key)
            if found is not None:
                return found
        return None

    def remember(self, key: Hashable, level: int, what: Any) -> None:
        """Store until the scope at `level` closes."""
        self._scopes[level].known[key] = what

    def variable(self, value: Expr, low: int, high: int, level: int | None = None) -> Index:
        """An index that is `value`, known to lie in `low` ... `high`."""
        return ix.of(ix.Loop(value, low, high, self.level if level is None else level))

    def known(self, value: Expr | int) -> Expr:
        """A number, computed once in the innermost open scope."""
        if isinstance(value, int):
            return _int(value)
        return self.bind(value, self.level)

    def hold(self, index: Index) -> Index:
        """The same index, computed once in the innermost open scope."""
        if index.is_constant:
            return index
        return self.variable(self.known(index.expression()), index.low, index.high)

    def local(self, dtype: str, size: int) -> Buffer:
        """A small array on the stack, in registers where every index is a constant."""
        array = stack_array("local", (size,), dtype)
        self.emit(tirx.AllocBuffer(array))
        return array

    def scratch(self, dtype: str, size: int) -> Buffer:
        """An array in the kernel's workspace, declared at the kernel's beginning."""
        array = buffer("scratch", (size,), dtype)
        self._scopes[0].statements.append(tirx.AllocBuffer(array))
        return array

    def _block(self, body: Callable[[], None], scope: _Scope) -> Stmt:
        """The statements that `body` emits, in a scope of their own."""
        self._scopes.append(scope)
        body()
        return seq(*self._scopes.pop().statements)

    def loop(
        self,
        extent: int,
        body: Callable[[Index], None],
        kind: ForKind = ForKind.SERIAL,
        name: str = "i",
    ) -> None:
        """Emit a loop over 0 ... extent-1; none for an extent of 0, its body alone for 1."""
        if extent == 1:
            body(ix.ZERO)
        elif extent > 1:
            self.span(ix.number(0).expression(), _int(extent), (0, extent - 1), body, kind, name)

    def span(
        self,
        start: Expr,
        length: Expr,
        bounds: tuple[int, int],
        body: Callable[[Index], None],
        kind: ForKind = ForKind.SERIAL,
        name: str = "i",
    ) -> None:
        """Emit a loop over start ... start+length-1, which lies within `bounds` (inclusive)."""
        variable = tirx.Var(name, "int32")
        index = ix.of(ix.Loop(variable, *bounds, self.level + 1))
        lane, lanes = (None, 1) if kind != ForKind.VECTORIZED else (variable, bounds[1] + 1)
        inner = self._block(lambda: body(index), _Scope(lane, lanes))
        if not is_nothing(inner):
            self.emit(tirx.For(variable, start, length, kind, inner))

    def lanes(self, count: int, body: Callable[[Index], None]) -> None:
        """Emit a vectorized loop over `count` lanes."""
        self.loop(count, body, ForKind.VECTORIZED, "lane")

    def strips(self, extent: int, lanes: int, body: Callable[[Index], None]) -> None:
        """Cover 0 ... extent-1 by vectors of `lanes` and one shorter vector."""
        whole = extent // lanes
        self.loop(
            whole,
            lambda s: self.lanes(lanes, lambda lane: body(s * lanes + lane)),
            name="strip",
        )
        self.lanes(extent - whole * lanes, lambda lane: body(lane + whole * lanes))

    def finish(self) -> Stmt:
        """The whole body."""
        assert self.level == 0
        return seq(*self._scopes[0].statements)


def loops(
    nest: Nest, sizes: Sequence[int], body: Callable[[Indices], None], at: Indices = ()
) -> None:
    """Serial loops over `sizes`, the first outermost."""
    if len(at) == len(sizes):
        body(at)
    else:
        nest.loop(sizes[len(at)], lambda i: loops(nest, sizes, body, (*at, i)), name=f"i{len(at)}")


def spread(nest: Nest, extent: int, tasks: int, body: Callable[[Index], None]) -> None:
    """Loop over 0 ... extent-1, in contiguous runs on several threads."""
    tasks = min(tasks, extent)

    def task(number: Index) -> None:
        start, length = split_range(extent, tasks, number.expression())
        nest.span(_bound(nest, start), _bound(nest, length), (0, extent - 1), body)

    nest.loop(tasks, task, ForKind.PARALLEL, "task")


def _bound(nest: Nest, value: Expr | int) -> Expr:
    if isinstance(value, int):
        return ix.number(value).expression()
    return nest.bind(value, nest.level, "range")


def _mentions(value: Expr, variable: Expr) -> bool:
    """Whether an expression of a few nodes depends on a variable."""
    if value.same_as(variable):
        return True
    names = ("a", "b", "value", "condition", "true_value", "false_value", "base")
    parts = [getattr(value, name, None) for name in names]
    parts += [*getattr(value, "args", ()), *getattr(value, "indices", ())]
    return any(isinstance(part, Expr) and _mentions(part, variable) for part in parts)


def _int(value: int) -> Expr:
    return tirx.IntImm("int32", value)
