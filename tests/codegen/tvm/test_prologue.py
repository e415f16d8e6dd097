"""Operands that convolutions compute as they load them: every template, against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from native import TARGET, is_parallel
from native_graph import arrays_for, check_graph, compiled, run_compiled

import hornfels as hf
from hornfels.codegen.tvm.lower import lower_kernel
from hornfels.ir import Builder, Graph, Value, sugar
from hornfels.ir.op import get
from hornfels.ir.types import DType, bf16, f32, f64
from hornfels.passes import fusion, prologue, stored
from hornfels.passes.pipeline import make_plan, optimize
from hornfels.passes.plan import Call

SAME = ((1, 1), (1, 1))
NONE = ((0, 0), (0, 0))


def attributes(padding=NONE, strides=(1, 1), dilation=(1, 1), groups=1):
    return {
        "strides": strides, "padding": padding, "input_dilation": (1,) * len(padding),
        "kernel_dilation": dilation, "groups": groups,
    }  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Operands of any size are computed where they are loaded."""
    monkeypatch.setattr(prologue, "LEAST_BYTES", 0)
    monkeypatch.setattr(fusion, "ROW_BYTES", 0)


def normalized(x: Value, shift: Value) -> Value:
    """What a batch normalization and an activation make of `x`, up to scales."""
    axes = tuple(range(x.ndim - 1))
    scale = sugar.reduce("reduce_sum", x, axes) * 1e-3 + 1
    return sugar.binary("maximum", x * scale + shift, 0)


def loaded(graph: Graph) -> list[tuple[str, list[int]]]:
    """The convolutions of a graph, and which operands they compute."""
    roots = [c.kernel.root_node for c in fusion.fuse(graph) if isinstance(c, Call)]
    return [
        (root.op.name, [i for i, v in enumerate(root.inputs) if v.node is not None])
        for root in roots
        if root is not None and root.op.name.startswith("conv")
    ]


def shift_of(b: Builder, name: str, like: Value) -> Value:
    return b.input(name, like.type.with_shape(like.shape[-1:]))


def forward(x, w, **attrs) -> Graph:
    with Builder("forward") as b:
        image = b.input("x", x)
        r = normalized(image, shift_of(b, "shift", image))
        return b.finish({"y": get("conv")(r, b.input("w", w), **attrs)})


FORWARD = {
    "minimal filtering": (f32(2, 16, 16, 16), f32(3, 3, 16, 32), attributes(SAME)),
    "minimal filtering, inside": (f32(2, 18, 18, 16), f32(3, 3, 16, 16), attributes()),
    "minimal filtering, far": (f32(2, 128, 130, 16), f32(3, 3, 16, 16), attributes(SAME)),
    "minimal filtering, panels": (f32(1, 8, 8, 256), f32(3, 3, 256, 288), attributes(SAME)),
    "tails": (f32(3, 13, 9, 5), f32(3, 3, 5, 7), attributes(SAME)),
    "strides": (f32(2, 11, 8, 4), f32(3, 3, 4, 40), attributes(SAME, (2, 2))),
    "uneven padding": (f32(2, 7, 8, 3), f32(3, 2, 3, 9), attributes(((0, 2), (3, 0)))),
    "dilation": (f32(1, 9, 9, 4), f32(3, 3, 4, 33), attributes(((2, 2), (2, 2)), (1, 1), (2, 2))),
    "input dilation": (
        f32(1, 5, 6, 4), f32(3, 3, 4, 9), {**attributes(SAME), "input_dilation": (2, 3)},
    ),
    "whole image": (f32(5, 3, 3, 4), f32(3, 3, 4, 33), attributes()),
    "one tap": (f32(4, 9, 7, 6), f32(1, 1, 6, 20), attributes()),
    "one tap, from far away": (f32(2, 64, 64, 96), f32(1, 1, 96, 24), attributes()),
    "one tap, large kernel": (f32(2, 7, 7, 260), f32(1, 1, 260, 272), attributes()),
    "one tap, few rows": (f32(1, 1, 2, 40), f32(1, 1, 40, 50), attributes()),
    "one tap, one output": (f32(2, 9, 9, 40), f32(1, 1, 40, 1), attributes()),
    "one tap, strides": (f32(2, 9, 9, 16), f32(1, 1, 16, 18), attributes(strides=(2, 3))),
    "one tap, padding": (f32(2, 4, 5, 16), f32(1, 1, 16, 18), attributes(SAME)),
    "one channel": (f32(2, 6, 6, 1), f32(3, 3, 1, 9), attributes(SAME)),
    "one axis": (f32(2, 19, 6), f32(4, 6, 9), attributes(((2, 1),), (1,), (1,))),
    "three axes": (
        f32(2, 4, 5, 3, 2),
        f32(2, 3, 1, 2, 5),
        attributes(((0, 1), (1, 1), (0, 0)), (1, 1, 1), (1, 1, 1)),
    ),
    "no output": (f32(2, 6, 6, 4), f32(3, 3, 4, 0), attributes(SAME)),
    "f64": (f64(1, 5, 5, 3), f64(3, 3, 3, 9), attributes(SAME)),
    "f64, one tap": (f64(2, 6, 5, 7), f64(1, 1, 7, 9), attributes()),
}  # fmt: skip


