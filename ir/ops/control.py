"""Control flow: `scan`, `while` and `cond`, whose bodies are graphs in their attributes.

A body is closed: it sees its own inputs alone, so what it needs of the surrounding graph comes
in as an operand, the same in every step. Bodies have neither state nor updates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..autodiff import active_nodes, jvp, pullback
from ..builder import Builder
from ..errors import ArgumentError, DTypeError, ShapeError
from ..evaluate import run_region
from ..graph import Graph, Value, outline, reachable
from ..op import CODE, Op, Reason, case, define, reject
from ..residuals import residuals
from ..sugar import cast, full
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


# --- what the derivatives share --------------------------------------------------------------


def _each(found: Any) -> tuple[Any, ...]:
    """What belongs to the outputs of a node, which may have only one."""
    return found if isinstance(found, tuple) else (found,)


def _zeros(x: TensorType) -> Value:
    return full(x.shape, 0, x.dtype)


def _inputs(*groups: Iterable[Value]) -> dict[Value, str]:
    """Names for the values that become inputs of a region."""
    return {v: f"p{i}" for i, v in enumerate(v for group in groups for v in group)}


def _named(values: Iterable[Value]) -> dict[str, Value]:
    return {f"r{i}": v for i, v in enumerate(values)}


def _used(results: Sequence[Value], borders: Sequence[Value], of: Sequence[Value]) -> list[int]:
    """Which of the values in `of` are read between `borders` and `results`."""
    read = {v for node in reachable(results, set(borders)) for v in node.inputs}
    read.update(results)
    return [i for i, v in enumerate(of) if v in read]


Shares = dict[int, Value]
"""What belongs to some of a region's inputs or outputs, by their position."""


def _pull(region: Graph, active: Iterable[int], fed: Iterable[int]) -> tuple[Shares, Shares]:
    """The cotangents of some outputs, as parameters, and what the active inputs get of them."""
    cotangents = {j: Value(region.outputs[j].type, name=f"d{j}") for j in sorted(fed)}
    wrt = [i for i in active if region.inputs[i].dtype.is_float]
    with Builder(region.name):
        found = pullback(
            [region.outputs[j] for j in cotangents],
            [region.inputs[i] for i in wrt],
            list(cotangents.values()),
        )
    return cotangents, {i: g for i, g in zip(wrt, found, strict=True) if g is not None}


def _push(region: Graph, moving: Iterable[int]) -> tuple[Shares, Shares]:
    """The tangents of some inputs, as parameters, and those of the outputs that they move."""
    tangents = {i: Value(region.inputs[i].type, name=f"t{i}") for i in sorted(moving)}
    with Builder(region.name):
        found = jvp(region.outputs, [region.inputs[i] for i in tangents], list(tangents.values()))
    return tangents, {j: t for j, t in enumerate(found) if t is not None}


def _push_step(body: Graph, carry: int, tangents: Sequence[Value | None]) -> tuple[Shares, Shares]:
    """`_push` of one step of a loop; a carry moves if it does at first, or a step moves it."""
    moving = {i for i, t in enumerate(tangents) if t is not None}
    while True:
        given, found = _push(body, moving)
        more = {j for j in found if j < carry} - moving
        if not more:
            return given, found
        moving |= more


def _tangent_or_zero(shares: Shares, j: int, of: TensorType) -> Value:
    return shares[j] if j in shares else _zeros(of)


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
    ys = [np.empty((length, *map(int, v.shape)), v.dtype.numpy) for v in body.outputs[carry:]]
    for step in range(length)[:: -1 if reverse else 1]:
        results = run_region(body, [*carries, *(x[step] for x in xs), *shared])
        carries = results[:carry]
        for y, result in zip(ys, results[carry:], strict=True):
            y[step] = result
    return (*carries, *ys)


def _scan_active(body: Graph, carry: int, wanted: Sequence[bool]) -> list[int]:
    """The inputs of the body that a derivative is wanted of, carries that depend on them too."""
    active = {i for i, want in enumerate(wanted) if want and body.inputs[i].dtype.is_float}
    while True:
        moved = active_nodes(body.outputs[:carry], [body.inputs[i] for i in active])[1]
        more = {i for i in range(carry) if body.outputs[i] in moved} - active
        if not more:
            return sorted(active)
        active |= more


