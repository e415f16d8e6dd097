"""Fusion: what is stored, which kernels come out, and that no kernel waits for itself."""

from __future__ import annotations

import pytest
import training_graphs
from random_graphs import assert_same, random_arrays, random_graph

from hornfels.ir import Builder, evaluate, parse, sugar
from hornfels.ir.op import get
from hornfels.ir.types import f32
from hornfels.passes.batches import parts_of
from hornfels.passes.fusion import fuse
from hornfels.passes.groups import Groups
from hornfels.passes.interpret import run_plan
from hornfels.passes.memory import plan
from hornfels.passes.outline import POINTWISE
from hornfels.passes.pipeline import optimize
from hornfels.passes.rows import agree, rows_of
from hornfels.passes.stored import choose_stored


def calls_of(text: str):
    """The calls of a graph, after a check that they compute the same."""
    graph = parse(text)
    calls = fuse(graph)
    arrays = random_arrays(graph)
    assert_same(run_plan(plan(graph, calls), arrays), evaluate(graph, arrays), 1e-5, 1e-6)
    return calls


def roots(calls) -> list[str]:
    return [call.kernel.root for call in calls]


def inside(call) -> list[str]:
    return [node.op.name for node in call.kernel.body.nodes]


CONV = """conv[strides=(1, 1), padding=((0, 0), (0, 0)), input_dilation=(1, 1),
          kernel_dilation=(1, 1), groups=1]""".replace("\n", " ")


def test_bias_and_activation_join_the_convolution():
    (call,) = calls_of(f"""graph g(%x: f32[2,5,5,3], %w: f32[3,3,3,4], %b: f32[4]) {{
      %0: f32[2,3,3,4] = {CONV}(%x, %w)
      %1: f32[2,3,3,4] = broadcast[shape=(2, 3, 3, 4), axes=(3,)](%b)
      %2: f32[2,3,3,4] = add(%0, %1)
      %3: f32[2,3,3,4] = relu(%2)
      return y=%3
    }}""")
    assert call.kernel.root == "conv"
    assert inside(call) == ["conv", "broadcast", "add", "relu"]
    assert len(call.outputs) == 1


def test_an_epilogue_may_have_several_outputs():
    (call,) = calls_of("""graph g(%x: f32[4,3], %w: f32[3,5]) {
      %0: f32[4,5] = matmul[transpose_a=False, transpose_b=False](%x, %w)
      %1: f32[4,5] = tanh(%0)
      %2: f32[4,5] = exp(%0)
      return a=%0, b=%1, c=%2
    }""")
    assert call.kernel.root == "matmul"
    assert len(call.outputs) == 3


def test_new_state_is_no_epilogue():
    calls = calls_of("""graph g(%x: f32[4,3], %g: f32[4,5]; %w: f32[3,5]) {
      %0: f32[3,5] = matmul[transpose_a=True, transpose_b=False](%x, %g)
      %1: f32[3,5] = sub(%w, %0)
      return y=%g; %w=%1
    }""")
    assert roots(calls) == ["matmul", "pointwise"]


def test_what_moves_elements_is_no_epilogue():
    calls = calls_of("""graph g(%x: f32[4,4]) {
      %0: f32[4,4] = matmul[transpose_a=False, transpose_b=False](%x, %x)
      %1: f32[4,4] = transpose[permutation=(1, 0)](%0)
      %2: f32[4,4] = add(%0, %1)
      return y=%2
    }""")
    assert roots(calls) == ["matmul", "pointwise"]


def test_a_kernel_never_waits_for_itself():
    # the sum of the product is needed by what would be its epilogue
    calls = calls_of("""graph g(%x: f32[4,4]) {
      %0: f32[4,4] = matmul[transpose_a=False, transpose_b=False](%x, %x)
      %1: f32[4] = reduce_sum[axes=(0,)](%0)
      %2: f32[4,4] = broadcast[shape=(4, 4), axes=(1,)](%1)
      %3: f32[4,4] = sub(%0, %2)
      return y=%3
    }""")
    assert roots(calls) == ["matmul", "row"]


