"""The rewrite engine: matching, refusals with reasons, and what it checks."""

from __future__ import annotations

import pytest

from hornfels.ir import parse, verify
from hornfels.ir.errors import ArgumentError, VerifyError
from hornfels.ir.op import get
from hornfels.ir.pattern import Match, Mismatch, match, number_of
from hornfels.ir.rewrite import Rewriter, Rule, explain

TEXT = """graph g(%x: f32[3], %y: f32[3]) {
  %0: f32[] = constant[value=dense<f32[]: 2.0>]()
  %1: f32[3] = broadcast[shape=(3,), axes=()](%0)
  %2: f32[3] = mul(%1, %x)
  %3: f32[3] = add(%2, %y)
  %4: f32[] = reduce_sum[axes=(0,)](%3)
  return y=%4
}"""

MUL_TWO = Rule("mul-two", lambda p, x, c: p.mul(x, p.const(c)),
               where=lambda c: c == 2 or f"the constant is {c}, not 2",
               replace=lambda x: get("add")(x, x))  # fmt: skip
FUSED = Rule("fused", lambda p, x, y, c: p.add(p.mul(x, p.const(c)), y),
             replace=lambda x, y: get("sub")(x, y))  # fmt: skip


def test_variables_constants_and_commuted_operands_are_bound():
    graph = parse(TEXT)
    found = match(FUSED.root, graph.nodes[3])
    assert isinstance(found, Match)
    assert found.bindings["x"] is graph.inputs[0]
    assert found.bindings["y"] is graph.inputs[1]
    assert found.bindings["c"] == 2.0
    assert [n.op.name for n in found.nodes] == ["add", "mul"]


def test_attributes_are_matched_and_bound():
    node = parse(TEXT).nodes[4]
    bound = Rule("r", lambda p, x, a: p.reduce_sum(x, axes=a), replace=lambda x: x)
    assert match(bound.root, node).bindings["a"] == (0,)
    other = Rule("r", lambda p, x: p.reduce_sum(x, axes=(1,)), replace=lambda x: x)
    found = match(other.root, node)
    assert isinstance(found, Mismatch)
    assert (found.reason, found.depth) == ("reduce_sum.axes is (0,), not (1,)", 0)


def test_a_repeated_variable_is_one_value():
    rule = Rule("self", lambda p, x: p.add(x, x), replace=lambda x: x)
    assert isinstance(match(rule.root, parse(TEXT).nodes[3]), Mismatch)
    same = parse("graph g(%x: f32[]) {\n%0: f32[] = add(%x, %x)\nreturn y=%0\n}")
    assert isinstance(match(rule.root, same.nodes[0]), Match)


def test_the_mismatch_that_went_furthest_is_told():
    rule = Rule("deep", lambda p, x, y: p.add(p.mul(x, p.exp(y)), y), replace=lambda x: x)
    found = match(rule.root, parse(TEXT).nodes[3])
    assert "where exp was looked for" in found.reason


def test_a_rule_fires_and_is_counted():
    graph, report = Rewriter([MUL_TWO]).run(parse(TEXT))
    verify(graph)
    assert [n.op.name for n in graph.nodes] == ["add", "add", "reduce_sum"]
    assert report.fired == {"mul-two": 1}
    assert "1 x mul-two" in str(report)


def test_refusals_are_kept_with_their_reason():
    graph = parse(TEXT.replace("2.0", "3.0"))
    after, report = Rewriter([MUL_TWO]).run(graph)
    assert str(after) == str(graph)
    assert report.why_not("mul-two") == ["at mul: f32[3]: the constant is 3.0, not 2"]
    assert explain(MUL_TWO, graph) == "mul-two at mul: f32[3]: the constant is 3.0, not 2"


def test_explain_says_when_there_is_nothing_to_look_at():
    rule = Rule("r", lambda p, x: p.exp(x), replace=lambda x: x)
    assert explain(rule, parse(TEXT)) == "r: the graph has no exp"


