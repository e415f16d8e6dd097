"""bf16: what conversions make of every kind of number, and what is said where it is emulated."""

from __future__ import annotations

import warnings
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from native import TARGET, aligned, declare, run_function
from native_graph import compiled, run_compiled

import hornfels as hf
from hornfels.codegen.tvm import bfloat, emit
from hornfels.ir import parse

BF16 = ml_dtypes.bfloat16
EMULATED = replace(TARGET.machine, features=frozenset())


def numbers() -> np.ndarray:
    """f32 of every exponent and sign: bf16 itself, ties, their neighbours, infinities and NaN."""
    high = np.arange(1 << 16, dtype=np.uint32) << 16
    low = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    return (high[::7, None] | low).reshape(-1).view(np.float32)


def check(rounded: np.ndarray, exact: np.ndarray, *, flushed: bool) -> None:
    nan = np.isnan(exact)
    want = np.where(nan, 0, exact).astype(BF16)
    assert np.isnan(rounded.astype(np.float32)[nan]).all()
    lost = np.abs(exact) < np.finfo(np.float32).tiny if flushed else np.zeros(exact.shape, bool)
    same = rounded.view(np.uint16) == want.view(np.uint16)
    assert (same | nan | lost).all()
    assert (np.abs(rounded[lost].astype(np.float32)) <= np.finfo(np.float32).tiny).all()


@pytest.mark.parametrize("lanes", [1, 5, 8, 16])
@pytest.mark.parametrize("machine", [TARGET.machine, EMULATED], ids=["host", "emulated"])
def test_narrow_rounds_to_the_nearest(machine, lanes):
    exact = numbers()
    exact = aligned(exact[: len(exact) // 80 * 80])
    rounded = aligned(np.zeros(len(exact), BF16))
    x, y = declare("x", exact), declare("y", rounded)
    body = emit.strips(
        len(exact), lanes, lambda i: emit.store(y, (i,), bfloat.narrow(x[i], machine))
    )
    run_function(emit.kernel("k", [x, y], body), [exact, rounded])
    check(rounded, exact, flushed=True)


CAST = """graph g(%x: f32[{n}]) {{
  %0: bf16[{n}] = cast[dtype=bf16](%x)
  %1: bf16[{n}] = neg(%0)
  return rounded=%0, negated=%1
}}"""


@pytest.mark.parametrize("denormals", ["flush", "keep"])
def test_casts_of_graphs(denormals):
    exact = numbers()
    with hf.settings(denormals=denormals), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = run_compiled(compiled(parse(CAST.format(n=len(exact)))), {"x": exact}).outputs
    check(found["rounded"], exact, flushed=denormals == "flush")
    check(-found["negated"], exact, flushed=denormals == "flush")


def test_emulation_is_said_once(monkeypatch):
    monkeypatch.setattr(bfloat, "_warned", False)
    with pytest.warns(UserWarning, match="bf16: products are computed in f32"):
        bfloat.warn_if_emulated(EMULATED)
    bfloat.warn_if_emulated(EMULATED)
