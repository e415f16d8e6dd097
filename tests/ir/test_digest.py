"""Digests: equal for the same graph, whatever its names; another for all that differs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hornfels.ir import Builder, Graph, Value, parse, sugar
from hornfels.ir.digest import digest
from hornfels.ir.op import REGISTRY, get
from hornfels.ir.types import f32, f64, i32, symbol


def graph_of(
    function: Callable[[Value, Value], Value], *, shape: tuple = (3, 4), dtype=f32, update=True,
    is_state=True,
) -> Graph:  # fmt: skip
    with Builder("g") as b:
        x = b.input("x", dtype(*shape))
        w = b.variable("w", dtype(*shape)) if is_state else b.input("w", dtype(*shape))
        return b.finish({"y": function(x, w)}, [(w, x + w)] if update and is_state else [])


def constant(number: float) -> Callable[[Value, Value], Value]:
    return lambda x, w: x * np.array([number] * 4, np.float32)


DIFFERENT = {
    "plain": graph_of(lambda x, w: x * w),
    "other op": graph_of(lambda x, w: x - w),
    "other order": graph_of(lambda x, w: w * x),
    "other shape": graph_of(lambda x, w: x * w, shape=(4, 3)),
    "open shape": graph_of(lambda x, w: x * w, shape=(symbol("N"), 4)),
    "other symbol": graph_of(lambda x, w: x * w, shape=(symbol("M"), 4)),
    "other dtype": graph_of(lambda x, w: x * w, dtype=f64),
    "no update": graph_of(lambda x, w: x * w, update=False),
    "no state": graph_of(lambda x, w: x * w, is_state=False),
    "axis": graph_of(lambda x, w: x.sum(0)),
    "other axis": graph_of(lambda x, w: x.sum(1)),
    "two": graph_of(constant(2.0)),
    "three": graph_of(constant(3.0)),
    "zero": graph_of(constant(0.0)),
    "minus zero": graph_of(constant(-0.0)),
    "nan": graph_of(constant(np.nan)),
    "minus nan": graph_of(constant(-np.nan)),
    "integer two": graph_of(lambda x, w: x * sugar.cast(np.array([2] * 4, np.int32), f32)),
    "cast": graph_of(lambda x, w: sugar.cast(x, i32)),
    "other cast": graph_of(lambda x, w: sugar.cast(x, f64)),
}


def test_what_differs_has_another_digest():
    found = {name: digest(graph) for name, graph in DIFFERENT.items()}
    assert len(set(found.values())) == len(found)


def test_names_and_lines_do_not_count():
    def named(*names: str) -> Graph:
        with Builder(names[0]) as b, b.scope(names[1]):
            x, w = b.input(names[2], f32(3)), b.variable(names[3], f32(3))
            return b.finish({names[4]: x * w}, [(w, x + w)])

    assert digest(named(*"abcde")) == digest(named(*"vwxyz"))


def test_bodies_count():
    def looped(factor: float) -> Graph:
        with Builder("body") as inner:
            c = inner.input("c", f32())
            body = inner.finish({"c": c * factor})
        with Builder("g") as b:
            x = b.input("x", f32())
            scan = get("scan")
            return b.finish({"y": scan(x, body=body, carry=1, stacked=0, length=3)})

    assert digest(looped(2.0)) == digest(looped(2.0))
    assert digest(looped(2.0)) != digest(looped(3.0))


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_attributes_of_all_ops_have_a_digest(name):
    for sample in REGISTRY[name].samples:
        with Builder("sample") as b:
            inputs = [b.input(f"x{i}", t) for i, t in enumerate(sample.types)]
            outputs = REGISTRY[name].all(*inputs, **sample.attrs)
            graph = b.finish({f"y{i}": v for i, v in enumerate(outputs)})
        assert digest(parse(str(graph))) == digest(graph)


def test_an_unknown_kind_of_attribute_is_refused():
    graph = graph_of(lambda x, w: x * 2.0)
    node = next(n for n in graph.nodes if n.op.name == "constant")
    node.attrs = {"value": object()}
    with pytest.raises(TypeError, match="an attribute is a object"):
        digest(graph)
