"""Recurrent layers: a cell run over the steps of sequences, in one loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from ...ir.errors import ArgumentError, ShapeError
from .. import ops, regularizers, tree
from ..variable import Variable
from .input_spec import InputSpec
from .layer import Layer
from .recurrent_cells import (
    GRUCell,
    LSTMCell,
    SimpleRNNCell,
    StackedRNNCells,
    call_cell,
    dropout_drawn,
    initial_state,
    require_cell,
)


class RNN(Layer):
    """A cell run over the second axis of its inputs, `(batch, steps, ...)`.

    Parameters
    ----------
    cell : cell or list of cells
        With `call(inputs, states)` -> the output and the new states, and `state_size`.
    return_sequences : bool
        The outputs of all steps, and not that of the last alone.
    return_state : bool
        The last states too, after the output.
    go_backwards : bool
        From the last step to the first; the outputs are in the order in which they are computed.
    stateful : bool
        Begin with the states with which the last call ended; the batch size must be fixed.
    unroll : bool
        As Keras has it: the number of steps must be known, and a step that is masked repeats the
        output before it. The loop stays one.
    zero_output_for_mask : bool
        The outputs of masked steps are 0, not those of the step before.

    Examples
    --------
    >>> RNN(LSTMCell(4), return_sequences=True)(np.ones((2, 5, 3), np.float32)).shape
    (2, 5, 4)
    """

    def __init__(
        self,
        cell: Any,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        zero_output_for_mask: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(cell, list | tuple):
            cell = StackedRNNCells(cell, dtype=kwargs.get("dtype"))
        require_cell(type(self).__name__, cell)
        self.cell = cell
        self.return_sequences = return_sequences
        self.return_state = return_state
        self.go_backwards = go_backwards
        self.stateful = stateful
        self.unroll = unroll
        self.zero_output_for_mask = zero_output_for_mask
        self.supports_masking = True
        self._memory = _Memory()

    @property
    def state_size(self) -> list[Any]:
        """The size of each state."""
        sizes = self.cell.state_size
        return list(sizes) if isinstance(sizes, list | tuple) else [sizes]

    @property
    def states(self) -> Any:
        """The variables that a stateful layer keeps its states in, or None."""
        return self._memory.states

    def build(self, sequences_shape: Any, initial_state_shape: Any = None) -> None:
        batch, _, *step = sequences_shape
        if isinstance(self.cell, Layer) and not self.cell.built:
            self.cell.build((batch, *step))
        if not self.stateful or self.states is not None:
            return
        if batch is None:
            raise ShapeError(
                f"layer {self.name!r}: a stateful layer must have a fixed batch size, got inputs "
                f"of shape {tuple(sequences_shape)}",
                hint="give it to Input with batch_shape",
            )
        self._memory.states = tree.map_structure(
            lambda x: Variable(x, dtype=self.variable_dtype, trainable=False, name="rnn_state"),
            self.get_initial_state(batch),
        )

    def get_initial_state(self, batch_size: Any) -> list[Any]:
        """What the cell begins with."""
        return initial_state(self.cell, batch_size, self.compute_dtype)

    def reset_state(self) -> None:
        """Make the kept states 0."""
        for state in tree.leaves(self.states or ()):
            state.assign(ops.zeros(state.shape, state.type.dtype))

    def reset_states(self) -> None:
        """The older name of `reset_state`."""
        self.reset_state()

    def call(
        self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False
    ) -> Any:
        states = self._first_states(sequences, initial_state)
        mask = mask[0] if isinstance(mask, list | tuple) else mask
        last, outputs, states = self.inner_loop(sequences, states, mask, training)
        output = outputs if self.return_sequences else last
        output = ops.cast(output, self.compute_dtype)
        states = tree.map_structure(lambda x: ops.cast(x, self.compute_dtype), states)
        if self.stateful:
            for kept, state in zip(tree.leaves(self.states), tree.leaves(states), strict=True):
                kept.assign(state)
        return (output, *states) if self.return_state else output

    def _first_states(self, sequences: Any, given: Any) -> list[Any]:
        steps = sequences.shape[1]
        if self.unroll and not isinstance(steps, int):
            raise ShapeError(
                f"layer {self.name!r}: to unroll, the number of steps must be known, got inputs "
                f"of shape {sequences.type}",
                hint="give it to Input",
            )
        if given is None:
            given = self.states if self.stateful else self.get_initial_state(sequences.shape[0])
        given = list(given) if isinstance(given, list | tuple) else [given]
        dtype = getattr(self.cell, "compute_dtype", self.compute_dtype)
        return tree.map_structure(lambda x: ops.cast(x, dtype), given)  # type: ignore[no-any-return]

    def inner_loop(
        self, sequences: Any, initial_state: Any, mask: Any, training: bool = False
    ) -> tuple[Any, Any, Any]:
        """The output of the last step, those of all steps if they are wanted, the last states."""
        states = list(initial_state) if isinstance(initial_state, list | tuple) else [initial_state]
        xs = {"x": ops.swapaxes(sequences, 0, 1)}
        if mask is not None:
            mask = ops.cast(mask, "bool")
            kept = ops.any(mask, axis=tuple(range(2, mask.ndim))) if mask.ndim > 2 else mask
            xs["kept"] = ops.swapaxes(kept, 0, 1)
        repeats = self.unroll and mask is not None
        batch, features = sequences.shape[0], sequences.shape[2:]
        previous = ops.zeros_like(_first_state(states)) if repeats else None
        output_is_state: list[bool] = []

        def step(carry: Any, x: Any) -> Any:
            states, previous = carry
            output, new = self._step(x, states, previous)
            output_is_state.append(output is _first_state(new))
            stacked = self.return_sequences or not output_is_state[-1]
            return (new, output if repeats else None), output if stacked else None

        drawn = dropout_drawn(self.cell, (batch, *features), states, sequences.dtype)
        with drawn if training else nullcontext():
            (states, _), outputs = ops.scan(step, (states, previous), xs, reverse=self.go_backwards)
        if output_is_state[-1]:
            last = _first_state(states)
        else:
            last = outputs[0 if self.go_backwards else -1]
        if self.return_sequences:
            outputs = ops.flip(outputs, axis=0) if self.go_backwards else outputs
            outputs = ops.swapaxes(outputs, 0, 1)
        return last, outputs, states

    def _step(self, x: dict[str, Any], states: Any, previous: Any) -> tuple[Any, Any]:
        """Output and states after a step; where it is masked the states stay."""
        output, new = call_cell(self.cell, x["x"], states)
        if "kept" not in x:
            return output, new
        is_state = output is _first_state(new)
        before = _first_state(states) if previous is None else previous

        def chosen(after: Any, otherwise: Any) -> Any:
            kept = ops.reshape(x["kept"], (-1, *(1,) * (after.ndim - 1)))
            return ops.where(kept, after, otherwise)

        pairs = zip(tree.leaves(new), tree.leaves(states), strict=True)
        masked = tree.pack_like(states, [chosen(*pair) for pair in pairs])
        if self.zero_output_for_mask and previous is None:
            return chosen(output, ops.zeros_like(output)), masked
        if is_state and previous is None:
            return _first_state(masked), masked
        return chosen(output, before), masked

    def compute_mask(self, _: Any, mask: Any) -> Any:
        mask = mask[0] if isinstance(mask, list | tuple) else mask
        output = mask if self.return_sequences else None
        return [output, *(None for _ in self.state_size)] if self.return_state else output

    def get_config(self) -> dict[str, Any]:
        from . import serialize

        return {**self._loop_config(), "cell": serialize(self.cell)}

    def _loop_config(self) -> dict[str, Any]:
        names = (*LOOP, "zero_output_for_mask")
        return {**Layer.get_config(self), **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        from . import deserialize

        config = dict(config)
        return cls(deserialize(config.pop("cell")), **config)


class _Memory:
    """Holds the variables of the states, which are no weights of the layer."""

    states: Any = None


def _first_state(states: Any) -> Any:
    """The state that is taken for the output: the first one, of the last cell of several."""
    first = states[0]
    return states[-1][0] if isinstance(first, list | tuple) else first


# --- a layer for each cell -------------------------------------------------------------------


def _of_cell(*names: str) -> Callable[[type], type]:
    """A decorator: attributes that are those of the cell."""

    def add(layer: type) -> type:
        for name in names:
            setattr(layer, name, property(lambda self, name=name: getattr(self.cell, name)))
        return layer

    return add


WEIGHTS = tuple(
    f"{name}_{what}" for name in ("kernel", "recurrent", "bias")
    for what in ("initializer", "regularizer", "constraint")
)  # fmt: skip
LOOP = ("return_sequences", "return_state", "go_backwards", "stateful", "unroll")
SHARED = ("units", "activation", "use_bias", "dropout", "recurrent_dropout", "seed", *WEIGHTS)


class _CellLayer(RNN):
    """An `RNN` of one kind of cell, whose arguments are its own.

    Constructors spell out Keras' arguments, for `help` and type checkers, and hand on `locals()`.
    """

    def _assemble(self, cell: type[Layer], name: str, given: dict[str, Any]) -> None:
        """Make the cell and its loop of all that a constructor was given."""
        kwargs = given.pop("kwargs")
        mine = {k: v for k, v in given.items() if k in inspect.signature(cell).parameters}
        if "use_cudnn" in given:
            mine["implementation"] = kwargs.pop("implementation", 2)
        for shared, default in (("dtype", None), ("trainable", True)):
            mine[shared] = kwargs.get(shared, default)
        loop = {k: given[k] for k in (*LOOP, "activity_regularizer")}
        RNN.__init__(self, cell(**mine, name=name), **loop, **kwargs)
        if "use_cudnn" in given:
            self.use_cudnn = _require_cudnn_choice(type(self).__name__, given["use_cudnn"])
        self.input_spec = InputSpec(ndim=3)

    def get_config(self) -> dict[str, Any]:
        cell = {k: v for k, v in self.cell.get_config().items() if k not in Layer.get_config(self)}
        penalty = regularizers.serialize(self.activity_regularizer)
        return {**self._loop_config(), **cell, "activity_regularizer": penalty}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**config)


def _require_cudnn_choice(layer: str, use_cudnn: Any) -> Any:
    """cuDNN is Keras' affair on GPUs; that it must be used is refused, as Keras does on a CPU."""
    if use_cudnn not in ("auto", True, False):
        raise ArgumentError(f"{layer}: use_cudnn must be 'auto', True or False, got {use_cudnn!r}")
    if use_cudnn is True:
        raise ArgumentError(f"{layer}: use_cudnn must be 'auto' or False here, got True")
    return use_cudnn


