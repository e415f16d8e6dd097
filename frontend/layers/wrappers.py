"""Layers around other layers: in both directions of time, and at each step of it."""

from __future__ import annotations

import inspect
from typing import Any

from ...ir.errors import ArgumentError, ShapeError
from .. import ops
from .layer import Layer

MERGE_MODES = ("sum", "mul", "ave", "concat", None)


class Wrapper(Layer):
    """A layer around another one, `layer`, which is built with it.

    Parameters
    ----------
    layer : Layer
    """

    def __init__(self, layer: Layer, **kwargs: Any) -> None:
        _require_layer(type(self).__name__, "layer", layer)
        super().__init__(**kwargs)
        self.layer = layer

    def build(self, input_shape: Any = None) -> None:
        if not self.layer.built:
            self.layer.build(input_shape)

    def get_config(self) -> dict[str, Any]:
        from . import serialize

        return {**super().get_config(), "layer": serialize(self.layer)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        from . import deserialize

        config = dict(config)
        return cls(deserialize(config.pop("layer")), **config)


def _require_layer(wrapper: str, argument: str, layer: Any) -> None:
    if not isinstance(layer, Layer):
        raise ArgumentError(f"{wrapper}: {argument} must be a Layer, got {layer!r:.60}")


class TimeDistributed(Wrapper):
    """A layer applied to each step of `(batch, steps, ...)`, with the same weights.

    Parameters
    ----------
    layer : Layer

    Notes
    -----
    All steps are computed at once; one after the other where the layer has state, such as the
    averages of a batch normalization, which changes from step to step.

    Examples
    --------
    >>> TimeDistributed(Dense(4))(np.ones((2, 5, 3), np.float32)).shape
    (2, 5, 4)
    """

    def __init__(self, layer: Layer, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
        self.supports_masking = True

    def build(self, input_shape: Any = None) -> None:
        if len(input_shape) < 3:
            raise ShapeError(
                f"layer {self.name!r}: input must have rank >= 3, got shape {tuple(input_shape)}"
            )
        super().build((input_shape[0], *input_shape[2:]))

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        self._check_mask(inputs, mask)
        takes = inspect.signature(self.layer.call).parameters
        xs = {"inputs": ops.swapaxes(inputs, 0, 1)}
        if mask is not None and "mask" in takes:
            xs["mask"] = ops.swapaxes(mask, 0, 1)
        given = {"training": training} if "training" in takes else {}

        def step(x: dict[str, Any]) -> Any:
            return self.layer.call(x["inputs"], **given, **{k: x[k] for k in x if k == "mask"})

        apart = training and self.layer.non_trainable_variables
        outputs = ops.map(step, xs) if apart else ops.vectorized_map(step, xs)
        return ops.swapaxes(outputs, 0, 1)

    def _check_mask(self, inputs: Any, mask: Any) -> None:
        if mask is None:
            return
        known = [(a, b) for a, b in zip(inputs.shape, mask.shape, strict=False)
                 if isinstance(a, int) and isinstance(b, int)]  # fmt: skip
        if mask.ndim < 2 or any(a != b for a, b in known[:2]):
            raise ShapeError(
                f"layer {self.name!r}: mask must begin with the batch and the steps of the "
                f"inputs {inputs.type}, got {mask.type}"
            )


class Bidirectional(Layer):
    """A recurrent layer run forwards and one run backwards, and their outputs merged.

    Parameters
    ----------
    layer : Layer
        A recurrent one; it is copied.
    merge_mode : "concat", "sum", "mul", "ave" or None
        How the outputs are merged; None gives both.
    weights : list of arrays, optional
        The first weights, those of the forward layer and then those of the other.
    backward_layer : Layer, optional
        The one that runs backwards; a copy of `layer` by default.

    Examples
    --------
    >>> Bidirectional(LSTM(4))(np.ones((2, 5, 3), np.float32)).shape
    (2, 8)
    """

    def __init__(
        self,
        layer: Layer,
        merge_mode: str | None = "concat",
        weights: Any = None,
        backward_layer: Layer | None = None,
        **kwargs: Any,
    ) -> None:
        _require_layer("Bidirectional", "layer", layer)
        if backward_layer is not None:
            _require_layer("Bidirectional", "backward_layer", backward_layer)
        if merge_mode not in MERGE_MODES:
            raise ArgumentError(
                f"Bidirectional: merge_mode must be one of {', '.join(map(str, MERGE_MODES))}, "
                f"got {merge_mode!r}"
            )
        super().__init__(**kwargs)
        self.forward_layer = _copied(layer, "forward_")
        self.backward_layer = backward_layer or _copied(layer, "backward_", go_backwards=True)
        self._check_layers()
        for one in (self.forward_layer, self.backward_layer):
            if hasattr(one, "zero_output_for_mask"):
                one.zero_output_for_mask = one.return_sequences
        self.merge_mode = merge_mode
        self._first_weights = weights
        self.stateful = layer.stateful
        self.return_sequences = layer.return_sequences
        self.return_state = layer.return_state
        self.supports_masking = True
        self.input_spec = layer.input_spec

    def _check_layers(self) -> None:
        forward, backward = self.forward_layer, self.backward_layer
        for name in ("go_backwards", "stateful", "return_sequences", "return_state"):
            pair = getattr(forward, name, None), getattr(backward, name, None)
            alike = pair[0] == pair[1]
            if None in pair or alike == (name == "go_backwards"):
                wanted = "differ in" if name == "go_backwards" else "agree in"
                raise ArgumentError(
                    f"layer {self.name!r}: the layers of both directions must {wanted} {name}, "
                    f"got {pair[0]} and {pair[1]}"
                )

    def build(self, sequences_shape: Any, initial_state_shape: Any = None) -> None:
        for layer in (self.forward_layer, self.backward_layer):
            if not layer.built:
                layer.build(sequences_shape)
        if self._first_weights:
            self.set_weights(self._first_weights)

    def call(
        self, sequences: Any, initial_state: Any = None, mask: Any = None,
        training: bool | None = None,
    ) -> Any:  # fmt: skip
        starts: tuple[Any, Any] = (None, None)
        if initial_state is not None:
            half = len(initial_state) // 2
            starts = (initial_state[:half], initial_state[half:])
        layers = (self.forward_layer, self.backward_layer)
        found = [
            layer(sequences, initial_state=start, mask=mask, training=training)
            for layer, start in zip(layers, starts, strict=True)
        ]
        states: tuple[Any, ...] = ()
        if self.return_state:
            states = (*found[0][1:], *found[1][1:])
            found = [outputs[0] for outputs in found]
        forward, backward = (ops.cast(y, self.compute_dtype) for y in found)
        if self.return_sequences:
            backward = ops.flip(backward, axis=1)
        output = self._merged(forward, backward)
        if not states:
            return output
        return (*output, *states) if self.merge_mode is None else (output, *states)

    def _merged(self, forward: Any, backward: Any) -> Any:
        if self.merge_mode is None:
            return (forward, backward)
        if self.merge_mode == "concat":
            return ops.concatenate([forward, backward], axis=-1)
        if self.merge_mode == "mul":
            return ops.multiply(forward, backward)
        total = ops.add(forward, backward)
        return total if self.merge_mode == "sum" else ops.divide(total, 2)

    def compute_mask(self, _: Any, mask: Any) -> Any:
        mask = mask[0] if isinstance(mask, list | tuple) else mask
        output = mask if self.return_sequences else None
        outputs = [output, output] if self.merge_mode is None else [output]
        if self.return_state:
            return outputs + [None] * (2 * len(self.forward_layer.state_size))
        return outputs if len(outputs) > 1 else output

    @property
    def states(self) -> Any:
        """The kept states of both layers; None if they are not stateful."""
        if self.forward_layer.states is None:
            return None
        return (*self.forward_layer.states, *self.backward_layer.states)

    def reset_state(self) -> None:
        """Make the kept states 0."""
        for layer in (self.forward_layer, self.backward_layer):
            layer.reset_state()

    def reset_states(self) -> None:
        """The older name of `reset_state`."""
        self.reset_state()

    def get_config(self) -> dict[str, Any]:
        from . import serialize

        layers = {name: serialize(getattr(self, f"{name}_layer")) for name in DIRECTIONS}
        return {**super().get_config(), "merge_mode": self.merge_mode,
                "layer": layers["forward"], "backward_layer": layers["backward"]}  # fmt: skip

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        from . import deserialize

        config = dict(config)
        layer = deserialize(config.pop("layer"))
        backward = config.pop("backward_layer", None)
        backward = None if backward is None else deserialize(backward)
        return cls(layer, backward_layer=backward, **config)


DIRECTIONS = ("forward", "backward")


def _copied(layer: Layer, prefix: str, **changed: Any) -> Any:
    """A layer of the same configuration with a prefix before its name."""
    name = f"{prefix}{layer.name.removeprefix(prefix)}"
    return type(layer).from_config({**layer.get_config(), **changed, "name": name})
