"""Layer: building, calling, weights, `training`, dtypes, losses, errors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import hornfels
from hornfels import Input, InputSpec, KerasTensor, Trace, Variable, layers, ops
from hornfels.errors import ArgumentError, DTypeError, ShapeError
from hornfels.ir.types import f32, symbol

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras


class Affine(layers.Layer):
    """A kernel, and a count of calls that is not trained."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.calls = self.add_weight(initializer="zeros", trainable=False, name="calls")
        self.kernel = self.add_weight(
            (input_shape[-1], self.units), initializer="ones", name="kernel"
        )

    def call(self, inputs):
        self.calls.assign_add(1)
        return ops.matmul(inputs, self.kernel)


class Noting(layers.Layer):
    """Remembers what `training` was."""

    def call(self, inputs, training=None):
        self.noted = training
        return inputs


def test_called_on_arrays():
    layer = Affine(2, name="affine")
    y = layer(np.ones((3, 4), np.float32))
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, np.full((3, 2), 4))
    assert layer.calls.numpy() == 1
    assert layer.built


def test_called_on_symbolic_tensors():
    layer = Affine(2)
    x = Input((4,))
    y = layer(x)
    assert y.shape == (None, 2)
    assert layer.calls.numpy() == 0
    assert layer.input is x
    assert layer.output is y


def test_called_on_traced_values():
    layer = Affine(2, name="affine")
    with Trace("t") as trace:
        y = layer(trace.input("x", f32(symbol("N"), 4)))
        graph = trace.finish({"y": y})
    assert str(y.type) == "f32[N,2]"
    assert sorted(v.name for v in graph.state) == ["affine/calls", "affine/kernel"]
    assert [old.name for old, _ in graph.updates] == ["affine/calls"]
    assert all(node.source.layer == "affine" for node in graph.nodes)
    assert layer.kernel.shape == (4, 2)


def test_weights_are_trainable_ones_first():
    layer = Affine(2)
    layer.build((None, 4))
    assert [w.name for w in layer.weights] == ["kernel", "calls"]
    assert layer.trainable_weights == [layer.kernel]
    assert layer.non_trainable_weights == [layer.calls]
    layer.trainable = False
    assert layer.trainable_weights == []
    assert layer.non_trainable_weights == [layer.kernel, layer.calls]
    assert layer.count_params() == 9


class Nest(layers.Layer):
    def __init__(self):
        super().__init__()
        self.first = Affine(3)
        self.rest = [Affine(4), {"deep": Affine(5)}]
        self.scale = Variable(np.float32(2), name="scale")

    def call(self, x):
        x = self.rest[0](self.first(x))
        return self.rest[1]["deep"](x) * self.scale


