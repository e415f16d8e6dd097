"""What many layers take for each weight: initializer, regularizer and constraint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import constraints, initializers, regularizers
from ..variable import Variable
from .layer import Layer


class WeightedLayer(Layer):
    """A layer with weights that the user may start, penalize and constrain.

    For a weight `kernel` the attributes are `kernel_initializer`, `kernel_regularizer` and
    `kernel_constraint`, as in Keras.
    """

    def _describe_weight(
        self, name: str, initializer: Any, regularizer: Any = None, constraint: Any = None
    ) -> None:
        """Keep what the user asked for the weight `name`."""
        setattr(self, f"{name}_initializer", initializers.get(initializer))
        setattr(self, f"{name}_regularizer", regularizers.get(regularizer))
        setattr(self, f"{name}_constraint", constraints.get(constraint))

    def _make_weight(
        self, name: str, shape: Sequence[int], trainable: bool = True, called: str | None = None
    ) -> Variable:
        """The weight that was described as `name`; `called` otherwise if that is given."""
        return self.add_weight(
            shape=tuple(shape),
            initializer=getattr(self, f"{name}_initializer"),
            regularizer=getattr(self, f"{name}_regularizer"),
            constraint=getattr(self, f"{name}_constraint"),
            trainable=trainable,
            name=called or name,
        )

    def _weights_config(self, *names: str) -> dict[str, Any]:
        """The serialized descriptions of these weights."""
        families = {"initializer": initializers, "regularizer": regularizers,
                    "constraint": constraints}  # fmt: skip
        return {
            f"{name}_{what}": family.serialize(getattr(self, f"{name}_{what}"))
            for what, family in families.items()
            for name in names
        }
