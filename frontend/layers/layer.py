"""Layer: state and computation, callable on arrays, symbolic tensors and traced values."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.builder import Builder, current, suspended
from ...ir.errors import ArgumentError, HornfelsError, ShapeError
from ...ir.graph import Value
from ...ir.types import as_dtype
from .. import dtype_policy, naming, tree
from ..keras_tensor import CallNode, is_symbolic
from ..masks import with_mask_of
from ..operation import Operation, evaluate_eagerly, evaluate_symbolically
from ..ops.core import tensor
from ..variable import Variable, as_array, autocast, count_change
from .input_spec import check_inputs
from .masking import MaskedCall
from .shapes import declared_shape, open_shape, tensors_of


@dataclass(frozen=True)
class _Call:
    """What layers called inside of another layer's call inherit."""

    training: bool | None


_call: ContextVar[_Call | None] = ContextVar("hornfels_layer_call", default=None)


class Layer(Operation):
    """Base of all layers.

    A subclass makes its weights in `build(input_shape)` with `add_weight` (or in `__init__`),
    and computes in `call(inputs, ...)` with `ops`; layers set as attributes, also in lists and
    dicts, belong to it.

    Parameters
    ----------
    activity_regularizer : callable or str, optional
        Adds a loss computed from the outputs.
    trainable : bool
    dtype : str or DTypePolicy, optional
        Of weights and computation; `mixed_bfloat16` and `mixed_float16` separate the two.
    autocast : bool
        Whether float inputs are converted to the computation's dtype.
    name : str, optional
        Unique by default: `dense`, `dense_1`, ...
    input_shape : tuple, optional
        Shape without the batch, for the first layer of a `Sequential`.

    Examples
    --------
    >>> class Scale(Layer):
    ...     def build(self, input_shape):
    ...         self.scale = self.add_weight(shape=(input_shape[-1],), initializer="ones")
    ...     def call(self, inputs):
    ...         return inputs * self.scale
    """

    _init_arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Layer:
        layer = super().__new__(cls)
        layer.__dict__["_init_arguments"] = (args, kwargs)
        return layer

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "build" in cls.__dict__:
            cls.build = _recorded_build(cls.__dict__["build"])  # type: ignore[method-assign]

    def __init__(
        self,
        *,
        activity_regularizer: Any = None,
        trainable: bool = True,
        dtype: Any = None,
        autocast: bool = True,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        if name is not None and (not isinstance(name, str) or not name or "/" in name):
            raise ArgumentError(
                f"{type(self).__name__}: name must be a string without '/', got {name!r}"
            )
        super().__init__(name)
        self._trainable_variables: list[Variable] = []
        self._non_trainable_variables: list[Variable] = []
        self._losses: list[Any] = []
        self._trainable = bool(trainable)
        self.dtype_policy = dtype_policy.get(dtype)
        self.autocast = bool(autocast)
        self.activity_regularizer = _regularizer(activity_regularizer)
        self.built = False
        self.input_spec: Any = None
        self.supports_masking = type(self).compute_mask is not Layer.compute_mask
        self._called = False
        self._path: str | None = None
        self._build_shapes: dict[str, Any] = {}
        self._output_shapes: Any = None
        self._input_shape_arg = declared_shape(type(self).__name__, kwargs)
        if kwargs:
            raise ArgumentError(f"{type(self).__name__}: unknown arguments {', '.join(kwargs)}")

    # --- to be overridden --------------------------------------------------------------------

    def build(self, input_shape: Any) -> None:
        """Make the weights for inputs of this shape, whose batch size is None."""
        self.built = True

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the outputs; runs on Values."""
        raise NotImplementedError(f"{type(self).__name__} must define call()")

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """The masks of the outputs, from the inputs and their masks; see `supports_masking`."""
        return previous_mask

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal layer; subclasses add theirs."""
        base = {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": self.dtype_policy.serialized(),
        }
        own = type(self).get_config is Layer.get_config
        return {**base, **_constructor_arguments(self)} if own else base

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """A layer of these arguments."""
        return cls(**config)

    # --- calling -----------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._check_initialized()
        if is_symbolic(args) or is_symbolic(kwargs):
            outputs = evaluate_symbolically(self._run, args, kwargs)
            CallNode(self, args, kwargs, outputs)
            return outputs
        if current() is None:
            return evaluate_eagerly(self._run, args, kwargs)
        return self._run(*args, **kwargs)

    def _check_initialized(self) -> None:
        if "inbound_nodes" not in self.__dict__:
            raise ArgumentError(
                f"{type(self).__name__}: __init__ was not called",
                hint="call super().__init__() first in your own __init__",
            )

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        """Build if need be, and compute on Values."""
        builder = current()
        assert builder is not None
        building = bool(self.__dict__.get("_building"))  # a model runs in order to be built
        path = naming.name_scope("" if building else self.name)
        with builder.scope(self.name), path, _located(builder):
            args = tree.map_structure(self._convert_input, args)
            kwargs = tree.map_structure(self._convert_input, kwargs)
            if self.input_spec is not None and (args or kwargs):
                first = args[0] if args else next(iter(kwargs.values()))
                check_inputs(self.input_spec, first, self.name)
            if not self.built and not building:
                self._build_for(args, kwargs)
            training = self._resolve_training(args, kwargs)
            masked = MaskedCall(self, _call_parameters(type(self).call), args, kwargs)
            with self._call_scope(training):
                outputs = self.call(*args, **kwargs)
                self._regularize_activity(outputs)
                masked.hand_on(outputs)
        self.built = self._called = True
        self._output_shapes = tree.map_structure(open_shape, outputs)
        return outputs

    def _convert_input(self, x: Any) -> Any:
        """Arrays and variables become Values, floats of the computation's dtype."""
        return with_mask_of(x, self._converted(x), tensor)

    def _converted(self, x: Any) -> Any:
        if isinstance(x, np.ndarray | np.generic | Variable):
            if x.dtype == np.float64 and self.autocast and self._computes_floats:
                return tensor(x, self.compute_dtype)
            x = tensor(x)
        if isinstance(x, Value) and x.dtype.is_float and self.autocast and self._computes_floats:
            return x.astype(self.compute_dtype)
        return x

    @property
    def _computes_floats(self) -> bool:
        return as_dtype(self.compute_dtype).is_float

    @contextmanager
    def _call_scope(self, training: bool | None) -> Iterator[None]:
        if _call.get() is None:
            self._clear_losses()
        token = _call.set(_Call(training))
        mixed = self.compute_dtype != self.variable_dtype and self.autocast
        try:
            with autocast(as_dtype(self.compute_dtype) if mixed else None):
                yield
        finally:
            _call.reset(token)

    def _resolve_training(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool | None:
        """`training` as given, else that of the surrounding call, else the default of `call`."""
        names = _call_parameters(type(self).call)
        outer = _call.get()
        inherited = outer.training if outer else None
        if "training" not in names:
            given = kwargs.pop("training", None)
            return inherited if given is None else given
        position = list(names).index("training")
        given = args[position] if len(args) > position else kwargs.get("training")
        if given is not None:
            return bool(given)
        default = names["training"].default
        if inherited is None and isinstance(default, bool):
            inherited = default
        if inherited is not None and len(args) <= position:
            kwargs["training"] = inherited
        return inherited

    def _regularize_activity(self, outputs: Any) -> None:
        if self.activity_regularizer is None:
            return
        from .. import ops

        for output in tree.leaves(outputs):
            loss = self.activity_regularizer(output)
            self.add_loss(ops.divide(loss, output.shape[0]) if output.ndim else loss)

    # --- building ----------------------------------------------------------------------------

    def _build_for(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Call `build` with the shapes of the arguments, by name if it takes several."""
        arguments = dict(zip(_call_parameters(type(self).call), args, strict=False)) | kwargs
        shapes = {
            f"{name}_shape": tree.map_structure(open_shape, value)
            for name, value in arguments.items()
            if any(isinstance(leaf, Value) for leaf in tree.leaves(value))
        }
        if not shapes:
            self.built = True
            return
        wanted = list(inspect.signature(self.build).parameters)
        if len(wanted) == 1:
            self.build(next(iter(shapes.values())))
        else:
            self.build(**{name: shape for name, shape in shapes.items() if name in wanted})

    def get_build_config(self) -> dict[str, Any]:
        """The shapes that the layer was built for."""
        return dict(self._build_shapes)

    def build_from_config(self, config: Mapping[str, Any]) -> None:
        """Build for the shapes that `get_build_config` gave."""
        if config:
            self.build(**config)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        """The shape of the outputs for inputs of the given shape, or nest of shapes."""
        spec = self.compute_output_spec(
            *(tensors_of(a, self.compute_dtype) for a in args),
            **{
                name.removesuffix("_shape"): tensors_of(shape, self.compute_dtype)
                for name, shape in kwargs.items()
            },
        )
        return tree.map_structure(lambda t: t.shape, spec)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs for symbolic inputs, not noted in the layer graph."""
        return evaluate_symbolically(self._run, args, kwargs)

    # --- weights -----------------------------------------------------------------------------

    def add_weight(
        self,
        shape: Any = None,
        initializer: Any = None,
        dtype: Any = None,
        trainable: bool = True,
        autocast: bool = True,
        regularizer: Any = None,
        constraint: Any = None,
        aggregation: str | None = "none",
        overwrite_with_gradient: bool = False,
        name: str | None = None,
    ) -> Variable:
        """Make a variable of this layer.

        Parameters
        ----------
        shape : tuple of int
            Scalar by default.
        initializer : str, callable or array, optional
            Glorot uniform for floats by default, zeros otherwise.
        dtype : str, optional
            The layer's variable dtype by default.
        regularizer, constraint : callable or str, optional
        """
        self._check_initialized()
        dtype = dtype or self.variable_dtype
        if initializer is None:
            initializer = "glorot_uniform" if as_dtype(dtype).is_float else "zeros"
        with suspended():
            variable = Variable(
                initializer, shape=() if shape is None else shape, dtype=dtype,
                trainable=trainable, autocast=autocast, aggregation=aggregation, name=name,
            )  # fmt: skip
        variable.regularizer = _regularizer(regularizer)
        variable.constraint = _constraint(constraint)
        variable.overwrite_with_gradient = overwrite_with_gradient
        self._track(variable)
        return variable

    add_variable = add_weight

    def _track(self, variable: Variable) -> None:
        self._check_initialized()
        known = (*self._trainable_variables, *self._non_trainable_variables)
        if not any(variable is v for v in known):
            group = self._trainable_variables if variable.trainable else None
            (self._non_trainable_variables if group is None else group).append(variable)
            if not self.trainable:  # frozen before it had weights
                variable.trainable = False

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Variable):
            self._track(value)
        super().__setattr__(name, value)

    def _sublayers(self) -> list[Layer]:
        """The layers that are attributes, or stand in lists, tuples and dicts that are."""
        return tree.unique(tree.members(self._attributes(), Layer))

    def _attributes(self) -> dict[str, Any]:
        """The attributes that may hold layers and variables: not those of this class itself."""
        return {name: v for name, v in self.__dict__.items() if name not in INTERNAL}

    def _flatten_layers(self) -> Iterator[Layer]:
        """This layer and all below it, each once."""
        yield from tree.unique([self, *(x for layer in self._sublayers()
                                    for x in layer._flatten_layers())])  # fmt: skip

    def _own_variables(self) -> list[Variable]:
        """Trainable ones first, then the others, then those in lists and dicts."""
        listed = tree.members(self._attributes(), Variable)
        return tree.unique([*self._trainable_variables, *self._non_trainable_variables, *listed])

    def _seed_states(self) -> list[Variable]:
        from ..random import SeedGenerator

        return [generator.state for generator in tree.members(self._attributes(), SeedGenerator)]

    @property
    def weights(self) -> list[Variable]:
        """Variables of this layer and those below it, without the states of random numbers."""
        own = self._own_variables()
        return tree.unique([*own, *(w for layer in self._sublayers() for w in layer.weights)])

    @property
    def variables(self) -> list[Variable]:
        """All variables of this layer and those below it."""
        own = [*self._own_variables(), *self._seed_states()]
        return tree.unique([*own, *(v for layer in self._sublayers() for v in layer.variables)])

    @property
    def trainable_weights(self) -> list[Variable]:
        return [w for w in self.weights if w.trainable] if self.trainable else []

    @property
    def non_trainable_weights(self) -> list[Variable]:
        return [w for w in self.weights if not w.trainable] if self.trainable else self.weights

    @property
    def trainable_variables(self) -> list[Variable]:
        return [v for v in self.variables if v.trainable] if self.trainable else []

    @property
    def non_trainable_variables(self) -> list[Variable]:
        return [v for v in self.variables if not v.trainable] if self.trainable else self.variables

    @property
    def trainable(self) -> bool:
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = bool(value)
        count_change()
        for variable in self._trainable_variables:
            variable.trainable = bool(value)
        for layer in self._sublayers():
            layer.trainable = bool(value)

    def count_params(self) -> int:
        """The number of elements of all weights."""
        if not self.built:
            raise ArgumentError(
                f"layer {self.name!r}: has no weights yet, for it was not built",
                hint="call it, or build it with an input shape",
            )
        return sum(w.size for w in self.weights)

    def get_weights(self) -> list[np.ndarray]:
        """Copies of the weights, in the order of `weights`."""
        return [w.numpy() for w in self.weights]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Replace the weights.

        Raises
        ------
        ArgumentError
            If there are more or fewer arrays than weights.
        ShapeError
            If a shape differs; no weight is changed then.
        """
        own = self.weights
        if not isinstance(weights, Sequence) or len(own) != len(weights):
            got = len(weights) if isinstance(weights, Sequence) else type(weights).__name__
            raise ArgumentError(
                f"layer {self.name!r}: set_weights takes {len(own)} arrays, got {got}"
            )
        arrays = [as_array(w, v.type.dtype) for v, w in zip(own, weights, strict=True)]
        for variable, array in zip(own, arrays, strict=True):
            if variable.shape != array.shape:
                raise ShapeError(
                    f"layer {self.name!r}: weight {variable.path!r} has shape {variable.shape}, "
                    f"got {array.shape}"
                )
        for variable, array in zip(own, arrays, strict=True):
            variable.assign(array)

    def save_own_variables(self, store: Any) -> None:
        """Put the variables that are this layer's own into a mapping."""
        for i, variable in enumerate(self._own_variables()):
            store[str(i)] = variable.numpy()

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Take the variables that are this layer's own from a mapping."""
        own = self._own_variables()
        if len(store) != len(own):
            raise ArgumentError(
                f"layer {self.name!r}: has {len(own)} variables, the file has {len(store)}",
                hint="" if self.built else "the layer is not built yet",
            )
        for i, variable in enumerate(own):
            variable.assign(np.asarray(store[str(i)]))

    # --- losses ------------------------------------------------------------------------------

    def add_loss(self, loss: Any) -> None:
        """Add a scalar, or several, to the losses of the call that runs."""
        self._losses.extend(loss if isinstance(loss, list | tuple) else [loss])

    @property
    def losses(self) -> list[Any]:
        """Those added in the last call, then those of the weights' regularizers."""
        added = [loss for layer in self._flatten_layers() for loss in layer._losses]
        return added + [v.regularizer(v) for v in self.trainable_weights if v.regularizer]

    def _clear_losses(self) -> None:
        for layer in self._flatten_layers():
            layer._losses.clear()

    # --- what it is --------------------------------------------------------------------------

    @property
    def compute_dtype(self) -> str:
        return self.dtype_policy.compute_dtype

    @property
    def variable_dtype(self) -> str:
        return self.dtype_policy.variable_dtype

    @property
    def input_dtype(self) -> str:
        return self.compute_dtype

    @property
    def dtype(self) -> str:
        return self.variable_dtype

    @property
    def path(self) -> str:
        """The names of the layers around it and its own, joined with `/`."""
        return self._path or self.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}, built={self.built}>"


INTERNAL = {"_trainable_variables", "_non_trainable_variables", "_losses", "_init_arguments",
            "_build_shapes", "_output_shapes", "inbound_nodes", "_stateful"}  # fmt: skip


def _recorded_build(build: Callable[..., Any]) -> Callable[..., Any]:
    """`build` outside of any trace, in the layer's name scope, its shapes remembered."""

    @functools.wraps(build)
    def recorded(self: Layer, *args: Any, **kwargs: Any) -> None:
        if self.__dict__.get("_building"):  # a call of super().build()
            build(self, *args, **kwargs)
            return
        self.__dict__["_building"] = True
        path = naming.current_path()
        inside = path == self.name or path.endswith(f"/{self.name}")
        try:
            with suspended(), naming.name_scope("" if inside else self.name):
                self._path = naming.current_path()
                build(self, *args, **kwargs)
        finally:
            del self.__dict__["_building"]
        bound = inspect.signature(build).bind(self, *args, **kwargs).arguments
        self._build_shapes = dict(list(bound.items())[1:])
        self.built = True

    return recorded


@contextmanager
def _located(builder: Builder) -> Iterator[None]:
    """Errors raised inside say in which layer and at which line."""
    try:
        yield
    except HornfelsError as error:
        error.at(builder.here().where)
        raise


@functools.cache
def _call_parameters(call: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a `call` method after self."""
    return dict(list(inspect.signature(call).parameters.items())[1:])


def _regularizer(identifier: Any) -> Any:
    if identifier is None:
        return None
    from .. import regularizers

    return regularizers.get(identifier)


def _constraint(identifier: Any) -> Any:
    if identifier is None:
        return None
    from .. import constraints

    return constraints.get(identifier)


def _constructor_arguments(layer: Layer) -> dict[str, Any]:
    """What the constructor was given, by name: the configuration of a class that defines none."""
    args, kwargs = layer._init_arguments
    try:
        bound = inspect.signature(type(layer).__init__).bind(layer, *args, **kwargs)
    except TypeError:
        return {}
    given: dict[str, Any] = {}
    for name, value in list(bound.arguments.items())[1:]:
        several = bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        given.update(value if several else {name: value})
    return {k: v for k, v in given.items() if k not in ("name", "trainable", "dtype")}
