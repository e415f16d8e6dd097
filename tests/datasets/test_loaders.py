"""The loaders' signatures and formats, on small files of the published forms."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import inspect
import io
import pickle
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hornfels.datasets import DatasetError, cifar10, fashion_mnist, mnist
from hornfels.datasets._download import RemoteFile


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Make made-up bytes the published file: its address, its SHA-256."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))

    def publish(remote: RemoteFile, content: bytes) -> RemoteFile:
        source = tmp_path / "published" / Path(remote.url).name
        source.parent.mkdir(exist_ok=True)
        source.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        return replace(remote, url=source.as_uri(), sha256=sha256)

    return publish


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_signatures_are_those_of_keras(name):
    pytest.importorskip("keras")
    theirs = importlib.import_module(f"keras.datasets.{name}").load_data
    ours = importlib.import_module(f"hornfels.datasets.{name}").load_data
    parameters = [
        [(p.name, p.default) for p in inspect.signature(f).parameters.values()]
        for f in (ours, theirs)
    ]
    assert parameters[0] == parameters[1]


@pytest.mark.parametrize(
    ("remotes", "source"),
    [
        ([mnist._FILE], "keras.src.datasets.mnist"),
        ([cifar10._FILE], "keras.src.datasets.cifar10"),
        (list(fashion_mnist._FILES.values()), "keras.src.datasets.fashion_mnist"),
    ],
    ids=["mnist", "cifar10", "fashion_mnist"],
)
def test_addresses_and_hashes_are_those_of_keras(remotes, source):
    pytest.importorskip("keras")
    text = inspect.getsource(importlib.import_module(source))
    for remote in remotes:
        folder, name = remote.url.rsplit("/", 1)
        assert folder in text
        assert name in text
        assert remote.sha256 in text or "file_hash" not in text  # Keras has none for fashion_mnist


def test_mnist(publish, monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (6, 28, 28), np.uint8),
        "y_train": rng.integers(0, 10, 6).astype(np.uint8),
        "x_test": rng.integers(0, 256, (2, 28, 28), np.uint8),
        "y_test": rng.integers(0, 10, 2).astype(np.uint8),
    }
    stored = io.BytesIO()
    np.savez(stored, **arrays)
    monkeypatch.setattr(mnist, "_FILE", publish(mnist._FILE, stored.getvalue()))

    (x_train, y_train), (x_test, y_test) = mnist.load_data(path="other.npz")

    loaded = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    for name, expected in arrays.items():
        np.testing.assert_array_equal(loaded[name], expected, strict=True)
    assert (tmp_path / "keras" / "datasets" / "other.npz").is_file()


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes())


def test_fashion_mnist(publish, monkeypatch, tmp_path):
    rng = np.random.default_rng(1)
    arrays = {
        "train-images-idx3": rng.integers(0, 256, (5, 28, 28), np.uint8),
        "train-labels-idx1": rng.integers(0, 10, 5).astype(np.uint8),
        "t10k-images-idx3": rng.integers(0, 256, (3, 28, 28), np.uint8),
        "t10k-labels-idx1": rng.integers(0, 10, 3).astype(np.uint8),
    }
    files = {k: publish(fashion_mnist._FILES[k], idx(v)) for k, v in arrays.items()}
    monkeypatch.setattr(fashion_mnist, "_FILES", files)

    (x_train, y_train), (x_test, y_test) = fashion_mnist.load_data()

    for loaded, expected in zip((x_train, y_train, x_test, y_test), arrays.values(), strict=True):
        np.testing.assert_array_equal(loaded, expected, strict=True)
        assert loaded.flags.writeable
    folder = tmp_path / "keras" / "datasets" / "fashion-mnist"
    assert sorted(p.name for p in folder.iterdir()) == sorted(f"{k}-ubyte.gz" for k in arrays)


def test_a_file_that_is_no_idx_is_refused(publish, monkeypatch):
    files = {k: publish(v, gzip.compress(b"text")) for k, v in fashion_mnist._FILES.items()}
    monkeypatch.setattr(fashion_mnist, "_FILES", files)
    with pytest.raises(DatasetError, match="is no IDX file of unsigned bytes"):
        fashion_mnist.load_data()


def python2_batch(images: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2 and the NumPy of 2009 pickled it: byte strings, flags as ints."""

    def string(text: bytes) -> bytes:
        return b"T" + struct.pack("<I", len(text)) + text

    def ints(values) -> bytes:
        return b"".join(b"J" + struct.pack("<i", v) for v in values)

    dtype = (
        b"cnumpy\ndtype\n(" + string(b"u1") + ints((0, 1)) + b"tR"
        b"(" + ints((3,)) + string(b"|") + b"NNN" + ints((-1, -1, 0)) + b"tb"
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + ints((0,)) + b"t"
        + string(b"b") + b"tR(" + ints((1,)) + b"(" + ints(images.shape) + b"t" + dtype
        + b"I00\n" + string(images.tobytes()) + b"tb"
    )  # fmt: skip
    items = string(b"data") + array + string(b"labels") + b"](" + ints(labels) + b"e"
    return b"\x80\x02}(" + items + b"u."


