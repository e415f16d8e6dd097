"""Settings of the test session, made before any test imports a library that reads them."""

from __future__ import annotations

import os
import sys
import tempfile

import pytest

# The live oracle is Keras on JAX. Keras reads this once, when it is imported first.
os.environ["KERAS_BACKEND"] = "jax"
# What passes and plans promise is checked throughout.
os.environ["HORNFELS_CONTRACTS"] = "1"
# No test finds what a user, or a test before it, has compiled; those of the cache have a folder.
os.environ["HORNFELS_CACHE_SIZE"] = "0"
# JAX looks for accelerators otherwise, and says so in a warning, which is an error here.
os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.fixture(autouse=True)
def _own_dtype_policy():
    """A test that sets the dtype policy of all layers, as benchmarks do, sets its own alone."""
    yield
    if "hornfels.frontend.dtype_policy" in sys.modules:
        sys.modules["hornfels.frontend.dtype_policy"].set_dtype_policy(None)


@pytest.fixture(autouse=True, scope="session")
def _own_temporary_folder(tmp_path_factory):
    """What the library leaves in the system's folder for temporary files (the graph of a pass
    that failed, say) goes to pytest's, which is cleared."""
    before = tempfile.tempdir
    tempfile.tempdir = str(tmp_path_factory.mktemp("temporary"))
    yield
    tempfile.tempdir = before