def test_the_cycle_check_is_needed(monkeypatch):
    monkeypatch.setattr(Groups, "can_merge", lambda self, a, b: a is not b)
    text = """graph g(%x: f32[4,4]) {
      %0: f32[4,4] = matmul[transpose_a=False, transpose_b=False](%x, %x)
      %1: f32[4] = reduce_sum[axes=(0,)](%0)
      %2: f32[4,4] = broadcast[shape=(4, 4), axes=(1,)](%1)
      %3: f32[4,4] = sub(%0, %2)
      return y=%3
    }"""
    with pytest.raises(AssertionError, match="waits for itself"):
        calls_of(text)


def test_reductions_of_one_operand_share_a_pass_with_what_follows():
    (call,) = calls_of("""graph g(%x: f32[6,4]) {
      %0: f32[6,4] = mul(%x, %x)
      %1: f32[4] = reduce_sum[axes=(0,)](%0)
      %2: f32[4] = reduce_max[axes=(0,)](%x)
      %3: f32[4] = sqrt(%1)
      %4: f32[4] = div(%2, %3)
      return y=%4
    }""")
    assert call.kernel.root == "reduce_sum"
    assert inside(call) == ["reduce_max", "mul", "reduce_sum", "sqrt", "div"]


def test_reductions_over_other_axes_do_not():
    calls = calls_of("""graph g(%x: f32[4,4]) {
      %0: f32[4] = reduce_sum[axes=(0,)](%x)
      %1: f32[4] = reduce_sum[axes=(1,)](%x)
      return a=%0, b=%1
    }""")
    assert roots(calls) == ["reduce_sum", "reduce_sum"]


def test_an_optimizer_is_one_kernel_in_place():
    text = """graph g(%g: f32[8]; %m: f32[8], %v: f32[8], %w: f32[8]) {
      %0: f32[8] = sub(%g, %m)
      %1: f32[8] = add(%m, %0)
      %2: f32[8] = mul(%g, %g)
      %3: f32[8] = add(%v, %2)
      %4: f32[8] = sqrt(%3)
      %5: f32[8] = div(%1, %4)
      %6: f32[8] = sub(%w, %5)
      return y=%g; %m=%1, %v=%3, %w=%6
    }"""
    (call,) = calls_of(text)
    assert len(call.outputs) == 3
    graph = parse(text)
    planned = plan(graph, fuse(graph))
    assert len(planned.in_place(planned.calls[0])) == 3


def test_single_elements_are_one_kernel():
    (call,) = calls_of("""graph g(%a: f32[], %b: f32[], %c: f32[1]) {
      %0: f32[] = exp(%a)
      %1: f32[] = mul(%b, %b)
      %2: f32[1] = neg(%c)
      return a=%0, b=%1, c=%2
    }""")
    assert len(call.outputs) == 3


def test_equal_kernels_are_shared():
    calls = calls_of("""graph g(%x: f32[3], %y: f32[3], %z: f32[4]) {
      %0: f32[3] = exp(%x)
      %1: f32[3] = exp(%y)
      %2: f32[4] = exp(%z)
      return a=%0, b=%1, c=%2
    }""")
    assert len(calls) == 3
    assert len({call.kernel for call in calls}) == 2
    assert sorted({call.kernel.name for call in calls}) == ["pointwise_exp", "pointwise_exp_1"]


def test_a_reshape_of_a_stored_value_is_a_view():
    calls = calls_of("""graph g(%x: f32[2,2,3], %w: f32[3,4]) {
      %0: f32[4,3] = reshape[shape=(4, 3)](%x)
      %1: f32[4,4] = matmul[transpose_a=False, transpose_b=False](%0, %w)
      %2: f32[2,8] = reshape[shape=(2, 8)](%1)
      return y=%2
    }""")
    assert roots(calls) == ["matmul"]


