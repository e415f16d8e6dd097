"""PythonFunction: a function over `ops` as something that can be traced and compiled."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.builder import current
from ..ir.errors import ArgumentError, DTypeError, ShapeError
from ..ir.graph import Graph, Value
from ..ir.types import Dim, Size, TensorType, as_dtype, symbol, type_of
from . import config, tree
from .keras_tensor import KerasTensor, is_symbolic, symbolic_shape
from .layers.input_spec import InputSpec
from .operation import equal_by_axis
from .operators import ArrayOperators
from .ops.core import tensor
from .trace import StateNames, Trace
from .variable import Variable, as_array, changes

# --- what a call gives -----------------------------------------------------------------------


@dataclass(frozen=True)
class Slot:
    """Stands in an argument's nest for the tensor of that name."""

    name: str


@dataclass(frozen=True)
class Signature:
    """What a trace depends on: the arguments' nest, with slots for tensors, and their types."""

    arguments: tuple[tuple[str, Any], ...]
    key: Any
    types: tuple[tuple[str, TensorType], ...]

    def __hash__(self) -> int:
        return hash((self.key, self.types))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signature) and (self.key, self.types) == (other.key, other.types)


@dataclass(frozen=True)
class TracedCall:
    """A traced function.

    Attributes
    ----------
    graph : Graph
    variables : mapping of str to Variable
        Those behind the graph's state, by name.
    structure
        What the function returned, with slots for tensors.
    """

    graph: Graph
    variables: Mapping[str, Variable]
    structure: Any

    def unpack(self, outputs: Mapping[str, np.ndarray]) -> Any:
        """The results in the nest that the function returned."""
        return tree.map_structure(
            lambda x: outputs[x.name] if isinstance(x, Slot) else x, self.structure
        )


