"""Pointwise kernels: fused graphs against the oracle, and the shape of the loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from native import TARGET, is_parallel
from native_graph import arrays_for, check_graph, compiled, only_kernel

from hornfels.codegen.tvm.lower import lower_kernel
from hornfels.codegen.tvm.pointwise import lanes_for, loop_shape, pieces_of, vectors_at_once
from hornfels.ir import Builder, Graph, sugar
from hornfels.ir.op import get
from hornfels.ir.types import bf16, boolean, f16, f32, f64, i32, u32
from hornfels.passes.fusion import fuse
from hornfels.passes.plan import Kernel

SIZES = [0, 1, 2, 15, 16, 17, 64, 100]


@pytest.mark.parametrize("columns", SIZES)
@pytest.mark.parametrize("rows", [1, 3])
def test_bias_and_activation(rows, columns):
    with Builder("bias") as b:
        x, bias = b.input("x", f32(rows, columns)), b.input("bias", f32(columns))
        y = sugar.unary("tanh", x + bias)
        graph = b.finish({"y": y, "z": y * y - 1.0})
    check_graph(graph, arrays_for(graph))


def adam(size: int, dtype=f32) -> Graph:
    """Adam's update of one variable."""
    with Builder("adam") as b:
        w, m, v = (b.variable(n, dtype(size)) for n in "wmv")
        g, step = b.input("g", dtype(size)), b.input("step", dtype())
        rate = sugar.unary("sqrt", 1.0 - 0.999**step) / (1.0 - 0.9**step) * 1e-3
        new_m = m + (g - m) * 0.1
        new_v = v + (g * g - v) * 0.001
        new_w = w - rate * new_m / (sugar.unary("sqrt", new_v) + 1e-7)
        return b.finish({}, [(w, new_w), (m, new_m), (v, new_v)])


@pytest.mark.parametrize("dtype", [f32, f64])
def test_an_optimizer_updates_its_state_in_place(dtype):
    graph = adam(77, dtype)
    arrays = arrays_for(graph) | {"step": np.asarray(3, dtype.numpy)}
    arrays["v"] = np.abs(arrays["v"])
    program = compiled(graph)
    assert len([p for c in program.plan.calls for p in program.plan.in_place(c)]) == 3
    check_graph(graph, arrays)


def test_same_shapes_make_one_flat_loop():
    with Builder("flat") as b:
        x, y = b.input("x", f32(3, 5, 7)), b.input("y", f32(3, 5, 7))
        graph = b.finish({"z": (x * 2.0 + y).reshape(15, 7)})
    assert loop_shape(only_kernel(graph).body) == (105,)


def test_a_bias_makes_rows_and_columns_even_behind_a_reshape():
    with Builder("rows") as b:
        x, bias = b.input("x", f32(2, 3, 4, 5)), b.input("bias", f32(5))
        graph = b.finish({"y": (x + bias).reshape(2, 60)})
    kernel = only_kernel(graph)
    assert loop_shape(kernel.body) == (24, 5)
    text = str(lower_kernel(kernel, TARGET.machine))
    assert "%" not in text
    assert "//" not in text


@pytest.mark.parametrize("size", [8, 1 << 16])
def test_only_large_work_is_split_over_threads(size):
    kernel = max((call.kernel for call in fuse(adam(size))), key=lambda k: len(k.body.outputs))
    function = lower_kernel(kernel, TARGET.machine)
    assert is_parallel(function) == (size > 8 and TARGET.machine.cores > 1)


@pytest.mark.parametrize("shape", [(1 << 18,), (3, 70001), (400, 500), (2, 3, 50001), (90001, 3)])
def test_split_loops_cover_everything(shape):
    with Builder("split") as b:
        x, bias = b.input("x", f32(*shape)), b.input("bias", f32(shape[-1]))
        graph = b.finish({"y": sugar.unary("exp", x) * bias + x})
    check_graph(graph, arrays_for(graph))


