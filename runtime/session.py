"""CompiledModel: a model bound to a backend, its state on the device; what `compile` returns."""

from __future__ import annotations

import contextvars
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..codegen.native.fork import renew_in_children
from ..codegen.native.memory import give_back
from ..ir import Graph, TensorType, symbol
from ..ir.collector import rare_collection
from ..ir.errors import ArgumentError, BackendError, ShapeError
from ..ir.types import type_of
from .data import Batch, size_of_batch, weights_of_classes
from .executable import (
    DEFAULT_BACKEND,
    DEFAULTS,
    OPEN,
    Backend,
    BackendOptions,
    Executable,
    State,
    make_backend,
)

if TYPE_CHECKING:
    from .profile import Profile

BATCH = "N"
"""The symbol of the batch dimension."""
COMPILERS = 2
"""Steps that are compiled at once: one that is waited for, and one for later."""


class Residence(Protocol):
    """Who holds a variable's array."""

    def read(self, variable: Any) -> np.ndarray: ...

    def write(self, variable: Any, array: np.ndarray) -> None: ...


class Variable(Protocol):
    """What the runtime needs of a frontend variable."""

    @property
    def residence(self) -> Residence | None: ...

    @property
    def array(self) -> np.ndarray: ...

    def move_to(self, residence: Residence) -> None: ...

    def move_home(self, residence: Residence) -> None: ...

    def numpy(self) -> np.ndarray: ...


class Trainable(Protocol):
    """What the runtime needs of a model."""

    stop_training: bool

    def pack(self, x: Any, y: Any = None, sample_weight: Any = None) -> Batch:
        """Flatten and check what the user gave into arrays by graph input name."""

    def unpack(self, outputs: Mapping[str, np.ndarray]) -> Any:
        """The prediction in the structure of the model's output."""

    def trace(
        self, kind: str, types: Mapping[str, TensorType]
    ) -> tuple[Graph, Mapping[str, Variable]]:
        """The graph of a step and the variables behind its state, by state name."""

    def trace_key(self) -> Any:
        """Changes whenever a trace made before is no longer what the model does."""

    def check(self, batch: Batch) -> None:
        """Refuse what only numbers show, such as labels that are no classes."""

    def reset_metrics(self) -> None: ...

    def finish_training(self) -> None:
        """Do what is due after the last epoch of `fit`."""

    def declared_types(self, kind: str) -> Mapping[str, TensorType]:
        """The types of a step's inputs as far as the model itself determines them."""

    def batch_of_states(self) -> int | None:
        """The batch size that states kept between steps ask for; None if there are none."""

    def shuffle_seed(self) -> int | None:
        """The seed of the order of examples; None for a fresh one."""


