"""Reading assembly: the inner loops of a kernel, and what its instructions do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LABEL = re.compile(r"^(\.?[\w.]+):")
_JUMP = re.compile(r"^\s+(?:j\w+|b\.\w+|b|cbn?z\s+\w+,|tbn?z\s+.*,)\s*(\.?L\w+)\b")
_MULTIPLY_ADD = re.compile(r"^\s+(?:vfn?m(?:add|sub)\d+p[sd]|fml[as])\b")
_STORE = re.compile(r"^\s+(?:v?mov[uad]\w*\s+%[xyz]mm\d+, .*\(|st[rp1-4]\w*\b|stur\b)")
_STACK = re.compile(r"\(%rsp|\[sp\b")


@dataclass(frozen=True)
class Loop:
    """The instructions of a loop that holds no other loop."""

    lines: tuple[str, ...]

    @property
    def multiply_adds(self) -> int:
        """Fused multiply-adds of whole vectors."""
        return sum(bool(_MULTIPLY_ADD.match(line)) for line in self.lines)

    @property
    def stores(self) -> list[str]:
        """Instructions that write to memory."""
        return [line for line in self.lines if _STORE.match(line)]

    @property
    def spills(self) -> list[str]:
        """Instructions that read or write vectors on the stack."""
        vector = re.compile(r"%[xyz]mm|\b[qvd]\d+\b")
        return [line for line in self.lines if _STACK.search(line) and vector.search(line)]

    @property
    def registers(self) -> set[str]:
        """Vector registers that multiply-adds add to."""
        found = set()
        for line in filter(_MULTIPLY_ADD.match, self.lines):
            operands = re.findall(r"%[xyz]mm\d+|\bv\d+\.", line)
            found.add(operands[-1] if operands[0].startswith("%") else operands[0])
        return found

    def __str__(self) -> str:
        return "\n".join(self.lines)


def inner_loops(assembly: str) -> Iterator[Loop]:
    """The loops of all functions that hold no other loop."""
    lines = assembly.splitlines()
    places = {m.group(1): i for i, line in enumerate(lines) if (m := _LABEL.match(line))}
    spans = set()
    for end, line in enumerate(lines):
        jump = _JUMP.match(line)
        if jump and places.get(jump.group(1), end) < end:
            spans.add((places[jump.group(1)], end))
    for start, end in sorted(spans):
        if not any((a, b) != (start, end) and start <= a and b <= end for a, b in spans):
            yield Loop(tuple(lines[start : end + 1]))


def densest_loop(assembly: str, least: int = 8) -> Loop:
    """The inner loop of which multiply-adds are the largest part; it has at least so many."""
    loops = [loop for loop in inner_loops(assembly) if loop.multiply_adds >= least]
    return max(loops, key=lambda loop: loop.multiply_adds / len(loop.lines))
