"""What every measured engine shares: its small interface, and the batches that it gets."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .bench_model import BenchModel


class Engine(Protocol):
    """What a worker asks of an engine."""

    def begin(self, policy: str) -> None:
        """Import what is needed; models compute in this dtype policy from here on."""

    def load(self, model: BenchModel, data: Batches) -> float:
        """Build and compile `model`, make a step of each kind, and choose the best way.

        Returns the seconds from the start of building to the end of the first training step.
        """

    def train(self, steps: int) -> float:
        """Make training steps and return the last loss."""

    def predict(self, steps: int) -> None:
        """Predict batches."""

    def versions(self) -> dict[str, str]:
        """The versions of the packages that do the work."""

    def notes(self) -> list[str]:
        """How the numbers are taken: the way that was chosen, and what did not work."""


@dataclass(frozen=True)
class Batches:
    """Made-up samples and labels; step `i` uses batch `i`, going round.

    Parameters
    ----------
    x, y
        Samples and labels, of `count * batch_size` rows.
    batch_size
        Rows of a batch.
    """

    x: np.ndarray
    y: np.ndarray
    batch_size: int

    @classmethod
    def random(cls, model: BenchModel, batch_size: int, count: int) -> Batches:
        """The same batches for every engine."""
        return cls(*model.samples(batch_size * count), batch_size)

    def of(self, batch_size: int | None) -> Batches:
        """The same samples in batches of another size, if one is given."""
        return self if batch_size is None else Batches(self.x, self.y, batch_size)

    @property
    def count(self) -> int:
        """Number of different batches."""
        return len(self.x) // self.batch_size

    def rows(self, index: int) -> slice:
        """The rows of batch `index`, going round."""
        start = index % self.count * self.batch_size
        return slice(start, start + self.batch_size)

    def batch(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `index`, going round; views of the whole."""
        return self.x[self.rows(index)], self.y[self.rows(index)]

    def first(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The first `count` batches as one array each."""
        rows = min(count, self.count) * self.batch_size
        return self.x[:rows], self.y[:rows]


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def loss_of(result: Any) -> float:
    """The loss in what `train_on_batch` returns: a number, a list that it leads, or a dict."""
    if isinstance(result, dict):
        return float(result["loss"])
    return float(np.ravel(result)[0])


def first_line(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}"[:200]


def versions_of(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