@pytest.mark.parametrize("when", ["constructed", "before it is built", "afterwards"])
def test_frozen_weights_are_not_trained_whenever_the_layer_was_frozen(when):
    frozen = layers.Dense(3, trainable=when != "constructed")
    if when == "before it is built":
        frozen.trainable = False
    model = hornfels.Sequential([Input((4,)), frozen, layers.Dense(2)])
    if when == "afterwards":
        frozen.trainable = False
    assert model.trainable_variables == model.layers[1].variables
    model.compile("sgd", "mse", backend="eager")
    before = frozen.get_weights()
    model.train_on_batch(np.ones((5, 4), np.float32), np.ones((5, 2), np.float32))
    for old, new in zip(before, frozen.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    frozen.trainable = True
    assert len(model.trainable_variables) == 4


def test_nested_layers_are_found_in_attributes_lists_and_dicts():
    hornfels.utils.clear_session()
    nest = Nest()
    nest.rest.append(Affine(9))  # after it was set
    nest(np.ones((1, 2), np.float32))
    assert [w.path for w in nest.weights] == [
        "scale", "nest/affine/kernel", "nest/affine/calls", "nest/affine_1/kernel",
        "nest/affine_1/calls", "nest/affine_2/kernel", "nest/affine_2/calls",
    ]  # fmt: skip
    nest.trainable = False
    assert not nest.rest[1]["deep"].kernel.trainable


def test_what_a_layer_is_given_belongs_to_it_only_if_it_keeps_it():
    class Picky(layers.Layer):
        def __init__(self, offered):
            super().__init__()
            self.kept = offered[1:]

        def call(self, x):
            return self.kept[0](x)

    picky = Picky([Affine(2), Affine(3)])
    picky(np.ones((1, 4), np.float32))
    assert [w.shape for w in picky.weights] == [(4, 3), ()]


def test_default_names_count_up_as_in_keras():
    hornfels.utils.clear_session()
    keras.utils.clear_session()
    for name in ("Dense", "Dense", "Conv2D", "BatchNormalization", "ReLU", "Dense",
                 "GlobalAveragePooling2D", "ZeroPadding2D"):  # fmt: skip
        arguments = {"Dense": (3,), "Conv2D": (3, 3)}.get(name, ())
        ours, theirs = getattr(layers, name)(*arguments), getattr(keras.layers, name)(*arguments)
        assert ours.name == theirs.name


@pytest.mark.parametrize(
    ("given", "expected"), [({}, None), ({"training": True}, True), ({"training": False}, False)]
)
def test_training_is_passed_on(given, expected):
    class Outer(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = Noting()

        def call(self, x):
            return self.inner(x)

    outer = Outer()
    outer(np.ones(2, np.float32), **given)
    assert outer.inner.noted is expected


def test_training_explicit_inside_wins_and_defaults_count():
    class Outer(layers.Layer):
        def __init__(self):
            super().__init__()
            self.fixed, self.free = Noting(), Noting()

        def call(self, x, training=True):
            return self.free(self.fixed(x, training=False))

    outer = Outer()
    outer(np.ones(2, np.float32))
    assert outer.fixed.noted is False
    assert outer.free.noted is True


def test_several_arguments_build_by_name():
    class Pair(layers.Layer):
        def build(self, a_shape, b_shape):
            self.shapes = (a_shape, b_shape)

        def call(self, a, b):
            return ops.concatenate([a, b], axis=-1)

    pair = Pair()
    assert pair(Input((2,)), b=Input((3,))).shape == (None, 5)
    assert pair.shapes == ((None, 2), (None, 3))


def test_a_list_argument_builds_with_a_list_of_shapes():
    class Join(layers.Layer):
        def build(self, input_shape):
            self.shapes = input_shape

        def call(self, inputs):
            return ops.concatenate(inputs, axis=-1)

    join = Join()
    assert join([Input((2,)), Input((3,))]).shape == (None, 5)
    assert join.shapes == [(None, 2), (None, 3)]
    assert join.compute_output_shape([(None, 4), (None, 1)]) == (None, 5)


def test_layers_made_in_the_first_call_keep_their_weights():
    class Late(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = None

        def call(self, x):
            if self.inner is None:
                self.inner = Affine(2)
            return self.inner(x)

    late = Late()
    late(Input((3,)))
    assert [w.name for w in late.weights] == ["kernel", "calls"]


def test_compute_output_shape_builds_but_notes_no_call():
    layer = Affine(2)
    assert layer.compute_output_shape((None, 7, 4)) == (None, 7, 2)
    assert layer.inbound_nodes == []
    assert layer.kernel.shape == (4, 2)


def test_dtypes():
    half = Affine(2, dtype="float16")
    assert half(np.ones((1, 4))).dtype == np.float16
    assert half.kernel.dtype == "float16"
    double = Affine(2, dtype="float64")
    assert double(np.ones((1, 4), np.float32)).dtype == np.float64
    mixed = Affine(2, dtype="mixed_bfloat16")
    assert mixed(np.ones((1, 4), np.float32)).dtype.name == "bfloat16"
    assert (mixed.kernel.dtype, mixed.compute_dtype) == ("float32", "bfloat16")
    assert Noting()(np.ones(2)).dtype == np.float32  # as Keras: inputs take the layer's dtype
    assert Noting()(np.ones(2, np.int64)).dtype == np.int64


def test_get_and_set_weights():
    layer = Affine(2)
    layer.build((None, 3))
    kernel, calls = layer.get_weights()
    layer.set_weights([2 * kernel, calls + 5])
    np.testing.assert_array_equal(layer.kernel, np.full((3, 2), 2))
    with pytest.raises(ArgumentError, match="takes 2 arrays, got 1"):
        layer.set_weights([kernel])
    with pytest.raises(ShapeError, match=r"weight '.*kernel' has shape \(3, 2\), got \(2, 3\)"):
        layer.set_weights([kernel.T, calls])
    with pytest.raises(DTypeError, match="arrays of numbers"):
        layer.set_weights([0 * kernel, "many"])
    np.testing.assert_array_equal(layer.kernel, np.full((3, 2), 2))


def test_losses():
    class Penalized(layers.Layer):
        def build(self, input_shape):
            self.w = self.add_weight((2,), initializer="ones", regularizer="l2", name="w")

        def call(self, x):
            self.add_loss(ops.sum(x))
            return x * self.w

    layer = Penalized()
    for _ in range(2):  # the second call forgets the first one's
        layer(np.array([3, 4], np.float32))
        np.testing.assert_allclose(layer.losses, [7, 0.02], rtol=1e-6)


def test_activity_regularizer_is_divided_by_the_batch():
    layer = Noting(activity_regularizer="l2")
    layer(np.ones((4, 5), np.float32))
    np.testing.assert_allclose(layer.losses, [0.01 * 20 / 4], rtol=1e-6)


def test_config_of_a_class_that_defines_none():
    layer = Affine(7, name="affine", dtype="float16", trainable=False)
    config = layer.get_config()
    again = Affine.from_config(config)
    assert again.get_config() == config
    assert (again.units, again.name, again.dtype, again.trainable) == (
        7,
        "affine",
        "float16",
        False,
    )


def test_base_config_as_in_keras():
    ours = hornfels.layers.Flatten(name="flat").get_config()
    assert ours == keras.layers.Flatten(name="flat").get_config()


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        ({"ndim": 4}, (2, 3), "must have rank 4, got shape (N, 2, 3)"),
        ({"min_ndim": 4}, (2, 3), "must have rank >= 4"),
        ({"max_ndim": 2}, (2, 3), "must have rank <= 2"),
        ({"axes": {-1: 5}}, (2, 3), "axis -1 of the input must have size 5"),
        ({"shape": (None, 4, 3)}, (2, 3), "must have shape (None, 4, 3)"),
        ({"dtype": "int32"}, (2, 3), "must be int32, got f32"),
    ],
)
def test_input_specs(spec, shape, message):
    layer = Noting(name="noting")
    layer.input_spec = InputSpec(**spec)
    with pytest.raises((ShapeError, TypeError)) as caught:
        layer(Input(shape))
    assert message in str(caught.value)
    assert "layer 'noting'" in str(caught.value)
    assert "test_layer.py:" in str(caught.value)


def test_errors_name_the_innermost_layer():
    class Outer(layers.Layer):
        def __init__(self):
            super().__init__(name="outer")
            self.inner = Affine(2, name="inner")

        def call(self, x):
            return self.inner(ops.reshape(x, (-1, 3)))

    outer = Outer()
    outer.inner.build((None, 4))
    with pytest.raises(ShapeError, match=r"in layer 'outer/inner' \(test_layer.py:\d+\)"):
        outer(np.ones((2, 3)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Affine(2, colour="red"), "Affine: unknown arguments colour"),
        (lambda: Affine(2, name="a/b"), "without '/'"),
        (lambda: Affine(2).count_params(), "was not built"),
        (lambda: layers.Layer()(np.ones(2)), "call"),
    ],
)
def test_refused(make, message):
    with pytest.raises((ArgumentError, NotImplementedError), match=message):
        make()


def test_a_forgotten_super_init_is_named():
    class Forgetful(layers.Layer):
        def __init__(self):
            self.x = 1

    with pytest.raises(ArgumentError, match="Forgetful: __init__ was not called"):
        Forgetful()(KerasTensor((2,)))
