"""Control flow: `scan`, `while` and `cond`, whose bodies are graphs in their attributes.

A body is closed: it sees its own inputs alone, so what it needs of the surrounding graph comes
in as an operand, the same in every step. Bodies have neither state nor updates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..builder import Builder
from ..errors import ArgumentError, DTypeError, ShapeError
from ..evaluate import run_region
from ..graph import Graph
from ..op import Op, Reason, case, define, reject
from ..types import Size, TensorType, boolean, f32, i32
from .common import N

# --- type rules ------------------------------------------------------------------------------


def _require_region(op: str, name: str, region: Graph, operands: Sequence[TensorType]) -> None:
    """Refuse a body that is not closed or does not take the operands."""
    if not isinstance(region, Graph):
        raise ArgumentError(f"{op}: {name} must be a graph, got {region!r}")
    if region.state or region.updates:
        raise ArgumentError(f"{op}: {name} must have neither state nor updates")
    found = tuple(v.type for v in region.inputs)
    if found != tuple(operands):
        raise ShapeError(f"{op}: {name} must take {_list(operands)}, got {_list(found)}")


def _require_outputs(op: str, name: str, region: Graph, types: Sequence[TensorType]) -> None:
    """Refuse a body whose first outputs are not of these types."""
    found = tuple(v.type for v in region.outputs)
    if found[: len(types)] != tuple(types):
        raise ShapeError(f"{op}: {name} must return {_list(types)}, got {_list(found)}")


def _list(types: Sequence[TensorType]) -> str:
    return f"({', '.join(map(str, types))})"


def _require_count(op: str, name: str, count: int, operands: Sequence[TensorType]) -> None:
    if not 0 <= count <= len(operands):
        raise ArgumentError(f"{op}: {name} must be in [0, {len(operands)}], got {count}")


# --- scan ------------------------------------------------------------------------------------


def _scan_type(
    *operands: TensorType, body: Graph, carry: int, stacked: int, length: Size,
    reverse: bool = False, gradient: str = "store",
) -> tuple[TensorType, ...]:  # fmt: skip
    _require_count("scan", "carry + stacked", carry + stacked, operands)
    if gradient not in ("store", "recompute"):
        raise ArgumentError(f"scan: gradient must be 'store' or 'recompute', got {gradient!r}")
    if isinstance(length, int) and length < 0:
        raise ShapeError(f"scan: length must be 0 or more, got {length}")
    xs = operands[carry : carry + stacked]
    for x in xs:
        if not x.shape or x.shape[0] != length:
            raise ShapeError(f"scan: stacked operands must have {length} slices, got {x}")
    slices = [x.with_shape(x.shape[1:]) for x in xs]
    _require_region(
        "scan", "body", body, [*operands[:carry], *slices, *operands[carry + stacked :]]
    )
    _require_outputs("scan", "body", body, operands[:carry])
    ys = [v.type for v in body.outputs[carry:]]
    return (*operands[:carry], *(y.with_shape((length, *y.shape)) for y in ys))


def _scan_numpy(
    *operands: np.ndarray, body: Graph, carry: int, stacked: int, length: int,
    reverse: bool = False, gradient: str = "store",
) -> tuple[np.ndarray, ...]:  # fmt: skip
    carries = list(operands[:carry])
    xs, shared = operands[carry : carry + stacked], operands[carry + stacked :]
    ys = [
        np.empty((length, *map(int, v.shape)), v.dtype.numpy)  # type: ignore[arg-type]
        for v in body.outputs[carry:]
    ]
    for step in range(length)[:: -1 if reverse else 1]:
        results = run_region(body, [*carries, *(x[step] for x in xs), *shared])
        carries = results[:carry]
        for y, result in zip(ys, results[carry:], strict=True):
            y[step] = result
    return (*carries, *ys)


def _sample_body(*types: TensorType) -> Graph:
    """`c' = tanh(c * w + x); y = c' * x` for inputs c, x, w."""
    from .elementwise import tanh

    with Builder("body") as b:
        c, x, w = (b.input(name, t) for name, t in zip(("c", "x", "w"), types, strict=True))
        new = tanh(c * w + x)
        return b.finish({"c": new, "y": new * x})


_BODY = _sample_body(f32(3), f32(3), f32(3))

scan = define(Op(
    name="scan",
    doc="""Run `body` once for each slice of the stacked operands along their first axis.
    Operands: `carry` values that go from step to step, then `stacked` ones that are read slice
    by slice, then those that all steps share; `body` takes them in that order and returns the
    new carries, then what is stacked. Outputs: the last carries, then the stacked results.
    `reverse` runs from the last slice to the first. `gradient` says whether the gradient stores
    what the steps computed, or stores their carries alone and recomputes the rest.""",
    kind="region",
    type=_scan_type, numpy=_scan_numpy, vjp=Reason("not written yet"),
    onnx=Reason("not lowered yet"), tvm=Reason("not lowered yet"),
    samples=[
        case(f32(3), f32(4, 3), f32(3), body=_BODY, carry=1, stacked=1, length=4),
        case(f32(3), f32(4, 3), f32(3), body=_BODY, carry=1, stacked=1, length=4, reverse=True),
        case(f32(3), f32(N, 3), f32(3), body=_BODY, carry=1, stacked=1, length=N,
             gradient="recompute"),
        case(f32(3), f32(0, 3), f32(3), body=_BODY, carry=1, stacked=1, length=0),
        case(f32(3), f32(1, 3), f32(3), body=_BODY, carry=1, stacked=1, length=1),
        case(f32(3), f32(3), f32(3), body=_BODY, carry=1, stacked=0, length=3),
    ],
    rejects=[
        reject(f32(3), f32(5, 3), f32(3), body=_BODY, carry=1, stacked=1, length=4,
               error="scan: stacked operands must have 4 slices, got f32[5,3]"),
        reject(f32(2), f32(4, 3), f32(3), body=_BODY, carry=1, stacked=1, length=4,
               error="scan: body must take (f32[2], f32[3], f32[3]), "
                     "got (f32[3], f32[3], f32[3])"),
        reject(f32(3), body=_BODY, carry=1, stacked=1, length=4,
               error="scan: carry + stacked must be in [0, 1], got 2"),
    ],
))  # fmt: skip


# --- while -----------------------------------------------------------------------------------


def _while_type(
    *operands: TensorType, condition: Graph, body: Graph, carry: int
) -> tuple[TensorType, ...]:
    _require_count("while", "carry", carry, operands)
    for name, region in (("condition", condition), ("body", body)):
        _require_region("while", name, region, operands)
    _require_outputs("while", "condition", condition, [boolean()])
    _require_outputs("while", "body", body, operands[:carry])
    return tuple(operands[:carry])


def _while_numpy(
    *operands: np.ndarray, condition: Graph, body: Graph, carry: int
) -> tuple[np.ndarray, ...]:
    carries, shared = list(operands[:carry]), operands[carry:]
    while run_region(condition, [*carries, *shared])[0]:
        carries = run_region(body, [*carries, *shared])
    return tuple(carries)


def _sample_loop(*types: TensorType) -> dict[str, Graph]:
    """Double x until i is n."""
    regions = {}
    for name in ("condition", "body"):
        with Builder(name) as b:
            i, x, n = (b.input(k, t) for k, t in zip(("i", "x", "n"), types, strict=True))
            result = {"go": i < n} if name == "condition" else {"i": i + 1, "x": x + x}
            regions[name] = b.finish(result)
    return regions


_LOOP = _sample_loop(i32(), f32(3), i32())

while_ = define(Op(
    name="while",
    doc="""Run `body` on the first `carry` operands as long as `condition` holds for them. Both
    take all operands, those after the first `carry` the same every time; `condition` returns a
    bool[], `body` the new carries. Outputs: the last carries.""",
    kind="region",
    type=_while_type, numpy=_while_numpy,
    vjp=Reason("the number of steps is not known before the loop runs, so that nothing can be "
               "stored for a way back; use scan, or forward mode (jvp)"),
    onnx=Reason("not lowered yet"), tvm=Reason("not lowered yet"),
    samples=[case(i32(), f32(3), i32(), carry=2, integers=(0, 6), **_LOOP)],
    rejects=[
        reject(i32(), f32(3), carry=2, **_LOOP,
               error="while: condition must take (i32[], f32[3]), got (i32[], f32[3], i32[])"),
        reject(i32(), f32(3), i32(), carry=4, **_LOOP,
               error="while: carry must be in [0, 3], got 4"),
    ],
))  # fmt: skip


# --- cond ------------------------------------------------------------------------------------


def _cond_type(
    predicate: TensorType, *operands: TensorType, then: Graph, otherwise: Graph
) -> tuple[TensorType, ...]:
    if predicate != boolean():
        raise DTypeError(f"cond: operand predicate must be bool[], got {predicate}")
    for name, region in (("then", then), ("otherwise", otherwise)):
        _require_region("cond", name, region, operands)
    types = tuple(v.type for v in then.outputs)
    if tuple(v.type for v in otherwise.outputs) != types:
        found = [v.type for v in otherwise.outputs]
        raise ShapeError(f"cond: then returns {_list(types)}, otherwise {_list(found)}")
    return types


def _cond_numpy(
    predicate: np.ndarray, *operands: np.ndarray, then: Graph, otherwise: Graph
) -> tuple[np.ndarray, ...]:
    return tuple(run_region(then if predicate else otherwise, operands))


def _sample_branches(*types: TensorType) -> dict[str, Graph]:
    from .elementwise import sin

    regions = {}
    for name in ("then", "otherwise"):
        with Builder(name) as b:
            x, y = (b.input(k, t) for k, t in zip("xy", types, strict=True))
            regions[name] = b.finish({"z": x * y if name == "then" else sin(x)})
    return regions


_BRANCHES = _sample_branches(f32(3), f32(3))

cond = define(Op(
    name="cond",
    doc="""Run one of two graphs on the operands: `then` where `predicate` holds, else
    `otherwise`. Both return the same types; only the one that is chosen runs.""",
    kind="region",
    type=_cond_type, numpy=_cond_numpy, vjp=Reason("not written yet"),
    onnx=Reason("not lowered yet"), tvm=Reason("not lowered yet"),
    samples=[case(boolean(), f32(3), f32(3), **_BRANCHES)],
    rejects=[
        reject(f32(), f32(3), f32(3), **_BRANCHES,
               error="cond: operand predicate must be bool[], got f32[]"),
        reject(boolean(), f32(3), **_BRANCHES,
               error="cond: then must take (f32[3]), got (f32[3], f32[3])"),
    ],
))  # fmt: skip
