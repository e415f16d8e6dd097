"""A case in Hornfels and in Keras on JAX: results and derivatives."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import keras
import numpy as np

import hornfels
from hornfels.frontend.trace import Trace
from hornfels.ir import Graph, sugar
from hornfels.ir.autodiff import gradients
from hornfels.ir.builder import suspended
from hornfels.ir.graph import Value
from hornfels.ir.types import type_of

from .case import Case


def function(module: Any, name: str) -> Callable[..., Any]:
    """`ops.image.resize` by its name below `ops`."""
    return functools.reduce(getattr, name.split("."), module)


def flat(result: Any) -> list[Any]:
    """A result as a list."""
    if isinstance(result, list | tuple):
        return [leaf for item in result for leaf in flat(item)]
    return [result]


def arrays_of(x: Any) -> list[np.ndarray]:
    """The arrays among arguments, from left to right."""
    if isinstance(x, Case):
        return arrays_of((x.args, tuple(x.kwargs.values())))
    if isinstance(x, list | tuple):
        return [a for item in x for a in arrays_of(item)]
    return [x] if isinstance(x, np.ndarray) else []


def call(module: Any, case: Case, arrays: Sequence[Any]) -> list[Any]:
    """The call with other things in place of its arrays."""
    following = iter(arrays)

    def replaced(x: Any) -> Any:
        if isinstance(x, list | tuple):
            return type(x)(map(replaced, x))
        return next(following) if isinstance(x, np.ndarray) else x

    args = replaced(case.args)
    kwargs = dict(zip(case.kwargs, replaced(tuple(case.kwargs.values())), strict=True))
    return flat(function(module, case.name)(*args, **kwargs))


def weights(shape: Sequence[int]) -> np.ndarray:
    """1.0, 1.1, 1.2, ...: a cotangent."""
    size = math.prod(shape)
    return (1 + 0.1 * (np.arange(size) % 17)).astype(np.float32).reshape(shape)


def differentiable(case: Case) -> list[int]:
    """Which of the arrays derivatives are taken of."""
    if not case.gradient or not case.traced or not case.jit or not _inexact(case):
        return []
    return [i for i, a in enumerate(arrays_of(case)) if a.dtype == np.float32]


_KNOWN: dict[int, bool] = {}


def _inexact(case: Case) -> bool:
    """Whether a result is floating point."""
    if id(case) not in _KNOWN:
        _KNOWN[id(case)] = any(np.asarray(y).dtype == np.float32 for y in eager(case))
    return _KNOWN[id(case)]


# --- Keras -----------------------------------------------------------------------------------

CHUNK = 40
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def _in_keras(case: Case, arrays: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    at = differentiable(case)

    def total(*floating: Any) -> tuple[Any, list[Any]]:
        given = list(arrays)
        for i, x in zip(at, floating, strict=True):
            given[i] = x
        found = call(keras.ops, case, given)
        inexact = [
            y for y in found if jax.numpy.issubdtype(jax.numpy.asarray(y).dtype, np.floating)
        ]
        return sum((y * weights(y.shape)).sum() for y in inexact), found

    if not at:
        return total()[1], []
    wrt = tuple(range(len(at)))
    (_, found), slopes = jax.value_and_grad(total, argnums=wrt, has_aux=True)(
        *(arrays[i] for i in at)
    )
    return found, list(slopes)


class Keras:
    """Results of Keras, computed for many cases at a time: compiling each would take minutes."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.traced = [c for c in cases if c.traced and c.jit and arrays_of(c)]
        self.place = {id(c): i for i, c in enumerate(self.traced)}
        self.chunks: dict[int, Any] = {}

    def __call__(self, case: Case) -> tuple[list[Any], list[Any]]:
        """Results and derivatives."""
        if id(case) not in self.place:
            return _in_keras(case, arrays_of(case))
        chunk, at = divmod(self.place[id(case)], CHUNK)
        if chunk not in self.chunks:
            self.chunks[chunk] = self._run(self.traced[chunk * CHUNK : (chunk + 1) * CHUNK])
        return self.chunks[chunk][at]  # type: ignore[no-any-return]

    @staticmethod
    def _run(cases: Sequence[Case]) -> Any:
        def all_of_them(inputs: Any) -> Any:
            return [_in_keras(c, a) for c, a in zip(cases, inputs, strict=True)]

        inputs = [arrays_of(c) for c in cases]
        program = jax.jit(all_of_them).lower(inputs).compile(compiler_options=_QUICK)
        return program(inputs)


# --- Hornfels --------------------------------------------------------------------------------


def traced(cases: Sequence[Case], with_gradients: bool) -> tuple[Graph, dict[str, np.ndarray]]:
    """One graph of many cases, and its inputs; its outputs are `<case>/y<i>` and `<case>/g<i>`."""
    feed: dict[str, np.ndarray] = {}
    outputs: dict[str, Value] = {}
    with Trace("cases") as trace:
        for number, case in enumerate(cases):
            arrays = arrays_of(case)
            inputs = []
            for i, a in enumerate(arrays):
                feed[f"{number}/x{i}"] = a
                inputs.append(trace.input(f"{number}/x{i}", type_of(a)))
            found = [sugar.value(y) for y in call(hornfels.ops, case, inputs)]
            outputs |= {f"{number}/y{i}": y for i, y in enumerate(found)}
            wrt = [inputs[i] for i in differentiable(case)] if with_gradients else []
            inexact = [y for y in found if y.dtype.is_float]
            if wrt and inexact:
                total = sum((y * weights(y.shape)).sum() for y in inexact)
                slopes = gradients(total, wrt)
                slopes = [sugar.zeros_like(w) if g is None else g
                          for g, w in zip(slopes, wrt, strict=True)]  # fmt: skip
                outputs |= {f"{number}/g{i}": g for i, g in enumerate(slopes)}
        graph = trace.finish(outputs)
    used = {v.name for v in graph.inputs}
    return graph, {k: v for k, v in feed.items() if k in used}


def eager(case: Case) -> list[Any]:
    """The results, computed at once, in a trace too."""
    with suspended():
        return call(hornfels.ops, case, arrays_of(case))
