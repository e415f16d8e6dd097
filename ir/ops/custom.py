"""A gradient of the user's own, written down as a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..builder import Builder
from ..errors import ArgumentError, ShapeError
from ..graph import Graph, Value
from ..op import Op, Reason, case, define, reject
from ..sugar import zeros_like
from ..types import TensorType, f64

Shares = list["Value | Reason | None"]

_CLOSED_OVER = Reason(
    "the function with this gradient reads a tensor that is none of its arguments; pass it as one"
)


def _type(
    *operands: TensorType, backward: Graph, outputs: int, residuals: int, arguments: int,
    wrt: Sequence[int],
) -> tuple[TensorType, ...]:  # fmt: skip
    if not isinstance(backward, Graph) or backward.state or backward.updates:
        raise ArgumentError("custom_gradient: backward must be a graph without state")
    least = outputs + residuals + arguments
    if outputs < 1 or len(operands) < least or any(not 0 <= i < arguments for i in wrt):
        raise ArgumentError(
            f"custom_gradient: there must be an output and {least} operands, got outputs={outputs} "
            f"and {len(operands)}, and wrt must count arguments, got {tuple(wrt)}"
        )
    results = operands[:outputs]
    taken = (*operands[outputs : outputs + residuals], *(t for t in results if t.dtype.is_float))
    found = tuple(v.type for v in backward.inputs)
    if found != taken:
        raise ShapeError(f"custom_gradient: backward must take {_list(taken)}, got {_list(found)}")
    wanted = tuple(operands[outputs + residuals + i] for i in wrt)
    given = tuple(v.type for v in backward.outputs)
    if given != wanted:
        raise ShapeError(
            f"custom_gradient: backward must return {_list(wanted)}, got {_list(given)}"
        )
    return tuple(results)


def _list(types: Sequence[TensorType]) -> str:
    return f"({', '.join(map(str, types))})"


def _numpy(*operands: np.ndarray, outputs: int, **_: Any) -> tuple[np.ndarray, ...]:
    return operands[:outputs]


def _vjp(
    g: Any, *operands: Value, out: Any, backward: Graph, outputs: int, residuals: int,
    arguments: int, wrt: Sequence[int],
) -> Shares:  # fmt: skip
    cotangents = g if isinstance(g, tuple) else (g,)
    fed = [
        zeros_like(v) if c is None else c
        for v, c in zip(operands[:outputs], cotangents, strict=True)
        if v.dtype.is_float
    ]
    first = outputs + residuals
    found = backward.inline(*operands[outputs:first], *fed)
    last = first + arguments
    shares: Shares = [*[None] * last, *[_CLOSED_OVER] * (len(operands) - last)]
    for i, share in zip(wrt, found, strict=True):
        shares[first + i] = share
    return shares


def _sample() -> Graph:
    """Twice the cotangent, times a residual."""
    with Builder("backward") as b:
        kept, upstream = b.input("kept", f64(3)), b.input("upstream", f64(3))
        return b.finish({"dx": upstream * kept * 2})


_BACKWARD = _sample()

custom_gradient = define(Op(
    name="custom_gradient",
    doc="""The first `outputs` operands, with a gradient of their own. `residuals` operands
    follow, which `backward` reads before the cotangents of the floating-point outputs, then
    `arguments`: `backward` returns the cotangents of those that `wrt` counts, and nothing flows
    to the others. The operands after these were read without being arguments, and a gradient
    with respect to them is refused. Once no derivatives are taken any more, the operation is an
    identity and is erased.""",
    kind="opaque",
    type=_type, numpy=_numpy, vjp=_vjp,
    onnx=Reason("it is erased before graphs are lowered"),
    samples=[
        case(f64(3), f64(3), f64(3), backward=_BACKWARD, outputs=1, residuals=1,
             arguments=1, wrt=(0,), differentiable=False),
    ],
    rejects=[
        reject(f64(3), f64(3), f64(4), backward=_BACKWARD, outputs=1, residuals=1,
               arguments=1, wrt=(0,),
               error="custom_gradient: backward must return (f64[4]), got (f64[3])"),
        reject(f64(3), f64(2), f64(3), backward=_BACKWARD, outputs=1, residuals=1,
               arguments=1, wrt=(0,),
               error="custom_gradient: backward must take (f64[2], f64[3]), "
                     "got (f64[3], f64[3])"),
        reject(f64(3), f64(3), backward=_BACKWARD, outputs=1, residuals=1,
               arguments=1, wrt=(0,),
               error="custom_gradient: there must be an output and 3 operands, "
                     "got outputs=1 and 2, and wrt must count arguments, got (0,)"),
    ],
))  # fmt: skip


def erase_gradient_rules(graph: Graph) -> Graph:
    """The graph, and the bodies in it, without the rules that only differentiation needs.

    %0 = log(%x)
    %1 = custom_gradient[backward=..., outputs=1, ...](%0, %kept, %x)     ->    %0 = log(%x)
    """

    def visit(node: Any, inputs: tuple[Value, ...]) -> Sequence[Value] | None:
        if node.op is custom_gradient:
            return inputs[: node.attrs["outputs"]]
        regions = node.regions
        erased = {name: erase_gradient_rules(region) for name, region in regions.items()}
        if all(erased[name] is region for name, region in regions.items()):
            return None
        outputs: Sequence[Value] = node.op.all(*inputs, **{**node.attrs, **erased})
        return outputs

    return graph.rebuild(visit) if _has_rules(graph) else graph


def _has_rules(graph: Graph) -> bool:
    return any(
        node.op is custom_gradient or any(map(_has_rules, node.regions.values()))
        for node in graph.nodes
    )
