"""Every rule against a golden program where it fires, and one where it must not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from rule_goldens import BY_NAME, GOLDEN, check_equal, read

from hornfels.ir import parse, verify
from hornfels.ir.op import get
from hornfels.ir.rewrite import Rule, explain
from hornfels.ir.types import as_dtype
from hornfels.passes.rules import algebra
from hornfels.passes.simplify import Simplify


def test_every_rule_has_a_golden_file_and_no_file_is_left_over():
    assert {path.stem for path in GOLDEN.glob("*.ir")} == BY_NAME.keys()


@pytest.mark.parametrize("name", BY_NAME)
def test_rule_fires(name):
    golden = read(name)
    before = parse(golden.before)
    after, report = Simplify((BY_NAME[name],)).rewrite(before)
    assert str(verify(after)) == golden.after
    assert report.fired[name] >= 1
    check_equal(before, after)


@pytest.mark.parametrize("name", BY_NAME)
def test_rule_stays_away_and_says_why(name):
    golden = read(name)
    graph = parse(golden.stays)
    after, report = Simplify((BY_NAME[name],)).rewrite(graph)
    assert str(after) == golden.stays
    assert not report.fired
    assert explain(BY_NAME[name], graph).splitlines()[-1] == golden.reason


@pytest.mark.parametrize("name", BY_NAME)
def test_all_rules_together_keep_the_numbers(name):
    golden = read(name)
    for text in (golden.before, golden.stays):
        graph = parse(text)
        after = verify(Simplify().run(graph))
        assert len(after.nodes) <= len(graph.nodes) + 3
        check_equal(graph, after)


def broken(name: str, **changes) -> Rule:
    return dataclasses.replace(BY_NAME[name], **changes)


WRONG = [
    broken("mul-one", where=None),
    broken("add-zero", where=None),
    broken("div-exact", replace=lambda x, c, out: get("mul")(x, algebra.like(out, float(c)))),
    broken("select-not", replace=lambda c, x, y: get("select")(c, x, y)),
    broken("neg-sub", replace=lambda x, y: get("sub")(x, y)),
    broken("cast-cast", where=None),
    broken("number-padded", where=None),
    broken("transpose-transpose",
           replace=lambda x, q, r: get("transpose")(x, permutation=tuple(r[a] for a in q))),
    broken("reduce-broadcast", where=None,
           replace=lambda x, out: get("broadcast")(x.max(0), shape=out.shape, axes=())),
    broken("pad-conv", where=None),
    broken("matmul-transposed-b",
           replace=lambda a, b: get("matmul")(a, b, transpose_b=False)),
]  # fmt: skip


@pytest.mark.parametrize("rule", WRONG, ids=str)
def test_a_wrong_rule_is_caught(rule):
    golden = read(rule.name)
    caught = 0
    for text in (golden.before, golden.stays):
        graph = parse(text)
        try:
            check_equal(graph, verify(Simplify((rule,)).run(graph)))
        except (AssertionError, ValueError):
            caught += 1
    assert caught


def test_a_step_of_training_needs_few_simple_things():
    """What the frontend emits in masses is gone: stop_gradient, ones, reshapes of broadcasts."""
    from training_graphs import mlp

    graph = Simplify().run(mlp())
    names = [node.op.name for node in graph.nodes]
    assert "stop_gradient" not in names
    assert "transpose" not in names
    assert names.count("reshape") == 0


@pytest.mark.parametrize(
    ("rule", "dtype", "op", "number", "reason"),
    [
        ("div-exact", "f16", "div", 2.0**-14, "too large or too small"),
        ("div-exact", "i32", "div", 2, "not floating point"),
        ("scale-factor", "f16", "mul", 2.0, "overflows easily"),
        ("scale-factor", "f32", "mul", 2.0**20, "too large or too small"),
        ("mul-mul-exact", "f32", "mul", 2.0**100, "out of range"),
    ],
)
def test_rules_keep_out_of_overflow(rule, dtype, op, number, reason):
    inner = "broadcast[shape=(2,), axes=()](%k)" if rule == "mul-mul-exact" else (
        "broadcast[shape=(2,), axes=(0,)](%y)")  # fmt: skip
    graph = parse(f"""graph g(%x: {dtype}[2], %y: {dtype}[2]) {{
      %k: {dtype}[] = constant[value=dense<{dtype}[]: {hexadecimal(2.0**100, dtype)}>]()
      %c: {dtype}[] = constant[value=dense<{dtype}[]: {hexadecimal(number, dtype)}>]()
      %0: {dtype}[2] = {inner}
      %1: {dtype}[2] = mul(%x, %0)
      %2: {dtype}[2] = broadcast[shape=(2,), axes=()](%c)
      %3: {dtype}[2] = {op}(%1, %2)
      return y=%3
    }}""")
    assert reason in explain(BY_NAME[rule], graph).splitlines()[-1]
    assert not Simplify((BY_NAME[rule],)).rewrite(graph)[1].fired


def hexadecimal(number: float, dtype: str) -> str:
    """The number as the text of the IR may state it in any dtype."""
    with np.errstate(over="ignore"):
        array = np.asarray(number if dtype[0] == "f" else 2).astype(as_dtype(dtype).numpy)
    return "0x" + array.tobytes().hex()


def test_a_sum_in_half_precision_keeps_its_factor_inside():
    graph = parse("""graph g(%x: f16[4,2], %c: f16[2]) {
      %0: f16[4,2] = broadcast[shape=(4, 2), axes=(1,)](%c)
      %1: f16[4,2] = mul(%x, %0)
      %2: f16[2] = reduce_sum[axes=(0,)](%1)
      return y=%2
    }""")
    assert "may overflow" in explain(BY_NAME["sum-mul-broadcast"], graph)
    assert not Simplify().rewrite(graph)[1].fired
