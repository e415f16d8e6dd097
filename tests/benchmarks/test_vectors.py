"""The tool that compares vectors of two widths: what it runs, and what it refuses."""

from __future__ import annotations

import pytest

from hornfels.benchmarks import vectors
from hornfels.codegen.tvm.target import host_machine, parse_target
from hornfels.ir.errors import ArgumentError

NEEDS_AVX512 = pytest.mark.skipif(
    "avx512f" not in host_machine().features, reason="the processor has no AVX-512"
)


def test_avx2_is_narrower_and_on_one_thread():
    machine = parse_target(vectors.AVX2.target).machine
    assert (machine.vector_bits, machine.vector_registers, machine.cores) == (256, 16, 1)
    assert "avx512f" not in machine.features


@NEEDS_AVX512
def test_both_take_steps_in_turns():
    wide, narrow = vectors.measure("mlp", (vectors.AVX512, vectors.AVX2), 4, 0.0)
    assert len(wide) == len(narrow) >= 3
    assert min(*wide, *narrow) > 0


@NEEDS_AVX512
def test_unknown_model_is_refused():
    with pytest.raises(ArgumentError, match="'no such'"):
        vectors.main(["--models", "no such"])
