"""The embedded handwritten digits of UCI: 1,797 real images of 8x8 pixels."""

from __future__ import annotations

from importlib.resources import files

import numpy as np

from ..ir.errors import ArgumentError

Arrays = tuple[np.ndarray, np.ndarray]


def load_data(test_split: float = 0.2, seed: int = 113) -> tuple[Arrays, Arrays]:
    """Load the digits, shuffled and split in two parts.

    Parameters
    ----------
    test_split
        Fraction of the images in the second part, from 0 to below 1.
    seed
        Seed of the shuffling. The same seed gives the same split on every machine.

    Returns
    -------
    ((x_train, y_train), (x_test, y_test))
        `x`: uint8 of shape `(n, 8, 8)` with values from 0 to 16; `y`: uint8 of shape `(n,)`.

    Raises
    ------
    ArgumentError
        `test_split` is not in `[0, 1)`.

    Notes
    -----
    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
    Learning Repository, 1998, CC BY 4.0; see `digits.LICENSE.md`.

    Examples
    --------
    >>> from hornfels.datasets import digits
    >>> (x_train, y_train), (x_test, y_test) = digits.load_data()
    >>> x_train.shape, x_test.shape
    ((1438, 8, 8), (359, 8, 8))
    """
    if not 0 <= test_split < 1:
        raise ArgumentError(f"digits: test_split must be in [0, 1), got {test_split}")
    with (files(__package__) / "digits.npz").open("rb") as file, np.load(file) as stored:
        x, y = stored["x"], stored["y"]
    # The legacy generator's stream is frozen, so a split never changes with NumPy's version.
    order = np.random.RandomState(seed).permutation(len(x))
    first = round(len(x) * (1 - test_split))
    train, test = order[:first], order[first:]
    return (x[train], y[train]), (x[test], y[test])
