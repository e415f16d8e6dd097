"""Scales of channels become a part of the weights, where these are not trained."""

from __future__ import annotations

import numpy as np
import pytest
from random_graphs import assert_same, random_arrays

from hornfels.ir import Graph, evaluate, parse
from hornfels.passes.absorb import absorb

CONV = ("conv[strides=(1, 1), padding=((1, 1), (1, 1)), input_dilation=(1, 1), "
        "kernel_dilation=(1, 1), groups={groups}]")  # fmt: skip
NORMALIZED = """graph g(%x: f64[2,5,5,{channels}]; %w: f64[3,3,3,6], %b: f64[6], %s: f64[6], %t: f64[6]) {{
  %0: f64[2,5,5,6] = {conv}(%x, %w)
  %1: f64[2,5,5,6] = broadcast[shape=(2, 5, 5, 6), axes=(3,)](%b)
  %2: f64[2,5,5,6] = add(%0, %1)
  %3: f64[2,5,5,6] = broadcast[shape=(2, 5, 5, 6), axes=(3,)](%s)
  %4: f64[2,5,5,6] = mul(%3, %2)
  %5: f64[2,5,5,6] = broadcast[shape=(2, 5, 5, 6), axes=(3,)](%t)
  %6: f64[2,5,5,6] = add(%4, %5)
  %7: f64[2,5,5,6] = mul(%6, %3)
  return {results}
}}"""  # noqa: E501


def normalized(groups: int = 1, results: str = "y=%7") -> Graph:
    conv = CONV.format(groups=groups)
    return parse(NORMALIZED.format(conv=conv, channels=3 * groups, results=results))


def large(graph: Graph) -> list[str]:
    """The ops over arrays of the size of the result, but for broadcasts."""
    size = max(v.type.size for v in graph.outputs)
    return [n.op.name for n in graph.nodes if n.output.type.size == size
            and n.op.name != "broadcast"]  # fmt: skip


def checked(graph: Graph) -> Graph:
    found, arrays = absorb(graph), random_arrays(graph)
    assert_same(evaluate(found, arrays), evaluate(graph, arrays), 1e-12, 1e-12)
    return found


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_normalization_of_a_convolution_is_one_addition(groups):
    assert large(checked(normalized(groups))) == ["conv", "add"]


@pytest.mark.parametrize("transposed", [False, True])
def test_a_scale_of_a_product_is_a_part_of_its_weights(transposed):
    shape = "7,4" if transposed else "4,7"
    found = checked(parse(f"""graph g(%x: f64[3,4]; %w: f64[{shape}], %s: f64[7]) {{
      %0: f64[3,7] = matmul[transpose_b={transposed}](%x, %w)
      %1: f64[3,7] = broadcast[shape=(3, 7), axes=(1,)](%s)
      %2: f64[3,7] = mul(%0, %1)
      return y=%2
    }}"""))  # fmt: skip
    assert large(found) == ["matmul"]


def test_what_others_read_stays():
    graph = normalized(results="y=%7, z=%2")
    found = checked(graph)
    assert large(found) == large(graph)


@pytest.mark.parametrize("updated", ["%w=%9", "%s=%8"])
def test_weights_that_the_step_changes_stay(updated):
    text = str(normalized()).replace(
        "  return y=%7",
        f"""  %8: f64[6] = tanh(%s)
  %9: f64[3,3,3,6] = tanh(%w)
  return y=%7; {updated}""",
    )
    graph = parse(text)
    assert large(checked(graph)) == large(graph) == ["conv", "add", "mul", "add", "mul"]


def test_sixteen_bits_stay():
    graph = parse(str(normalized()).replace("f64", "bf16"))
    assert absorb(graph) is graph


def test_it_is_as_exact_as_what_it_replaces():
    """In f32, against f64, with scales as small variances give them."""
    graph = parse(str(normalized()).replace("f64", "f32"))
    rng = np.random.default_rng(0)
    arrays = {v.name: rng.normal(size=v.shape) for v in graph.parameters}
    arrays["s"] = rng.uniform(0.01, 30, 6)
    exact = evaluate(normalized(), arrays).outputs["y"]
    single = {k: v.astype(np.float32) for k, v in arrays.items()}
    before, after = (evaluate(g, single).outputs["y"] for g in (graph, absorb(graph)))
    error, was = (np.abs(found - exact).max() for found in (after, before))
    assert error <= 2 * was