class Device:
    """Variables that live on a backend's device.

    A variable moves here when a step that needs it first runs here: the array on the device is
    the only one from then on, and is copied back when somebody asks for it. Arrays of variables
    that nobody has any longer, such as an old optimizer's, are dropped when others move here.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self._names: dict[int, str] = {}  # by the variables' ids
        self._held: dict[str, weakref.ref[Variable]] = {}

    def hold(self, variables: Mapping[str, Variable]) -> None:
        """Bring the variables here, under these names."""
        moving = {n: v for n, v in variables.items() if v.residence is not self}
        if not moving:
            return
        self._forget_the_dead()
        for name, variable in moving.items():
            self._release(name, unless=variable)
            self._names[id(variable)] = name
            self._held[name] = weakref.ref(variable)
            variable.move_to(self)
        give_back()  # what held the arrays before

    def rename(self, variables: Mapping[str, Variable]) -> None:
        """Send home what is here under other names than these."""
        for name, variable in variables.items():
            known = self._names.get(id(variable), name)
            if known != name and self._held[known]() is variable:
                self._release(known)

    def _release(self, name: str, unless: Variable | None = None) -> None:
        """Send the variable of that name home, since another one takes its place."""
        variable = self._held[name]() if name in self._held else None
        if variable is not None and variable is not unless:
            variable.move_home(self)
            del self._held[name], self._names[id(variable)]

    def _forget_the_dead(self) -> None:
        alive = {name: held for name, held in self._held.items() if held() is not None}
        for name in self._held.keys() - alive.keys():
            self.state.forget(name)
        self._held = alive
        found = ((name, held()) for name, held in alive.items())
        self._names = {id(variable): name for name, variable in found if variable is not None}

    def read(self, variable: Any) -> np.ndarray:
        return self.state.read(self._names[id(variable)])

    def write(self, variable: Any, array: np.ndarray) -> None:
        self.state.write(self._names[id(variable)], array)


class Step:
    """One traced step of a model and its executables by batch size."""

    def __init__(
        self,
        graph: Graph,
        variables: Mapping[str, Variable],
        backend: Backend,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.graph = graph
        self.inputs = tuple(v.name for v in graph.inputs)
        self.variables = variables
        self._backend = backend
        self._pool = pool
        self._executables: dict[int, Future[Executable]] = {}

    def executable(self, batch: int) -> Executable:
        """The executable for a batch size, compiled unless it is there or on its way."""
        return self.prefetch(batch).result()

    def prefetch(self, batch: int) -> Future[Executable]:
        """Begin to compile for a batch size in the background."""
        key = 0 if self._backend.symbolic else batch
        if key not in self._executables:
            context = contextvars.copy_context()  # the settings in force here
            self._executables[key] = self._pool.submit(context.run, self._compile, batch)
        return self._executables[key]

    def forked(self, pool: ThreadPoolExecutor) -> None:
        """Compile in these threads; what the parent's were at work on begins anew."""
        self._pool = pool
        self._executables = {key: e for key, e in self._executables.items() if e.done()}

    def _compile(self, batch: int) -> Executable:
        return self._backend.compile(self.graph, OPEN if self._backend.symbolic else {BATCH: batch})


