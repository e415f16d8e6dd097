"""Optimizers against real Keras on JAX: twenty steps for every option, eagerly and traced."""

from __future__ import annotations

import functools
import warnings

import jax
import keras
import numpy as np
import pytest

import hornfels as hf
from hornfels.frontend import constraints, layers, ops, optimizers
from hornfels.frontend.optimizers import schedules
from hornfels.frontend.trace import Trace
from hornfels.frontend.variable import Variable
from hornfels.ir.errors import ArgumentError, DTypeError, ShapeError
from hornfels.ir.evaluate import evaluate
from hornfels.ir.types import type_of

RNG = np.random.default_rng(0)
START = [RNG.normal(size=s).astype(np.float32) for s in ((4, 3), (3,), (2, 2, 2))]
GRADIENTS = [[RNG.normal(size=a.shape).astype(np.float32) * (0 if i == 3 else 1) for a in START]
             for i in range(20)]  # fmt: skip

CASES = [
    ("SGD", {}), ("SGD", {"learning_rate": 0.3, "momentum": 0.9}),
    ("SGD", {"momentum": 0.8, "nesterov": True}), ("SGD", {"weight_decay": 0.1}),
    ("SGD", {"clipnorm": 0.5}), ("SGD", {"clipvalue": 0.3}), ("SGD", {"global_clipnorm": 0.7}),
    ("SGD", {"use_ema": True, "ema_momentum": 0.9}), ("SGD", {"loss_scale_factor": 4.0}),
    ("SGD", {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 4}),
    ("SGD", {"gradient_accumulation_steps": 3}),
    ("RMSprop", {}), ("RMSprop", {"rho": 0.7, "momentum": 0.5}), ("RMSprop", {"centered": True}),
    ("RMSprop", {"learning_rate": 0.05, "momentum": 0.5, "centered": True, "epsilon": 1e-3}),
    ("Adam", {}), ("Adam", {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3}),
    ("Adam", {"amsgrad": True, "learning_rate": 0.05}), ("Adam", {"weight_decay": 0.02}),
    ("Adam", {"clipnorm": 1.0, "amsgrad": True}),
    ("Adam", {"gradient_accumulation_steps": 4, "learning_rate": 0.1}),
    ("Adam", {"gradient_accumulation_steps": 4, "use_ema": True, "weight_decay": 0.1,
              "global_clipnorm": 0.5, "ema_overwrite_frequency": 2, "ema_momentum": 0.8}),
    ("AdamW", {}), ("AdamW", {"learning_rate": 0.05, "weight_decay": 0.1, "amsgrad": True}),
]  # fmt: skip


def our_variables():
    return [Variable(a, name=f"w{i}") for i, a in enumerate(START)]


def keras_run(optimizer):
    """The variables of Keras after each of the steps; its optimizer then holds its state."""
    variables = [keras.Variable(a, name=f"w{i}") for i, a in enumerate(START)]
    optimizer.build(variables)
    step = jax.jit(optimizer.stateless_apply)
    state, values = [v.value for v in optimizer.variables], [v.value for v in variables]
    history = []
    for gradients in GRADIENTS:
        values, state = step(state, gradients, values)
        history.append([np.asarray(v) for v in values])
    for variable, value in zip([*variables, *optimizer.variables], [*values, *state], strict=True):
        variable.assign(value)
    return history, optimizer


@functools.cache
def keras_case(index):
    name, arguments = CASES[index]
    return keras_run(getattr(keras.optimizers, name)(**arguments))


def case_id(index):
    name, arguments = CASES[index]
    return "-".join([name, *arguments])


