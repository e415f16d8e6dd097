"""Control flow of `ops`: the same functions in Keras on JAX, and what only this package says."""

from __future__ import annotations

import jax
import keras
import numpy as np
import pytest

import hornfels as hf
from hornfels import ops
from hornfels.frontend.trace import Trace
from hornfels.ir import Graph, evaluate, gradients, verify
from hornfels.ir.errors import ArgumentError, GradientError, ShapeError
from hornfels.ir.types import f32, i32

RNG = np.random.default_rng(0)
A, B, W = (RNG.normal(size=s).astype(np.float32) for s in [(4, 3), (4, 3), (3, 3)])
V = RNG.normal(size=3).astype(np.float32)
TRUE, FALSE = np.array(True), np.array(False)


def recurrent(k, x, w):
    def step(carry, x):
        h, count = carry
        h = k.ops.tanh(k.ops.matmul(h, w) + x)
        return (h, count + 1), {"h": h, "twice": h * 2}

    start = (k.ops.zeros(3), k.ops.zeros((), dtype="int32"))
    (h, count), ys = k.ops.scan(step, start, x)
    return h * k.ops.cast(count, "float32"), ys["h"], ys["twice"]


def backwards(k, x, w):
    return k.ops.scan(lambda c, x: (c * 0.5 + x, c), k.ops.ones(3), x, reverse=True)


def counted(k, x, w):
    return k.ops.scan(lambda c, _: (k.ops.matmul(w, c), c[0]), x[0], length=5)


def nested(k, x, w):
    def outer(c, row):
        last, ys = k.ops.scan(lambda d, e: (d * 0.5 + k.ops.sin(e), d), c[0], row)
        return c + last, ys

    return k.ops.scan(outer, x[0], x)


def powers(k, x, w):
    return k.ops.fori_loop(0, 3, lambda i, v: k.ops.matmul(w, v) * k.ops.cast(i + 1, "float32"),
                           x[0])  # fmt: skip


def branch(k, x, w):
    return k.ops.cond(k.ops.sum(x) > 0, lambda: (x * 2, k.ops.sum(w)),
                      lambda: (k.ops.exp(x), k.ops.max(w)))  # fmt: skip


def branch_in_scan(k, x, w):
    def step(c, row):
        c = k.ops.cond(row[0] > 0, lambda: k.ops.matmul(w, c), lambda: c + row)
        return c, c

    return k.ops.scan(step, x[0], x)


def scan_in_branch(k, x, w):
    def run():
        return k.ops.scan(lambda c, r: (k.ops.tanh(k.ops.matmul(w, c) + r), c), x[0], x)[1]

    return k.ops.cond(x[0, 0] < 100, run, lambda: x)


def switched(k, x, w):
    at = k.ops.cast(k.ops.sum(k.ops.cast(x[0] > 0, "int32")), "int32")
    return k.ops.switch(at, [lambda v: v, lambda v: v * 2, k.ops.exp, k.ops.sin], x)


def mapped(k, x, w):
    return k.ops.map(lambda p: k.ops.matmul(w, p[0]) * p[1], (x, x))


def vectorized(k, x, w):
    return k.ops.vectorized_map(lambda v: k.ops.softmax(k.ops.matmul(w, v)), x)


def vectorized_pairs(k, x, w):
    return k.ops.vectorized_map(lambda p: k.ops.sum(p[0] * p[1]) + p[0], [x, x * 2])


def vectorized_loop(k, x, w):
    def f(v):
        return k.ops.scan(lambda c, e: (c * e, c), v[0], v)[1]

    return k.ops.vectorized_map(f, x)


def prefixes(k, x, w):
    return k.ops.associative_scan(lambda a, b: a * b, x)


def prefixes_from_the_end(k, x, w):
    f = lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1])  # noqa: E731
    return k.ops.associative_scan(f, (x, x * 2), reverse=True, axis=1)


DIFFERENTIABLE = [
    recurrent, backwards, counted, nested, powers, branch, branch_in_scan, scan_in_branch,
    switched, mapped, vectorized, vectorized_pairs, vectorized_loop, prefixes,
    prefixes_from_the_end,
]  # fmt: skip


def halving(k, x, w):
    return k.ops.while_loop(lambda v, n: k.ops.max(k.ops.abs(v)) > 0.1,
                            lambda v, n: (v / 2, n + 1), (x, 0))  # fmt: skip


def halving_twice(k, x, w):
    return k.ops.while_loop(lambda v: k.ops.max(k.ops.abs(v)) > 0.1, lambda v: v / 2, x,
                            maximum_iterations=2)  # fmt: skip


