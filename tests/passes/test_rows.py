"""Rows: which elements and results a kernel reads, found out exactly."""

from __future__ import annotations

import numpy as np
import pytest

from hornfels.ir import parse
from hornfels.passes.rows import agree, aligned, rows_of


def body(text: str):
    """A graph, and the rows of its first reduction."""
    graph = parse(f"graph g({text}}}")
    rows = rows_of(next(n for n in graph.nodes if n.op.kind == "reduce"))
    assert rows is not None
    return graph, rows


@pytest.mark.parametrize(
    ("shape", "axes", "count", "block"),
    [((6, 4), (1,), 6, 4), ((6, 4), (0,), 4, 24), ((2, 3, 4), (1,), 8, 12),
     ((2, 3, 4, 5), (1, 3), 8, 60), ((2, 3, 4), (0, 1, 2), 1, 24), ((5, 1, 4), (1, 2), 5, 4)],
)  # fmt: skip
def test_which_row_a_position_is_in(shape, axes, count, block):
    dims = ",".join(map(str, shape))
    kept = [d for i, d in enumerate(shape) if i not in axes]
    out = ",".join(map(str, kept))
    _, rows = body(f"""%x: f32[{dims}]) {{
      %0: f32[{out}] = reduce_sum[axes={axes}](%x)
      return y=%0
    """)
    assert (rows.total, rows.count, rows.block) == (np.prod(shape), count, block)
    numbers = np.expand_dims(np.arange(count).reshape(kept), axes)
    expected = np.broadcast_to(numbers, shape).reshape(-1)
    np.testing.assert_array_equal(rows.row_of(np.arange(rows.total)), expected)


def test_rows_of_one_element_are_none():
    graph = parse("""graph g(%x: f32[6,1]) {
      %0: f32[6] = reduce_sum[axes=(1,)](%x)
      return y=%0
    }""")
    assert rows_of(graph.nodes[0]) is None


RESULTS = {
    "the own one": ("%1: f32[6,6] = broadcast[shape=(6, 6), axes=(0,)](%0)", True),
    "one for each column": ("%1: f32[6,6] = broadcast[shape=(6, 6), axes=(1,)](%0)", False),
    "in another order": (
        "%9: f32[6] = reverse[axes=(0,)](%0)\n"
        "%1: f32[6,6] = broadcast[shape=(6, 6), axes=(0,)](%9)",
        False,
    ),
    "through a reshape": (
        "%9: f32[2,3] = reshape[shape=(2, 3)](%0)\n"
        "%8: f32[2,3,6] = broadcast[shape=(2, 3, 6), axes=(0, 1)](%9)\n"
        "%1: f32[6,6] = reshape[shape=(6, 6)](%8)",
        True,
    ),
    "through a reshape across rows": (
        "%9: f32[2,3] = reshape[shape=(2, 3)](%0)\n"
        "%8: f32[2,6,3] = broadcast[shape=(2, 6, 3), axes=(0, 2)](%9)\n"
        "%1: f32[6,6] = reshape[shape=(6, 6)](%8)",
        False,
    ),
    "turned twice": (
        "%9: f32[6,6] = broadcast[shape=(6, 6), axes=(1,)](%0)\n"
        "%1: f32[6,6] = transpose[permutation=(1, 0)](%9)",
        True,
    ),
}


@pytest.mark.parametrize("which", RESULTS)
def test_which_result_is_read(which):
    text, right = RESULTS[which]
    graph, rows = body(f"""%x: f32[6,6]) {{
      %0: f32[6] = reduce_sum[axes=(1,)](%x)
      {text}
      %7: f32[6,6] = sub(%x, %1)
      return y=%7
    """)
    assert agree(graph.outputs, (), rows) == right


def test_reductions_over_other_rows_do_not_agree():
    graph, rows = body("""%x: f32[6,6]) {
      %0: f32[6] = reduce_sum[axes=(1,)](%x)
      %1: f32[6,6] = broadcast[shape=(6, 6), axes=(0,)](%0)
      %2: f32[6,6] = sub(%x, %1)
      %3: f32[6] = reduce_sum[axes=(0,)](%2)
      return y=%3
    """)
    assert not agree(graph.outputs, (), rows)


def test_operands_that_only_their_own_row_reads():
    graph, _ = body("""%x: f32[6,6], %g: f32[6], %r: f32[6], %t: f32[6,6]) {
      %0: f32[6] = reduce_sum[axes=(1,)](%x)
      %1: f32[6] = mul(%0, %r)
      %2: f32[6,6] = broadcast[shape=(6, 6), axes=(0,)](%1)
      %3: f32[6,6] = broadcast[shape=(6, 6), axes=(1,)](%g)
      %4: f32[6,6] = transpose[permutation=(1, 0)](%t)
      %5: f32[6,6] = mul(%2, %3)
      %6: f32[6,6] = sub(%5, %4)
      %7: f32[6,6] = add(%6, %x)
      return y=%7
    """)
    found = {v.name: own for v, own in aligned(graph).items()}
    assert found == {"x": True, "g": False, "r": True, "t": False}