@pytest.mark.parametrize("index", range(len(CASES)), ids=case_id)
def test_twenty_steps_equal_keras(index):
    name, arguments = CASES[index]
    optimizer, variables = getattr(optimizers, name)(**arguments), our_variables()
    optimizer.build(variables)
    history, theirs = keras_case(index)
    for gradients, wanted in zip(GRADIENTS, history, strict=True):
        optimizer.apply(gradients, variables)
        for v, w in zip(variables, wanted, strict=True):
            np.testing.assert_allclose(v.numpy(), w, rtol=2e-5, atol=2e-6)
    for ours, other in zip(optimizer.variables, theirs.variables, strict=True):
        assert ours.path.split("/")[-1] == other.path.split("/")[-1]
        assert ours.shape == other.shape
        assert ours.dtype == other.dtype
        np.testing.assert_allclose(ours.numpy(), other, rtol=2e-5, atol=2e-6)
    optimizer.finalize_variable_values(variables)
    theirs.finalize_variable_values(theirs._trainable_variables)
    for v, w in zip(variables, theirs._trainable_variables, strict=True):
        np.testing.assert_allclose(v.numpy(), w, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("index", range(len(CASES)), ids=case_id)
def test_a_traced_step_equals_keras(index):
    name, arguments = CASES[index]
    optimizer, variables = getattr(optimizers, name)(**arguments), our_variables()
    with Trace("step") as trace:
        inputs = [trace.input(f"g{i}", type_of(a)) for i, a in enumerate(START)]
        optimizer.apply(inputs, variables)
        graph = trace.finish({"rate": ops.convert_to_tensor(optimizer.learning_rate)})
    state = {n: v.numpy() for n, v in trace.variables.items()}
    assert int(optimizer.variables[0].numpy()) == 0  # tracing does not run
    for gradients, wanted in zip(GRADIENTS[:6], keras_case(index)[0], strict=False):
        feed = {f"g{i}": g for i, g in enumerate(gradients)}
        state |= evaluate(graph, {**feed, **state}).updates
        for i, w in enumerate(wanted):
            np.testing.assert_allclose(state[f"w{i}"], w, rtol=2e-5, atol=2e-6)


def test_float64_steps_are_exact_to_float64():
    variables = [Variable(a.astype(np.float64), name="w") for a in START[:1]]
    optimizer = optimizers.Adam(0.01)
    w, m, v = START[0].astype(np.float64), 0.0, 0.0
    rate = float(np.float32(0.01))  # the learning rate is a float32 variable
    for t, gradients in enumerate(GRADIENTS, 1):
        g = gradients[0].astype(np.float64)
        optimizer.apply([g], variables)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w - rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-7)
        np.testing.assert_allclose(variables[0].numpy(), w, rtol=1e-11)


