"""Random graphs with every kind of op, and arrays to run them on."""

from __future__ import annotations

import numpy as np

from hornfels.ir import Builder, Graph, Value, constant, sugar
from hornfels.ir.op import get
from hornfels.ir.types import TensorType, boolean, f32, f64, i32, u32

SHAPES = [(), (4,), (3, 4), (2, 3, 4), (12,), (4, 3), (1, 4), (2, 5, 5, 2)]
UNARY = ["neg", "abs", "tanh", "sigmoid", "exp", "relu", "floor", "stop_gradient"]
BINARY = ["add", "sub", "mul", "maximum", "minimum"]
COMPARE = ["less", "greater_equal", "equal"]


class RandomGraph:
    """Grows a graph node by node from a seeded generator."""

    def __init__(self, seed: int, dtype=f64) -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype
        self.pool: list[Value] = []

    def build(self, nodes: int = 30, states: int = 3) -> Graph:
        """A graph with inputs, state, several outputs and updates, some of them awkward."""
        with Builder("random") as builder:
            for i, shape in enumerate(SHAPES):
                self.pool.append(builder.input(f"x{i}", self.dtype(*shape)))
            held = [
                builder.variable(f"s{i}", self.dtype(*self.pick(SHAPES))) for i in range(states)
            ]
            key = builder.variable("key", u32(2))
            self.pool += [*held, constant(np.arange(4.0) / 4, self.dtype), key]
            for _ in range(nodes):
                value = self.step()
                if value is not None:
                    self.pool.append(value)
            outputs = {f"y{i}": self.pick(self.pool[-12:]) for i in range(3)}
            outputs["y3"] = outputs["y0"]  # the same value twice
            outputs["y4"] = self.pick(self.pool[:6])  # perhaps an input
            outputs["y5"] = held[0]
            updates = [(s, self.fit(s, held)) for s in held]
            updates.append((key, key + constant(np.array([0, 1]), u32)))
            return builder.finish(outputs, updates)

    def pick(self, items):
        return items[int(self.rng.integers(len(items)))]

    def fit(self, state: Value, held: list[Value]) -> Value:
        """A new value of the state: computed, or another state of its type (a swap)."""
        same = [v for v in [*self.pool, *held] if v.type == state.type]
        return self.pick(same) if self.rng.random() < 0.6 else state * 0.5 + 1.0

    def floats(self, rank: int | None = None) -> list[Value]:
        found = [v for v in self.pool if v.dtype == self.dtype]
        return [v for v in found if rank is None or v.ndim == rank] or found

    def step(self) -> Value | None:
        """One or a few nodes; None if the drawn operands do not fit."""
        kinds = [self.unary, self.binary, self.binary, self.optimizer, self.select, self.moved,
                 self.moved, self.reduced, self.product, self.convolved, self.pooled, self.random,
                 self.gathered]  # fmt: skip
        return self.pick(kinds)()

    def unary(self) -> Value:
        return get(self.pick(UNARY))(sugar.value(self.pick(self.floats())))

    def binary(self) -> Value | None:
        x, y = self.pick(self.floats()), self.pick(self.floats())
        if x.shape != y.shape:
            fits = [v for v in self.floats() if v.shape == x.shape[len(x.shape) - v.ndim :]]
            y = self.pick(fits) if fits else x
        return sugar.binary(self.pick(BINARY), x, y) * 0.5

    def optimizer(self) -> Value:
        x = self.pick(self.floats())
        m = x * 0.9 + 0.1
        v = m * m * 0.5 + x
        return x - m / (get("sqrt")(abs(v)) + 1e-3)

    def select(self) -> Value:
        x = self.pick(self.floats())
        y = self.pick([v for v in self.floats() if v.shape == x.shape])
        condition = get(self.pick(COMPARE))(x, y)
        assert condition.dtype == boolean
        return sugar.select(condition, x + 1.0, y)

    def moved(self) -> Value | None:
        x = self.pick(self.floats())
        way = int(self.rng.integers(7))
        if way == 0:
            return x.reshape(x.type.size)
        if way == 1 and x.ndim > 1:
            return x.transpose(*(int(a) for a in self.rng.permutation(x.ndim)))
        if way == 2 and x.ndim:
            return sugar.expand(x.sum(0), (0,), x.shape)
        if way == 3 and x.ndim and x.shape[0] > 1:
            return x[1:]
        if way == 4 and x.ndim:
            zeros = (0,) * x.ndim
            return get("pad")(x, low=(1, *zeros[1:]), high=zeros, interior=zeros, value=0.5)
        if way == 5 and x.ndim:
            return get("concat")(x, x * 2.0, axis=0)
        if way == 6 and x.ndim:
            return get("reverse")(x, axes=(0,))
        return None

    def reduced(self) -> Value | None:
        x = self.pick(self.floats())
        if not x.ndim or 0 in x.shape:
            return None
        axes = sorted({int(a) for a in self.rng.integers(0, x.ndim, size=2)})
        if self.rng.random() < 0.2:
            return get("argmax")(x, axis=axes[0]).astype(self.dtype)
        center = x - x.mean(axes[0], keepdims=True) if self.rng.random() < 0.5 else x
        return sugar.reduce(self.pick(["reduce_sum", "reduce_max"]), center * 0.5, tuple(axes))

    def product(self) -> Value | None:
        x = self.pick(self.floats(2))
        if x.ndim != 2:
            return None
        y = get("matmul")(x, x, transpose_a=False, transpose_b=True)
        return get("tanh")(y * 0.1 + constant(np.arange(int(y.shape[1])) * 0.1, self.dtype))

    def convolved(self) -> Value | None:
        x = self.pick(self.floats(4))
        if x.ndim != 4 or min(x.shape[1:3]) < 3:
            return None
        kernel = constant(self.rng.normal(size=(3, 3, x.shape[3], 3)) * 0.2, self.dtype)
        y = get("conv")(x, kernel, strides=(1, 1), padding=((1, 1), (1, 1)), groups=1,
                        input_dilation=(1, 1), kernel_dilation=(1, 1))  # fmt: skip
        return get("relu")(y + constant(np.array([0.1, -0.1, 0.2]), self.dtype))

    def pooled(self) -> Value | None:
        x = self.pick(self.floats(4))
        if x.ndim != 4 or min(x.shape[1:3]) < 2:
            return None
        attrs = {"window": (2, 2), "strides": (1, 1), "padding": ((0, 0), (0, 0))}
        y = get("max_pool")(x, **attrs)
        return get("max_pool_grad")(x, y * 0.5, **attrs) * (x + 1.0)

    def random(self) -> Value | None:
        x = self.pick(self.floats())
        bits = get("rng_bits")(next(v for v in self.pool if v.dtype == u32), shape=x.shape)
        keep = (bits >> constant(8, u32)).astype(self.dtype) * 2.0**-24 < 0.7
        return sugar.select(keep, x * 1.5, 0.0)

    def gathered(self) -> Value | None:
        x = self.pick(self.floats())
        if not x.ndim or 0 in x.shape:
            return None
        indices = constant(np.array([1, 0, 7, 1]), i32)
        rows = get("gather")(x, indices, axis=0)
        if self.rng.random() < 0.5:
            return rows
        return get("scatter_add")(x, indices, rows * 0.1, axis=0)


