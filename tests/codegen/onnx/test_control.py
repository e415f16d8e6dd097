"""Scan, Loop and If in ONNX Runtime: layouts at borders, lengths, nesting, names, gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx_run import run_graph, session_of

from hornfels.codegen.onnx import lower
from hornfels.codegen.onnx.bake import bake
from hornfels.codegen.onnx.export import export_inference, export_train_step
from hornfels.codegen.onnx.prepare import prepare
from hornfels.ir import Builder, Graph, Value, constant, evaluate, gradients, sugar, symbol
from hornfels.ir.op import get
from hornfels.ir.types import DTYPES, TensorType, bf16, boolean, f16, f32, f64, i32, i64

N, T = symbol("N"), symbol("T")
SCAN, WHILE, COND, TANH = get("scan"), get("while"), get("cond"), get("tanh")


def body_of(function, *types: TensorType) -> Graph:
    """A graph of `function`'s results on inputs of these types."""
    with Builder("body") as b:
        results = function(*(b.input(f"a{i}", t) for i, t in enumerate(types)))
        return b.finish({f"r{i}": v for i, v in enumerate(results)})


def scan(function, carries, xs=(), shared=(), length=None, **attrs):
    """Emit a scan whose body is `function(*carries, *slices, *shared)`."""
    types = [v.type for v in carries]
    types += [v.type.with_shape(v.shape[1:]) for v in xs]
    body = body_of(function, *types, *(v.type for v in shared))
    length = xs[0].shape[0] if length is None else length
    return SCAN.all(*carries, *xs, *shared, body=body, carry=len(carries), stacked=len(xs),
                    length=length, **attrs)  # fmt: skip


def while_(condition, function, carries, shared=()):
    types = [v.type for v in (*carries, *shared)]
    return WHILE.all(*carries, *shared, condition=body_of(lambda *a: (condition(*a),), *types),
                     body=body_of(function, *types), carry=len(carries))  # fmt: skip


def cond(predicate, then, otherwise, *operands):
    types = [v.type for v in operands]
    return COND.all(predicate, *operands, then=body_of(then, *types),
                    otherwise=body_of(otherwise, *types))  # fmt: skip