def while_in_cond(k, x, w):
    return k.ops.cond(x[0, 0] < 100, lambda: halving(k, x, w), lambda: (x, 7))


def unknown_ends(k, x, w):
    n = k.ops.sum(k.ops.cast(x > 0, "int32"))
    return k.ops.fori_loop(1, n, lambda i, v: v + k.ops.cast(i, "float32"), x)


ALL = [*DIFFERENTIABLE, halving, halving_twice, while_in_cond, unknown_ends]


def flat(structure):
    return jax.tree.leaves(structure)


def traced(function, *arrays) -> tuple[Graph, list]:
    """The graph of all leaves of what a function over `hornfels` returns."""
    with Trace("t") as trace:
        values = [trace.input(f"x{i}", f32(*a.shape)) for i, a in enumerate(arrays)]
        leaves = flat(function(hf, *values))
        graph = verify(trace.finish({f"y{i}": ops.convert_to_tensor(y)
                                     for i, y in enumerate(leaves)}))  # fmt: skip
    return graph, leaves


def run(graph: Graph, *arrays, **state):
    given = {f"x{i}": a for i, a in enumerate(arrays)} | state
    return list(evaluate(graph, given).outputs.values())


@pytest.mark.parametrize("function", ALL, ids=lambda f: f.__name__)
@pytest.mark.parametrize("sign", [1, -1])
def test_values_agree_with_keras(function, sign):
    x = sign * A
    expected = flat(function(keras, x, W))
    eager = flat(function(hf, x, W))
    graph, _ = traced(function, x, W)
    for found in (eager, run(graph, x, W)):
        assert len(found) == len(expected)
        for mine, theirs in zip(found, expected, strict=True):
            assert np.asarray(mine).dtype == theirs.dtype
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("function", DIFFERENTIABLE, ids=lambda f: f.__name__)
def test_gradients_agree_with_keras_on_jax(function):
    def total(k, x, w):
        leaves = flat(function(k, x, w))
        return sum(k.ops.sum(y * k.ops.cos(y)) for y in leaves)

    expected = jax.grad(lambda x, w: total(keras, x, w), (0, 1))(A, W)
    with Trace("t") as trace:
        x, w = trace.input("x0", f32(4, 3)), trace.input("x1", f32(3, 3))
        found = gradients(total(hf, x, w), [x, w])
        known = {f"g{i}": g for i, g in enumerate(found) if g is not None}
        graph = verify(trace.finish(known))
    got = evaluate(graph, {"x0": A, "x1": W}).outputs
    for i, theirs in enumerate(expected):
        mine = got.get(f"g{i}", np.zeros_like(theirs))
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)


def test_while_loop_has_no_gradient_and_says_why():
    with Trace("t") as trace:
        x, w = trace.input("x", f32(4, 3)), trace.input("w", f32(3, 3))
        with pytest.raises(GradientError, match="while: has no gradient: the number of steps"):
            gradients(ops.sum(halving(hf, x, w)[0]), [x])


def test_open_sizes_stay_open():
    from hornfels.ir.types import symbol

    n = symbol("N")
    with Trace("t") as trace:
        x = trace.input("x", f32(n, 3))
        total, ys = ops.scan(lambda c, row: (c + row, ops.sum(c) / ops.shape(x)[0]), V * 0, x)
        mapped = ops.vectorized_map(lambda row: ops.softmax(row) * 2, x)
        graph = verify(trace.finish({"total": total, "ys": ys, "mapped": mapped}))
    for size in (0, 1, 5):
        x = RNG.normal(size=(size, 3)).astype(np.float32)
        found = evaluate(graph, {"x": x}).outputs
        np.testing.assert_allclose(found["total"], x.sum(0), rtol=1e-5, atol=1e-6)
        before = np.cumsum(np.concatenate([np.zeros((1, 3)), x]), 0)[:size].sum(1)
        np.testing.assert_allclose(found["ys"], before / max(size, 1), rtol=1e-4, atol=1e-5)
        assert found["mapped"].shape == (size, 3)


