"""Arrays for the parameters of a graph, from a seed: the same whenever it runs."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from ..ir.errors import ArgumentError
from ..ir.graph import Graph
from ..ir.types import TensorType, bf16

NOT_NEGATIVE = "second/"
"""What names of state begin with that no step makes negative, such as means of squares."""


def arrays_for(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Arrays for every input and state of a static graph."""
    return {v.name: array_for(v.name, v.type, seed) for v in graph.parameters}


def array_for(name: str, type: TensorType, seed: int) -> np.ndarray:
    """Numbers near 0, of one of a few kinds: spread out, whole (with ties), with zeros."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    shape = tuple(int(d) for d in type.shape)
    kind = int(rng.integers(6))
    if type.dtype.is_bool:
        return np.asarray(rng.random(shape) < 0.5)
    if type.dtype.is_integer:
        return _integers(rng, type, shape, kind)
    numbers = rng.standard_normal(shape)
    if kind == 0:
        numbers = np.round(2 * numbers)
    elif kind == 1:
        numbers = np.where(rng.random(shape) < 0.3, 0.0, numbers)
    elif kind == 2:
        numbers = rng.uniform(0.1, 2.0, shape)
    if name.startswith(NOT_NEGATIVE):
        numbers = np.abs(numbers)
    return np.asarray(numbers).astype(type.dtype.numpy)


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file, bf16 as NumPy stores it.

    Raises
    ------
    ArgumentError
        If there is no such file, or it is none.
    """
    try:
        with np.load(path) as archive:
            found = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise ArgumentError(f"{path} is no file of arrays: {error}") from None
    return {n: a.view(bf16.numpy) if a.dtype == np.dtype("V2") else a for n, a in found.items()}


def _integers(
    rng: np.random.Generator, type: TensorType, shape: tuple[int, ...], kind: int
) -> np.ndarray:
    unsigned = type.dtype.kind == "uint"
    if kind == 0:  # any bits
        info = np.iinfo(type.dtype.numpy)
        return rng.integers(info.min, info.max, shape, type.dtype.numpy, endpoint=True)
    low, high = (0, 3) if kind == 1 else (-4, 7)
    return rng.integers(0 if unsigned else low, high, shape).astype(type.dtype.numpy)