def arrays_for(graph: Graph, seed: int = 0, **sizes: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    found = {}
    for v in graph.parameters:
        shape = tuple(int(d) for d in v.type.substitute(sizes).shape)
        if v.dtype.is_bool:
            found[v.name] = np.asarray(rng.random(shape) < 0.5)
        elif v.dtype.is_integer:
            found[v.name] = rng.integers(0, 5, shape).astype(v.dtype.numpy)
        else:
            found[v.name] = rng.uniform(-1, 1, shape).astype(v.dtype.numpy)
    return found


def compare(graph: Graph, arrays: dict[str, np.ndarray], limit: float = 1e-12) -> None:
    """The model, as traced and as prepared, gives what the oracle gives."""
    expected = evaluate(graph, arrays)
    named = expected.outputs | {f"new/{k}": v for k, v in expected.updates.items()}
    for candidate in (graph, prepare(graph)):
        found = run_graph(candidate, arrays)
        assert found.keys() == named.keys()
        for name, array in named.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            np.testing.assert_allclose(
                found[name].astype(np.float64), array.astype(np.float64), limit, limit
            )


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of nested graphs too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_of(attribute.g)


def cell(h: Value, x: Value, w: Value, u: Value) -> tuple[Value, Value]:
    new = TANH(x @ w + h @ u)
    return new, new


def recurrent(time, batch, dtype=f64, reverse: bool = False, units: int = 4) -> Graph:
    """An RNN over `[batch, time, 3]`, which is scanned along its second axis."""
    with Builder("rnn") as b:
        x = b.input("x", dtype(batch, time, 3))
        w, u = b.variable("w", dtype(3, units)), b.variable("u", dtype(units, units))
        h = constant(0, dtype).broadcast_to((batch, units))
        last, ys = scan(cell, [h], [x.transpose(1, 0, 2)], [w, u], reverse=reverse)
        return b.finish({"last": last, "ys": ys.transpose(1, 0, 2)})


# --- scan: lengths and symbols ---------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [0, 1, 2, 7])
def test_scan_of_a_fixed_length(length, reverse):
    graph = recurrent(length, 2, reverse=reverse)
    compare(graph, arrays_for(graph))


@pytest.mark.parametrize("reverse", [False, True])
def test_one_model_serves_all_lengths_and_batches(reverse):
    graph = recurrent(T, N, reverse=reverse)
    session = session_of(lower(prepare(graph)))
    for time, batch in [(5, 2), (1, 1), (0, 3), (0, 0), (2, 0), (9, 4)]:
        arrays = arrays_for(graph, T=time, N=batch)
        expected = evaluate(graph, arrays).outputs
        for name, array in zip(graph.output_names, session.run(None, arrays), strict=True):
            assert array.shape == expected[name].shape
            np.testing.assert_allclose(array, expected[name], 1e-12, 1e-12)


def test_scan_against_a_loop_in_numpy():
    graph = recurrent(T, N)
    a = arrays_for(graph, T=6, N=3)
    h, states = np.zeros((3, 4)), []
    for t in range(6):
        h = np.tanh(a["x"][:, t] @ a["w"] + h @ a["u"])
        states.append(h)
    found = run_graph(graph, a)
    np.testing.assert_allclose(found["last"], h, 1e-12)
    np.testing.assert_allclose(found["ys"], np.stack(states, 1), 1e-12)


def test_scan_with_nothing_to_scan_counts():
    with Builder("powers") as b:
        x = b.input("x", f64(3))
        last, ys = scan(lambda c: (c * 2.0, c), [x], length=5, reverse=True)
        graph = b.finish({"last": last, "ys": ys})
    compare(graph, arrays_for(graph))


def test_scan_with_nothing_to_scan_of_symbolic_length():
    with Builder("powers") as b:
        x, like = b.input("x", f64(3)), b.input("like", f64(T))
        last, ys = scan(lambda c: (c * 2.0, c), [x], length=T)
        graph = b.finish({"last": last, "y": ys.sum(0) * like.sum()})
    for time in (0, 1, 4):
        compare(graph, arrays_for(graph, T=time))


# --- scan: layouts and what crosses the border -----------------------------------------------


def test_scanning_another_axis_needs_no_transpose():
    model = lower(prepare(recurrent(7, 2)))
    count = Counter(n.op_type for n in nodes_of(model.graph))
    assert count["Transpose"] == 1  # of the stacked states, at the end
    (loop,) = (n for n in model.graph.node if n.op_type == "Scan")
    (axes,) = (a.ints for a in loop.attribute if a.name == "scan_input_axes")
    assert list(axes) == [1]


def test_an_operand_the_same_in_all_steps_is_not_scanned():
    with Builder("same") as b:
        c, v = b.input("c", f64(3)), b.input("v", f64(3))
        xs = v.broadcast_to((6, 3))
        last, same, ys = scan(lambda c, x, z: (c + x * z, x, c), [c],
                              [xs, constant(2, f64).broadcast_to((6, 3))])  # fmt: skip
        graph = b.finish({"last": last, "same": same, "ys": ys})
    compare(graph, arrays_for(graph))
    (loop,) = (n for n in lower(graph).graph.node if n.op_type == "Scan")
    (body,) = (a.g for a in loop.attribute if a.name == "body")
    assert len(body.input) == 2  # the carry and the steps' number
    assert len(body.output) == 2  # the carry and one stack


def test_invariants_are_computed_once_outside_a_loop():
    with Builder("invariant") as b:
        x, w = b.input("x", f64(5, 2, 4)), b.input("w", f64(4, 4))
        (last,) = scan(lambda h, x, w: (TANH(x + h @ TANH(w * 3.0)),),
                       [constant(0, f64).broadcast_to((2, 4))], [x], [w])  # fmt: skip
        graph = b.finish({"last": last})
    compare(graph, arrays_for(graph))
    outside = Counter(n.op_type for n in lower(graph).graph.node)
    assert outside["Tanh"] == 1


def test_invariants_stay_inside_a_branch():
    with Builder("lazy") as b:
        go, w = b.input("go", boolean()), b.input("w", f64(4))
        (y,) = cond(go, lambda w: (TANH(w),), lambda w: (w,), w)
        graph = b.finish({"y": y})
    assert [n.op_type for n in lower(graph).graph.node] == ["If"]


def _image_cell(h: Value, x: Value, w: Value) -> tuple[Value, Value]:
    ones = (1, 1)
    y = get("conv")(h, w, strides=ones, padding=((1, 1), (1, 1)), input_dilation=ones,
                    kernel_dilation=ones, groups=1)  # fmt: skip
    new = TANH(y + x)
    return new, new.sum((1, 2))


def _images() -> Graph:
    with Builder("images") as b:
        h, xs = b.input("h", f32(N, 5, 6, 2)), b.input("xs", f32(T, N, 5, 6, 2))
        w = b.variable("w", f32(3, 3, 2, 2))
        last, ys = scan(_image_cell, [h], [xs], [w])
        return b.finish({"last": last, "ys": ys})


def test_images_go_from_step_to_step_as_convolutions_hold_them():
    graph = _images()
    compare(graph, arrays_for(graph, T=4, N=2), 2e-6)
    (branch,) = (n for n in lower(graph).graph.node if n.op_type == "If")
    then = next(a.g for a in branch.attribute if a.name == "then_branch")
    (loop,) = (n for n in then.node if n.op_type == "Scan")
    inside = Counter(n.op_type for n in loop.attribute[0].g.node)
    assert inside["Conv"] == 1
    assert inside["Transpose"] == 1  # of the slice; the carry needs none


def test_carries_swap_and_pass_through():
    with Builder("fibonacci") as b:
        a, c, d = (b.input(k, f64(2)) for k in "acd")
        out = scan(lambda a, c, d, x: (c, a + c, d, x, d), [a, c, d], [b.input("x", f64(4, 2))])
        graph = b.finish({f"y{i}": v for i, v in enumerate(out)})
    compare(graph, arrays_for(graph))


@pytest.mark.parametrize("dtype", [pytest.param(d, id=d.name) for d in DTYPES.values()])
def test_control_flow_on_every_dtype(dtype):
    step = (lambda c, x: (c ^ x, c)) if dtype.is_bool else (lambda c, x: (c + x, c * x))
    with Builder("typed") as b:
        c, xs, n = b.input("c", dtype(3)), b.input("xs", dtype(4, 3)), b.input("n", i32())
        last, ys = scan(step, [c], [xs])
        back, _ = scan(step, [c], [xs], reverse=True)
        _, looped = while_(lambda i, c, x, n: i < n, lambda i, c, x, n: (i + 1, step(c, x)[0]),
                           [constant(0, i32), c], [xs[0], n])  # fmt: skip
        chosen, _ = cond(n > 2, step, lambda c, x: (x, c), c, xs[1])
        graph = b.finish({"last": last, "ys": ys, "back": back, "l": looped, "chosen": chosen})
    limit = {f16: 4e-3, bf16: 4e-2, f32: 1e-6, f64: 1e-14}.get(dtype, 0)
    for seed in (0, 4):
        compare(graph, arrays_for(graph, seed), limit)


def test_constants_of_a_body_are_initializers_of_the_model():
    table = np.arange(12.0).reshape(4, 3)
    with Builder("table") as b:
        c, xs = b.input("c", f64(3)), b.input("xs", f64(5, 4))
        (last,) = scan(lambda c, x: (c + x @ constant(table, f64),), [c.reshape(1, 3)],
                       [xs.reshape(5, 1, 4)])  # fmt: skip
        graph = b.finish({"last": last})
    compare(graph, arrays_for(graph))
    model = lower(graph)
    assert any(list(i.dims) == [4, 3] for i in model.graph.initializer)
    inside = [a.g for n in model.graph.node for a in n.attribute if a.HasField("g")]
    assert inside
    assert not any(g.initializer for g in inside)


def test_names_differ_all_over_the_model():
    def layer(x, name):
        with b.scope(name):
            return scan(lambda c, x: (TANH(c + x), c), [constant(0, f64).broadcast_to((3,))], [x])

    with Builder("names") as b:
        _, ys = layer(b.input("x", f64(4, 3)), "first")
        last, _ = layer(ys, "second")
        graph = b.finish({"y": last})
    found = [o for n in nodes_of(lower(graph).graph) for o in n.output]
    assert len(found) == len(set(found))
    assert any(name.startswith("first/") for name in found)
    compare(graph, arrays_for(graph))


def test_softmax_in_a_body_is_one_operator():
    def attend(c, x):
        e = get("exp")(x - x.max(-1, keepdims=True))
        return (c + e / e.sum(-1, keepdims=True),)

    with Builder("attention") as b:
        c, xs = b.input("c", f64(2, 5)), b.input("xs", f64(4, 2, 5))
        graph = b.finish({"y": scan(attend, [c], [xs])[0]})
    compare(graph, arrays_for(graph))
    assert "Softmax" in [n.op_type for n in nodes_of(lower(graph).graph)]


# --- while -----------------------------------------------------------------------------------


def _collatz(n: Value) -> Value:
    def step(i, n):
        half, other = n // 2, n * 3 + 1
        return i + 1, sugar.select(sugar.binary("equal", n % 2, 0), half, other)

    return while_(lambda i, n: n > 1, step, [constant(0, i64), n])[0]


@pytest.mark.parametrize(("start", "steps"), [(1, 0), (2, 1), (6, 8), (27, 111)])
def test_while_counts_the_steps_of_collatz(start, steps):
    with Builder("collatz") as b:
        graph = b.finish({"steps": _collatz(b.input("n", i64()))})
    assert run_graph(graph, {"n": np.array(start, np.int64)})["steps"] == steps


def test_while_on_symbolic_arrays():
    with Builder("halving") as b:
        x, least = b.input("x", f64(N, 3)), b.input("least", f64())
        y, count = while_(lambda x, n, least: abs(x).max() > least,
                          lambda x, n, least: (x * 0.5, n + 1), [x, constant(0, i32)],
                          [least])  # fmt: skip
        graph = b.finish({"y": y, "count": count})
    for batch, least in [(2, 0.01), (3, 10.0), (1, 0.4)]:
        arrays = arrays_for(graph, N=batch) | {"least": np.array(least)}
        compare(graph, arrays)


# --- cond ------------------------------------------------------------------------------------


@pytest.mark.parametrize("go", [False, True])
def test_cond_with_results_held_in_different_ways(go):
    with Builder("branches") as b:
        p, x = b.input("p", boolean()), b.input("x", f64(N, 3))
        out = cond(
            p,
            lambda x: (x.T, x, constant(1, f64).broadcast_to(x.shape), x),
            lambda x: (constant(0, f64).broadcast_to(x.T.shape), x * 2.0, x, x),
            x,
        )
        graph = b.finish({f"y{i}": v for i, v in enumerate(out)})
    for batch in (0, 1, 4):
        compare(graph, arrays_for(graph, N=batch) | {"p": np.array(go)})


# --- nesting ---------------------------------------------------------------------------------


def _nested() -> Graph:
    """A scan of rows, in it a scan of elements, in it a branch, in it a loop."""

    def element(total, x, limit):
        def shrink(x, limit):
            return while_(lambda x, limit: x > limit, lambda x, limit: (x * 0.5,), [x], [limit])

        (y,) = cond(x > 0.0, shrink, lambda x, limit: (x - limit,), x, limit)
        return total + y, y

    def row(total, xs, limit):
        inner, ys = scan(element, [total], [xs], [limit])
        return inner, ys, inner

    with Builder("nested") as b:
        x, limit = b.input("x", f64(T, N)), b.variable("limit", f64())
        total, ys, sums = scan(row, [constant(0, f64)], [x], [limit], reverse=True)
        return b.finish({"total": total, "ys": ys, "sums": sums}, [(limit, limit * 0.9)])


@pytest.mark.parametrize("sizes", [(4, 3), (1, 1), (0, 2), (2, 0)])
def test_regions_in_regions(sizes):
    graph = _nested()
    arrays = arrays_for(graph, T=sizes[0], N=sizes[1]) | {"limit": np.array(0.2)}
    compare(graph, arrays)


def test_a_region_reads_results_of_the_graph_around_it():
    """Values that are outputs, and so renamed, are captured under their last name."""
    with Builder("captured") as b:
        x = b.input("x", f64(4, 3))
        doubled = x * 2.0
        (y,) = cond(x.sum() > 0.0, lambda d: (TANH(d),), lambda d: (d,), doubled)
        (last,) = scan(lambda c, x, d: (c + x * d.sum(),), [doubled[0]], [x], [doubled])
        graph = b.finish({"doubled": doubled, "again": doubled, "y": y, "last": last})
    compare(graph, arrays_for(graph))
    compare(graph, arrays_for(graph, seed=3))


# --- files and training ----------------------------------------------------------------------


def test_weights_that_steps_share_are_baked_into_the_body():
    """Batch normalization behind a product in a body is folded into the product's weights."""

    def normalized(h, x, w, mean, scale):
        y = x @ w
        columns = {"shape": y.shape, "axes": (1,)}
        shifted = y - get("broadcast")(mean, **columns)
        new = TANH(h + shifted * get("broadcast")(scale, **columns))
        return new, new

    with Builder("normalized") as b:
        x = b.input("x", f64(N, 5, 3))
        state = [b.variable("w", f64(3, 4)), b.variable("mean", f64(4)), b.variable("s", f64(4))]
        h = constant(0, f64).broadcast_to((N, 4))
        last, ys = scan(normalized, [h], [x.transpose(1, 0, 2)], state)
        graph = prepare(b.finish({"last": last, "ys": ys}))
    arrays = arrays_for(graph, N=3)
    expected = evaluate(graph, arrays).outputs
    baked, names = bake(graph, {k: arrays[k] for k in ("w", "mean", "s")})
    assert not baked.state
    found = run_graph(baked, {"x": arrays["x"]})
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, 1e-12, 1e-12)
    model = lower(baked, constant_names=names)
    inside = Counter(n.op_type for n in nodes_of(model.graph))
    assert inside["Mul"] == inside["Sub"] == 0