def test_equality_in_bodies():
    seen = hf.Variable(np.int32(0), name="seen")

    def step(even, v):
        seen.assign_add(ops.cast(v == 3, "int32"))
        even = ops.cond(v % 2 == 0, lambda: even + 1, lambda: even)
        return even, v != 2

    with Trace("t") as trace:
        x = trace.input("x", i32(5))
        even, unlike = ops.scan(step, 0, x)
        found = {"even": even, "unlike": unlike, "first": ops.while_loop(
            lambda i: ops.take(x, i) != 3, lambda i: i + 1, 0)}  # fmt: skip
        graph = verify(trace.finish(found))
    found = evaluate(graph, {"x": np.int32([2, 4, 5, 3, 3]), "seen": np.int32(0)})
    assert (found.outputs["even"], found.outputs["first"], found.updates["seen"]) == (2, 3, 2)
    assert found.outputs["unlike"].tolist() == [False, True, True, True, True]


# --- variables -------------------------------------------------------------------------------


def test_variables_that_a_step_assigns_to_are_carried():
    counter = hf.Variable(np.int32(10), name="counter")
    weight = hf.Variable(np.float32(2), name="weight")

    def step(c, x):
        counter.assign_add(1)
        return c * weight + x, ops.convert_to_tensor(counter)

    with Trace("t") as trace:
        x = trace.input("x", f32(3))
        counter.assign_add(5)
        last, seen = ops.scan(step, 0.0, x)
        after = ops.convert_to_tensor(counter)
        graph = verify(trace.finish({"last": last, "seen": seen, "after": after}))
    given = {"x": np.float32([1, 2, 3]), "counter": np.int32(10), "weight": np.float32(2)}
    found = evaluate(graph, {k: np.asarray(v) for k, v in given.items()})
    assert found.outputs["seen"].tolist() == [16, 17, 18]
    assert (found.outputs["after"], found.updates["counter"], found.outputs["last"]) == (18, 18, 11)
    last, seen = ops.scan(step, 0.0, np.float32([1, 2, 3]))  # the same at once
    assert (float(last), seen.tolist(), int(counter.numpy())) == (11.0, [11, 12, 13], 13)


def test_variables_that_one_branch_assigns_to_keep_their_value_in_the_other():
    a, b = hf.Variable(np.float32(1), name="a"), hf.Variable(np.float32(2), name="b")

    def up():
        a.assign(b.value * 10)
        return a.value + 0

    def down():
        b.assign_add(5.0)
        return b.value + 0

    with Trace("t") as trace:
        x = trace.input("x", f32())
        graph = verify(trace.finish({"y": ops.cond(x > 0, up, down)}))
    for x, y, new in ((1, 20, (20, 2)), (-1, 7, (1, 7))):
        found = evaluate(graph, {"x": np.float32(x), "a": np.float32(1), "b": np.float32(2)})
        assert found.outputs["y"] == y
        assert (found.updates["a"], found.updates["b"]) == new


def test_variables_in_a_while_loop():
    total = hf.Variable(np.float32(0), name="total")
    limit = hf.Variable(np.float32(5), name="limit")

    def body(i):
        total.assign_add(i)
        return i + 1

    with Trace("t") as trace:
        start = trace.input("i", f32())
        last = ops.while_loop(lambda i: (i < limit) & (total < 100), body, start)
        graph = verify(trace.finish({"last": last}))
    found = evaluate(graph, {k: np.float32(v) for k, v in
                             {"i": 1, "total": 0, "limit": 5}.items()})  # fmt: skip
    assert (found.outputs["last"], found.updates["total"]) == (5, 10)


def test_dropout_in_a_step_draws_anew_each_time():
    seeds = hf.random.SeedGenerator(3)

    def step(c, x):
        return c, hf.random.dropout(x, 0.5, seed=seeds)

    x = np.ones((4, 50), np.float32)
    _, ys = ops.scan(step, 0.0, x)
    assert len({row.tobytes() for row in ys}) == 4
    again = hf.random.SeedGenerator(3)
    one_by_one = [hf.random.dropout(row, 0.5, seed=again) for row in x]
    np.testing.assert_array_equal(ys, one_by_one)
    np.testing.assert_array_equal(seeds.state.numpy(), again.state.numpy())


def test_batch_normalization_in_a_branch_updates_its_statistics_there():
    layer = hf.layers.BatchNormalization()
    layer.build((None, 3))
    with Trace("t") as trace:
        x, flag = trace.input("x", f32(4, 3)), trace.input("flag", f32())
        y = ops.cond(flag > 0, lambda: layer(x, training=True), lambda: x)
        graph = verify(trace.finish({"y": y}))
    state = {name: v.numpy() for name, v in trace.variables.items()}
    moving = next(name for name in state if "mean" in name)
    for flag, changed in ((1, True), (-1, False)):
        found = evaluate(graph, {"x": A, "flag": np.float32(flag), **state})
        assert (not np.allclose(found.updates[moving], state[moving])) == changed
        assert np.allclose(found.outputs["y"], A) != changed


