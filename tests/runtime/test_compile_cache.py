"""The compile cache: what it returns is what was put there, or nothing; who shares it, and keys."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import hornfels
from hornfels import layers
from hornfels.__main__ import main
from hornfels.codegen.native.program import NativeCode
from hornfels.ir import Builder, evaluate
from hornfels.ir.digest import digest
from hornfels.ir.settings import settings
from hornfels.ir.types import f32, symbol
from hornfels.runtime import cache_key as keys
from hornfels.runtime import compile_cache, tvm_backend
from hornfels.runtime.cache_key import cache_key
from hornfels.runtime.compile_cache import Compilation, CompileCache, current_cache, folder_of
from hornfels.runtime.tvm_backend import TvmBackend

LARGE = 1 << 20
CONSTANTS = (
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.array([1.5, -0.0, np.nan], ml_dtypes.bfloat16),
    np.array([[True], [False]]),
    np.zeros((0, 4), np.float64),
    np.array(-7, np.int64),
)
PROGRAM = Compilation(NativeCode((b"\x7fELF\n{}\x00", b"", b"\xff" * 9), 11, 2), 4096, CONSTANTS)


@pytest.fixture
def cache(tmp_path):
    return CompileCache(tmp_path / "kept", LARGE)


@pytest.fixture
def cached(tmp_path):
    """Settings under which programs are kept in a folder of the test's own."""
    with settings(cache_dir=str(tmp_path / "kept"), cache_size=LARGE, contracts=False):
        yield current_cache()


def scaled(factor: float = 2.0, rows: int = 3):
    with Builder("scaled") as b:
        x, w = b.input("x", f32(rows, 4)), b.variable("w", f32(4))
        table = np.arange(4 * rows, dtype=np.float32).reshape(rows, 4) ** 2
        return b.finish({"y": x * factor + table}, [(w, w + x.sum(0))])


def run(backend, graph):
    state = backend.state()
    state.write("w", np.ones(4, np.float32))
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    outputs = backend.compile(graph)(state, {"x": x})
    expected = evaluate(graph, {"x": x, "w": np.ones(4, np.float32)})
    np.testing.assert_allclose(outputs["y"], expected.outputs["y"], rtol=1e-6)
    np.testing.assert_allclose(state.read("w"), expected.updates["w"], rtol=1e-6)
    return outputs["y"], state.read("w")


# --- files -----------------------------------------------------------------------------------


def test_a_program_comes_back_as_it_was(cache):
    assert cache.get("key") is None
    cache.put("key", PROGRAM)
    found = cache.get("key")
    assert found is not None
    assert found.code == PROGRAM.code
    assert found.arena_bytes == PROGRAM.arena_bytes
    for array, expected in zip(found.constants, CONSTANTS, strict=True):
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        assert array.tobytes() == expected.tobytes()
    (entry,) = cache.entries()
    assert entry.path.stat().st_mode & 0o777 == 0o600


def test_no_part_of_a_damaged_file_is_believed(cache):
    cache.put("key", PROGRAM)
    (entry,) = cache.entries()
    whole = entry.path.read_bytes()
    for i in range(len(whole)):
        entry.path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        assert cache.get("key") is None, i
        assert not entry.path.exists(), "it is removed"
    for length in range(len(whole)):
        entry.path.write_bytes(whole[:length])
        assert cache.get("key") is None, length
    entry.path.write_bytes(whole + b"\x00")
    assert cache.get("key") is None


def test_a_file_under_the_name_of_another_is_not_taken(cache):
    cache.put("one", PROGRAM)
    (entry,) = cache.entries()
    entry.path.rename(entry.path.with_stem("other"))
    assert cache.get("other") is None


def test_what_others_may_write_is_not_executed(cache, caplog):
    cache.put("key", PROGRAM)
    (entry,) = cache.entries()
    entry.path.chmod(0o620)
    assert cache.get("key") is None
    assert "others may write it" in caplog.text


def test_what_was_not_used_for_the_longest_time_goes_first(cache):
    for i, key in enumerate(("a", "b", "c")):
        cache.put(key, PROGRAM)
        os.utime(cache._path(key), (i, i))
    assert cache.get("a"), "now used later than b"
    size = cache.entries()[0].nbytes
    small = CompileCache(cache.folder, 3 * size)
    small.put("d", PROGRAM)
    assert {e.path.stem for e in cache.entries()} == {"a", "c", "d"}
    CompileCache(cache.folder, size - 1).put("e", PROGRAM)
    assert len(cache.entries()) == 3, "what is larger than the whole cache is not kept"


