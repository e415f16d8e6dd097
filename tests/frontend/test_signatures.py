"""Names, arguments, their order and their defaults are those of Keras."""

from __future__ import annotations

import inspect

import keras
import pytest

from hornfels.frontend import (
    activations,
    constraints,
    initializers,
    layers,
    losses,
    metrics,
    optimizers,
    random,
    regularizers,
)  # fmt: skip
from hornfels.frontend.optimizers import schedules
from hornfels.frontend.optimizers.optimizer import Optimizer, Options

MODULES = {
    "layers": (layers, keras.layers), "losses": (losses, keras.losses),
    "metrics": (metrics, keras.metrics), "optimizers": (optimizers, keras.optimizers),
    "schedules": (schedules, keras.optimizers.schedules),
    "initializers": (initializers, keras.initializers),
    "regularizers": (regularizers, keras.regularizers),
    "constraints": (constraints, keras.constraints),
    "activations": (activations, keras.activations), "random": (random, keras.random),
}  # fmt: skip
DIFFERENT = {
    "layers.Layer", "layers.InputLayer", "layers.Lambda", "initializers.Initializer",
    "regularizers.Regularizer",
    "constraints.Constraint", "schedules.LearningRateSchedule", "initializers.Zeros",
    "initializers.Ones", "initializers.zeros", "initializers.ones", "constraints.NonNeg",
    "constraints.non_neg", "metrics.Metric",
}  # fmt: skip  # abstract, or without arguments, or of a form of their own


def pairs():
    for module, (ours, theirs) in MODULES.items():
        for name in dir(theirs):
            both = getattr(ours, name, None), getattr(theirs, name)
            if name in ("serialize", "deserialize") or f"{module}.{name}" in DIFFERENT:
                continue
            if name[0] != "_" and all(map(callable, both)):
                yield pytest.param(*both, id=f"{module}.{name}")


def parameters(item):
    found = inspect.signature(item.__init__ if isinstance(item, type) else item).parameters
    return {n: p for n, p in found.items() if n != "self"}


def plain(default):
    """`(1, 1)` and `1` mean the same for windows and strides."""
    if isinstance(default, tuple) and default and len(set(default)) == 1:
        return plain(default[0])
    return default


PAIRS = list(pairs())


def test_most_of_keras_small_families_is_there():
    assert len(PAIRS) > 200


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_signature_is_that_of_keras(ours, theirs):
    mine, wanted = parameters(ours), parameters(theirs)
    open_ended = [p for p in mine.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    named = [n for n, p in mine.items() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    keras_named = [n for n, p in wanted.items() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    assert [n for n in named if n in wanted] == [n for n in keras_named if n in mine]
    assert set(named) <= set(wanted), "arguments that Keras does not have"
    for name in keras_named:
        if name in mine:
            assert plain(mine[name].default) == plain(wanted[name].default), name
        else:  # given by name to the base class
            assert open_ended, name
            assert issubclass(ours, Optimizer), name
            assert name in Options.__annotations__, name
            default = inspect.signature(Optimizer.__init__).parameters[name].default
            assert default == wanted[name].default, name
