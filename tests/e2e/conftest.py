"""Digits for the end-to-end tests."""

from __future__ import annotations

import numpy as np
import pytest

import hornfels


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images `[n, 8, 8]` and labels of the training part."""
    (x, y), _ = hornfels.datasets.digits.load_data()
    return x, y


@pytest.fixture
def float64():
    """Models made in this test hold and compute f64."""
    hornfels.config.set_floatx("float64")
    yield
    hornfels.config.set_floatx("float32")
