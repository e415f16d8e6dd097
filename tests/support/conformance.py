"""What must hold for every op of the registry, as checks that take the op.

Each check raises `AssertionError`. `tests/ir/ops/test_conformance.py` runs them on the registry,
`tests/ir/ops/test_mutations.py` on ops with a fault put in, which they must find.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from scalar_arrays import on_arrays

from hornfels.ir import Builder, Graph, evaluate, gradients, jvp, parse, sugar
from hornfels.ir.builder import emit
from hornfels.ir.errors import HornfelsError
from hornfels.ir.graph import Node, Value, substitute_attribute
from hornfels.ir.op import Case, Op, Reason
from hornfels.ir.types import DType, TensorType, f64, type_of

SIZES = {"N": 3}
"""What the symbols of the samples stand for."""

ULP = {"exp": 2, "expm1": 3, "log": 2, "log1p": 2, "tanh": 3, "sigmoid": 3, "erf": 2,
       "sin": 3, "cos": 3, "pow": 1, "tan": 4, "asin": 2, "acos": 2, "atan": 3, "atan2": 3,
       "sinh": 3, "cosh": 2, "asinh": 3, "acosh": 3, "atanh": 3, "exp2": 2, "log2": 2,
       "log10": 3, "cbrt": 2, "erfc": 7, "erf_inv": 4}  # fmt: skip
"""By how many units in the last place `scalar` may differ from the oracle; 0 if not listed."""

IDENTITIES = {"stop_gradient"}
"""Ops whose gradient is none on purpose, although the result follows the operand."""


def bound(attribute: Any, sizes: dict[str, int] = SIZES) -> Any:
    """An attribute with the symbols replaced by sizes."""
    return substitute_attribute(attribute, sizes)


def draw(op: Op, case: Case, dtypes: dict[DType, DType] | None = None) -> list[np.ndarray]:
    """Operands of a sample, the same in every run; `dtypes` replaces dtypes."""
    rng = np.random.default_rng(zlib.crc32(f"{op.name}{case.types}{case.attrs}".encode()))
    drawn = [_draw_one(rng, case, x.substitute(SIZES), dtypes or {}) for x in case.types]
    if case.prepare is None:
        return drawn
    prepared = zip(drawn, case.prepare(drawn), strict=True)
    return [np.asarray(new).astype(old.dtype) for old, new in prepared]


def _draw_one(
    rng: np.random.Generator, case: Case, x: TensorType, dtypes: dict[DType, DType]
) -> np.ndarray:
    shape, (low, high) = x.shape, case.domain
    if x.dtype.is_bool:
        return np.asarray(rng.random(shape) < 0.5)
    if x.dtype.is_integer:
        least, end = case.integers or ((0, 9) if x.dtype.kind == "uint" else (-5, 6))
        return rng.integers(least, end, shape, dtype=np.int64).astype(x.dtype.numpy)
    numbers = rng.uniform(low, high, shape)
    if case.distinct:
        count = int(np.prod(shape))
        numbers = rng.permutation(np.linspace(low, high, count)).reshape(shape)
    return numbers.astype(dtypes.get(x.dtype, x.dtype).numpy)


def _label(op: Op, case: Case) -> str:
    return f"{op.name}{list(case.types)} {case.attrs}"


# --- declaration -----------------------------------------------------------------------------


def check_declaration(op: Op) -> None:
    """The op has samples, words, a `scalar` exactly if elementwise, and a vjp if it needs one."""
    assert op.samples, f"{op.name} has no sample"
    assert op.doc.strip().endswith((".", ")")), f"{op.name}: the doc is no sentence"
    is_elementwise = op.kind == "elementwise"
    assert (op.scalar is not None) == is_elementwise, f"{op.name}: scalar and kind disagree"
    for case in op.samples:
        if isinstance(op.vjp, Reason):
            needs = case.differentiable and _is_differentiable(op, case)
            assert not needs, f"{_label(op, case)} needs a vjp"


def _is_differentiable(op: Op, case: Case) -> bool:
    outputs = op.infer(*case.types, **case.attrs)
    return all(any(t.dtype.is_float for t in side) for side in (case.types, outputs))


def check_reject(op: Op, index: int) -> None:
    """The type rule refuses the sample with exactly the stated message."""
    rejected = op.rejects[index]
    message = ""
    try:
        op.infer(*rejected.types, **rejected.attrs)
    except HornfelsError as error:
        message = error.message
    assert message == rejected.error, f"{op.name} says {message!r}, not {rejected.error!r}"


# --- types and values ------------------------------------------------------------------------


def check_types(op: Op, case: Case) -> None:
    """What the type rule says is what the oracle gives; the oracle leaves its operands alone."""
    arrays = draw(op, case)
    for array in arrays:
        array.flags.writeable = False
    inferred = tuple(t.substitute(SIZES) for t in op.infer(*case.types, **case.attrs))
    with np.errstate(all="ignore"):
        result = op.numpy(*arrays, **{k: bound(v) for k, v in case.attrs.items()})
    results = result if isinstance(result, tuple) else (result,)
    assert all(isinstance(r, np.ndarray | np.generic) for r in results), _label(op, case)
    given = tuple(type_of(np.asarray(r)) for r in results)
    assert given == inferred, f"{_label(op, case)}: {inferred} inferred, {given} computed"


def check_text(op: Op, case: Case) -> None:
    """A graph of the op reads back from its text."""
    with Builder("text") as b:
        operands = [b.input(f"x{i}", t) for i, t in enumerate(case.types)]
        outputs = op.all(*operands, **case.attrs)
        graph = b.finish({f"y{i}": v for i, v in enumerate(outputs)})
    again = parse(str(graph))
    assert str(again) == str(graph), f"{graph}\nreads back as\n{again}"
    (node,), (expected,) = again.nodes, graph.nodes
    assert node.key()[0::2] == expected.key()[0::2], f"{_label(op, case)}: attributes differ"
    assert [v.type for v in again.outputs] == [v.type for v in graph.outputs]


def ulp_distance(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference in units in the last place; infinite if a special value differs."""
    if expected.dtype.kind in "biu":
        return 0.0 if np.array_equal(got, expected) else np.inf
    with np.errstate(all="ignore"):
        x, y = got.astype(np.float64), expected.astype(np.float64)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        unit = np.spacing(np.abs(expected)).astype(np.float64)
        distance = np.where(same, 0.0, np.abs(x - y) / unit)
    return float(np.max(np.where(np.isnan(distance), np.inf, distance), initial=0.0))