def archive_of(batches: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in batches.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def cifar_batches() -> dict[str, tuple[np.ndarray, list[int]]]:
    rng = np.random.default_rng(2)
    # The archive's own order is not that of the batches.
    names = (
        "readme.html",
        "data_batch_4",
        "test_batch",
        *(f"data_batch_{i}" for i in (3, 2, 5, 1)),
    )
    return {
        name: (rng.integers(0, 256, (2, 3072), np.uint8), rng.integers(0, 10, 2).tolist())
        for name in names
    }


def test_cifar10(publish, monkeypatch, cifar_batches):
    content = archive_of({k: python2_batch(*v) for k, v in cifar_batches.items()})
    monkeypatch.setattr(cifar10, "_FILE", publish(cifar10._FILE, content))

    (x_train, y_train), (x_test, y_test) = cifar10.load_data()

    assert x_train.shape == (10, 32, 32, 3)
    assert (x_train.dtype, y_train.dtype) == (np.uint8, np.uint8)
    images, labels = cifar_batches["data_batch_2"]
    red_of_second_row = images[1, 32:64]
    np.testing.assert_array_equal(x_train[3, 1, :, 0], red_of_second_row)
    blue_of_first_row = images[1, 2048:2080]
    np.testing.assert_array_equal(x_train[3, 0, :, 2], blue_of_first_row)
    assert y_train[2:4].tolist() == [[labels[0]], [labels[1]]]
    assert y_test.ravel().tolist() == cifar_batches["test_batch"][1]
    assert x_test.shape == (2, 32, 32, 3)


def test_the_made_up_batch_is_a_real_pickle(cifar_batches):
    images, labels = cifar_batches["test_batch"]
    content = pickle.loads(python2_batch(images, labels), encoding="bytes")
    np.testing.assert_array_equal(content[b"data"], images)
    assert content[b"labels"] == labels


def test_cifar10_lacking_a_batch_is_refused(publish, monkeypatch, cifar_batches):
    del cifar_batches["data_batch_3"]
    content = archive_of({k: python2_batch(*v) for k, v in cifar_batches.items()})
    monkeypatch.setattr(cifar10, "_FILE", publish(cifar10._FILE, content))
    with pytest.raises(DatasetError, match="the archive lacks data_batch_3"):
        cifar10.load_data()


def test_cifar10_runs_no_code_of_a_pickle(publish, monkeypatch, tmp_path):
    proof = tmp_path / "ran"
    evil = b"cos\nsystem\n(S'touch " + str(proof).encode() + b"'\ntR."
    monkeypatch.setattr(
        cifar10, "_FILE", publish(cifar10._FILE, archive_of({"data_batch_1": evil}))
    )
    with pytest.raises(pickle.UnpicklingError, match=r"os\.system in a data file"):
        cifar10.load_data()
    assert not proof.exists()
