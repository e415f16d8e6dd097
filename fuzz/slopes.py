"""Gradients of random programs against differences: what all backends would get wrong alike.

The forward graph is made in f64. Along a random direction its loss must change as its gradient
says. Where the differences to both sides, or with half the step, or the gradients to both sides
do not agree, the loss has a corner or a jump there (a comparison, a maximum, a floor) or no
gradient at all (the factors of a matrix without full rank), and nothing is said.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir import sugar
from ..ir.autodiff import gradients
from ..ir.builder import Builder
from ..ir.errors import GradientError
from ..ir.evaluate import applying, evaluate
from ..ir.graph import Graph, Source, Value
from ..ir.types import f64
from .arrays import arrays_for
from .numerics import Undefined, checked
from .variants import ops_of

STEP = 1e-6
OTHERWISE = frozenset({"stop_gradient", "custom_gradient"})
"""Ops whose gradient is another on purpose."""

TOLERANCE = 1e-4
"""Of the slope, beside the terms that it sums up."""


def with_gradients(forward: Graph) -> Graph:
    """The graph's loss, a weighted sum of its floating-point outputs, and its gradients."""
    floats = [v for v in forward.parameters if v.dtype.is_float]
    with Builder(forward.name) as builder, builder.at(Source()):
        total: Value = sugar.value(0.0, "f64")
        for i, v in enumerate(forward.outputs):
            if v.dtype.is_float:
                weights = np.cos(np.arange(int(v.type.size)) + i).reshape([int(d) for d in v.shape])
                term = sugar.unary("tanh", sugar.cast(v, "f64")) * weights
                total = total + (term.sum() if term.ndim else term)
        found = gradients(total, floats)
    outputs = {"loss": total}
    outputs |= {f"grad/{v.name}": g for v, g in zip(floats, found, strict=True) if g is not None}
    return Graph.make(forward.name, forward.inputs, forward.state, outputs)


def slope_error(forward: Graph, seed: int) -> str:
    """How the gradient of a graph contradicts its differences; empty if it does not.

    Parameters
    ----------
    forward : Graph
        All of its floating-point values are f64.
        Others are passed over, and those that stop gradients.
    seed : int
        Of the arrays and the direction.
    """
    values = [*forward.parameters, *(v for n in forward.nodes for v in n.outputs)]
    if any(v.dtype.is_float and v.dtype != f64 for v in values):
        return ""
    if ops_of(forward) & OTHERWISE:
        return ""
    try:
        graph = with_gradients(forward)
    except GradientError:
        return ""
    arrays = arrays_for(graph, seed)
    rng = np.random.default_rng([seed, 9])
    directions = {
        v.name: rng.standard_normal(arrays[v.name].shape)
        for v in graph.parameters
        if v.dtype.is_float
    }
    try:
        with applying(checked):
            points = {k: _at(graph, arrays, directions, k) for k in (-1, -0.5, 0, 0.5, 1)}
    except Undefined:
        return ""
    return _verdict(points)


@dataclass(frozen=True)
class _Point:
    """The loss somewhere, its slope along the direction by the gradient, and the slope's terms."""

    loss: float
    slope: float
    scale: float


def _at(
    graph: Graph, arrays: dict[str, np.ndarray], directions: dict[str, np.ndarray], steps: float
) -> _Point:
    moved = {name: arrays[name] + steps * STEP * d for name, d in directions.items()}
    found = evaluate(graph, arrays | moved).outputs
    grads = [(found[f"grad/{n}"], d) for n, d in directions.items() if f"grad/{n}" in found]
    terms = [g * d for g, d in grads]
    scale = 1 + sum(float(np.abs(t).sum()) for t in terms)
    return _Point(float(found["loss"]), sum(float(t.sum()) for t in terms), scale)


def _verdict(points: dict[float, _Point]) -> str:
    here, (low, high) = points[0], (points[-1], points[1])
    central = (high.loss - low.loss) / (2 * STEP)
    finer = (points[0.5].loss - points[-0.5].loss) / STEP
    sides = [(high.loss - here.loss) / STEP, (here.loss - low.loss) / STEP]
    slopes = [low.slope, here.slope, high.slope]
    if not np.isfinite([central, finer, *sides, *slopes]).all():
        return ""
    scale = min(p.scale for p in points.values()) + abs(central)
    unrest = max(abs(central - finer), abs(sides[0] - sides[1]), max(slopes) - min(slopes))
    if unrest > 0.1 * TOLERANCE * scale or abs(here.slope - central) <= TOLERANCE * scale:
        return ""
    return f"the gradient says {here.slope:.9g} along a direction, differences say {central:.9g}"
