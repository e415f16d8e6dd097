"""Training as a graph: steps, losses and metrics by output, data in and out, weights files."""

from __future__ import annotations

import warnings

import h5py
import numpy as np
import pytest

import hornfels
from hornfels import layers, ops
from hornfels.errors import ArgumentError, CheckpointError, DTypeError, LabelError, ShapeError
from hornfels.ir import evaluate, verify
from hornfels.ir.types import f32

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras

rng = np.random.default_rng(0)
X = rng.normal(size=(12, 6)).astype(np.float32)
CLASSES = rng.integers(0, 3, 12).astype(np.int32)
ONE_HOT = np.eye(3, dtype=np.float32)[CLASSES]
TARGETS = rng.normal(size=(12, 1)).astype(np.float32)


def mlp(k):
    return k.Sequential(
        [k.Input((6,)), k.layers.Dense(5, activation="relu"),
         k.layers.Dense(3, activation="softmax")]
    )  # fmt: skip


def two_heads(k):
    x = k.Input((6,), name="x")
    h = k.layers.Dense(5, activation="tanh")(x)
    heads = [k.layers.Dense(1, name="value")(h),
             k.layers.Dense(3, activation="softmax", name="kind")(h)]  # fmt: skip
    return k.Model(x, heads)


def step(model, kind, batch):
    """Run a step's graph once with the oracle, and put the updates into the variables."""
    graph, variables = model.trace(kind, {n: hornfels.ir.types.type_of(a).with_shape(
        (hornfels.ir.symbol("N"), *a.shape[1:])) for n, a in batch.items()})  # fmt: skip
    verify(graph)
    run = evaluate(graph, {**batch, **{n: v.numpy() for n, v in variables.items()}})
    for name, array in run.updates.items():
        variables[name].assign(array)
    return run.outputs


# --- steps -----------------------------------------------------------------------------------


def test_graph_of_a_training_step():
    model = mlp(hornfels)
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    graph = model.make_graph("train")
    assert [str(v.type) for v in graph.inputs] == ["f32[N,6]", "f32[N,3]"]
    assert [v.name for v in graph.inputs] == ["x", "y"]
    assert graph.output_names == ("loss", "accuracy")
    updated = {old.name for old, _ in graph.updates}
    assert {w.path for w in model.weights} < updated
    assert any(name.startswith("adam") and name.endswith("/iteration") for name in updated)
    assert "adam/learning_rate" not in updated
    assert graph.output_names == model.make_graph("test").output_names


def test_a_test_step_updates_metrics_only():
    model = mlp(hornfels)
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    graph = model.make_graph("test")
    assert {old.name for old, _ in graph.updates} == {
        "loss/total", "loss/count", "accuracy/total", "accuracy/count"}  # fmt: skip