# --- symbolic tensors ------------------------------------------------------------------------


def test_functional_models():
    x, p = hf.Input((3,)), hf.Input(batch_shape=(), dtype="bool")
    y = ops.cond(p, lambda: x + W[0], lambda: x * 2.0)
    z = ops.scan(lambda c, v: (c + v, c), y[0], y)[1]
    model = hf.Model([x, p], [y, z])
    assert (y.shape, z.shape) == ((None, 3), (None, 3))
    for flag, expected in ((TRUE, A + W[0]), (FALSE, A * 2)):
        first, second = model([A, flag])
        np.testing.assert_allclose(first, expected, rtol=1e-6)
        sums = np.concatenate([expected[:1], np.cumsum(expected, 0)[:-1] + expected[0]])
        np.testing.assert_allclose(second, sums, rtol=1e-5, atol=1e-6)


def test_functions_that_call_functions_over_symbolic_tensors():
    x = hf.Input((3,))

    def inner():
        return x * 3.0

    y = ops.switch(ops.cast(ops.sum(x) > 0, "int32"), [lambda: inner() - 1.0, inner])
    model = hf.Model(x, y)
    for sign in (1, -1):
        array = np.full((2, 3), sign, np.float32)
        np.testing.assert_allclose(model(array), array * 3 - (sign < 0), rtol=1e-6)


# --- refusals --------------------------------------------------------------------------------