SCHEDULES = [
    ("ExponentialDecay", {"initial_learning_rate": 0.5, "decay_steps": 3, "decay_rate": 0.7}),
    ("ExponentialDecay", {"initial_learning_rate": 0.5, "decay_steps": 3, "decay_rate": 0.7,
                          "staircase": True}),
    ("InverseTimeDecay", {"initial_learning_rate": 0.5, "decay_steps": 3, "decay_rate": 0.7}),
    ("PiecewiseConstantDecay", {"boundaries": [3, 7], "values": [0.3, 0.2, 0.1]}),
    ("PolynomialDecay", {"initial_learning_rate": 0.5, "decay_steps": 7}),
    ("PolynomialDecay", {"initial_learning_rate": 0.5, "decay_steps": 7, "power": 2.0,
                         "cycle": True}),
    ("CosineDecay", {"initial_learning_rate": 0.5, "decay_steps": 9, "alpha": 0.1}),
    ("CosineDecay", {"initial_learning_rate": 0.1, "decay_steps": 9, "warmup_target": 0.6,
                     "warmup_steps": 4}),
    ("CosineDecayRestarts", {"initial_learning_rate": 0.5, "first_decay_steps": 3}),
    ("CosineDecayRestarts", {"initial_learning_rate": 0.5, "first_decay_steps": 4, "t_mul": 1.0,
                             "m_mul": 0.5, "alpha": 0.05}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments"), SCHEDULES)
def test_schedules_equal_keras(name, arguments):
    ours = getattr(schedules, name)(**arguments)
    theirs = getattr(keras.optimizers.schedules, name)(**arguments)
    steps = np.arange(20, dtype=np.int32)
    wanted = np.asarray(jax.jit(jax.vmap(theirs))(steps))
    np.testing.assert_allclose([ours(step) for step in steps], wanted, rtol=2e-5, atol=1e-7)
    written = schedules.serialize(ours)
    assert written == keras.optimizers.schedules.serialize(theirs)
    assert schedules.deserialize(written).get_config() == ours.get_config()


def test_a_schedule_drives_the_steps():
    arguments = {"initial_learning_rate": 0.5, "decay_steps": 2, "decay_rate": 0.5}
    optimizer = optimizers.SGD(schedules.ExponentialDecay(**arguments))
    theirs = keras.optimizers.schedules.ExponentialDecay(**arguments)
    variables = our_variables()
    history, _ = keras_run(keras.optimizers.SGD(theirs))
    for gradients, wanted in zip(GRADIENTS, history, strict=True):
        optimizer.apply(gradients, variables)
        np.testing.assert_allclose(variables[0].numpy(), wanted[0], rtol=1e-5, atol=1e-6)
    assert len(optimizer.variables) == 1
    assert float(optimizer.learning_rate) == pytest.approx(0.5 * 0.5**10, rel=1e-5)
    again = optimizers.deserialize(optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()


def test_the_learning_rate_can_be_set_and_read():
    optimizer = optimizers.SGD(0.1)
    assert float(optimizer.learning_rate) == pytest.approx(0.1)
    optimizer.learning_rate = 0.25
    assert float(optimizer.learning_rate.numpy()) == 0.25
    assert optimizer.get_config()["learning_rate"] == 0.25
    scheduled = optimizers.SGD(schedules.PolynomialDecay(0.5, 10))
    with pytest.raises(DTypeError, match="its learning rate is a schedule"):
        scheduled.learning_rate = 0.1
    rates = iter([0.5, 0.25])
    called = optimizers.SGD(lambda: next(rates))
    w = Variable(np.zeros(1, np.float32), name="w")
    for wanted in (-0.5, -0.75):
        called.apply([np.ones(1, np.float32)], [w])
        assert float(w.numpy()[0]) == wanted


def test_no_decay_for_what_is_excluded():
    variables = our_variables()
    optimizer = optimizers.SGD(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[variables[0]], var_names=["w2"])
    optimizer.apply([np.zeros_like(a) for a in START], variables)
    np.testing.assert_array_equal(variables[0].numpy(), START[0])
    np.testing.assert_allclose(variables[1].numpy(), START[1] * 0.95, rtol=1e-6)
    np.testing.assert_array_equal(variables[2].numpy(), START[2])


def test_constraints_hold_after_the_step():
    w = Variable(np.array([0.2, 1.0], np.float32), name="w")
    w.constraint = constraints.NonNeg()
    optimizers.SGD(1.0).apply([np.array([0.5, 0.5], np.float32)], [w])
    np.testing.assert_array_equal(w.numpy(), np.array([0.0, 0.5], np.float32))


def test_a_missing_gradient_leaves_the_variable_and_warns():
    variables = our_variables()
    with pytest.warns(UserWarning, match="does not depend on w1: no gradient"):
        optimizers.Adam().apply([GRADIENTS[0][0], None, GRADIENTS[0][2]], variables)
    np.testing.assert_array_equal(variables[1].numpy(), START[1])
    assert not np.array_equal(variables[0].numpy(), START[0])


def test_an_optimizer_written_the_keras_way():
    class Sign(optimizers.Optimizer):
        def build(self, variables):
            if not self.built:
                super().build(variables)
                self.counts = self.add_optimizer_variables(variables, "count")

        def update_step(self, gradient, variable, learning_rate):
            count = self.counts[self._get_variable_index(variable)]
            self.assign_add(count, ops.ones_like(count))
            self.assign_sub(variable, ops.sign(gradient) * learning_rate)

    variables = our_variables()
    optimizer = Sign(0.5)
    optimizer.apply(GRADIENTS[0], variables)
    np.testing.assert_allclose(
        variables[0].numpy(), START[0] - 0.5 * np.sign(GRADIENTS[0][0]), rtol=1e-6
    )
    assert optimizer.variables[-1].path.endswith("w2_count")
    assert (optimizer.variables[-1].numpy() == 1).all()


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # JAX in Keras' own numpy()
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_configurations_read_each_other(name, arguments):
    ours = getattr(optimizers, name)(**arguments, name="own")
    theirs = getattr(keras.optimizers, name)(**arguments, name="own")
    assert ours.get_config() == theirs.get_config()
    read = optimizers.deserialize(keras.optimizers.serialize(theirs))
    assert read.get_config() == ours.get_config()
    assert (
        keras.optimizers.deserialize(optimizers.serialize(ours)).get_config() == ours.get_config()
    )


def test_get_finds_names_in_any_case():
    for name in ("adam", "Adam", "ADAM", "rmsprop", "RMSprop", "sgd", "SGD", "adamw"):
        assert type(optimizers.get(name)).__name__.lower() == name.lower()
    own = optimizers.SGD()
    assert optimizers.get(own) is own
    assert isinstance(optimizers.get({"class_name": "adam", "config": {}}), optimizers.Adam)


def built():
    optimizer = optimizers.SGD()
    optimizer.build(our_variables())
    return optimizer


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: optimizers.get("adma"), ArgumentError,
         r"optimizer: the name must be one of adam, adamw, rmsprop, .*sgd; got 'adma'\n.*'adam'"),
        (lambda: optimizers.get(3), ArgumentError, "got 3"),
        (lambda: optimizers.SGD("fast"), ArgumentError, "learning_rate must be a float.*'fast'"),
        (lambda: optimizers.SGD(momentum=2), ArgumentError, r"momentum must be .* got 2"),
        (lambda: optimizers.Adam(clipnorm=1.0, clipvalue=1.0), ArgumentError,
         "only one of clipnorm, clipvalue, global_clipnorm may be set"),
        (lambda: optimizers.Adam(gradient_accumulation_steps=1), ArgumentError, "int >= 2, got 1"),
        (lambda: optimizers.Adam(use_ema=True, ema_momentum=2), ArgumentError, "got 2"),
        (lambda: optimizers.Adam(decay=0.1), ArgumentError, "unknown arguments decay"),
        (lambda: optimizers.SGD().apply(GRADIENTS[0]), ArgumentError, "needs an optimizer that is"),
        (lambda: optimizers.SGD().apply(GRADIENTS[0][:2], our_variables()), ArgumentError,
         "2 gradients for 3 variables"),
        (lambda: built().apply(GRADIENTS[0], our_variables()), ArgumentError,
         "was not built with variable 'w0'"),
        (lambda: built().apply([None] * 3), ArgumentError, "no variable has a gradient"),
        (lambda: built().apply(GRADIENTS[0][::-1]), ShapeError,
         r"gradient of 'w0' must have shape \[4, 3\], got f32\[2,2,2\]"),
    ],
)  # fmt: skip
def test_refusals(call, error, message):
    with warnings.catch_warnings(), pytest.raises(error, match=message):
        call()


def test_averaged_weights_take_their_place_after_fit():
    model = hf.Sequential([layers.Input((3,)), layers.Dense(2)])
    model.compile(optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5), "mse")
    x, y = START[0], START[0][:, :2]
    model.fit(x, y, batch_size=4, epochs=3, verbose=0)
    averages = {v.path: v.numpy() for v in model.optimizer.variables if "average" in v.path}
    assert len(averages) == 2
    for weight, average in zip(model.weights, averages.values(), strict=True):
        np.testing.assert_array_equal(weight.numpy(), average)
