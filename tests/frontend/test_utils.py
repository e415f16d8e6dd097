"""The small modules beside layers and models: utils, backend, naming, nests, dtype policies."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import hornfels
from hornfels import KerasTensor, layers
from hornfels.errors import ArgumentError, DTypeError
from hornfels.frontend import dtype_policy, naming, tree

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras


@pytest.mark.parametrize(
    "labels", [[0, 2, 1], [[0], [3]], [[0, 1], [2, 2]], np.array([5], np.uint8)]
)
@pytest.mark.parametrize("count", [None, 7])
def test_to_categorical_as_in_keras(labels, count):
    ours = hornfels.utils.to_categorical(labels, count)
    theirs = keras.utils.to_categorical(labels, count)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.dtype == np.float32


def test_to_categorical_of_a_symbolic_tensor():
    assert hornfels.utils.to_categorical(KerasTensor((None,), "int32"), 4).shape == (None, 4)


@pytest.mark.parametrize(("labels", "count"), [([0, 4], 4), ([-1, 0], 3)])
def test_to_categorical_refuses_numbers_out_of_range(labels, count):
    with pytest.raises(ArgumentError, match=rf"class numbers must be in \[0, {count}\)"):
        hornfels.utils.to_categorical(labels, count)


def test_normalize_as_in_keras():
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    x[1] = 0
    for arguments in ({}, {"axis": 1}, {"order": 1}):
        np.testing.assert_allclose(
            hornfels.utils.normalize(x, **arguments),
            keras.utils.normalize(x, **arguments), rtol=1e-6,
        )  # fmt: skip


def test_backend():
    assert hornfels.backend.backend() == "hornfels"
    assert hornfels.backend.is_keras_tensor(KerasTensor((2,)))
    assert not hornfels.backend.is_keras_tensor(np.ones(2))
    assert hornfels.backend.is_float_dtype("bfloat16")
    assert hornfels.backend.is_int_dtype(np.uint8)
    assert hornfels.backend.standardize_dtype(None) == "float32"


def test_clear_session_counts_names_anew():
    naming.reset_names()
    assert [layers.ReLU().name for _ in range(3)] == ["re_lu", "re_lu_1", "re_lu_2"]
    hornfels.utils.clear_session()
    assert layers.ReLU().name == "re_lu"


@pytest.mark.parametrize("name", ["Dense", "Conv2DTranspose", "LSTMCell", "ReLU", "GRU", "my_layer",
                                  "HTTPThing2D", "A"])  # fmt: skip
def test_snake_case_as_in_keras(name):
    from keras.src.utils.naming import to_snake_case

    assert naming.to_snake_case(name) == to_snake_case(name)


def test_nests():
    nest = {"a": [1, (2, None)], "b": 3}
    assert tree.flatten(nest) == [1, 2, None, 3]
    assert tree.map_structure(str, nest) == {"a": ["1", ("2", "None")], "b": "3"}
    assert tree.pack_like(nest, [5, 6, 7, 8]) == {"a": [5, (6, 7)], "b": 8}


def test_the_default_policy_can_be_mixed():
    dtype_policy.set_dtype_policy("mixed_bfloat16")
    try:
        layer = layers.Dense(2)
        layer.build((None, 3))
        assert (layer.compute_dtype, layer.kernel.dtype) == ("bfloat16", "float32")
        assert layer(np.ones((1, 3), np.float32)).dtype.name == "bfloat16"
    finally:
        dtype_policy._default.clear()
    assert layers.Dense(2).dtype_policy.name == "float32"


@pytest.mark.parametrize("given", ["float16", np.float16, hornfels.DTypePolicy("float16"),
                                   hornfels.DTypePolicy("float16").serialized()])  # fmt: skip
def test_policies_are_given_in_many_ways(given):
    assert dtype_policy.get(given) == hornfels.DTypePolicy("float16")


def test_unknown_policies_are_refused():
    with pytest.raises(DTypeError, match="float99"):
        layers.Dense(2, dtype="float99")
