"""Control flow as native code: loops and branches of the entry, around kernels of all kinds."""

from __future__ import annotations

import re

import numpy as np
import pytest
from native import TARGET
from native_graph import arrays_for, check_graph, compiled, run_compiled, source
from random_graphs import assert_same, random_arrays
from random_regions import random_regions
from recurrent import start, training_step

from hornfels.codegen.tvm.build import build
from hornfels.codegen.tvm.entry import Address, Branch, Copy, Loop, While
from hornfels.codegen.tvm.lower import compile_plan
from hornfels.codegen.tvm.target import parse_target
from hornfels.ir import Builder, Graph, constant, evaluate, gradients, sugar
from hornfels.ir.op import get
from hornfels.ir.types import DTYPES, TensorType, boolean, f32, f64, i32
from hornfels.passes.fusion import fuse
from hornfels.passes.memory import plan
from hornfels.passes.pipeline import make_plan, optimize


def body(name: str, types: dict[str, TensorType], results) -> Graph:
    """A graph of what `results` makes of the inputs."""
    with Builder(name) as b:
        found = results(*(b.input(k, t) for k, t in types.items()))
        return b.finish({f"r{i}": v for i, v in enumerate(found)})


# --- statements of the entry -----------------------------------------------------------------


def run(statements, *arrays: np.ndarray) -> None:
    build({}, statements, TARGET).run([array.ctypes.data for array in arrays])


def test_loops_in_loops_step_through_memory():
    source, target = np.arange(24, dtype=np.uint8), np.zeros(24, np.uint8)
    places = (Address(0, 0, ((0, 12), (1, 4))), Address(1, 1, ((0, 4), (1, 8))))
    run([Loop(range(2), (Loop(range(3), (Copy(*places, 3),)),))], source, target)
    expected = np.zeros((3, 2, 4), np.uint8)
    expected[..., 1:] = source.reshape(2, 3, 4)[..., :3].transpose(1, 0, 2)
    np.testing.assert_array_equal(target.reshape(3, 2, 4), expected)


@pytest.mark.parametrize("steps", [range(5), range(5)[::-1], range(0), range(4, 5)])
def test_steps_run_in_their_order(steps):
    source, last = np.arange(5, dtype=np.int64), np.full(1, -1, np.int64)
    run([Loop(steps, (Copy(Address(0).stepped(0, 8), Address(1), 8),))], source, last)
    assert last[0] == (list(steps) or [-1])[-1]


def test_a_parallel_loop_runs_every_step_once():
    """Each copies its own bytes; a serial loop inside steps through them."""
    source, target = np.arange(60, dtype=np.uint8), np.zeros(60, np.uint8)
    places = (Address(0, 0, ((0, 12), (1, 4))), Address(1, 0, ((0, 12), (1, 4))))
    inner = Loop(range(2, -1, -1), (Copy(*places, 4),))
    for target_text in ("cpu", "cpu -num-cores=3", "cpu -num-cores=1"):
        target[:] = 0
        program = build({}, [Loop(range(5), (inner,), parallel=True)], parse_target(target_text))
        program.run([source.ctypes.data, target.ctypes.data])
        np.testing.assert_array_equal(target, source)


def test_a_branch_looks_at_its_flag():
    for flag, expected in ((1, 7), (0, 9), (255, 7)):
        numbers, found = np.array([7, 9, flag], np.uint8), np.zeros(1, np.uint8)
        then, otherwise = (Copy(Address(0, i), Address(1), 1) for i in range(2))
        run([Branch(Address(0, 2), (then,), (otherwise,))], numbers, found)
        assert found[0] == expected


def test_a_loop_runs_its_condition_before_every_test():
    """The flag is byte after byte of a text that ends with 0; the body shifts the text."""
    text, flag = np.array([1, 2, 3, 4, 0, 9], np.uint8), np.full(2, 50, np.uint8)
    condition = (Copy(Address(0), Address(1), 1),)
    shift = tuple(Copy(Address(0, i + 1), Address(0, i), 1) for i in range(5))
    run([While(condition, Address(1), shift)], text, flag)
    assert flag.tolist() == [0, 50]
    assert text.tolist() == [0, 9, 9, 9, 9, 9]


def test_copies_of_any_size_and_place():
    rng = np.random.default_rng(0)
    for nbytes in (0, 1, 3, 64, 100, 5000, 1 << 20):
        source = rng.integers(0, 255, nbytes + 9).astype(np.uint8)
        target = np.zeros(nbytes + 9, np.uint8)
        run([Copy(Address(0, 5), Address(1, 3), nbytes)], source, target)
        np.testing.assert_array_equal(target[3 : nbytes + 3], source[5 : nbytes + 5])
        assert not target[:3].any()
        assert not target[nbytes + 3 :].any()


# --- graphs ----------------------------------------------------------------------------------


