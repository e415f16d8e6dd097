"""Hornfels: Keras-style models, baked into native code or plain ONNX.

>>> import hornfels as hf
>>> from hornfels import layers
>>> model = hf.Sequential([layers.Input((784,)), layers.Dense(10, activation="softmax")])
>>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
>>> fast = hf.compile(model, backend="tvm")

The modules `layers`, `models`, `ops`, `losses`, `metrics`, `optimizers`, `initializers`,
`regularizers`, `constraints`, `activations`, `callbacks`, `datasets`, `random`, `utils`, `config`
and `backend` hold what Keras' modules of these names hold.
"""

from __future__ import annotations

import sys

from . import datasets
from .frontend import (
    activations,
    backend,
    config,
    constraints,
    initializers,
    layers,
    losses,
    metrics,
    models,
    ops,
    optimizers,
    random,
    regularizers,
    utils,
)
from .frontend.compile import compile
from .frontend.dtype_policy import DTypePolicy
from .frontend.gradients import gradients
from .frontend.initializers import Initializer
from .frontend.keras_tensor import KerasTensor
from .frontend.layers import Input, InputSpec, Layer
from .frontend.losses import Loss
from .frontend.metrics import Metric
from .frontend.models import Functional, Model, Sequential
from .frontend.naming import name_scope
from .frontend.operation import Operation, operation
from .frontend.ops.autodiff import (
    custom_gradient,
    grad,
    hessian_vector_product,
    jvp,
    value_and_grad,
    vjp,
)
from .frontend.optimizers import Optimizer
from .frontend.regularizers import Regularizer
from .frontend.trace import Trace
from .frontend.variable import Variable
from .ir import errors
from .ir.settings import settings
from .runtime import callbacks
from .runtime.function import CompiledFunction
from .runtime.session import CompiledModel

__version__ = "0.1.0"

# `from hornfels.layers import Dense` is written as often as `hornfels.layers.Dense`.
_MODULES = (
    activations, backend, callbacks, config, constraints, errors, initializers, layers, losses,
    metrics, models, ops, optimizers, random, regularizers, utils,
)  # fmt: skip
for _module in _MODULES:
    sys.modules[f"{__name__}.{_module.__name__.rpartition('.')[2]}"] = _module


def version() -> str:
    """The version of this package."""
    return __version__


__all__ = [
    "CompiledFunction",
    "CompiledModel",
    "DTypePolicy",
    "Functional",
    "Initializer",
    "Input",
    "InputSpec",
    "KerasTensor",
    "Layer",
    "Loss",
    "Metric",
    "Model",
    "Operation",
    "Optimizer",
    "Regularizer",
    "Sequential",
    "Trace",
    "Variable",
    "__version__",
    "activations",
    "backend",
    "callbacks",
    "compile",
    "config",
    "constraints",
    "custom_gradient",
    "datasets",
    "errors",
    "grad",
    "gradients",
    "hessian_vector_product",
    "initializers",
    "jvp",
    "layers",
    "losses",
    "metrics",
    "models",
    "name_scope",
    "operation",
    "ops",
    "optimizers",
    "random",
    "regularizers",
    "settings",
    "utils",
    "value_and_grad",
    "version",
    "vjp",
]
