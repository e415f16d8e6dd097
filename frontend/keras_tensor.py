"""KerasTensor: what layers are called on while a functional model is written down.

It knows its shape and dtype and the call that made it. Unknown sizes are `None` to the user
and symbols inside: the batch is `N`, so that `(None, 7, 7, 64)` flattens to `(None, 3136)`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..ir.errors import DTypeError
from ..ir.types import Dim, Shape, Size, TensorType, as_dtype, keras_name, symbol
from . import tree
from .naming import auto_name
from .operators import ArrayOperators

if TYPE_CHECKING:
    from .operation import Operation

BATCH = symbol("N")


class KerasHistory(NamedTuple):
    """Which call of which operation made a tensor, and which of its outputs it is."""

    operation: Operation
    node_index: int
    tensor_index: int


class KerasTensor(ArrayOperators):
    """A symbolic tensor.

    Parameters
    ----------
    shape : sequence of int, None or Dim
        None where the size is not known; the first axis then is the batch `N`.
    dtype : str
    name : str, optional
    """

    def __init__(
        self,
        shape: Sequence[Size | None],
        dtype: Any = "float32",
        sparse: bool = False,
        ragged: bool = False,
        record_history: bool = True,
        name: str | None = None,
    ) -> None:
        if sparse or ragged:
            raise DTypeError("KerasTensor: sparse and ragged tensors are not supported")
        self.name = name or auto_name("keras_tensor")
        self.type = TensorType(as_dtype(dtype), symbolic_shape(shape, self.name))
        self.mask: KerasTensor | None = None
        self.node: CallNode | None = None
        self.index = 0

    @property
    def shape(self) -> tuple[int | None, ...]:
        return tuple(None if isinstance(d, Dim) else d for d in self.type.shape)

    @property
    def dtype(self) -> str:
        return keras_name(self.type.dtype)

    @property
    def ndim(self) -> int:
        return self.type.ndim

    @property
    def sparse(self) -> bool:
        return False

    @property
    def ragged(self) -> bool:
        return False

    @property
    def _keras_history(self) -> KerasHistory | None:
        if self.node is None:
            return None
        return KerasHistory(self.node.operation, self.node.index, self.index)

    def reshape(self, newshape: Any) -> Any:
        """`ops.reshape` of this tensor."""
        from . import ops

        return ops.reshape(self, newshape)

    def squeeze(self, axis: Any = None) -> Any:
        """`ops.squeeze` of this tensor."""
        from . import ops

        return ops.squeeze(self, axis)

    def __value__(self) -> Any:
        raise self._no_numbers("an operand of a traced tensor")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise self._no_numbers("an array")

    def __bool__(self) -> bool:
        raise self._no_numbers("a bool")

    def __float__(self) -> float:
        raise self._no_numbers("a float")

    def __int__(self) -> int:
        raise self._no_numbers("an int")

    def __iter__(self) -> Any:
        raise self._no_numbers("iterated over")

    def _no_numbers(self, what: str) -> DTypeError:
        return DTypeError(
            f"a symbolic tensor {self.type} cannot be made {what}: it has no numbers yet",
            hint="use hornfels.ops, or move the code into a layer's call",
        )

    def __repr__(self) -> str:
        return f"<KerasTensor shape={self.shape}, dtype={self.dtype}, name={self.name}>"


class CallNode:
    """One call of a layer or op on symbolic tensors.

    Attributes
    ----------
    operation : Operation
    args, kwargs
        As given, symbolic tensors inside.
    inputs : list of KerasTensor
        Those of the arguments, from left to right.
    outputs : list of KerasTensor
    structure
        The nest that `outputs` are the leaves of.
    index : int
        This is the operation's call number `index`.
    """

    def __init__(
        self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any], structure: Any
    ) -> None:
        self.operation = operation
        self.args = args
        self.kwargs = kwargs
        self.inputs = [x for x in tree.leaves((args, kwargs)) if isinstance(x, KerasTensor)]
        self.structure = structure
        self.outputs = [x for x in tree.leaves(structure) if isinstance(x, KerasTensor)]
        for index, tensor in enumerate(self.outputs):
            tensor.node, tensor.index = self, index
        self.index = len(operation.inbound_nodes)
        operation.inbound_nodes.append(self)

    @property
    def is_input(self) -> bool:
        """Whether it only declares an input."""
        return not self.inputs


def symbolic_shape(shape: Sequence[Size | None], name: str) -> Shape:
    """`shape` with a symbol for every None: `N` for the batch, one of its own for another."""
    prefix = re.sub(r"\W", "_", name)
    prefix = prefix if prefix[:1].isalpha() else f"_{prefix}"
    sizes = [
        d if d is not None else symbol(f"{prefix}_{axis}") if axis else BATCH
        for axis, d in enumerate(shape)
    ]
    return tuple(d if isinstance(d, Dim) else int(d) for d in sizes)


def is_symbolic(structure: Any) -> bool:
    """Whether a nest holds a KerasTensor."""
    if isinstance(structure, KerasTensor):
        return True
    if isinstance(structure, list | tuple):
        return any(map(is_symbolic, structure))
    if isinstance(structure, dict):
        return any(map(is_symbolic, structure.values()))
    return False
