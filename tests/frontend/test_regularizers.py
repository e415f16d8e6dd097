"""Regularizers, constraints and the look-up by name that every family shares."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from hornfels.frontend import constraints, regularizers
from hornfels.frontend.identifiers import Catalogue
from hornfels.frontend.variable import Variable
from hornfels.ir.errors import ArgumentError

W = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("L1", {}), ("L2", {}), ("L1L2", {}), ("L1", {"l1": 0.3}), ("L2", {"l2": 0.3}),
     ("L1L2", {"l1": 0.2, "l2": 0.1})],
)  # fmt: skip
def test_penalties_equal_keras(name, arguments, differentiate):
    ours = getattr(regularizers, name)(**arguments)
    theirs = getattr(keras.regularizers, name)(**arguments)
    np.testing.assert_allclose(ours(W), theirs(W), rtol=1e-6)
    np.testing.assert_allclose(ours(Variable(W, name="w")), theirs(W), rtol=1e-6)
    _, (gradient,) = differentiate(ours, [W])
    l1, l2 = ours.l1, ours.l2
    np.testing.assert_allclose(gradient, l1 * np.sign(W) + 2 * l2 * W, rtol=1e-5)
    written = regularizers.serialize(ours)
    wanted = keras.regularizers.serialize(theirs)
    wanted["config"] = pytest.approx(wanted["config"])  # Keras rounds l1 to float32
    assert written == wanted
    assert regularizers.deserialize(written).get_config() == ours.get_config()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("MaxNorm", {"max_value": 1.0}), ("MaxNorm", {"max_value": 1.0, "axis": 1}), ("NonNeg", {}),
     ("UnitNorm", {}), ("UnitNorm", {"axis": [0, 1]}),
     ("MinMaxNorm", {"min_value": 2.0, "max_value": 3.0}),
     ("MinMaxNorm", {"min_value": 0.5, "max_value": 1.0, "rate": 0.4, "axis": 1})],
)  # fmt: skip
def test_projections_equal_keras(name, arguments):
    ours = getattr(constraints, name)(**arguments)
    theirs = getattr(keras.constraints, name)(**arguments)
    np.testing.assert_allclose(ours(W), np.asarray(theirs(W)), rtol=1e-5, atol=1e-7)
    written = constraints.serialize(ours)
    assert written == keras.constraints.serialize(theirs)
    assert constraints.deserialize(written).get_config() == ours.get_config()


@pytest.mark.parametrize(
    ("ours", "theirs", "later"),
    [(regularizers, keras.regularizers, {"OrthogonalRegularizer", "orthogonal_regularizer",
                                         "Regularizer", "regularizer"}),
     (constraints, keras.constraints, {"Constraint", "constraint"})],
)  # fmt: skip
def test_every_name_of_keras_is_known(ours, theirs, later):
    wanted = set(theirs.get.__globals__["ALL_OBJECTS_DICT"])
    assert wanted - set(ours.CATALOGUE.entries) == later
    for name in wanted - later:
        assert type(ours.get(name)).__name__ == type(theirs.get(name)).__name__


def test_own_classes_and_functions_pass_through():
    function = lambda x: x  # noqa: E731
    assert regularizers.get(function) is function
    assert regularizers.get(None) is None

    class Own(regularizers.Regularizer):
        def __init__(self, factor=1.0):
            self.factor = factor

        def get_config(self):
            return {"factor": self.factor}

    written = regularizers.serialize(Own(3.0))
    assert written["class_name"] == "Own"
    assert regularizers.deserialize(written, custom_objects={"Own": Own}).factor == 3.0
    with pytest.raises(ArgumentError, match="got 'Own'"):
        regularizers.deserialize(written)


def test_a_catalogue_keeps_functions_before_classes_of_the_same_name():
    catalogue = Catalogue("thing", "things")

    @catalogue.add("brief")
    def long_name():
        return None

    @catalogue.add()
    class LongName:
        pass

    assert catalogue.get("long_name") is catalogue.get("brief") is long_name
    assert isinstance(catalogue.get("LongName"), LongName)
    with pytest.raises(ArgumentError, match=r"thing: the name must be one of LongName, brief, "):
        catalogue.get("zzz")
    with pytest.raises(ArgumentError, match="must have a class_name"):
        catalogue.get({})


@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan"), "0.1", True])
def test_a_factor_must_be_a_number_that_is_not_negative(value):
    with pytest.raises(ArgumentError, match="regularizer: l1 must be"):
        regularizers.L1(value)
