"""One step of a recurrent network: cells, which `RNN` runs over the steps of a sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from ...ir.errors import ArgumentError
from .. import activations, initializers, ops, random
from .core import fixed_size, positive
from .layer import Layer
from .weights import WeightedLayer


class DroppedElements(NamedTuple):
    """What a cell multiplies its inputs and its state by in training: one factor, or one a gate."""

    inputs: list[Any] | None
    state: list[Any] | None


class DropoutCell(WeightedLayer):
    """A cell that drops the same elements of its inputs and of its state in every step."""

    dropout: float
    recurrent_dropout: float
    gates = 1
    _dropped: DroppedElements | None = None

    def _set_dropout(self, dropout: float, recurrent_dropout: float, seed: Any) -> None:
        self.dropout = min(1.0, max(0.0, dropout))
        self.recurrent_dropout = min(1.0, max(0.0, recurrent_dropout))
        self.seed = seed
        self.seed_generator = random.SeedGenerator(seed, name=self.name)

    def draw_dropout(self, inputs: Sequence[Any], state: Sequence[Any], dtype: Any) -> Any:
        """What is dropped of inputs and states of these shapes."""
        return DroppedElements(
            self._draw(self.dropout, inputs, dtype),
            self._draw(self.recurrent_dropout, state, dtype),
        )

    def _draw(self, rate: float, shape: Sequence[Any], dtype: Any) -> list[Any] | None:
        if not 0 < rate < 1:  # a rate of 1 drops nothing, as in Keras
            return None
        ones = ops.ones(tuple(shape), dtype)
        count = self._mask_count()
        return [random.dropout(ones, rate, seed=self.seed_generator) for _ in range(count)]

    def _mask_count(self) -> int:
        return 1

    def _dropped_now(self, inputs: Any, state: Any, training: Any) -> DroppedElements:
        """Those drawn for all steps, or new ones where the cell is called by itself."""
        if not training:
            return DroppedElements(None, None)
        return self._dropped or self.draw_dropout(inputs.shape, state.shape, inputs.dtype)

    def _product(self, x: Any, kernel: Any, factors: list[Any] | None) -> Any:
        """`x @ kernel`, with elements of `x` dropped for all gates alike or for each gate."""
        if factors is None:
            return ops.matmul(x, kernel)
        if len(factors) == 1:
            return ops.matmul(ops.multiply(x, factors[0]), kernel)
        size = kernel.shape[-1] // self.units  # type: ignore[attr-defined]
        parts = ops.split(kernel, size, axis=-1)
        products = [ops.matmul(ops.multiply(x, f), k) for f, k in zip(factors, parts, strict=False)]
        return ops.concatenate(products, axis=-1)


@contextmanager
def dropout_drawn(cell: Any, inputs: Sequence[Any], states: Any, dtype: Any) -> Iterator[None]:
    """Inside, the cell drops the same elements in every call.

    Parameters
    ----------
    cell : layer
    inputs : sequence of sizes
        The shape of the inputs of one step.
    states : nest of tensors
        As the cell takes them.
    """
    with ExitStack() as stack:
        if isinstance(cell, StackedRNNCells):
            for part, state in zip(cell.cells, states, strict=False):
                stack.enter_context(dropout_drawn(part, inputs, state, dtype))
                inputs = (inputs[0], output_size(part))
        if isinstance(cell, DropoutCell):
            first = states[0] if isinstance(states, list | tuple) else states
            cell._dropped = cell.draw_dropout(inputs, first.shape, dtype)
            stack.callback(setattr, cell, "_dropped", None)
        yield


class _UnitsCell(DropoutCell):
    """What `SimpleRNNCell`, `LSTMCell` and `GRUCell` share: arguments, kernels, zero states."""

    settings: tuple[str, ...] = ()

    def _set_units(self, given: dict[str, Any]) -> None:
        """Note what all these cells are given; constructors hand on `locals()`."""
        self.units = positive(self, "units", given["units"])
        self.activation = activations.get(given["activation"])
        self.use_bias = given["use_bias"]
        for name in ("kernel", "recurrent", "bias"):
            what = (f"{name}_{each}" for each in ("initializer", "regularizer", "constraint"))
            self._describe_weight(name, *(given[each] for each in what))
        self._set_dropout(given["dropout"], given["recurrent_dropout"], given["seed"])
        self.output_size = self.units

    @property
    def state_size(self) -> Any:
        """The size of each state, or of the only one."""
        return self.units

    def build(self, input_shape: Any) -> None:
        wide = self.gates * self.units
        self.kernel = self._make_weight("kernel", (fixed_size(self, input_shape, -1), wide))
        self.recurrent_kernel = self._make_weight(
            "recurrent", (self.units, wide), called="recurrent_kernel"
        )
        self.bias = self._make_bias() if self.use_bias else None

    def _make_bias(self) -> Any:
        return self._make_weight("bias", (self.gates * self.units,))

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        """Zeros."""
        sizes = self.state_size if isinstance(self.state_size, list) else [self.state_size]
        return [ops.zeros((batch_size, size), self.compute_dtype) for size in sizes]

    def get_config(self) -> dict[str, Any]:
        functions = {
            name: activations.serialize(getattr(self, name))
            for name in ("activation", "recurrent_activation") if hasattr(self, name)
        }  # fmt: skip
        names = ("units", "use_bias", "dropout", "recurrent_dropout", "seed", *self.settings)
        return {
            **super().get_config(),
            **functions,
            **{name: getattr(self, name) for name in names},
            **self._weights_config("kernel", "recurrent", "bias"),
        }


class SimpleRNNCell(_UnitsCell):
    """`h = activation(x @ kernel + bias + h @ recurrent_kernel)`.

    Parameters
    ----------
    units : int
        The size of the state, which is the output.
    activation : str or callable, optional
    use_bias : bool
    kernel_initializer, recurrent_initializer, bias_initializer : str or callable
    kernel_regularizer, recurrent_regularizer, bias_regularizer : str or callable, optional
    kernel_constraint, recurrent_constraint, bias_constraint : str or callable, optional
    dropout, recurrent_dropout : float
        Shares of the inputs and of the state that are dropped in training, in [0, 1].
    seed : int, optional
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
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._set_units(locals())

    def call(self, sequence: Any, states: Any, training: bool = False) -> Any:
        state = states[0] if isinstance(states, list | tuple) else states
        dropped = self._dropped_now(sequence, state, training)
        x = self._product(sequence, self.kernel, dropped.inputs)
        if self.bias is not None:
            x = ops.add(x, self.bias)
        h = ops.add(x, self._product(state, self.recurrent_kernel, dropped.state))
        h = self.activation(h)
        return h, [h] if isinstance(states, list | tuple) else h


