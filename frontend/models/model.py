"""Model: a layer that can be trained; written as a layer graph or as a subclass."""

from __future__ import annotations

from typing import Any

from ...ir.errors import ArgumentError
from .. import tree
from ..keras_tensor import KerasTensor
from ..layers.layer import Layer, _constructor_arguments
from ..layers.shapes import tensors_of
from ..masks import set_mask
from .network import Network
from .training import Trainer


class Model(Trainer, Layer):
    """A network with training, evaluation and prediction.

    Either a layer graph, `Model(inputs, outputs)`, or a subclass that makes its layers in
    `__init__` and computes in `call(inputs, training=False)`.

    Examples
    --------
    >>> x = Input((784,))
    >>> model = Model(x, layers.Dense(10, activation="softmax")(x))
    >>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is Model and _describes_graph(args, kwargs):
            return Layer.__new__(Functional, *args, **kwargs)
        return super().__new__(cls, *args, **kwargs)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        graph = _describes_graph(args, kwargs)
        inputs, outputs = _take_graph(args, kwargs) if graph else (None, None)
        if args and not graph:
            raise ArgumentError(
                f"{type(self).__name__}: Model takes inputs and outputs, or nothing but keywords, "
                f"got {len(args)} positional arguments"
            )
        Layer.__init__(self, **kwargs)
        Trainer.__init__(self)
        self._network: Network | None = None
        if graph:
            self._network = Network(inputs, outputs, self.name)
            self.built = True

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Run the layer graph; a subclass without one defines its own."""
        if self._network is None:
            raise ArgumentError(f"model {self.name!r}: {type(self).__name__} must define call()")
        for x, m in zip(tree.leaves(inputs), tree.leaves(mask), strict=False):
            set_mask(x, m)
        return self._network(inputs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """None: the layers inside have set the masks of the outputs."""
        return None

    def build(self, input_shape: Any) -> None:
        """Make all weights by running the model on symbolic inputs of this shape."""
        if self._network is None:
            self.compute_output_spec(tensors_of(input_shape, self.compute_dtype))

    def _build_for(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        own = any("build" in c.__dict__ for c in type(self).__mro__ if c not in Model.__mro__)
        if own:
            super()._build_for(args, kwargs)

    # --- layers ------------------------------------------------------------------------------

    def _sublayers(self) -> list[Layer]:
        network = self.__dict__.get("_network")
        return tree.unique([*(network.layers if network else ()), *super()._sublayers()])

    @property
    def layers(self) -> list[Layer]:
        """The layers directly below the model, in the order of their weights."""
        return self._sublayers()

    @property
    def operations(self) -> list[Any]:
        """Layers and op calls of the layer graph."""
        return list(self._network.operations) if self._network else list(self.layers)

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """The layer of that name or at that position of `layers`.

        Raises
        ------
        ArgumentError
            If there is none, or not exactly one of the two is given.
        """
        layers = self.layers
        if (name is None) == (index is None):
            raise ArgumentError(f"model {self.name!r}: get_layer takes a name or an index")
        if index is not None:
            if not -len(layers) <= index < len(layers):
                raise ArgumentError(
                    f"model {self.name!r}: there are {len(layers)} layers, got index {index}"
                )
            return layers[index]
        for layer in layers:
            if layer.name == name:
                return layer
        raise ArgumentError(
            f"model {self.name!r}: no layer is named {name!r}; "
            f"there are {', '.join(layer.name for layer in layers)}"
        )

    # --- the layer graph ---------------------------------------------------------------------

    def _graph(self, what: str) -> Network:
        if self._network is None:
            raise ArgumentError(
                f"model {self.name!r}: has no {what}, for it is no layer graph",
                hint="a Sequential gets one with Input as its first layer, or when it is called",
            )
        return self._network

    @property
    def inputs(self) -> list[KerasTensor]:
        """The symbolic inputs of the layer graph."""
        return list(self._graph("inputs").inputs)

    @property
    def outputs(self) -> list[KerasTensor]:
        """The symbolic outputs of the layer graph."""
        return list(self._graph("outputs").outputs)

    @property
    def input(self) -> Any:
        """The symbolic inputs in their structure."""
        return self._graph("input").input_structure

    @property
    def output(self) -> Any:
        """The symbolic outputs in their structure."""
        return self._graph("output").output_structure

    @property
    def input_shape(self) -> Any:
        """The shape of the input, or the list of those of several."""
        shapes = [t.shape for t in self.inputs]
        return shapes[0] if len(shapes) == 1 else shapes

    @property
    def output_shape(self) -> Any:
        """The shape of the output, or the list of those of several."""
        shapes = [t.shape for t in self.outputs]
        return shapes[0] if len(shapes) == 1 else shapes

    @property
    def input_names(self) -> list[str]:
        return self._graph("input names").input_names

    @property
    def output_names(self) -> list[str]:
        return self._graph("output names").output_names

    # --- reports and files -------------------------------------------------------------------

    def summary(
        self,
        line_length: int | None = None,
        positions: Any = None,
        print_fn: Any = None,
        expand_nested: bool = False,
        show_trainable: bool = False,
        layer_range: Any = None,
    ) -> None:
        """Print a table of the layers, their output shapes and numbers of parameters.

        Parameters
        ----------
        line_length : int, optional
            Width in characters.
        print_fn : callable, optional
            Gets the text instead of the terminal.
        expand_nested : bool
            Show the layers of inner models too.
        show_trainable : bool
            Add a column that says whether a layer is trained.
        """
        from .summary import print_summary  # rich and h5py are imported when they are needed

        print_summary(self, line_length, print_fn, expand_nested, show_trainable)

    def get_config(self) -> dict[str, Any]:
        """The layer graph as data; of a subclass without one, what its constructor was given."""
        if self._network is None:
            return Layer.get_config(self) | _constructor_arguments(self)
        from .config import network_config

        return network_config({"name": self.name, "trainable": self.trainable}, self._network)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """The model of such data, with weights made anew."""
        if "input_layers" not in config:
            return cls(**config)
        from .config import network_from_config

        inputs, outputs = network_from_config(config, custom_objects)
        kind = Functional if cls in (Model, Functional) else cls
        model = kind(inputs, outputs, name=config.get("name"))
        model.trainable = config.get("trainable", True)
        return model

    def to_json(self, **kwargs: Any) -> str:
        """The architecture as JSON text, in Keras' form; see `models.model_from_json`."""
        from .config import to_json

        return to_json(self, **kwargs)

    def save_weights(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        """Write the weights to a `.weights.h5` file, which Keras reads too.

        Raises
        ------
        ArgumentError
            If the name does not end in `.weights.h5`, or the file exists and may not be
            overwritten.
        """
        from .weights_file import save_weights

        save_weights(self, filepath, overwrite)

    def load_weights(self, filepath: Any, skip_mismatch: bool = False, **kwargs: Any) -> None:
        """Read the weights from a `.weights.h5` file of ours or of Keras.

        Parameters
        ----------
        skip_mismatch : bool
            Leave layers as they are that the file does not fit, with a warning.

        Raises
        ------
        CheckpointError
            If the file is damaged or does not fit the model; no weight is changed then.
        """
        from .weights_file import load_weights

        load_weights(self, filepath, skip_mismatch)


class Functional(Model):
    """A model given by its layer graph; `Model(inputs, outputs)` makes one."""


def _describes_graph(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return len(args) >= 2 or (len(args) == 1 and "outputs" in kwargs) or (
        "inputs" in kwargs and "outputs" in kwargs
    )  # fmt: skip


def _take_graph(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Inputs and outputs; a third positional argument is the name."""
    given = list(args)
    inputs = given.pop(0) if given else kwargs.pop("inputs")
    outputs = given.pop(0) if given else kwargs.pop("outputs")
    if given:
        kwargs["name"] = given.pop(0)
    return inputs, outputs