def test_large_constants_are_operands_and_numbers_are_not():
    (call,) = calls_of("""graph g(%x: f32[3]) {
      %0: f32[3] = constant[value=dense<f32[3]: 1.0 2.0 3.0>]()
      %1: f32[] = constant[value=dense<f32[]: 5.0>]()
      %2: f32[3] = broadcast[shape=(3,), axes=()](%1)
      %3: f32[3] = add(%x, %0)
      %4: f32[3] = mul(%3, %2)
      return y=%4
    }""")
    assert [v.type for v in call.kernel.body.inputs] == [f32(3), f32(3)]


@pytest.mark.parametrize("operand", ["%0", "%1"])
def test_a_root_reads_even_a_number_from_memory(operand):
    (call,) = calls_of(f"""graph g(%x: f32[3,1]) {{
      %0: f32[1,1] = constant[value=dense<f32[1,1]: 2.0>]()
      %1: f32[1,1] = reshape[shape=(1, 1)](%0)
      %2: f32[3,1] = matmul[transpose_a=False, transpose_b=False](%x, {operand})
      return y=%2
    }}""")
    assert inside(call) == ["matmul"]
    assert len(call.inputs) == 2


CHEAP = """graph g(%x: f32[64,64], %w: f32[64,64]) {
  %0: f32[64,64] = OP(%x)
  %1: f32[64,64] = transpose[permutation=(1, 0)](%0)
  %2: f32[64,64] = add(%0, %w)
  %3: f32[64,64] = sub(%1, %w)
  return a=%2, b=%3
}"""


@pytest.mark.parametrize(("op", "stored"), [("relu", 2), ("tanh", 3)])
def test_cheap_values_are_computed_again_and_dear_ones_stored(op, stored):
    graph = parse(CHEAP.replace("OP", op))
    assert len(choose_stored(graph)) == stored


def test_what_is_broadcast_is_computed_once():
    graph = parse("""graph g(%x: f32[64,64], %s: f32[64]) {
      %0: f32[64] = rsqrt(%s)
      %1: f32[64,64] = broadcast[shape=(64, 64), axes=(1,)](%0)
      %2: f32[64,64] = mul(%x, %1)
      return y=%2
    }""")
    assert [v.node.op.name for v in choose_stored(graph)] == ["rsqrt", "mul"]


def test_a_cnn_step_has_few_kernels():
    graph = optimize(optimize(training_graphs.cnn()).specialize({"N": 128}))
    calls = fuse(graph)
    by_root: dict[str, list] = {}
    for call in calls:
        by_root.setdefault(call.kernel.root, []).append(call)
    assert len(calls) <= 33
    for call in by_root["conv"]:
        assert inside(call) == ["conv", "broadcast", "add", "relu"]
        assert len(call.outputs) == 1
    for call in by_root["max_pool_grad"]:  # the gate of the relu before it
        assert "select" in inside(call)
        assert len(call.outputs) == 1
    updates = {new for _, new in graph.updates}
    weights = [c for c in calls if sum(v in updates for v in c.outputs) >= 3]
    assert len(weights) == 4  # one for each bias, behind its gradient; one for all weights
    assert sum(c.kernel.root == "batch" for c in weights) == 1
    masks = [v for c in calls for v in c.outputs if v.dtype.is_bool]
    assert len(masks) == 1  # dropout's is stored as bool, not drawn again


@pytest.mark.parametrize(("rows", "times"), [(64, 1), (4096, 2)])
def test_what_is_far_away_is_computed_again(rows, times):
    """Storing 8 MiB and loading it twice takes longer than the error function."""
    graph = parse(f"""graph g(%x: f32[{rows},512], %w: f32[512,8]) {{
      %0: f32[{rows},512] = erf(%x)
      %1: f32[{rows},512] = mul(%0, %x)
      %2: f32[{rows},8] = matmul[transpose_a=False, transpose_b=False](%1, %w)
      %3: f32[{rows},512] = sub(%0, %x)
      %4: f32[512,512] = matmul[transpose_a=True, transpose_b=False](%3, %x)
      return y=%2, z=%4
    }}""")
    stored = [v.node.op.name for v in choose_stored(graph)]
    assert stored.count("erf") == 2 - times