class LSTMCell(_UnitsCell):
    """Long short-term memory: `c = f * c + i * activation(g)`, `h = o * activation(c)`.

    `i, f, g, o` are the four parts of `x @ kernel + bias + h @ recurrent_kernel`, all but `g`
    through `recurrent_activation`.

    Parameters
    ----------
    units : int
        The size of the two states `h`, which is the output, and `c`.
    activation, recurrent_activation : str or callable, optional
    unit_forget_bias : bool
        Whether the bias of `f` begins with 1.
    use_bias, kernel_*, recurrent_*, bias_*, dropout, recurrent_dropout, seed
        As for `SimpleRNNCell`.

    Notes
    -----
    Hochreiter and Schmidhuber, 1997.
    """

    gates = 4
    settings = ("unit_forget_bias",)

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
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: Any = None,
        **kwargs: Any,
    ) -> None:
        self.implementation = kwargs.pop("implementation", 2)
        super().__init__(**kwargs)
        self._set_units(locals())
        self.recurrent_activation = activations.get(recurrent_activation)
        self.unit_forget_bias = unit_forget_bias

    @property
    def state_size(self) -> Any:
        return [self.units, self.units]

    def _mask_count(self) -> int:
        return _masks_of_gates(self)

    def _make_bias(self) -> Any:
        if not self.unit_forget_bias:
            return super()._make_bias()
        return self.add_weight(
            shape=(4 * self.units,), initializer=forget_bias(self, self.units),
            regularizer=self.bias_regularizer, constraint=self.bias_constraint, name="bias",
        )  # fmt: skip

    def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
        h, c = states
        dropped = self._dropped_now(inputs, h, training)
        x = self._product(inputs, self.kernel, dropped.inputs)
        if self.bias is not None:
            x = ops.add(x, self.bias)
        z = ops.add(x, self._product(h, self.recurrent_kernel, dropped.state))
        i, f, g, o = ops.split(z, 4, axis=-1)
        i, f, o = (self.recurrent_activation(v) for v in (i, f, o))
        c = ops.add(ops.multiply(f, c), ops.multiply(i, self.activation(g)))
        h = ops.multiply(o, self.activation(c))
        return h, [h, c]