def scan_of(step, start: TensorType, length: int, *, reverse: bool = False) -> Graph:
    """`step(c, x)` over slices of the type of the carry."""
    inner = body("step", {"c": start, "x": start}, step)
    with Builder("g") as b:
        c, xs = b.input("c", start), b.input("xs", start.with_shape((length, *start.shape)))
        found = get("scan").all(c, xs, body=inner, carry=1, stacked=1, length=length,
                                reverse=reverse)  # fmt: skip
        return b.finish({f"y{i}": v for i, v in enumerate(found)})


@pytest.mark.parametrize("size", [0, 1, 3, 16, 33])
@pytest.mark.parametrize("length", [0, 1, 7])
def test_slices_of_any_size(size, length):
    for reverse in (False, True):
        graph = scan_of(lambda c, x: (c * 0.5 + x, c - x), f32(size), length, reverse=reverse)
        check_graph(graph, arrays_for(graph))


def test_the_code_of_a_loop_does_not_grow_with_its_steps():
    def code(length: int) -> str:
        graph = scan_of(lambda c, x: (get("tanh")(c + x), c * x), f64(5), length)
        return source(plan(graph, fuse(graph)))

    few, many = code(100), code(1000)
    assert few.count("@llvm.memcpy") == many.count("@llvm.memcpy") < 20
    assert len(re.findall(r"call i32 @pointwise", many)) < 20


def test_scan_in_scan_backwards():
    def outer(c, x):
        inner = body("inner", {"c": f64(3), "x": f64(3)}, lambda c, x: (c * 0.5 + x, c * x))
        rows = sugar.expand(x, (0,), (4, 3)) * sugar.expand(
            constant(np.arange(4.0), f64), (1,), (4, 3)
        )
        last, ys = get("scan").all(c, rows, body=inner, carry=1, stacked=1, length=4, reverse=True)
        return last, ys.sum(0)

    for reverse in (False, True):
        graph = scan_of(outer, f64(3), 5, reverse=reverse)
        check_graph(graph, arrays_for(graph), factor=4)


@pytest.mark.parametrize("name", DTYPES)
def test_carries_of_every_dtype(name):
    """Computed, swapped and stacked, of a size that no alignment divides."""
    dtype = DTYPES[name]

    def step(a, b, x):
        new = get("select")(x, b, a) if dtype.is_bool else a + b
        return b, new, a, new

    types = {k: dtype(3) for k in "abx"}
    with Builder("g") as b:
        operands = [b.input("a", dtype(3)), b.input("b", dtype(3)), b.input("x", dtype(5, 3))]
        found = get("scan").all(*operands, body=body("step", types, step), carry=2, stacked=1,
                                length=5)  # fmt: skip
        graph = b.finish({f"y{i}": y for i, y in enumerate(found)})
    check_graph(graph, arrays_for(graph), factor=2)


def newton() -> Graph:
    """Roots of all elements until they are good enough: a loop with a reduction as condition."""
    types = {"y": f64(40), "x": f64(40)}

    def far(y, x):
        return (abs(y * y - x).max() > 1e-10,)

    with Builder("newton") as b:
        x = b.input("x", f64(40))
        found = get("while").all(
            x * 0.0 + 1.0, x, carry=1, condition=body("far", types, far),
            body=body("better", types, lambda y, x: ((y + x / y) * 0.5,)),
        )  # fmt: skip
        return b.finish({"root": found[0]})


def test_a_loop_that_ends_when_it_is_good_enough():
    x = np.linspace(0.1, 50, 40)
    found = run_compiled(compiled(newton()), {"x": x}).outputs["root"]
    np.testing.assert_allclose(found, np.sqrt(x), rtol=1e-9)


def test_a_branch_of_a_loop_of_a_scan():
    """Collatz lengths of a list, one after another."""
    types = {"n": i32(), "steps": i32()}
    halve = body("halve", {"n": i32()}, lambda n: (n >> constant(1, i32),))
    triple = body("triple", {"n": i32()}, lambda n: (n * 3 + 1,))

    def step(n, steps):
        even = get("equal")(n & constant(1, i32), constant(0, i32))
        return get("cond")(even, n, then=halve, otherwise=triple), steps + 1

    loop = {"body": body("body", types, step),
            "condition": body("more", types, lambda n, steps: (n > constant(1, i32),))}  # fmt: skip

    def each(c, x):
        steps = get("while").all(x, constant(0, i32), carry=2, **loop)[1]
        return get("maximum")(c, steps), steps

    graph = scan_of(each, i32(), 5)
    numbers = np.array([1, 2, 6, 27, 97], np.int32)
    found = run_compiled(compiled(graph), {"c": np.array(0, np.int32), "xs": numbers}).outputs
    assert found["y1"].tolist() == [0, 1, 8, 111, 118]
    assert found["y0"] == 118


