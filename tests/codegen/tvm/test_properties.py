"""Random shapes of each family of kernels, in guarded memory, against the oracle in f64.

Each case is drawn from its number alone: sizes around the multiples of vectors and tiles, 0 and 1
among them, dtypes, weights that stay or not, sums and activations behind the root. A program runs
twice, the second time on what it has prepared, and must give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from native import TARGET, aligned, guard_holds

from hornfels.codegen.tvm.lower import Compiled, compile_plan
from hornfels.ir import Builder, Graph, evaluate, sugar
from hornfels.ir.graph import Value
from hornfels.ir.op import get
from hornfels.ir.types import DType, bf16, f16, f32, f64
from hornfels.passes.pipeline import make_plan, optimize

Rng = np.random.Generator
TOLERANCE = {f64: 1e-11, f32: 3e-5, f16: 5e-3, bf16: 4e-2}
"""Of a result of few terms, relative to the element and the root of the mean square."""


@dataclass(frozen=True)
class Case:
    """A graph to be built in any dtype, and how many terms its longest sum has."""

    dtype: DType
    terms: int
    build: Callable[[Builder, DType], dict[str, Value]]

    def graph(self, dtype: DType) -> Graph:
        with Builder("case") as b:
            return b.finish(self.build(b, dtype))


def size(rng: Rng, most: int) -> int:
    """A size, often beside a multiple of vectors."""
    near = int(rng.choice([1, 2, 4, 8]) * 16 + rng.integers(-1, 2))
    kind = rng.random()
    return 1 if kind < 0.1 else min(near, most) if kind < 0.5 else int(rng.integers(1, most + 1))


def dtype(rng: Rng) -> DType:
    return (f32, f32, f32, f64, bf16, f16)[rng.integers(6)]


def epilogue(rng: Rng) -> Callable[[Builder, Value], dict[str, Value]]:
    """What follows a root: a bias, a function, sums over all axes but the last."""
    bias, function, sums = (bool(rng.random() < p) for p in (0.5, 0.5, 0.4))

    def behind(b: Builder, y: Value) -> dict[str, Value]:
        if bias:
            vector = b.variable("bias", y.type.with_shape(y.shape[-1:]))
            y = y + sugar.broadcast_to(vector, y.shape)
        if function:
            y = get("maximum")(y, sugar.full(y.shape, 0.1, y.dtype))
        total = get("reduce_sum")(y, axes=tuple(range(y.ndim - 1)))
        return {"y": y, "total": total} if sums else {"y": y}

    return behind


def product(rng: Rng) -> Case:
    batch = ((), (), (3,), (2, 2))[rng.integers(4)]
    rows, columns, terms = (size(rng, 140) for _ in range(3))
    if rng.random() < 0.15:
        terms = int(rng.integers(2000, 2100))
    if rng.random() < 0.1:
        columns = 0
    across, down = (bool(rng.integers(2)) for _ in range(2))
    steady, behind = rng.random() < 0.5, epilogue(rng)

    def build(b: Builder, dtype: DType) -> dict[str, Value]:
        declare = b.variable if steady else b.input
        a = b.input("a", dtype(*batch, *((terms, rows) if across else (rows, terms))))
        w = declare("w", dtype(*batch, *((columns, terms) if down else (terms, columns))))
        return behind(b, get("matmul")(a, w, transpose_a=across, transpose_b=down))

    return Case(dtype(rng), terms, build)


def convolution(rng: Rng) -> Case:
    rank = int(rng.choice([1, 2, 2, 2, 3]))
    taps = (3,) * rank if rng.random() < 0.4 else tuple(map(int, rng.integers(1, 5, rank)))
    dilation = tuple(map(int, rng.choice([1, 1, 1, 2], rank)))
    strides = tuple(map(int, rng.choice([1, 1, 2, 3], rank)))
    padding = tuple((int(a), int(b)) for a, b in rng.integers(0, 3, (rank, 2)))
    seen = [(t - 1) * d + 1 for t, d in zip(taps, dilation, strict=True)]
    spatial = tuple(int(n + rng.integers(0, (90, 14, 6)[rank - 1])) for n in seen)
    channels, results, groups = size(rng, 66), size(rng, 66), 1
    if rng.random() < 0.4:
        groups = channels if rng.random() < 0.7 else 2
        channels, results = groups * -(-channels // groups), groups * int(rng.integers(1, 4))
    attrs = {
        "strides": strides, "padding": padding, "input_dilation": (1,) * rank,
        "kernel_dilation": dilation, "groups": groups,
    }  # fmt: skip
    batch = int(rng.choice([1, 2, 5, 17]))
    x, w = (batch, *spatial, channels), (*taps, channels // groups, results)
    pixels = ((n + sum(p) - s) // t + 1
              for n, p, s, t in zip(spatial, padding, seen, strides, strict=True))  # fmt: skip
    y = (batch, *pixels, results)
    which = ("conv", "conv_input_grad", "conv_kernel_grad")[rng.integers(3)]
    steady, behind = rng.random() < 0.5, epilogue(rng)

    def build(b: Builder, dtype: DType) -> dict[str, Value]:
        weights = b.variable if steady else b.input
        if which == "conv":
            made = get(which)(b.input("x", dtype(*x)), weights("w", dtype(*w)), **attrs)
        elif which == "conv_input_grad":
            dy, kernel = b.input("dy", dtype(*y)), weights("w", dtype(*w))
            made = get(which)(dy, kernel, input_shape=x, **attrs)
        else:
            images, dy = b.input("x", dtype(*x)), b.input("dy", dtype(*y))
            made = get(which)(images, dy, kernel_shape=w, **attrs)
        return behind(b, made)

    sums = math.prod(y[:-1]) if which == "conv_kernel_grad" else math.prod(taps) * channels
    return Case(dtype(rng), 10 * sums, build)  # minimal filtering loses a digit


def attention(rng: Rng) -> Case:
    """Forward and backward, with a mask that may hide all of a row."""
    batch, heads = map(int, rng.integers(1, 4, 2))
    rows, columns, depth, width = (size(rng, 70) for _ in range(4))
    hidden, moved = (bool(rng.integers(2)) for _ in range(2))

    def build(b: Builder, dtype: DType) -> dict[str, Value]:
        def heads_of(name: str, *matrix: int) -> Value:
            if not moved:
                return b.input(name, dtype(batch, heads, *matrix))
            x = b.input(name, dtype(batch, matrix[0], heads, matrix[1]))
            return get("transpose")(x, permutation=(0, 2, 1, 3))

        def along(row: Value) -> Value:
            return get("broadcast")(row, shape=scores.shape, axes=(0, 1, 2))

        q, k, v = heads_of("q", rows, depth), heads_of("k", columns, depth), heads_of(
            "v", columns, width)  # fmt: skip
        cotangent = heads_of("g", rows, width)
        scores = get("matmul")(q, k, transpose_b=True)
        if hidden:
            mask = b.input("mask", dtype(rows, columns))
            below = get("less")(mask, sugar.full(mask.shape, 0.2, dtype))
            below = get("broadcast")(below, shape=scores.shape, axes=(2, 3))
            scores = get("select")(below, sugar.full(scores.shape, -1e4, dtype), scores)
        shifted = get("exp")(scores - along(get("reduce_max")(scores, axes=(3,))))
        p = shifted / along(get("reduce_sum")(shifted, axes=(3,)))
        dp = get("matmul")(cotangent, v, transpose_b=True)
        ds = p * (dp - along(get("reduce_sum")(dp * p, axes=(3,))))
        return {
            "o": get("transpose")(get("matmul")(p, v), permutation=(0, 2, 1, 3)),
            "dv": get("matmul")(p, cotangent, transpose_a=True),
            "dq": get("matmul")(ds, k),
            "dk": get("matmul")(ds, q, transpose_a=True),
        }

    return Case((f32, f32, f32, f64)[rng.integers(4)], 20 * max(rows, columns, depth), build)


def rows(rng: Rng) -> Case:
    """A normalization over some of the axes, with its two sums of rows."""
    shape = tuple(size(rng, 40) for _ in range(rng.integers(2, 5)))
    count = int(rng.integers(1, len(shape) + 1))
    axes = tuple(sorted(rng.choice(len(shape), count, replace=False).tolist()))
    terms = math.prod(shape[axis] for axis in axes)

    def build(b: Builder, dtype: DType) -> dict[str, Value]:
        def along(row: Value) -> Value:
            others = tuple(axis for axis in range(len(shape)) if axis not in axes)
            return get("broadcast")(row, shape=shape, axes=others)

        x, g = b.input("x", dtype(*shape)), b.input("g", dtype(*shape))
        centered = x - along(get("reduce_sum")(x, axes=axes) * (1 / terms))
        variance = get("reduce_sum")(centered * centered, axes=axes) * (1 / terms)
        y = centered * along(get("rsqrt")(variance + 0.01))
        return {
            "y": y * g,
            "most": get("reduce_max")(x, axes=axes),
            "bias": get("reduce_sum")(g, axes=tuple(range(len(shape) - 1))),
            "scale": get("reduce_sum")(g * y, axes=tuple(range(len(shape) - 1))),
        }

    return Case((f32, f32, f64)[rng.integers(3)], 20 * math.prod(shape), build)


def run_twice(program: Compiled, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs, in guarded memory that begins as NaN; the second run prepares nothing."""
    graph = program.plan.graph
    prepared = aligned(np.full(program.prepared_bytes, 0xFF, np.uint8))
    outputs = [aligned(np.zeros(v.shape, v.dtype.numpy)) for v in graph.outputs]
    blocks = [
        aligned(np.full(program.arena_bytes, 0xFF, np.uint8)),
        *(aligned(arrays[v.name]) for v in graph.parameters),
        *outputs,
        *(aligned(array) for array in program.plan.constants),
        prepared,
    ]
    pointers = [block.ctypes.data for block in blocks][: program.program.pointers]
    program.program.run(pointers)
    first = [np.array(output) for output in outputs]
    prepared[:1] = 0
    for block in (blocks[0], *outputs):
        block.fill(0xFF if block.dtype == np.uint8 else np.nan)
    program.program.run(pointers)
    assert all(map(guard_holds, blocks))
    for before, after in zip(first, outputs, strict=True):
        assert before.tobytes() == after.tobytes(), "another result from what was kept"
    return first


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    found, expected = found.astype(np.float64), np.asarray(expected, np.float64)
    scale = np.abs(expected) + math.sqrt(np.square(expected).mean()) if expected.size else 1.0
    return float(np.max(np.abs(found - expected) / np.maximum(scale, 1e-30), initial=0.0))


FAMILIES = {"product": 16, "convolution": 20, "attention": 10, "rows": 12}


@pytest.mark.parametrize(
    ("family", "seed"), [(name, seed) for name, count in FAMILIES.items() for seed in range(count)]
)
def test_random_shapes(family, seed):
    rng = np.random.default_rng([seed, len(family)])
    draw = {
        "product": product, "convolution": convolution, "attention": attention, "rows": rows,
    }[family]  # fmt: skip
    case = draw(rng)
    graph = case.graph(case.dtype)
    arrays = {v.name: rng.uniform(-1, 1, v.shape).astype(v.dtype.numpy) for v in graph.parameters}
    exact = evaluate(case.graph(f64), {n: a.astype(np.float64) for n, a in arrays.items()})
    machine = replace(TARGET.machine, cores=1 + seed % 3)
    program = compile_plan(make_plan(optimize(graph)), replace(TARGET, machine=machine))
    limit = TOLERANCE[case.dtype] * (1 + math.sqrt(case.terms) / 10)
    for name, found in zip(graph.output_names, run_twice(program, arrays), strict=True):
        off = distance(found, exact.outputs[name])
        assert off <= limit, f"{name}: off by {off:.3g}, allowed {limit:.3g}"