class GRUCell(_UnitsCell):
    """Gated recurrent unit: `h = z * h + (1 - z) * activation(candidate)`.

    The gates `z` and `r` are `recurrent_activation(x @ kernel + bias + h @ recurrent_kernel)`.
    The candidate is `x @ kernel + bias + r * (h @ recurrent_kernel + bias)`, or without
    `reset_after` `x @ kernel + bias + (r * h) @ recurrent_kernel`, each with a third part of the
    kernels.

    Parameters
    ----------
    units : int
        The size of the state, which is the output.
    activation, recurrent_activation : str or callable, optional
    reset_after : bool
        Whether the reset gate comes after the matrix product; the bias then has two rows.
    use_bias, kernel_*, recurrent_*, bias_*, dropout, recurrent_dropout, seed
        As for `SimpleRNNCell`.

    Notes
    -----
    Cho et al., 2014.
    """

    gates = 3
    settings = ("reset_after",)

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
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        reset_after: bool = True,
        seed: Any = None,
        **kwargs: Any,
    ) -> None:
        self.implementation = kwargs.pop("implementation", 2)
        super().__init__(**kwargs)
        self._set_units(locals())
        self.recurrent_activation = activations.get(recurrent_activation)
        self.reset_after = reset_after

    def _mask_count(self) -> int:
        return _masks_of_gates(self)

    def _make_bias(self) -> Any:
        wide = 3 * self.units
        return self._make_weight("bias", (2, wide) if self.reset_after else (wide,))

    def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
        h = states[0] if isinstance(states, list | tuple) else states
        dropped = self._dropped_now(inputs, h, training)
        bias, inner_bias = (None, None) if self.bias is None else (self.bias, None)
        if self.bias is not None and self.reset_after:
            bias, inner_bias = self.bias[0], self.bias[1]
        x = self._product(inputs, self.kernel, dropped.inputs)
        if bias is not None:
            x = ops.add(x, bias)
        x_z, x_r, x_h = ops.split(x, 3, axis=-1)
        if self.reset_after:
            inner = self._product(h, self.recurrent_kernel, dropped.state)
            if inner_bias is not None:
                inner = ops.add(inner, inner_bias)
            inner_z, inner_r, inner_h = ops.split(inner, 3, axis=-1)
        else:
            gates = self.recurrent_kernel[:, : 2 * self.units]
            inner = self._product(h, gates, dropped.state)
            inner_z, inner_r = ops.split(inner, 2, axis=-1)
        z = self.recurrent_activation(ops.add(x_z, inner_z))
        r = self.recurrent_activation(ops.add(x_r, inner_r))
        if self.reset_after:
            inner_h = ops.multiply(r, inner_h)
        else:
            kept = h if dropped.state is None else ops.multiply(h, dropped.state[-1])
            inner_h = ops.matmul(ops.multiply(r, kept), self.recurrent_kernel[:, 2 * self.units :])
        candidate = self.activation(ops.add(x_h, inner_h))
        h = ops.add(ops.multiply(z, h), ops.multiply(ops.subtract(1.0, z), candidate))
        return h, [h] if isinstance(states, list | tuple) else h