@pytest.mark.parametrize("kind", ["while", "cond"])
def test_other_regions_take_baked_constants(kind):
    with Builder("frozen") as b:
        x, w = b.input("x", f64(N, 3)), b.variable("w", f64(3, 3))
        if kind == "cond":
            (y,) = cond(x.sum() > 0.0, lambda x, w: (x @ w,), lambda x, w: (x * w[0, 0],), x, w)
        else:
            _, y = while_(lambda i, x, w: i < 4, lambda i, x, w: (i + 1, TANH(x @ w)),
                          [constant(0, i32), x], [w])  # fmt: skip
        graph = prepare(b.finish({"y": y}))
    arrays = arrays_for(graph, N=2)
    baked, names = bake(graph, {"w": arrays["w"]})
    np.testing.assert_allclose(
        run_graph(baked, {"x": arrays["x"]})["y"], evaluate(graph, arrays).outputs["y"], 1e-12
    )
    assert "w" in {i.name for i in lower(baked, constant_names=names).graph.initializer}


def test_an_exported_recurrent_model_is_one_file(tmp_path):
    graph = recurrent(T, N, dtype=f32)
    arrays = arrays_for(graph, T=6, N=2)
    weights = {v.name: arrays[v.name] for v in graph.state}
    export_inference(graph, weights, tmp_path / "rnn.onnx")
    model = onnx.load(tmp_path / "rnn.onnx")
    assert {i.name for i in model.graph.initializer} >= {"w", "u"}
    for time, batch in [(6, 2), (1, 3), (0, 2)]:
        arrays = arrays_for(graph, T=time, N=batch) | weights
        expected = evaluate(graph, arrays).outputs
        found = session_of(model).run(None, {"x": arrays["x"]})
        for name, array in zip(graph.output_names, found, strict=True):
            np.testing.assert_allclose(array, expected[name], 1e-5, 1e-6)


