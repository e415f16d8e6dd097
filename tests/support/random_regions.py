"""Random graphs with control flow: loops and branches in each other, with awkward operands."""

from __future__ import annotations

import numpy as np
from random_graphs import RandomGraph

from hornfels.ir import Builder, Graph, Value, constant, sugar
from hornfels.ir.op import get
from hornfels.ir.types import TensorType, f64, i32, u32

DEPTH = 2
"""So many regions in each other."""


class RandomRegions(RandomGraph):
    """Grows graphs of which every third node or so is a `scan`, `while` or `cond`."""

    def __init__(self, seed: int, dtype=f64) -> None:
        super().__init__(seed, dtype)
        self.depth = 0

    def step(self) -> Value | None:
        if self.depth == DEPTH or self.rng.random() < 0.65:
            return super().step()
        return self.pick([self.scanned, self.scanned, self.looped, self.branched])()

    # --- operands ---------------------------------------------------------------------------

    def some(self, most: int) -> list[Value]:
        """Up to so many values, perhaps one of them twice."""
        return [self.pick(self.floats()) for _ in range(int(self.rng.integers(1, most + 1)))]

    def key(self) -> Value:
        return next(v for v in self.pool if v.dtype == u32)

    def stacked(self, length: int) -> Value:
        """A value with `length` slices, one that there is or a new one."""
        found = [v for v in self.floats() if v.ndim and v.shape[0] == length]
        if found and self.rng.random() < 0.5:
            return self.pick(found)
        x = self.pick(self.floats())
        numbers = constant(np.arange(1.0, length + 1) * 0.25, self.dtype)
        copies = sugar.expand(x, (0,), (length, *x.shape))
        return copies * sugar.expand(numbers, tuple(range(1, x.ndim + 1)), copies.shape)

    # --- bodies -----------------------------------------------------------------------------

    def body(self, name: str, operands: list[TensorType]) -> tuple[Builder, list[Value]]:
        """A builder and its inputs."""
        builder = Builder(name)
        return builder, [builder.input(f"p{i}", t) for i, t in enumerate(operands)]

    def grow(self, inputs: list[Value], nodes: int) -> RandomRegions:
        """What grows a body from its inputs; a builder must be open."""
        inner = RandomRegions.__new__(RandomRegions)
        inner.rng, inner.dtype, inner.depth = self.rng, self.dtype, self.depth + 1
        inner.pool = [v for v in inputs if v.dtype in (self.dtype, u32)]
        for _ in range(nodes):
            value = inner.step()
            if value is not None:
                inner.pool.append(value)
        return inner

    def result(self, type: TensorType) -> Value:
        """A value of the type: an input as it is, or something computed, in [-1, 1]."""
        same = [v for v in self.pool if v.type == type]
        value = self.pick(same)
        return value if self.rng.random() < 0.3 else get("tanh")(value * 0.7 + 0.1)

    def new_carries(self, carries: list[Value]) -> list[Value]:
        """New values of the carries; two of a type may be swapped."""
        types = [v.type for v in carries]
        if len(carries) == 2 and types[0] == types[1] and self.rng.random() < 0.4:
            return carries[::-1]
        return [self.result(t) for t in types]

    # --- control flow -----------------------------------------------------------------------

    def scanned(self) -> Value:
        length = self.pick([0, 1, 3, 4])
        carries, shared = self.some(2), [*self.some(2), self.key()]
        xs = [self.stacked(length) for _ in range(int(self.rng.integers(3)))]
        slices = [x.type.with_shape(x.shape[1:]) for x in xs]
        operands = [*carries, *xs, *shared]
        builder, inputs = self.body(
            "step", [*(v.type for v in carries), *slices, *(v.type for v in shared)]
        )
        with builder:
            inner = self.grow(inputs, 4)
            new = inner.new_carries(inputs[: len(carries)])
            ys = [inner.pick([*inner.floats(), *new, *inputs[:1]]) for _ in range(2)]
            body = builder.finish({f"r{i}": v for i, v in enumerate([*new, *ys])})
        outputs = get("scan").all(
            *operands, body=body, carry=len(carries), stacked=len(xs), length=length,
            reverse=bool(self.rng.random() < 0.4),
        )  # fmt: skip
        self.pool += outputs[1:]
        return outputs[0]

    def looped(self) -> Value:
        carries, shared = self.some(2), [*self.some(1), self.key()]
        limit = constant(int(self.rng.integers(4)), i32)
        operands = [constant(0, i32), *carries, limit, *shared]
        types = [v.type for v in operands]
        regions: dict[str, Graph] = {}
        builder, inputs = self.body("condition", types)
        with builder:
            regions["condition"] = builder.finish({"go": inputs[0] < inputs[1 + len(carries)]})
        builder, inputs = self.body("body", types)
        with builder:
            inner = self.grow(inputs, 3)
            new = inner.new_carries(inputs[1 : 1 + len(carries)])
            results = [inputs[0] + 1, *new]
            regions["body"] = builder.finish({f"r{i}": v for i, v in enumerate(results)})
        outputs = get("while").all(*operands, carry=1 + len(carries), **regions)
        self.pool += outputs[2:]
        return outputs[1]

    def branched(self) -> Value:
        operands = [*self.some(3), self.key()]
        types = [v.type for v in operands]
        results = [self.pick(types[:-1]) for _ in range(2)]
        regions = {}
        for name in ("then", "otherwise"):
            builder, inputs = self.body(name, types)
            with builder:
                inner = self.grow(inputs, 3)
                found = [inner.result(t) for t in results]
                regions[name] = builder.finish({f"r{i}": v for i, v in enumerate(found)})
        x = self.pick(self.floats())
        predicate = x.sum(tuple(range(x.ndim))) > self.pick([-1e6, 0.0, 1e6])
        outputs = get("cond").all(predicate, *operands, **regions)
        self.pool.append(outputs[1])
        return outputs[0]


def random_regions(seed: int, nodes: int = 12, dtype=f64) -> Graph:
    """The graph with control flow of that seed."""
    return RandomRegions(seed, dtype).build(nodes)
