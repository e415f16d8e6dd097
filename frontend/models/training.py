"""Trainer: the steps of training, evaluation and prediction, and the graphs made of them.

The steps are ordinary Python over `ops`. What runs them, over which data and on what device,
is the runtime's, which is imported when `fit` and its like are called.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...ir import sugar
from ...ir.builder import current
from ...ir.errors import ArgumentError, DTypeError, HornfelsError, ShapeError
from ...ir.graph import Graph, Value
from ...ir.types import DTYPES, TensorType, as_dtype, f64, i32, type_of
from .. import config, ops, tree
from ..gradients import gradients
from ..keras_tensor import BATCH, KerasTensor
from ..trace import StateNames, Trace
from ..variable import Variable, changes
from .objectives import Flat, Objectives


class Trainer:
    """What a `Model` has beyond a layer: compile, fit, evaluate, predict and their steps."""

    def __init__(self) -> None:
        self.optimizer: Any = None
        self.stop_training = False
        self.history: Any = None
        self._objectives: Objectives | None = None
        self._version = 0
        self._stateful: tuple[Any, list[Any]] = (None, [])
        self._state_names = StateNames()
        self._compiled: Any = None
        self._backend: str | None = None
        self._options: dict[str, Any] = {}  # of the backend
        self._prediction_structure: Any = None

    # --- compile -----------------------------------------------------------------------------

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: Any = "auto",
        auto_scale_loss: bool = True,
        *,
        backend: str | None = None,
        target: str = "cpu",
        memory_budget: int | str | None = None,
        tune: float = 0.0,
    ) -> None:
        """Say how the model is trained.

        Parameters
        ----------
        optimizer : str or Optimizer
        loss : str, callable, Loss, or a list or dict of them for several outputs
        loss_weights : float, list or dict, optional
        metrics, weighted_metrics : list or dict, optional
            The latter take the weights of examples into account.
        run_eagerly : bool
            Run on the `eager` backend: NumPy, op by op.
        backend, target, memory_budget, tune : optional
            What `fit`, `evaluate` and `predict` run on; see `hornfels.compile`.

        Raises
        ------
        ArgumentError
            If the name of an optimizer, loss or metric is unknown.
        """
        from .. import optimizers

        objectives = Objectives(loss, loss_weights, metrics, weighted_metrics)
        self.optimizer = optimizers.get(optimizer)
        self._objectives = objectives
        self._backend = "eager" if run_eagerly else backend
        self._options = {"target": target, "memory_budget": memory_budget, "tune": tune}
        self._compiled = None
        self._state_names = StateNames()
        self._changed()

    def _changed(self) -> None:
        """Traces made before are out of date."""
        self._version += 1

    @property
    def compiled(self) -> bool:
        """Whether `compile` was called."""
        return self._objectives is not None

    @property
    def loss(self) -> Any:
        """The loss as given to `compile`."""
        return self._objectives.loss if self._objectives else None

    def _needs_compile(self) -> Objectives:
        if self._objectives is None:
            raise ArgumentError(
                f"model {self.name!r}: has no loss and no optimizer yet",  # type: ignore[attr-defined]
                hint="call model.compile(optimizer, loss) first",
            )
        return self._objectives

    @property
    def metrics(self) -> list[Any]:
        """The mean of the loss and the metrics of `compile`, as far as they are known yet."""
        return self._objectives.metrics if self._objectives else []

    @property
    def metrics_names(self) -> list[str]:
        return self._objectives.keys if self._objectives else []

    @property
    def metrics_variables(self) -> list[Variable]:
        return [v for metric in self.metrics for v in metric.variables]

    def reset_metrics(self) -> None:
        """Begin all metrics anew."""
        for metric in self.metrics:
            metric.reset_state()

    def finish_training(self) -> None:
        """After the last epoch: weights that the optimizer averages take their averages."""
        finalize = getattr(self.optimizer, "finalize_variable_values", None)
        if finalize is not None and self.optimizer.built:
            finalize(self.trainable_variables)  # type: ignore[attr-defined]

    # --- the steps ---------------------------------------------------------------------------

    def train_step(self, x: Any, y: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Predict, differentiate the loss, update weights and metrics; returns the logs.

        Override it for a training step of another kind: it is traced and compiled like this one.
        """
        y_pred = self(x, training=True)  # type: ignore[operator]
        loss = self.compute_loss(x, y, y_pred, sample_weight)
        self._track_loss(loss, x)
        scaled = loss
        if getattr(self.optimizer, "loss_scale_factor", None) is not None:
            scaled = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables  # type: ignore[attr-defined]
        if variables:
            self.optimizer.apply(gradients(scaled, variables), variables)
        return self.compute_metrics(x, y, y_pred, sample_weight)

    def test_step(self, x: Any, y: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Predict and update loss and metrics; returns the logs."""
        y_pred = self(x, training=False)  # type: ignore[operator]
        self._track_loss(self.compute_loss(x, y, y_pred, sample_weight, training=False), x)
        return self.compute_metrics(x, y, y_pred, sample_weight)

    def predict_step(self, x: Any) -> Any:
        """The outputs for a batch."""
        return self(x, training=False)  # type: ignore[operator]

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None,
        training: bool = True,
    ) -> Any:  # fmt: skip
        """The sum of the weighted losses of `compile` and of those that layers added."""
        objectives = self._needs_compile()
        labels, outputs, weights = self._flat(y, y_pred, sample_weight)
        objectives.build(labels, outputs, self._output_names(y_pred))
        total = objectives.total(labels, outputs, weights, self.losses)  # type: ignore[attr-defined]
        if total is None:
            raise ArgumentError(
                f"model {self.name!r}: there is no loss to compute",  # type: ignore[attr-defined]
                hint="give compile a loss, or add one in a layer with add_loss",
            )
        return total

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """Take the batch into the metrics; returns all results so far."""
        objectives = self._needs_compile()
        labels, outputs, weights = self._flat(y, y_pred, sample_weight)
        objectives.build(labels, outputs, self._output_names(y_pred))
        objectives.update_metrics(labels, outputs, weights)
        return self.get_metrics_result()

    def get_metrics_result(self) -> dict[str, Any]:
        """The results of all metrics so far by name."""
        return self._needs_compile().results()

    def _track_loss(self, loss: Any, x: Any) -> None:
        batch = ops.shape(tree.flatten(x)[0])[0]
        self._needs_compile().loss_tracker.update_state(loss, sample_weight=batch)

    def _flat(self, y: Any, y_pred: Any, sample_weight: Any) -> tuple[Flat, Flat, Flat]:
        """Labels, outputs and weights, one of each for each output."""
        outputs = tree.flatten(y_pred)
        names = self._output_names(y_pred)
        labels = _for_outputs("y", y, names)
        weights = _for_outputs("sample_weight", sample_weight, names, repeat=True)
        return labels, outputs, weights

    def _output_names(self, y_pred: Any) -> list[str]:
        network = getattr(self, "_network", None)
        if isinstance(y_pred, dict):
            return list(y_pred)
        if network is not None and len(network.outputs) == len(tree.flatten(y_pred)):
            return list(network.output_names)
        return [f"output_{i}" for i in range(len(tree.flatten(y_pred)))]

    # --- graphs ------------------------------------------------------------------------------

    def trace(
        self, kind: str, types: Mapping[str, TensorType]
    ) -> tuple[Graph, dict[str, Variable]]:
        """The graph of a step.

        Parameters
        ----------
        kind : str
            `train`, `test` or `predict`.
        types : mapping of str to TensorType
            By input name, as `pack` names them: `x` or `x/0`, `x/1`; `y`; `sample_weight`.

        Returns
        -------
        Graph, dict of str to Variable
            And the variables behind its state, by the names that they have in it.
        """
        name = f"{self.name}_{kind}"  # type: ignore[attr-defined]
        with Trace(name, self._state_names) as trace:
            values = {name: trace.input(name, t) for name, t in types.items()}
            x, y, weight = (_nested(name, values) for name in ("x", "y", "sample_weight"))
            if kind == "predict":
                outputs = self._traced_prediction(x)
            elif kind == "train":
                outputs = _logs(self.train_step(x, y, weight))
            elif kind == "test":
                outputs = _logs(self.test_step(x, y, weight))
            else:
                raise ArgumentError(f"kind must be train, test or predict, got {kind!r}")
            graph = trace.finish(outputs)
        for layer in self._flatten_layers():  # type: ignore[attr-defined]
            layer._losses.clear()
        return graph, dict(trace.variables)

    def make_graph(
        self, kind: str, x: Any = None, y: Any = None, sample_weight: Any = None
    ) -> Graph:
        """The graph of a step for inputs such as these: arrays, types, or lists or dicts of them.

        Their first dimension becomes the batch `N`. Without any, the model's declared inputs
        are taken.
        """
        given = {"x": x, "y": y, "sample_weight": sample_weight}
        types = {
            name: _batched(value)
            for part, nest in given.items() if nest is not None
            for name, value in _named(part, nest).items()
        }  # fmt: skip
        return self.trace(kind, types or self.declared_types(kind))[0]

    def _traced_prediction(self, x: Any) -> dict[str, Value]:
        result = self.predict_step(x)
        self._prediction_structure = tree.map_structure(lambda _: None, result)
        return _named("output", tree.map_structure(sugar.value, result))

    def trace_key(self) -> Any:
        """Changes whenever traces made before are out of date."""
        return (self._version, changes(), config.floatx())

    def declared_types(self, kind: str) -> dict[str, TensorType]:
        """The input types as far as the model determines them: batch `N`, labels by the loss."""
        network = getattr(self, "_network", None)
        if network is None:
            raise ArgumentError(
                f"model {self.name!r}: declares no inputs, so it must see data first",  # type: ignore[attr-defined]
                hint="pass example arrays, or call the model once",
            )
        types = _named("x", tree.map_structure(lambda t: t.type, network.input_structure))
        if kind == "predict":
            return types
        losses = tree.flatten(self.loss)
        labels = [
            _label_type(losses[min(i, len(losses) - 1)], t.type)
            for i, t in enumerate(network.outputs)
        ]
        return {**types, **_named("y", labels if len(labels) > 1 else labels[0])}

    # --- data in and out ---------------------------------------------------------------------

    def pack(self, x: Any, y: Any = None, sample_weight: Any = None) -> dict[str, np.ndarray]:
        """Arrays by the graph inputs' names, in dtypes that graphs take, all of one length.

        Raises
        ------
        ArgumentError, ShapeError, DTypeError
            If the number of inputs, a length or a dtype does not fit.
        """
        network = getattr(self, "_network", None)
        takes_one = network is None or isinstance(network.input_structure, KerasTensor)
        if network is not None and not (takes_one and _is_taken(x)):
            given = network.arrange(_arrays("x", x, len(network.inputs)))
            x = tree.pack_like(network.input_structure, given)
        batch = _named_arrays("x", x)
        if y is not None:
            if isinstance(y, dict) and network is not None:
                y = _for_outputs("y", y, self._output_names(network.output_structure))
                y = y[0] if len(y) == 1 else y
            batch |= _named_arrays("y", y)
        if sample_weight is not None:
            batch |= _named_arrays("sample_weight", sample_weight)
        sizes = {name: len(a) if a.ndim else 0 for name, a in batch.items()}
        if len(set(sizes.values())) > 1:
            raise ArgumentError(
                f"model {self.name!r}: arrays must have the same number of examples, "  # type: ignore[attr-defined]
                f"got {', '.join(f'{n}: {s}' for n, s in sizes.items())}"
            )
        return batch

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Refuse labels that are no classes; the runtime asks before each step with labels."""
        if self._objectives is not None:
            labels = [a for name, a in batch.items() if name.partition("/")[0] == "y"]
            self._objectives.check_labels(labels)

    def unpack(self, outputs: Mapping[str, np.ndarray]) -> Any:
        """The prediction in the structure that the model returns."""
        return tree.pack_like(self._prediction_structure, list(outputs.values()))

    def batch_of_states(self) -> int | None:
        """The batch size of the states that stateful layers keep; None if there are none.

        Asked before each step, so which layers are stateful is found once for all traces.
        """
        key = self.trace_key()
        if self._stateful[0] != key:
            found = [x for x in self._flatten_layers() if getattr(x, "stateful", False)]  # type: ignore[attr-defined]
            self._stateful = (key, found)
        for layer in self._stateful[1]:
            kept = tree.flatten(getattr(layer, "states", None))
            if isinstance(kept[0] if kept else None, Variable):
                return int(kept[0].shape[0])
        return None

    def shuffle_seed(self) -> int | None:
        """The seed of the order of examples; repeatable after `set_random_seed`."""
        from ..random import make_default_seed

        return make_default_seed()

    # --- the runtime -------------------------------------------------------------------------

    def _runtime(self) -> Any:
        """This model on the backend that `compile` named."""
        if self._compiled is None:
            from ...runtime.executable import DEFAULT_BACKEND, BackendOptions
            from ...runtime.session import CompiledModel

            options = BackendOptions.of(**self._options)
            self._compiled = CompiledModel(self, self._backend or DEFAULT_BACKEND, options)
        return self._compiled

    def fit(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, epochs: int = 1,
        verbose: int | str = "auto", callbacks: Any = None, validation_split: float = 0.0,
        validation_data: Any = None, shuffle: bool = True, class_weight: Any = None,
        sample_weight: Any = None, initial_epoch: int = 0, steps_per_epoch: int | None = None,
        validation_steps: int | None = None, validation_batch_size: int | None = None,
        validation_freq: int = 1,
    ) -> Any:  # fmt: skip
        """Train for epochs; arguments and result as in Keras.

        Returns
        -------
        History
            `history.history` has the logs of every epoch by name.
        """
        self._needs_compile()
        return self._runtime().fit(
            x, y, batch_size=batch_size, epochs=epochs, verbose=verbose, callbacks=callbacks,
            validation_split=validation_split, validation_data=validation_data, shuffle=shuffle,
            class_weight=class_weight, sample_weight=sample_weight, initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch, validation_steps=validation_steps,
            validation_batch_size=validation_batch_size, validation_freq=validation_freq,
        )  # fmt: skip

    def evaluate(
        self, x: Any = None, y: Any = None, batch_size: int | None = None,
        verbose: int | str = "auto", sample_weight: Any = None, steps: int | None = None,
        callbacks: Any = None, return_dict: bool = False,
    ) -> Any:  # fmt: skip
        """Loss and metrics over data, as a number, a list or a dict."""
        self._needs_compile()
        return self._runtime().evaluate(
            x, y, batch_size=batch_size, verbose=verbose, sample_weight=sample_weight,
            steps=steps, callbacks=callbacks, return_dict=return_dict,
        )  # fmt: skip

    def predict(
        self, x: Any, batch_size: int | None = None, verbose: int | str = "auto",
        steps: int | None = None, callbacks: Any = None,
    ) -> Any:  # fmt: skip
        """The outputs for data, as arrays."""
        return self._runtime().predict(
            x, batch_size=batch_size, verbose=verbose, steps=steps, callbacks=callbacks
        )

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:  # fmt: skip
        """One training step; returns the loss, or loss and metrics."""
        self._needs_compile()
        return self._runtime().train_on_batch(
            x, y, sample_weight=sample_weight, class_weight=class_weight, return_dict=return_dict
        )

    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """One evaluation step; returns the loss, or loss and metrics."""
        self._needs_compile()
        return self._runtime().test_on_batch(
            x, y, sample_weight=sample_weight, return_dict=return_dict
        )

    def predict_on_batch(self, x: Any) -> Any:
        """The outputs for one batch."""
        return self._runtime().predict_on_batch(x)


# --- names and types of inputs ---------------------------------------------------------------


_FOREIGN = re.compile(r"[^\w./\-]")
_ESCAPE = re.compile(r":([0-9a-f]+):")


def _named(part: str, nest: Any) -> dict[str, Any]:
    """`x`, or `x/0`, `x/1` for a list, or `x/key` for a dict.

    In a key, characters that the IR's names cannot have become `:20:`, their number in hexadecimal.
    """
    if isinstance(nest, dict):
        escaped = {_FOREIGN.sub(lambda c: f":{ord(c[0]):x}:", str(key)): key for key in nest}
        return {f"{part}/{name}": nest[key] for name, key in escaped.items()}
    if isinstance(nest, list | tuple):
        return {f"{part}/{i}": value for i, value in enumerate(nest)}
    return {part: nest}


def _nested(part: str, values: Mapping[str, Any]) -> Any:
    """The reverse of `_named`; None if there is nothing of that name."""
    if part in values:
        return values[part]
    found = {
        _ESCAPE.sub(lambda c: chr(int(c[1], 16)), name[len(part) + 1 :]): v
        for name, v in values.items()
        if name.startswith(f"{part}/")
    }
    if not found:
        return None
    return list(found.values()) if all(key.isdigit() for key in found) else found


def _for_outputs(what: str, given: Any, names: list[str], repeat: bool = False) -> Flat:
    """One entry for each output, from one, a list, or a dict by names."""
    if isinstance(given, dict):
        unknown = [key for key in given if key not in names]
        if unknown:
            raise ArgumentError(
                f"{what}: no output is named {unknown[0]!r}; there are {', '.join(names)}"
            )
        return [given.get(name) for name in names]
    flat = tree.flatten(given)
    if len(flat) == 1 and (repeat or given is None):
        return flat * len(names)
    if len(flat) != len(names):
        raise ArgumentError(f"{what}: there must be {len(names)}, one for each output, "
                            f"got {len(flat)}")  # fmt: skip
    return flat


def _arrays(what: str, nest: Any, count: int = 1) -> Any:
    """Arrays in dtypes that graphs take; a list of arrays stays a list, one of numbers does not,
    unless `count` arrays are expected and it has as many items.
    """
    if isinstance(nest, list | tuple) and not any(getattr(x, "shape", ()) for x in nest):
        several = count > 1 and len(nest) == count
        nest = [_numbers(what, item) for item in nest] if several else _numbers(what, nest)
    return tree.map_structure(lambda a: _array(what, a), nest)


_TAKEN = frozenset(dtype.numpy for dtype in DTYPES.values() if dtype is not f64)
"""Dtypes of arrays that graphs take as they are, in this machine's order of bytes."""
_WIDER = {"uint16": "int32", "uint64": "int64", "float128": "float64", "longdouble": "float64"}


def _is_taken(x: Any) -> bool:
    """Whether graphs take an array as it is; most are such, and are not looked at any further."""
    return type(x) is np.ndarray and x.dtype in _TAKEN


def _named_arrays(part: str, nest: Any) -> dict[str, np.ndarray]:
    return {part: nest} if _is_taken(nest) else _named(part, _arrays(part, nest))


def _array(what: str, x: Any) -> np.ndarray:
    if _is_taken(x):
        return x  # type: ignore[no-any-return]
    array = x.numpy() if isinstance(x, Variable) else _numbers(what, x)
    native = array.dtype.newbyteorder("=")
    array = array.astype(_WIDER.get(array.dtype.name, native), copy=False)
    try:
        dtype = as_dtype(array.dtype)
    except DTypeError as error:
        raise DTypeError(f"{what}: must be an array of numbers, got {array.dtype}") from error
    if dtype is f64:
        array = array.astype(as_dtype(config.floatx()).numpy, copy=False)
    return array


def _numbers(what: str, x: Any) -> np.ndarray:
    try:
        return np.asarray(x)
    except ValueError as error:
        raise ShapeError(f"{what}: must be an array, got a nest of unequal lengths") from error


def _batched(x: Any) -> TensorType:
    found = x if isinstance(x, TensorType) else type_of(_array("input", x))
    return found.with_shape((BATCH, *found.shape[1:]))


def _label_type(loss: Any, output: TensorType) -> TensorType:
    """The type of labels that a loss compares with such an output."""
    name = loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", ""))
    if "sparse" in str(name):
        return TensorType(i32, output.shape[:-1])
    return output


def _logs(logs: Any) -> dict[str, Value]:
    """What a step returned, as outputs of the graph."""
    if not isinstance(logs, dict):
        raise HornfelsError(f"train_step and test_step must return a dict, got {logs!r}")
    assert current() is not None
    return {name: sugar.value(value) for name, value in logs.items()}