def forget_bias(cell: Any, units: int) -> Callable[..., Any]:
    """An initializer of the bias of an LSTM: its own, and 1 for the gate that forgets."""

    def start(shape: Any, dtype: Any = None) -> Any:
        parts = [cell.bias_initializer((units,), dtype=dtype),
                 initializers.get("ones")((units,), dtype=dtype),
                 cell.bias_initializer((2 * units,), dtype=dtype)]  # fmt: skip
        return ops.concatenate(parts, axis=0)

    return start


def _masks_of_gates(cell: Any) -> int:
    """Keras drops for each gate apart if it drops of the state, or in implementation 1."""
    apart = cell.recurrent_dropout > 0 or cell.implementation == 1
    return int(cell.gates) if apart else 1


# --- cells of any kind -----------------------------------------------------------------------


class StackedRNNCells(Layer):
    """Cells of which each takes the outputs of the one before.

    Parameters
    ----------
    cells : sequence of cells
    """

    def __init__(self, cells: Sequence[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cells = list(cells)
        for cell in self.cells:
            require_cell(type(self).__name__, cell)

    @property
    def state_size(self) -> list[Any]:
        """The sizes of the states of each cell."""
        return [cell.state_size for cell in self.cells]

    @property
    def output_size(self) -> int:
        """The size of the output of the last cell."""
        return output_size(self.cells[-1])

    def build(self, input_shape: Any) -> None:
        for cell in self.cells:
            if isinstance(cell, Layer) and not cell.built:
                cell.build(input_shape)
            input_shape = (input_shape[0], output_size(cell))

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        """The first states of each cell."""
        return [initial_state(cell, batch_size, self.compute_dtype) for cell in self.cells]

    def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
        following = []
        for cell, given in zip(self.cells, states, strict=False):
            several = isinstance(given, list | tuple)
            inputs, new = call_cell(cell, inputs, list(given) if several else [given])
            following.append(list(new) if several else new[0])
        return inputs, following

    def get_config(self) -> dict[str, Any]:
        from . import serialize

        return {**super().get_config(), "cells": [serialize(cell) for cell in self.cells]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        from . import deserialize

        config = dict(config)
        return cls([deserialize(cell) for cell in config.pop("cells")], **config)


def require_cell(layer: str, cell: Any) -> None:
    """Refuse what cannot make a step of a recurrent network."""
    for name in ("call", "state_size"):
        if not hasattr(cell, name):
            raise ArgumentError(
                f"{layer}: a cell must have `{name}`, got {type(cell).__name__} without it"
            )


def output_size(cell: Any) -> int:
    """The size of a cell's output: that of its first state unless it says so."""
    size = getattr(cell, "output_size", None)
    if size is None:
        sizes = cell.state_size
        size = sizes[0] if isinstance(sizes, list | tuple) else sizes
    return size  # type: ignore[no-any-return]


def initial_state(cell: Any, batch_size: Any, dtype: Any) -> list[Any]:
    """What a cell begins with: zeros unless it says so."""
    if hasattr(cell, "get_initial_state"):
        found = cell.get_initial_state(batch_size=batch_size)
        return list(found) if isinstance(found, list | tuple) else [found]
    sizes = cell.state_size
    sizes = sizes if isinstance(sizes, list | tuple) else [sizes]
    return [ops.zeros((batch_size, size), dtype) for size in sizes]


def call_cell(cell: Any, inputs: Any, states: list[Any]) -> tuple[Any, Any]:
    """Output and new states of a step; a layer gets `training` from the layer around it."""
    output, new = (cell if callable(cell) else cell.call)(inputs, states)
    return output, new if isinstance(new, list | tuple) else [new]