def _scan_pull(
    body: Graph, carry: int, wanted: Sequence[bool], incoming: Sequence[Value | None]
) -> tuple[Shares, Shares]:
    """`_pull` of one step; a carry is fed if its last value is, or a step before feeds it."""
    active = _scan_active(body, carry, wanted)
    fed = {j for j, g in enumerate(incoming)
           if g is not None and (j >= carry or j in active)}  # fmt: skip
    while True:
        cotangents, shares = _pull(body, active, fed)
        more = {i for i in shares if i < carry} - fed
        if not more:
            return cotangents, shares
        fed |= more


def _scan_vjp(
    cotangents: Any, *operands: Value, out: Any, wanted: Sequence[bool], body: Graph, carry: int,
    stacked: int, length: Size, reverse: bool = False, gradient: str = "store",
) -> list[Value | None]:  # fmt: skip
    """A second scan from the first step stacks what a third one, from the last step, reads.

    The third carries the cotangents of the carries and the sums for shared operands, the latter
    in f32 if those are narrower. A pass merges the second scan with the one that is there.
    """
    incoming = _each(cotangents)
    late, shares = _scan_pull(body, carry, wanted, incoming)
    inputs, first_shared = body.inputs, carry + stacked
    fed = [i for i in late if i < carry]
    sliced = [i for i in shares if carry <= i < first_shared]
    summed = [i for i in shares if i >= first_shared]
    runs = isinstance(length, int) and length > 0  # without a step a cotangent stays as it is
    if not shares and (runs or not fed):
        return [None] * len(operands)
    sums = {i: Value(_sum_type(inputs[i].type), name=f"sum{i}") for i in summed}
    with Builder("back"):
        results = [
            *(shares[i] if i in shares else _zeros(inputs[i].type) for i in fed),
            *(sums[i] + cast(shares[i], sums[i].dtype) for i in summed),
            *(shares[i] for i in sliced),
        ]
    stored = residuals(
        results, [*late.values(), *sums.values()], invariant=inputs[first_shared:],
        pinned=inputs[:carry], kept=set(body.outputs[carry:]), recompute=gradient == "recompute",
    )  # fmt: skip
    stacks: tuple[Value, ...] = ()
    if stored:
        forward = Graph.make(body.name, inputs, (), _named([*body.outputs[:carry], *stored]))
        stacks = scan.all(*operands, body=forward, carry=carry, stacked=stacked, length=length,
                          reverse=reverse, gradient=gradient)[carry:]  # fmt: skip
    again = [carry + i for i in _used(results, stored, inputs[carry:])]
    xs, shared = ([i for i in again if (i < first_shared) == x] for x in (True, False))
    slices = [j for j in late if j >= carry]
    back = outline(f"{body.name}_back", _inputs(
        (late[i] for i in fed), sums.values(), stored, (inputs[i] for i in xs),
        (late[j] for j in slices), (inputs[i] for i in shared),
    ), _named(results))  # fmt: skip
    found = scan.all(
        *(incoming[i] if incoming[i] is not None else _zeros(inputs[i].type) for i in fed),
        *(_zeros(v.type) for v in sums.values()),
        *stacks, *(operands[i] for i in xs), *(incoming[j] for j in slices),
        *(operands[i] for i in shared),
        body=back, carry=len(fed) + len(sums), stacked=len(stacks) + len(xs) + len(slices),
        length=length, reverse=not reverse, gradient=gradient,
    )  # fmt: skip
    by_operand = dict(zip([*fed, *summed, *sliced], found, strict=True))
    return [cast(by_operand[i], x.dtype) if wanted[i] and i in by_operand else None
            for i, x in enumerate(operands)]  # fmt: skip