CONFIGURATIONS = [
    (mlp, "sgd", {"loss": "categorical_crossentropy", "metrics": ["accuracy"]}, {"y": ONE_HOT}),
    (mlp, "adam", {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy", "mse"][:1]},
     {"y": CLASSES}),
    (mlp, "rmsprop", {"loss": "mse", "metrics": ["mae", "mse"], "weighted_metrics": ["mae"]},
     {"y": ONE_HOT, "sample_weight": rng.random(12).astype(np.float32)}),
    (two_heads, "adam", {"loss": ["mse", "sparse_categorical_crossentropy"],
                         "loss_weights": [0.3, 2.0], "metrics": [["mae"], ["accuracy"]]},
     {"y/0": TARGETS, "y/1": CLASSES}),
    (two_heads, "sgd", {"loss": {"value": "mae", "kind": "categorical_crossentropy"},
                        "metrics": {"kind": ["accuracy", "mse"]}},
     {"y/0": TARGETS, "y/1": ONE_HOT}),
]  # fmt: skip


@pytest.mark.parametrize(("build", "optimizer", "options", "labels"), CONFIGURATIONS)
def test_training_steps_as_in_keras(build, optimizer, options, labels):
    ours, theirs = build(hornfels), build(keras)
    ours.set_weights(theirs.get_weights())
    for model in (ours, theirs):
        model.compile(optimizer, **options)
    y = [labels["y/0"], labels["y/1"]] if "y/0" in labels else labels["y"]
    for _ in range(3):
        ours.reset_metrics()
        logs = step(ours, "train", {"x": X, **labels})
        want = theirs.train_on_batch(
            X, y, sample_weight=labels.get("sample_weight"), return_dict=True
        )
        assert set(logs) == set(want)
        for name in logs:
            np.testing.assert_allclose(logs[name], want[name], rtol=2e-5, err_msg=name)
    for w, v in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(w, v, rtol=1e-4, atol=1e-6)


def test_regularizers_and_added_losses_count():
    def build(k):
        return k.Sequential(
            [k.Input((6,)), k.layers.Dense(1, kernel_regularizer="l2", activity_regularizer="l1")]
        )

    ours, theirs = build(hornfels), build(keras)
    ours.set_weights(theirs.get_weights())
    for model in (ours, theirs):
        model.compile("sgd", "mse")
    logs = step(ours, "train", {"x": X, "y": TARGETS})
    want = theirs.train_on_batch(X, TARGETS, return_dict=True)
    np.testing.assert_allclose(logs["loss"], want["loss"], rtol=1e-5)


def test_batch_norm_updates_its_state_while_training_only():
    model = hornfels.Sequential([layers.Input((6,)), layers.BatchNormalization()])
    model.compile("sgd", "mse")
    moving_mean = model.non_trainable_weights[0]
    step(model, "test", {"x": X, "y": X})
    np.testing.assert_array_equal(moving_mean, np.zeros(6))
    step(model, "train", {"x": X, "y": X})
    np.testing.assert_allclose(moving_mean, 0.01 * X.mean(0), rtol=1e-4, atol=1e-7)


def test_frozen_layers_are_not_updated():
    model = mlp(hornfels)
    model.layers[0].trainable = False
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = model.get_weights()
    step(model, "train", {"x": X, "y": CLASSES})
    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert changed == [False, False, True, True]


class Subclass(hornfels.Model):
    """Behaves differently while training."""

    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(5, activation="relu")
        self.heads = [layers.Dense(3)]

    def call(self, inputs, training=False):
        x = self.hidden(inputs)
        if training:
            x = x * 2
        return self.heads[0](x)


def test_a_subclass():
    model = Subclass()
    model.compile("sgd", "mse")
    step(model, "train", {"x": X, "y": ONE_HOT})
    assert [w.path for w in model.weights] == [
        f"{model.name}/{model.hidden.name}/kernel", f"{model.name}/{model.hidden.name}/bias",
        f"{model.name}/{model.heads[0].name}/kernel", f"{model.name}/{model.heads[0].name}/bias",
    ]  # fmt: skip
    kernel, bias, last, last_bias = model.get_weights()
    hidden = np.maximum(X @ kernel + bias, 0)
    np.testing.assert_allclose(model(X), hidden @ last + last_bias, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        model(X, training=True), 2 * hidden @ last + last_bias, rtol=1e-5, atol=1e-6
    )
    assert model.compute_output_shape((None, 6)) == (None, 3)


def test_a_subclass_can_be_built_by_shape():
    model = Subclass()
    model.build((None, 4))
    assert [w.shape for w in model.weights] == [(4, 5), (5,), (5, 3), (3,)]


def test_a_train_step_of_ones_own():
    class Mine(Subclass):
        def train_step(self, x, y, sample_weight=None):
            loss = ops.mean(ops.square(self(x, training=True) - y))
            grads = hornfels.gradients(loss, self.trainable_variables)
            for variable, grad in zip(self.trainable_variables, grads, strict=True):
                variable.assign_sub(0.1 * grad)
            return {"mine": loss, "norm": ops.sqrt(sum(ops.sum(g * g) for g in grads))}

    model = Mine()
    model.compile("sgd", "mse")
    losses = [step(model, "train", {"x": X, "y": ONE_HOT})["mine"] for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]


def test_custom_loss_and_metric_functions():
    def loss(y_true, y_pred):
        return ops.mean(ops.square(y_true - y_pred), axis=-1)

    def largest(y_true, y_pred):
        return ops.max(ops.abs(y_true - y_pred), axis=-1)

    model = mlp(hornfels)
    model.compile("sgd", loss, metrics=[largest])
    logs = step(model, "test", {"x": X, "y": ONE_HOT})
    error = ONE_HOT - model(X)
    np.testing.assert_allclose(logs["loss"], np.mean(error**2), rtol=1e-5)
    np.testing.assert_allclose(logs["largest"], np.abs(error).max(-1).mean(), rtol=1e-5)


def test_metrics_run_on_until_they_are_reset():
    model = mlp(hornfels)
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    first = step(model, "test", {"x": X[:4], "y": CLASSES[:4]})["loss"]
    whole = step(model, "test", {"x": X[4:], "y": CLASSES[4:]})["loss"]
    model.reset_metrics()
    assert step(model, "test", {"x": X[:4], "y": CLASSES[:4]})["loss"] == first
    model.reset_metrics()
    np.testing.assert_allclose(
        step(model, "test", {"x": X, "y": CLASSES})["loss"], whole, rtol=1e-5
    )
    assert model.metrics_names == ["loss", "accuracy"]
    assert len(model.metrics_variables) == 4


# --- data ------------------------------------------------------------------------------------


def test_pack_names_and_converts():
    packed = mlp(hornfels).pack(X.astype(np.float64), list(CLASSES), np.ones(12))
    assert {name: array.dtype.name for name, array in packed.items()} == {
        "x": "float32", "y": "int32", "sample_weight": "float32"}  # fmt: skip
    assert [array.shape for array in packed.values()] == [(12, 6), (12,), (12,)]
    packed = two_heads(hornfels).pack({"x": X}, {"kind": CLASSES, "value": TARGETS})
    assert list(packed) == ["x", "y/0", "y/1"]
    assert packed["y/1"] is CLASSES
    assert mlp(hornfels).pack([[1.0] * 6, [2] * 6])["x"].shape == (2, 6)
    subclass = Subclass()
    assert list(subclass.pack([X, X])) == ["x/0", "x/1"]
    assert list(subclass.pack({"a": X, "b": X})) == ["x/a", "x/b"]


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda m: m.pack(X, CLASSES[:5]), ArgumentError, "examples, got x: 12, y: 5"),
        (lambda m: m.pack([X, X]), ArgumentError, "there must be 1 inputs"),
        (lambda m: m.pack(np.array(["a"] * 12)), DTypeError, "x: must be an array of numbers"),
        (lambda m: step(m, "train", {"x": X[:, :5], "y": CLASSES}), ShapeError,
         r"input 'input_layer\w*' must have shape \(None, 6\), got f32\[N,5\]"),
        (lambda m: step(m, "train", {"x": X, "y": ONE_HOT[:, :2]}), ShapeError, "crossentropy"),
        (lambda m: step(m, "train", {"x": X}), ArgumentError, "no labels"),
        (lambda m: m.make_graph("dream"), ArgumentError, "train, test or predict, got 'dream'"),
        (lambda m: m.compile("sgd", "mean_sqared_error"), ArgumentError, "mean_sqared_error"),
        (lambda m: m.compile("sgd", "mse", ["mae"]), ArgumentError, "loss_weights: must be num"),
        (lambda m: m.compile("sgdd", "mse"), ArgumentError, "sgdd"),
        (lambda m: m.compile("sgd", "mse", metrics=["acuracy"]), ArgumentError, "acuracy"),
        (lambda m: mlp(hornfels).fit(X, CLASSES), ArgumentError, "call model.compile"),
        (lambda m: Subclass().make_graph("predict"), ArgumentError, "declares no inputs"),
    ],
)  # fmt: skip
def test_refused(use, error, message):
    model = mlp(hornfels)
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = model.get_weights()
    with pytest.raises(error, match=message):
        use(model)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("build", [lambda: mlp(hornfels), Subclass])
