"""Both sweeps on small graphs: what they emit, what they leave out, what they refuse."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from hornfels.ir import REGISTRY, Builder, evaluate, gradients, jvp, pullback, symbol
from hornfels.ir.errors import GradientError, ShapeError
from hornfels.ir.op import Reason
from hornfels.ir.types import f32, f64, i32

N = symbol("N")


def op(name, *operands, **attrs):
    return REGISTRY[name](*operands, **attrs)


def counted(graph):
    return Counter(node.op.name for node in graph.nodes)


def test_a_tangent_is_the_product_with_the_jacobian():
    with Builder() as b:
        x, v = b.input("x", f64(3)), b.input("v", f64(3))
        y = op("sin", x) * x
        (dy,) = jvp([y], [x], [v])
        graph = b.finish({"dy": dy})
    at, along = np.array([0.3, -1.0, 2.0]), np.array([1.0, 2.0, -0.5])
    found = evaluate(graph, {"x": at, "v": along}).outputs["dy"]
    np.testing.assert_allclose(found, (np.cos(at) * at + np.sin(at)) * along, rtol=1e-14)


def test_what_does_not_move_has_no_tangent():
    with Builder() as b:
        x, y = b.input("x", f32(3)), b.input("y", f32(3))
        outputs = [x * y, op("floor", x), op("stop_gradient", y), y + 1]
        found = jvp(outputs, [x, y], [x, None])
    assert found[0] is not None
    assert found[1:] == [None, None, None]


def test_linear_ops_move_tangents_as_they_move_operands():
    with Builder() as b:
        x, v = b.input("x", f32(N, 4)), b.input("v", f32(N, 4))
        y = op("pad", x.T[1:].reshape((3 * N,)), low=(2,), high=(0,), interior=(0,), value=7.0)
        (dy,) = jvp([y], [x], [v])
        graph = b.finish({"dy": dy})
    assert counted(graph) == {"transpose": 1, "slice": 1, "reshape": 1, "pad": 1}
    assert graph.nodes[-1].attrs["value"] == 0.0


def test_a_transposed_rule_leaves_no_cotangents_behind():
    """max_pool has no jvp; its tangent reads what the maxima read."""
    assert REGISTRY["max_pool"].jvp is None
    with Builder() as b:
        x, v = b.input("x", f64(1, 4, 4, 1)), b.input("v", f64(1, 4, 4, 1))
        y = op("max_pool", x, window=(2, 2), strides=(2, 2), padding=((0, 0), (0, 0)))
        (dy,) = jvp([y], [x], [v])
        graph = b.finish({"dy": dy})
    at = np.arange(16.0).reshape(1, 4, 4, 1)
    found = evaluate(graph, {"x": at, "v": at * 10}).outputs["dy"]
    assert found.reshape(-1).tolist() == [50, 70, 130, 150]


def test_a_pullback_of_several_outputs_is_one_sweep():
    with Builder() as b:
        x, g = b.input("x", f32(3)), b.input("g", f32(3))
        hidden = op("exp", x)
        (dx,) = pullback([hidden * 2, hidden * 3, x], [x], [g, None, g])
        graph = b.finish({"dx": dx})
    found = evaluate(graph, {"x": np.zeros(3, np.float32), "g": np.ones(3, np.float32)})
    assert found.outputs["dx"].tolist() == [3, 3, 3]
    assert counted(graph)["exp"] == 1


def test_a_frozen_operand_is_not_differentiated_by():
    with Builder() as b:
        x, w, frozen = (b.input(n, f32(3, 3)) for n in ("x", "w", "frozen"))
        y = op("matmul", op("tanh", op("matmul", op("matmul", x, frozen), w)), frozen)
        grads = gradients(y.sum(), [w])
        graph = b.finish({"dw": grads[0]})
    # forward: x frozen, (x frozen) w; backward: through the last product, into w
    assert counted(graph)["matmul"] == 4


def test_a_reason_for_one_operand_is_raised_only_where_it_matters():
    def half(g, x, y, *, out):
        return g * y, Reason("it was not wanted")

    lopsided = replace(REGISTRY["mul"], vjp=half)
    with Builder() as b:
        x, y = b.input("x", f32(3)), b.input("y", f32(3))
        z = lopsided(x, y).sum()
        assert gradients(z, [x])[0] is not None
        assert jvp([z], [x], [x])[0] is not None
        with pytest.raises(GradientError, match="mul: has no gradient: it was not wanted"):
            gradients(z, [x, y])
        with pytest.raises(GradientError, match="mul: has no gradient: it was not wanted"):
            jvp([z], [y], [y])


def test_refusals():
    with Builder() as b:
        x, n = b.input("x", f32(3)), b.input("n", i32(3))
        y = op("exp", x)
        with pytest.raises(ShapeError, match=r"jvp: the tangent must be f32\[3\], got f32\[\]"):
            jvp([y], [x], [x.sum()])
        with pytest.raises(GradientError, match="jvp: only floating-point values have a tangent"):
            jvp([y], [n], [n])
        with pytest.raises(ShapeError, match=r"pullback: the cotangent must be f32\[3\]"):
            pullback([y], [x], [x.sum()])
        with pytest.raises(GradientError, match="only floating-point values have a cotangent"):
            pullback([n + 1], [x], [n])
        with pytest.raises(ShapeError, match="gradients: output must be a scalar"):
            gradients(y, [x])


def test_a_derivative_of_a_long_chain_grows_linearly():
    """Each rule looks at its own nodes only, in both directions."""

    def nodes_of(length: int) -> tuple[int, int]:
        with Builder() as b:
            x, v = b.input("x", f32(3)), b.input("v", f32(3))
            y = x
            for _ in range(length):
                y = op("select", y > 0, op("tanh", y).reshape((3, 1)).sum(1), y * y)
            (dy,) = jvp([y], [x], [v])
            (dx,) = gradients(y.sum(), [x])[:1]
            return len(b.finish({"dy": dy}).nodes), len(b.finish({"dx": dx}).nodes)

    short, long = nodes_of(20), nodes_of(200)
    for few, many in zip(short, long, strict=True):
        assert many < 11 * few