def _scan_jvp(
    tangents: Sequence[Value | None], *operands: Value, out: Any, body: Graph, carry: int,
    stacked: int, length: Size, reverse: bool = False, gradient: str = "store",
) -> list[Value | None]:  # fmt: skip
    """One scan of the steps and their tangents; a pass merges it with the one that is there."""
    given, found = _push_step(body, carry, tangents)
    ends = (0, carry, carry + stacked, len(operands))
    groups = [[i for i in given if a <= i < b] for a, b in pairwise(ends)]
    inputs: list[Value] = []
    arguments: list[Value | None] = []
    for group, (a, b) in zip(groups, pairwise(ends), strict=True):
        inputs += [*body.inputs[a:b], *(given[i] for i in group)]
        arguments += [*operands[a:b], *(tangents[i] for i in group)]
    moved = [j for j in found if j >= carry]
    with Builder(body.name):
        results = [*body.outputs[:carry],
                   *(_tangent_or_zero(found, i, body.inputs[i].type) for i in groups[0]),
                   *(found[j] for j in moved)]  # fmt: skip
    step = outline(f"{body.name}_tangent", _inputs(inputs), _named(results))
    scanned = scan.all(
        *(_zeros(v.type) if a is None else a for v, a in zip(inputs, arguments, strict=True)),
        body=step, carry=carry + len(groups[0]), stacked=stacked + len(groups[1]), length=length,
        reverse=reverse, gradient=gradient,
    )[carry:]  # fmt: skip
    by_output = dict(zip([*groups[0], *moved], scanned, strict=True))
    return [by_output.get(j) for j in range(len(body.outputs))]


def _sum_type(x: TensorType) -> TensorType:
    """What a sum over steps is held in."""
    return x.with_dtype(f32) if x.dtype.bits < 32 else x


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
    type=_scan_type, numpy=_scan_numpy, vjp=_scan_vjp, jvp=_scan_jvp,
    onnx=CODE,
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


def _while_jvp(
    tangents: Sequence[Value | None], *operands: Value, out: Any, condition: Graph, body: Graph,
    carry: int,
) -> list[Value | None]:  # fmt: skip
    """One loop of the carries and their tangents; the condition sees the carries alone."""
    given, found = _push_step(body, carry, tangents)
    moving = [i for i in given if i < carry]
    rest = [i for i in given if i >= carry]

    def inputs(region: Graph) -> dict[Value, str]:
        return _inputs(region.inputs[:carry], (given[i] for i in moving),
                       region.inputs[carry:], (given[i] for i in rest))  # fmt: skip

    with Builder(body.name):
        steps = [*body.outputs,
                 *(_tangent_or_zero(found, i, body.inputs[i].type) for i in moving)]  # fmt: skip
    starts = (_zeros(operands[i].type) if (t := tangents[i]) is None else t for i in moving)
    results = while_.all(
        *operands[:carry],
        *starts,
        *operands[carry:],
        *(t for t in tangents[carry:] if t is not None),
        condition=outline(condition.name, inputs(condition), _named(condition.outputs)),
        body=outline(f"{body.name}_tangent", inputs(body), _named(steps)),
        carry=carry + len(moving),
    )[carry:]  # fmt: skip
    by_output = dict(zip(moving, results, strict=True))
    return [by_output.get(j) for j in range(carry)]


def _sample_loop(*types: TensorType) -> dict[str, Any]:
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
    type=_while_type, numpy=_while_numpy, jvp=_while_jvp,
    vjp=Reason("the number of steps is not known before the loop runs, so that nothing can be "
               "stored for a way back; use scan, or forward mode (jvp)"),
    onnx=CODE,
    samples=[case(i32(), f32(3), i32(), carry=2, integers=(0, 6), differentiable=False, **_LOOP)],
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