def test_every_kernel_has_a_form_that_the_backend_takes():
    for seed in range(30):
        for call in fuse(random_graph(seed)):
            check_form(call.kernel)


def check_form(kernel) -> None:
    rooted = [n for n in kernel.body.nodes if n.op.kind not in POINTWISE]
    if kernel.root in ("pointwise", "batch"):
        assert not rooted
        parts = parts_of(kernel.body) if kernel.root == "batch" else [kernel.body]
        assert all(len({v.type.size for v in part.outputs}) == 1 for part in parts)
    elif kernel.root == "row":
        rows = rows_of(rooted[0])
        assert rows is not None
        assert {rows_of(n) for n in rooted} == {rows}
        assert agree(kernel.body.outputs, (), rows)
        assert {v.type.size for v in kernel.body.outputs} <= {rows.total, rows.count}
    elif rooted[0].op.kind == "reduce":
        assert {n.op.kind for n in rooted} == {"reduce"}
        assert len({n.inputs[0].shape for n in rooted}) == 1
        assert len({n.attrs.get("axes", (n.attrs.get("axis"),)) for n in rooted}) == 1
        sizes = {v.type.size for v in kernel.body.outputs}
        assert sizes == {rooted[0].output.type.size}
    else:
        (root,) = rooted
        assert all(v.node is None for v in root.inputs)
        epilogue = [n for n in kernel.body.nodes if n.op.kind == "elementwise"]
        assert all(n.output.shape == root.output.shape for n in epilogue)
    constants = [n.output for n in kernel.body.nodes if n.op.kind == "constant"]
    assert all(v.type.size == 1 for v in constants)


def test_a_wrong_alignment_rule_is_caught(monkeypatch):
    """Believing that every index op keeps positions merges too much; the check must see it."""
    from hornfels.passes import outline

    monkeypatch.setattr(outline, "_keeps_position", lambda node, operand: True)
    caught = 0
    for seed in range(25):
        graph = random_graph(seed, nodes=40)
        arrays = random_arrays(graph, seed)
        try:
            assert_same(run_plan(plan(graph, fuse(graph)), arrays), evaluate(graph, arrays))
        except (AssertionError, ValueError):
            caught += 1
    assert caught


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_keep_their_numbers(seed):
    graph = random_graph(seed, nodes=40)
    arrays = random_arrays(graph, seed)
    assert_same(run_plan(plan(graph, fuse(graph)), arrays), evaluate(graph, arrays))


def test_a_dense_layer_over_a_sequence_is_one_kernel_forward():
    with Builder("sequence") as builder:
        net = training_graphs.Network(builder, f32)
        x = builder.input("x", f32(8, 5, 6))
        h = net.dense(x, 7, "dense", "tanh") * 2.0
        graph = optimize(builder.finish({"y": h}))
    (call,) = fuse(graph)
    assert call.kernel.root == "matmul"
    assert inside(call)[-1] == "mul"


def _after_a_product(second: str) -> str:
    return f"""graph g(%x: f32[4096,64], %w: f32[64,512]) {{
      %0: f32[4096,512] = matmul[transpose_a=False, transpose_b=False](%x, %w)
      %1: f32[4096,512] = erf(%0)
      %2: f32[4096,512] = mul(%0, %1)
      %3: f32[64,512] = matmul[transpose_a=True, transpose_b=False](%x, %2)
      %4: f32[4096,512] = matmul[transpose_a=False, transpose_b=False](%x, %3)
      %5: f32[4096,512] = exp(%0)
      %6: f32[4096,512] = add(%1, %5)
      %7: f32[4096,512] = mul(%4, %6)
      %8: f32[4096,512] = mul(%4, {second})
      return a=%7, b=%8
    }}"""