def test_inner_values_with_outside_users_are_refused():
    text = TEXT.replace("return y=%4", "return y=%4, z=%2")
    _, report = Rewriter([FUSED]).run(parse(text))
    assert not report.fired
    assert report.why_not("fused") == ["at add: f32[3]: the inner value of mul is used elsewhere"]


def test_the_type_must_stay():
    rule = Rule("wrong", lambda p, x: p.reduce_sum(x), replace=lambda x: x)
    with pytest.raises(VerifyError, match=r"rule wrong: must keep the type f32\[\]"):
        Rewriter([rule]).run(parse(TEXT))


def test_rules_see_what_their_operands_have_become():
    text = """graph g(%x: f32[3]) {
      %0: f32[3] = neg(%x)
      %1: f32[3] = neg(%0)
      %2: f32[3] = neg(%1)
      %3: f32[3] = neg(%2)
      %4: f32[3] = exp(%3)
      return y=%4
    }"""
    rule = Rule("neg-neg", lambda p, x: p.neg(p.neg(x)), replace=lambda x: x, keeps_inner=True)
    graph, _ = Rewriter([rule]).run(parse(text))
    assert [n.op.name for n in graph.nodes] == ["exp"]
    assert graph.nodes[0].inputs == graph.inputs


def test_a_long_chain_takes_few_sweeps():
    lines = ["%0: f32[6] = reshape[shape=(6,)](%x)"]
    lines += [f"%{i}: f32[6] = exp(%{i - 1})" for i in range(1, 101)]
    text = "graph g(%x: f32[2,3]) {\n" + "\n".join(lines) + "\nreturn y=%100\n}"
    sink = Rule("sink", lambda p, x: p.exp(p.reshape(x)), keeps_inner=True,
                replace=lambda x, out: get("reshape")(get("exp")(x), shape=out.shape))  # fmt: skip
    graph, report = Rewriter([sink]).run(parse(text))
    assert [n.op.name for n in graph.nodes] == ["exp"] * 100 + ["reshape"]
    assert report.sweeps == 2


def test_rules_that_undo_each_other_end_with_an_error():
    there = Rule("there", lambda p, x: p.exp(x), replace=lambda x: get("log")(x),
                 keeps_inner=True)  # fmt: skip
    back = Rule("back", lambda p, x: p.log(x), replace=lambda x: get("exp")(x), keeps_inner=True)
    graph = parse("graph g(%x: f32[]) {\n%0: f32[] = exp(%x)\nreturn y=%0\n}")
    with pytest.raises(VerifyError, match="rules keep undoing each other"):
        Rewriter([there, back]).run(graph)


def test_the_first_rule_that_fits_wins():
    other = Rule("other", lambda p, x, y: p.mul(x, y), replace=lambda x, y: get("sub")(x, y))
    _, report = Rewriter([other, MUL_TWO]).run(parse(TEXT))
    assert report.fired == {"other": 1}


def test_wrong_rules_are_refused_when_they_are_made():
    with pytest.raises(ArgumentError, match="no op is named 'nonsense'"):
        Rewriter([Rule("r", lambda p, x: p.nonsense(x), replace=lambda x: x)])
    with pytest.raises(ArgumentError, match="two rules are named mul-two"):
        Rewriter([MUL_TWO, MUL_TWO])


def test_sources_survive():
    text = TEXT.replace("mul(%1, %x)", "mul(%1, %x)  # dense (train.py:3)")
    graph, _ = Rewriter([MUL_TWO]).run(parse(text))
    assert str(graph.nodes[0].source) == "dense (train.py:3)"


def test_number_of():
    graph = parse(TEXT)
    assert number_of(graph.nodes[1].output) == 2.0
    assert number_of(graph.inputs[0]) is None
    assert number_of(graph.nodes[3].output) is None