def _training_step(gradient: str) -> Graph:
    """An RNN on sequences of any length and number, a loss, its gradients, and SGD."""
    with Builder("train") as b:
        x, y = b.input("x", f64(N, T, 3)), b.input("y", f64(N, 2))
        w, u, out = (
            b.variable(name, f64(*shape))
            for name, shape in (("w", (3, 4)), ("u", (4, 4)), ("out", (4, 2)))
        )
        h = constant(0, f64).broadcast_to((N, 4))
        last, ys = scan(cell, [h], [x.transpose(1, 0, 2)], [w, u], gradient=gradient)
        error = (last + ys.sum(0) * 0.1) @ out - y
        loss = (error * error).sum()
        grads = gradients(loss, [w, u, out, x])
        updates = [(v, v - g * 0.01) for v, g in zip((w, u, out), grads, strict=False)]
        return b.finish({"loss": loss, "dx": grads[3]}, updates)


@pytest.mark.parametrize("gradient", ["store", "recompute"])
def test_a_training_step_with_a_loop(gradient):
    graph = _training_step(gradient)
    for time, batch in [(5, 2), (1, 3), (0, 2)]:
        compare(graph, arrays_for(graph, T=time, N=batch), 1e-11)


def test_an_exported_training_step_with_a_loop_learns(tmp_path):
    graph = _training_step("store")
    arrays = arrays_for(graph, T=4, N=3)
    weights = {v.name: arrays[v.name] for v in graph.state}
    export_train_step(graph, weights, tmp_path / "train.onnx")
    session = session_of(onnx.load(tmp_path / "train.onnx"))
    batch = {k: arrays[k] for k in ("x", "y")}
    names = ["loss", *(f"new/{k}" for k in weights)]
    losses, state = [], {}
    for _ in range(30):
        loss, *new = session.run(names, {**batch, **state})
        state = dict(zip(weights, new, strict=True))
        losses.append(float(loss))
        arrays |= evaluate(graph, arrays).updates
    assert losses[-1] < 0.5 * losses[0]
    for name, array in state.items():
        np.testing.assert_allclose(array, arrays[name], 1e-10, 1e-12)


def test_gradients_of_branches():
    with Builder("branch") as b:
        p, x = b.input("p", boolean()), b.input("x", f64(N, 3))
        w = b.variable("w", f64(3))
        (y,) = cond(p, lambda x, w: (TANH(x * w),), lambda x, w: (x - w * w,), x, w)
        dx, dw = gradients(y.sum(), [x, w])
        graph = b.finish({"y": y, "dx": dx}, [(w, w - dw)])
    for go in (False, True):
        compare(graph, arrays_for(graph, N=4) | {"p": np.array(go)})
