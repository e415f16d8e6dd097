"""Data sets to learn and to test with: `digits` is embedded, the others are downloaded once."""

from . import cifar10, digits, fashion_mnist, mnist
from ._download import DatasetError

__all__ = ["DatasetError", "cifar10", "digits", "fashion_mnist", "mnist"]
