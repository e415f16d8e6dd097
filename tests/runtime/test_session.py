"""CompiledModel: steps, the residence of variables, loops over data, refusals."""

from __future__ import annotations

import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import hornfels as hf
from hornfels.errors import (
    ArgumentError,
    BackendError,
    DTypeError,
    HornfelsError,
    LabelError,
    LoweringError,
    ShapeError,
)  # fmt: skip

BACKENDS = ("eager", "tvm", "onnx")


def build(loss: str = "mse", metrics: tuple[str, ...] = ("mae",), optimizer: object = "adam"):
    hf.utils.set_random_seed(0)
    model = hf.Sequential(
        [hf.layers.Input((4,)), hf.layers.Dense(5, activation="relu"), hf.layers.Dense(3)]
    )
    model.compile(optimizer=optimizer, loss=loss, metrics=list(metrics))
    return model


def data(n: int = 20) -> tuple[np.ndarray, np.ndarray]:
    r = np.random.default_rng(1)
    return r.normal(size=(n, 4)).astype("f"), r.normal(size=(n, 3)).astype("f")


def weights(model) -> list[np.ndarray]:
    return [np.array(w) for w in model.get_weights()]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_training_lowers_the_loss_and_moves_the_weights(backend):
    model = build()
    before = weights(model)
    fast = hf.compile(model, backend=backend)
    x, y = data()
    first = fast.test_on_batch(x, y, return_dict=True)
    for _ in range(30):
        logs = fast.train_on_batch(x, y, return_dict=True)
    assert logs["loss"] < first["loss"]
    assert set(logs) == {"loss", "mae"}
    assert not same(before, weights(model))
    prediction = fast.predict_on_batch(x)
    np.testing.assert_allclose(prediction, model(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        fast.test_on_batch(x, y), [((prediction - y) ** 2).mean(), np.abs(prediction - y).mean()],
        rtol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_assigned_weights_reach_the_device(backend):
    model = build()
    fast = hf.compile(model, backend=backend)
    x, _ = data()
    fast.predict_on_batch(x)
    model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    assert np.abs(fast.predict_on_batch(x)).max() == 0


def test_two_backends_share_one_model():
    model, (x, y) = build(), data()
    eager, tvm = (hf.compile(model, backend=b) for b in ("eager", "tvm"))
    eager.train_on_batch(x, y)
    tvm.train_on_batch(x, y)
    again = build()
    alone = hf.compile(again, backend="eager")
    alone.train_on_batch(x, y)
    alone.train_on_batch(x, y)
    for a, b in zip(weights(model), weights(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert int(model.optimizer.iterations.numpy()) == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_array_is_held_once(backend):
    """The device has the only one, and gives copies of it."""
    model = build()
    fast = hf.compile(model, backend=backend)
    before = weights(model)
    fast.predict_on_batch(data()[0])
    assert all(v.residence is fast.device and v._array is None for v in model.variables)
    assert same(before, weights(model))
    model.weights[0].numpy()[...] = 9
    assert same(before, weights(model))
    fast.train_on_batch(*data())
    assert all(v.residence is fast.device for v in model.optimizer.variables)
    moved = weights(model)
    other = hf.compile(model, backend="eager")
    np.testing.assert_allclose(
        other.predict_on_batch(data()[0]), fast.predict_on_batch(data()[0]), rtol=1e-5, atol=1e-6
    )
    assert same(moved, weights(model))


def test_a_device_without_memory_leaves_every_variable_readable(monkeypatch):
    model = build()
    fast = hf.compile(model)
    before, calls = weights(model), []
    write = fast.device.state.write

    def full(name, array):
        calls.append(name)
        if len(calls) == 3:
            raise MemoryError
        write(name, array)

    monkeypatch.setattr(fast.device.state, "write", full)
    with pytest.raises(MemoryError):
        fast.train_on_batch(*data())
    assert same(before, weights(model))
    model.weights[-1].assign(np.full(3, 2.0))
    model.weights[0].assign(before[0] + 1)
    fast.train_on_batch(*data())
    assert len(calls) > 3
    np.testing.assert_allclose(model.weights[-1].numpy(), 2.0, atol=0.01)
    np.testing.assert_allclose(model.weights[0].numpy(), before[0] + 1, atol=0.01)


def test_weights_can_be_read_while_they_move():
    """Two programs of one model take its variables from each other; a third thread looks."""
    model = build(optimizer=hf.optimizers.SGD(0.0))
    programs = [hf.compile(model), hf.compile(model, backend="eager")]
    before, x = weights(model), data()[0]
    for program in programs:
        program.predict_on_batch(x)
    with ThreadPoolExecutor() as pool:
        done = pool.submit(lambda: [p.predict_on_batch(x) for _ in range(40) for p in programs])
        while not done.done():
            assert same(before, weights(model))
        done.result()


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_do_not_disturb_each_other(backend):
    fast = hf.compile(build(), backend=backend)
    inputs = [data()[0] + i for i in range(4)]
    expected = [fast.predict_on_batch(x) for x in inputs]
    with ThreadPoolExecutor(len(inputs)) as pool:
        for _ in range(50):
            for want, got in zip(expected, pool.map(fast.predict_on_batch, inputs), strict=True):
                np.testing.assert_allclose(got, want, atol=1e-6)


def test_compiling_anew_gives_the_optimizer_a_new_state():
    model, (x, y) = build(), data()
    model.train_on_batch(x, y)
    fast = hf.compile(model)
    fast.train_on_batch(x, y)
    old = model.optimizer
    model.compile(optimizer="adam", loss="mse")
    fast.train_on_batch(x, y)
    assert int(model.optimizer.iterations.numpy()) == 1
    assert int(old.iterations.numpy()) == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiling_anew_frees_the_old_optimizers_state(backend):
    model, (x, y) = build(optimizer="adam"), data()
    fast = hf.compile(model, backend=backend)
    fast.train_on_batch(x, y)
    fast.predict_on_batch(x)
    before = set(fast.device.state.names())
    slots = [weakref.ref(v) for v in model.optimizer.variables]
    model.compile(optimizer=hf.optimizers.SGD(0.0), loss="mse")
    fast.train_on_batch(x, y)
    assert not any(slot() for slot in slots)
    after = set(fast.device.state.names())
    assert len(after) < len(before)
    held = {v.path for v in [*model.weights, *model.optimizer.variables, *model.metrics_variables]}
    assert after <= held
    twin = hf.compile(model, backend="eager")
    found = fast.predict_on_batch(x)
    np.testing.assert_allclose(found, twin.predict_on_batch(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_of_one_name_are_told_apart_after_compiling_anew(backend):
    """Which of their variables gets the shorter name depends on the first trace."""

    class Twins(hf.Model):
        def __init__(self):
            super().__init__()
            self.one, self.two = (hf.layers.Dense(3, name="twin") for _ in range(2))

        def call(self, x, training=False):
            if training:
                return self.one(x) - self.two(x)
            return -self.two(x) + self.one(x)

    model, (x, y) = Twins(), data()
    model.compile(hf.optimizers.SGD(0.0), "mse")
    fast = hf.compile(model, backend=backend)
    fast.train_on_batch(x, y)
    expected = model(x)
    model.compile(hf.optimizers.SGD(0.0), "mse")
    np.testing.assert_allclose(fast.predict_on_batch(x), expected, rtol=1e-5, atol=1e-6)
    fast.train_on_batch(x, y)
    np.testing.assert_allclose(fast.predict_on_batch(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_fit_evaluate_predict_with_a_smaller_last_batch(backend):
    model, (x, y) = build(), data(22)
    fast = hf.compile(model, backend=backend)
    history = fast.fit(x, y, batch_size=8, epochs=3, validation_split=0.25, verbose=0)
    assert set(history.history) == {"loss", "mae", "val_loss", "val_mae"}
    assert len(history.history["loss"]) == 3
    prediction = fast.predict(x, batch_size=8, verbose=0)
    assert prediction.shape == (22, 3)
    loss, _ = fast.evaluate(x, y, batch_size=8, verbose=0)
    np.testing.assert_allclose(loss, ((prediction - y) ** 2).mean(), rtol=1e-5)


def test_shuffling_is_repeatable_and_can_be_turned_off():
    x, y = data()
    ends = []
    for shuffle in (True, True, False):
        model = build()
        model.fit(x, y, batch_size=4, epochs=1, shuffle=shuffle, verbose=0)
        ends.append(weights(model))
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


def test_class_weights_are_sample_weights():
    x, labels = data()[0], np.arange(20) % 3
    found = []
    for options in ({"class_weight": {0: 2.0, 1: 0.5}},
                    {"sample_weight": np.array([2.0, 0.5, 1.0])[labels]}):  # fmt: skip
        model = build("sparse_categorical_crossentropy", ())
        model.fit(x, labels, epochs=1, shuffle=False, verbose=0, **options)
        found.append(weights(model))
    assert same(*found)


def test_generators_and_steps_per_epoch():
    x, y = data()
    rows = [slice(i, i + 4) for i in range(0, 20, 4)]
    model = build()
    seen = []
    counter = hf.callbacks.LambdaCallback(on_train_batch_end=lambda b, logs: seen.append(b))
    model.fit(((x[r], y[r]) for r in rows), epochs=2, steps_per_epoch=2, verbose=0,
              callbacks=[counter])  # fmt: skip
    assert seen == [0, 1, 0, 1]
    with pytest.raises(ArgumentError, match="steps_per_epoch"):
        model.fit(((x[r], y[r]) for r in rows), epochs=2, verbose=0)
    with pytest.raises(ArgumentError, match="brings its own"):
        model.fit(iter([(x, y)]), y, verbose=0)


def test_data_that_runs_out_ends_the_epoch_and_begins_anew():
    x, y = data()
    model, seen = build(), []
    counter = hf.callbacks.LambdaCallback(on_train_batch_end=lambda b, logs: seen.append(b))
    with pytest.warns(UserWarning, match="gave 2 of 3 batches"):
        model.fit(x, y, batch_size=10, epochs=2, steps_per_epoch=3, verbose=0, callbacks=[counter])
    assert seen == [0, 1, 0, 1]


def test_validation_is_due_at_the_epochs_that_are_asked_for():
    x, y = data()
    model = build()
    for frequency, times in ((2, 2), ([1, 4, 5], 3)):
        history = model.fit(x, y, epochs=5, verbose=0, validation_data=[x, y],
                            validation_freq=frequency)  # fmt: skip
        assert len(history.history["val_loss"]) == times


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": "3"}, "epochs must be an int of 0 or more, got '3'"),
        ({"initial_epoch": -1}, "initial_epoch must be"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be an int of 1 or more, got 0"),
        ({"validation_freq": 0}, "validation_freq must be"),
        ({"validation_split": "0.1"}, "validation_split must be"),
        ({"validation_data": (np.ones((2, 3)), np.ones((2, 3)))}, "must have shape"),
    ],
)
def test_arguments_of_fit_are_refused_before_the_first_step(options, message):
    x, y = data()
    model = build()
    before = weights(model)
    with pytest.raises(HornfelsError, match=message):
        model.fit(x, y, verbose=0, **options)
    assert same(before, weights(model))


def test_callbacks_stop_training_and_keep_the_best(tmp_path):
    x, y = data()
    model = build(optimizer=hf.optimizers.SGD(0.0))
    path = tmp_path / "best.weights.h5"
    history = model.fit(
        x, y, epochs=10, verbose=0, validation_data=(x, y),
        callbacks=[
            hf.callbacks.EarlyStopping(patience=2),
            hf.callbacks.ModelCheckpoint(path, save_best_only=True, save_weights_only=True),
            hf.callbacks.CSVLogger(tmp_path / "log.csv"),
        ],
    )  # fmt: skip
    assert len(history.epoch) == 3
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 4
    before = weights(model)
    model.set_weights([w + 1 for w in before])
    model.load_weights(path)
    assert same(before, weights(model))


def test_nan_stops_training():
    x, y = data()
    y[3] = np.nan
    model = build()
    with pytest.warns(UserWarning, match="the loss is nan"):
        history = model.fit(x, y, batch_size=4, epochs=5, shuffle=False, verbose=0,
                            callbacks=[hf.callbacks.TerminateOnNaN()])  # fmt: skip
    assert len(history.epoch) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_refused_batch_leaves_the_state_alone(backend):
    model = build("sparse_categorical_crossentropy", ())
    fast = hf.compile(model, backend=backend)
    x = data()[0]
    labels = np.arange(20) % 3
    fast.train_on_batch(x, labels)
    others = [*model.optimizer.variables, *model.metrics_variables]
    before = weights(model), [v.numpy() for v in others]
    refused = [
        (x, labels + 1, LabelError, r"labels must be class numbers in \[0, 3\), got 3"),
        (x, labels - 1, LabelError, "got -1"),
        (x[:, :3], labels, ShapeError, "must have shape"),
        (x, labels[:-1], HornfelsError, "same number of examples"),
        ([x, x], labels, ArgumentError, "must be 1 inputs"),
        (x.astype(str), labels, DTypeError, "array of numbers"),
        ([[1, 2], [3]], labels, ShapeError, "unequal lengths"),
        (x, None, ArgumentError, "no labels were given"),
        (x, np.full(20, np.nan), LabelError, "got nan"),
    ]
    for bad_x, bad_y, error, message in refused:
        with pytest.raises(error, match=message):
            fast.train_on_batch(bad_x, bad_y)
    assert same(before[0], weights(model))
    assert same(before[1], [v.numpy() for v in others])


def test_names_may_be_any_text():
    x, y = data()
    model = hf.Sequential([hf.Input((4,)), hf.layers.Dense(3, name="my layer (1)")], name="a model")
    model.compile("sgd", "mse", metrics=[lambda true, predicted: hf.ops.max(predicted)])
    assert set(model.train_on_batch(x, y, return_dict=True)) == {"loss", "<lambda>"}
    assert hf.compile(model, backend="onnx").predict(x, verbose=0).shape == (20, 3)


def test_unaligned_and_strided_arrays_are_taken():
    model, (x, _) = build(), data()
    fast = hf.compile(model)
    expected = fast.predict_on_batch(x)
    raw = np.zeros(x.nbytes + 4, np.uint8)
    unaligned = raw[4:].view(np.float32).reshape(x.shape)
    unaligned[...] = x
    wide = np.zeros((20, 8), np.float32)
    wide[:, ::2] = x
    for view in (unaligned, wide[:, ::2], np.asfortranarray(x), x.astype("d"),
                 x.astype(">f4")):  # fmt: skip
        np.testing.assert_array_equal(fast.predict_on_batch(view), expected)


def test_results_belong_to_the_caller():
    model, (x, _) = build(), data()
    fast = hf.compile(model)
    first = fast.predict_on_batch(x)
    copy = first.copy()
    fast.predict_on_batch(x * 2)
    np.testing.assert_array_equal(first, copy)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backend": "cuda"}, BackendError, "backend must be one of tvm, onnx, eager"),
        ({"target": "rocm"}, LoweringError, "target"),
        ({"backend": "onnx", "target": "cuda"}, BackendError, 'runs on target "cpu" only'),
    ],
)
def test_unknown_backends_and_targets(options, error, message):
    with pytest.raises(error, match=message) as caught:
        hf.compile(build(), **options)
    assert "\n" not in str(caught.value)


def test_a_missing_onnxruntime_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r'pip install "hornfels\[cpu\]"'):
        hf.compile(build(), backend="onnx")


def test_only_models_are_compiled():
    with pytest.raises(ArgumentError, match="expected a hornfels model, got int"):
        hf.compile(3)


def test_the_graph_of_every_step_reads_back():
    fast = hf.compile(build())
    for kind in ("predict", "test", "train"):
        text = str(fast.graph(kind))
        assert str(hf.ir.parse(text)) == text


def test_export_needs_a_known_kind(tmp_path):
    with pytest.raises(ArgumentError, match="'predict' or 'train'"):
        hf.compile(build()).export(tmp_path / "m.onnx", kind="test")
