"""A processor with AMX tiles, in Python: it runs the few instructions that such code consists of.

It reads the assembly that LLVM writes (AT&T syntax), and does what Intel's manual (volume 2,
"Intel AMX instruction reference") says of each instruction, its faults included. An instruction
that it does not know is an error.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

MASK = (1 << 64) - 1
STACK, DATA, CODE_STEPS = 0x7000_0000, 0x6000_0000, 200_000
ARGUMENTS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
_OLD = ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")
_WIDE = {f"e{name}": f"r{name}" for name in _OLD} | {f"r{n}d": f"r{n}" for n in range(8, 16)}
_OPERAND = re.compile(r"[^,(\s]*\([^)]*\)|[^,\s]+")
_MEMORY = re.compile(r"(-?\d*)\((%\w+)?(?:,(%\w+))?(?:,(\d))?\)")
_DIRECTIVES = re.compile(r'(\w+):\n\t\.(?:asciz\t"(.*)"|long\t(\d+))')


class FaultError(Exception):
    """What the processor would refuse."""


@dataclass
class Processor:
    """Registers, tiles and memory.

    Parameters
    ----------
    assembly : str
        Of a module; its functions end with ``retq``.
    """

    assembly: str
    registers: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    system_calls: list[tuple[int, ...]] = field(default_factory=list)
    shapes: list[tuple[int, int]] | None = None
    """Rows and bytes of a row of each tile, once they are configured."""

    def __post_init__(self) -> None:
        self.memory: list[tuple[int, np.ndarray]] = [(STACK - 4096, np.zeros(8192, np.uint8))]
        self.symbols: dict[str, int] = {}
        self.difference = 0
        for name, text, number in _DIRECTIVES.findall(self.assembly):
            data = codecs.escape_decode(text.encode())[0] + b"\0"  # type: ignore[attr-defined]
            data = data if text else int(number).to_bytes(4, "little")
            self.symbols[name] = DATA + 256 * len(self.symbols)
            self.memory.append((self.symbols[name], np.frombuffer(data, np.uint8).copy()))

    def call(self, function: str, *arguments: int | np.ndarray) -> None:
        """Run a function; arrays are passed by address, and written where they lie."""
        for number, (name, value) in enumerate(zip(ARGUMENTS, arguments, strict=False)):
            if isinstance(value, np.ndarray):
                address = 0x1000_0000 * (number + 1) + 64 * number
                self.memory.append((address, value.reshape(-1).view(np.uint8)))
                value = address
            self.registers[name] = value
        self.registers["rsp"] = STACK
        lines = [line.split("#")[0].strip() for line in self.assembly.splitlines()]
        labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
        at = labels[function]
        for _ in range(CODE_STEPS):
            at += 1
            name, _, rest = lines[at].partition("\t")
            if not name or name.startswith(".") or name.endswith(":"):
                continue
            if name == "retq":
                return
            self.counts[name] = self.counts.get(name, 0) + 1
            target = self._step(name, _OPERAND.findall(rest))
            at = at if target is None else labels[target]
        raise FaultError("it does not end")

    # --- memory ---

    def _place(self, address: int, size: int) -> np.ndarray:
        for start, data in self.memory:
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        raise FaultError(f"no {size} bytes at {address:#x}")

    def _address(self, text: str) -> tuple[int, int]:
        """Base and displacement, and the index times its scale."""
        displacement, base, index, scale = _MEMORY.fullmatch(text).groups()  # type: ignore[union-attr]
        start = int(displacement or 0) + (self._read(base) if base else 0)
        return start & MASK, self._read(index) * int(scale or 1) if index else 0

    def _read(self, text: str, size: int = 8) -> int:
        if text.startswith("$"):
            return self.symbols[text[1:]] if text[1:] in self.symbols else int(text[1:]) & MASK
        if text.startswith("%"):
            name = text[1:]
            value = self.registers.get(_WIDE.get(name, name), 0)
            return value & 0xFFFFFFFF if name in _WIDE else value
        found = self._place(sum(self._address(text)) & MASK, size)
        return int.from_bytes(found.tobytes(), "little")

    def _write(self, text: str, value: int, size: int) -> None:
        value &= (1 << 8 * size) - 1
        if text.startswith("%"):
            name = text[1:]
            if _WIDE.get(name, name) not in {*_WIDE.values()}:
                raise FaultError(f"unknown register {name}")
            self.registers[_WIDE.get(name, name)] = value
        else:
            place = self._place(sum(self._address(text)) & MASK, size)
            place[:] = np.frombuffer(value.to_bytes(size, "little"), np.uint8)

    # --- instructions ---

    def _step(self, name: str, operands: Sequence[str]) -> str | None:
        """Run an instruction; the label that it jumps to, if it does."""
        if name in _TILES:
            _TILES[name](self, *operands)
        elif name == "syscall":
            self.system_calls.append(tuple(self._read(f"%{r}") for r in ("rax", "rdi", "rsi")))
            self.registers.update(rax=0, rcx=0, r11=0)
        elif name in _JUMPS:
            return operands[0] if _JUMPS[name](self.difference) else None
        elif name.startswith("cmov"):
            if _JUMPS[f"j{name[4:-1]}"](self.difference):
                self._write(operands[1], self._read(operands[0]), 8)
        elif name in ("pushq", "popq"):
            self._stack(name, operands[0])
        else:
            self._whole(name, operands)
        return None

    def _stack(self, name: str, operand: str) -> None:
        if name == "pushq":
            self.registers["rsp"] -= 8
            self._write("(%rsp)", self._read(operand), 8)
        else:
            self._write(operand, self._read("(%rsp)"), 8)
            self.registers["rsp"] += 8

    def _whole(self, name: str, operands: Sequence[str]) -> None:
        """Arithmetic of whole numbers."""
        if name == "leaq":
            return self._write(operands[1], sum(self._address(operands[0])), 8)
        if name == "movabsq":
            return self._write(operands[1], self._read(operands[0]), 8)
        operation, size = _WHOLE.get(name[:-1]), {"q": 8, "l": 4}.get(name[-1])
        if operation is None or size is None:
            raise FaultError(f"unknown instruction {name}")
        first = 1 if name[:-1] in ("inc", "dec") else self._read(operands[0], size)
        second = 0 if name[:-1] == "mov" else self._read(operands[-1], size)
        result = operation(second, first)
        bits = 8 * size
        signed = ((result & ((1 << bits) - 1)) ^ (1 << bits - 1)) - (1 << bits - 1)
        if name[:-1] != "mov":
            self.difference = signed
        if name[:-1] not in ("cmp", "test"):
            self._write(operands[-1], result, size)
        return None

    # --- tiles ---

    def _configure(self, operand: str) -> None:
        data = self._place(self._address(operand)[0], 64)
        widths, rows = data[16:48].view(np.uint16), data[48:64]
        reserved = [*data[1:16], *widths[8:], *rows[8:]]
        if data[0] != 1 or any(reserved) or max(widths) > 64 or max(rows) > 16:
            raise FaultError("ldtilecfg: not a configuration of palette 1")
        self.shapes = [(int(r), int(w)) for r, w in zip(rows[:8], widths[:8], strict=True)]
        self.tiles = np.zeros((8, 16, 64), np.uint8)

    def _release(self) -> None:
        self._shape("%tmm0")
        self.shapes = None

    def _shape(self, tile: str) -> tuple[int, tuple[int, int]]:
        number = int(tile.removeprefix("%tmm"))
        if self.shapes is None or 0 in self.shapes[number]:
            raise FaultError(f"{tile} is not configured")
        return number, self.shapes[number]

    def _zero(self, tile: str) -> None:
        self.tiles[self._shape(tile)[0]] = 0

    def _load(self, operand: str, tile: str) -> None:
        number, (rows, width) = self._shape(tile)
        start, stride = self._address(operand)
        self.tiles[number] = 0
        for row in range(rows):
            self.tiles[number, row, :width] = self._place(start + row * stride & MASK, width)

    def _store(self, tile: str, operand: str) -> None:
        number, (rows, width) = self._shape(tile)
        start, stride = self._address(operand)
        for row in range(rows):
            self._place(start + row * stride & MASK, width)[:] = self.tiles[number, row, :width]

    def _multiply(self, right: str, left: str, sums: str) -> None:
        (b, (pairs, width)), (a, (rows, terms)) = self._shape(right), self._shape(left)
        c, shape = self._shape(sums)
        if len({a, b, c}) < 3 or shape != (rows, width) or terms != 4 * pairs:
            raise FaultError("tdpbf16ps: tiles must be different, and of fitting shapes")
        x = self.tiles[a].view(ml_dtypes.bfloat16).astype(np.float32).reshape(16, 16, 2)
        y = self.tiles[b].view(ml_dtypes.bfloat16).astype(np.float32).reshape(16, 16, 2)
        total = self.tiles[c].view(np.float32)
        added = np.zeros((2, 16, 16), np.float32)
        for k in range(pairs):
            for half in range(2):
                added[half] += x[:, k, half, None] * y[None, k, :, half]
        total[:rows, : width // 4] += (added[0] + added[1])[:rows, : width // 4]


_TILES: dict[str, Callable[..., None]] = {
    "ldtilecfg": Processor._configure, "tilerelease": Processor._release,
    "tilezero": Processor._zero, "tileloadd": Processor._load,
    "tilestored": Processor._store, "tdpbf16ps": Processor._multiply,
}  # fmt: skip
_JUMPS: dict[str, Callable[[int], bool]] = {
    "jmp": lambda d: True, "je": lambda d: d == 0, "jne": lambda d: d != 0,
    "jl": lambda d: d < 0, "jge": lambda d: d >= 0, "jle": lambda d: d <= 0, "jg": lambda d: d > 0,
}  # fmt: skip
_WHOLE: dict[str, Callable[[int, int], int]] = {
    "mov": lambda x, y: y, "add": lambda x, y: x + y, "sub": lambda x, y: x - y,
    "and": lambda x, y: x & y, "or": lambda x, y: x | y, "xor": lambda x, y: x ^ y,
    "shl": lambda x, y: x << y, "imul": lambda x, y: x * y, "cmp": lambda x, y: x - y,
    "test": lambda x, y: x & y, "inc": lambda x, y: x + y, "dec": lambda x, y: x - y,
}  # fmt: skip