@pytest.mark.parametrize("case", FORWARD.values(), ids=FORWARD)
def test_forward(case):
    x, w, attrs = case
    graph = forward(x, w, **attrs)
    assert loaded(graph) == [("conv", [0])]
    check_graph(graph, arrays_for(graph), factor=40)


def gradients(x, w, **attrs) -> Graph:
    """Both gradients of a convolution whose image and whose cotangent are computed."""
    with Builder("shapes") as b:
        y = get("conv")(b.input("x", x), b.input("w", w), **attrs)
    with Builder("gradients") as b:
        image, g = b.input("x", x), b.input("g", y.type)
        r = normalized(image, shift_of(b, "shift", image))
        dy = normalized(g, shift_of(b, "other", g))
        dw = get("conv_kernel_grad")(r, dy, kernel_shape=tuple(w.shape), **attrs)
        dx = get("conv_input_grad")(dy, b.input("w", w), input_shape=tuple(x.shape), **attrs)
        return b.finish({"dw": dw, "dx": dx})


GRADIENTS = {name: case for name, case in FORWARD.items() if name != "no output"} | {
    "one tap, long sum": (f32(2, 30, 30, 40), f32(1, 1, 40, 70), attributes()),
    "one tap, cotangents that evict": (f32(1, 30, 30, 16), f32(1, 1, 16, 256), attributes()),
    "many phases": (f32(1, 9, 9, 4), f32(4, 4, 4, 5), attributes(strides=(3, 3))),
    "minimal filtering, sums": (f32(1, 8, 8, 256), f32(3, 3, 256, 256), attributes(SAME)),
}


@pytest.mark.parametrize("case", GRADIENTS.values(), ids=GRADIENTS)
def test_gradients(case):
    x, w, attrs = case
    graph = gradients(x, w, **attrs)
    found = loaded(graph)
    assert sorted(found) == [("conv_input_grad", [0]), ("conv_kernel_grad", [0, 1])]
    check_graph(graph, arrays_for(graph), factor=100)


DEPTHWISE = {
    "tails": (f32(3, 7, 9, 21), f32(3, 3, 1, 21), attributes(SAME, groups=21)),
    "from far away": (f32(2, 100, 101, 48), f32(3, 3, 1, 48), attributes(SAME, groups=48)),
    "inside": (f32(2, 9, 8, 16), f32(5, 5, 1, 16), attributes(groups=16)),
    "dilation": (f32(1, 9, 9, 4), f32(3, 3, 1, 4), attributes(SAME, dilation=(2, 1), groups=4)),
    "input dilation": (
        f32(1, 5, 6, 4), f32(3, 3, 1, 4), {**attributes(SAME, groups=4), "input_dilation": (2, 3)},
    ),
    "f64": (f64(1, 5, 5, 9), f64(3, 2, 1, 9), attributes(SAME, groups=9)),
}  # fmt: skip