@pytest.mark.parametrize(("wrong", "shown"), [(3, "3"), (-1, "-1")])
def test_labels_out_of_range_are_refused(build, wrong, shown):
    model = build()
    model.compile("sgd", "sparse_categorical_crossentropy", backend="eager")
    labels = CLASSES.copy()
    labels[7] = wrong
    with pytest.raises(LabelError, match=rf"class numbers in \[0, 3\), got {shown}"):
        model.train_on_batch(X, labels)


def test_labels_for_several_outputs_are_checked():
    model = two_heads(hornfels)
    model.compile("sgd", ["mse", "mse"])
    with pytest.raises(ArgumentError, match="y: there must be 2, one for each output, got 1"):
        step(model, "train", {"x": X, "y": TARGETS})
    with pytest.raises(ArgumentError, match="no output is named 'colour'"):
        model.pack(X, {"colour": TARGETS})


def test_fit_evaluate_predict_delegate_to_the_runtime():
    model = mlp(hornfels)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], backend="eager")
    history = model.fit(X, CLASSES, batch_size=5, epochs=2, verbose=0)
    assert set(history.history) == {"loss", "accuracy"}
    loss, accuracy = model.evaluate(X, CLASSES, verbose=0)
    assert model.evaluate(X, CLASSES, verbose=0, return_dict=True) == {
        "loss": loss, "accuracy": accuracy}  # fmt: skip
    np.testing.assert_allclose(model.predict(X, verbose=0), model(X), rtol=1e-5)
    np.testing.assert_allclose(model.predict_on_batch(X[:2]), model(X[:2]), rtol=1e-5)
    assert len(model.train_on_batch(X, CLASSES)) == 2
    assert set(model.test_on_batch(X, CLASSES, return_dict=True)) == {"loss", "accuracy"}
    heads = two_heads(hornfels)
    heads.compile("sgd", "mse", backend="eager")
    value, kind = heads.predict(X, verbose=0)
    assert (value.shape, kind.shape) == ((12, 1), (12, 3))


