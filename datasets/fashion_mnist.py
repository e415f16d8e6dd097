"""Fashion-MNIST: 70,000 images of ten kinds of clothing, 28x28 pixels."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from ._download import DatasetError, RemoteFile, fetch

_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
_SHA256 = {
    "train-images-idx3": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
_FILES = {
    name: RemoteFile(
        url=f"{_URL}{name}-ubyte.gz", sha256=sha256, path=f"fashion-mnist/{name}-ubyte.gz"
    )
    for name, sha256 in _SHA256.items()
}

Arrays = tuple[np.ndarray, np.ndarray]


def load_data() -> tuple[Arrays, Arrays]:
    """Load Fashion-MNIST, from the Keras cache folder or, the first time, from the internet.

    Returns
    -------
    ((x_train, y_train), (x_test, y_test))
        `x`: uint8 of shape `(60000, 28, 28)` and `(10000, 28, 28)`, values from 0 to 255; `y`:
        uint8 of shape `(60000,)` and `(10000,)`: 0 T-shirt/top, 1 trouser, 2 pullover, 3 dress,
        4 coat, 5 sandal, 6 shirt, 7 sneaker, 8 bag, 9 ankle boot.

    Raises
    ------
    DatasetError
        A file is not there and cannot be downloaded, or is not the published one; the message
        says where to put it by hand.

    Notes
    -----
    Source: H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST, arXiv:1708.07747; MIT licence.

    Examples
    --------
    >>> from hornfels.datasets import fashion_mnist
    >>> (x_train, y_train), (x_test, y_test) = fashion_mnist.load_data()  # doctest: +SKIP
    """
    parts = {name: _read_idx(fetch(file)) for name, file in _FILES.items()}
    return (
        (parts["train-images-idx3"], parts["train-labels-idx1"]),
        (parts["t10k-images-idx3"], parts["t10k-labels-idx1"]),
    )


def _read_idx(path: Path) -> np.ndarray:
    """An IDX file of bytes: two zero bytes, type 8, the rank, big-endian u32 sizes, the values."""
    with gzip.open(path, "rb") as file:
        content = file.read()
    if content[:3] != b"\x00\x00\x08":
        raise DatasetError(f"fashion_mnist: {path} is no IDX file of unsigned bytes")
    rank = content[3]
    shape = np.frombuffer(content, ">u4", count=rank, offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    return values.reshape(shape).copy()  # a view of the file's bytes would be read-only
