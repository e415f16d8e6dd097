"""The arithmetic of a model, counted by running its definition on shapes instead of tensors.

`Counting()` is a namespace such as Keras: a definition that is written over any namespace can be
run on it, and leaves the operations of its matrix products and convolutions behind. No weight is
made.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from .. import layers as _layers

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Shaped:
    """A tensor of which only the shape of one sample is known.

    Attributes
    ----------
    shape
        Without the batch.
    learned
        Whether it depends on weights, so that training needs its gradient.
    """

    shape: Shape
    learned: bool = False


@dataclass(frozen=True)
class Work:
    """What a layer does to one sample.

    Attributes
    ----------
    shape
        Of the output.
    flops
        Of its products; a multiply-add counts as two.
    on_input
        Those whose one operand is the layer's input: its gradient costs as much again.
    """

    shape: Shape
    flops: int = 0
    on_input: int | None = None


@dataclass
class Counting:
    """A namespace with `layers`, `Sequential` and `Model` that counts.

    Attributes
    ----------
    forward : int
        Operations of one sample going forward.
    unneeded : int
        Those whose other product, the gradient of the model's input, training does not need.
    used : list of str
        The names of the layers, in the order of their first use.
    """

    forward: int = 0
    unneeded: int = 0
    used: list[str] = field(default_factory=list)
    __name__ = "counting"

    @property
    def layers(self) -> Any:
        """Every layer that a definition asks for."""
        return _Layers(self)

    def Sequential(self, layers: Sequence[Any]) -> Any:
        """The layers one after another."""
        x, *rest = layers
        for layer in rest:
            x = layer(x)
        return SimpleNamespace(output=x)

    def Model(self, inputs: Any, outputs: Any) -> Any:
        """What was computed already."""
        return SimpleNamespace(output=outputs)


@dataclass(frozen=True)
class _Layers:
    counting: Counting

    def __getattr__(self, name: str) -> Any:
        if name == "Input":
            return lambda shape, **_: Shaped(tuple(shape))

        def make(*args: Any, **kwargs: Any) -> Callable[..., Shaped]:
            given = inspect.signature(getattr(_layers, name)).bind(*args, **kwargs)
            given.apply_defaults()
            return _Layer(self.counting, name, SimpleNamespace(**given.arguments))

        return make


@dataclass(frozen=True)
class _Layer:
    counting: Counting
    name: str
    given: Any

    def __call__(self, inputs: Any, *others: Any) -> Shaped:
        if self.name not in self.counting.used:
            self.counting.used.append(self.name)
        several = [*inputs] if isinstance(inputs, list) else [inputs]
        several += others
        work = RULES.get(self.name, _kept)(self.given, *(x.shape for x in several))
        self.counting.forward += work.flops
        learned = any(x.learned for x in several)
        if not learned:
            self.counting.unneeded += work.flops if work.on_input is None else work.on_input
        return Shaped(work.shape, learned or self.name in WITH_WEIGHTS)


# --- what each layer does --------------------------------------------------------------------


def _pixels(sides: Sequence[int], given: Any) -> Shape:
    """The sizes that a window makes of these."""
    window = given.pool_size if hasattr(given, "pool_size") else given.kernel_size
    strides = given.strides or window
    rank = len(sides)
    window, strides = (v if isinstance(v, tuple) else (v,) * rank for v in (window, strides))
    reach = window if given.padding == "valid" else (1,) * rank
    return tuple((n - w) // s + 1 for n, w, s in zip(sides, reach, strides, strict=True))


def _square(size: Any) -> int:
    return math.prod(size) if isinstance(size, tuple) else size**2


def _kept(given: Any, shape: Shape, *_: Shape) -> Work:
    return Work(shape)


def _dense(given: Any, shape: Shape) -> Work:
    return Work((*shape[:-1], given.units), 2 * math.prod(shape) * given.units)


def _convolution(given: Any, shape: Shape) -> Work:
    sides = _pixels(shape[:-1], given)
    taps = _square(given.kernel_size) * shape[-1] // given.groups
    return Work((*sides, given.filters), 2 * math.prod(sides) * taps * given.filters)


def _depthwise(given: Any, shape: Shape) -> Work:
    sides = _pixels(shape[:-1], given)
    channels = shape[-1] * given.depth_multiplier
    work = 2 * math.prod(sides) * _square(given.kernel_size) * channels
    return Work((*sides, channels), work)


def _transposed(given: Any, shape: Shape) -> Work:
    sides = tuple(n * given.strides for n in shape[:-1])
    taps = _square(given.kernel_size) * given.filters
    return Work((*sides, given.filters), 2 * math.prod(shape) * taps)


def _pooled(given: Any, shape: Shape) -> Work:
    return Work((*_pixels(shape[:-1], given), shape[-1]))


def _global(given: Any, shape: Shape) -> Work:
    return Work((*(1,) * (len(shape) - 1 if given.keepdims else 0), shape[-1]))


def _recurrent(gates: int) -> Callable[..., Work]:
    def work(given: Any, shape: Shape) -> Work:
        steps, features = shape
        wide = 2 * steps * gates * given.units
        output = (steps, given.units) if given.return_sequences else (given.units,)
        return Work(output, wide * (features + given.units), wide * features)

    return work


def _attention(given: Any, shape: Shape, source: Shape) -> Work:
    """Four projections, and two products with the scores."""
    (tokens, width), (sources, other) = shape, source
    wide = given.num_heads * given.key_dim
    values = given.num_heads * (given.value_dim or given.key_dim)
    projections = tokens * width * (wide + values) + sources * other * (wide + values)
    return Work(shape, 2 * projections + 2 * tokens * sources * (wide + values))


def _joined(given: Any, *shapes: Shape) -> Work:
    return Work((*shapes[0][:-1], sum(shape[-1] for shape in shapes)))


def _wider(given: Any, *shapes: Shape) -> Work:
    """The shape that several broadcast to."""
    return Work(max(shapes, key=math.prod))


RULES: dict[str, Callable[..., Work]] = {
    "Dense": _dense,
    "Conv2D": _convolution,
    "DepthwiseConv2D": _depthwise,
    "Conv2DTranspose": _transposed,
    "MaxPooling2D": _pooled,
    "GlobalAveragePooling1D": _global,
    "GlobalAveragePooling2D": _global,
    "Flatten": lambda given, shape: Work((math.prod(shape),)),
    "Embedding": lambda given, shape: Work((*shape, given.output_dim)),
    "LSTM": _recurrent(4),
    "GRU": _recurrent(3),
    "MultiHeadAttention": _attention,
    "Concatenate": _joined,
    "Multiply": _wider,
}
WITH_WEIGHTS = {"Dense", "Conv2D", "DepthwiseConv2D", "Conv2DTranspose", "Embedding", "LSTM", "GRU",
                "MultiHeadAttention", "BatchNormalization", "LayerNormalization"}  # fmt: skip