@_of_cell(*SHARED)
class SimpleRNN(_CellLayer):
    """`SimpleRNNCell` over sequences `(batch, steps, features)`.

    Parameters
    ----------
    units, activation, use_bias, kernel_*, recurrent_*, bias_*, dropout, recurrent_dropout, seed
        As for `SimpleRNNCell`.
    return_sequences, return_state, go_backwards, stateful, unroll
        As for `RNN`.

    Examples
    --------
    >>> SimpleRNN(4)(np.ones((2, 5, 3), np.float32)).shape
    (2, 4)
    """

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        seed: Any = None,
        **kwargs: Any,
    ) -> None:
        self._assemble(SimpleRNNCell, "simple_rnn_cell", locals())


@_of_cell(*SHARED, "recurrent_activation", "unit_forget_bias")
class LSTM(_CellLayer):
    """`LSTMCell` over sequences `(batch, steps, features)`.

    Parameters
    ----------
    units, activation, recurrent_activation, use_bias, kernel_*, recurrent_*, bias_*,
    unit_forget_bias, dropout, recurrent_dropout, seed
        As for `LSTMCell`.
    return_sequences, return_state, go_backwards, stateful, unroll
        As for `RNN`.
    use_cudnn : "auto" or False

    Examples
    --------
    >>> LSTM(4)(np.ones((2, 5, 3), np.float32)).shape
    (2, 4)
    """

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        unit_forget_bias: bool = True,
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: Any = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        use_cudnn: Any = "auto",
        **kwargs: Any,
    ) -> None:
        self._assemble(LSTMCell, "lstm_cell", locals())


@_of_cell(*SHARED, "recurrent_activation", "reset_after")
class GRU(_CellLayer):
    """`GRUCell` over sequences `(batch, steps, features)`.

    Parameters
    ----------
    units, activation, recurrent_activation, use_bias, kernel_*, recurrent_*, bias_*,
    dropout, recurrent_dropout, seed, reset_after
        As for `GRUCell`.
    return_sequences, return_state, go_backwards, stateful, unroll
        As for `RNN`.
    use_cudnn : "auto" or False

    Examples
    --------
    >>> GRU(4)(np.ones((2, 5, 3), np.float32)).shape
    (2, 4)
    """

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: Any = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        reset_after: bool = True,
        use_cudnn: Any = "auto",
        **kwargs: Any,
    ) -> None:
        self._assemble(GRUCell, "gru_cell", locals())