# --- weights files ---------------------------------------------------------------------------


def nested(k):
    inner = k.Sequential([k.Input((6,)), k.layers.Dense(4), k.layers.BatchNormalization()])
    x = k.Input((6,))
    return k.Model(x, k.layers.Dense(2)(k.layers.Dense(3)(inner(x))))


def subclass(k):
    class Deep(k.layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense_2, self.dense_1 = k.layers.Dense(3), k.layers.Dense(4)

        def call(self, x):
            return self.dense_2(self.dense_1(x))

    class Net(k.Model):
        def __init__(self):
            super().__init__()
            self.z_first = k.layers.Dense(5)
            self.blocks = [Deep(), k.layers.BatchNormalization(), Deep()]
            self._private = k.layers.Dense(2)
            self.again = self.z_first  # one layer, two names

        def call(self, x):
            x = self.z_first(x)
            for block in self.blocks:
                x = block(x)
            return self._private(x)

    model = Net()
    model(np.zeros((1, 6), np.float32))
    return model


@pytest.mark.parametrize("build", [mlp, two_heads, nested, subclass])
def test_weights_files_go_both_ways(build, tmp_path):
    ours, theirs = build(hornfels), build(keras)
    values = [w + rng.random(w.shape) for w in theirs.get_weights()]
    theirs.set_weights(values)
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    ours.load_weights(tmp_path / "theirs.weights.h5")
    np.testing.assert_allclose(
        np.asarray(tree_first(ours(X))), np.asarray(tree_first(theirs(X))), rtol=1e-4, atol=1e-5
    )
    ours.set_weights([2 * w for w in ours.get_weights()])
    ours.save_weights(tmp_path / "ours.weights.h5")
    theirs.load_weights(tmp_path / "ours.weights.h5")
    for got, want in zip(theirs.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)


def tree_first(x):
    return x[0] if isinstance(x, list | tuple) else x


def test_a_file_has_the_optimizer_too(tmp_path):
    model = mlp(hornfels)
    model.compile("adam", "sparse_categorical_crossentropy")
    step(model, "train", {"x": X, "y": CLASSES})
    model.save_weights(tmp_path / "m.weights.h5")
    again = mlp(hornfels)
    again.compile("adam", "sparse_categorical_crossentropy")
    again.load_weights(tmp_path / "m.weights.h5")
    for a, b in zip(model.optimizer.variables, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    assert step(model, "train", {"x": X, "y": CLASSES})["loss"] != 0
    step(again, "train", {"x": X, "y": CLASSES})
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_damaged_file_changes_nothing(tmp_path):
    path = tmp_path / "m.weights.h5"
    model = mlp(hornfels)
    model.compile("adam", "sparse_categorical_crossentropy")
    step(model, "train", {"x": X, "y": CLASSES})
    model.save_weights(path)
    whole = path.read_bytes()
    before = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    with h5py.File(path, "r+") as file:  # a text where the last layer has numbers
        names = []
        file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
        last = [name for name in names if name.startswith("layers")][-1]
        shape = file[last].shape
        del file[last]
        file[last] = np.full(shape, b"text")
    with pytest.raises(CheckpointError, match=r"the file has \|S4"):
        model.load_weights(path)
    at = whole.rindex(b"SNOD")  # a node of the tree of names
    for damaged in (whole[: len(whole) // 2], whole[:at] + b"\xff" * 64 + whole[at + 64 :]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="no readable HDF5 file"):
            model.load_weights(path)
    for v, array in zip((*model.variables, *model.optimizer.variables), before, strict=True):
        np.testing.assert_array_equal(v, array)


def test_a_file_of_another_optimizer_leaves_ours_with_a_warning(tmp_path):
    model = mlp(hornfels)
    model.compile("sgd", "sparse_categorical_crossentropy")
    step(model, "train", {"x": X, "y": CLASSES})
    model.save_weights(tmp_path / "m.weights.h5")
    model.compile("adam", "sparse_categorical_crossentropy")
    step(model, "train", {"x": X, "y": CLASSES})
    with pytest.warns(UserWarning, match="the optimizer was left as it was"):
        model.load_weights(tmp_path / "m.weights.h5")


def test_a_file_that_does_not_fit_changes_nothing(tmp_path):
    path = tmp_path / "m.weights.h5"
    nested(hornfels).save_weights(path)
    model = mlp(hornfels)
    before = model.get_weights()
    with pytest.raises(CheckpointError, match=r"does not fit model .* is f32\[.*the file has"):
        model.load_weights(path)
    with pytest.warns(UserWarning, match="left as it was"):
        model.load_weights(path, skip_mismatch=True)
    path.write_bytes(b"no file of ours")
    with pytest.raises(CheckpointError, match="no readable HDF5 file"):
        model.load_weights(path)
    with pytest.raises(CheckpointError, match="there is no file"):
        model.load_weights(tmp_path / "none.weights.h5")
    with pytest.raises(ArgumentError, match=r"must end in \.weights\.h5"):
        model.save_weights(tmp_path / "m.h5")
    with pytest.raises(ArgumentError, match="may not be overwritten"):
        model.save_weights(path, overwrite=False)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# --- summary ---------------------------------------------------------------------------------


def text_of(model, **options):
    lines = []
    model.summary(line_length=100, print_fn=lines.append, **options)
    return "\n".join(lines)


def test_summary():
    text = text_of(mlp(hornfels))
    assert "(None, 5)" in text
    assert "Total params: 53 (212.00 B)" in text
    assert "Non-trainable params: 0" in text
    branched = text_of(two_heads(hornfels), show_trainable=True)
    assert "Connected to" in branched
    assert "Trainable" in branched
    assert "BatchNormalization" not in text_of(nested(hornfels))
    assert "BatchNormalization" in text_of(nested(hornfels), expand_nested=True)
    assert "not built" in text_of(Subclass())
    built = Subclass()
    built(X)
    assert "(None, 3)" in text_of(built)


def test_compute_dtype_of_whole_models():
    hornfels.config.set_floatx("float64")
    try:
        model = mlp(hornfels)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        graph = model.make_graph("train")
    finally:
        hornfels.config.set_floatx("float32")
    floats = {v.dtype for node in graph.nodes for v in node.outputs if v.dtype.is_float}
    assert {d.name for d in floats} == {"f64"}
    assert f32 not in floats
