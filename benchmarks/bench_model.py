"""BenchModel: a model to measure, written once over any namespace that speaks Keras."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .counting import Counting

CLASSES = 10
"""Of the models that classify, unless they say otherwise."""

LOSSES = {"class": "categorical_crossentropy", "pixels": "categorical_crossentropy",
          "input": "mean_squared_error"}  # fmt: skip


@dataclass(frozen=True)
class BenchModel:
    """A model to measure.

    Parameters
    ----------
    name
        Its name on the command line.
    input_shape
        Shape of one sample.
    define
        `define(namespace, **sizes)` builds it from a namespace that has `Sequential`, `Model` and
        `layers`; without sizes at full size.
    target
        What it learns: the `class` of a sample, that of each of its `pixels`, or its `input`.
    classes
        How many there are.
    vocabulary
        Samples are numbers below it; floats in `[0, 1)` if None.
    batch_size
        Samples of a training step, unless the user chooses.
    predict_batch
        Samples of a prediction; as many as those of a training step if None.
    small
        Sizes for tests: the same layers, fewer and smaller.
    """

    name: str
    input_shape: tuple[int, ...]
    define: Callable[..., Any]
    target: str = "class"
    classes: int = CLASSES
    vocabulary: int | None = None
    batch_size: int = 128
    predict_batch: int | None = None
    small: dict[str, Any] = field(default_factory=dict, hash=False)

    @functools.cached_property
    def counted(self) -> Counting:
        """Its arithmetic, and the layers that it uses."""
        counting = Counting()
        self.define(counting)
        return counting

    @property
    def forward_flops(self) -> int:
        """Operations of the products and convolutions of one sample going forward."""
        return self.counted.forward

    @property
    def train_flops(self) -> int:
        """Forward, gradient of the weights and gradient of the activations, for one sample."""
        return 3 * self.counted.forward - self.counted.unneeded

    @property
    def needs(self) -> list[str]:
        """The names of the layer classes that it uses."""
        return self.counted.used

    def sized(self, **sizes: Any) -> BenchModel:
        """The model with other sizes, which leave its inputs as they are."""
        return replace(self, define=functools.partial(self.define, **sizes)) if sizes else self

    def missing_layers(self, namespace: Any) -> list[str]:
        """The layer classes that this model uses and `namespace.layers` does not have."""
        return [name for name in self.needs if not hasattr(namespace.layers, name)]

    @property
    def training(self) -> dict[str, Any]:
        """The arguments of `compile`: Adam, the loss, and accuracy where there are classes."""
        metrics = [] if self.target == "input" else ["accuracy"]
        return {"optimizer": "adam", "loss": LOSSES[self.target], "metrics": metrics}

    def build(self, namespace: Any, **sizes: Any) -> Any:
        """The model, compiled.

        Raises
        ------
        LookupError
            `namespace.layers` lacks a layer that the model uses.
        """
        missing = self.missing_layers(namespace)
        if missing:
            raise LookupError(
                f"model '{self.name}' needs {', '.join(f'layers.{name}' for name in missing)}, "
                f"which {namespace.__name__} does not have"
            )
        model = self.define(namespace, **sizes)
        model.compile(**self.training)
        return model

    def samples(self, rows: int, shape: tuple[int, ...] | None = None) -> Any:
        """Made-up inputs and labels, the same in every call.

        Parameters
        ----------
        rows
            Their number.
        shape
            Of one sample, for a model of other sizes.
        """
        rng = np.random.default_rng(0)
        shape = shape or self.input_shape
        if self.vocabulary is None:
            x = rng.random((rows, *shape), np.float32)
        else:
            x = rng.integers(0, self.vocabulary, (rows, *shape), np.int32)
        if self.target == "input":
            return x, x
        each = (rows,) if self.target == "class" else (rows, *shape[:-1])
        return x, np.eye(self.classes, dtype=np.float32)[rng.integers(0, self.classes, each)]
