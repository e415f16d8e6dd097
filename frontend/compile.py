"""compile: models and functions as compiled programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .function import PythonFunction


def compile(
    model: Any = None,
    specs: Any = None,
    backend: str | None = None,
    target: str = "cpu",
    *,
    memory_budget: int | str | None = None,
    tune: float = 0.0,
    static: Sequence[str] = (),
) -> Any:
    """Compile a model, or a function written over `ops`, for a backend.

    Parameters
    ----------
    model : Model or callable
        A model of `hornfels`, built or not; or a function of tensors and nests of them, which may
        read and assign variables, call layers, draw random numbers and take gradients. Without
        one, `compile` is a decorator.
    specs : sequence or dict, optional
        For a function: what its arguments are, by position or by name. A tensor is described by
        a pair `(shape, dtype)`, an `InputSpec`, a `KerasTensor` or an example array; nests of
        them describe nests. In a shape, None leaves a size open, as does a name such as `"T"`,
        which means the same size wherever it stands; the first axis of all tensors is one size.
        Without specs the function is traced for the types of each call.
    backend : {"tvm", "onnx", "eager"}
        Native code, ONNX Runtime, or NumPy op by op.
    target : str
        For `tvm`: `"cpu"`, with LLVM options such as `"cpu -mcpu=haswell"`.
    memory_budget : int or str, optional
        For `tvm`: bytes that a step may take, or a text such as `"1.5 GiB"`: parameters, state,
        inputs, outputs and all that is temporary. To fit, values that the backward half of a
        training step needs are computed again rather than kept, the cheapest first.
    tune : float
        For `tvm`: seconds of a search, by measurement, for faster kernels, each time that a step
        is compiled; the compile cache keeps what was found. It wants a quiet machine.
    static : sequence of str
        Names of a function's arguments whose numbers are part of the program rather than
        tensors. Truth values, strings, variables and other objects always are.

    Returns
    -------
    CompiledModel
        For a model: with `fit`, `evaluate`, `predict`, `train_on_batch`, `export`, `graph`, ...
    CompiledFunction
        For a function: call it; it has `graph` and `export`.

    Raises
    ------
    ArgumentError
        If `model` is neither, or the specs do not fit the function.
    BackendError, LoweringError
        If the backend or the target cannot be had here.
    MemoryBudgetError
        When a step is compiled that the budget is too small for; its `minimum` is the least
        number of bytes that was found.

    Examples
    --------
    >>> fast = hornfels.compile(model)
    >>> fast.train_on_batch(x, y)

    >>> @hornfels.compile(specs=[((None, 3), "float32")], backend="onnx")
    ... def normalize(x):
    ...     return x / ops.sqrt(ops.sum(x * x, axis=1, keepdims=True))
    """
    if isinstance(specs, str):
        specs, backend = None, backend or specs  # compile(model, "onnx")
    if model is None:
        return _decorator(specs, backend, target, memory_budget=memory_budget, tune=tune,
                          static=static)  # fmt: skip
    from ..runtime.executable import DEFAULT_BACKEND, BackendOptions
    from ..runtime.function import CompiledFunction
    from ..runtime.session import compile as compile_model

    options = BackendOptions.of(target, memory_budget, tune)
    backend = backend or DEFAULT_BACKEND
    if callable(model) and not all(hasattr(model, n) for n in ("pack", "trace", "trace_key")):
        return CompiledFunction(PythonFunction(model, specs, static), backend, options)
    return compile_model(model, backend, options)


def _decorator(
    specs: Any, backend: str | None, target: str, **options: Any
) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        return compile(function, specs, backend, target, **options)

    return decorate
