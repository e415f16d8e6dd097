"""One process that checks graphs, for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hornfels.fuzz.worker import Worker


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    with Worker(120.0) as found:
        yield found
