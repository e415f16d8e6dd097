"""Sequential: a stack of layers, each with one input and one output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir.errors import ArgumentError
from .. import naming
from ..keras_tensor import KerasTensor
from ..layers.input_layer import Input, InputLayer
from ..layers.layer import Layer
from .model import Model
from .network import Network


class Sequential(Model):
    """Layers one after the other.

    With an `Input` first (or `input_shape=` on the first layer) weights are made at once;
    otherwise when the model is first called or built.

    Parameters
    ----------
    layers : sequence of Layer, optional
    trainable : bool
    name : str, optional

    Examples
    --------
    >>> model = Sequential([Input((784,)), layers.Dense(10, activation="softmax")])
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return Layer.__new__(cls, *args, **kwargs)

    def __init__(self, layers: Any = None, trainable: bool = True, name: str | None = None) -> None:
        super().__init__(trainable=trainable, name=name)
        self._stack: list[Layer] = []
        self._tensors: list[KerasTensor] = []  # the input, then each layer's output; or empty
        given = [] if layers is None else layers if isinstance(layers, Sequence) else [layers]
        for layer in given:
            self._append(layer)
        self._connect()

    def add(self, layer: Any, rebuild: bool = True) -> None:
        """Put a layer on top.

        Raises
        ------
        ArgumentError
            If it is no layer, or its name is taken.
        """
        self._append(layer)
        self._connect()

    def pop(self, rebuild: bool = True) -> Layer:
        """Take the last layer off and return it."""
        if not self._stack or isinstance(self._stack[-1], InputLayer):
            raise ArgumentError(f"model {self.name!r}: there is no layer to take off")
        layer = self._stack.pop()
        del self._tensors[len(self._stack) :]
        self._restructured()
        self._connect()
        return layer

    def _append(self, layer: Any) -> None:
        if isinstance(layer, KerasTensor) and layer.node is not None:
            layer = layer.node.operation
        if not isinstance(layer, Layer):
            raise ArgumentError(
                f"model {self.name!r}: only layers can be added, got {type(layer).__name__}"
            )
        if isinstance(layer, InputLayer):
            if self._stack:
                raise ArgumentError(f"model {self.name!r}: Input must be its first layer")
        elif not self._stack and layer._input_shape_arg is not None:
            shape = layer._input_shape_arg
            self._append(Input(batch_shape=shape, dtype=_input_dtype(layer)))
        elif not self._stack and isinstance(layer, Model) and layer._network is not None:
            first = layer.inputs[0]
            self._append(Input(batch_shape=first.shape, dtype=first.dtype))
        if any(known.name == layer.name for known in self._stack):
            raise ArgumentError(f"model {self.name!r}: the name {layer.name!r} is taken")
        self._stack.append(layer)
        self._restructured()

    def _restructured(self) -> None:
        self._network, self.built = None, False
        self._changed()

    def _connect(self) -> None:
        """Call the layers that were not yet called on symbolic tensors, if the input is known."""
        if not self._stack or not isinstance(self._stack[0], InputLayer):
            return
        if not self._tensors:
            self._tensors.append(self._stack[0].output)
        inside = self.__dict__.get("_building") or naming.current_path().endswith(self.name)
        with naming.name_scope("" if inside else self.name):
            for layer in self._stack[len(self._tensors) :]:
                output = layer(self._tensors[-1])
                if not isinstance(output, KerasTensor):
                    raise ArgumentError(
                        f"model {self.name!r}: layer {layer.name!r} must have one output, "
                        f"got {output!r}",
                        hint="write the model with Model(inputs, outputs)",
                    )
                self._tensors.append(output)
        self._network = Network(self._tensors[0], self._tensors[-1], self.name)
        self.built = True

    def build(self, input_shape: Any = None) -> None:
        """Make the weights for inputs of this shape, batch included."""
        if self._network is not None or input_shape is None:
            return
        if not self._stack:
            raise ArgumentError(f"model {self.name!r}: has no layers to build")
        if isinstance(input_shape, list) or not all(
            d is None or isinstance(d, int) for d in input_shape
        ):
            raise ArgumentError(f"model {self.name!r}: takes one input, got {input_shape}")
        first = Input(batch_shape=(None, *input_shape[1:]), dtype=_input_dtype(self._stack[0]))
        self._stack.insert(0, first.node.operation)  # type: ignore[union-attr, arg-type]
        self._connect()

    def _build_for(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        Layer._build_for(self, args, kwargs)

    def get_config(self) -> dict[str, Any]:
        """The layers as data."""
        from .config import stack_config

        base = {"name": self.name, "trainable": self.trainable,
                "dtype": self.dtype_policy.serialized()}  # fmt: skip
        shape = self._tensors[0].shape if self._tensors else None
        return stack_config(base, self._stack, shape)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """The stack of such data, with weights made anew."""
        from .config import deserialize_operation

        layers = [deserialize_operation(data, custom_objects) for data in config["layers"]]
        return cls(layers, trainable=config.get("trainable", True), name=config.get("name"))

    def _sublayers(self) -> list[Layer]:
        return list(self.__dict__.get("_stack", ()))

    @property
    def layers(self) -> list[Layer]:
        """The layers without the input."""
        return [layer for layer in self._stack if not isinstance(layer, InputLayer)]


def _input_dtype(layer: Layer) -> str:
    return str(layer.input_dtype)
