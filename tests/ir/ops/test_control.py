"""scan, while and cond: derivatives of bodies of all kinds, and what the way back stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import conformance
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hornfels.ir import REGISTRY, Builder, Graph, TensorType, Value, evaluate, gradients, verify
from hornfels.ir.autodiff import jvp
from hornfels.ir.errors import GradientError
from hornfels.ir.op import Case, case
from hornfels.ir.ops.common import N
from hornfels.ir.residuals import CHEAP
from hornfels.ir.sugar import cast, full, select, unary
from hornfels.ir.types import boolean, f16, f32, f64, i32, u32

scan, while_, cond = REGISTRY["scan"], REGISTRY["while"], REGISTRY["cond"]
Body = Callable[..., Any]


def graph_of(body: Body, *types: TensorType) -> Graph:
    with Builder("body") as b:
        results = body(*(b.input(f"p{i}", t) for i, t in enumerate(types)))
        return b.finish({f"r{i}": v for i, v in enumerate(results)})


def scans(op: Any, types: list[TensorType], body: Body, slices: list[TensorType],
          **attrs: Any) -> Case:  # fmt: skip
    return case(*types, body=graph_of(body, *slices), **attrs)


# --- bodies ----------------------------------------------------------------------------------


def lstm(h: Value, c: Value, x: Value, w: Value, u: Value) -> tuple[Value, ...]:
    z = x @ w + h @ u
    i, f, g, o = (z[:, k * 2 : k * 2 + 2] for k in range(4))
    c = unary("sigmoid", f) * c + unary("sigmoid", i) * unary("tanh", g)
    h = unary("sigmoid", o) * unary("tanh", c)
    return h, c, h


def counted(i: Value, x: Value, total: Value, w: Value) -> tuple[Value, ...]:
    """An integer carry that the gradient depends on."""
    scale = cast(i, x.dtype) + 1.0
    x = unary("sin", x * scale * w)
    return i + 2, x, total + x * x, i


def random_walk(key: Value, x: Value) -> tuple[Value, ...]:
    bits = REGISTRY["rng_bits"](key, shape=(3,))
    keep = bits < np.uint32(1 << 31)
    return key + np.uint32(1), select(keep, unary("sin", x) * 2.0, 0.0), keep


def chooses(x: Value, flag: Value, w: Value) -> tuple[Value, ...]:
    """cond in scan."""
    then = graph_of(lambda x, w: [unary("tanh", x * w)], x.type, w.type)
    otherwise = graph_of(lambda x, w: [x + 0.5 * w], x.type, w.type)
    (y,) = cond.all(flag, x, w, then=then, otherwise=otherwise)
    return y, y * y


def nested(x: Value, xs: Value, w: Value) -> tuple[Value, ...]:
    """scan in scan; the inner one runs the other way."""
    inner = graph_of(lambda c, x, w: (unary("tanh", c * w + x), c * x), x.type, x.type, w.type)
    last, ys = scan.all(x, xs, w, body=inner, carry=1, stacked=1, length=2, reverse=True)
    return last, ys.sum(0) + last


def forgets(a: Value, b: Value, x: Value) -> tuple[Value, ...]:
    """The new a does not depend on the old one, b does on a; the last b is returned."""
    return x * x, b * a, a + b


def first_is(taken: bool) -> Callable[[Any], Any]:
    return lambda arrays: [np.asarray(taken), *arrays[1:]]


def cases(dtype: Any) -> dict[str, tuple[Any, Case]]:
    m, v = dtype(2, 2), dtype(3)
    x2, w8 = dtype(4, 2, 3), [dtype(3, 8), dtype(2, 8)]
    state = [m, m]
    return {
        "lstm": (scan, scans(scan, [*state, x2, *w8], lstm, [*state, dtype(2, 3), *w8],
                             carry=2, stacked=1, length=4)),
        "lstm-recompute": (scan, scans(scan, [*state, x2, *w8], lstm, [*state, dtype(2, 3), *w8],
                                       carry=2, stacked=1, length=4, gradient="recompute")),
        "counted": (scan, scans(scan, [i32(), v, v, v], counted, [i32(), v, v, v],
                                carry=3, stacked=0, length=3, reverse=True)),
        "counted-recompute": (scan, scans(scan, [i32(), v, v, v], counted, [i32(), v, v, v],
                                          carry=3, stacked=0, length=3, gradient="recompute")),
        "random": (scan, scans(scan, [u32(2), v], random_walk, [u32(2), v],
                               carry=2, stacked=0, length=3)),
        "cond-in-scan": (scan, scans(scan, [v, boolean(4), v], chooses, [v, boolean(), v],
                                     carry=1, stacked=1, length=4)),
        "scan-in-scan": (scan, scans(scan, [v, dtype(3, 2, 3), v], nested, [v, dtype(2, 3), v],
                                     carry=1, stacked=1, length=3)),
        "scan-in-scan-recompute": (
            scan, scans(scan, [v, dtype(3, 2, 3), v], nested, [v, dtype(2, 3), v],
                        carry=1, stacked=1, length=3, gradient="recompute")),
        "forgets": (scan, scans(scan, [v, v, dtype(3, 3)], forgets, [v, v, v],
                                carry=2, stacked=1, length=3)),
        **{f"overwritten-{length}": (scan, scans(
            scan, [v, dtype(length, 3)], lambda c, x: [x], [v, v],
            carry=1, stacked=1, length=length)) for length in (0, N)},
        **{f"overwritten-by-a-constant-{length}": (scan, scans(
            scan, [v], lambda c: [full((3,), 2.0, f32), c * c], [v],
            carry=1, stacked=0, length=length)) for length in (0, 2)},
        "map": (scan, scans(scan, [dtype(N, 3), v], lambda x, w: [unary("exp", x) * w], [v, v],
                            carry=0, stacked=1, length=N)),
        **{f"matmul-in-cond-{taken}": (cond, case(
            boolean(), m, m, prepare=first_is(taken),
            then=graph_of(lambda x, w: (unary("tanh", x @ w), x), m, m),
            otherwise=graph_of(lambda x, w: (unary("exp", w), x * 2.0), m, m)))
            for taken in (True, False)},
        **{f"scan-in-cond-{taken}": (cond, case(
            boolean(), v, dtype(2, 3), v, prepare=first_is(taken),
            then=graph_of(nested, v, dtype(2, 3), v),
            otherwise=graph_of(lambda x, xs, w: (x * w, xs.sum(0)), v, dtype(2, 3), v)))
            for taken in (True, False)},
        **{f"constant-branch-{taken}": (cond, case(
            boolean(), v, prepare=first_is(taken),
            then=graph_of(lambda x: [x * x * x], v),
            otherwise=graph_of(lambda x: [select(x < x, x, 2.0)], v)))
            for taken in (True, False)},
    }  # fmt: skip


CASES = cases(f32)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_agree_with_differences(name: str) -> None:
    op, sample = CASES[name]
    conformance.check_types(op, sample)
    conformance.check_text(op, sample)
    conformance.check_vjp(op, sample)
    conformance.check_second_vjp(op, sample)
    conformance.check_jvp(op, sample)


# --- against JAX -----------------------------------------------------------------------------


def jax_lstm(state: Any, x: Any, w: Any, u: Any) -> Any:
    h, c = state
    i, f, g, o = jnp.split(x @ w + h @ u, 4, axis=1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def lstm_operands(length: int) -> list[np.ndarray]:
    rng = np.random.default_rng(length)
    shapes = [(2, 2), (2, 2), (length, 2, 3), (3, 8), (2, 8)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("gradient", ["store", "recompute"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [0, 1, 5])
def test_scan_agrees_with_jax(length: int, reverse: bool, gradient: str) -> None:
    arrays = lstm_operands(length)

    def loss(h: Any, c: Any, x: Any, w: Any, u: Any) -> Any:
        (h, c), ys = jax.lax.scan(lambda s, x: jax_lstm(s, x, w, u), (h, c), x, reverse=reverse)
        return jnp.sum(h * 2 + c) + jnp.sum(ys * jnp.arange(length)[:, None, None])

    expected = [loss(*arrays), *jax.grad(loss, range(5))(*arrays)]
    with Builder("g") as b:
        v = [b.input(f"x{i}", f32(*a.shape)) for i, a in enumerate(arrays)]
        body = graph_of(lstm, f32(2, 2), f32(2, 2), f32(2, 3), f32(3, 8), f32(2, 8))
        h, c, ys = scan.all(*v, body=body, carry=2, stacked=1, length=length, reverse=reverse,
                            gradient=gradient)  # fmt: skip
        weights = np.broadcast_to(
            np.arange(length, dtype=np.float32)[:, None, None], (length, 2, 2)
        )
        total = (h * 2.0 + c).sum() + (ys * weights).sum()
        found = {"loss": total} | dict(zip("hcxwu", gradients(total, v), strict=True))
        graph = verify(b.finish({k: x for k, x in found.items() if x is not None}))
    got = evaluate(graph, {f"x{i}": a for i, a in enumerate(arrays)}).outputs
    for x, (name, value) in zip(expected, found.items(), strict=True):
        array = got[name] if value is not None else np.zeros(x.shape)
        np.testing.assert_allclose(array, x, rtol=2e-5, atol=2e-5, err_msg=name)


def newton(i: Value, x: Value, a: Value, n: Value) -> tuple[Value, ...]:
    return i + 1, 0.5 * (x + a / x)


def test_forward_mode_of_while_agrees_with_jax() -> None:
    """The square root by Newton's method: the number of steps is an operand."""
    types = [i32(), f64(3), f64(3), i32()]
    body = graph_of(newton, *types)
    condition = graph_of(lambda i, x, a, n: [i < n], *types)
    with Builder("g") as b:
        i, x, a, n, t = (b.input(k, y) for k, y in zip("ixant", [*types, f64(3)], strict=True))
        outputs = while_.all(i, x, a, n, condition=condition, body=body, carry=2)
        none, tangent = jvp(outputs, [a], [t])
        assert none is None
        assert tangent is not None
        graph = verify(b.finish({"x": outputs[1], "t": tangent}))
    arrays = {"i": np.int32(0), "x": np.ones(3), "a": np.asarray([2.0, 3.0, 4.0]),
              "n": np.int32(9), "t": np.asarray([1.0, 0.5, -1.0])}  # fmt: skip
    got = evaluate(graph, {k: np.asarray(v) for k, v in arrays.items()}).outputs
    np.testing.assert_allclose(got["x"], np.sqrt(arrays["a"]), rtol=1e-12)
    np.testing.assert_allclose(got["t"], arrays["t"] / (2 * np.sqrt(arrays["a"])), rtol=1e-12)


