"""A measured search: with which belief about the machine each kernel is fastest.

The templates choose tiles, and whether to use threads, analytically from a model of the machine
(`codegen.tvm.target.Machine`). The search keeps the templates and bends the model, one kernel at
a time: fewer registers give a smaller tile, a smaller cache smaller blocks, more cores more
chunks; narrower vectors may clock higher. Kernels are measured alone, on made-up data, a candidate
and the best so far in turns. Those that take most of a step get most of the time. In the end the
whole step is measured with and without what was found, in turns: alone, kernels find their operands
in the cache, and a search on a machine that computes something else finds what is not there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

import numpy as np

from ..codegen.native.program import NativeProgram
from ..codegen.tvm import build, emit
from ..codegen.tvm.entry import Address, Call
from ..codegen.tvm.lower import (
    Choice,
    Choices,
    Shared,
    compile_timed,
    lower_kernel,
    serial_kernels,
    shared_parameters,
)
from ..codegen.tvm.target import Machine, Target
from ..codegen.tvm.timing import Event, timed
from ..ir.settings import current_settings, report, settings
from ..ir.types import TensorType, u8
from ..passes.plan import Kernel, Plan
from .blocks import address_of
from .tvm_backend import TimedExecutable, TvmState, aligned_empty

GAIN = 0.97
"""A candidate must take at most this share of the best time; less of a gain is noise."""
STEP_GAIN = 0.995
"""The same of the whole step with all choices."""
ROUNDS = 9
"""Times that a candidate and the best run in turns; the least time of each counts."""
WINS = 0.7
"""The share of the turns that a candidate must win: others may compute meanwhile."""
SERIES = 2
"""How often a gain must be seen, one time after the other."""
LEAST_SHARE = 0.01
"""Kernels that take less of a step are left as they are."""


def tune(plan: Plan, target: Target, seconds: float) -> Choices:
    """Search for faster choices for the kernels of a plan.

    Parameters
    ----------
    plan : Plan
    target : Target
    seconds : float
        How long to search, roughly: what has begun is measured to its end.

    Returns
    -------
    mapping of str to Choice
        For the kernels that became faster, by name.
    """
    end = time.perf_counter() + seconds
    serial = {kernel.name for kernel in serial_kernels(plan)}
    shared = {kernel.name: pairs for kernel, pairs in shared_parameters(plan).items()}
    kernels = {kernel.name: kernel for kernel in plan.kernels}
    step = _Step(plan, target)
    shares = {n: s for n, s in step.shares().items() if n in kernels and s >= LEAST_SHARE}
    found: dict[str, Choice] = {}
    left = sum(shares.values())
    for name, share in sorted(shares.items(), key=lambda item: -item[1]):
        now = time.perf_counter()
        until = now + (end - now) * share / left
        left -= share
        machine = replace(target.machine, cores=1) if name in serial else target.machine
        search = _Search(kernels[name], target, Choice(machine), shared[name])
        best = search.run(until)
        if best != search.default:
            found[name] = best
    if not found or _is_faster(_Step(plan, target, found), step, STEP_GAIN, "the step"):
        return found
    return {}


class _Step:
    """A plan that is compiled with some choices, on made-up data."""

    def __init__(self, plan: Plan, target: Target, choices: Choices = MappingProxyType({})) -> None:
        self.choices = choices
        self._executable = TimedExecutable.noting(*compile_timed(plan, target, choices))
        self._state = TvmState()
        for value in plan.graph.state:
            self._state.write(value.name, made_up(value.type))
        self._inputs = {v.name: made_up(v.type) for v in plan.graph.inputs}

    def nanoseconds(self) -> int:
        """How long one step takes."""
        self._executable(self._state, self._inputs)
        times = [times for _, times in self._executable.times() if len(times)]
        return int(max(t[:, 1].max() for t in times) - min(t[:, 0].min() for t in times))

    def shares(self) -> dict[str, float]:
        """The share of a step that each kernel takes."""
        totals: dict[str, float] = {}
        for _ in range(3):
            self._executable(self._state, self._inputs)
            spent: dict[str, float] = {}
            for event, times in self._executable.times():
                one = float((times[:, 1] - times[:, 0]).sum())
                spent[event.name] = spent.get(event.name, 0.0) + one
            totals = {name: min(each, totals.get(name, np.inf)) for name, each in spent.items()}
        whole = sum(totals.values()) or 1.0
        return {name: spent / whole for name, spent in totals.items()}


class _Timed(Protocol):
    def nanoseconds(self) -> int: ...


def _is_faster(candidate: _Timed, best: _Timed, gain: float, what: str) -> bool:
    """Whether a candidate is faster than the best so far, each time that both are measured."""
    for _ in range(SERIES):
        times = [(candidate.nanoseconds(), best.nanoseconds()) for _ in range(ROUNDS + 1)]
        new, old = (min(column) for column in zip(*times[1:], strict=True))
        wins = sum(a < b for a, b in times[1:])
        faster = new <= gain * old and wins >= WINS * ROUNDS
        words = ", faster" if faster else ""
        report("kernels", f"tune {what}: {old / 1e3:.1f} -> {new / 1e3:.1f} µs{words}")
        if not faster:
            return False
    return True


def made_up(type: TensorType) -> np.ndarray:
    """An array of numbers between 0.5 and 1, or of zeros if they are integers, which may index."""
    array = aligned_empty(type)
    rng = np.random.default_rng(0)
    array[...] = rng.uniform(0.5, 1.0, array.shape) if type.dtype.is_float else 0
    return array


# --- one kernel ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Trial:
    """A kernel that is compiled with one choice."""

    choice: Choice
    program: NativeProgram
    pointers: list[int]
    event: Event
    log: np.ndarray
    kept: tuple[np.ndarray, ...]

    def nanoseconds(self) -> int:
        """How long one run takes."""
        self.program.run(self.pointers)
        ((begin, end),) = self.event.times(self.log)
        return int(end - begin)


class _Search:
    """The search for one kernel."""

    def __init__(self, kernel: Kernel, target: Target, default: Choice, shared: Shared) -> None:
        self.kernel = kernel
        self.target = target
        self.default = default
        self.shared = shared
        self.arrays = [made_up(v.type) for v in (*kernel.body.inputs, *kernel.body.outputs)]
        self.seen: set[int] = set()  # codes that were measured, or failed to be better

    def run(self, until: float) -> Choice:
        """The best choice that was found until then; knobs are turned one after the other."""
        best = self.trial(self.default)
        assert best is not None
        for knob in _KNOBS:
            for choice in knob(best.choice):
                if time.perf_counter() >= until:
                    return best.choice
                candidate = self.trial(choice)
                if candidate is None:
                    continue
                what = f"{self.kernel.name}: {_difference(candidate.choice, best.choice)}"
                if _is_faster(candidate, best, GAIN, what):
                    best = candidate
        return best.choice

    def trial(self, choice: Choice) -> _Trial | None:
        """The kernel compiled with a choice; None if its code is no other than one before."""
        with settings(winograd=choice.winograd and current_settings().winograd):
            function = lower_kernel(self.kernel, choice.machine, shared=self.shared)
        code = emit.structure(function)
        if code in self.seen:
            return None
        self.seen.add(code)
        workspace = aligned_empty(TensorType(u8, (emit.workspace_bytes(function),)))
        given = (*self.arrays, workspace) if workspace.size else tuple(self.arrays)
        call = Call("kernel", tuple(Address(i) for i in range(len(given))))
        noted = timed([call], len(given))
        program = build.build({"kernel": function}, noted.statements, self.target)
        log = aligned_empty(TensorType(u8, (noted.nbytes,)))
        pointers = [address_of(array) for array in (*given, log)]
        return _Trial(choice, program, pointers, noted.events[0], log, given)


def _difference(new: Choice, old: Choice) -> str:
    """`vector_registers 32 -> 24`."""
    found = [] if new.winograd == old.winograd else [f"winograd {old.winograd} -> {new.winograd}"]
    for name in _FIELDS:
        a, b = getattr(old.machine, name), getattr(new.machine, name)
        found += [] if a == b else [f"{name} {a} -> {b}"]
    return ", ".join(found)


_FIELDS = ("vector_registers", "vector_bits", "l1", "l2", "l3", "cores")


def _machines(field: str, *factors: float) -> Callable[[Choice], Iterator[Choice]]:
    """Other values of a field of the machine."""

    def knob(choice: Choice) -> Iterator[Choice]:
        value = getattr(choice.machine, field)
        for factor in factors:
            other = int(value * factor)
            if other >= 1 and other != value:
                yield replace(choice, machine=_with(choice.machine, field, other))

    return knob


def _with(machine: Machine, field: str, value: int) -> Machine:
    return replace(machine, **{field: value})  # type: ignore[arg-type]


def _algorithm(choice: Choice) -> Iterator[Choice]:
    yield replace(choice, winograd=not choice.winograd)


def _threads(choice: Choice) -> Iterator[Choice]:
    if choice.machine.cores > 1:  # else the kernel runs on one of several threads
        for factor in (0, 2, 4):
            yield replace(
                choice,
                machine=_with(choice.machine, "cores", max(1, choice.machine.cores * factor)),
            )


_KNOBS: tuple[Callable[[Choice], Iterator[Choice]], ...] = (
    _algorithm, _machines("vector_registers", 0.75, 0.5), _machines("l2", 0.5, 0.25, 2.0),
    _threads, _machines("l1", 0.5, 2.0), _machines("vector_bits", 0.5),
    _machines("l3", 0.25, 4.0),
)  # fmt: skip