@pytest.mark.parametrize("case", DEPTHWISE.values(), ids=DEPTHWISE)
def test_channels_with_weights_of_their_own(case):
    x, w, attrs = case
    graph = forward(x, w, **attrs)
    assert loaded(graph) == [("conv", [0])]
    check_graph(graph, arrays_for(graph), factor=40)
    graph = gradients(x, w, **attrs)
    assert sorted(loaded(graph)) == [("conv_input_grad", []), ("conv_kernel_grad", [0])]
    check_graph(graph, arrays_for(graph), factor=100)


def test_every_thread_computes_its_own():
    graph = forward(f32(4, 64, 64, 32), f32(1, 1, 32, 24), **attributes())
    call = fusion.fuse(graph)[-1]
    assert isinstance(call, Call)
    assert is_parallel(lower_kernel(call.kernel, TARGET.machine))
    check_graph(graph, arrays_for(graph), factor=40)


@pytest.mark.parametrize("dtype", [f32, f64], ids=str)
@pytest.mark.parametrize("taps", [1, 3])
def test_expressions(dtype: DType, taps: int, monkeypatch):
    """Anything simple can be computed: a residual, a mask, a cast, an activation with two bends."""
    monkeypatch.setattr(stored, "pays", lambda *args: True)
    shape = (2, 9, 7, 6)
    with Builder("expressions") as b:
        x, add = b.input("x", f64(*shape)), b.input("add", dtype(*shape))
        mask, w = b.input("mask", dtype(*shape)), b.input("w", dtype(taps, taps, 6, 9))
        r = sugar.cast(x, dtype) * 0.5 + add
        r = sugar.select(mask > 0, sugar.binary("minimum", sugar.binary("maximum", r, 0), 1), -add)
        padding = ((taps // 2, taps // 2),) * 2
        graph = b.finish({"y": get("conv")(r, w, **attributes(padding))})
    assert loaded(graph) == [("conv", [0])]
    check_graph(graph, arrays_for(graph), factor=40)


def test_the_operand_in_the_epilogue_too():
    """A block that adds what it was given, and the mask of a gradient."""
    with Builder("block") as b:
        x, w = b.input("x", f32(2, 9, 7, 6)), b.input("w", f32(3, 3, 6, 6))
        r = normalized(x, shift_of(b, "shift", x))
        y = get("conv")(r, w, **attributes(SAME)) + r
        dx = get("conv_input_grad")(y, w, input_shape=tuple(x.shape), **attributes(SAME))
        graph = b.finish({"y": y, "dx": sugar.select(r > 0, dx, 0)})
    assert loaded(graph) == [("conv", [0]), ("conv_input_grad", [])]
    check_graph(graph, arrays_for(graph), factor=40)


def stored_operands(graph: Graph) -> bool:
    return not any(places for _, places in loaded(graph))


def test_what_is_stored(monkeypatch):
    """Results, operands of what cannot compute them, dear ones, and what an epilogue can do."""
    x, w = f32(2, 9, 9, 4), f32(3, 3, 4, 6)

    def graph(make, x=x, w=w, **attrs) -> Graph:
        with Builder("g") as b:
            image = b.input("x", x)
            r = make(image, shift_of(b, "shift", image))
            y = get("conv")(r, b.input("w", w), **(attributes(SAME) | attrs))
            pooled = get("max_pool")(r, window=(2, 2), strides=(2, 2), padding=NONE)
            return b.finish({"y": y, "r": r, "p": pooled} if "r" in names else {"y": y})

    names: set[str] = set()
    assert not stored_operands(graph(normalized))
    assert stored_operands(
        graph(lambda x, s: sugar.binary("maximum", x + s, 0))
    )  # waits for nothing
    assert stored_operands(graph(lambda x, s: sugar.unary("exp", normalized(x, s))))
    assert stored_operands(graph(lambda x, s: normalized(x, s) + get("reverse")(x, axes=(1,))))
    assert not stored_operands(graph(normalized, w=f32(3, 3, 1, 4), groups=4))
    assert stored_operands(graph(normalized, w=f32(3, 3, 1, 4), groups=4, strides=(2, 2)))
    assert stored_operands(graph(normalized, w=f32(3, 3, 1, 8), groups=4))
    assert stored_operands(graph(normalized, w=f32(3, 3, 2, 4), groups=2))
    assert stored_operands(graph(normalized, x=f32(0, 9, 9, 4)))
    assert stored_operands(graph(normalized, x=bf16(2, 9, 9, 4), w=bf16(3, 3, 4, 6)))
    monkeypatch.setattr(prologue, "LEAST_BYTES", 1 << 18)
    assert stored_operands(graph(normalized))
    monkeypatch.setattr(prologue, "LEAST_BYTES", 0)
    names.add("r")
    assert stored_operands(graph(normalized))


def residual_net() -> hf.Model:
    """Blocks with shortcuts, of full, strided, pointwise and depthwise convolutions."""
    layers = hf.layers

    def normalized_conv(x, filters, taps, strides=1):
        x = layers.Conv2D(filters, taps, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = layers.Input((12, 12, 3))
    x = layers.ReLU()(normalized_conv(inputs, 16, 3))
    y = normalized_conv(layers.ReLU()(normalized_conv(x, 16, 3)), 16, 3)
    x = layers.ReLU()(layers.add([x, y]))
    y = normalized_conv(layers.ReLU()(normalized_conv(x, 24, 3, 2)), 24, 3)
    x = layers.ReLU()(layers.add([normalized_conv(x, 24, 1, 2), y]))
    y = layers.Activation("relu6")(normalized_conv(x, 48, 1))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y)
    y = layers.Activation("relu6")(layers.BatchNormalization()(y))
    x = layers.add([x, normalized_conv(y, 24, 1)])
    x = layers.GlobalAveragePooling2D()(x)
    model = hf.Model(inputs, layers.Dense(5, activation="softmax")(x))
    model.compile(optimizer="sgd", loss="categorical_crossentropy")
    return model


def test_training_of_a_residual_net():
    rng = np.random.default_rng(0)
    x = rng.random((7, 12, 12, 3), np.float32)
    y = np.eye(5, dtype=np.float32)[rng.integers(0, 5, 7)]
    native, oracle = residual_net(), residual_net()
    oracle.set_weights(native.get_weights())
    fast, slow = hf.compile(native, "tvm"), hf.compile(oracle, "eager")
    plan = make_plan(optimize(fast.graph("train").specialize({"N": 7})))
    roots = [call.kernel.root_node for call in plan.calls if isinstance(call, Call)]
    computed = [
        root for root in roots
        if root is not None and root.op.name.startswith("conv") and root.inputs[0].node is not None
    ]  # fmt: skip
    assert len(computed) >= 10
    for _ in range(3):
        got, expected = fast.train_on_batch(x, y), slow.train_on_batch(x, y)
        np.testing.assert_allclose(got, expected, rtol=2e-4)
    for a, b in zip(native.get_weights(), oracle.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)


def test_zeros_of_padding_are_not_normalized():
    """Zeros stand around what is computed, not around what it is computed of."""
    with Builder("padded") as b:
        x = b.input("x", f32(1, 4, 4, 8))
        r = normalized(x, shift_of(b, "shift", x)) + 100
        w = sugar.full((3, 3, 8, 1), 1, f32)
        graph = b.finish({"y": get("conv")(r, w, **attributes(SAME))})
    assert loaded(graph) == [("conv", [0])]
    arrays = {"x": np.zeros((1, 4, 4, 8), np.float32), "shift": np.zeros(8, np.float32)}
    y = run_compiled(compiled(graph), arrays).outputs["y"][0, :, :, 0]
    assert y[0, 0] == 3200
    assert y[0, 1] == 4800
    assert y[1, 1] == 7200
