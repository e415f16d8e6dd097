"""The benchmark of compile time against the size of the graph."""

from __future__ import annotations

import pytest

from hornfels.benchmarks import scale


@pytest.fixture(scope="module")
def measured() -> list[scale.Measured]:
    return [scale.measure_once(blocks) for blocks in ((1, 1, 1, 1), (1, 2, 1, 1))]


def test_another_block_adds_its_nodes_and_calls(measured):
    small, large = measured
    assert (small.blocks, large.blocks) == (4, 5)
    assert large.traced - small.traced == pytest.approx(605, abs=60)  # a block and its update
    assert small.optimized < small.traced
    assert large.calls > small.calls
    assert all(seconds > 0 for seconds in large.seconds.values())


def test_growth_is_the_exponent():
    steps = dict.fromkeys(scale.STEPS, 1.0)
    double = dict.fromkeys(scale.STEPS, 4.0)
    quadratic = [scale.Measured(1, 100, 50, 5, steps), scale.Measured(2, 200, 100, 10, double)]
    assert scale.growth(quadratic, "plan") == pytest.approx(2)


def test_the_page_has_a_row_for_each_graph(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "DEPTHS", ((1, 1, 1, 1), (1, 2, 1, 1)))
    monkeypatch.setattr(scale, "measure", lambda blocks, rounds: measured[sum(blocks) - 4])
    scale.main(["--depths", "2", "--markdown", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text()
    assert f"| 4 | {measured[0].traced} | {measured[0].optimized} |" in page
    assert "(1 is linear)" in page