class CompiledModel:
    """A model whose steps run as compiled programs.

    Several threads may call it; steps run one after the other, since they share the state and
    the memory of the program.

    Parameters
    ----------
    model : Model
        Its variables move to the backend's device at the first step that needs them, and can
        still be read and assigned through the model.
    backend : {"tvm", "onnx", "eager"}
    options : BackendOptions
        For the `tvm` backend; see `hornfels.compile`.

    Raises
    ------
    BackendError, LoweringError
        If the backend is unknown or not installed, or the target is not supported.
    """

    def __init__(
        self,
        model: Trainable,
        backend: str = DEFAULT_BACKEND,
        options: BackendOptions = DEFAULTS,
    ) -> None:
        self.model = model
        self.backend = make_backend(backend, options)
        self.device = Device(self.backend.state())
        self.random = np.random.default_rng(model.shuffle_seed())
        self._steps: dict[Any, Step] = {}
        self._ready: dict[Any, tuple[Step, Executable]] = {}  # by all that a run depends on
        self._open: dict[Any, Mapping[str, TensorType]] = {}  # inputs with open sizes
        self.forked()
        renew_in_children(self)

    def forked(self) -> None:
        """Have a lock and threads of this process's own."""
        self._lock = threading.RLock()
        self._pool = ThreadPoolExecutor(COMPILERS, thread_name_prefix="hornfels-compile")
        for step in self._steps.values():
            step.forked(self._pool)

    # --- steps -------------------------------------------------------------------------------

    def step(self, kind: str, types: Mapping[str, TensorType]) -> Step:
        """The traced step for inputs of these types (their first dimension is the batch)."""
        batch = self.model.batch_of_states() or symbol(BATCH)
        fixed = {name: t.with_shape((batch, *t.shape[1:])) for name, t in types.items()}
        with self._lock:
            opened = self._opened(kind, fixed) if self.backend.symbolic else fixed
            if opened != fixed:
                try:
                    return self._traced(kind, opened)
                except ShapeError:  # what works for each size need not work for all at once
                    self._open[kind, self.model.trace_key()] = {}
            return self._traced(kind, fixed)

    def _traced(self, kind: str, types: Mapping[str, TensorType]) -> Step:
        key = (kind, self.model.trace_key(), tuple(sorted(types.items())))
        if key not in self._steps:
            self._drop_old()
            with rare_collection():
                graph, variables = self.model.trace(kind, types)
            self.device.rename(variables)
            self._steps[key] = Step(graph, variables, self.backend, self._pool)
        return self._steps[key]

    def _drop_old(self) -> None:
        """Let go of the traces that are no longer what the model does, and their variables."""
        now = self.model.trace_key()
        self._steps = {key: step for key, step in self._steps.items() if key[1] == now}
        self._ready = {key: found for key, found in self._ready.items() if key[1] == now}
        self._open = {key: types for key, types in self._open.items() if key[1] == now}

    def _opened(self, kind: str, types: Mapping[str, TensorType]) -> Mapping[str, TensorType]:
        """The types with every size open that the model's declared inputs leave open."""
        key = (kind, self.model.trace_key())
        if key not in self._open:
            try:
                declared = self.model.declared_types(kind)
            except ArgumentError:  # a model that declares no inputs
                declared = {}
            self._open[key] = {n: t for n, t in declared.items() if t.symbols - {BATCH}}
        declared = self._open[key]
        if not declared:
            return types
        return {name: _open_sizes(t, declared.get(name, t)) for name, t in types.items()}

    def run(self, kind: str, batch: Batch, *, anew: bool = False) -> dict[str, np.ndarray]:
        """Run one step on a packed batch: `"train"`, `"test"` or `"predict"`.

        With `anew` the metrics begin with this step, once nothing refuses it.
        """
        with self._lock:
            step, executable = self._executable(kind, batch)
            self.model.check(batch)
            if anew:
                self.model.reset_metrics()
            self.device.hold(step.variables)
            return executable(self.device.state, {name: batch[name] for name in step.inputs})

    def _executable(self, kind: str, batch: Batch) -> tuple[Step, Executable]:
        """The step for a batch and its executable, found at once for what has run before."""
        shapes = tuple([(name, array.dtype, array.shape) for name, array in batch.items()])
        key = (kind, self.model.trace_key(), self.model.batch_of_states(), shapes)
        found = self._ready.get(key)
        if found is None:
            step = self.step(kind, {name: type_of(array) for name, array in batch.items()})
            found = self._ready[key] = (step, step.executable(size_of_batch(batch)))
        return found

    def prepare(self, kind: str, batch: Batch, sizes: Sequence[int]) -> None:
        """Compile for the first size now and for the others in the background."""
        with self._lock:
            step = self.step(kind, {name: type_of(array) for name, array in batch.items()})
            step.executable(sizes[0])
            for size in sizes[1:]:
                step.prefetch(size)

    # --- what users call ---------------------------------------------------------------------

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """One training step; returns the loss, or loss and metrics (a list or a dict)."""
        batch = self.pack(x, y, sample_weight, class_weight)
        return _logs(self.run("train", batch, anew=True), return_dict)

    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """One evaluation step; returns as `train_on_batch` does."""
        batch = self.model.pack(x, y, sample_weight)
        return _logs(self.run("test", batch, anew=True), return_dict)

    def predict_on_batch(self, x: Any) -> Any:
        """The model's output for one batch, as arrays."""
        return self.model.unpack(self.run("predict", self.model.pack(x)))

    def pack(
        self, x: Any, y: Any, sample_weight: Any, class_weight: Mapping[int, float] | None = None
    ) -> Batch:
        """The model's `pack`, with class weights turned into weights of examples."""
        batch = self.model.pack(x, y, sample_weight)
        if class_weight is None:
            return batch
        if "y" not in batch or "sample_weight" in batch:
            raise ArgumentError("class_weight needs one array of labels and excludes sample_weight")
        return {**batch, "sample_weight": weights_of_classes(batch["y"], class_weight)}

    def fit(self, *arguments: Any, **options: Any) -> Any:
        """Train for epochs; see `runtime.loops.fit` for the arguments (Keras' own)."""
        from .loops import fit

        return fit(self, *arguments, **options)

    def evaluate(self, *arguments: Any, **options: Any) -> Any:
        """Loss and metrics over a data set; see `runtime.loops.evaluate`."""
        from .loops import evaluate

        return evaluate(self, *arguments, **options)

    def predict(self, *arguments: Any, **options: Any) -> Any:
        """Outputs over a data set; see `runtime.loops.predict`."""
        from .loops import predict

        return predict(self, *arguments, **options)

    def graph(self, kind: str = "predict") -> Graph:
        """The traced, unoptimized IR of a step: `"train"`, `"test"` or `"predict"`.

        The input types are the model's own; a model that has not seen data yet and declares no
        input cannot be traced.
        """
        return self.step(kind, self._declared_types(kind)).graph

    def profile(
        self, x: Any, y: Any = None, sample_weight: Any = None, *, kind: str = "train",
        steps: int = 10,
    ) -> Profile:  # fmt: skip
        """Where the time of a step goes, kernel by kernel; see `runtime.profile.Profile`.

        The steps run on copies: neither the model nor its metrics change.

        Parameters
        ----------
        x, y, sample_weight
            One batch, as for `train_on_batch`.
        kind : {"train", "test", "predict"}
        steps : int
            How many steps count.

        Raises
        ------
        BackendError
            If the backend is not `"tvm"`.
        """
        return self.profile_batch(kind, self.model.pack(x, y, sample_weight), steps)

    def profile_batch(self, kind: str, batch: Batch, steps: int = 10) -> Profile:
        """As `profile`, of a packed batch."""
        from .profile import profile
        from .tvm_backend import TvmBackend

        if not isinstance(self.backend, TvmBackend):
            raise BackendError(f'profile needs backend "tvm", got "{self.backend.name}"')
        with self._lock:
            step = self.step(kind, {name: type_of(array) for name, array in batch.items()})
            state = {name: variable.numpy() for name, variable in step.variables.items()}
            graph = step.graph.specialize({BATCH: size_of_batch(batch)})
        return profile(self.backend, graph, state, batch, steps)

    def export(self, path: str | os.PathLike[str], kind: str = "predict") -> None:
        """Write a step as a plain ONNX model: `"predict"`, or `"train"` for a training step."""
        from ..codegen.onnx.export import export_inference, export_train_step

        if kind not in ("predict", "train"):
            raise ArgumentError(f"kind must be 'predict' or 'train', got {kind!r}")
        step = self.step(kind, self._declared_types(kind))
        arrays = {name: variable.numpy() for name, variable in step.variables.items()}
        writer: Callable[..., None] = export_inference if kind == "predict" else export_train_step
        writer(step.graph, arrays, path)

    def _declared_types(self, kind: str) -> Mapping[str, TensorType]:
        """The model's declared input types, or those of a step of this kind that ran."""
        for (known, version, types), _ in reversed(self._steps.items()):
            if known == kind and version == self.model.trace_key():
                return self._opened(kind, dict(types))
        return self.model.declared_types(kind)


def _open_sizes(found: TensorType, declared: TensorType) -> TensorType:
    """`found` with the symbols of `declared`, if the two fit."""
    if found.ndim != declared.ndim or found.dtype != declared.dtype:
        return found
    pairs = list(zip(found.shape, declared.shape, strict=True))
    if any(isinstance(want, int) and want != have for have, want in pairs):
        return found
    return declared


def compile(
    model: Any, backend: str = DEFAULT_BACKEND, options: BackendOptions = DEFAULTS
) -> CompiledModel:
    """Compile a model for a backend; see `hornfels.compile`."""
    if not all(hasattr(model, name) for name in ("pack", "trace", "trace_key")):
        raise ArgumentError(f"compile: expected a hornfels model, got {type(model).__name__}")
    return CompiledModel(model, backend, options)


def _logs(outputs: Mapping[str, np.ndarray], return_dict: bool) -> Any:
    """Loss and metrics as Keras returns them: a dict, one number, or a list of numbers."""
    values = {name: float(array) for name, array in outputs.items()}
    if return_dict:
        return values
    return next(iter(values.values())) if len(values) == 1 else list(values.values())
