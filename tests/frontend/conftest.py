"""Ways to run what is under test: traced, and differentiated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import keras
import numpy as np
import pytest

from hornfels.frontend import layers
from hornfels.frontend.keras_tensor import KerasTensor
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


RNG = np.random.default_rng(7)


class LayerOracle:
    """Compares a layer with Keras' layer of the same name and arguments."""

    def __init__(self, name: str, arguments: dict[str, Any], inputs: Any, **call: Any) -> None:
        self.inputs = inputs if isinstance(inputs, list) else [inputs]
        self.several = isinstance(inputs, list)
        self.call = call
        self.ours = getattr(layers, name)(**arguments)
        self.theirs = getattr(keras.layers, name)(**arguments)
        self.check_symbolic()
        self.check_weights()

    def check(self, rtol: float = 2e-5, atol: float = 2e-5) -> None:
        """Everything."""
        self.check_call(rtol, atol)
        self.check_config()

    def check_symbolic(self) -> None:
        """Shapes with an open batch, as a functional model finds them; builds both layers."""
        ours = [KerasTensor((None, *x.shape[1:]), x.dtype) for x in self.inputs]
        theirs = [keras.KerasTensor((None, *x.shape[1:]), str(x.dtype)) for x in self.inputs]
        assert self.ours(self._pack(ours)).shape == self.theirs(self._pack(theirs)).shape

    def check_weights(self) -> None:
        """Names, shapes, order, what is trainable; then random values are given to both."""
        ours, theirs = self.ours.weights, self.theirs.weights
        assert [w.name for w in ours] == [w.name for w in theirs]
        assert [w.shape for w in ours] == [tuple(w.shape) for w in theirs]
        assert [w.trainable for w in ours] == [w.trainable for w in theirs]
        values = [RNG.uniform(0.5, 1.5, w.shape).astype(np.float32) * (-1) ** i
                  if "variance" not in w.name else RNG.uniform(0.5, 1.5, w.shape)
                  for i, w in enumerate(ours)]  # fmt: skip
        self.ours.set_weights(values)
        self.theirs.set_weights(values)

    def _pack(self, tensors: Sequence[Any]) -> Any:
        return list(tensors) if self.several else tensors[0]

    def check_call(self, rtol: float, atol: float) -> None:
        """Outputs, their derivatives, and the weights that the call changes."""
        theirs, gradients = self._run_theirs()
        variables = self.ours.trainable_variables
        _, ours = differentiate(
            lambda *xs: self.ours(self._pack(xs), **self.call), self.inputs, variables
        )
        assert len(ours) == len(gradients)
        for a, b in zip(ours, gradients, strict=True):
            scale = max(1.0, float(np.abs(b).max()))
            np.testing.assert_allclose(a, b, rtol=10 * rtol, atol=atol * scale)
        outputs = self.ours(self._pack(self.inputs), **self.call)
        assert isinstance(outputs, np.ndarray)
        assert outputs.dtype == theirs.dtype
        assert outputs.shape == theirs.shape
        np.testing.assert_allclose(outputs, theirs, rtol=rtol, atol=atol)
        for w, v in zip(self.ours.weights, self.theirs.weights, strict=True):
            np.testing.assert_allclose(w.numpy(), np.asarray(v), rtol=rtol, atol=atol)

    def _run_theirs(self) -> tuple[np.ndarray, list[Any]]:
        """One call of Keras' layer: outputs and derivatives; its weights are updated."""
        floats = [i for i, x in enumerate(self.inputs) if x.dtype.kind == "f"]
        frozen = self.theirs.non_trainable_variables

        def total(differentiable: list[Any], state: list[Any]) -> Any:
            xs, weights = list(self.inputs), differentiable[len(floats) :]
            for i, x in zip(floats, differentiable, strict=False):
                xs[i] = x
            y, state = self.theirs.stateless_call(weights, state, self._pack(xs), **self.call)
            return (y * weights_like(y)).sum(), (y, state)

        at = [jax.numpy.asarray(self.inputs[i]) for i in floats]
        at += [v.value for v in self.theirs.trainable_variables]
        step = jax.jit(jax.value_and_grad(total, has_aux=True))  # one compilation, not many
        (_, (y, state)), gradients = step(at, [v.value for v in frozen])
        for variable, value in zip(frozen, state, strict=True):
            variable.assign(value)
        return np.asarray(y), gradients

    def check_config(self) -> None:
        """A layer made from the configuration gives the same; Keras reads it too."""
        config = self.ours.get_config()
        again = type(self.ours).from_config(config)
        again(self._pack(self.inputs))
        again.set_weights(self.ours.get_weights())
        np.testing.assert_array_equal(
            again(self._pack(self.inputs)), self.ours(self._pack(self.inputs))
        )
        written = layers.serialize(self.ours)
        assert type(keras.layers.deserialize(written)) is type(self.theirs)
        assert type(layers.deserialize(keras.layers.serialize(self.theirs))) is type(self.ours)


@pytest.fixture
def layer_oracle() -> Any:
    return LayerOracle
