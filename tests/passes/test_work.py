"""The work of kernels: operations counted by the oracle itself, bytes by hand."""

import numpy as np
import pytest

from hornfels.ir import parse
from hornfels.ir.op import REGISTRY
from hornfels.ir.types import TensorType
from hornfels.passes.pipeline import make_plan
from hornfels.passes.work import NO_WORK, Work, work_of

CONTRACTIONS = [op for op in REGISTRY.values() if op.kind == "contraction"]


def _fixed(t):
    return TensorType(t.dtype, tuple(d if isinstance(d, int) else 2 for d in t.shape))


def _exact_cases():
    """Samples without padding or dilated input: there every product counts."""
    for op in CONTRACTIONS:
        for number, case in enumerate(op.samples):
            padded = any(any(pair) for pair in case.attrs.get("padding", ()))
            if not padded and all(k == 1 for k in case.attrs.get("input_dilation", ())):
                yield pytest.param(op, case, id=f"{op.name}-{number}")


@pytest.mark.parametrize(("op", "case"), list(_exact_cases()))
def test_the_oracle_on_ones_counts_the_products(op, case):
    types = tuple(map(_fixed, case.types))
    attrs = {
        key: tuple(2 if not isinstance(d, int) else d for d in value)
        if key.endswith("_shape") else value
        for key, value in case.attrs.items()
    }  # fmt: skip
    (out,) = op.infer(*types, **attrs)
    (sums,) = op.evaluate(*(np.ones(t.shape) for t in types), **attrs)
    assert op.flops(*types, out=out, **attrs) == 2 * sums.sum()


def test_every_contraction_says_its_operations():
    assert CONTRACTIONS
    assert not [op.name for op in CONTRACTIONS if op.flops is None]


def _works(text):
    return [work_of(kernel) for kernel in make_plan(parse(text)).kernels]


def test_an_epilogue_is_counted_beside_the_product():
    (work,) = _works("""graph head(%a: f32[4,5], %b: f32[5,3], %c: f32[3]) {
      %0: f32[4,3] = matmul(%a, %b)
      %1: f32[4,3] = broadcast[axes=(1,), shape=(4,3)](%c)
      %2: f32[4,3] = add(%0, %1)
      %3: f32[4,3] = tanh(%2)
      return y=%3
    }""")
    assert work == Work(120, 12 * (1 + 14), (20 + 15 + 3) * 4, 48)
    assert work.nbytes == 200


def test_a_reduction_works_on_its_operand():
    (work,) = _works("""graph total(%x: f32[6,7]) {
      %0: f32[6] = reduce_sum[axes=(1,)](%x)
      return y=%0
    }""")
    assert work == Work(0, 42, 168, 24)


def test_works_add_up():
    assert Work(1, 2, 3, 4) + Work(10, 20, 30, 40) + NO_WORK == Work(11, 22, 33, 44)
