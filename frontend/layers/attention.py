"""Attention with heads: projections of queries, keys and values, and what they find."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any

from ...ir.errors import ArgumentError, ShapeError
from .. import constraints, initializers, ops, regularizers
from .activation import Softmax
from .core import positive
from .einsum_dense import EinsumDense
from .layer import Layer
from .regularization import Dropout

COMMON = ("kernel_initializer", "bias_initializer", "kernel_regularizer", "bias_regularizer",
          "activity_regularizer", "kernel_constraint", "bias_constraint")  # fmt: skip
_FAMILIES = {"initializer": initializers, "regularizer": regularizers, "constraint": constraints}


class _HeadedAttention(Layer):
    """What attention layers with heads share: their projections, masks and dropout."""

    def _describe_projections(self, use_bias: bool, **described: Any) -> None:
        """Keep what the user asked for the weights of all projections."""
        self._use_bias = use_bias
        self._described = {
            name: _FAMILIES[name.rpartition("_")[2]].get(value)  # type: ignore[attr-defined]
            for name, value in described.items()
        }

    def _projection(
        self, shape: Sequence[Any], bound: int, sizes: Sequence[int], name: str, **kwargs: Any
    ) -> EinsumDense:
        """A built projection of the last `bound` axes of such inputs onto axes of these sizes."""
        letters = string.ascii_lowercase
        free, rank = len(shape) - bound, len(shape)
        given, new = letters[:rank], letters[rank : rank + len(sizes)]
        own = {
            what: item.clone() if what.endswith("initializer") and hasattr(item, "clone") else item
            for what, item in self._described.items()
        }  # an initializer draws the same numbers each time, and projections begin differently
        dense = EinsumDense(
            f"{given},{given[free:]}{new}->{given[:free]}{new}",
            output_shape=(*(None,) * (free - 1), *sizes),
            bias_axes=new if self._use_bias else None,
            name=name, dtype=self.dtype_policy, **own, **kwargs,
        )  # fmt: skip
        dense.build(tuple(shape))
        return dense

    def _described_config(self) -> dict[str, Any]:
        return {
            name: _FAMILIES[name.rpartition("_")[2]].serialize(item)  # type: ignore[attr-defined]
            for name, item in self._described.items()
        }

    def _visible(
        self, query: Any, value: Any, masks: dict[str, Any], is_causal: bool, window: int | None
    ) -> Any:
        """Which sources each position may look at, `(batch, time, source)`; None for all."""
        found = [
            ops.expand_dims(ops.cast(mask, "bool"), -1 if name == "query" else -2)
            for name, mask in masks.items() if mask is not None and name != "attention"
        ]  # fmt: skip
        rows = ops.reshape(ops.arange(query.shape[1]), (1, -1, 1))
        columns = ops.reshape(ops.arange(value.shape[1]), (1, 1, -1))
        if is_causal:
            found.append(ops.greater_equal(rows, columns))
        if window is not None:
            found.append(ops.less(ops.abs(ops.subtract(rows, columns)), window))
        if masks["attention"] is not None:
            found.append(ops.cast(masks["attention"], "bool"))
        seen = None
        for mask in found:
            seen = mask if seen is None else ops.logical_and(seen, mask)
        return seen


class MultiHeadAttention(_HeadedAttention):
    """Each head projects queries, keys and values, and mixes the values that its queries find.

    Parameters
    ----------
    num_heads : int
    key_dim : int
        The size of queries and keys of a head.
    value_dim : int, optional
        The size of values of a head; `key_dim` by default.
    dropout : float
        The share of attention that is dropped in training.
    use_bias : bool
    output_shape : int or sequence of int, optional
        The last axes of the output; that of the query by default.
    attention_axes : int or sequence of int, optional
        The axes that are looked along; all between the batch and the last by default.
    sliding_window : int, optional
        No position sees another that is so far away or farther.
    flash_attention : bool, optional
        Must not be True: the compiler chooses how attention is computed.
    kernel_initializer, bias_initializer : str or callable
        Of all projections.
    kernel_regularizer, bias_regularizer, activity_regularizer : str or callable, optional
    kernel_constraint, bias_constraint : str or callable, optional
    use_gate : bool
        Whether what is found is multiplied by a sigmoid of a projection of the query.
    seed : int, optional

    Notes
    -----
    Vaswani et al., 2017.

    Examples
    --------
    >>> x = np.ones((2, 5, 8), np.float32)
    >>> MultiHeadAttention(num_heads=2, key_dim=4)(x, x).shape
    (2, 5, 8)
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        output_shape: Any = None,
        attention_axes: Any = None,
        sliding_window: int | None = None,
        flash_attention: bool | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        use_gate: bool = False,
        seed: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.num_heads = positive(self, "num_heads", num_heads)
        self.key_dim = positive(self, "key_dim", key_dim)
        self.value_dim = (
            self.key_dim if value_dim is None else positive(self, "value_dim", value_dim)
        )
        self.dropout = dropout
        self.use_bias = use_bias
        self.use_gate = use_gate
        self._output_sizes = _output_sizes(self, output_shape)
        self.attention_axes = _attention_axes(self, attention_axes)
        self.sliding_window = (
            None if sliding_window is None else positive(self, "sliding_window", sliding_window)
        )
        refuse_flash(self, flash_attention)
        self.seed = seed
        self._describe_projections(
            use_bias, kernel_initializer=kernel_initializer, bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer, bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer, kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
        )  # fmt: skip

    def build(self, query_shape: Any, value_shape: Any, key_shape: Any = None) -> None:
        key_shape = value_shape if key_shape is None else key_shape
        if tuple(value_shape[1:-1]) != tuple(key_shape[1:-1]):
            raise ShapeError(
                f"layer {self.name!r}: value and key must have one shape but for the last axis, "
                f"got {tuple(value_shape)} and {tuple(key_shape)}"
            )
        keys, values = (self.num_heads, self.key_dim), (self.num_heads, self.value_dim)
        self.query_dense = self._projection(query_shape, 1, keys, "query")
        self.key_dense = self._projection(key_shape, 1, keys, "key")
        self.gate_dense = (
            self._projection(query_shape, 1, values, "gate", activation="sigmoid")
            if self.use_gate else None
        )  # fmt: skip
        self.value_dense = self._projection(value_shape, 1, values, "value")
        rank = len(value_shape) + 1
        if self.attention_axes is None:
            self.attention_axes = tuple(range(1, rank - 2))
        self.attention_axes = tuple(a if a >= 0 else rank - 1 + a for a in self.attention_axes)
        self._equations = attention_equations(rank, self.attention_axes)
        softmax_axes = tuple(range(-len(self.attention_axes), 0))
        self._softmax = Softmax(axis=softmax_axes, dtype=self.dtype_policy)
        self._dropout_layer = Dropout(self.dropout, dtype=self.dtype_policy, seed=self.seed)
        self.output_dense = self._projection(
            (*query_shape[:-1], *values), 2, self._output_sizes or (query_shape[-1],),
            "attention_output",
        )  # fmt: skip

    def call(
        self,
        query: Any,
        value: Any,
        key: Any = None,
        query_mask: Any = None,
        value_mask: Any = None,
        key_mask: Any = None,
        attention_mask: Any = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
    ) -> Any:
        key = value if key is None else key
        masks = {"query": query_mask, "value": value_mask, "key": key_mask,
                 "attention": attention_mask}  # fmt: skip
        direct = len(query.shape) == 3 and not self.dropout and not return_attention_scores
        only_causal = (
            direct and use_causal_mask and self.sliding_window is None
            and all(mask is None for mask in masks.values())
        )  # fmt: skip
        seen = None
        if not only_causal:
            seen = self._visible(query, value, masks, use_causal_mask, self.sliding_window)
        q, k, v = self.query_dense(query), self.key_dense(key), self.value_dense(value)
        if direct:
            scores = None
            found = ops.dot_product_attention(
                q, k, v, mask=None if seen is None else self._each_head(seen, 4),
                scale=1 / math.sqrt(self.key_dim), is_causal=only_causal,
            )  # fmt: skip
        else:
            found, scores = self._compute_attention(q, k, v, seen, training)
        if self.gate_dense is not None:
            found = ops.multiply(found, self.gate_dense(query))
        output = self.output_dense(found)
        return (output, scores) if return_attention_scores else output

    def _each_head(self, mask: Any, rank: int) -> Any:
        """The mask with axes of size 1 before those of the attention, the first for the heads."""
        axis = -2 * len(self.attention_axes) - 1
        while len(mask.shape) < rank:
            mask = ops.expand_dims(mask, axis)
        return mask

    def _compute_attention(
        self, query: Any, key: Any, value: Any, seen: Any, training: Any
    ) -> tuple[Any, Any]:
        """What is found and the scores, along any axes."""
        scoring, combining = self._equations
        scores = ops.einsum(scoring, key, ops.multiply(query, 1 / math.sqrt(self.key_dim)))
        mask = None if seen is None else self._each_head(seen, len(scores.shape))
        scores = self._softmax(scores, mask=mask)
        kept = self._dropout_layer(scores, training=training) if self.dropout else scores
        return ops.einsum(combining, kept, value), scores

    def get_config(self) -> dict[str, Any]:
        names = ("num_heads", "key_dim", "value_dim", "dropout", "use_bias", "use_gate",
                 "attention_axes", "sliding_window", "seed")  # fmt: skip
        own = {name: getattr(self, name) for name in names}
        own["output_shape"] = self._output_sizes
        return {**super().get_config(), **own, **self._described_config()}