def test_while_has_no_way_back_and_says_so() -> None:
    types = [i32(), f32(3), f32(3), i32()]
    loop = {"body": graph_of(newton, *types),
            "condition": graph_of(lambda i, x, a, n: [i < n], *types)}  # fmt: skip
    with Builder("g") as b:
        v = [b.input(f"x{i}", t) for i, t in enumerate(types)]
        _, x = while_.all(*v, **loop, carry=2)
        with pytest.raises(GradientError, match="while: has no gradient: the number of steps"):
            gradients(x.sum(), [v[2]])


def test_an_integer_loop_is_no_hindrance() -> None:
    """What the gradient does not pass through needs no gradient."""
    types = [i32(), i32()]
    loop = {"body": graph_of(lambda i, n: [i * 2], *types),
            "condition": graph_of(lambda i, n: [i < n], *types)}  # fmt: skip
    with Builder("g") as b:
        x, i, n = b.input("x", f32(3)), b.input("i", i32()), b.input("n", i32())
        (last,) = while_.all(i, n, **loop, carry=1)
        (g,) = gradients((x * cast(last, f32)).sum(), [x])
        assert g is not None
        graph = b.finish({"g": g})
    arrays = {"x": np.ones(3, np.float32), "i": np.int32(1), "n": np.int32(10)}
    got = evaluate(graph, {k: np.asarray(v) for k, v in arrays.items()}).outputs["g"]
    np.testing.assert_array_equal(got, np.full(3, 16, np.float32))