class PythonFunction:
    """A function, and for which types it is traced.

    Parameters
    ----------
    function : callable
    specs : sequence or mapping, optional
        The types of the arguments, see `compile`; without any they are those of each call.
    static : sequence of str
        Names of arguments whose numbers are not tensors but part of the program.
    """

    def __init__(
        self, function: Callable[..., Any], specs: Any = None, static: Sequence[str] = ()
    ) -> None:
        if not callable(function):
            raise ArgumentError(f"compile: expected a model or a function, got {function!r:.60}")
        self.function = function
        self.name = re.sub(r"\W", "_", getattr(function, "__name__", type(function).__name__))
        self._signature = _signature_of(function)
        self._static = frozenset([static] if isinstance(static, str) else static)
        unknown = self._static - set(self._signature.parameters)
        if unknown:
            raise ArgumentError(f"compile: {self.name} has no argument {min(unknown)!r}")
        self._names = StateNames()
        self.declared = None if specs is None else self._declare(specs)

    # --- signatures --------------------------------------------------------------------------

    def _declare(self, specs: Any) -> Signature:
        """The signature that specs describe."""
        if isinstance(specs, Mapping):
            bound = self._bind((), dict(specs))
        else:
            one = _is_spec(specs) or not isinstance(specs, list | tuple)
            bound = self._bind((specs,) if one else tuple(specs), {})
        types: dict[str, TensorType] = {}

        def visit(name: str, nest: Any) -> Any:
            if _is_spec(nest):
                types[name] = _spec_type(name, nest)
                return Slot(name)
            return nest if _holds_no_tensor(nest) else tree.MISSING

        return _signature(_walk(bound, visit, self._static), types)

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            return dict(self._signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            raise ArgumentError(f"{self.name}: {error}") from None

    def arrange(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Signature, dict[str, np.ndarray]]:
        """The signature of a call, and its arrays by name.

        Raises
        ------
        ArgumentError, DTypeError
            If the arguments are not those that the function or its specs want.
        """
        bound = self._bind(args, kwargs)
        if self.declared is not None:
            return self.declared, self._match(self.declared, bound)
        arrays: dict[str, np.ndarray] = {}

        def visit(name: str, leaf: Any) -> Any:
            if isinstance(leaf, list | tuple | dict):
                return tree.MISSING
            if not _is_array(leaf):
                return leaf
            arrays[name] = as_array(leaf, None)
            return Slot(name)

        walked = _walk(bound, visit, self._static)
        return _signature(walked, {n: type_of(a) for n, a in arrays.items()}), arrays

    def _match(self, declared: Signature, bound: dict[str, Any]) -> dict[str, np.ndarray]:
        """The arrays of a call, in the dtypes of the specs."""
        types = dict(declared.types)
        arrays: dict[str, np.ndarray] = {}

        def match(where: str, want: Any, got: Any) -> None:
            if isinstance(want, Slot):
                arrays[want.name] = _as_type(want.name, types[want.name], got)
            elif isinstance(want, list | tuple | dict):
                if not isinstance(got, type(want)) or _keys(got) != _keys(want):
                    raise ArgumentError(f"{self.name}: argument {where} must be a {_kind(want)} "
                                        f"as in the specs, got {got!r:.60}")  # fmt: skip
                for key in _keys(want):
                    match(f"{where}/{key}", want[key], got[key])
            elif not _is_same_leaf(got, want):
                raise ArgumentError(
                    f"{self.name}: argument {where} must be {want!r} as in the specs, got {got!r}"
                )

        wanted = dict(declared.arguments)
        if set(bound) != set(wanted):
            raise ArgumentError(f"{self.name}: the specs describe {', '.join(wanted) or 'none'}, "
                                f"got {', '.join(bound) or 'none'}")  # fmt: skip
        for name, want in wanted.items():
            match(name, want, bound[name])
        return arrays

    # --- tracing -----------------------------------------------------------------------------

    def trace_key(self) -> Any:
        """Changes whenever a trace made before is no longer what the function does."""
        return (changes(), config.floatx())

    def trace(self, signature: Signature) -> TracedCall:
        """The graph of the function for these types.

        Open sizes of different inputs are different symbols; where the function cannot do with
        that, those of one axis are taken to be equal.
        """
        types = dict(signature.types)
        try:
            return self._trace(signature, types)
        except ShapeError as error:
            equal = equal_by_axis(types.values())
            if not equal:
                raise
            try:
                return self._trace(signature, {n: t.substitute(equal) for n, t in types.items()})
            except ShapeError:
                raise error from None

    def _trace(self, signature: Signature, types: Mapping[str, TensorType]) -> TracedCall:
        with Trace(self.name, self._names) as trace:
            values = {name: trace.input(name, t) for name, t in types.items()}
            arguments = tree.map_structure(
                lambda x: values[x.name] if isinstance(x, Slot) else x, dict(signature.arguments)
            )
            result = self.call(arguments)
            outputs: dict[str, Value] = {}
            structure = self._outputs("output", result, outputs)
            graph = trace.finish(outputs)
        return TracedCall(graph, dict(trace.variables), structure)

    def call(self, arguments: dict[str, Any]) -> Any:
        """The function itself on bound arguments."""
        bound = inspect.BoundArguments(self._signature, arguments)  # type: ignore[arg-type]
        return self.function(*bound.args, **bound.kwargs)

    def _outputs(self, name: str, result: Any, outputs: dict[str, Value]) -> Any:
        """What the function returned with slots; the tensors go to `outputs`."""

        def visit(name: str, leaf: Any) -> Any:
            if isinstance(leaf, list | tuple | dict):
                return tree.MISSING
            if leaf is None:
                return None
            if isinstance(leaf, KerasTensor | str | bytes) or not _may_be_tensor(leaf):
                raise ArgumentError(
                    f"compile: {self.name} must return tensors or nests of them, "
                    f"got {type(leaf).__name__} as {name}",
                    hint="return arrays and None only; keep other things outside of the function",
                )
            outputs[name] = tensor(leaf)
            return Slot(name)

        return _visit(name, result, visit, set())

    def is_traced(self, args: Any, kwargs: Any) -> bool:
        """Whether a call is part of a larger program, which then takes the function in."""
        builder = current()
        return is_symbolic((args, kwargs)) or builder is not None


def _signature_of(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        anything = [
            inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
            inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
        ]
        return inspect.Signature(anything)


# --- nests with names ------------------------------------------------------------------------

Visit = Callable[[str, Any], Any]
"""What stands for a part of a nest, or `tree.MISSING` to go into it."""


def _walk(
    bound: dict[str, Any], visit: Visit, static: frozenset[str]
) -> tuple[tuple[str, Any], ...]:
    taken: set[str] = set()
    return tuple(
        (name, nest if name in static else _visit(name, nest, visit, taken))
        for name, nest in bound.items()
    )


def _visit(name: str, nest: Any, visit: Visit, taken: set[str]) -> Any:
    """The nest with what `visit` says for its parts, whose names are paths: `x/0`, `x/key`."""
    label = re.sub(r"[^\w./:\-]", "_", name)
    while label in taken:
        label += "_"
    found = visit(label, nest)
    if found is not tree.MISSING:
        taken.add(label)
        return found
    if isinstance(nest, dict):
        return {k: _visit(f"{name}/{k}", v, visit, taken) for k, v in nest.items()}
    parts = [_visit(f"{name}/{i}", v, visit, taken) for i, v in enumerate(nest)]
    return type(nest)(*parts) if hasattr(nest, "_fields") else type(nest)(parts)


def _keys(nest: Any) -> list[Any]:
    return list(nest) if isinstance(nest, dict) else list(range(len(nest)))


def _is_same_leaf(got: Any, want: Any) -> bool:
    """Whether what is no tensor is as in the specs; of arrays and variables `==` is no truth."""
    if any(isinstance(x, Value | ArrayOperators | np.ndarray) for x in (got, want)):
        return got is want
    return got is want or bool(got == want)


def _kind(nest: Any) -> str:
    return f"{type(nest).__name__} with {', '.join(map(repr, _keys(nest))) or 'nothing'}"


def _signature(
    arguments: tuple[tuple[str, Any], ...], types: Mapping[str, TensorType]
) -> Signature:
    key = tuple(_key(part) for part in arguments)
    try:
        hash(key)
    except TypeError as error:
        raise ArgumentError(
            f"compile: what is no tensor is part of the program and must be hashable: {error}"
        ) from None
    return Signature(arguments, key, tuple(types.items()))


def _key(nest: Any) -> Any:
    """A nest as a hashable key; 1, 1.0 and True differ."""
    if isinstance(nest, dict):
        return (dict, tuple((k, _key(v)) for k, v in nest.items()))
    if isinstance(nest, list | tuple):
        return (type(nest), tuple(map(_key, nest)))
    return (type(nest), nest)


# --- leaves ----------------------------------------------------------------------------------


def _is_array(x: Any) -> bool:
    """Whether an argument is a tensor: arrays and numbers; truth values are not."""
    if isinstance(x, bool | str | bytes | Variable) or x is None:
        return False
    return isinstance(x, int | float | np.ndarray | np.generic) or hasattr(x, "__array__")


def _may_be_tensor(x: Any) -> bool:
    return isinstance(x, Value | Variable | Dim | int | float | np.ndarray | np.generic)


def _is_spec(x: Any) -> bool:
    """Whether a part of specs says what one tensor is."""
    if isinstance(x, InputSpec | KerasTensor | TensorType):
        return True
    if isinstance(x, tuple) and len(x) == 2 and isinstance(x[0], list | tuple):
        return all(_is_size(d) for d in x[0]) and _is_dtype(x[1])
    return _is_array(x)


def _holds_no_tensor(nest: Any) -> bool:
    return not isinstance(nest, list | tuple | dict)


def _is_size(d: Any) -> bool:
    return d is None or (isinstance(d, int | str | Dim) and not isinstance(d, bool))


def _is_dtype(x: Any) -> bool:
    if isinstance(x, list | tuple | dict) or x is None:
        return False
    try:
        as_dtype(x)
    except DTypeError:
        return False
    return True


def _spec_type(name: str, spec: Any) -> TensorType:
    """The type that one spec describes, with a symbol for every open size."""
    if isinstance(spec, TensorType):
        return spec
    if isinstance(spec, KerasTensor):
        return spec.type
    if isinstance(spec, InputSpec):
        shape = spec.shape
        if shape is None and spec.ndim is not None:
            shape = tuple(spec.axes.get(i, spec.axes.get(i - spec.ndim)) for i in range(spec.ndim))
        if shape is None:
            raise ArgumentError(f"compile: the spec of {name} must have a shape or ndim")
        spec = (shape, spec.dtype or config.floatx())
    if not isinstance(spec, tuple):
        return type_of(as_array(spec, None))
    sizes: list[Size | None] = [symbol(d) if isinstance(d, str) else d for d in spec[0]]
    return TensorType(as_dtype(spec[1]), symbolic_shape(sizes, name))


def _as_type(name: str, wanted: TensorType, x: Any) -> np.ndarray:
    """An argument as an array of the spec's dtype; kinds of numbers are not mixed."""
    array = as_array(x, None) if _is_array(x) else _numbers(name, wanted, x)
    target = wanted.dtype.numpy
    if array.dtype == target:
        return array
    found = as_dtype(array.dtype)
    if found.kind == wanted.dtype.kind or (found.is_integer and not wanted.dtype.is_bool):
        return array.astype(target)
    raise DTypeError(f"{name} must be {wanted}, got {found}{list(array.shape)}")


def _numbers(name: str, wanted: TensorType, x: Any) -> np.ndarray:
    """Nested lists of numbers, or a variable."""
    try:
        return as_array(x, None) if isinstance(x, Variable) else np.asarray(x, wanted.dtype.numpy)
    except (TypeError, ValueError):
        raise DTypeError(f"{name} must be {wanted}, got {x!r:.60}") from None
