"""The table that `model.summary()` prints."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from ..layers.layer import Layer
from ..variable import Variable


def print_summary(
    model: Any,
    line_length: int | None = None,
    print_fn: Callable[[str], Any] | None = None,
    expand_nested: bool = False,
    show_trainable: bool = False,
) -> None:
    """Print the table to the terminal, or hand its text to `print_fn`."""
    stream = io.StringIO() if print_fn else None
    console = Console(file=stream, width=line_length, highlight=False)
    console.print(f"[bold]Model: {model.name!r}[/bold]")
    console.print(_table(model, expand_nested, show_trainable))
    for line in _totals(model):
        console.print(line)
    if print_fn and stream is not None:
        print_fn(stream.getvalue())


def _table(model: Any, expand_nested: bool, show_trainable: bool) -> Table:
    table = Table(show_lines=False)
    table.add_column("Layer (type)", overflow="fold")
    table.add_column("Output shape")
    table.add_column("Param #", justify="right")
    several = _branches(model)
    if several:
        table.add_column("Connected to")
    if show_trainable:
        table.add_column("Trainable", justify="center")
    for depth, operation in _rows(model, expand_nested):
        indent = "  " * depth
        is_layer = isinstance(operation, Layer)
        cells = [
            f"{indent}{operation.name} ({type(operation).__name__})" if is_layer
            else f"{indent}{operation.name} (op)",
            _output_shape(operation),
            _count(operation) if is_layer else "0",
        ]  # fmt: skip
        if several:
            cells.append(_connections(operation) if depth == 0 else "")
        if show_trainable:
            cells.append(_trainable(operation) if is_layer else "-")
        table.add_row(*cells)
    return table


def _rows(model: Any, expand_nested: bool, depth: int = 0) -> Iterator[tuple[int, Any]]:
    network = getattr(model, "_network", None)
    straight = network is None or not _branches(model)
    for operation in model.layers if straight else model.operations:
        yield depth, operation
        if expand_nested and getattr(operation, "layers", None):
            yield from _rows(operation, expand_nested, depth + 1)


def _branches(model: Any) -> bool:
    """Whether the layer graph is more than a chain of layers."""
    network = getattr(model, "_network", None)
    if network is None:
        return False
    chain = all(len(node.inputs) <= 1 for node in network.nodes)
    return not (chain and len(network.nodes) == len(network.layers) and len(network.outputs) == 1)


def _connections(operation: Any) -> str:
    names = [
        t.node.operation.name for node in operation.inbound_nodes for t in node.inputs if t.node
    ]
    return ", ".join(dict.fromkeys(names)) or "-"


def _output_shape(operation: Any) -> str:
    if operation.inbound_nodes:
        shapes = [t.shape for t in operation.inbound_nodes[-1].outputs]
    else:
        found = getattr(operation, "_output_shapes", None)
        shapes = [] if found is None else [found] if _is_shape(found) else list(found)
        shapes = [(None, *s[1:]) for s in shapes if _is_shape(s) and s]
    return ", ".join(map(str, shapes)) or "?"


def _is_shape(x: Any) -> bool:
    return isinstance(x, tuple) and all(d is None or isinstance(d, int) for d in x)


def _count(layer: Layer) -> str:
    return f"{layer.count_params():,}" if layer.built else "0 (not built)"


def _trainable(layer: Layer) -> str:
    if not layer.weights:
        return "-"
    return "yes" if layer.trainable else "no"


def _totals(model: Any) -> Iterator[str]:
    optimizer = model.optimizer.variables if model.optimizer is not None else []
    groups = {
        "Total params": [*model.weights, *optimizer],
        "Trainable params": model.trainable_weights,
        "Non-trainable params": model.non_trainable_weights,
    }
    if optimizer:
        groups["Optimizer params"] = optimizer
    for name, variables in groups.items():
        yield f" {name}: {sum(v.size for v in variables):,} ({_bytes(variables)})"


def _bytes(variables: list[Variable]) -> str:
    size = float(sum(v.type.nbytes for v in variables))
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024 or unit == "GB":
            return f"{size:.2f} {unit}"
        size /= 1024
    return ""