REFUSED = [
    (lambda x: ops.scan(lambda c, r: (c + r, c), 0.0, x),
     r"scan: carry must keep its type, it begins as f32\[\] and becomes f32\[3\]"),
    (lambda x: ops.scan(lambda c, r: ({"h": c["h"] * r, "i": c["i"] + 1.0}, None),
                        {"h": x[0], "i": 0}, x),
     r"scan: carry\['i'\] must keep its type, it begins as i32\[\] and becomes f32\[\]"),
    (lambda x: ops.scan(lambda c, r: ((c, c), r), x[0], x),
     r"scan: carry must keep its structure, it begins as f32\[3\] and becomes \(f32"),
    (lambda x: ops.scan(lambda c, r: c, x[0], x), "scan: f must return a pair"),
    (lambda x: ops.scan(lambda c, r: (c, r), x[0]), "scan: xs must hold a tensor, or length"),
    (lambda x: ops.scan(lambda c, r: (c, r), x[0], x, length=3),
     r"scan: xs must have 3 along the first axis, got f32\[4,3\]"),
    (lambda x: ops.scan(lambda c, r: (c, r), x[0], (x, x[0])), "scan: xs must have one size"),
    (lambda x: ops.scan(lambda c, r: (c, r), x[0], length=ops.sum(x)), "length must be an integer"),
    (lambda x: ops.scan(lambda c, r: (c, r), x[0], x, unroll=0), "unroll must be a positive"),
    (lambda x: ops.scan(lambda c, r: (c, r), x[0], x, gradient="often"), "gradient must be"),
    (lambda x: ops.while_loop(lambda v: v > 0, lambda v: v, x[0]), "cond must return a scalar"),
    (lambda x: ops.while_loop(lambda v: True, lambda v: v[0], x),
     r"loop_vars\[0\] must keep its type, it begins as f32\[4,3\] and becomes f32\[3\]"),
    (lambda x: ops.cond(x[0, 0] > 0, lambda: {"a": x, "b": x}, lambda: {"a": x, "b": x[0]}),
     r"cond: result\['b'\] must be of one type, got f32\[4,3\] and f32\[3\]"),
    (lambda x: ops.cond(x[0, 0] > 0, lambda: x, lambda: (x, x)), "branches must return alike"),
    (lambda x: ops.cond(x[0, 0] > 0, lambda: None, lambda: x), "branches must return alike"),
    (lambda x: ops.cond(x > 0, lambda: x, lambda: x), "pred must be a scalar"),
    (lambda x: ops.switch(x[0, 0], [lambda: x]), "index must be an integer scalar"),
    (lambda x: ops.switch(0, []), "branches must not be empty"),
    (lambda x: ops.associative_scan(lambda a, b: a + b, (x, x[0])), "must have one known size"),
    (lambda x: ops.vectorized_map(lambda v: v, [x, x[0]]), "elements must have one size"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with Trace("t") as trace:
        x = trace.input("x", f32(4, 3))
        with pytest.raises((ShapeError, ArgumentError), match=message):
            call(x)


def test_variables_must_not_be_assigned_in_conditions_and_by_many_at_once():
    counter = hf.Variable(np.int32(0), name="counter")

    def count(x):
        counter.assign_add(1)
        return x < 3

    with pytest.raises(ArgumentError, match=r"cond must not assign to variables, .* 'counter'"):
        ops.while_loop(count, lambda x: x + 1, 0)
    with pytest.raises(ArgumentError, match="function must not assign to variables"):
        ops.vectorized_map(count, np.arange(3))


def test_what_a_body_puts_aside_is_refused_outside():
    aside = []

    def step(c, r):
        aside.extend([r * 2, r])
        return c, r

    with Trace("t") as trace:
        x = trace.input("x", f32(4, 3))
        ops.scan(step, 0.0, x)
        with pytest.raises(ArgumentError, match=r"mul: operand .* belongs to another trace, or to"):
            trace.finish({"y": aside[0]})
        with pytest.raises(ArgumentError, match=r"t: result f32\[3\] belongs to another trace"):
            trace.finish({"y": aside[1]})


def test_an_index_beside_the_branches_takes_the_nearest():
    branches = [lambda: 10, lambda: 20, lambda: 30]
    assert [int(ops.switch(i, branches)) for i in (-5, 0, 1, 2, 9)] == [10, 10, 20, 30, 30]
    with Trace("t") as trace:
        graph = trace.finish({"y": ops.switch(trace.input("x0", i32()), branches)})
    assert [run(graph, np.int32(i))[0] for i in (-5, 0, 1, 2, 9)] == [10, 10, 20, 30, 30]


def test_python_numbers_take_the_dtype_of_the_tensor_beside_them():
    with Trace("t") as trace:
        x = trace.input("x", f32())
        found = ops.cond(x > 0, lambda: (x, 1, 2), lambda: (0, 2.5, x))
        assert [v.type for v in found] == [f32(), f32(), f32()]
        i = trace.input("i", i32())
        assert ops.while_loop(lambda n: n < 3, lambda n: n + 1, i).type == i32()


def test_only_the_branch_that_is_chosen_runs():
    with Trace("t") as trace:
        x = trace.input("x0", f32())
        endless = lambda: ops.while_loop(lambda v: v > 0, lambda v: v, x)  # noqa: E731
        graph = trace.finish({"y": ops.cond(x > 0, lambda: x, endless)})
    assert run(graph, np.float32(1)) == [1]


def test_gradient_of_a_scan_that_recomputes_is_that_of_one_that_stores():
    found = []
    for gradient in ("store", "recompute"):
        with Trace("t") as trace:
            x, w = trace.input("x0", f32(4, 3)), trace.input("x1", f32(3, 3))
            step = lambda c, r: (ops.tanh(ops.matmul(w, c) + r), c)  # noqa: B023, E731
            last, ys = ops.scan(step, V, x, gradient=gradient)
            (g,) = gradients(ops.sum(last) + ops.sum(ys), [w])
            found.append(run(trace.finish({"g": g}), A, W)[0])
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    "call",
    [
        lambda: ops.scan(1, 0.0, np.ones(3)),
        lambda: ops.map(1, np.ones(3)),
        lambda: ops.while_loop(1, lambda x: x, 0),
        lambda: ops.while_loop(lambda x: x < 1, 2, 0),
        lambda: ops.fori_loop(0, 3, 4, 5),
        lambda: ops.cond(True, 1, lambda: 2),
        lambda: ops.switch(0, [lambda: 1, 2]),
        lambda: ops.vectorized_map(3, np.ones(3)),
        lambda: ops.associative_scan(3, np.ones(3)),
        lambda: hf.grad(3),
        lambda: hf.vjp(3, 1.0),
        lambda: hf.jvp(3, (1.0,), (1.0,)),
    ],
)
def test_what_is_no_function_is_refused(call):
    with pytest.raises(ArgumentError, match=r": [\w\[\]]+ must be callable, got \d"):
        call()


@pytest.mark.parametrize("upper", [2.5, np.arange(2)])
def test_the_bounds_of_a_fori_loop_are_integers(upper):
    with pytest.raises(ShapeError, match="lower and upper must be integer scalars"):
        ops.fori_loop(0, upper, lambda i, x: x, 1.0)


def test_a_tensor_of_a_trace_that_has_ended_has_no_numbers():
    kept = []
    hf.compile(lambda x: kept.append(x * 2) or x, backend="eager")(np.ones(3, np.float32))
    with pytest.raises(ArgumentError, match=r"exp: operand f32\[3\] belongs to a trace that has"):
        ops.exp(kept[0])
