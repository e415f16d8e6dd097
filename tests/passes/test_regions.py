"""The pass over regions: every rule fires on one graph and stays away from another."""

from __future__ import annotations

import numpy as np
import pytest
from random_graphs import assert_same, random_arrays
from random_regions import random_regions

from hornfels.ir import Builder, Graph, Node, evaluate, gradients, parse, verify
from hornfels.ir.autodiff import jvp
from hornfels.ir.op import get
from hornfels.ir.rewrite import Report
from hornfels.ir.settings import settings
from hornfels.ir.sugar import unary
from hornfels.ir.types import f32, i32
from hornfels.passes.cse import Cse
from hornfels.passes.pipeline import optimize
from hornfels.passes.region_rules import BRANCH_RULES, INLINED, LOOP_RULES
from hornfels.passes.regions import Regions

SCAN = """graph g(%x: f32[3], %xs: f32[4,3], %w: f32[3]) {{
  %0, %1: {types} = scan[carry={carry}, stacked=1, length=4](%x, {reads}) {{
    body = graph step({inputs}) {{
      {body}
    }}
  }}
  return a=%0, b=%1
}}"""


def scan(body: str, reads: str = "%xs, %w", inputs: str = "%c: f32[3], %x: f32[3], %w: f32[3]",
         types: str = "f32[3], f32[4,3]", carry: int = 1) -> str:  # fmt: skip
    return SCAN.format(body=body, reads=reads, inputs=inputs, types=types, carry=carry)


def cond(then: str, otherwise: str, predicate: str = "%p") -> str:
    return f"""graph g(%p: bool[], %x: f32[3], %y: f32[3]) {{
  %0: bool[] = constant[value=dense<bool[]: True>]()
  %1: f32[] = constant[value=dense<f32[]: 2.0>]()
  %2, %3: f32[3], f32[3] = cond({predicate}, %x, %y, %1) {{
    then = graph then(%x: f32[3], %y: f32[3], %two: f32[]) {{
      {then}
    }}
    otherwise = graph otherwise(%x: f32[3], %y: f32[3], %two: f32[]) {{
      {otherwise}
    }}
  }}
  return a=%2, b=%3
}}"""


PLAIN = """%0: f32[3] = mul(%c, %w)
      %1: f32[3] = add(%0, %x)
      return c=%1, y=%0"""
TWO = "%0: f32[3] = broadcast[shape=(3,), axes=()](%two)\n"
MUL = TWO + "%1: f32[3] = mul(%x, %0)\n%2: f32[3] = exp(%y)\n return a=%1, b=%2"
ADD = TWO + "%1: f32[3] = add(%x, %0)\n%2: f32[3] = tanh(%y)\n return a=%1, b=%2"