def test_scalars_are_computed_once_before_the_loop():
    with Builder("scalars") as b:
        x, s = b.input("x", f32(64)), b.input("s", f32())
        graph = b.finish({"y": x * sugar.unary("exp", s)})
    text = str(lower_kernel(Kernel("scalars", "pointwise", graph), TARGET.machine))
    before, _, loop = text.partition("for ")
    assert "1.4426" in before  # exp's first constant
    assert "1.4426" not in loop


def test_random_bits_do_not_depend_on_the_loops():
    with Builder("bits") as b:
        key = b.input("key", u32(2))
        bits = get("rng_bits")(key, shape=(6, 50))
        graph = b.finish({"flat": bits, "part": bits[2:5, 7:40:3], "turned": bits.T + 1})
    check_graph(graph, {"key": np.array([7, 0xFFFFFFFF], np.uint32)})


@pytest.mark.parametrize("dtype", [f32, f16, bf16])
@pytest.mark.parametrize("shape", [(48, 1000), (6, 16), (3, 7), (5, 1), (0, 4)])
def test_dropout_computes_vectors_in_turns(shape, dtype):
    with Builder("dropout") as b:
        x, key = b.input("x", dtype(*shape)), b.input("key", u32(2))
        kept = get("rng_bits")(key, shape=shape) >= sugar.full(shape, 1 << 30, u32)
        graph = b.finish({"kept": kept, "y": sugar.select(kept, x * 2.0, x * 0.0)})
    arrays = arrays_for(graph) | {"key": np.array([3, 5], np.uint32)}
    check_graph(graph, arrays)
    lanes = lanes_for(graph, TARGET.machine)
    assert vectors_at_once(graph, (4 * lanes,), lanes) == 4
    assert vectors_at_once(graph, (6 * lanes,), lanes) == 2
    assert vectors_at_once(graph, (4 * lanes + 1,), lanes) == 1


@pytest.mark.parametrize("dtype", [f16, bf16])
def test_half_precision_is_rounded_after_every_op(dtype):
    with Builder("half") as b:
        x, y = b.input("x", dtype(200)), b.input("y", dtype(200))
        graph = b.finish({"z": (x * y + x) * y - sugar.unary("exp", x)})
    check_graph(graph, arrays_for(graph))


def test_integers_wrap_around():
    with Builder("wrap") as b:
        x, y = b.input("x", i32(40)), b.input("y", u32(40))
        graph = b.finish({"a": x * x + x, "b": -x, "c": y * y - y, "d": x - (2**31 - 1)})
    rng = np.random.default_rng(0)
    arrays = {
        "x": rng.integers(-(2**31), 2**31, 40).astype(np.int32),
        "y": rng.integers(0, 2**32, 40).astype(np.uint32),
    }
    with np.errstate(over="ignore"):
        check_graph(graph, arrays)


def test_comparisons_are_false_for_nan():
    with Builder("nan") as b:
        x, y = b.input("x", f32(20)), b.input("y", f32(20))
        less = x < y
        graph = b.finish({
            "less": less, "not_less": ~less, "equal": sugar.binary("equal", x, y),
            "unequal": sugar.binary("not_equal", x, y), "largest": sugar.binary("maximum", x, y),
            "chosen": sugar.select(~(x >= y), x, y), "same": sugar.binary("equal", less, x > 0),
        })  # fmt: skip
    arrays = arrays_for(graph)
    arrays["x"][::3] = np.nan
    arrays["y"][::4] = np.nan
    check_graph(graph, arrays)


def test_gathered_rows_and_pieces():
    with Builder("pieces") as b:
        table, rows = b.input("table", f32(9, 20)), b.input("rows", i32(4, 3))
        picked = get("gather")(table, rows, axis=0)
        joined = get("concat")(picked, picked * 2.0, axis=2)
        padded = get("pad")(joined, low=(1, 0, 2), high=(0, 1, -3), interior=(0, 1, 0), value=1.5)
        graph = b.finish({"picked": picked, "joined": joined, "padded": padded[:, ::2]})
    arrays = arrays_for(graph)
    arrays["rows"] = np.arange(-3, 9, dtype=np.int32).reshape(4, 3)
    check_graph(graph, arrays)


