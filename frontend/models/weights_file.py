"""Weights in HDF5, in the layout of Keras' `.weights.h5`, so that each reads the other's files.

A layer's own variables are `<path>/vars/0`, `/1`, ...; its path goes through attribute names,
and through `layers/<class>`, `layers/<class>_1` in layer graphs and stacks, for default names of
layers differ from one session to the next.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...ir.errors import ArgumentError, CheckpointError
from ...ir.files import replacing
from ..layers.layer import INTERNAL, Layer
from ..naming import to_snake_case
from ..variable import Variable

_NOT_CHILDREN = {*INTERNAL, "_network", "_stack", "_tensors"}


def save_weights(model: Any, filepath: Any, overwrite: bool = True) -> None:
    """Write the variables of a model, and those of its optimizer if it has any."""
    path = _checked_path(filepath)
    if path.exists() and not overwrite:
        raise ArgumentError(f"save_weights: {path} exists and may not be overwritten")
    if not model.built:
        raise ArgumentError(
            f"model {model.name!r}: has no weights to save, for it was not built",
            hint="call it once, or build it with an input shape",
        )
    with replacing(path) as part, h5py.File(part, "w") as file:
        for inner, layer in _layers(model):
            group = file.require_group(f"{inner}/vars")
            group.attrs["name"] = layer.name
            layer.save_own_variables(group)
        if model.optimizer is not None:
            group = file.require_group("optimizer/vars")
            for i, variable in enumerate(model.optimizer.variables):
                group[str(i)] = variable.numpy()


def load_weights(model: Any, filepath: Any, skip_mismatch: bool = False) -> None:
    """Read the variables of a model, and of its optimizer if it has as many as the file."""
    path = _checked_path(filepath)
    if not path.exists():
        raise CheckpointError(f"load_weights: there is no file {path}")
    stores = _read(path)
    found, problems = [], []
    for inner, layer in _layers(model):
        problem = _mismatch(layer, stores.get(f"{inner}/vars".lstrip("/"), {}))
        if problem:
            problems.append(f"{inner or model.name}: {problem}")
        else:
            found.append((layer, stores.get(f"{inner}/vars".lstrip("/"), {})))
    if problems and not skip_mismatch:
        raise CheckpointError(
            f"load_weights: {path} does not fit model {model.name!r}: {'; '.join(problems[:5])}",
            hint="" if model.built else "build the model first: call it once",
        )
    for problem in problems:
        warnings.warn(f"load_weights: left as it was: {problem}", stacklevel=3)
    for layer, store in found:
        layer.load_own_variables(store)
    _load_optimizer(model, stores.get("optimizer/vars", {}))


def _checked_path(filepath: Any) -> Path:
    path = Path(filepath)
    if not path.name.endswith(".weights.h5"):
        raise ArgumentError(f"weights: the file's name must end in .weights.h5, got {path.name!r}")
    return path


def _read(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """All arrays of a file: by the group's path, then by name."""
    stores: dict[str, dict[str, np.ndarray]] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            group, _, key = name.rpartition("/")
            stores.setdefault(group, {})[key] = np.asarray(item)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError, KeyError, ValueError) as error:  # what h5py makes of damage
        raise CheckpointError(f"load_weights: {path} is no readable HDF5 file: {error}") from error
    return stores


def _mismatch(layer: Layer, store: Mapping[str, np.ndarray]) -> str:
    """Why a layer's own variables cannot be read from the arrays; empty if they can."""
    own = layer._own_variables()
    if len(own) != len(store):
        return f"layer {layer.name!r} has {len(own)} variables, the file {len(store)}"
    for i, variable in enumerate(own):
        array = store.get(str(i))
        if not _fits(variable, array):
            got = "none" if array is None else f"{array.dtype}{list(array.shape)}"
            return f"variable {variable.path!r} is {variable.type}, the file has {got}"
    return ""


def _fits(variable: Variable, array: np.ndarray | None) -> bool:
    """Whether the array has the variable's shape, and numbers that it can take."""
    if array is None or array.shape != variable.shape:
        return False
    dtype = variable.type.dtype
    return np.can_cast(array.dtype, np.float64 if dtype.is_float else dtype.numpy, "same_kind")


def _load_optimizer(model: Any, store: Mapping[str, np.ndarray]) -> None:
    """The optimizer's state, if the file has it and it fits one that is built."""
    if model.optimizer is None or not store:
        return
    own: list[Variable] = model.optimizer.variables
    if len(store) > len(own) and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
        own = model.optimizer.variables
    arrays = [store.get(str(i)) for i in range(len(own))]
    if len(store) != len(own) or not all(map(_fits, own, arrays)):
        warnings.warn(
            f"load_weights: the optimizer was left as it was: its {len(own)} variables are not "
            f"those of the file, which has {len(store)}",
            stacklevel=4,
        )
        return
    for variable, array in zip(own, arrays, strict=True):
        variable.assign(array)


# --- paths -----------------------------------------------------------------------------------


def _layers(model: Layer) -> Iterator[tuple[str, Layer]]:
    """Every layer once, with its path in the file; the model itself has the empty path."""
    yield from _below(model, "", set())


def _below(layer: Layer, path: str, seen: set[int]) -> Iterator[tuple[str, Layer]]:
    if id(layer) in seen:
        return
    seen.add(id(layer))
    yield path, layer
    for name, child in _children(layer):
        inner = f"{path}/{name}".lstrip("/")
        if isinstance(child, Layer):
            yield from _below(child, inner, seen)
        else:
            yield from _in_container(child, inner, seen)


def _children(layer: Layer) -> Iterator[tuple[str, Any]]:
    """Attributes in the order of their names, private ones last, as Keras visits them.

    A model's `layers` count as an attribute; of graphs and stacks they come first.
    """
    is_graph = "_stack" in layer.__dict__ or layer.__dict__.get("_network") is not None
    names = {name for name in layer.__dict__ if name not in _NOT_CHILDREN}
    if hasattr(type(layer), "layers"):
        names.add("layers")
    first = ("layers",) if is_graph else ()
    for name in sorted(names, key=lambda n: (n not in first, n.startswith("_"), n)):
        child = getattr(layer, name)
        if isinstance(child, Layer | list | tuple | dict):
            yield name, child


def _in_container(container: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Layer]]:
    used: Counter[str] = Counter()
    for child in container.values() if isinstance(container, dict) else container:
        if not isinstance(child, Layer | list | tuple | dict):
            continue
        name = to_snake_case(type(child).__name__) if isinstance(child, Layer) else "container"
        unique = f"{name}_{used[name]}" if used[name] else name
        used[name] += 1
        if isinstance(child, Layer):
            yield from _below(child, f"{path}/{unique}", seen)
        else:
            yield from _in_container(child, f"{path}/{unique}", seen)
