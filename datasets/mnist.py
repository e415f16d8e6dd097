"""MNIST: 70,000 images of handwritten digits, 28x28 pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ._download import RemoteFile, fetch

_FILE = RemoteFile(
    url="https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
    sha256="731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
    path="mnist.npz",
)

Arrays = tuple[np.ndarray, np.ndarray]


def load_data(path: str = "mnist.npz") -> tuple[Arrays, Arrays]:
    """Load MNIST, from the Keras cache folder or, the first time, from the internet.

    Parameters
    ----------
    path
        Where to keep the file, relative to `~/.keras/datasets` (or `$KERAS_HOME/datasets`).

    Returns
    -------
    ((x_train, y_train), (x_test, y_test))
        `x`: uint8 of shape `(60000, 28, 28)` and `(10000, 28, 28)`, values from 0 to 255; `y`:
        uint8 of shape `(60000,)` and `(10000,)`, values from 0 to 9.

    Raises
    ------
    DatasetError
        The file is not there and cannot be downloaded, or is not the published one; the message
        says where to put it by hand.

    Notes
    -----
    Source: Y. LeCun, C. Cortes and C. Burges, The MNIST Database of Handwritten Digits; CC BY-SA
    3.0. The file is the one that Keras' loader uses.

    Examples
    --------
    >>> from hornfels.datasets import mnist
    >>> (x_train, y_train), (x_test, y_test) = mnist.load_data()  # doctest: +SKIP
    """
    with np.load(fetch(replace(_FILE, path=path)), allow_pickle=False) as stored:
        return (
            (stored["x_train"], stored["y_train"]),
            (stored["x_test"], stored["y_test"]),
        )
