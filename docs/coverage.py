"""What each op has and lacks, read off the registry: `python docs/coverage.py` rewrites the page.

A test compares `coverage.md` with what this writes. Which element types an ONNX model computes in
a wider one is read off the models themselves, so that the script needs the package onnx.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hornfels.codegen.onnx import lower
from hornfels.codegen.onnx.emit import PROTO
from hornfels.codegen.onnx.limits import LIMITS
from hornfels.ir import Builder, Graph
from hornfels.ir.errors import HornfelsError, LoweringError
from hornfels.ir.op import CODE, REGISTRY, Case, Op, Reason
from hornfels.ir.types import DTYPES, DType, TensorType

PAGE = Path(__file__).with_name("coverage.md")

HEAD = """\
# What each op has

Written by `docs/coverage.py` from the registry in `ir/ops/`; a test keeps it true. A number points
to a note below.

- **dtypes**: what the type rule takes, for the operand that has most of a choice. Every backend
  runs all of them, and tests compare each with the oracle; exceptions stand in its column.
- **gradient**: the reverse rule (vjp). **forward**: the forward rule (jvp), written for the op or
  transposed from the reverse one.
- **ONNX**: the operator of the same meaning, "composed" if it takes several, and in brackets the
  dtypes for which ONNX Runtime has no kernel and the one in which the model computes instead.
- **TVM**: whether the native backend has it; f16 and bf16 are computed in f32 there.

| op | kind | dtypes | gradient | forward | ONNX | TVM |
|---|---|---|---|---|---|---|
"""

CLASSES = {
    "all": set(DTYPES),
    "numbers": set(DTYPES) - {"bool"},
    "floats": {d.name for d in DTYPES.values() if d.is_float},
    "integers": {d.name for d in DTYPES.values() if d.is_integer},
    "integers, bool": {d.name for d in DTYPES.values() if not d.is_float},
}
"""Names for sets of dtypes."""


def page() -> str:
    """The text of `coverage.md`."""
    notes: dict[str, int] = {}
    rows = "".join(_row(op, notes) for op in REGISTRY.values())
    listed = "".join(f"{number}. {text}\n" for text, number in notes.items())
    return f"{HEAD}{rows}\n## Notes\n\n{listed}"


@dataclass(frozen=True)
class Accepted:
    """A sample that the type rule takes, and which operand's dtype was chosen."""

    case: Case
    operand: int


def _row(op: Op, notes: dict[str, int]) -> str:
    accepted = {} if _has_bodies(op) else _accepted(op)
    cells = [
        op.name, op.kind, _dtypes(op, accepted), _gradient(op, notes), _forward(op, notes),
        _onnx(op, accepted, notes), _noted(op.tvm, notes) if op.tvm else "yes",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |\n"


def _noted(reason: Reason | str, notes: dict[str, int], word: str = "no") -> str:
    text = reason.text if isinstance(reason, Reason) else reason
    return f"{word} ({notes.setdefault(text, len(notes) + 1)})"


def _gradient(op: Op, notes: dict[str, int]) -> str:
    return _noted(op.vjp, notes) if isinstance(op.vjp, Reason) else "yes"


def _forward(op: Op, notes: dict[str, int]) -> str:
    if op.jvp is not None:
        return "yes"
    return _noted(op.vjp, notes) if isinstance(op.vjp, Reason) else "transposed"


def _has_bodies(op: Op) -> bool:
    """Whether attributes are graphs, whose dtypes are their own."""
    return any(isinstance(v, Graph) for case in op.samples for v in case.attrs.values())


# --- dtypes ----------------------------------------------------------------------------------


def _accepted(op: Op) -> dict[DType, Accepted]:
    """For each dtype that the type rule takes, a sample of it: by the operand of most choice."""
    found: list[dict[DType, Accepted]] = []
    sizable = [c for c in op.samples if c.types and not any(0 in t.shape for t in c.types)]
    for operand in range(max((len(c.types) for c in sizable), default=0)):
        cases = [case for case in sizable if operand < len(case.types)]
        typed = ((d, _first_typed(op, cases, operand, d)) for d in DTYPES.values())
        found.append({d: Accepted(case, operand) for d, case in typed if case})
    return max(found, key=len, default={})


def _first_typed(op: Op, cases: list[Case], operand: int, dtype: DType) -> Case | None:
    """The first sample that takes a dtype in place of an operand's."""
    for case in cases:
        old = case.types[operand].dtype
        types = tuple(t.with_dtype(dtype) if t.dtype == old else t for t in case.types)
        if found := _typed(op, case, types):
            return found
    return None


def _typed(op: Op, case: Case, types: tuple[TensorType, ...]) -> Case | None:
    """The sample on these types, with whatever dtype for an attribute they allow."""
    names = [k for k, v in case.attrs.items() if isinstance(v, DType)]
    choices: list[dict[str, Any]] = [dict(case.attrs)]
    choices += [{**case.attrs, name: dtype} for name in names for dtype in DTYPES.values()]
    for attrs in choices:
        try:
            op.infer(*types, **attrs)
        except HornfelsError:
            continue
        return Case(types, attrs)
    return None


def _dtypes(op: Op, accepted: dict[DType, Accepted]) -> str:
    if _has_bodies(op):
        return "all"
    if not any(case.types for case in op.samples):
        return "-"
    names = {d.name for d in accepted}
    return next((k for k, v in CLASSES.items() if v == names), " ".join(d.name for d in accepted))


# --- ONNX ------------------------------------------------------------------------------------


def _onnx(op: Op, accepted: dict[DType, Accepted], notes: dict[str, int]) -> str:
    if isinstance(op.onnx, Reason):
        return _noted(op.onnx, notes)
    lists: dict[str, list[str]] = {}
    for dtype, sample in accepted.items():
        if words := _detour(op, sample):
            lists.setdefault(words, []).append(dtype.name)
    word = "composed" if op.onnx == CODE else op.onnx
    detours = "; ".join(f"{', '.join(names)} {words}" for words, names in lists.items())
    cell = f"{word} ({detours})" if detours else word
    return _noted(LIMITS[op.name], notes, cell) if op.name in LIMITS else cell


_MOVES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Expand", "Concat"}


def _detour(op: Op, sample: Accepted) -> str:
    """How a model computes, if not by ONNX Runtime's kernel for the dtype."""
    if op.name in ("cast", "bitcast"):
        return ""
    try:
        nodes = lower(_graph_of(op, sample.case)).graph.node
    except LoweringError:
        return "not at all"
    names = {number: name for name, number in PROTO.items()}
    moved = {f"x{sample.operand}"}
    for node in nodes:
        if node.op_type in _MOVES and moved.intersection(node.input):
            moved.update(node.output)
        if node.op_type == "Cast" and node.input[0] in moved:
            target = names[node.attribute[0].i]
            results = {t.dtype.name for t in op.infer(*sample.case.types, **sample.case.attrs)}
            if target not in results | {"bool"}:
                return f"in {target}"
    is_named = op.onnx == CODE or any(node.op_type == op.onnx for node in nodes)
    return "" if is_named else "composed"


def _graph_of(op: Op, case: Case) -> Graph:
    with Builder(op.name) as b:
        operands = [b.input(f"x{i}", t) for i, t in enumerate(case.types)]
        outputs = op.all(*operands, **case.attrs)
        return b.finish({f"y{i}": v for i, v in enumerate(outputs)})


if __name__ == "__main__":
    PAGE.write_text(page())
