"""CIFAR-10: 60,000 colour images of ten kinds of things, 32x32 pixels."""

from __future__ import annotations

import pickle
import tarfile
from typing import Any, BinaryIO

import numpy as np

from ._download import DatasetError, RemoteFile, fetch

_FILE = RemoteFile(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    path="cifar-10-python.tar.gz",
    other_names=("cifar-10-batches-py-target_archive",),  # what Keras 3 calls it
)
_FOLDER = "cifar-10-batches-py"
_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
_TEST = ("test_batch",)

Arrays = tuple[np.ndarray, np.ndarray]


def load_data() -> tuple[Arrays, Arrays]:
    """Load CIFAR-10, from the Keras cache folder or, the first time, from the internet.

    Returns
    -------
    ((x_train, y_train), (x_test, y_test))
        `x`: uint8 of shape `(50000, 32, 32, 3)` and `(10000, 32, 32, 3)`, values from 0 to 255;
        `y`: uint8 of shape `(50000, 1)` and `(10000, 1)`: 0 airplane, 1 automobile, 2 bird,
        3 cat, 4 deer, 5 dog, 6 frog, 7 horse, 8 ship, 9 truck.

    Raises
    ------
    DatasetError
        The file is not there and cannot be downloaded, or is not the published one; the message
        says where to put it by hand.

    Notes
    -----
    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.

    Examples
    --------
    >>> from hornfels.datasets import cifar10
    >>> (x_train, y_train), (x_test, y_test) = cifar10.load_data()  # doctest: +SKIP
    """
    with tarfile.open(fetch(_FILE), "r:gz") as archive:
        # One pass in the archive's order: going back in a gzip stream unpacks it again.
        batches = {
            member.name.removeprefix(f"{_FOLDER}/"): _read_batch(archive, member)
            for member in archive
            if member.name.removeprefix(f"{_FOLDER}/") in (*_TRAIN, *_TEST)
        }
    missing = {*_TRAIN, *_TEST} - batches.keys()
    if missing:
        raise DatasetError(f"cifar10: the archive lacks {', '.join(sorted(missing))}")
    return _joined(batches, _TRAIN), _joined(batches, _TEST)


def _joined(batches: dict[str, Arrays], names: tuple[str, ...]) -> Arrays:
    images, labels = zip(*(batches[name] for name in names), strict=True)
    channels_first = np.concatenate(images).reshape(-1, 3, 32, 32)
    x = np.ascontiguousarray(channels_first.transpose(0, 2, 3, 1))
    return x, np.concatenate(labels).reshape(-1, 1)


def _read_batch(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Arrays:
    file = archive.extractfile(member)
    if file is None:
        raise DatasetError(f"cifar10: {member.name} in the archive is no file")
    with file:
        content = _ArraysOnly(file).load()
    return content[b"data"], np.asarray(content[b"labels"], np.uint8)


class _ArraysOnly(pickle.Unpickler):
    """Reads the published Python 2 pickles: dicts, lists and arrays, no other class or function."""

    _ALLOWED = {  # noqa: RUF012
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
    }

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="bytes")  # type: ignore[arg-type]

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"cifar10: {module}.{name} in a data file") from None
