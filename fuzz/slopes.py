"""Gradients of random programs against differences: what all backends would get wrong alike.

The forward graph is made in f64. Along a random direction its loss must change as its gradient
says. Where the differences to both sides, or with half the step, do not agree, the loss has a
corner or a jump there (a comparison, a maximum, a floor), and nothing is said.
"""

from __future__ import annotations

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

STEP = 1e-6
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
    if any(n.op.name == "stop_gradient" for n in forward.nodes):
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
            here = evaluate(graph, arrays).outputs
            losses = {k: _moved(graph, arrays, directions, k * STEP) for k in (-1, -0.5, 0.5, 1)}
    except Undefined:
        return ""
    terms = [here[f"grad/{name}"] * d for name, d in directions.items() if f"grad/{name}" in here]
    slope = sum(float(t.sum()) for t in terms)
    scale = 1 + sum(float(np.abs(t).sum()) for t in terms)
    return _verdict(slope, scale, float(here["loss"]), losses)


def _moved(
    graph: Graph, arrays: dict[str, np.ndarray], directions: dict[str, np.ndarray], step: float
) -> float:
    moved = {name: arrays[name] + step * d for name, d in directions.items()}
    return float(evaluate(graph, arrays | moved).outputs["loss"])


def _verdict(slope: float, scale: float, here: float, losses: dict[float, float]) -> str:
    central = (losses[1] - losses[-1]) / (2 * STEP)
    finer = (losses[0.5] - losses[-0.5]) / STEP
    sides = [(losses[1] - here) / STEP, (here - losses[-1]) / STEP]
    if not np.isfinite([slope, central, finer, *sides]).all():
        return ""
    smooth = max(abs(central - finer), abs(sides[0] - sides[1])) <= 0.1 * TOLERANCE * (
        scale + abs(central)
    )
    if not smooth or abs(slope - central) <= TOLERANCE * (scale + abs(central)):
        return ""
    return f"the gradient says {slope:.9g} along a direction, differences say {central:.9g}"
