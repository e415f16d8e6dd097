"""Models as layer graphs, beside the same ones in Keras."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import hornfels
from hornfels.errors import ArgumentError, ShapeError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras


def chain(k):
    x = k.Input((6,), name="x")
    h = k.layers.Dense(5, activation="relu", name="one")(x)
    return k.Model(x, k.layers.Dense(3, activation="softmax", name="two")(h))


def residual(k):
    x = k.Input((8, 8, 3), name="x")
    h = k.layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
    h = k.layers.BatchNormalization()(h)
    r = k.layers.Conv2D(4, 1)(x)
    h = k.layers.ReLU()(k.layers.add([h, r]))
    return k.Model(x, k.layers.Dense(2)(k.layers.GlobalAveragePooling2D()(h)))


def several(k):
    a, b = k.Input((4,), name="a"), k.Input((3,), name="b")
    joined = k.layers.Concatenate()([k.layers.Dense(5)(b), a])
    long = k.layers.Dense(7)(k.layers.Dense(6)(joined))
    return k.Model([a, b], [k.layers.Dense(1, name="p")(joined), k.layers.Dense(2, name="q")(long)])


def shared(k):
    dense = k.layers.Dense(4, name="shared")
    x = k.Input((4,), name="x")
    return k.Model(x, k.layers.Dense(2, name="last")(dense(k.layers.Dense(4)(dense(x)))))


def with_ops(k):
    x = k.Input((4,), name="x")
    h = k.ops.relu(k.layers.Dense(4)(x) * 2 + 1)
    h = k.ops.concatenate([h, x[:, 1:]], axis=-1)
    return k.Model(x, k.ops.sum(k.layers.Dense(3)(h), axis=-1, keepdims=True) / 3)


def nested(k):
    inner = chain(k)
    x = k.Input((6,), name="outer_x")
    return k.Model(x, k.layers.Dense(2)(k.layers.Add()([inner(x), inner(-x)])))


MODELS = [chain, residual, several, shared, with_ops, nested]


def pair(build):
    """The model in both, with the same weights."""
    ours, theirs = build(hornfels), build(keras)
    theirs.set_weights([w + 0.1 for w in theirs.get_weights()])
    ours.set_weights(theirs.get_weights())
    return ours, theirs


def data_for(model, size=5):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(size, *t.shape[1:])).astype(np.float32) for t in model.inputs]
    return arrays if len(arrays) > 1 else arrays[0]


@pytest.mark.parametrize("build", MODELS)
def test_weights_and_values_as_in_keras(build):
    ours, theirs = pair(build)
    assert [w.shape for w in ours.weights] == [w.shape for w in theirs.weights]
    assert [w.shape for w in ours.trainable_weights] == [w.shape for w in theirs.trainable_weights]
    assert ours.count_params() == theirs.count_params()
    assert ours.output_shape == (
        theirs.output_shape if isinstance(theirs.output_shape, tuple) else list(theirs.output_shape)
    )
    x = data_for(ours)
    got, want = ours(x), theirs(x)
    for g, w in zip(got if isinstance(got, list) else [got],
                    want if isinstance(want, list) else [want], strict=True):  # fmt: skip
        np.testing.assert_allclose(g, np.asarray(w), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("build", MODELS)
def test_graphs_have_a_symbolic_batch(build):
    model = build(hornfels)
    graph = model.make_graph("predict")
    assert graph.symbols == ("N",)
    names = ["x"] if len(model.inputs) == 1 else [f"x/{i}" for i in range(len(model.inputs))]
    assert [v.name for v in graph.inputs] == names
    outputs = ["output"] if len(model.outputs) == 1 else ["output/0", "output/1"]
    assert list(graph.output_names) == outputs


def test_layers_and_names():
    model = residual(hornfels)
    names = [type(layer).__name__ for layer in model.layers]
    assert names == [type(layer).__name__ for layer in residual(keras).layers]
    assert model.get_layer(index=1) is model.layers[1]
    assert model.get_layer(model.layers[2].name) is model.layers[2]
    assert model.input_names == ["x"]
    assert several(hornfels).output_names == ["p", "q"]
    assert type(model) is hornfels.Functional


def test_inputs_by_name():
    model = several(hornfels)
    a, b = data_for(model)
    by_list, by_dict = model([a, b]), model({"b": b, "a": a})
    for left, right in zip(by_list, by_dict, strict=True):
        np.testing.assert_array_equal(left, right)


def test_structures_of_outputs_are_kept():
    x = hornfels.Input((4,))
    model = hornfels.Model({"in": x}, {"double": x * 2, "more": [x + 1]})
    result = model({"in": np.ones((2, 4), np.float32)})
    np.testing.assert_array_equal(result["double"], np.full((2, 4), 2))
    np.testing.assert_array_equal(result["more"][0], np.full((2, 4), 2))


def test_an_inner_tensor_can_be_an_output_or_an_input():
    x = hornfels.Input((4,))
    h = hornfels.layers.Dense(3)(x)
    y = hornfels.layers.Dense(2)(h)
    whole, front, back = hornfels.Model(x, y), hornfels.Model(x, h), hornfels.Model(h, y)
    data = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(whole(data), back(front(data)), rtol=1e-6)


def test_a_frozen_layer_stays_out_of_the_trainable_weights():
    model = chain(hornfels)
    before = model.trace_key()
    model.get_layer("one").trainable = False
    assert [w.path for w in model.trainable_weights] == ["two/kernel", "two/bias"]
    assert len(model.non_trainable_weights) == 2
    assert model.trace_key() != before


def test_a_subclass_may_be_a_layer_graph():
    class Wrapped(hornfels.Model):
        def __init__(self, units):
            x = hornfels.Input((4,))
            super().__init__(inputs=x, outputs=hornfels.layers.Dense(units)(x), name="wrapped")

    model = Wrapped(3)
    assert model.output_shape == (None, 3)
    assert len(model.weights) == 2


def test_ranks_are_fitted_by_an_axis_of_size_one():
    x = hornfels.Input((1,))
    model = hornfels.Model(x, x * 2)
    assert model(np.ones(3, np.float32)).shape == (3, 1)
    y = hornfels.Input(())
    assert hornfels.Model(y, y * 2)(np.ones((3, 1), np.float32)).shape == (3,)


def test_deep_graphs_do_not_exhaust_the_stack():
    x = y = hornfels.Input((2,))
    for _ in range(1500):
        y = y + 1.0
    assert hornfels.Model(x, y)(np.zeros((1, 2), np.float32))[0, 0] == 1500


X = hornfels.Input((4,), name="x")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: chain(hornfels)(np.ones((2, 7))), ShapeError,
         r"input 'x' must have shape \(None, 6\), got f32\[2,7\]"),
        (lambda: several(hornfels)(np.ones((2, 4))), ArgumentError,
         r"there must be 2 inputs \(a, b\), got 1"),
        (lambda: several(hornfels)({"a": np.ones((2, 4))}), ArgumentError, "input 'b' is missing"),
        (lambda: hornfels.Model(hornfels.Input((3,)), X * 2), ArgumentError,
         "depend on 'x', which is not among its inputs"),
        (lambda: hornfels.Model(X, np.ones(3)), ArgumentError, "outputs must be symbolic tensors"),
        (lambda: hornfels.Model(X), ArgumentError, "takes inputs and outputs"),
        (lambda: chain(hornfels).get_layer("three"), ArgumentError, "no layer is named 'three'"),
        (lambda: chain(hornfels).get_layer(index=9), ArgumentError, "there are 3 layers"),
        (lambda: chain(hornfels).get_layer(), ArgumentError, "a name or an index"),
        (lambda: hornfels.Model(X, hornfels.layers.Dense(1, name="x")(X)), ArgumentError,
         "the name 'x' is used by 2 layers"),
        (lambda: hornfels.Input((3,), batch_shape=(None, 3)), ArgumentError, "either shape or"),
        (lambda: hornfels.Input(3), ArgumentError, "shape must be a tuple"),
    ],
)  # fmt: skip
def test_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
