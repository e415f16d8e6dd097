"""Ways to run what is under test: traced, and differentiated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from hornfels.frontend.trace import Trace
from hornfels.ir.autodiff import gradients
from hornfels.ir.evaluate import evaluate
from hornfels.ir.sugar import zeros_like
from hornfels.ir.types import type_of


def differentiate(
    function: Callable[..., Any], arrays: Sequence[np.ndarray], variables: Sequence[Any] = ()
) -> tuple[np.ndarray, list[np.ndarray]]:
    """What `function(*arrays)` gives, and the derivatives of its sum times 1.0, 1.1, 1.2, ...

    The derivatives are those with respect to the floating-point arrays, then to the variables.
    The function is traced into a graph, which the NumPy oracle runs.
    """
    with Trace("test") as trace:
        inputs = [trace.input(f"x{i}", type_of(a)) for i, a in enumerate(arrays)]
        output = function(*inputs)
        total = (output * weights_like(output)).sum()
        wrt = [x for x in inputs if x.dtype.is_float] + [trace.state_of(v) for v in variables]
        found = gradients(total, wrt)
        found = [zeros_like(w) if g is None else g for g, w in zip(found, wrt, strict=True)]
        graph = trace.finish({"y": output, **{f"g{i}": g for i, g in enumerate(found)}})
    feed = {f"x{i}": a for i, a in enumerate(arrays)}
    feed |= {name: v.numpy() for name, v in trace.variables.items()}
    run = evaluate(graph, feed)
    return run.outputs["y"], [run.outputs[f"g{i}"] for i in range(len(wrt))]


def weights_like(output: Any) -> np.ndarray:
    """1.0, 1.1, 1.2, ... in the shape of `output`."""
    shape = tuple(int(d) for d in output.shape)
    size = int(np.prod(shape))
    return (1 + 0.1 * (np.arange(size) % 17)).astype(np.float32).reshape(shape)


@pytest.fixture(name="differentiate")
def differentiate_fixture() -> Any:
    return differentiate


@pytest.fixture(name="weights_like")
def weights_like_fixture() -> Any:
    return weights_like