FIRES = {
    "no-steps": """graph g(%x: f32[3], %xs: f32[0,3], %w: f32[3]) {
  %0, %1: f32[3], f32[0,3] = scan[carry=1, stacked=1, length=0](%x, %xs, %w) {
    body = graph step(%c: f32[3], %x: f32[3], %w: f32[3]) {
      %0: f32[3] = mul(%c, %w)
      return c=%0, y=%x
    }
  }
  return a=%0, b=%1
}""",
    "one-step": """graph g(%x: f32[3], %xs: f32[1,3], %w: f32[3]) {
  %0, %1: f32[3], f32[1,3] = scan[carry=1, stacked=1, length=1](%x, %xs, %w) {
    body = graph step(%c: f32[3], %x: f32[3], %w: f32[3]) {
      %0: f32[3] = mul(%c, %w)
      return c=%0, y=%x
    }
  }
  return a=%0, b=%1
}""",
    "never-runs": """graph g(%x: f32[3]) {
  %0: i32[] = constant[value=dense<i32[]: 5>]()
  %1, %2: i32[], f32[3] = while[carry=2](%0, %x, %0) {
    condition = graph condition(%i: i32[], %x: f32[3], %n: i32[]) {
      %0: bool[] = less(%i, %n)
      return go=%0
    }
    body = graph body(%i: i32[], %x: f32[3], %n: i32[]) {
      %0: i32[] = add(%i, %n)
      %1: f32[3] = exp(%x)
      return i=%0, x=%1
    }
  }
  return i=%1, x=%2
}""",
    "known-branch": cond(MUL, ADD, "%0"),
    "equal-branches": cond(MUL, MUL),
    "unused": scan(PLAIN, inputs="%c: f32[3], %x: f32[3], %w: f32[3], %u: f32[3]",
                   reads="%xs, %w, %x"),
    "steady-carry": scan("""%0: f32[3] = mul(%c, %x)
      return c=%c, y=%0""", reads="%xs", inputs="%c: f32[3], %x: f32[3]"),
    "equal-carries": scan("""%0: f32[3] = mul(%c, %x)
      %1: f32[3] = mul(%x, %d)
      return c=%0, d=%1""", carry=2, reads="%x, %xs", types="f32[3], f32[3]",
                          inputs="%c: f32[3], %d: f32[3], %x: f32[3]"),
    "equal-operands": scan("""%0: f32[3] = mul(%c, %w)
      %1: f32[3] = add(%0, %v)
      return c=%1, y=%x""", reads="%xs, %w, %w",
                           inputs="%c: f32[3], %x: f32[3], %w: f32[3], %v: f32[3]"),
    "equal-outputs": """graph g(%x: f32[3]) {
  %0, %1, %2: f32[3], f32[4,3], f32[4,3] = scan[carry=1, stacked=0, length=4](%x) {
    body = graph step(%c: f32[3]) {
      %0: f32[3] = exp(%c)
      %1: f32[3] = sin(%0)
      return c=%1, y=%0, z=%0
    }
  }
  return a=%0, b=%1, c=%2
}""",
    "outside-output": scan("""%0: f32[3] = mul(%c, %x)
      return c=%0, y=%w"""),
    "stacked-broadcast": """graph g(%x: f32[3], %s: f32[3]) {
  %0: f32[4,3] = broadcast[shape=(4, 3), axes=(1,)](%s)
  %1: f32[3] = scan[carry=1, stacked=1, length=4](%x, %0) {
    body = graph step(%c: f32[3], %x: f32[3]) {
      %0: f32[3] = exp(%c)
      %1: f32[3] = mul(%0, %x)
      return c=%1
    }
  }
  return a=%1
}""",
    "sink-constant": """graph g(%x: f32[3]) {
  %0: f32[] = constant[value=dense<f32[]: 2.0>]()
  %1: f32[3] = broadcast[shape=(3,), axes=()](%0)
  %2: f32[3] = constant[value=dense<f32[3]: 1.0 2.0 3.0>]()
  %3: f32[3] = scan[carry=1, stacked=0, length=4](%x, %1, %2) {
    body = graph step(%c: f32[3], %two: f32[3], %k: f32[3]) {
      %0: f32[3] = mul(%c, %two)
      %1: f32[3] = sub(%0, %k)
      return c=%1
    }
  }
  return a=%3
}""",
    "hoist": scan("""%0: f32[3] = exp(%w)
      %1: f32[3] = mul(%c, %0)
      return c=%1, y=%x"""),
    "merge": """graph g(%x: f32[3], %xs: f32[4,3], %w: f32[3]) {
  %0, %1: f32[3], f32[4,3] = scan[carry=1, stacked=1, length=4](%x, %xs, %w) {
    body = graph step(%c: f32[3], %x: f32[3], %w: f32[3]) {
      %0: f32[3] = mul(%c, %w)
      %1: f32[3] = add(%0, %x)
      return c=%1, y=%0
    }
  }
  %2, %3: f32[3], f32[4,3] = scan[carry=1, stacked=1, length=4](%x, %xs, %w) {
    body = graph forward(%a: f32[3], %b: f32[3], %d: f32[3]) {
      %0: f32[3] = mul(%d, %a)
      %1: f32[3] = add(%b, %0)
      %2: f32[3] = exp(%1)
      return c=%1, y=%2
    }
  }
  return a=%0, b=%1, c=%2, d=%3
}""",
}  # fmt: skip

