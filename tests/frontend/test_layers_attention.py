"""Attention layers, Embedding and EinsumDense against real Keras."""

from __future__ import annotations

import keras
import ml_dtypes
import numpy as np
import pytest

import hornfels
from hornfels import ops
from hornfels.frontend import layers
from hornfels.frontend.keras_tensor import KerasTensor
from hornfels.ir.errors import ArgumentError, ShapeError

RNG = np.random.default_rng(0)
QUERY = RNG.normal(size=(2, 4, 6)).astype(np.float32)
VALUE = RNG.normal(size=(2, 5, 6)).astype(np.float32)
KEY = RNG.normal(size=(2, 5, 3)).astype(np.float32)
GRID = RNG.normal(size=(2, 3, 4, 6)).astype(np.float32)
TOKENS = np.array([[1, 2, 0], [4, 0, 0]], np.int32)
QUERY_MASK = np.array([[True, True, True, False], [True, False, True, True]])
VALUE_MASK = np.array([[True, True, False, True, False], [True, True, True, True, True]])
SEEN = RNG.random((2, 4, 5)) > 0.3
SEEN[..., 0] = True

CASES = [
    ("Embedding", {"input_dim": 7, "output_dim": 3}, TOKENS),
    ("Embedding", {"input_dim": 7, "output_dim": 3, "embeddings_regularizer": "l2",
                   "embeddings_constraint": "non_neg"}, TOKENS.astype(np.int64)),
    ("EinsumDense", {"equation": "abc,cd->abd", "output_shape": (4, 5),
                     "bias_axes": "d"}, QUERY),
    ("EinsumDense", {"equation": "...x,xy->...y", "output_shape": 5, "activation": "relu"}, QUERY),
    ("EinsumDense", {"equation": "ab...,bc->ac...", "output_shape": 5, "bias_axes": "c"}, GRID),
    ("EinsumDense", {"equation": "abc,cde->abde", "output_shape": (4, 2, 3),
                     "bias_axes": "de", "kernel_initializer": "he_normal"}, QUERY),
    ("Attention", {}, [QUERY, VALUE]), ("Attention", {"use_scale": True}, [QUERY, VALUE, VALUE]),
    ("Attention", {"score_mode": "concat", "use_scale": True}, [QUERY, VALUE]),
    ("AdditiveAttention", {}, [QUERY, VALUE]),
    ("AdditiveAttention", {"use_scale": False}, [QUERY, VALUE, VALUE]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "inputs"), CASES)
def test_layer_equals_keras(name, arguments, inputs, layer_oracle):
    layer_oracle(name, arguments, inputs).check()


@pytest.mark.parametrize("name", ["Attention", "AdditiveAttention"])
def test_attention_with_masks_equals_keras(name, layer_oracle):
    call = {"mask": [QUERY_MASK, VALUE_MASK], "use_causal_mask": True}
    layer_oracle(name, {}, [QUERY, VALUE], **call).check_call(2e-5, 2e-5)


def both(name, arguments, *shapes):
    """A layer of ours and one of Keras with the same random weights."""
    ours, theirs = (getattr(k, name)(**arguments) for k in (layers, keras.layers))
    for layer in (ours, theirs):
        layer.build(*shapes)
    mine, others = ours.weights, theirs.weights
    assert [w.path.split("/", 1)[1] for w in mine] == [w.path.split("/", 1)[1] for w in others]
    assert [w.shape for w in mine] == [tuple(w.shape) for w in others]
    values = [RNG.normal(size=w.shape).astype("float32") / 2 for w in mine]
    ours.set_weights(values)
    theirs.set_weights(values)
    return ours, theirs


def check_equal(ours, theirs):
    one = isinstance(ours, np.ndarray)
    for a, b in zip([ours] if one else ours, [theirs] if one else theirs, strict=True):
        np.testing.assert_allclose(a, np.asarray(b), rtol=3e-5, atol=3e-6)


