"""fold: constants are computed, and do not grow."""

from __future__ import annotations

import numpy as np
import pytest
from random_graphs import assert_same, random_arrays

from hornfels.ir import evaluate, parse, verify
from hornfels.passes.fold import Fold

TABLE = "dense<f32[3]: 1.0 2.0 4.0>"


def folded(text: str, **options):
    graph = parse(text)
    after = verify(Fold(**options).run(graph))
    arrays = random_arrays(graph)
    assert_same(evaluate(after, arrays), evaluate(graph, arrays), 1e-6, 0)
    return after


def ops(graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


def test_a_chain_of_constants_becomes_one():
    graph = folded(f"""graph g(%x: f32[3]) {{
      %0: f32[3] = constant[value={TABLE}]()
      %1: f32[3] = sqrt(%0)
      %2: f32[3] = mul(%1, %1)
      %3: f32[3] = add(%x, %2)
      return y=%3
    }}""")
    assert ops(graph) == ["constant", "add"]
    np.testing.assert_allclose(graph.nodes[0].attrs["value"], [1, 2, 4], rtol=1e-6)


def test_numbers_stay_scalars_however_large_their_shape():
    graph = folded("""graph g(%x: f32[1000,1000]) {
      %0: f32[] = constant[value=dense<f32[]: 2.0>]()
      %1: f32[1000,1000] = broadcast[shape=(1000, 1000), axes=()](%0)
      %2: f32[1000,1000] = exp(%1)
      %3: f32[1000,1000] = mul(%1, %2)
      %4: f32[1000,1000] = add(%x, %3)
      return y=%4
    }""")
    assert ops(graph) == ["constant", "broadcast", "add"]
    assert graph.nodes[0].output.shape == ()


def test_an_array_of_one_number_is_written_as_a_scalar():
    graph = folded("""graph g(%x: f32[2,2]) {
      %0: f32[2,2] = constant[value=dense<f32[2,2]: 3.0 3.0 3.0 3.0>]()
      %1: f32[2,2] = add(%x, %0)
      return y=%1
    }""")
    assert ops(graph) == ["constant", "broadcast", "add"]


def test_zeros_of_both_signs_are_not_one_number():
    graph = folded("""graph g(%x: f32[2]) {
      %0: f32[2] = constant[value=dense<f32[2]: 0.0 -0.0>]()
      %1: f32[2] = div(%x, %0)
      return y=%1
    }""")
    assert ops(graph) == ["constant", "div"]


@pytest.mark.parametrize(("elements", "left"), [(12, ["constant", "add"]),
                                               (11, ["constant", "matmul", "add"])])  # fmt: skip
def test_the_size_of_a_result_is_bounded(elements, left):
    # a column of 4 times a row of 3: 12 elements from 4 + 4 = 8
    column = "dense<f32[4,1]: 1.0 2.0 4.0 8.0>"
    graph = folded(f"""graph g(%x: f32[4,4]) {{
      %0: f32[4,1] = constant[value={column}]()
      %1: f32[4,4] = matmul[transpose_a=False, transpose_b=True](%0, %0)
      %2: f32[4,4] = add(%x, %1)
      return y=%2
    }}""", elements=elements + 4)  # fmt: skip
    assert ops(graph) == left


def test_a_broadcast_of_a_table_is_not_written_out():
    text = f"""graph g(%x: f32[4,3]) {{
      %0: f32[3] = constant[value={TABLE}]()
      %1: f32[4,3] = broadcast[shape=(4, 3), axes=(1,)](%0)
      %2: f32[4,3] = add(%x, %1)
      return y=%2
    }}"""
    assert ops(folded(text)) == ["constant", "broadcast", "add"]


def test_random_bits_of_a_constant_key_are_drawn_at_run_time():
    graph = folded("""graph g() {
      %0: u32[2] = constant[value=dense<u32[2]: 1 2>]()
      %1: u32[2] = rng_bits[shape=(2,)](%0)
      return y=%1
    }""")
    assert ops(graph) == ["constant", "rng_bits"]


def test_what_has_a_symbolic_size_is_left():
    text = """graph g(%x: f32[N]) {
      %0: f32[] = constant[value=dense<f32[]: 2.0>]()
      %1: f32[N] = broadcast[shape=(N,), axes=()](%0)
      %2: f32[N] = exp(%1)
      %3: f32[N] = add(%x, %2)
      return y=%3
    }"""
    graph = parse(text)
    after = verify(Fold().run(graph))
    arrays = {"x": np.ones(3, np.float32)}
    assert_same(evaluate(after, arrays), evaluate(graph, arrays), 1e-6, 0)
