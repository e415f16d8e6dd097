"""Settings: where they come from, and that wrong ones are refused with the legal list."""

from __future__ import annotations

import pytest

from hornfels.ir.errors import ArgumentError
from hornfels.ir.settings import current_settings, report, settings


def test_defaults(monkeypatch):
    for name in ("DEBUG", "DUMP", "STOP_AFTER", "REWRITE_LIMIT"):
        monkeypatch.delenv(f"HORNFELS_{name}", raising=False)
    found = current_settings()
    assert (found.debug, found.dump, found.rewrite_limit) == (frozenset(), "", None)


def test_environment(monkeypatch):
    monkeypatch.setenv("HORNFELS_DEBUG", "passes, memory")
    monkeypatch.setenv("HORNFELS_REWRITE_LIMIT", "7")
    found = current_settings()
    assert found.debug == {"passes", "memory"}
    assert found.rewrite_limit == 7


def test_with_block_nests_and_ends():
    with settings(debug="rules") as outer, settings(dump="x") as inner:
        assert outer.debug == inner.debug == {"rules"}
        assert inner.dump == "x"
        assert current_settings() == inner
    assert current_settings().dump == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"debugg": "passes"}, "'debugg' is no setting; there are debug, dump, passes, stop_after"),
        ({"debug": "pass"}, "'pass' is no topic; there are passes, rules, kernels, memory"),
        ({"rewrite_limit": "many"}, "rewrite_limit: must be a number of rewrites"),
        ({"rewrite_limit": -1}, "0 or more, got -1"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(ArgumentError, match=message), settings(**changes):
        pass


def test_wrong_environment_is_refused(monkeypatch):
    monkeypatch.setenv("HORNFELS_DEBUG", "everything")
    with pytest.raises(ArgumentError, match="HORNFELS_DEBUG: 'everything' is no topic"):
        current_settings()
    monkeypatch.setenv("HORNFELS_DEBUG", "")
    monkeypatch.setenv("HORNFELS_NUM_THREADS", "none")
    with pytest.raises(ArgumentError, match="must be a number of threads, 1 or more, got 'none'"):
        current_settings()
    monkeypatch.delenv("HORNFELS_NUM_THREADS")
    monkeypatch.setenv("HORNFELS_DUMPS", "folder")
    with pytest.raises(ArgumentError, match=r"HORNFELS_DUMPS is no setting; .* HORNFELS_DUMP, "):
        current_settings()


class Unprintable:
    def __str__(self) -> str:
        raise AssertionError("the text is made though nobody wants it")


def test_report_prints_what_is_asked_for(capsys):
    with settings(debug=["memory"]):
        report("memory", "a\nb", 3)
        report("rules", Unprintable())
    assert capsys.readouterr().err == "[memory] a\n[memory] b\n[memory] 3\n"
