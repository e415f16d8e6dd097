"""Network: the layer graph between symbolic inputs and outputs, ready to run again on Values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...ir import sugar
from ...ir.errors import ArgumentError, ShapeError
from ...ir.graph import Value
from ...ir.types import Dim
from .. import tree
from ..keras_tensor import CallNode, KerasTensor
from ..layers.layer import Layer
from ..masks import with_mask_of
from ..operation import Operation
from ..ops.core import tensor


class Network:
    """The calls that lead from inputs to outputs.

    Attributes
    ----------
    inputs, outputs : list of KerasTensor
    input_structure, output_structure
        The nests that they are the leaves of.
    nodes : list of CallNode
        In an order in which they can run.
    operations : list of Operation
        In Keras' order: by depth, the farthest from the outputs first, then as found by a
        depth-first search from the outputs. The order of weights follows from it.
    """

    def __init__(self, inputs: Any, outputs: Any, name: str) -> None:
        self.name = name
        self.input_structure, self.output_structure = inputs, outputs
        self.inputs: list[KerasTensor] = tree.flatten(inputs)
        self.outputs: list[KerasTensor] = tree.flatten(outputs)
        for what, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            for t in tensors:
                if not isinstance(t, KerasTensor):
                    raise ArgumentError(
                        f"model {name!r}: {what} must be symbolic tensors, got {type(t).__name__}",
                        hint="begin with Input(shape) and call layers on it",
                    )
        if not self.inputs or not self.outputs:
            raise ArgumentError(f"model {name!r}: there must be an input and an output")
        self.nodes, found_at = self._search()
        self.operations = self._by_depth(found_at)
        self._check_names()

    @property
    def layers(self) -> list[Layer]:
        """The operations that are layers."""
        return [op for op in self.operations if isinstance(op, Layer)]

    @property
    def input_names(self) -> list[str]:
        """The names of the inputs' layers."""
        return [_name(t) for t in self.inputs]

    @property
    def output_names(self) -> list[str]:
        """The names of the layers that make the outputs, made unique by a number."""
        names: list[str] = []
        for t in self.outputs:
            name, count = _name(t), 0
            while name in names:
                count += 1
                name = f"{_name(t)}_{count}"
            names.append(name)
        return names

    # --- the graph ---------------------------------------------------------------------------

    def _search(self) -> tuple[list[CallNode], dict[Operation, int]]:
        """Depth first from the outputs: nodes after those they read, operations as first met."""
        given = set(self.inputs)
        order: list[CallNode] = []
        found_at: dict[Operation, int] = {}
        done: set[CallNode] = set()
        for output in self.outputs:
            nothing: Iterator[KerasTensor] = iter(())
            stack = [(output, nothing, False)]
            while stack:
                t, pending, entered = stack.pop()
                node = t.node
                if node is None or (t in given and not node.is_input):
                    if t not in given:
                        raise self._disconnected(t)
                    continue
                if node in done:
                    continue
                if not entered:
                    if node.is_input and t not in given:
                        raise self._disconnected(t)
                    found_at.setdefault(node.operation, len(found_at))
                    pending = iter(node.inputs)
                following = next(pending, None)
                if following is not None:
                    stack.append((t, pending, True))
                    stack.append((following, nothing, False))
                    continue
                done.add(node)
                order.append(node)
        return order, found_at

    def _disconnected(self, t: KerasTensor) -> ArgumentError:
        return ArgumentError(
            f"model {self.name!r}: its outputs depend on {_name(t)!r}, which is not among its "
            f"inputs {self.input_names}"
        )

    def _by_depth(self, found_at: dict[Operation, int]) -> list[Operation]:
        depths: dict[Operation, int] = {}
        node_depths: dict[CallNode, int] = {}
        inside = set(self.nodes)
        for node in reversed(self.nodes):
            depth = max(node_depths.get(node, 0), depths.get(node.operation, 0))
            depths[node.operation] = depth
            for t in node.inputs:
                if t.node in inside:
                    node_depths[t.node] = max(depth + 1, node_depths.get(t.node, 0))
        for t in self.inputs:  # inputs that nothing uses
            if t.node is not None and t.node.is_input and t.node.operation not in depths:
                depths[t.node.operation], found_at[t.node.operation] = 0, -1
        return sorted(depths, key=lambda op: (-depths[op], found_at[op]))

    def _check_names(self) -> None:
        names = [op.name for op in self.operations]
        for name in names:
            if names.count(name) > 1:
                raise ArgumentError(
                    f"model {self.name!r}: the name {name!r} is used by {names.count(name)} layers"
                )

    # --- running -----------------------------------------------------------------------------

    def __call__(self, inputs: Any) -> Any:
        """Run the calls again on Values."""
        given = self._arranged(inputs)
        values: dict[KerasTensor, Any] = {
            t: self._fitted(t, x) for t, x in zip(self.inputs, given, strict=True)
        }

        def value_of(x: Any) -> Any:
            return values[x] if isinstance(x, KerasTensor) else x

        for node in self.nodes:
            if node.is_input or all(t in values for t in node.outputs):
                continue
            args = tree.map_structure(value_of, node.args)
            kwargs = tree.map_structure(value_of, node.kwargs)
            results = tree.flatten(node.operation(*args, **kwargs))
            results = [r for r in results if isinstance(r, Value)]
            values.update(zip(node.outputs, results, strict=True))
        return tree.map_structure(value_of, self.output_structure)

    def arrange(self, inputs: Any) -> list[Any]:
        """The inputs in the order of `self.inputs`; a dict is read by names."""
        return self._arranged(inputs)

    def _arranged(self, inputs: Any) -> list[Any]:
        if isinstance(inputs, dict):
            names = self.input_names
            if isinstance(self.input_structure, dict):
                names = list(self.input_structure)
            missing = [name for name in names if name not in inputs]
            if missing:
                raise ArgumentError(
                    f"model {self.name!r}: input {missing[0]!r} is missing, got {list(inputs)}"
                )
            return [inputs[name] for name in names]
        given = tree.flatten(inputs)
        if len(given) != len(self.inputs):
            raise ArgumentError(
                f"model {self.name!r}: there must be {len(self.inputs)} inputs "
                f"({', '.join(self.input_names)}), got {len(given)}"
            )
        return given

    def _fitted(self, t: KerasTensor, x: Any) -> Value:
        """The given value in the dtype and, up to an axis of size 1, the rank of the input."""
        value = given = sugar.cast(tensor(x), t.type.dtype)
        if given.ndim == t.ndim + 1 and given.shape[-1] == 1:
            value = sugar.reshape(given, given.shape[:-1])
        elif given.ndim == t.ndim - 1 and t.shape[-1] == 1:
            value = sugar.reshape(given, (*given.shape, 1))
        same = value.ndim == t.ndim and all(
            want is None or isinstance(have, Dim) or want == have
            for want, have in zip(t.shape, value.shape, strict=True)
        )
        if not same:
            raise ShapeError(
                f"model {self.name!r}: input {_name(t)!r} must have shape {t.shape}, "
                f"got {given.type}"
            )
        return with_mask_of(x, value)  # type: ignore[no-any-return]


def _name(t: KerasTensor) -> str:
    return t.node.operation.name if t.node is not None else t.name