def _cond_vjp(
    cotangents: Any, predicate: Value, *operands: Value, out: Any, wanted: Sequence[bool],
    then: Graph, otherwise: Graph,
) -> list[Value | None]:  # fmt: skip
    """A second cond returns what the way back through its branch reads, a third one goes back.

    What one branch returns and the other has not is zeros there; values of one type share a
    place. Branches without anything expensive are computed again, and there is no second cond.
    """
    incoming, branches = _each(cotangents), (then, otherwise)
    active = [i for i, want in enumerate(wanted[1:]) if want]
    fed = [j for j, g in enumerate(incoming) if g is not None]
    pulled = [_pull(branch, active, fed) for branch in branches]
    gets = sorted({i for _, shares in pulled for i in shares})
    if not gets:
        return [None] * len(wanted)
    with Builder("back"):
        results = [
            [shares[i] if i in shares else _zeros(operands[i].type) for i in gets]
            for _, shares in pulled
        ]
    late = [list(given.values()) for given, _ in pulled]
    places = _places(*(
        residuals(r, d, kept=set(branch.outputs))
        for branch, r, d in zip(branches, results, late, strict=True)
    ))  # fmt: skip
    kept: tuple[Value, ...] = ()
    if places:
        kept = cond.all(predicate, *operands, then=_keeping(then, [v for v, _ in places]),
                        otherwise=_keeping(otherwise, [v for _, v in places]))  # fmt: skip
    stored = list(zip(*places, strict=True)) or [(), ()]
    again = sorted({i for k in (0, 1) for i in _used(results[k], stored[k], branches[k].inputs)})
    back = [
        outline(f"{branch.name}_back",
                _inputs(stored[k], (branch.inputs[i] for i in again), late[k]),
                _named(results[k]))
        for k, branch in enumerate(branches)
    ]  # fmt: skip
    found = cond.all(
        predicate, *kept, *(operands[i] for i in again), *(incoming[j] for j in fed),
        then=back[0], otherwise=back[1],
    )  # fmt: skip
    by_operand = dict(zip(gets, found, strict=True))
    return [None, *(by_operand.get(i) for i in range(len(operands)))]


def _cond_jvp(
    tangents: Sequence[Value | None], predicate: Value, *operands: Value, out: Any,
    then: Graph, otherwise: Graph,
) -> list[Value | None]:  # fmt: skip
    """A second cond whose branches compute the tangents; a pass merges it with the first."""
    moving = [i for i, t in enumerate(tangents[1:]) if t is not None]
    branches = (then, otherwise)
    pushed = [_push(branch, moving) for branch in branches]
    moved = sorted({j for _, found in pushed for j in found})
    if not moved:
        return [None] * len(then.outputs)
    regions = []
    for branch, (given, found) in zip(branches, pushed, strict=True):
        with Builder(branch.name):
            tangent = [_tangent_or_zero(found, j, branch.outputs[j].type) for j in moved]
        inputs = _inputs(branch.inputs, given.values())
        regions.append(outline(f"{branch.name}_tangent", inputs, _named(tangent)))
    results = cond.all(predicate, *operands, *(t for t in tangents[1:] if t is not None),
                       then=regions[0], otherwise=regions[1])  # fmt: skip
    by_output = dict(zip(moved, results, strict=True))
    return [by_output.get(j) for j in range(len(then.outputs))]


def _places(first: Sequence[Value], second: Sequence[Value]) -> list[tuple[Value, Value]]:
    """Pairs of what the branches keep; beside a value that only one has, a parameter of its type.

    Nothing computes such a parameter: the branch returns zeros for it.
    """
    left, pairs = list(second), []
    for v in first:
        partner = next((w for w in left if w.type == v.type), None)
        if partner is None:
            partner = Value(v.type, name="none")
        else:
            left = [w for w in left if w is not partner]
        pairs.append((v, partner))
    return [*pairs, *((Value(w.type, name="none"), w) for w in left)]


def _keeping(branch: Graph, values: Iterable[Value]) -> Graph:
    """A branch that returns values of its own, and zeros for parameters that are not its own."""
    with Builder(branch.name):
        outputs = [_zeros(v.type) if v.node is None else v for v in values]
    return Graph.make(branch.name, branch.inputs, (), _named(outputs))


def _sample_branches(*types: TensorType) -> dict[str, Any]:
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
    type=_cond_type, numpy=_cond_numpy, vjp=_cond_vjp, jvp=_cond_jvp,
    onnx=CODE,
    samples=[case(boolean(), f32(3), f32(3), **_BRANCHES)],
    rejects=[
        reject(f32(), f32(3), f32(3), **_BRANCHES,
               error="cond: operand predicate must be bool[], got f32[]"),
        reject(boolean(), f32(3), **_BRANCHES,
               error="cond: then must take (f32[3]), got (f32[3], f32[3])"),
    ],
))  # fmt: skip
