"""Input: where a functional model begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.errors import ArgumentError
from .. import config
from ..keras_tensor import CallNode, KerasTensor
from .layer import Layer


class InputLayer(Layer):
    """Declares an input; `Input` makes one and returns its tensor.

    Parameters
    ----------
    shape : tuple, optional
        Without the batch; None where a size is open.
    batch_size : int, optional
    dtype : str, optional
    batch_shape : tuple, optional
        With the batch, instead of `shape` and `batch_size`.
    """

    def __init__(
        self,
        shape: Sequence[int | None] | None = None,
        batch_size: int | None = None,
        dtype: Any = None,
        sparse: bool | None = None,
        ragged: bool | None = None,
        batch_shape: Sequence[int | None] | None = None,
        input_tensor: KerasTensor | None = None,
        optional: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        if sparse or ragged or optional:
            raise ArgumentError("Input: sparse, ragged and optional inputs are not supported")
        if input_tensor is not None:
            shape, batch_shape = None, input_tensor.shape
            dtype = dtype or input_tensor.dtype
        if (shape is None) == (batch_shape is None):
            raise ArgumentError("Input: either shape or batch_shape must be given")
        self.batch_shape = _checked((batch_size, *_checked(shape)) if shape is not None
                                    else batch_shape)  # fmt: skip
        self._dtype = dtype or config.floatx()
        self.built = True
        output = KerasTensor(self.batch_shape, self._dtype, name=self.name)
        CallNode(self, (), {}, output)

    @property
    def dtype(self) -> str:
        return self._dtype

    def call(self, *args: Any, **kwargs: Any) -> Any:
        raise ArgumentError(f"layer {self.name!r}: an input layer is not called")

    def get_config(self) -> dict[str, Any]:
        return {
            "batch_shape": self.batch_shape,
            "dtype": self.dtype,
            "sparse": False,
            "ragged": False,
            "name": self.name,
            "optional": False,
        }


def _checked(shape: Any) -> tuple[int | None, ...]:
    sizes = None if isinstance(shape, int | str) else tuple(shape)
    if sizes is None or not all(d is None or _is_size(d) for d in sizes):
        raise ArgumentError(f"Input: shape must be a tuple of sizes and None, got {shape!r}")
    return tuple(d if d is None else int(d) for d in sizes)


def _is_size(d: Any) -> bool:
    return isinstance(d, int | np.integer) and d >= 0


def Input(
    shape: Sequence[int | None] | None = None,
    batch_size: int | None = None,
    dtype: Any = None,
    sparse: bool | None = None,
    ragged: bool | None = None,
    batch_shape: Sequence[int | None] | None = None,
    name: str | None = None,
    tensor: KerasTensor | None = None,
    optional: bool = False,
) -> KerasTensor:
    """A symbolic tensor that layers can be called on to write down a functional model.

    Parameters
    ----------
    shape : tuple
        Without the batch; None where a size is open.
    batch_size : int, optional
    dtype : str, optional
        `config.floatx()` by default.
    name : str, optional

    Examples
    --------
    >>> x = Input((784,))
    >>> model = Model(x, layers.Dense(10)(x))
    """
    layer = InputLayer(
        shape, batch_size, dtype, sparse, ragged, batch_shape, tensor, optional, name
    )
    output: KerasTensor = layer.output
    return output