def random_graph(seed: int, nodes: int = 30, dtype=f64) -> Graph:
    """The graph of that seed."""
    return RandomGraph(seed, dtype).build(nodes)


def random_array(rng: np.random.Generator, type: TensorType) -> np.ndarray:
    """An array of a type: floats near 0, small integers."""
    shape = tuple(int(d) for d in type.shape)
    if type.dtype.is_float:
        return rng.uniform(-1.5, 1.5, shape).astype(type.dtype.numpy)
    return rng.integers(0, 2 if type.dtype.is_bool else 7, shape).astype(type.dtype.numpy)


def random_arrays(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays for every input and state."""
    rng = np.random.default_rng(seed)
    return {v.name: random_array(rng, v.type) for v in graph.parameters}


def assert_same(found, expected, rtol: float = 1e-9, atol: float = 1e-9, held=None) -> None:
    """Two evaluations have the same names, dtypes and numbers.

    `held` gives the state before the run: then an update may be missing that changes nothing.
    """
    for part in ("outputs", "updates"):
        mine, theirs = dict(getattr(found, part)), getattr(expected, part)
        if held is not None and part == "updates":
            mine = {**{name: held[name] for name in theirs}, **mine}
        assert mine.keys() == theirs.keys()
        for name, array in theirs.items():
            assert mine[name].dtype == array.dtype, name
            np.testing.assert_allclose(
                mine[name].astype(np.float64), array.astype(np.float64), rtol, atol, err_msg=name
            )


__all__ = ["RandomGraph", "assert_same", "f32", "random_array", "random_arrays", "random_graph"]