STAYS = {
    "no-steps": (scan(PLAIN), ""),
    "one-step": (scan(PLAIN), ""),
    "never-runs": (FIRES["never-runs"].replace("dense<i32[]: 5>]()", "dense<i32[]: 5>]()\n  "
                   "%9: i32[] = constant[value=dense<i32[]: 6>]()")
                   .replace("(%0, %x, %0)", "(%0, %x, %9)"), ""),
    "known-branch": (cond(MUL, ADD), ""),
    "equal-branches": (cond(MUL, ADD), ""),
    "unused": (scan(PLAIN), ""),
    "steady-carry": (scan(PLAIN), ""),
    "equal-carries": (FIRES["equal-carries"].replace("mul(%x, %d)", "sub(%x, %d)"), ""),
    "equal-operands": (FIRES["equal-operands"].replace("%w, %w", "%w, %x"), ""),
    "equal-outputs": (FIRES["equal-outputs"].replace("y=%0, z=%0", "y=%0, z=%1"), ""),
    "outside-output": (scan(PLAIN), ""),
    "stacked-broadcast": (FIRES["stacked-broadcast"].replace("f32[3]) {\n  %0", "f32[4]) {\n  %0")
                          .replace("axes=(1,)](%s)", "axes=(0,)](%s)"), ""),
    "sink-constant": (f"""graph g(%x: f32[300]) {{
  %0: f32[300] = constant[value=dense<f32[300]: {" ".join(map(str, range(300)))}>]()
  %1: f32[300] = scan[carry=1, stacked=0, length=4](%x, %0) {{
    body = graph step(%c: f32[300], %w: f32[300]) {{
      %0: f32[300] = mul(%c, %w)
      return c=%0
    }}
  }}
  return a=%1
}}""", "a constant of 300 elements stays outside, once"),
    "hoist": ("""graph g(%x: f32[], %n: f32[]) {
  %0: f32[] = scan[carry=1, stacked=0, length=4](%x, %n) {
    body = graph step(%c: f32[], %n: f32[]) {
      %0: f32[] = while[carry=1](%n) {
        condition = graph condition(%i: f32[]) {
          %0: f32[] = constant[value=dense<f32[]: 100.0>]()
          %1: bool[] = less(%i, %0)
          return go=%1
        }
        body = graph body(%i: f32[]) {
          %0: f32[] = constant[value=dense<f32[]: 10.0>]()
          %1: f32[] = add(%i, %0)
          return i=%1
        }
      }
      %1: f32[] = sub(%0, %c)
      return c=%1
    }
  }
  return a=%0
}""", "a while may never end, and the loop around it may not run at all"),
    "merge": (FIRES["merge"].replace("mul(%d, %a)", "div(%d, %a)"), "only 0 carries are equal"),
}  # fmt: skip

RULES = {"unused", "merge", *INLINED, *LOOP_RULES, *BRANCH_RULES}


def run(text: str) -> tuple[Graph, Graph, Report]:
    """The graph before and after, which compute the same."""
    graph = parse(text)
    after, report = Regions().rewrite(graph)
    verify(parse(str(after)))
    arrays = random_arrays(graph, seed=1)
    assert_same(evaluate(after, arrays), evaluate(graph, arrays), rtol=1e-6, atol=0)
    return graph, after, report


def test_every_rule_is_tested():
    assert FIRES.keys() == STAYS.keys() == RULES


@pytest.mark.parametrize("rule", FIRES)
def test_it_fires(rule):
    graph, after, report = run(FIRES[rule])
    assert report.fired[rule] >= 1, report
    assert str(after) != str(graph)
    again, _ = Regions().rewrite(after)
    assert str(again) == str(after)


@pytest.mark.parametrize("rule", STAYS)
def test_it_stays_away_and_says_why(rule):
    text, reason = STAYS[rule]
    _, _, report = run(text)
    assert not report.fired[rule]
    assert (reason in str(report)) if reason else rule not in str(report)


# --- rules together --------------------------------------------------------------------------

OPERANDS = {"h": f32(2, 4), "xs": f32(5, 2, 3), "w": f32(3, 4), "u": f32(4, 4), "b": f32(4)}