def check_scalar(op: Op, case: Case) -> None:
    """`scalar` on NumPy gives what the oracle gives, within the bound of `ULP`."""
    assert op.scalar is not None
    arrays = draw(op, case)
    (expected,) = op.evaluate(*arrays, **case.attrs)
    got = on_arrays(op.scalar, *arrays, **case.attrs).astype(expected.dtype)
    distance = ulp_distance(got, expected)
    limit = ULP.get(op.name, 0)
    assert distance <= limit, f"{_label(op, case)}: {distance} ulp, at most {limit} are allowed"


CORNERS = (0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -2.5, 1e-40, 3e38, -3e38, np.inf, -np.inf, np.nan)


def corners(dtype: DType) -> np.ndarray:
    """The values at which formulas go wrong."""
    if dtype.is_bool:
        return np.asarray([False, True])
    if dtype.is_float:
        with np.errstate(over="ignore"):
            return np.asarray(CORNERS).astype(dtype.numpy)
    least, most = np.iinfo(dtype.numpy).min, np.iinfo(dtype.numpy).max
    return np.asarray([0, 1, 2, 7, least, most, *((-1, -7) if least else ())], dtype.numpy)


def corner_operands(op: Op, case: Case) -> list[np.ndarray]:
    """All combinations of the values at which formulas go wrong, as far as they are defined."""
    numbers = [corners(x.dtype) for x in case.types]
    if op.name.startswith("shift"):
        numbers[1] = np.arange(case.types[1].dtype.bits).astype(numbers[1].dtype)
    if op.name == "cast" and case.types[0].dtype.is_float and case.attrs["dtype"].is_integer:
        with np.errstate(invalid="ignore"):
            numbers[0] = numbers[0][np.abs(numbers[0]) < 100]  # undefined out of range
    return [np.ascontiguousarray(a.reshape(-1)) for a in np.meshgrid(*numbers)]


