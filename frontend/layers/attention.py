"""Attention, with heads that project queries, keys and values, and without."""

from __future__ import annotations

import functools
import math
import string
from collections.abc import Sequence
from typing import Any

from ...ir.errors import ArgumentError, ShapeError
from .. import constraints, initializers, naming, ops, random, regularizers
from ..masks import masks_ignored
from .activation import Softmax
from .core import positive
from .einsum_dense import EinsumDense
from .layer import Layer
from .regularization import Dropout

_FAMILIES: dict[str, Any] = {
    "initializer": initializers,
    "regularizer": regularizers,
    "constraint": constraints,
}


class _HeadedAttention(Layer):
    """What attention layers with heads share: projections, masks, and the attention itself."""

    dropout: float
    use_bias: bool
    use_gate: bool
    sliding_window: int | None
    attention_axes: tuple[int, ...] | None
    seed: Any

    def _set_up(
        self, dropout: float, use_bias: bool, sliding_window: Any, flash_attention: Any,
        use_gate: bool, seed: Any, **described: Any,
    ) -> None:  # fmt: skip
        """Keep what both kinds of layers take; `described` are the weights of all projections."""
        self.supports_masking = True
        self.dropout = dropout
        self.use_bias = use_bias
        self.use_gate = use_gate
        self.sliding_window = (
            None if sliding_window is None else positive(self, "sliding_window", sliding_window)
        )
        self.seed = seed
        if flash_attention:
            raise ArgumentError(
                f"layer {self.name!r}: flash_attention must be None or False, "
                f"got {flash_attention!r}",
                hint="leave it out: the compiler chooses how attention is computed",
            )
        self._described = {name: _FAMILIES[name.rpartition("_")[2]].get(value)
                           for name, value in described.items()}  # fmt: skip

    def _build_parts(
        self, shapes: tuple[Any, Any, Any], queries: Sequence[int], keys: Sequence[int],
        values: Sequence[int], output: Sequence[int] | None,
    ) -> None:  # fmt: skip
        """The projections: `heads, depth` of queries, keys and values, and the output's axes."""
        query_shape, value_shape, key_shape = shapes
        key_shape = value_shape if key_shape is None else key_shape
        if tuple(value_shape[1:-1]) != tuple(key_shape[1:-1]):
            raise ShapeError(
                f"layer {self.name!r}: value and key must have one shape but for the last axis, "
                f"got {tuple(value_shape)} and {tuple(key_shape)}"
            )
        found = (queries[0], values[1])
        self.query_dense = self._projection(query_shape, 1, queries, "query")
        self.key_dense = self._projection(key_shape, 1, keys, "key")
        self.gate_dense = None
        if self.use_gate:
            self.gate_dense = self._projection(query_shape, 1, found, "gate", activation="sigmoid")
        self.value_dense = self._projection(value_shape, 1, values, "value")
        self._scale = 1 / math.sqrt(queries[1])
        self._repeats = queries[0] // keys[0]
        rank = len(value_shape) + 1
        axes = tuple(range(1, rank - 2)) if self.attention_axes is None else self.attention_axes
        self.attention_axes = tuple(a if a >= 0 else rank - 1 + a for a in axes)
        self._equations = attention_equations(rank, self.attention_axes)
        softmax_axes = tuple(range(-len(axes), 0))
        self._softmax = Softmax(axis=softmax_axes, dtype=self.dtype_policy)
        self._dropout_layer = Dropout(self.dropout, dtype=self.dtype_policy, seed=self.seed)
        self.output_dense = self._projection(
            (*query_shape[:-1], *found), 2, output or (query_shape[-1],), "attention_output"
        )

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
            output_shape=(*(None,) * (free - 1), *sizes), bias_axes=new if self.use_bias else None,
            name=name, dtype=self.dtype_policy, **own, **kwargs,
        )  # fmt: skip
        dense.build(tuple(shape))
        return dense

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
        sides = {"query": query_mask, "value": value_mask, "key": key_mask}
        direct = query.ndim == 3 and not self.dropout and not return_attention_scores
        masked = attention_mask is not None or any(mask is not None for mask in sides.values())
        only_causal = direct and use_causal_mask and not masked and self.sliding_window is None
        seen = None
        if not only_causal:
            seen = self._visible(query, value, sides, attention_mask, use_causal_mask)
        with masks_ignored():  # they are in `seen`; projections take none
            return self._attended(query, value, key, seen, only_causal, return_attention_scores,
                                  training)  # fmt: skip

    def _attended(
        self, query: Any, value: Any, key: Any, seen: Any, only_causal: bool, with_scores: bool,
        training: Any,
    ) -> Any:  # fmt: skip
        """Projections, attention, gate and output."""
        q, k, v = self.query_dense(query), self.key_dense(key), self.value_dense(value)
        scores = None
        if query.ndim == 3 and not self.dropout and not with_scores:
            seen = None if seen is None else self._each_head(seen, 4)
            found = ops.dot_product_attention(q, k, v, mask=seen, scale=self._scale,
                                              is_causal=only_causal)  # fmt: skip
        else:
            found, scores = self._compute_attention(q, k, v, seen, training)
        if self.gate_dense is not None:
            found = ops.multiply(found, self.gate_dense(query))
        output = self.output_dense(found)
        return (output, scores) if with_scores else output

    def _visible(
        self, query: Any, value: Any, sides: dict[str, Any], mask: Any, is_causal: bool
    ) -> Any:
        """Which sources each position may look at, `(batch, time, source)`; None for all."""
        found = [] if mask is None else [ops.cast(mask, "bool")]
        for side, given in sides.items():
            if given is not None:
                axis = -1 if side == "query" else -2
                found.append(ops.expand_dims(ops.cast(given, "bool"), axis))
        rows = ops.reshape(ops.arange(query.shape[1]), (1, -1, 1))
        columns = ops.reshape(ops.arange(value.shape[1]), (1, 1, -1))
        if is_causal:
            found.append(ops.greater_equal(rows, columns))
        if self.sliding_window is not None:
            distance = ops.abs(ops.subtract(rows, columns))
            found.append(ops.less(distance, self.sliding_window))
        return functools.reduce(ops.logical_and, found) if found else None

    def _each_head(self, mask: Any, rank: int) -> Any:
        """The mask with axes of size 1 before those of the attention, the first for the heads."""
        axis = -2 * len(self.attention_axes or ()) - 1
        while mask.ndim < rank:
            mask = ops.expand_dims(mask, axis)
        return mask

    def _compute_attention(
        self, query: Any, key: Any, value: Any, seen: Any, training: Any
    ) -> tuple[Any, Any]:
        """What is found and the scores, along any axes."""
        scoring, combining = self._equations
        if self._repeats > 1:
            key, value = (ops.repeat(x, self._repeats, axis=-2) for x in (key, value))
        scores = ops.einsum(scoring, ops.multiply(query, self._scale), key)
        mask = None if seen is None else self._each_head(seen, scores.ndim)
        scores = self._softmax(scores, mask=mask)
        kept = self._dropout_layer(scores, training=training) if self.dropout else scores
        return ops.einsum(combining, kept, value), scores

    def _config_of(self, *names: str) -> dict[str, Any]:
        names = (*names, "dropout", "use_bias", "use_gate", "sliding_window", "seed")
        weights = {name: _FAMILIES[name.rpartition("_")[2]].serialize(item)
                   for name, item in self._described.items()}  # fmt: skip
        return {**Layer.get_config(self), **{n: getattr(self, n) for n in names}, **weights}


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
        self.num_heads = positive(self, "num_heads", num_heads)
        self.key_dim = positive(self, "key_dim", key_dim)
        value_dim = key_dim if value_dim is None else value_dim
        self.value_dim = positive(self, "value_dim", value_dim)
        self._output_sizes = _output_sizes(self, output_shape)
        self.attention_axes = _attention_axes(self, attention_axes)
        self._set_up(
            dropout, use_bias, sliding_window, flash_attention, use_gate, seed,
            kernel_initializer=kernel_initializer, bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer, bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer, kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
        )  # fmt: skip

    def build(self, query_shape: Any, value_shape: Any, key_shape: Any = None) -> None:
        keys, values = (self.num_heads, self.key_dim), (self.num_heads, self.value_dim)
        shapes = (query_shape, value_shape, key_shape)
        self._build_parts(shapes, keys, keys, values, self._output_sizes)

    def get_config(self) -> dict[str, Any]:
        own = self._config_of("num_heads", "key_dim", "value_dim", "attention_axes")
        return {**own, "output_shape": self._output_sizes}