def recurrent(wrt: str, gradient: str = "store") -> Graph:
    """The last state of a recurrent layer, its sum and gradients."""
    with Builder("step") as s:
        types = [f32(2, 4), f32(2, 3), f32(3, 4), f32(4, 4), f32(4)]
        h, x, w, u, bias = (s.input(n, t) for n, t in zip("hxwub", types, strict=True))
        new = unary("tanh", unary("exp", (h @ u) + x @ w + bias) * 0.1)
        body = s.finish({"h": new, "y": new})
    with Builder("train") as b:
        v = {name: b.input(name, t) for name, t in OPERANDS.items()}
        last, ys = get("scan").all(
            *v.values(), body=body, carry=1, stacked=1, length=5, gradient=gradient
        )
        loss = (last * 2.0).sum() + (ys * ys).sum()
        grads = gradients(loss, [v[name] for name in wrt])
        named = {f"g{n}": g for n, g in zip(wrt, grads, strict=True) if g is not None}
        return b.finish({"loss": loss, **named})


def scans_of(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op.name == "scan"]


@pytest.mark.parametrize("gradient", ["store", "recompute"])
def test_a_gradient_runs_one_loop_each_way(gradient):
    graph = recurrent("wub", gradient)
    assert len(scans_of(graph)) == 3
    after = optimize(graph)
    forward, back = scans_of(after)
    stacked = [str(v.type) for v in forward.outputs[1:]]
    assert stacked == ["f32[5,2,4]"] * (3 if gradient == "store" else 2)
    assert back.attrs["reverse"]
    arrays = random_arrays(graph, seed=2)
    assert_same(evaluate(after, arrays), evaluate(graph, arrays), rtol=1e-5, atol=1e-5)


def test_what_only_a_dropped_gradient_needed_is_neither_computed_nor_stored():
    """Outputs of the last loop are dropped, then what it read, then what the first one stored."""
    full = recurrent("wub")
    keep = {n: v for n, v in zip(full.output_names, full.outputs, strict=True) if n != "gu"}
    after = optimize(Graph.make("frozen", full.inputs, (), keep))
    never = optimize(recurrent("wb"))
    assert [len(n.outputs) for n in scans_of(after)] == [len(n.outputs) for n in scans_of(never)]
    assert [len(n.inputs) for n in scans_of(after)] == [len(n.inputs) for n in scans_of(never)]
    assert len(scans_of(after)[0].outputs) == len(scans_of(optimize(full))[0].outputs) - 1


def test_forward_mode_of_a_while_runs_one_loop():
    types = [i32(), f32(3), i32()]
    regions = {}
    for name in ("condition", "body"):
        with Builder(name) as r:
            i, x, n = (r.input(k, t) for k, t in zip("ixn", types, strict=True))
            found = {"go": i < n} if name == "condition" else {"i": i + 1, "x": unary("sin", x)}
            regions[name] = r.finish(found)
    with Builder("g") as b:
        i, x, n, t = (b.input(k, y) for k, y in zip("ixnt", [*types, f32(3)], strict=True))
        outputs = get("while").all(i, x, n, carry=2, **regions)
        tangents = jvp(outputs, [x], [t])
        assert tangents[1] is not None
        graph = b.finish({"x": outputs[1], "t": tangents[1]})
    after = optimize(graph)
    assert [n.op.name for n in after.nodes] == ["while"]
    arrays = {**random_arrays(graph), "i": np.array(0, np.int32), "n": np.array(4, np.int32)}
    assert_same(evaluate(after, arrays), evaluate(graph, arrays), rtol=1e-6, atol=0)


def test_passes_go_into_bodies_of_bodies():
    text = """graph g(%x: f32[3], %p: bool[]) {
  %0: f32[3] = scan[carry=1, stacked=0, length=4](%x, %p) {
    body = graph step(%c: f32[3], %p: bool[]) {
      %0: f32[3] = cond(%p, %c) {
        then = graph then(%c: f32[3]) {
          %0: f32[3] = exp(%c)
          %1: f32[3] = exp(%c)
          %2: f32[3] = mul(%0, %1)
          return a=%2
        }
        otherwise = graph otherwise(%c: f32[3]) {
          %0: f32[3] = neg(%c)
          %1: f32[3] = neg(%0)
          return a=%1
        }
      }
      return c=%0
    }
  }
  return a=%0
}"""
    with settings(contracts=True):
        after = optimize(parse(text))
    (loop,) = after.nodes
    (choice,) = loop.regions["body"].nodes
    assert [n.op.name for n in choice.regions["then"].nodes] == ["exp", "mul"]
    assert choice.regions["otherwise"].nodes == ()


