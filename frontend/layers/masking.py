"""How masks come into a layer's call and out of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ...ir.graph import Value
from .. import tree
from ..masks import mask_of, set_mask


class MaskedCall:
    """A call of a layer with the masks of its inputs, which become arguments that it takes.

    A layer with one tensor argument may take `mask`; one with several may take `query_mask` for
    its argument `query`, and so on.
    """

    def __init__(
        self, layer: Any, parameters: Mapping[str, Any], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> None:
        self.layer = layer
        given = dict(zip(parameters, args, strict=False)) | kwargs
        tensors = {
            name: nest
            for name, nest in given.items()
            if any(isinstance(leaf, Value) for leaf in tree.leaves(nest))
        }
        self.inputs = next(iter(given.values()), None)
        for name, nest in tensors.items():
            wanted = "mask" if len(tensors) == 1 else f"{name}_mask"
            position = list(parameters).index(wanted) if wanted in parameters else -1
            if position >= len(args) and given.get(wanted) is None:
                kwargs[wanted] = _masks(nest)
        mask = kwargs.get("mask", given.get("mask"))
        self.previous = _masks(self.inputs) if mask is None else mask

    def hand_on(self, outputs: Any) -> None:
        """Set the masks of the outputs, or warn that they are lost."""
        leaves = tree.flatten(outputs)
        if self.layer.supports_masking:
            if all(mask_of(x) is not None for x in leaves):
                return
            masks = self.layer.compute_mask(self.inputs, self.previous)
            for x, mask in zip(leaves, tree.leaves(masks), strict=False):
                if mask_of(x) is None:
                    set_mask(x, mask)
        elif any(mask is not None for mask in tree.leaves(self.previous)):
            warnings.warn(
                f"layer {self.layer.name!r} ({type(self.layer).__name__}) does not support "
                "masking: the mask of its inputs is lost",
                stacklevel=2,
            )


def _masks(nest: Any) -> Any:
    """The masks of a nest of tensors; None if there are none for one."""
    return tree.map_structure(mask_of, nest)