# --- what is stored --------------------------------------------------------------------------


def stacked_by_the_second_scan(wrt: list[int], gradient: str, body: Body = lstm) -> list[str]:
    """The types that each step stores for the way back."""
    with Builder("g") as b:
        v = [b.input(f"x{i}", f32(*a.shape)) for i, a in enumerate(lstm_operands(4))]
        graph = graph_of(body, f32(2, 2), f32(2, 2), f32(2, 3), f32(3, 8), f32(2, 8))
        h, *_ = scan.all(*v, body=graph, carry=2, stacked=1, length=4, gradient=gradient)
        found = gradients(h.sum(), [v[i] for i in wrt])
        nodes = b.finish({f"g{i}": g for i, g in enumerate(found) if g is not None}).nodes
    _, forward, _ = ([None] * 3 + [n for n in nodes if n.op is scan])[-3:]
    if forward is None:
        return []
    return [str(v.type) for v in forward.outputs[2:]]


def test_recompute_stores_the_carries_alone() -> None:
    everything = stacked_by_the_second_scan([0, 1, 2, 3, 4], "store")
    carries = stacked_by_the_second_scan([0, 1, 2, 3, 4], "recompute")
    assert carries == ["f32[4,2,2]"] * 2
    assert everything == ["f32[4,2,2]"] * 7  # h, c, four gates and tanh(c)


def test_frozen_weights_store_nothing() -> None:
    """Without a derivative by u nobody needs h, which is stored for it alone."""
    assert len(stacked_by_the_second_scan([0, 1, 2, 3], "store")) == 6


def test_cheap_ops_are_elementwise_ops_of_the_registry() -> None:
    assert all(REGISTRY[name].kind == "elementwise" for name in CHEAP)


def test_what_is_stored_of_two_candidates_is_the_smaller_one() -> None:
    def masked(h: Value, c: Value, x: Value, w: Value, u: Value) -> tuple[Value, ...]:
        wide = unary("exp", (h @ u).sum(1, keepdims=True)).broadcast_to((2, 2))
        return select(unary("sin", h) > 0.0, h * 2.0, h) * wide, c

    stored = stacked_by_the_second_scan([0], "store", masked)
    assert "bool[4,2,2]" in stored
    assert "f32[4,2,1]" in stored


def test_narrow_weights_sum_their_cotangents_in_f32() -> None:
    length, step = 3000, graph_of(lambda c, w: [c * 1.0 + w * 0.5], f16(2), f16(2))
    with Builder("g") as b:
        c, w = b.input("c", f16(2)), b.input("w", f16(2))
        (last,) = scan.all(c, w, body=step, carry=1, stacked=0, length=length)
        (g,) = gradients(last.sum(), [w])
        assert g is not None
        assert g.dtype == f16
        graph = b.finish({"g": g})
    got = evaluate(graph, {"c": np.zeros(2, np.float16), "w": np.ones(2, np.float16)})
    np.testing.assert_array_equal(got.outputs["g"], np.full(2, 1500, np.float16))
