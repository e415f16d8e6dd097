"""Embedding: a row of a matrix for each number."""

from __future__ import annotations

from typing import Any

from .. import ops
from .core import positive, require_none
from .weights import WeightedLayer


class Embedding(WeightedLayer):
    """The rows of a weight `embeddings` at integer inputs.

    Parameters
    ----------
    input_dim : int
        The number of rows; inputs are in `[0, input_dim)`.
    output_dim : int
        The length of a row.
    embeddings_initializer : str or callable
    embeddings_regularizer, embeddings_constraint : str or callable, optional
    mask_zero : bool
        Whether 0 means that there is nothing at that place: later layers leave it out.
    weights : array, optional
        The first rows.

    Examples
    --------
    >>> Embedding(10, 4)(np.array([[1, 2, 3]])).shape
    (1, 3, 4)
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        embeddings_constraint: Any = None,
        mask_zero: bool = False,
        weights: Any = None,
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        quantization_config: Any = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("input_length", None)  # of older Keras; it says nothing that the input does not
        super().__init__(**kwargs)
        require_none(self, lora_rank=lora_rank, quantization_config=quantization_config)
        self.input_dim = positive(self, "input_dim", input_dim)
        self.output_dim = positive(self, "output_dim", output_dim)
        self.mask_zero = mask_zero
        self.supports_masking = mask_zero
        self.autocast = False  # so that integers stay what they are
        self._describe_weight("embeddings", embeddings_initializer, embeddings_regularizer,
                              embeddings_constraint)  # fmt: skip
        if weights is not None:
            self.build()
            self.set_weights(weights if isinstance(weights, list) and len(weights) == 1
                             else [weights])  # fmt: skip

    def build(self, input_shape: Any = None) -> None:
        if not self.built:
            self.embeddings = self._make_weight("embeddings", (self.input_dim, self.output_dim))

    def call(self, inputs: Any) -> Any:
        if inputs.dtype not in ("int32", "int64"):
            inputs = ops.cast(inputs, "int32")
        return ops.cast(ops.take(self.embeddings, inputs, axis=0), self.compute_dtype)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return ops.not_equal(inputs, 0) if self.mask_zero else None

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("input_dim", "output_dim", "mask_zero")}
        return {**super().get_config(), **own, **self._weights_config("embeddings")}