def test_what_a_killed_writer_left_is_removed(cache):
    cache.put("a", PROGRAM)
    left, fresh = cache.folder / "x.program.1.2.partial", cache.folder / "y.program.1.2.partial"
    left.write_bytes(b"half")
    fresh.write_bytes(b"half")
    os.utime(left, (1, 1))
    cache.put("b", PROGRAM)
    assert not left.exists()
    assert fresh.exists()


def test_a_folder_that_cannot_be_is_no_error(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(compile_cache, "_told", set())
    (tmp_path / "file").write_text("")
    cache = CompileCache(tmp_path / "file" / "kept", LARGE)
    with caplog.at_level(logging.WARNING, "hornfels.cache"):
        for _ in range(2):
            cache.put("key", PROGRAM)
            assert cache.get("key") is None
    assert cache.entries() == []
    assert sum("cannot be written" in line for line in caplog.messages) == 1


def test_a_full_disk_is_no_error(cache, caplog, monkeypatch):
    def full(self, contents):
        with self.open("wb") as file:
            file.write(contents[: len(contents) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(compile_cache, "_told", set())
    monkeypatch.setattr(Path, "write_bytes", full)
    cache.put("key", PROGRAM)
    assert list(cache.folder.iterdir()) == []
    assert "No space left" in caplog.text


# --- the backend -----------------------------------------------------------------------------


def test_warm_results_are_those_of_cold(cached):
    backend = TvmBackend()
    cold = run(backend, scaled())
    assert len(cached.entries()) == 1
    warm = run(backend, scaled())
    assert len(cached.entries()) == 1
    for one, other in zip(cold, warm, strict=True):
        assert one.tobytes() == other.tobytes()
    executable = backend.compile(scaled())
    assert executable.graph.named("x").type == f32(3, 4)
    assert executable.peak_bytes >= executable.plan.arena_bytes


def test_sizes_are_part_of_the_key_and_of_the_program(cached):
    with Builder("open") as b:
        graph = b.finish({"y": b.input("x", f32(symbol("N"), 3)) + 1.0})
    backend = TvmBackend()
    for rows in (2, 5, 2):
        x = np.ones((rows, 3), np.float32)
        (y,) = backend.compile(graph, {"N": rows})(backend.state(), {"x": x}).values()
        np.testing.assert_array_equal(y, x + 1)
    assert len(cached.entries()) == 2


def test_a_damaged_program_is_compiled_again_and_never_loaded(cached, monkeypatch):
    run(TvmBackend(), scaled())
    (entry,) = cached.entries()
    whole = bytearray(entry.path.read_bytes())
    whole[len(whole) // 2] ^= 0x10
    entry.path.write_bytes(whole)
    monkeypatch.setattr(tvm_backend, "load", lambda code: pytest.fail("it is loaded"))
    run(TvmBackend(), scaled())
    assert cached.entries()[0].nbytes == len(whole)
    monkeypatch.undo()
    run(TvmBackend(), scaled())


@pytest.mark.parametrize("changes", [
    {"cache_size": 0}, {"debug": "passes"}, {"contracts": True}, {"dump": "ir"},
])  # fmt: skip
def test_who_wants_to_see_a_compilation_gets_one(cached, changes):
    with settings(**changes):
        assert current_cache() is None


def test_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with settings(cache_dir="") as found:
        assert folder_of(found) == tmp_path / "hornfels"
    with settings(cache_dir="elsewhere") as found:
        assert folder_of(found) == Path("elsewhere")


# --- keys ------------------------------------------------------------------------------------


def test_keys_of_what_compiles_to_the_same_are_equal():
    with Builder("renamed") as b:
        x, w = b.input("a", f32(3, 4)), b.variable("b", f32(4))
        with b.scope("layer"):
            y = x * 2.0 + np.arange(12, dtype=np.float32).reshape(3, 4) ** 2
        renamed = b.finish({"c": y}, [(w, w + x.sum(0))])
    plain = cache_key(scaled(), {}, "cpu")
    assert cache_key(renamed, {}, "cpu") == plain
    with settings(num_threads=7, cache_size="5M", contracts=False):
        assert cache_key(scaled(), {}, "cpu") == plain


def test_keys_of_what_does_not_differ():
    found = [
        cache_key(scaled(), {}, "cpu"),
        cache_key(scaled(3.0), {}, "cpu"),
        cache_key(scaled(rows=2), {}, "cpu"),
        cache_key(scaled(), {"N": 3}, "cpu"),
        cache_key(scaled(), {}, "cpu -num-cores=3"),
    ]
    for change in ({"passes": "none"}, {"denormals": "keep"}, {"rewrite_limit": 1}):
        with settings(**change):
            found.append(cache_key(scaled(), {}, "cpu"))
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(("what", "value"), [
    ("FORMAT", 99), ("host_text", lambda: "another processor"), ("_foundations", lambda: "tvm 9"),
    ("_sources", lambda: "edited"),
])  # fmt: skip
def test_another_machine_version_or_format_has_another_key(monkeypatch, what, value):
    plain = cache_key(scaled(), {}, "cpu")
    monkeypatch.setattr(keys, what, value)
    assert cache_key(scaled(), {}, "cpu") != plain


def test_an_edited_source_is_seen(monkeypatch, tmp_path):
    for room in ("ir", "passes", "codegen", "runtime"):
        (tmp_path / room).mkdir()
    (tmp_path / "passes" / "cse.py").write_text("x = 1\n")
    monkeypatch.setattr(keys, "_ROOT", tmp_path)
    before = keys._sources.__wrapped__()
    (tmp_path / "passes" / "cse.py").write_text("x = 2\n")
    assert keys._sources.__wrapped__() != before
    assert any(path.name == "pipeline.py" for path in _package_sources(monkeypatch))


def _package_sources(monkeypatch):
    monkeypatch.undo()
    return list(keys._source_files())


def test_the_installed_tvm_is_part_of_the_key():
    assert "libtvm_compiler" in keys._foundations()


def test_a_model_has_the_same_digest_each_time():
    """Whatever order Python's sets are in, which is another in every process."""
    types = {"x": f32(symbol("N"), 5, 3), "y": f32(symbol("N"), 2)}
    made, found = [], set()
    for _ in range(8):
        model = hornfels.Sequential([layers.Input((5, 3)), layers.LSTM(4), layers.Dense(2)])
        model.compile("adam", "mse")
        made.append(model.trace("train", types)[0])  # kept, so that the next one lies elsewhere
        found.add(digest(made[-1]))
    assert len(found) == 1


# --- processes -------------------------------------------------------------------------------

TRAIN = """
import hashlib, json, sys, time
import numpy as np
import hornfels as hf
from hornfels import layers
hf.utils.set_random_seed(3)
model = hf.Sequential([layers.Input((6,)), layers.Dense(5, activation="relu"), layers.Dropout(0.5),
                       layers.Dense(3, activation="softmax")])
model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
fast = hf.compile(model)
x = np.linspace(-1, 1, 48, dtype=np.float32).reshape(8, 6)
y = np.eye(3, dtype=np.float32)[np.arange(8) % 3]
time.sleep(max(0, float(sys.argv[1]) - time.time()))
logs = [fast.train_on_batch(x, y) for _ in range(3)]
weights = b"".join(w.tobytes() for w in model.get_weights()) + fast.predict_on_batch(x).tobytes()
imported = [name in sys.modules for name in ("tvm", "hornfels.passes")]
print(json.dumps([logs, hashlib.sha256(weights).hexdigest(), imported]))
"""


def start(folder, moment=0.0):
    environment = {
        **os.environ, "HORNFELS_CACHE_DIR": str(folder), "HORNFELS_CACHE_SIZE": "1M",
        "HORNFELS_CONTRACTS": "0",
    }  # fmt: skip
    return subprocess.Popen([sys.executable, "-P", "-c", TRAIN, str(moment)], env=environment,
                            stdout=subprocess.PIPE, text=True, cwd=folder.parent)  # fmt: skip


def result(process):
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    return json.loads(output)


def test_processes_share_the_cache_and_a_warm_start_needs_neither_tvm_nor_passes(tmp_path):
    folder = tmp_path / "kept"
    both = [start(folder, time.time() + 2) for _ in range(2)]
    (*first, imported), (*second, _) = map(result, both)
    assert imported == [True, True]
    assert first == second
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 2
    assert all(name.endswith(".program") for name in names), "train and predict, nothing else"
    *third, imported = result(start(folder))
    assert third == first
    assert imported == [False, False]


# --- the command -----------------------------------------------------------------------------


def test_the_command_shows_and_clears(cached, capsys):
    cached.put("key", PROGRAM)
    assert main(["cache"]) == 0
    shown = capsys.readouterr().out
    assert str(cached.folder) in shown
    assert "programs 1" in shown
    assert "of at most 1 MiB" in shown
    assert main(["cache", "clear"]) == 0
    assert "removed 1 programs" in capsys.readouterr().out
    assert cached.entries() == []
    assert main(["cache"]) == 0
    assert "programs 0" in capsys.readouterr().out