def check_scalar_corners(op: Op, case: Case) -> None:
    """`scalar` and oracle agree on all combinations of zeros, infinities, NaN, extremes."""
    assert op.scalar is not None
    arrays = corner_operands(op, case)
    (expected,) = op.evaluate(*arrays, **case.attrs)
    with np.errstate(all="ignore"):
        got = on_arrays(op.scalar, *arrays, **case.attrs).astype(expected.dtype)
    limit = ULP.get(op.name, 0)
    for *operands, x, y in zip(*arrays, got, expected, strict=True):
        distance = ulp_distance(np.asarray(x), np.asarray(y))
        assert distance <= limit, f"{op.name}{operands} is {x} by `scalar`, {y} by the oracle"


# --- gradients -------------------------------------------------------------------------------

STEP = 1e-6
TOLERANCE = 2e-6
"""Of a directional derivative in f64, relative to the terms that it sums up."""


def _wide(attribute: Any) -> Any:
    """An attribute with f64 for every floating-point dtype, bodies and constants included."""
    if isinstance(attribute, Graph):
        return _wide_graph(attribute)
    if isinstance(attribute, np.ndarray) and type_of(attribute).dtype.is_float:
        return attribute.astype(np.float64)
    return f64 if isinstance(attribute, DType) and attribute.is_float else attribute


