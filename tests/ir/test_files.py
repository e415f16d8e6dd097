"""Files are replaced as a whole, and refusals name the file that was asked for."""

from __future__ import annotations

import pytest

from hornfels.ir.errors import FileError
from hornfels.ir.files import replacing, writing


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_file_takes_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as part:
        part.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert names(path.parent) == ["a.txt"]


def write(path, text, error=None):
    with replacing(path) as part:
        part.write_text(text)
        if error:
            raise error


def test_a_failure_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "a.txt"
    write(path, "old")
    with pytest.raises(KeyError):
        write(path, "half", KeyError())
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_refusals_name_the_path(tmp_path):
    write(tmp_path / "file", "")
    with pytest.raises(FileError, match=r"file/a\.txt cannot be written: ") as refusal:
        write(tmp_path / "file" / "a.txt", "")
    assert isinstance(refusal.value, OSError)
    with pytest.raises(FileError, match="cannot be written: Is a directory"):
        write(tmp_path, "")
    with pytest.raises(FileError, match="cannot be written: no space left"), writing("a.csv"):
        raise OSError("no space left")
