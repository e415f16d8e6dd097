"""What each op has and lacks, read off the registry: `python docs/coverage.py` rewrites the page.

A test compares `coverage.md` with what this writes.
"""

from __future__ import annotations

from pathlib import Path

from hornfels.ir.op import CODE, REGISTRY, Op, Reason

PAGE = Path(__file__).with_name("coverage.md")

HEAD = """\
# What each op has

Written by `docs/coverage.py` from the registry in `ir/ops/`; a test keeps it true. Where ONNX has
an operator of the same meaning, its name stands in place of "yes"; a number points to a reason
below.

| op | kind | gradient | ONNX | TVM |
|---|---|---|---|---|
"""


def page() -> str:
    """The text of `coverage.md`."""
    reasons: dict[str, int] = {}
    rows = "".join(_row(op, reasons) for op in REGISTRY.values())
    notes = "".join(f"{number}. {text}\n" for text, number in reasons.items())
    return f"{HEAD}{rows}\n## Reasons\n\n{notes}"


def _row(op: Op, reasons: dict[str, int]) -> str:
    onnx = {CODE: "yes"}.get(op.onnx, op.onnx) if isinstance(op.onnx, str) else op.onnx
    cells = (op.vjp if isinstance(op.vjp, Reason) else "yes", onnx, op.tvm or "yes")
    return f"| {op.name} | {op.kind} | " + " | ".join(_cell(c, reasons) for c in cells) + " |\n"


def _cell(value: str | Reason, reasons: dict[str, int]) -> str:
    if isinstance(value, Reason):
        return f"no ({reasons.setdefault(value.text, len(reasons) + 1)})"
    return value


if __name__ == "__main__":
    PAGE.write_text(page())
