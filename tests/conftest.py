"""Settings of the test session, made before any test imports a library that reads them."""

from __future__ import annotations

import os
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


@pytest.fixture(autouse=True, scope="session")
def _own_temporary_folder(tmp_path_factory):
    """What the library leaves in the system's folder for temporary files (the graph of a pass
    that failed, say) goes to pytest's, which is cleared."""
    before = tempfile.tempdir
    tempfile.tempdir = str(tmp_path_factory.mktemp("temporary"))
    yield
    tempfile.tempdir = before
