"""A seed -> a graph: forward, a loss, gradients, and the update of an optimizer, all at random."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import sugar
from ..ir.autodiff import gradients
from ..ir.errors import GradientError, HornfelsError
from ..ir.graph import Graph, Value, is_among
from ..ir.op import REGISTRY, Op, Reason, get
from ..ir.types import TensorType, f32, f64, i32, u32
from . import positions, regions  # noqa: F401 - they register proposals
from .arrays import NOT_NEGATIVE
from .pool import Pool
from .proposals import propose

BARRIER = "optimization_barrier"
_BARRED = 9  # one graph in so many has a barrier

STEPS = 3
"""Runs of a graph, each with the state that the last one left.

The second finds what the first one kept of the weights; before the third these change.
"""


@dataclass(frozen=True)
class Recipe:
    """What random graphs are made of.

    Attributes
    ----------
    nodes : (int, int)
        Least and most steps of growth; each adds one op and what makes its operands fit.
    ops : collection of str
        The ops to choose from; all of the registry by default.
    train : float
        Probability of a loss with gradients and an optimizer.
    wide : bool
        Whether f64 is the only floating-point dtype, and every op has a gradient.
    """

    nodes: tuple[int, int] = (3, 16)
    ops: Collection[str] = ()
    train: float = 0.75
    wide: bool = False


def generate(seed: int, recipe: Recipe = Recipe()) -> Graph:
    """The graph of a seed."""
    return _Growth(seed, recipe).graph()


def is_everywhere(op: Op) -> bool:
    """Whether every backend has the op; a graph with another one runs on some alone."""
    return op.tvm is None and not isinstance(op.onnx, Reason)


def _is_narrow(v: Value) -> bool:
    return v.dtype.is_float and v.dtype != f64


class _Growth:
    def __init__(self, seed: int, recipe: Recipe) -> None:
        self.recipe = recipe
        self.rng = np.random.default_rng([seed, 77])
        self.pool = Pool(self.rng, seed, wide=recipe.wide)
        self.ops = [REGISTRY[name] for name in recipe.ops or REGISTRY if name != BARRIER]
        if not recipe.ops and self.pool.chance(0.9):
            self.ops = [op for op in self.ops if is_everywhere(op)]
        self.barred = not recipe.ops and seed % _BARRED == _BARRED - 1
        self.favoured = [self.pool.pick(self.ops) for _ in range(4)]

    def graph(self) -> Graph:
        p = self.pool
        p.builder.name = "fuzz"
        with p.builder, p.quiet():
            for _ in range(p.between(1, 3)):
                p.parameter(TensorType(p.float_dtype(), p.shape()))
            p.parameter(TensorType(p.dtype(), p.shape()))
            for _ in range(p.between(*self.recipe.nodes)):
                self.grow()
            if self.barred:
                self.bar()
            outputs = {f"y{i}": v for i, v in enumerate(self.results())}
            updates: list[tuple[Value, Value]] = []
            if p.chance(self.recipe.train):
                try:
                    outputs |= self.train(updates)
                except GradientError:  # an op refuses, with words, what it has no gradient for
                    updates.clear()
            return p.builder.finish(outputs, updates)

    def grow(self) -> None:
        """One more op; which fails to fit is tried again."""
        p = self.pool
        for _ in range(6):
            op = p.pick(self.favoured) if p.chance(0.35) else p.pick(self.ops)
            try:
                outputs = propose(p, op)
            except HornfelsError:
                continue
            if outputs is not None and self.keep(op, outputs):
                return

    def bar(self) -> None:
        """Let the last value wait for the first one: no draw is spent on what computes nothing."""
        first, *_, last = self.pool.values
        self.pool.keep(get(BARRIER)(last, first))

    def keep(self, op: Op, outputs: Sequence[Value]) -> bool:
        cut = isinstance(op.vjp, Reason)
        kept = False
        if self.recipe.wide and (cut or any(_is_narrow(v) for v in outputs)):
            return False
        for v in outputs:
            value = get("stop_gradient")(v) if cut and v.dtype.is_float else v
            kept |= self.pool.keep(value) is not None
        return kept

    def results(self) -> list[Value]:
        """Some values, of the last ones more; perhaps one twice, or an input."""
        p = self.pool
        found = [v for v in p.values[-8:] if p.chance(0.5)] or [p.values[-1]]
        if p.chance(0.1):
            found.append(p.pick(p.values))
        if p.chance(0.05):
            found.append(found[0])
        return found

    # --- training ----------------------------------------------------------------------------

    def train(self, updates: list[tuple[Value, Value]]) -> dict[str, Value]:
        """A loss, its gradients, and updates of what is trained; the outputs to add."""
        p = self.pool
        loss = self.loss()
        inputs = [v for v in p.builder.inputs if v.dtype.is_float]
        wrt = [*p.parameters, *(v for v in inputs if p.chance(0.3))]
        outputs = {"loss": loss}
        grads = gradients(loss, wrt)
        if p.chance(0.15):
            loss, grads = self.penalized(loss, wrt, grads)
            outputs["penalized"] = loss
        rate = p.pick((0.01, 0.1))
        kind = p.pick(("sgd", "momentum", "adam", "rmsprop"))
        step = p.builder.variable("step", i32()) if kind == "adam" else None
        for v, g in zip(wrt, grads, strict=True):
            if g is None:
                continue
            if is_among(v, p.builder.state):
                updates += self.update(kind, v, g, rate, step)
            else:
                outputs[f"grad/{v.name}"] = g
        if step is not None:
            updates.append((step, step + 1))
        if p.chance(0.2):
            key = p.builder.variable("key", u32(2))
            updates.append((key, key + np.array([0, 1], np.uint32)))
        return outputs

    def loss(self) -> Value:
        """A weighted sum of some values, mostly of f32."""
        p = self.pool
        dtype = f64 if p.chance(0.25) else f32
        floats = [v for v in p.values if v.dtype.is_float]
        chosen = floats[-3:] if p.chance(0.7) else [p.pick(floats) for _ in range(3)]
        chosen += [v for v in p.parameters if p.chance(0.3)]
        total = sugar.value(0.0, dtype)
        for v in dict.fromkeys(chosen):
            term = sugar.cast(v, dtype)
            way = p.below(4)
            if way == 0:
                term = get("tanh")(term)
            elif way == 1:
                term = term * term * 0.5
            elif way == 2:
                term = term * p.need(TensorType(dtype, term.shape))
            size = max(1, int(np.prod([int(d) for d in v.shape])))
            total = total + (term.sum() if term.ndim else term) * (1.0 / size)
        return total

    def penalized(
        self, loss: Value, wrt: Sequence[Value], grads: Sequence[Value | None]
    ) -> tuple[Value, list[Value | None]]:
        """The loss with the squares of its gradients added, and the gradients of that."""
        squares = [
            sugar.cast((g * g).sum() if g.ndim else g * g, loss.dtype)
            for g in grads
            if g is not None
        ]
        for square in squares:
            loss = loss + square * 0.1
        return loss, gradients(loss, wrt)

    def update(
        self, kind: str, w: Value, g: Value, rate: float, step: Value | None
    ) -> list[tuple[Value, Value]]:
        """New values of a parameter and of what the optimizer remembers of it."""
        variable = self.pool.builder.variable
        if kind == "sgd":
            return [(w, w - g * rate)]
        if kind == "momentum":
            m = variable(f"momentum/{w.name}", w.type)
            new = m * 0.9 - g * rate
            return [(m, new), (w, w + new)]
        v = variable(f"{NOT_NEGATIVE}{w.name}", w.type)
        second = v * 0.9 + g * g * 0.1
        if kind == "rmsprop":
            return [(v, second), (w, w - g * rate / (get("sqrt")(second) + 1e-3))]
        assert step is not None
        m = variable(f"momentum/{w.name}", w.type)
        first = m * 0.9 + g * 0.1
        t = sugar.cast(get("maximum")(step + 1, sugar.value(1, i32)), f32)
        correction = 1.0 - get("pow")(sugar.value(0.9, f32), t)
        scale = sugar.cast(rate / correction, w.dtype)
        change = first * scale / (get("sqrt")(second) + 1e-3)
        return [(v, second), (m, first), (w, w - change)]