HEADS = {"num_heads": 2, "key_dim": 3}
GROUPS = {"head_dim": 3, "num_query_heads": 4, "num_key_value_heads": 2}
HEADED = [
    ("MultiHeadAttention", HEADS),
    ("MultiHeadAttention", {**HEADS, "use_bias": False, "output_shape": (2, 3)}),
    ("MultiHeadAttention", {**HEADS, "use_gate": True, "sliding_window": 2}),
    ("MultiHeadAttention", {**HEADS, "dropout": 0.3}),
    ("GroupQueryAttention", GROUPS),
    ("GroupQueryAttention", {**GROUPS, "use_gate": True, "sliding_window": 2, "use_bias": False}),
    ("GroupQueryAttention", {**GROUPS, "dropout": 0.3, "num_key_value_heads": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments"), HEADED)
def test_heads_equal_keras(name, arguments):
    ours, theirs = both(name, arguments, QUERY.shape, VALUE.shape, KEY.shape)
    for call in (
        {}, {"use_causal_mask": True}, {"attention_mask": SEEN, "return_attention_scores": True},
        {"attention_mask": SEEN, "use_causal_mask": True},
        {"value_mask": VALUE_MASK, "key_mask": VALUE_MASK, "return_attention_scores": True},
    ):  # fmt: skip
        check_equal(ours(QUERY, VALUE, key=KEY, **call), theirs(QUERY, VALUE, key=KEY, **call))
    symbolic = [KerasTensor((None, *x.shape[1:])) for x in (QUERY, VALUE)]
    again = type(ours).from_config(ours.get_config())
    assert again(*symbolic).shape[1] == QUERY.shape[1]
    assert again.get_config() == ours.get_config()
    assert type(keras.layers.deserialize(layers.serialize(ours))) is type(theirs)


def test_values_of_another_size_than_keys():
    """Keras on JAX can do that where it gives the scores alone."""
    arguments = {**HEADS, "value_dim": 4}
    ours, theirs = both("MultiHeadAttention", arguments, QUERY.shape, VALUE.shape)
    found = ours(QUERY, VALUE, return_attention_scores=True)
    check_equal(found, theirs(QUERY, VALUE, return_attention_scores=True))
    check_equal(ours(QUERY, VALUE), found[0])


@pytest.mark.parametrize("axes", [None, 1, 2, (1, 2), -2])
def test_attention_along_axes_of_a_grid(axes):
    arguments = {**HEADS, "attention_axes": axes}
    ours, theirs = both("MultiHeadAttention", arguments, GRID.shape, GRID.shape)
    check_equal(ours(GRID, GRID), theirs(GRID, GRID))


def test_gradients_of_heads_are_those_of_keras(differentiate, weights_like):
    import jax

    ours, theirs = both("MultiHeadAttention", HEADS, QUERY.shape, VALUE.shape)
    _, mine = differentiate(ours, [QUERY, VALUE], ours.trainable_variables)

    def total(q, v, weights):
        y, _ = theirs.stateless_call(weights, [], q, v)
        return (y * weights_like(y)).sum()

    weights = [v.value for v in theirs.trainable_variables]
    q, v, others = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(QUERY, VALUE, weights)
    for a, b in zip(mine, [q, v, *others], strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


def test_dropout_of_attention_is_drawn_in_training_alone():
    layer = layers.MultiHeadAttention(2, 4, dropout=0.5, seed=1)
    plain = layer(QUERY, VALUE)
    np.testing.assert_array_equal(layer(QUERY, VALUE), plain)
    assert np.abs(layer(QUERY, VALUE, training=True) - plain).max() > 1e-3


def test_heads_begin_differently():
    layer = layers.MultiHeadAttention(2, 3, kernel_initializer="he_normal")
    layer(QUERY, QUERY)
    query, key = layer.query_dense.kernel.numpy(), layer.key_dense.kernel.numpy()
    assert np.abs(query - key).max() > 1e-2


def test_an_embedding_of_given_rows():
    rows = RNG.normal(size=(7, 3)).astype(np.float32)
    np.testing.assert_array_equal(layers.Embedding(7, 3, weights=rows)(TOKENS), rows[TOKENS])
    np.testing.assert_array_equal(layers.Embedding(7, 3, weights=[rows])(TOKENS), rows[TOKENS])


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: layers.Embedding(0, 3), ArgumentError, "input_dim must be a positive int, got 0"),
    (lambda: layers.MultiHeadAttention(0, 3), ArgumentError, "num_heads must be a positive int"),
    (lambda: layers.MultiHeadAttention(2, 3, value_dim=0), ArgumentError, "value_dim must be a"),
    (lambda: layers.MultiHeadAttention(2, 3, sliding_window=0), ArgumentError, "sliding_window"),
    (lambda: layers.MultiHeadAttention(2, 3, attention_axes="1"), ArgumentError, "attention_axes"),
    (lambda: layers.MultiHeadAttention(2, 3, flash_attention=True), ArgumentError, "flash_att"),
    (lambda: layers.MultiHeadAttention(2, 3)(QUERY, VALUE, key=QUERY), ShapeError, "value and key"),
    (lambda: layers.GroupQueryAttention(2, 3, 2), ArgumentError, "a multiple of num_key_value"),
    (lambda: layers.Attention(score_mode="sum"), ArgumentError, "'dot' or 'concat', got 'sum'"),
    (lambda: layers.Attention()(QUERY), ArgumentError, "must be a list of query, value"),
    (lambda: layers.EinsumDense("ab->ab", 3)(QUERY), ArgumentError, "equation must be like"),
    (lambda: layers.EinsumDense("ab,bc->ad", 3)(QUERY[0]), ArgumentError, "'d' of the output"),
    (lambda: layers.EinsumDense("abc,cd->abd", (9, 3))(QUERY), ShapeError, "must have one size"),
])  # fmt: skip
def test_refusals(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_gradients_in_bfloat16_are_as_exact_as_their_rounding():
    """The cotangent of the logits is rounded, so that all products are of bf16."""
    random = np.random.default_rng(0)
    shape = (2, 16, 2, 8)
    arrays = [random.standard_normal(shape).astype(ml_dtypes.bfloat16) for _ in range(4)]

    def total(q, k, v, g):
        return ops.sum(ops.cast(ops.dot_product_attention(q, k, v) * g, "float32"))

    slopes = hornfels.grad(total, argnums=(0, 1, 2))
    wide = slopes(*(x.astype(np.float32) for x in arrays))
    for short, exact in zip(slopes(*arrays), wide, strict=True):
        assert short.dtype == ml_dtypes.bfloat16
        error = np.square(short.astype(np.float32) - exact).mean()
        assert error <= np.square(exact).mean() * 2.0**-16  # half a unit is 2**-9 of a number