class GroupQueryAttention(_HeadedAttention):
    """Multi-head attention in which several heads of the query share one of key and value.

    Parameters
    ----------
    head_dim : int
        The size of queries, keys and values of a head.
    num_query_heads : int
    num_key_value_heads : int
        A divisor of `num_query_heads`.
    dropout, use_bias, sliding_window, flash_attention, use_gate, seed
    kernel_*, bias_*, activity_regularizer
        As for `MultiHeadAttention`.

    Notes
    -----
    Ainslie et al., 2023.

    Examples
    --------
    >>> x = np.ones((2, 5, 8), np.float32)
    >>> GroupQueryAttention(head_dim=4, num_query_heads=4, num_key_value_heads=2)(x, x).shape
    (2, 5, 8)
    """

    def __init__(
        self,
        head_dim: int,
        num_query_heads: int,
        num_key_value_heads: int,
        dropout: float = 0.0,
        use_bias: bool = True,
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
        if kwargs.get("name") is None:  # Keras' class has another name than its export
            kwargs["name"] = naming.auto_name("grouped_query_attention")
        super().__init__(**kwargs)
        self.head_dim = positive(self, "head_dim", head_dim)
        self.num_query_heads = positive(self, "num_query_heads", num_query_heads)
        self.num_key_value_heads = positive(self, "num_key_value_heads", num_key_value_heads)
        if num_query_heads % num_key_value_heads:
            raise ArgumentError(
                f"layer {self.name!r}: num_query_heads must be a multiple of num_key_value_heads, "
                f"got {num_query_heads} and {num_key_value_heads}"
            )
        self.attention_axes = (1,)
        self._set_up(
            dropout, use_bias, sliding_window, flash_attention, use_gate, seed,
            kernel_initializer=kernel_initializer, bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer, bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer, kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
        )  # fmt: skip

    def build(self, query_shape: Any, value_shape: Any, key_shape: Any = None) -> None:
        queries = (self.num_query_heads, self.head_dim)
        shared = (self.num_key_value_heads, self.head_dim)
        self._build_parts((query_shape, value_shape, key_shape), queries, shared, shared, None)

    def get_config(self) -> dict[str, Any]:
        return self._config_of("head_dim", "num_query_heads", "num_key_value_heads")


class Attention(Layer):
    """What queries find: `softmax(query key^T) value`, without projections.

    It is called on a list, `[query, value]` or `[query, value, key]`, of tensors
    `(batch, time, features)`.

    Parameters
    ----------
    use_scale : bool
        Whether the scores are multiplied by a learned number.
    score_mode : "dot" or "concat"
        `query . key`, or the sum over `tanh(query + key)`.
    dropout : float
        The share of attention that is dropped in training.
    seed : int, optional

    Examples
    --------
    >>> x = np.ones((2, 5, 8), np.float32)
    >>> Attention()([x, x]).shape
    (2, 5, 8)
    """

    def __init__(
        self,
        use_scale: bool = False,
        score_mode: str = "dot",
        dropout: float = 0.0,
        seed: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if score_mode not in ("dot", "concat"):
            raise ArgumentError(
                f"layer {self.name!r}: score_mode must be 'dot' or 'concat', got {score_mode!r}"
            )
        self.supports_masking = True
        self.use_scale = use_scale
        self.score_mode = score_mode
        self.dropout = dropout
        self.seed = seed
        self.seed_generator = random.SeedGenerator(seed, name=self.name) if dropout else None

    def build(self, input_shape: Any) -> None:
        self._check("inputs", input_shape)
        self.scale = self.concat_score_weight = None
        if self.use_scale:
            self.scale = self.add_weight((), "ones", name="scale")
        if self.score_mode == "concat":
            self.concat_score_weight = self.add_weight((), "ones", name="concat_score_weight")

    def _check(self, what: str, given: Any) -> None:
        if not isinstance(given, list) or len(given) not in (2, 3):
            got = f"{len(given)} of them" if isinstance(given, list) else type(given).__name__
            raise ArgumentError(
                f"layer {self.name!r}: {what} must be a list of query, value and perhaps key, "
                f"got {got}"
            )

    def call(
        self,
        inputs: Any,
        mask: Any = None,
        training: bool = False,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> Any:
        self._check("inputs", inputs)
        if mask is not None:
            self._check("mask", mask)
        query, value, *rest = inputs
        query_mask, value_mask = mask[:2] if mask else (None, None)
        scores = self._scores(query, rest[0] if rest else value)
        seen = self._visible(scores, value_mask, use_causal_mask)
        if seen is not None:
            low = 65504.0 if scores.dtype == "float16" else 1e9
            scores = ops.where(seen, scores, ops.subtract(scores, low))
        scores = ops.softmax(scores, axis=-1)
        kept = scores
        if training and self.dropout > 0:
            kept = random.dropout(scores, self.dropout, seed=self.seed_generator)
        found = ops.matmul(kept, value)
        if query_mask is not None:
            found = ops.where(ops.expand_dims(query_mask, -1), found, 0)
        return (found, scores) if return_attention_scores else found

    def _scores(self, query: Any, key: Any) -> Any:
        """How much each query asks for each key, `(batch, time, source)`."""
        if self.score_mode == "dot":
            scores = ops.matmul(query, ops.swapaxes(key, -2, -1))
            return scores if self.scale is None else ops.multiply(scores, self.scale)
        both = ops.add(ops.expand_dims(query, -2), ops.expand_dims(key, -3))
        both = both if self.scale is None else ops.multiply(both, self.scale)
        return ops.multiply(ops.sum(ops.tanh(both), axis=-1), self.concat_score_weight)

    def _visible(self, scores: Any, value_mask: Any, is_causal: bool) -> Any:
        seen = None
        if value_mask is not None:
            seen = value_mask if value_mask.ndim == 3 else ops.expand_dims(value_mask, -2)
        if not is_causal:
            return seen
        rows = ops.reshape(ops.arange(scores.shape[-2]), (1, -1, 1))
        columns = ops.reshape(ops.arange(scores.shape[-1]), (1, 1, -1))
        earlier = ops.greater_equal(rows, columns)
        return earlier if seen is None else ops.logical_and(seen, earlier)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return mask[0] if mask else None

    def get_config(self) -> dict[str, Any]:
        names = ("use_scale", "score_mode", "dropout", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class AdditiveAttention(Attention):
    """Attention whose scores are the sum over `scale * tanh(query + key)`.

    Parameters
    ----------
    use_scale : bool
        Whether `scale` is a learned vector; 1 otherwise.
    dropout : float
        The share of attention that is dropped in training.

    Notes
    -----
    Bahdanau, Cho and Bengio, 2014.
    """

    def __init__(self, use_scale: bool = True, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(use_scale=use_scale, dropout=dropout, **kwargs)

    def build(self, input_shape: Any) -> None:
        self._check("inputs", input_shape)
        self.scale = None
        if self.use_scale:
            shape = (input_shape[0][-1],)
            self.scale = self.add_weight(shape, "glorot_uniform", name="scale")

    def _scores(self, query: Any, key: Any) -> Any:
        both = ops.tanh(ops.add(ops.expand_dims(query, -2), ops.expand_dims(key, -3)))
        both = both if self.scale is None else ops.multiply(both, self.scale)
        return ops.sum(both, axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {k: v for k, v in super().get_config().items() if k != "score_mode"}


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


def attention_equations(rank: int, axes: Sequence[int]) -> tuple[str, str]:
    """The summations for scores (of query and key) and for what is found (of scores and value).

    Queries are `(batch, ..., heads, depth)` of that rank, looked along `axes`.
    """
    letters = string.ascii_lowercase
    query = letters[:rank]
    source = "".join(letters[rank + axes.index(i)] if i in axes else query[i] for i in range(rank))
    others = [i for i in range(rank - 1) if i not in axes]
    scores = "".join([*(query[i] for i in others), *(query[a] for a in axes),
                      *(source[a] for a in axes)])  # fmt: skip
    return f"{query},{source}->{scores}", f"{scores},{source}->{query}"
