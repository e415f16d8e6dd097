"""Proposals for control flow: bodies are random graphs of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir.builder import constant
from ..ir.errors import HornfelsError
from ..ir.graph import Graph, Value
from ..ir.op import REGISTRY, Op, get
from ..ir.types import TensorType, boolean, i32
from .pool import Pool
from .proposals import propose, proposes

_UNFIT = frozenset({"scan", "while", "cond", "custom_gradient", "rng_bits"})
"""Ops that bodies do not hold: control flow within control flow is rare and costs much."""


class _Body:
    """A body that grows: its inputs, and values made of them."""

    def __init__(self, p: Pool, name: str, types: Sequence[TensorType]) -> None:
        self.p = Pool(p.rng, p.seed, closed=True, wide=p.wide)
        self.p.builder.name = name
        self.types = types
        self.inputs: list[Value] = []

    def start(self, arrays: Sequence[np.ndarray]) -> None:
        """Declare the inputs, with the numbers of the first step."""
        for i, (type, array) in enumerate(zip(self.types, arrays, strict=True)):
            value = self.p.builder.input(f"b{i}", type)
            self.inputs.append(self.p.given(value, array))

    def grow(self, steps: int) -> None:
        names = [n for n in REGISTRY if n not in _UNFIT]
        if self.p.chance(0.9):
            names = [n for n in names if REGISTRY[n].kind in ("elementwise", "reduce", "index")]
        for _ in range(4 * steps):
            if len(self.p.values) >= len(self.inputs) + steps:
                return
            try:
                outputs = propose(self.p, REGISTRY[self.p.pick(names)])
            except HornfelsError:
                continue
            for v in outputs or ():
                self.p.keep(v)

    def result(self, type: TensorType) -> Value:
        """A value of a type that stays in bounds however often the body runs."""
        value = self.p.need(type)
        return get("tanh")(value) if type.dtype.is_float and self.p.chance(0.8) else value

    def finish(self, outputs: Sequence[Value]) -> Graph:
        return self.p.builder.finish({f"r{i}": v for i, v in enumerate(outputs)})


def _grown(
    p: Pool, name: str, operands: Sequence[TensorType], arrays: Sequence[np.ndarray],
    wanted: Sequence[TensorType], more: int,
) -> Graph:  # fmt: skip
    """A body that returns the wanted types, and some values more."""
    body = _Body(p, name, operands)
    with body.p.builder, body.p.quiet():
        body.start(arrays)
        body.grow(p.between(1, 4))
        outputs = [body.result(t) for t in wanted]
        outputs += [p.pick(body.p.values) for _ in range(more)]
        return body.finish(outputs)


def _some(p: Pool, count: int) -> list[Value]:
    found = []
    for _ in range(count):
        type = TensorType(p.dtype(), p.shape(p.between(0, 2)))
        found.append(p.some(lambda v: v.ndim <= 3, type))
    return found


@proposes("scan")
def _scan(p: Pool, op: Op) -> Sequence[Value]:
    length = p.pick((0, 1, 2, 3, 5), (0.08, 0.2, 0.3, 0.3, 0.12))
    carries, shared = _some(p, p.between(0, 2)), _some(p, p.between(0, 2))
    slices = [TensorType(p.dtype(), p.shape(p.between(0, 2))) for _ in range(p.between(0, 2))]
    xs = [p.need(t.with_shape((length, *t.shape))) for t in slices]
    arrays = [p.array(v) for v in carries]
    arrays += [
        p.array(x)[0] if length else np.zeros(x.shape[1:], x.dtype.numpy)  # type: ignore[arg-type]
        for x in xs
    ]
    arrays += [p.array(v) for v in shared]
    types = [*(v.type for v in carries), *slices, *(v.type for v in shared)]
    more = p.between(0 if carries else 1, 2)
    if not types:
        return [p.number(i32())]
    body = _grown(p, "step", types, arrays, [v.type for v in carries], more)
    return op.all(*carries, *xs, *shared, body=body, carry=len(carries), stacked=len(xs),
                  length=length, reverse=p.chance(0.4),
                  gradient=p.pick(("store", "recompute")))  # fmt: skip


@proposes("while")
def _while(p: Pool, op: Op) -> Sequence[Value]:
    """Counts to a small number; what else it carries is random."""
    carries, shared = _some(p, p.between(0, 2)), _some(p, p.between(0, 1))
    start = constant(np.asarray(p.between(-1, 2)), i32)
    end = p.need(i32(), (0, 4))
    operands = [start, *carries, end, *shared]
    types = [v.type for v in operands]
    last = 1 + len(carries)
    test = _Body(p, "condition", types)
    with test.p.builder, test.p.quiet():
        test.start([p.array(v) for v in operands])
        condition = test.finish([test.inputs[0] < test.inputs[last]])
    inner = _grown(p, "body", types, [p.array(v) for v in operands], [v.type for v in carries], 0)
    body = _Body(p, "body", types)
    with body.p.builder, body.p.quiet():
        body.start([p.array(v) for v in operands])
        counted = body.inputs[0] + 1
        body_graph = body.finish([counted, *inner.inline(*body.inputs)])
    return op.all(*operands, condition=condition, body=body_graph, carry=last)


@proposes("cond")
def _cond(p: Pool, op: Op) -> Sequence[Value]:
    operands = _some(p, p.between(1, 3))
    predicate = p.need(boolean())
    if p.chance(0.5):
        scalars = [v for v in p.values if v.ndim == 0 and v.dtype.is_float]
        if scalars:
            predicate = p.pick(scalars) > 0.1
    types, arrays = [v.type for v in operands], [p.array(v) for v in operands]
    then = _grown(p, "then", types, arrays, [], p.between(1, 2))
    wanted = [v.type for v in then.outputs]
    otherwise = _grown(p, "otherwise", types, arrays, wanted, 0)
    return op.all(predicate, *operands, then=then, otherwise=otherwise)
