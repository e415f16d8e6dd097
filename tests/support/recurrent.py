"""Training steps of recurrent networks as graphs: rows of an image are the steps of a scan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hornfels.ir import Builder, Graph, Value, gradients, sugar
from hornfels.ir.op import get
from hornfels.ir.types import DType, f64

GATES = {"simple": 1, "gru": 3, "lstm": 4}
CARRIES = {"simple": 1, "gru": 1, "lstm": 2}


def matmul(x: Value, y: Value) -> Value:
    return get("matmul")(x, y, transpose_a=False, transpose_b=False)


def cell(
    kind: str, carries: Sequence[Value], x: Value, w: Value, u: Value, b: Value
) -> list[Value]:
    """The new carries of a cell, its output first."""
    h, units = carries[0], int(carries[0].shape[1])
    sigmoid, tanh = get("sigmoid"), get("tanh")
    z, r = matmul(x, w) + b, matmul(h, u)
    if kind == "simple":
        return [tanh(z + r)]
    zs, rs = ([v[:, k * units : (k + 1) * units] for k in range(GATES[kind])] for v in (z, r))
    if kind == "gru":
        update, reset = sigmoid(zs[0] + rs[0]), sigmoid(zs[1] + rs[1])
        return [update * h + (1.0 - update) * tanh(zs[2] + reset * rs[2])]
    gates = [a + c for a, c in zip(zs, rs, strict=True)]
    memory = sigmoid(gates[1]) * carries[1] + sigmoid(gates[0]) * tanh(gates[2])
    return [sigmoid(gates[3]) * tanh(memory), memory]


def training_step(
    kind: str, length: int = 8, features: int = 8, units: int = 16, batch: int = 32, *,
    gradient: str = "store", reverse: bool = False, dtype: DType = f64,
) -> Graph:  # fmt: skip
    """One step of SGD with momentum on the cross entropy of ten classes.

    Inputs `x[length, batch, features]` and `y[batch, 10]`, output `loss`.
    """
    gates, carry = GATES[kind], CARRIES[kind]
    weights = {"w": dtype(features, gates * units), "u": dtype(units, gates * units),
               "b": dtype(gates * units), "head": dtype(units, 10)}  # fmt: skip
    with Builder("step") as body:
        carries = [body.input(f"c{i}", dtype(batch, units)) for i in range(carry)]
        x = body.input("x", dtype(batch, features))
        new = cell(kind, carries, x, *(body.input(k, weights[k]) for k in "wub"))
        step = body.finish({**{f"c{i}": v for i, v in enumerate(new)}, "y": new[0]})
    with Builder(f"{kind}_train") as builder:
        x, y = (
            builder.input("x", dtype(length, batch, features)),
            builder.input("y", dtype(batch, 10)),
        )
        held = {name: builder.variable(name, type) for name, type in weights.items()}
        zeros = [sugar.full((batch, units), 0.0, dtype) for _ in carries]
        *_, ys = get("scan").all(
            *zeros, x, *(held[k] for k in "wub"), body=step, carry=carry, stacked=1,
            length=length, gradient=gradient, reverse=reverse,
        )  # fmt: skip
        logits = matmul(ys.mean((0,)), held["head"])
        shifted = logits - get("stop_gradient")(logits.max(-1, keepdims=True))
        normal = get("log")(get("exp")(shifted).sum(-1))
        loss = (normal - (shifted * y).sum(-1)).mean()
        updates = []
        for value, slope in zip(held.values(), gradients(loss, list(held.values())), strict=True):
            moment = builder.variable(f"{value.name}/moment", value.type)
            moved = moment * 0.9 + slope
            updates += [(moment, moved), (value, value - moved * 0.1)]
        return builder.finish({"loss": loss}, updates)


def start(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights, and moments of 0."""
    rng = np.random.default_rng(seed)
    return {
        v.name: np.zeros(v.shape, v.dtype.numpy)
        if v.name.endswith("/moment")
        else rng.normal(0, 0.4, v.shape).astype(v.dtype.numpy)
        for v in graph.state
    }