LATER = """graph g(%x: f32[3], %w: f32[3]) {
  %0, %1: f32[3], f32[4,3] = scan[carry=1, stacked=0, length=4](%x, %w) {
    body = graph step(%c: f32[3], %w: f32[3]) {
      %0: f32[3] = mul(%c, %w)
      return c=%0, y=%c
    }
  }
  %2: f32[3] = exp(%w)
  %3, %4: f32[3], f32[4,3] = scan[carry=1, stacked=0, length=4](%x, %w, %2) {
    body = graph again(%c: f32[3], %w: f32[3], %v: f32[3]) {
      %0: f32[3] = mul(%c, %w)
      %1: f32[3] = sub(%c, %v)
      return c=%0, y=%1
    }
  }
  return a=%0, b=%1, c=%3, d=%4
}"""


def test_a_loop_moves_behind_what_the_other_one_reads_beside_it():
    _, after, report = run(LATER)
    assert report.fired["merge"] == 1
    assert [n.op.name for n in after.nodes] == ["exp", "scan"]


def test_a_loop_that_reads_what_the_other_one_gives_stays():
    _, after, report = run(LATER.replace("exp(%w)", "exp(%0)"))
    assert report.why_not("merge")[-1].endswith("it reads what the other scan gives")
    assert len(scans_of(after)) == 2


def test_three_loops_become_one():
    scan = "  %5, %6: f32[3], f32[4,3] = scan[carry=1, stacked=0, length=4](%x, %w) {"
    body = """
    body = graph third(%c: f32[3], %w: f32[3]) {
      %0: f32[3] = mul(%c, %w)
      %1: f32[3] = sin(%0)
      return c=%0, y=%1
    }
  }
  return e=%5, f=%6, a="""
    third = LATER.replace("  return a=", scan + body)
    _, after, report = run(third)
    assert report.fired["merge"] == 2
    assert len(scans_of(after)) == 1


def test_equal_region_nodes_become_one():
    once = (
        FIRES["merge"].replace("mul(%d, %a)", "mul(%a, %d)").replace("add(%b, %0)", "add(%0, %b)")
    )
    once = once.replace("      %2: f32[3] = exp(%1)\n", "").replace("y=%2", "y=%0")
    assert len(Cse().run(parse(once)).nodes) == 1


def test_loops_of_constants_are_not_run_by_the_compiler():
    text = FIRES["never-runs"].replace("less(%i, %n)", "less_equal(%i, %n)")
    after = optimize(parse(text))
    assert [n.op.name for n in after.nodes if n.op.kind == "region"] == ["while"]


def test_no_more_rewrites_than_the_limit_allows():
    graph = recurrent("wub")
    counts = []
    for limit in (0, 1, 2):
        with settings(rewrite_limit=limit):
            after, report = Regions().rewrite(graph)
            counts.append(sum(report.fired.values()))
            arrays = random_arrays(graph, seed=2)
            assert_same(evaluate(after, arrays), evaluate(graph, arrays), rtol=1e-5, atol=1e-5)
    assert counts == [0, 1, 2]


@pytest.mark.parametrize("seed", range(16))
def test_random_programs_and_their_derivatives_keep_their_numbers(seed):
    graph = random_regions(seed)
    floats = [v for v in graph.inputs if v.dtype.is_float]
    loops = "while" in str(graph)  # which have no gradient
    with Builder("grad"):
        outputs = dict(zip(graph.output_names, graph.outputs, strict=True))
        loss = sum((unary("sin", v).sum() for v in outputs.values() if v.dtype.is_float), 0.0)
        grads = [] if loops else gradients(loss, floats)
        outputs |= {f"g{i}": g for i, g in enumerate(grads) if g is not None}
        tangents = jvp(graph.outputs, floats, floats)
        outputs |= {f"t{i}": t for i, t in enumerate(tangents) if t is not None}
        whole = Graph.make("whole", graph.inputs, graph.state, outputs, graph.updates)
    with settings(contracts=True):
        after = optimize(whole)
    arrays = random_arrays(whole, seed)
    assert_same(evaluate(after, arrays), evaluate(whole, arrays), rtol=1e-6, atol=1e-8)