def test_only_the_branch_that_is_chosen_runs():
    """The other one would loop without an end."""
    forever = body("forever", {"x": f32(3)}, lambda x: (
        get("while").all(x, carry=1, condition=body("yes", {"x": f32(3)}, lambda x: (
            constant(True, boolean),)), body=body("same", {"x": f32(3)}, lambda x: (x + 1.0,)))[0],
    ))  # fmt: skip
    with Builder("g") as b:
        x, go = b.input("x", f32(3)), b.input("go", boolean())
        now = body("now", {"x": f32(3)}, lambda x: (x * 2.0,))
        graph = b.finish({"y": get("cond")(go, x, then=now, otherwise=forever)})
    arrays = {"x": np.ones(3, np.float32), "go": np.array(True)}
    assert run_compiled(compiled(graph), arrays).outputs["y"].tolist() == [2, 2, 2]


def test_parallel_kernels_and_workspaces_in_a_loop():
    """A matrix product and a long sum over threads, in every step."""
    target = parse_target("cpu -num-cores=2")

    def step(c, x):
        y = get("matmul")(c, x, transpose_a=False, transpose_b=False) * 0.01
        return y + sugar.expand(c.sum((0, 1)) * 1e-6, (0, 1), (160, 160)), y.sum(0)

    graph = scan_of(step, f32(160, 160), 4)
    arrays = arrays_for(graph)
    got, expected = run_compiled(compiled(graph, target), arrays), evaluate(graph, arrays)
    assert_same(got, expected, 1e-3, 1e-3)


def test_a_large_program_with_loops_in_two_parts():
    """Both parts have loops; the second reads what the first one's stored."""
    with Builder("g") as b:
        x = b.input("x", f32(16))
        outputs = {}
        for i in range(10):
            inner = body(f"step{i}", {"c": f32(16)}, lambda c, i=i: (get("tanh")(c * (i + 0.5)),))
            (x,) = get("scan").all(x, body=inner, carry=1, stacked=0, length=i)
            x = get("exp")(get("reverse")(x, axes=(0,)) * (0.1 * i)) - 0.3
            outputs[f"y{i}"] = x
        graph = b.finish(outputs)
    program = compile_plan(make_plan(graph), TARGET)
    assert len(program.plan.kernels) >= 16
    check_graph(graph, arrays_for(graph), factor=4)


def test_the_gradient_of_a_recurrent_cell():
    """Weights, start and inputs of a scan that carries, stacks and shares, in f64."""
    types = {"h": f64(2, 5), "x": f64(2, 3), "w": f64(3, 5), "u": f64(5, 5)}

    def product(x, y):
        return get("matmul")(x, y, transpose_a=False, transpose_b=False)

    def step(h, x, w, u):
        new = get("tanh")(product(x, w) + product(h, u))
        return new, new * h

    with Builder("g") as b:
        h, xs = b.input("h", f64(2, 5)), b.input("xs", f64(6, 2, 3))
        w, u = b.input("w", f64(3, 5)), b.input("u", f64(5, 5))
        last, ys = get("scan").all(h, xs, w, u, body=body("cell", types, step), carry=1, stacked=1,
                                   length=6)  # fmt: skip
        loss = (ys * ys).sum() + last.sum()
        wrt = [h, xs, w, u]
        found = gradients(loss, wrt)
        graph = b.finish({"loss": loss, **{f"d{i}": g for i, g in enumerate(found)}})
    check_graph(graph, arrays_for(graph), factor=10)
    optimized = optimize(graph)
    arrays = arrays_for(graph)
    assert_same(run_compiled(compiled(optimized), arrays), evaluate(graph, arrays))


@pytest.mark.parametrize("kind", ["simple", "gru", "lstm"])
@pytest.mark.parametrize("dtype", [f32, f64])
def test_recurrent_networks_in_chunks_of_rows(kind, dtype, monkeypatch):
    """Rows run on several threads, whose kernels have workspace of their own."""
    monkeypatch.setattr("hornfels.passes.chunks.WORTH", 0)
    graph = optimize(training_step(kind, length=3, batch=48, features=17, units=17, dtype=dtype))
    program = compile_plan(make_plan(graph), parse_target("cpu -num-cores=3"))
    assert str(program.plan).count(" chunks]") == 2
    assert program.workspace_bytes
    arrays = arrays_for(graph) | start(graph)
    tolerance = 1e-10 if dtype == f64 else 1e-4
    assert_same(run_compiled(program, arrays), evaluate(graph, arrays), tolerance, tolerance)


@pytest.mark.parametrize("seed", range(1000, 1012))
def test_random_control_flow(seed):
    graph = random_regions(seed, nodes=8)
    arrays = random_arrays(graph, seed)
    assert_same(run_compiled(compiled(graph), arrays), evaluate(graph, arrays))
