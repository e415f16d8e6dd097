"""Kernels that compute with arrays: what `kernels` times beside convolutions, from graphs.

An `ArrayCase` is a graph of some ops, compiled as a step of a model is. Its roofline is the time
to move operands and results once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..codegen.tvm.lower import compile_plan
from ..codegen.tvm.target import Target
from ..ir import Builder, sugar
from ..ir.graph import Graph, Value
from ..ir.op import get
from ..ir.types import TensorType, f32, i32
from ..passes.pipeline import make_plan, optimize

Run = Callable[[], object]


@dataclass(frozen=True)
class ArrayCase:
    """Some ops on arrays of one shape each.

    Parameters
    ----------
    text : str
        What the ops are.
    operands : tuple of TensorType
    compute : callable
        Values of the graph from values of the operands.
    torch : callable
        The same in PyTorch: module and tensors to a tensor or several.
    below : int
        Integers are drawn from 0 ... below-1.
    """

    text: str
    operands: tuple[TensorType, ...]
    compute: Callable[..., Any]
    torch: Callable[..., Any]
    below: int = 1

    def graph(self) -> Graph:
        """The ops as an optimized graph."""
        with Builder("case") as b:
            values = [b.input(f"x{i}", type) for i, type in enumerate(self.operands)]
            found = self.compute(*values)
            results = found if isinstance(found, tuple) else (found,)
            return optimize(b.finish({f"y{i}": y for i, y in enumerate(results)}))

    def arrays(self) -> list[np.ndarray]:
        """Random operands."""
        random = np.random.default_rng(0)
        found = []
        for type in self.operands:
            array = aligned(tuple(map(int, type.shape)), type.dtype.numpy)
            if type.dtype.is_float:
                array[...] = random.standard_normal(array.shape)
            else:
                array[...] = random.integers(0, self.below, array.shape)
            found.append(array)
        return found


_HUGE = 2 << 20  # bytes of a large page
_offsets = itertools.count()


def aligned(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """An array that begins at a multiple of 64 bytes, in large pages where NumPy asks for
    them, as in a model's arena; small pages fall in the same sets of the cache by chance.
    """
    nbytes = np.dtype(dtype).itemsize * math.prod(shape)
    block = np.zeros(nbytes + 3 * _HUGE, np.uint8)
    start = -block.ctypes.data % _HUGE + next(_offsets) % 64 * 4160
    return block[start : start + nbytes].view(dtype).reshape(shape)


def compiled(
    case: ArrayCase, operands: Sequence[np.ndarray], target: Target
) -> tuple[Run, list[np.ndarray], int]:
    """The native program of a case, its results, and the bytes that it must move."""
    graph = case.graph()
    program = compile_plan(make_plan(graph), target)
    results = [aligned(tuple(map(int, v.shape)), v.dtype.numpy) for v in graph.outputs]
    arena = aligned((max(64, program.arena_bytes),), np.uint8)
    prepared = aligned((max(64, program.prepared_bytes),), np.uint8)
    prepared[:1] = 1
    blocks = [arena, *operands, *results, *program.plan.constants, prepared]
    pointers = [block.ctypes.data for block in blocks][: program.program.pointers]
    moved = sum(v.type.nbytes for v in (*graph.inputs, *graph.outputs))
    return (lambda: (program.program.run(pointers), blocks)), results, moved


def _op(name: str, **attributes: Any) -> Callable[..., Any]:
    return lambda *values: get(name).all(*values, **attributes)


def _transpose(shape: tuple[int, ...], permutation: tuple[int, ...]) -> ArrayCase:
    text = f"transpose {list(shape)} to {list(permutation)}"
    return ArrayCase(
        text, (f32(*shape),), _op("transpose", permutation=permutation),
        lambda torch, x: x.permute(permutation).contiguous(),
    )  # fmt: skip


def _reduce(name: str, shape: tuple[int, ...], *axes: int) -> ArrayCase:
    peer = {"sum": lambda torch, x: torch.sum(x, axes),
            "max": lambda torch, x: torch.amax(x, axes)}[name]  # fmt: skip
    text = f"{name} {list(shape)} over {list(axes)}"
    return ArrayCase(text, (f32(*shape),), _op(f"reduce_{name}", axes=axes), peer)


def _argmax(shape: tuple[int, ...], axis: int) -> ArrayCase:
    return ArrayCase(
        f"argmax {list(shape)} over {axis}", (f32(*shape),), _op("argmax", axis=axis),
        lambda torch, x: torch.argmax(x, axis),
    )  # fmt: skip


def _cumsum(shape: tuple[int, ...], axis: int) -> ArrayCase:
    return ArrayCase(
        f"cumsum {list(shape)} along {axis}", (f32(*shape),),
        _op("cumsum", axis=axis, reverse=False), lambda torch, x: torch.cumsum(x, axis),
    )  # fmt: skip


def _softmax(rows: int, columns: int) -> ArrayCase:
    def compute(x: Value) -> Value:
        e = sugar.unary("exp", x - sugar.reduce("reduce_max", x, -1, keepdims=True))
        return e / sugar.reduce("reduce_sum", e, -1, keepdims=True)

    return ArrayCase(
        f"softmax [{rows}, {columns}]", (f32(rows, columns),), compute,
        lambda torch, x: torch.softmax(x, 1),
    )  # fmt: skip


def _concat(axis: int, *shapes: tuple[int, ...]) -> ArrayCase:
    text = f"concat {' + '.join(str(list(shape)) for shape in shapes)}"
    return ArrayCase(
        text, tuple(f32(*shape) for shape in shapes), _op("concat", axis=axis),
        lambda torch, *xs: torch.cat(xs, axis),
    )  # fmt: skip


def _gather(rows: int, columns: int, count: int) -> ArrayCase:
    return ArrayCase(
        f"gather {count} of [{rows}, {columns}]", (f32(rows, columns), i32(count)),
        _op("gather", axis=0), lambda torch, x, at: torch.nn.functional.embedding(at, x), rows,
    )  # fmt: skip


def _take_along(rows: int, columns: int, count: int) -> ArrayCase:
    return ArrayCase(
        f"take_along {count} of each of [{rows}, {columns}]",
        (f32(rows, columns), i32(rows, count)), _op("take_along", axis=1),
        lambda torch, x, at: torch.take_along_dim(x, at.long(), 1), columns,
    )  # fmt: skip


def _scatter(rows: int, columns: int, count: int, below: int = 0) -> ArrayCase:
    """The gradient of a gather; indices may be below a number, so that they repeat more."""

    def compute(at: Value, updates: Value) -> Any:
        return get("scatter_add")(sugar.full((rows, columns), 0, f32), at, updates, axis=0)

    def peer(torch: Any, at: Any, updates: Any) -> Any:
        return torch.ops.aten.embedding_dense_backward(updates, at, rows, -1, False)

    text = f"scatter_add {count} to [{rows}, {columns}]" + f" below {below}" * bool(below)
    return ArrayCase(text, (i32(count), f32(count, columns)), compute, peer, below or rows)


def _sort(name: str, rows: int, columns: int) -> ArrayCase:
    attributes: dict[str, Any] = {"axis": 1, "descending": False}
    peer = {"sort": lambda torch, x: torch.sort(x, 1)[0],
            "argsort": lambda torch, x: torch.argsort(x, stable=True, dim=1)}[name]  # fmt: skip
    return ArrayCase(
        f"{name} [{rows}, {columns}]", (f32(rows, columns),), _op(name, **attributes), peer
    )


def _top_k(rows: int, columns: int, k: int) -> ArrayCase:
    return ArrayCase(
        f"top_k {k} of [{rows}, {columns}]", (f32(rows, columns),), _op("top_k", k=k),
        lambda torch, x: torch.topk(x, k, 1),
    )  # fmt: skip


def _product(*shapes: tuple[int, ...]) -> ArrayCase:
    text = " * ".join(str(list(shape)) for shape in shapes)
    return ArrayCase(
        text, tuple(f32(*shape) for shape in shapes), lambda x, y: x * y, lambda torch, x, y: x * y
    )


def _slice(shape: tuple[int, ...], *slices: slice) -> ArrayCase:
    words = (f"{s.start or ''}:{s.stop or ''}" + f":{s.step}" * bool(s.step) for s in slices)
    return ArrayCase(
        f"{list(shape)} at [{', '.join(words)}]", (f32(*shape),), lambda x: x[slices],
        lambda torch, x: x[slices].contiguous(),
    )  # fmt: skip


def _pad(shape: tuple[int, ...], *widths: int) -> ArrayCase:
    pairs = [n for n in reversed(widths) for _ in range(2)]
    attributes = {"low": widths, "high": widths, "interior": (0,) * len(widths), "value": 0}
    return ArrayCase(
        f"pad {list(shape)} by {list(widths)}", (f32(*shape),), _op("pad", **attributes),
        lambda torch, x: torch.nn.functional.pad(x, pairs),
    )  # fmt: skip


_ALL = slice(None)

FAMILIES: dict[str, tuple[ArrayCase, ...]] = {
    "transpose": (
        *(_transpose((1024, 1024), (1, 0)), _transpose((1000, 37), (1, 0))),
        *(_transpose((65536, 8), (1, 0)), _transpose((3, 65536), (1, 0))),
        *(_transpose((8, 64, 56, 56), (0, 2, 3, 1)), _transpose((8, 56, 56, 64), (0, 3, 1, 2))),
        *(_transpose((8, 224, 224, 3), (0, 3, 1, 2)), _transpose((32, 128, 8, 32), (0, 2, 1, 3))),
        _transpose((32, 128, 8, 32), (0, 2, 3, 1)),
    ),
    "reduce": (
        *(_reduce("sum", (64, 128, 256), 0), _reduce("sum", (64, 128, 256), 1)),
        *(_reduce("sum", (64, 128, 256), 2), _reduce("sum", (64, 128, 256), 0, 2)),
        *(_reduce("sum", (65536, 3), 1), _reduce("sum", (65536, 10), 1)),
        *(_reduce("sum", (65536, 3), 0), _reduce("sum", (65536, 10), 0)),
        *(_reduce("sum", (4096, 40), 1), _reduce("max", (256, 1000, 4), 1)),
        *(_reduce("max", (65536, 5), 1), _reduce("max", (128, 1000), 1)),
    ),
    "argmax": (
        *(_argmax((128, 1000), 1), _argmax((128, 10), 1), _argmax((65536, 21), 1)),
        *(_argmax((65536, 3), 1), _argmax((1000, 128), 0), _argmax((64, 100, 40), 1)),
    ),
    "cumsum": (
        *(_cumsum((1024, 1024), 1), _cumsum((1024, 1024), 0), _cumsum((64, 128, 64), 1)),
        *(_cumsum((1 << 20,), 0), _cumsum((4096, 30), 1)),
    ),
    "softmax": (
        *(_softmax(128, 1000), _softmax(128, 10), _softmax(65536, 10), _softmax(65536, 2)),
        *(_softmax(4096, 37), _softmax(4096, 128)),
    ),
    "concat": (
        *(_concat(1, (32, 128), (32, 32)), _concat(3, (8, 56, 56, 64), (8, 56, 56, 64))),
        *(_concat(3, (8, 28, 28, 224), (8, 28, 28, 32)), _concat(1, (4096, 3), (4096, 5))),
        _concat(0, (100, 128), (28, 128)),
    ),
    "gather": (
        *(_gather(20000, 128, 25600), _gather(1000, 16, 25600), _gather(20000, 3, 25600)),
        _take_along(128, 1000, 10),
    ),
    "scatter": (
        *(_scatter(20000, 128, 25600), _scatter(20000, 128, 25600, 50), _scatter(1000, 16, 25600)),
        _scatter(20000, 3, 25600),
    ),
    "sort": (
        *(_sort("sort", 128, 1000), _sort("argsort", 128, 1000), _sort("sort", 1, 1 << 18)),
        *(_sort("sort", 8192, 16), _top_k(128, 1000, 5), _top_k(128, 1000, 100)),
        _top_k(4096, 64, 2),
    ),
    "broadcast": (
        *(_product((65536, 3), (3,)), _product((65536, 3), (65536, 1))),
        *(_product((65536, 10), (65536, 1)), _product((65536, 10), (10,))),
        *(_product((8, 56, 56, 64), (8, 1, 1, 64)), _product((1024, 1024), (1024, 1))),
        *(_product((4096, 5, 7), (4096, 1, 7)), _product((2048, 1), (1, 1000))),
    ),
    "slice": (
        *(_slice((4096, 256), _ALL, slice(0, 64)), _slice((4096, 256), _ALL, slice(0, None, 2))),
        *(_slice((8, 56, 56, 64), _ALL, slice(1, 55), slice(1, 55)),
          _slice((8, 56, 56, 64), _ALL, slice(0, None, 2), slice(0, None, 2))),
        *(_slice((65536, 10), _ALL, slice(1, 4)), _pad((8, 56, 56, 64), 0, 1, 1, 0)),
        *(_pad((128, 28, 28, 1), 0, 2, 2, 0), _pad((4096, 30), 0, 2)),
    ),
}  # fmt: skip