def _wide_graph(graph: Graph) -> Graph:
    def visit(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        return emit(node.op, inputs, {k: _wide(v) for k, v in node.attrs.items()})

    inputs = {v: Value(v.type.with_dtype(_wide(v.dtype)), name=v.name) for v in graph.parameters}
    return graph.rebuild(visit, inputs)


def has_gradient(op: Op, case: Case) -> bool:
    """Whether there is a derivative to be checked."""
    has_rule = not isinstance(op.vjp, Reason) and case.differentiable
    return has_rule and _is_differentiable(op, case)


def _weights(rng: np.random.Generator, x: TensorType) -> np.ndarray:
    return rng.standard_normal(x.substitute(SIZES).shape)


def _finite(v: Value) -> Value:
    """`v` with 0 for infinite elements, such as the maximum of nothing, which no sum survives."""
    return sugar.select(sugar.unary("is_finite", v), v, 0) if v.dtype.is_float else v


class _Differentiation:
    """A sample in f64 as a graph with its weighted sum, and that sum's derivatives."""

    def __init__(self, op: Op, case: Case) -> None:
        self.label = _label(op, case)
        wide = dict.fromkeys([t.dtype for t in case.types if t.dtype.is_float], f64)
        self.arrays = {f"x{i}": a for i, a in enumerate(draw(op, case, wide))}
        self.rng = np.random.default_rng(zlib.crc32(self.label.encode()))
        attrs = {k: _wide(v) for k, v in case.attrs.items()}
        with Builder("first") as self.builder:
            self.operands = [
                self.builder.input(f"x{i}", t.with_dtype(wide.get(t.dtype, t.dtype)))
                for i, t in enumerate(case.types)
            ]
            outputs = op.all(*self.operands, **attrs)
            self.loss = self._weighted([_finite(v) for v in outputs])
            self.wrt = [v for v in self.operands if v.dtype.is_float]
            self.grads = gradients(self.loss, self.wrt)

    def _weighted(self, values: Any) -> Value:
        """The sum of all floating-point values with fixed random weights."""
        total: Any = 0.0
        for v in values:
            if v is not None and v.dtype.is_float:
                name = f"w{len(self.builder.inputs)}"
                self.arrays[name] = _weights(self.rng, v.type)
                term = v * self.builder.input(name, v.type)
                total = (term.sum() if v.ndim else term) + total
        assert isinstance(total, Value), f"{self.label}: nothing to differentiate"
        return total

    def again(self) -> bool:
        """Make the weighted sum of the gradients the loss; False if there is none."""
        if all(g is None for g in self.grads):
            return False
        with self.builder:
            self.loss = self._weighted(self.grads)
            self.grads = gradients(self.loss, self.wrt)
        return True

    def compare(self) -> None:
        """The gradients along a random direction against central differences."""
        directions = {v.name: _weights(self.rng, v.type) for v in self.wrt}
        named = {f"g{v.name}": g for v, g in zip(self.wrt, self.grads, strict=True)}
        outputs = {"loss": self.loss, **{k: g for k, g in named.items() if g is not None}}
        graph = self.builder.finish(outputs)
        found = evaluate(graph, self.arrays).outputs
        analytic, scale = 0.0, 1.0
        for name, direction in directions.items():
            if f"g{name}" in found:
                terms = found[f"g{name}"] * direction
                analytic, scale = analytic + terms.sum(), scale + np.abs(terms).sum()
        numeric = self._difference(graph, directions)
        error = abs(analytic - numeric)
        assert error <= TOLERANCE * scale, (
            f"{self.label}: the gradient says {analytic}, differences say {numeric}"
        )

    def compare_forward(self, found: float, directions: dict[str, np.ndarray]) -> None:
        """A derivative in the direction `v<name>` against central differences."""
        graph = self.builder.finish({"loss": self.loss})
        numeric = self._difference(graph, {v.name: directions[f"v{v.name}"] for v in self.wrt})
        scale = np.sqrt(sum(np.sum(d * d) for d in directions.values())) + abs(numeric)
        assert abs(found - numeric) <= 10 * TOLERANCE * (1 + scale), (
            f"{self.label}: forward mode says {found}, differences say {numeric}"
        )

    def _difference(self, graph: Graph, directions: dict[str, np.ndarray]) -> float:
        sides = []
        for sign in (1, -1):
            moved = {n: self.arrays[n] + sign * STEP * d for n, d in directions.items()}
            sides.append(float(evaluate(graph, self.arrays | moved).outputs["loss"]))
        return (sides[0] - sides[1]) / (2 * STEP)


def check_vjp(op: Op, case: Case) -> None:
    """The vjp agrees with central differences in f64 along a random direction."""
    differentiation = _Differentiation(op, case)
    if op.name in IDENTITIES:
        assert all(g is None for g in differentiation.grads), _label(op, case)
        return
    differentiation.compare()


def check_second_vjp(op: Op, case: Case) -> None:
    """The gradient's gradient agrees with central differences of the gradient."""
    differentiation = _Differentiation(op, case)
    if differentiation.again():
        differentiation.compare()


# --- forward mode, and both modes on each other ----------------------------------------------

AGREEMENT = 1e-8
"""Of two ways to one derivative in f64, relative to it."""


def check_jvp(op: Op, case: Case) -> None:
    """Forward mode agrees with central differences and with backward mode, `<u, J v> = <J^T u, v>`.

    The second derivative in a direction is the same forward over backward, backward over
    forward and backward over backward.
    """
    differentiation = _Differentiation(op, case)
    with differentiation.builder as builder:
        wrt, loss = differentiation.wrt, differentiation.loss
        direction = [builder.input(f"v{v.name}", v.type) for v in wrt]
        grads = differentiation.grads
        (forward,) = jvp([loss], wrt, direction)
        backward = _inner(grads, direction)
        results = {"forward": forward, "backward": backward}
        if forward is not None and backward is not None:
            known = [g for g in grads if g is not None]
            moved = iter(jvp(known, wrt, direction))
            results |= {
                "forward_backward": _inner(
                    [g if g is None else next(moved) for g in grads], direction
                ),
                "backward_forward": _inner(gradients(forward, wrt), direction),
                "backward_backward": _inner(gradients(backward, wrt), direction),
            }
    graph = builder.finish({k: v for k, v in results.items() if v is not None})
    arrays = {v.name: _weights(differentiation.rng, v.type) for v in direction}
    differentiation.arrays |= arrays
    found = evaluate(graph, differentiation.arrays).outputs
    if forward is not None:
        differentiation.compare_forward(float(found["forward"]), arrays)
    for one, other in (
        ("forward", "backward"), ("forward_backward", "backward_backward"),
        ("backward_forward", "backward_backward"),
    ):  # fmt: skip
        x, y = float(found.get(one, 0.0)), float(found.get(other, 0.0))
        scale = 1 + max(abs(x), abs(y))
        assert abs(x - y) <= AGREEMENT * scale, (
            f"{differentiation.label}: {one} says {x}, {other} says {y}"
        )


def _inner(xs: Any, ys: Any) -> Value | None:
    """The inner product of two lists of tensors; None is zero."""
    terms = [(x * y).sum() for x, y in zip(xs, ys, strict=True) if x is not None and y is not None]
    total: Any = 0.0
    for term in terms:
        total = term + total
    return total if terms else None
