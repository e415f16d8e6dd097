"""Reduction kernels: every arrangement of kept and reduced axes, against the oracle."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from native import TARGET, is_parallel
from native_graph import arrays_for, check_graph, compiled, only_kernel

from hornfels.codegen.tvm.lower import lower_kernel
from hornfels.ir import Builder, Graph, sugar
from hornfels.ir.op import get
from hornfels.ir.types import bf16, boolean, f16, f32, f64, i8, i32, u8

AXES = [a for n in (1, 2, 3) for a in itertools.combinations(range(3), n)]
NUMBERS = ["reduce_sum", "reduce_prod", "reduce_max", "reduce_min"]


def reduced(name: str, x, axes) -> Graph:
    with Builder(name) as b:
        return b.finish({"y": get(name)(b.input("x", x), axes=axes)})


@pytest.mark.parametrize("axes", AXES)
def test_all_axes_and_awkward_sizes(axes):
    with Builder("sums") as b:
        outputs = {}
        for shape in [(3, 4, 5), (1, 1, 1), (2, 33, 17), (65, 1, 3), (5, 7, 130)]:
            x = b.input("x" + "_".join(map(str, shape)), f32(*shape))
            for name in ("reduce_sum", "reduce_max"):
                outputs[f"{name}{shape}"] = get(name)(x, axes=axes)
        graph = b.finish(outputs)
    check_graph(graph, arrays_for(graph), factor=4)


@pytest.mark.parametrize("dtype", [f64, f16, bf16, i32, i8, u8])
def test_dtypes(dtype):
    with Builder("dtypes") as b:
        x = b.input("x", dtype(6, 37))
        graph = b.finish({f"{n}{a}": get(n)(x, axes=(a,)) for n in NUMBERS for a in (0, 1)})
    check_graph(graph, arrays_for(graph), factor=4)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0,)])
def test_nothing_to_reduce(name, shape):
    for count in range(1, len(shape) + 1):
        for axes in itertools.combinations(range(len(shape)), count):
            graph = reduced(name, f32(*shape), axes)
            check_graph(graph, arrays_for(graph))


@pytest.mark.parametrize("shape", [(5, 37), (1000, 2), (0, 3), (300, 300)])
def test_truth_values(shape):
    with Builder("bools") as b:
        x = b.input("x", boolean(*shape))
        graph = b.finish({f"{n}{a}": get(n)(x, axes=a) for n in ("reduce_any", "reduce_all")
                          for a in [(0,), (1,), (0, 1)]})  # fmt: skip
    for probability in (0.0, 0.001, 0.999, 1.0):
        arrays = {"x": np.random.default_rng(0).random(shape) < probability}
        check_graph(graph, arrays)


@pytest.mark.parametrize("shape", [(300000,), (300001,), (512 * 1024 + 5,)])
def test_long_sums_are_split_over_threads(shape):
    graph = reduced("reduce_sum", f32(*shape), (0,))
    assert is_parallel(lower_kernel(only_kernel(graph), TARGET.machine)) == (
        TARGET.machine.cores > 1
    )
    check_graph(graph, arrays_for(graph), factor=100)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((40, 50, 60, 32), (0, 1, 2)), ((3000, 100), (0,)), ((100, 3000), (1,)), ((2, 90001), (1,)),
     ((2, 100, 700), (0, 2)), ((1000, 3, 50), (0, 2)), ((20, 3000, 6), (1,)), ((2, 90000), (0,)),
     ((9000, 40), (0,)), ((130, 11, 64), (0, 1)), ((640, 513), (0,)), ((60, 5000), (0,))],
)  # fmt: skip
def test_split_reductions(shape, axes):
    """The bias gradient, batch statistics and others that are worth several threads."""
    with Builder("split") as b:
        x = b.input("x", f32(*shape))
        y = sugar.unary("exp", x)
        mean = sugar.mean(y, axes)
        graph = b.finish({"mean": mean, "square": sugar.reduce("reduce_sum", y * y, axes),
                          "top": x.max(axes)})  # fmt: skip
    check_graph(graph, arrays_for(graph), factor=50)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@pytest.mark.parametrize("shape", [(40, 50, 3), (3, 70001), (200, 10), (1, 5)])
def test_first_extreme_element(name, shape):
    with Builder(name) as b:
        x, y = b.input("x", f32(*shape)), b.input("y", i32(*shape))
        graph = b.finish({f"{v.name}{a}": get(name)(v, axis=a) for v in (x, y)
                          for a in range(len(shape))})  # fmt: skip
    arrays = arrays_for(graph)
    check_graph(graph, arrays)
    arrays["x"] = np.round(arrays["x"])  # ties
    check_graph(graph, arrays)
    arrays["x"][np.random.default_rng(1).random(shape) < 0.1] = np.nan
    check_graph(graph, arrays)
    check_graph(graph, arrays | {"x": np.full(shape, -np.inf, np.float32)})


def test_nan_is_the_extreme():
    graph = reduced("reduce_max", f32(3, 100), (1,))
    x = np.zeros((3, 100), np.float32)
    x[1, 57] = np.nan
    assert np.isnan(check_graph(graph, {"x": x}).outputs["y"]).tolist() == [False, True, False]


def test_producers_and_epilogue_are_one_kernel():
    """The variance of a batch: reads its operand once, writes per channel only."""
    with Builder("variance") as b:
        x, shift = b.input("x", f32(16, 6, 6, 20)), b.input("shift", f32(20))
        y = x - shift
        mean = sugar.mean(y, (0, 1, 2))
        scale = sugar.unary("rsqrt", sugar.mean(y * y, (0, 1, 2)) - mean * mean + 1e-3)
        graph = b.finish({"mean": mean, "scale": scale})
    assert [call.kernel.root for call in compiled(graph).plan.calls] == ["reduce_sum"]
    check_graph(graph, arrays_for(graph), factor=10)


def test_accuracy_of_many_terms():
    """A million terms of one sign; one running sum would lose three digits."""
    graph = reduced("reduce_sum", f32(1 << 20), (0,))
    x = np.random.default_rng(0).random(1 << 20).astype(np.float32)
    (got,) = check_graph(graph, {"x": x}, factor=10).outputs.values()
    assert abs(got - x.astype(np.float64).sum()) / got < 1e-5


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@pytest.mark.parametrize(
    ("shape", "axis"), [((7, 3), 1), ((5, 70), 1), ((70, 5), 0), ((2, 90001), 1)]
)
def test_positions_of_extremes(name, shape, axis):
    """Nothing but the least extreme number; several NaN; equal numbers of both signs of zero."""
    with Builder(name) as b:
        graph = b.finish({"y": get(name)(b.input("x", f32(*shape)), axis=axis)})
    least = -np.inf if name == "argmax" else np.inf
    rng = np.random.default_rng(0)
    x = rng.choice(np.array([least, 0.0, -0.0, 1.0, -1.0], np.float32), shape)
    for array in (np.full(shape, least, np.float32), x, np.where(x == 1, np.nan, x)):
        check_graph(graph, {"x": array.astype(np.float32)})


@pytest.mark.parametrize("dtype", [i32, i8, u8])
def test_positions_among_lowest_integers(dtype):
    with Builder("lowest") as b:
        x = b.input("x", dtype(6, 37))
        graph = b.finish({"y": get("argmax")(x, axis=1), "z": get("argmin")(x, axis=0)})
    for value in (np.iinfo(dtype.numpy).min, np.iinfo(dtype.numpy).max, 0):
        check_graph(graph, {"x": np.full((6, 37), value, dtype.numpy)})


FEW_COLUMNS = [
    ((64, 3), (0,)), ((1600, 10), (0,)), ((8, 16, 16, 3), (0, 1, 2)), ((3, 320, 5), (1,)),
    ((6, 64, 24), (0, 1)), ((320000, 3), (0,)), ((2, 640, 3, 4), (1,)), ((65, 3), (0,)),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "axes"), FEW_COLUMNS)
def test_rows_of_a_few_columns_fill_vectors(shape, axes):
    with Builder("few") as b:
        x, bias = b.input("x", f32(*shape)), b.input("bias", f32(shape[-1]))
        outputs = {n: get(n)(x * 2.0, axes=axes) for n in ("reduce_sum", "reduce_max")}
        outputs["moved"] = get("reduce_sum")(x + bias, axes=axes)
        outputs["first"] = get("argmax")(x, axis=axes[-1])
        graph = b.finish(outputs)
    check_graph(graph, arrays_for(graph), factor=20)


@pytest.mark.parametrize("dtype", [f64, f16, bf16, i32, u8, boolean])
def test_rows_of_a_few_columns_of_dtypes(dtype):
    names = ("reduce_any", "reduce_all") if dtype is boolean else NUMBERS
    with Builder("few") as b:
        x = b.input("x", dtype(128, 5))
        graph = b.finish({name: get(name)(x, axes=(0,)) for name in names})
    check_graph(graph, arrays_for(graph), factor=4)


def test_a_few_columns_read_whole_vectors():
    body = only_kernel(reduced("reduce_sum", f32(4, 16, 16, 3), (0, 1, 2)))
    text = str(lower_kernel(body, TARGET.machine))
    assert not any(word in text for word in ("%", "//", "truncmod", "truncdiv"))