def test_a_derivative_is_stored_in_place_of_the_product_that_it_is_computed_from():
    calls = fuse(parse(_after_a_product("%4")))
    assert [v.node.op.name for v in calls[0].outputs] == ["mul", "add"]
    assert [call.kernel.root for call in calls] == ["matmul"] * 3


def test_a_product_that_is_needed_later_is_stored():
    calls = fuse(parse(_after_a_product("%0")))
    assert calls[0].outputs[0].node.op.name == "matmul"
    assert "add" not in [v.node.op.name for v in calls[0].outputs]


def test_what_only_new_state_is_computed_of_stays_out_of_a_product():
    """Adding gradients up and updating from the sum is one pass over memory."""
    graph = parse("""graph g(%x: f32[8,64], %dy: f32[8,32], %l: bool[];\
      %s: f32[64,32], %w: f32[64,32]) {
      %0: f32[64,32] = matmul[transpose_a=True, transpose_b=False](%x, %dy)
      %1: f32[64,32] = add(%0, %s)
      %2: bool[64,32] = broadcast[shape=(64, 32), axes=()](%l)
      %3: f32[64,32] = sub(%w, %1)
      %4: f32[64,32] = select(%2, %3, %w)
      %5: f32[64,32] = select(%2, %0, %1)
      return ; %s=%5, %w=%4
    }""")
    assert [call.kernel.root for call in fuse(graph)] == ["matmul", "pointwise"]


def test_what_is_cast_lies_in_place_of_a_wider_cast():
    """In half of the memory; the cast is computed by all that read it."""
    graph = parse("""graph cast(%x: bf16[64,32]) {
  %0: bf16[64,32] = tanh(%x)
  %1: f32[64,32] = cast[dtype=f32](%0)
  %2: f32[64] = reduce_sum[axes=(1,)](%1)
  %3: f32[32] = reduce_sum[axes=(0,)](%1)
  return rows=%2, columns=%3
}""")
    assert [v.node.op.name for v in choose_stored(graph)] == ["tanh", "reduce_sum", "reduce_sum"]
    shown = parse(str(graph).replace("return rows", "return all=%1, rows"))
    assert [v.node.op.name for v in choose_stored(shown)][:1] == ["cast"]


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_a_derivative_that_is_no_wider_is_stored_in_place_of_the_product(dtype):
    """Its formula may be computed in f32."""
    types = f"%a: bf16[8,4], %b: bf16[4,16], %c: {dtype}[8,4], %d: {dtype}[4,16]"
    graph = parse(f"""graph slope({types}) {{
  %g: {dtype}[8,16] = matmul(%c, %d)
  %0: bf16[8,16] = matmul(%a, %b)
  %1: f32[8,16] = cast[dtype=f32](%0)
  %2: f32[8,16] = erf(%1)
  %3: bf16[8,16] = cast[dtype=bf16](%2)
  %4: f32[8,16] = exp(%1)
  %5: {dtype}[8,16] = {"cast[dtype=bf16](%4)" if dtype == "bf16" else "neg(%4)"}
  %6: {dtype}[8,16] = mul(%g, %5)
  return y=%3, dx=%6
}}""")
    found = [v.node.op.name for v in choose_stored(graph)]  # in running order, as fusion needs it
    assert found == ["matmul", "matmul", "cast", *(["cast"] if dtype == "bf16" else []), "mul"]


@pytest.mark.parametrize(("rows", "stored"), [(300, True), (8, False)])
def test_a_large_concatenation_of_several_users_is_stored(rows, stored):
    """Its sum would choose between operands for each element."""
    with Builder("joined") as b:
        x, y = b.input("x", f32(rows, 24)), b.input("y", f32(rows, 8))
        joined = get("concat")(x, y, axis=1) * 2.0
        total = sugar.reduce("reduce_sum", joined, 0)
        graph = b.finish({"total": total, "relu": sugar.unary("relu", joined)})
    assert (joined in choose_stored(graph)) == stored
