"""The golden programs of the rewrite rules: where each fires, and where it must not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from random_graphs import assert_same, random_arrays

from hornfels.ir import Graph, evaluate
from hornfels.passes.simplify import RULES

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "simplify"
BY_NAME = {rule.name: rule for rule in RULES}


@dataclasses.dataclass(frozen=True)
class Golden:
    """`before --- after === # why not, and a program that stays`."""

    before: str
    after: str
    reason: str
    stays: str


def read(name: str) -> Golden:
    """The golden of a rule."""
    fires, stays = (GOLDEN / f"{name}.ir").read_text().split("\n===\n")
    before, after = fires.split("\n---\n")
    reason, _, program = stays.partition("\n")
    return Golden(before.strip(), after.strip(), reason.removeprefix("# "), program.strip())


def arrays_for(graph: Graph, *, awkward: bool) -> dict[str, np.ndarray]:
    """Random numbers, and if asked for, where the type allows, a row of the awkward ones."""
    arrays = random_arrays(graph.specialize({"N": 5}), seed=3)
    for name, array in arrays.items():
        fits = array.dtype.kind == "f" and array.size >= 4 and graph.named(name).ndim == 2
        if awkward and fits:
            array.reshape(-1)[:4] = [np.inf, -np.inf, 0.0, np.nan]
    return arrays


def check_equal(before: Graph, after: Graph) -> None:
    """Equal numbers; a sum of products that becomes a product adds up in another order."""
    reordered = any(n.op.name == "matmul" for n in after.nodes) and not any(
        n.op.name == "matmul" for n in before.nodes
    )
    atol = 1e-6 if reordered else 0
    for awkward in (True, False):  # NaN would hide what comes of the others
        arrays = arrays_for(before, awkward=awkward)
        with np.errstate(all="ignore"):
            assert_same(evaluate(after, arrays), evaluate(before, arrays), rtol=1e-6, atol=atol)