def _output_sizes(layer: Layer, given: Any) -> tuple[int, ...] | None:
    if not given:
        return None
    try:
        sizes = (given,) if isinstance(given, int) else tuple(given)
    except TypeError:
        raise ArgumentError(
            f"layer {layer.name!r}: output_shape must be an int or several, got {given!r}"
        ) from None
    return sizes


def _attention_axes(layer: Layer, given: Any) -> tuple[int, ...] | None:
    if isinstance(given, int):
        return (given,)
    if given and not isinstance(given, list | tuple):
        raise ArgumentError(
            f"layer {layer.name!r}: attention_axes must be an int or several, got {given!r}"
        )
    return tuple(given) if given else None


def refuse_flash(layer: Layer, flash_attention: Any) -> None:
    """There is no kernel to ask for: the compiler chooses how attention is computed."""
    if flash_attention:
        raise ArgumentError(
            f"layer {layer.name!r}: flash_attention must be None or False, got {flash_attention!r}",
            hint="leave it out: the compiler chooses how attention is computed",
        )


def attention_equations(rank: int, axes: Sequence[int]) -> tuple[str, str]:
    """The summations for scores (of key and query) and for what is found (of scores and value).

    Queries are `(batch, ..., heads, depth)` of that rank, looked along `axes`.
    """
    letters = string.ascii_lowercase
    query = letters[:rank]
    source = "".join(letters[rank + axes.index(i)] if i in axes else query[i] for i in range(rank))
    others = [i for i in range(rank - 1) if i not in axes]
    scores = "".join([*(query[i] for i in others), *(query[a] for a in axes),
                      *(source[a] for a in axes)])  # fmt: skip
    return f"{source},{query}->{scores}", f"{scores},{source}->{query}"
