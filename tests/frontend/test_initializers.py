"""Initializers against real Keras: the same distributions, fans, names and configurations."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from hornfels.frontend import initializers, random
from hornfels.ir.builder import Builder
from hornfels.ir.errors import ArgumentError, ShapeError

SCALED = ["glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform",
          "lecun_normal"]  # fmt: skip
SHAPES = [(300, 200), (3, 3, 40, 60)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", SCALED)
def test_scaled_initializers_have_keras_variance_and_range(name, shape):
    ours = initializers.get(name)(shape).astype(np.float64)
    theirs = np.asarray(keras.initializers.get(name)(shape), np.float64)
    assert ours.shape == shape
    assert ours.std() == pytest.approx(theirs.std(), rel=0.04)
    assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.02)
    assert ours.mean() == pytest.approx(0, abs=4 * ours.std() / np.sqrt(ours.size))


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("distribution", ["truncated_normal", "untruncated_normal", "uniform"])
def test_variance_scaling(mode, distribution):
    arguments = {"scale": 1.7, "mode": mode, "distribution": distribution}
    ours = initializers.VarianceScaling(**arguments, seed=1)((5, 40, 300)).astype(np.float64)
    theirs = np.asarray(keras.initializers.VarianceScaling(**arguments, seed=1)((5, 40, 300)))
    assert ours.std() == pytest.approx(theirs.std(), rel=0.03)


def test_variance_scaling_with_axes():
    axes = {"input_axes": (0, 1), "output_axes": (2, 3)}
    ours = initializers.GlorotNormal(seed=1, **axes)((20, 10, 30, 15)).astype(np.float64)
    theirs = np.asarray(keras.initializers.GlorotNormal(seed=1, **axes)((20, 10, 30, 15)))
    assert ours.std() == pytest.approx(theirs.std(), rel=0.03)


@pytest.mark.parametrize(
    ("shape", "fans"),
    [((), (1, 1)), ((7,), (7, 7)), ((3, 4), (3, 4)), ((5, 3, 4), (15, 20)),
     ((3, 3, 2, 8), (18, 72))],
)  # fmt: skip
def test_fans(shape, fans):
    assert initializers.compute_fans(shape) == fans


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("RandomNormal", {"mean": 1.0, "stddev": 2.0}),
        ("RandomUniform", {"minval": -2.0, "maxval": 6.0}),
        ("TruncatedNormal", {"mean": -1.0, "stddev": 0.3}),
        ("RandomNormal", {}), ("RandomUniform", {}), ("TruncatedNormal", {}),
    ],
)  # fmt: skip
def test_plain_distributions(name, arguments):
    ours = getattr(initializers, name)(**arguments, seed=3)((300, 300)).astype(np.float64)
    theirs = np.asarray(getattr(keras.initializers, name)(**arguments, seed=3)((300, 300)), float)
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.02 * theirs.std())
    assert ours.std() == pytest.approx(theirs.std(), rel=0.01)


@pytest.mark.parametrize(
    "call",
    [
        lambda i: i.Zeros()((2, 3)), lambda i: i.Ones()((2, 3)),
        lambda i: i.Constant(2.5)((2, 3)), lambda i: i.Identity(gain=3.0)((4, 4)),
        lambda i: i.Identity()((3, 5)), lambda i: i.get("zeros")((2,), dtype="int32"),
        lambda i: i.get("one")((2,), dtype="float16"),
    ],
)  # fmt: skip
def test_fixed_initializers_equal_keras(call):
    ours, theirs = call(initializers), np.asarray(call(keras.initializers))
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (3, 3, 8, 16), (25, 25)], ids=str)
def test_orthogonal_has_orthonormal_rows_or_columns(shape):
    w = initializers.Orthogonal(gain=2.0, seed=1)(shape).reshape(-1, shape[-1]) / 2
    gram = w @ w.T if w.shape[0] < w.shape[1] else w.T @ w
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-5)


def test_an_object_repeats_itself_and_objects_differ():
    one = initializers.GlorotUniform()
    np.testing.assert_array_equal(one((4, 5)), one((4, 5)))
    assert not np.array_equal(one((4, 5)), initializers.GlorotUniform()((4, 5)))
    np.testing.assert_array_equal(
        initializers.HeNormal(seed=3)((4, 5)), initializers.HeNormal(seed=3)((4, 5))
    )


def test_a_generator_seed_gives_other_numbers_each_time():
    initializer = initializers.RandomNormal(seed=random.SeedGenerator(1))
    assert not np.array_equal(initializer((3,)), initializer((3,)))


def test_set_random_seed_fixes_default_seeds():
    random.set_random_seed(5)
    first = initializers.get("he_normal")((3, 4))
    random.set_random_seed(5)
    np.testing.assert_array_equal(first, initializers.get("he_normal")((3, 4)))


def test_dtypes():
    for dtype in ("float64", "float32", "float16", "bfloat16"):
        w = initializers.GlorotUniform(seed=1)((30, 40), dtype=dtype)
        assert w.dtype.name == dtype
        assert w.astype(np.float64).std() == pytest.approx(np.sqrt(2 / 70), rel=0.05)


def test_inside_a_trace_it_is_still_an_array():
    with Builder("b"):
        assert isinstance(initializers.GlorotUniform()((2, 3)), np.ndarray)


NAMES = ["Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "Identity",
         "LecunNormal", "LecunUniform", "Ones", "Orthogonal", "RandomNormal", "RandomUniform",
         "TruncatedNormal", "VarianceScaling", "Zeros"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_configurations_read_each_other(name):
    ours, theirs = getattr(initializers, name)(), getattr(keras.initializers, name)()
    written = initializers.serialize(ours)
    if name != "Identity":  # Keras forgets its gain
        assert written == keras.initializers.serialize(theirs)
    assert type(keras.initializers.deserialize(written)) is type(theirs)
    assert type(initializers.deserialize(written)) is type(ours)
    assert initializers.deserialize(written).get_config() == ours.get_config()


def test_every_name_of_keras_is_known():
    known = initializers.CATALOGUE.entries
    wanted = keras.initializers.get.__globals__["ALL_OBJECTS_DICT"]
    assert set(wanted) - set(known) <= {"Initializer", "initializer", "STFT", "stft",
                                        "STFTInitializer"}  # fmt: skip


def test_get():
    assert initializers.get(None) is None
    assert isinstance(initializers.get(initializers.Zeros), initializers.Zeros)
    np.testing.assert_array_equal(initializers.get(np.arange(3.0))((3,)), np.arange(3))
    custom = lambda shape, dtype=None: np.full(shape, 7.0, dtype)  # noqa: E731
    assert initializers.get(custom) is custom


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: initializers.get("glorot_unifrom"), ArgumentError,
         r"initializer: the name must be one of .*zeros; got 'glorot_unifrom'\n"
         r"  hint: did you mean 'glorot_uniform'\?"),
        (lambda: initializers.get(3), ArgumentError, "got 3 of type int"),
        (lambda: initializers.VarianceScaling(scale=0), ArgumentError, "scale must be > 0, got 0"),
        (lambda: initializers.VarianceScaling(mode="fan"), ArgumentError, "mode must be one of"),
        (lambda: initializers.VarianceScaling(distribution="n"), ArgumentError, "got 'n'"),
        (lambda: initializers.HeNormal(seed="a"), ArgumentError, "seed must be an int"),
        (lambda: initializers.Identity()((2, 3, 4)), ShapeError, r"rank 2, got \[2, 3, 4\]"),
        (lambda: initializers.Orthogonal()((2,)), ShapeError, r"rank 2 or more, got \[2\]"),
    ],
)  # fmt: skip
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
