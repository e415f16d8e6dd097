"""Every op on several sets of arguments: Hornfels against real Keras on JAX."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from op_cases import CASES
from op_cases.run import Keras, arrays_of, call, eager, flat, traced

import hornfels
from hornfels.frontend.keras_tensor import KerasTensor
from hornfels.ir import evaluate
from hornfels.runtime.tvm_backend import TvmBackend

KERAS = Keras(CASES)
PARAMETERS = [pytest.param(c, id=c.label) for c in CASES]


def assert_close(found, wanted, tolerance):
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    if found.dtype.kind in "iub":
        np.testing.assert_array_equal(found, wanted)
        return
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", PARAMETERS)
def test_results_and_derivatives_are_those_of_keras(case):
    """At once and traced: values, dtypes; then derivatives, where Keras has some."""
    wanted, slopes = KERAS(case)
    found = eager(case)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype or isinstance(a, int)
        assert_close(a, b, case.tolerance)
    if not case.traced:
        return
    graph, feed = traced([case], with_gradients=True)
    outputs = evaluate(graph, feed).outputs
    for i, a in enumerate(found):
        assert_close(outputs[f"0/y{i}"], a, 2e-6)
    for i, slope in enumerate(slopes):
        scale = max(1.0, float(np.nan_to_num(np.abs(slope)).max(initial=0)))
        assert_close(outputs[f"0/g{i}"] / scale, slope / scale, 10 * case.tolerance)


def symbolic(case, module):
    """The call on symbolic tensors of the arrays' shapes; None where it is refused."""
    tensor = keras.KerasTensor if module is keras.ops else KerasTensor
    return call(module, case, [tensor(a.shape, str(a.dtype)) for a in arrays_of(case)])


KERAS_TELLS_OTHERWISE = {
    # shapes or dtypes that are not those of what Keras computes
    "adaptive_average_pool", "adaptive_max_pool", "corrcoef", "ctc_decode", "histogram",
    "in_top_k", "multi_hot", "rot90-3x4-", "searchsorted",
    "categorical_crossentropy-3x4-3x4-axis=0", "conv-2x7x8x4-3x3x2x6-", "vstack--", "hstack--",
    # no symbolic tensor, or no shape for one
    "argpartition", "array", "get_item", "meshgrid", "ndim", "segment_max", "segment_min",
    "segment_prod", "segment_sum", "shape", "size", "slice", "unique", "where",
}  # fmt: skip
"""Ops, or calls of them, whose symbolic results in Keras are not to be compared with."""

SYMBOLIC = [c for c in CASES if c.traced and c.jit and arrays_of(c)]


@pytest.mark.parametrize("case", [pytest.param(c, id=c.label) for c in SYMBOLIC])
def test_symbolic_tensors_have_the_shapes_and_dtypes_of_keras(case):
    found = symbolic(case, hornfels.ops)
    computed = eager(case)
    assert [(tuple(y.shape), y.dtype) for y in found if isinstance(y, KerasTensor)] == [
        (np.shape(y), str(np.asarray(y).dtype)) for y in computed if not isinstance(y, int)
    ]
    if not {case.name, case.label} & KERAS_TELLS_OTHERWISE:
        wanted = symbolic(case, keras.ops)
        assert [tuple(y.shape) for y in found] == [tuple(y.shape) for y in wanted]
        assert [y.dtype for y in found] == [y.dtype for y in wanted]


# --- native code -------------------------------------------------------------------------------

ONCE = list({c.name: c for c in reversed(SYMBOLIC)}.values())
"""One call of every op."""
PROGRAMS = 6


@pytest.mark.parametrize("part", range(PROGRAMS))
def test_compiled_as_at_once(part):
    """Many ops in one native program: what compiling costs is mostly the start."""
    cases = ONCE[part::PROGRAMS]
    graph, feed = traced(cases, with_gradients=False)
    backend = TvmBackend()
    outputs = backend.compile(graph)(backend.state(), feed)
    for number, case in enumerate(cases):
        for i, wanted in enumerate(flat(eager(case))):
            found = outputs.get(f"{number}/y{i}")
            assert np.asarray(found).dtype == np.asarray(wanted).dtype or isinstance(wanted, int)
            assert_close(found, wanted, max(case.tolerance, 2e-5))
