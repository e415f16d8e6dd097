"""Fetching: a server on this machine, good and bad files, and what is left behind."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from hornfels.datasets import DatasetError
from hornfels.datasets._download import RemoteFile, dataset_folder, fetch

CONTENT = b"horn and stone " * 100_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """`/whole` sends the content, `/cut` breaks off half way, anything else is not there."""

    requests: ClassVar[Counter[str]] = Counter()

    def do_GET(self):
        self.requests[self.path] += 1
        if self.path not in ("/whole", "/cut"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT if self.path == "/whole" else CONTENT[: len(CONTENT) // 2])

    def log_message(self, *_):
        """Nothing: the test's output is no server log."""


@pytest.fixture
def server() -> Iterator[str]:
    Handler.requests.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras" / "datasets"


def files_in(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_the_folder_is_that_of_keras(monkeypatch):
    monkeypatch.delenv("KERAS_HOME", raising=False)
    assert dataset_folder() == Path.home() / ".keras" / "datasets"


def test_a_good_file_is_stored_once_and_used_again(server, folder, capsys):
    remote = RemoteFile(f"{server}/whole", SHA256, "sub/data.bin")
    path = fetch(remote)
    assert path == folder / "sub" / "data.bin"
    assert path.read_bytes() == CONTENT
    assert fetch(remote) == path
    assert Handler.requests == {"/whole": 1}
    assert files_in(folder) == {"sub/data.bin"}
    assert f"Downloading {server}/whole" in capsys.readouterr().err


def test_a_file_url_works(tmp_path, folder):
    source = tmp_path / "source.bin"
    source.write_bytes(CONTENT)
    assert fetch(RemoteFile(source.as_uri(), SHA256, "data.bin")).read_bytes() == CONTENT


def test_an_absolute_path_stands_for_itself(server, folder, tmp_path):
    target = tmp_path / "elsewhere" / "data.bin"
    assert fetch(RemoteFile(f"{server}/whole", SHA256, str(target))) == target
    assert not folder.exists()


def test_another_name_that_keras_uses_is_found(server, folder):
    folder.mkdir(parents=True)
    (folder / "keras_name").write_bytes(CONTENT)
    remote = RemoteFile(f"{server}/whole", SHA256, "data.bin", other_names=("keras_name",))
    assert fetch(remote) == folder / "keras_name"
    assert Handler.requests == {}


def test_a_wrong_hash_leaves_nothing(server, folder):
    with pytest.raises(DatasetError, match=f"its SHA-256 is {SHA256}, expected {'0' * 64}"):
        fetch(RemoteFile(f"{server}/whole", "0" * 64, "data.bin"))
    assert files_in(folder) == set()


def test_an_interrupted_download_leaves_nothing(server, folder):
    with pytest.raises(DatasetError, match=r"failed: .*(750000 of 1500000|IncompleteRead)"):
        fetch(RemoteFile(f"{server}/cut", SHA256, "data.bin"))
    assert files_in(folder) == set()


def test_control_c_leaves_nothing(server, folder, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("hornfels.datasets._download.Progress.update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(RemoteFile(f"{server}/whole", SHA256, "data.bin"))
    assert files_in(folder) == set()


def test_a_damaged_file_is_replaced(server, folder):
    folder.mkdir(parents=True)
    (folder / "data.bin").write_bytes(b"damaged")
    path = fetch(RemoteFile(f"{server}/whole", SHA256, "data.bin"))
    assert path.read_bytes() == CONTENT
    assert files_in(folder) == {"data.bin"}


def test_a_damaged_file_stays_and_is_named_when_there_is_no_other(server, folder):
    folder.mkdir(parents=True)
    (folder / "data.bin").write_bytes(b"damaged")
    with pytest.raises(DatasetError, match=r"data\.bin is not the published file, and .* 404"):
        fetch(RemoteFile(f"{server}/gone", SHA256, "data.bin"))
    assert (folder / "data.bin").read_bytes() == b"damaged"


def test_offline_says_what_to_put_where(folder):
    url = "http://127.0.0.1:9/data.bin"  # the discard port: nothing listens there
    with pytest.raises(DatasetError) as caught:
        fetch(RemoteFile(url, SHA256, "data.bin"))
    message = str(caught.value)
    assert isinstance(caught.value, OSError)
    assert f"{folder / 'data.bin'} does not exist" in message
    assert "ConnectionRefusedError" in message
    assert f"hint: fetch {url} on a machine that can reach it" in message
    assert f"SHA-256 is {SHA256}, and put it at {folder / 'data.bin'}" in message
    assert files_in(folder) == set()