def test_a_long_chain_compiles_in_time():
    """Expressions that use each value twice grow exponentially if they are ever written out."""
    with Builder("chain") as b:
        x, keep = b.input("x", i32(50)), b.input("keep", boolean(50))
        for _ in range(40):
            x = sugar.select(keep, x + x, x * 3 - x)
        graph = b.finish({"y": x})
    with np.errstate(over="ignore"):
        check_graph(graph, arrays_for(graph))


def test_a_chain_longer_than_pythons_stack():
    with Builder("deep") as b:
        x = b.input("x", f32(20))
        y = x
        for _ in range(600):
            y = y * 0.5 + x
        graph = b.finish({"y": y})
    check_graph(graph, arrays_for(graph))


@pytest.mark.parametrize("shape", [(3, 5), (16, 16), (37, 50), (300, 401), (0, 4)])
def test_transposed_operands(shape):
    with Builder("turned") as b:
        x, y = b.input("x", f32(*shape)), b.input("y", f32(*shape[::-1]))
        graph = b.finish({"y": x.T + y})
    check_graph(graph, arrays_for(graph))


@pytest.mark.parametrize("permutation", list(itertools.permutations(range(3))))
def test_permuted_axes(permutation):
    with Builder("permuted") as b:
        x = b.input("x", f32(5, 18, 33))
        y = x.transpose(*permutation)
        graph = b.finish({"y": y * 2.0, "z": y[1:, ::2]})
    check_graph(graph, arrays_for(graph))


def gates(rows: int, units: int, count: int = 4, dtype=f32) -> Graph:
    """Parts with something in common, side by side."""
    with Builder("gates") as b:
        x, h = b.input("x", dtype(rows, units)), b.input("h", dtype(rows, units))
        shared = x * x
        parts = [shared * (h + float(k)) for k in range(count)]
        return b.finish({"y": get("concat")(*parts, axis=1)})


@pytest.mark.parametrize("dtype", [f32, bf16, f16, f64])
@pytest.mark.parametrize(("rows", "units"), [(3, 16), (2, 32), (5, 40), (3, 19), (1, 128), (4, 5)])
def test_parts_side_by_side(rows, units, dtype):
    graph = gates(rows, units, dtype=dtype)
    check_graph(graph, arrays_for(graph))


def test_equal_parts_are_computed_together():
    """One loop over the columns of a part, without a choice between parts."""
    for graph, count in ((gates(3, 32), 4), (gates(3, 32, 3), 3), (gates(3, 2), 1)):
        body = only_kernel(graph).body
        lanes = lanes_for(body, TARGET.machine)
        assert pieces_of(body, loop_shape(body), lanes) == count
        text = str(lower_kernel(only_kernel(graph), TARGET.machine))
        assert ("Select" in text) == (count == 1)


def test_parts_of_a_reshaped_concat():
    """Where pieces of the loop are none of the concat, it chooses element by element."""
    with Builder("turned") as b:
        x = b.input("x", f32(4, 32))
        joined = get("concat")(x, x * 2.0, axis=0)
        graph = b.finish({"y": joined.reshape(4, 64) + 1.0})
    check_graph(graph, arrays_for(graph))


def test_sums_of_pads_need_no_choice_where_they_meet():
    with Builder("pads") as b:
        x, y = b.input("x", f32(3, 20)), b.input("y", f32(3, 12))
        left = get("pad")(x, low=(0, 0), high=(0, 12), interior=(0, 0), value=0.0)
        right = get("pad")(y, low=(0, 20), high=(0, 0), interior=(0, 0), value=1.0)
        graph = b.finish({"y": left * right, "z": left + right})
    check_graph(graph, arrays_for(graph))
