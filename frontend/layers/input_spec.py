"""InputSpec: what a layer asks of its input before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...ir.errors import ArgumentError, DTypeError, ShapeError
from ...ir.types import as_dtype, keras_name
from .. import tree


class InputSpec:
    """Rank, shape, dtype or sizes of single axes that an input must have.

    Parameters
    ----------
    dtype : str, optional
    shape : tuple, optional
        None stands for any size.
    ndim, max_ndim, min_ndim : int, optional
    axes : mapping of int to int, optional
        Sizes by axis.
    """

    def __init__(
        self,
        dtype: Any = None,
        shape: Sequence[int | None] | None = None,
        ndim: int | None = None,
        max_ndim: int | None = None,
        min_ndim: int | None = None,
        axes: Mapping[int, int | None] | None = None,
        allow_last_axis_squeeze: bool = False,
        name: str | None = None,
        optional: bool = False,
    ) -> None:
        self.dtype = None if dtype is None else keras_name(as_dtype(dtype))
        self.shape = None if shape is None else tuple(shape)
        self.ndim = ndim if self.shape is None else len(self.shape)
        self.max_ndim = max_ndim
        self.min_ndim = min_ndim
        self.axes = {int(k): v for k, v in (axes or {}).items()}
        self.allow_last_axis_squeeze = allow_last_axis_squeeze
        self.name = name
        self.optional = optional

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {name: getattr(self, name) for name in (
            "dtype", "shape", "ndim", "max_ndim", "min_ndim", "axes")}  # fmt: skip

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> InputSpec:
        return cls(**config)

    def check(self, x: Any, layer: str) -> None:
        """Refuse a tensor that is not as the spec asks."""
        shape = tuple(x.shape)
        rank, got = len(shape), f"got shape {_show(shape)}"
        if self.ndim is not None and rank != self.ndim and not self._squeezable(shape):
            raise ShapeError(f"layer {layer!r}: input must have rank {self.ndim}, {got}")
        if self.max_ndim is not None and rank > self.max_ndim:
            raise ShapeError(f"layer {layer!r}: input must have rank <= {self.max_ndim}, {got}")
        if self.min_ndim is not None and rank < self.min_ndim:
            raise ShapeError(f"layer {layer!r}: input must have rank >= {self.min_ndim}, {got}")
        if self.dtype is not None and as_dtype(x.dtype) != as_dtype(self.dtype):
            raise DTypeError(
                f"layer {layer!r}: input must be {self.dtype}, got {as_dtype(x.dtype)}"
            )
        for axis, size in self.axes.items():
            if size is not None and isinstance(shape[axis], int) and shape[axis] != size:
                raise ShapeError(
                    f"layer {layer!r}: axis {axis} of the input must have size {size}, {got}"
                )
        if self.shape is not None and any(
            want is not None and isinstance(have, int) and want != have
            for want, have in zip(self.shape, shape, strict=False)
        ):
            raise ShapeError(f"layer {layer!r}: input must have shape {_show(self.shape)}, {got}")

    def _squeezable(self, shape: tuple[Any, ...]) -> bool:
        return self.allow_last_axis_squeeze and abs(len(shape) - (self.ndim or 0)) == 1

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items() if v)
        return f"InputSpec({shown})"


def _show(shape: Sequence[Any]) -> str:
    return f"({', '.join(str(d) for d in shape)}{',' if len(shape) == 1 else ''})"


def check_inputs(specs: Any, inputs: Any, layer: str) -> None:
    """Refuse inputs that do not fit their specs, or are more or fewer than those."""
    if isinstance(specs, dict) and isinstance(inputs, dict):
        missing = [name for name in specs if name not in inputs]
        if missing:
            raise ArgumentError(f"layer {layer!r}: input {missing[0]!r} is missing")
        inputs = {name: inputs[name] for name in specs}
    wanted, given = tree.flatten(specs), tree.flatten(inputs)
    if len(wanted) != len(given):
        raise ArgumentError(
            f"layer {layer!r}: there must be {len(wanted)} inputs, got {len(given)}"
        )
    for spec, x in zip(wanted, given, strict=True):
        if spec is not None and hasattr(x, "shape"):
            spec.check(x, layer)
