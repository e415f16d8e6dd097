"""Where the time of a step goes: each kernel with its rates, against what the machine can do.

    fast = hornfels.compile(model)
    profile = fast.profile(x, y)
    print(profile)                      # a table, the slowest kernel first
    profile.save_trace("step.json")     # for ui.perfetto.dev or chrome://tracing

The times are taken inside of the native program, around every call, by a program that is compiled
for the purpose; taking one costs some 25 ns.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..ir import Graph
from ..ir.errors import ArgumentError
from ..ir.files import writing
from ..ir.types import TensorType
from ..passes.plan import Kernel, Plan
from ..passes.work import NO_WORK, Work, work_of
from .roofline import Roofline, host_roofline
from .tvm_backend import TimedExecutable, TvmBackend

WARM_UP = 3
"""Steps before those that count."""


@dataclass(frozen=True)
class Span:
    """One call in one step: begin and length in nanoseconds since the step began."""

    name: str
    layer: str
    begin: int
    length: int


@dataclass(frozen=True)
class KernelProfile:
    """What one kernel does in a step, all its calls together.

    Attributes
    ----------
    name, root : str
        Of the kernel; "copy" and "while" stand for copies of memory and loops of open length.
    layers : tuple of str
        Where its calls come from, without those that have no layer.
    calls : int
    seconds : float
        The median over the measured steps.
    work : Work
    roof : float
        Seconds that the work takes at least on this machine.
    bound : str
        "arithmetic" or "memory": what `roof` comes from.
    """

    name: str
    root: str
    layers: tuple[str, ...]
    calls: int
    seconds: float
    work: Work
    roof: float
    bound: str

    @property
    def fraction(self) -> float:
        """Of the roofline that is reached; nan where there is no work to compare."""
        return self.roof / self.seconds if self.roof and self.seconds else float("nan")

    @property
    def gflops(self) -> float:
        """Arithmetic rate in 10**9 operations a second, simple ones included."""
        return (self.work.flops + self.work.operations) / self.seconds / 1e9

    @property
    def gbytes(self) -> float:
        """Operands and results in 10**9 bytes a second."""
        return self.work.nbytes / self.seconds / 1e9


@dataclass(frozen=True)
class Profile:
    """The kernels of a step.

    Attributes
    ----------
    graph : str
        Name of the graph.
    steps : int
        Measured ones.
    seconds : float
        From the begin of the first call to the end of the last; the median over the steps.
    kernels : tuple of KernelProfile
        The slowest first.
    spans : tuple of Span
        Every call of the step whose time is the median, in order.
    roofline : Roofline
    """

    graph: str
    steps: int
    seconds: float
    kernels: tuple[KernelProfile, ...]
    spans: tuple[Span, ...]
    roofline: Roofline

    @property
    def roof(self) -> float:
        """Seconds that all kernels would take at their rooflines."""
        return sum(kernel.roof for kernel in self.kernels)

    def table(self, limit: int | None = None) -> Table:
        """The kernels as a table for the terminal; `limit` rows at most."""
        rates = ", ".join(
            f"{rate / 1e9:.0f} GB/s to {size >> 20} MiB" for size, rate in self.roofline.bandwidths
        )
        table = Table(
            title=f"{self.graph}: {self.seconds * 1e3:.3f} ms a step, at the roofline "
            f"{self.roof * 1e3:.3f} ms",
            caption=f"Roofline: {self.roofline.flops / 1e9:.0f} GFLOP/s, {rates}. "
            f"Median of {self.steps} steps.",
            box=SIMPLE_HEAD,
        )
        for column in _COLUMNS:
            table.add_column(column, justify="left" if column in _WORDS else "right")
        for kernel in self.kernels[:limit]:
            table.add_row(*_cells(kernel, self.seconds))
        rest = self.kernels[len(self.kernels) if limit is None else limit :]
        if rest:
            seconds = sum(k.seconds for k in rest)
            share = seconds / self.seconds
            table.add_row(f"{len(rest)} more", "", str(sum(k.calls for k in rest)),
                          f"{seconds * 1e6:.1f}", f"{share:.1%}", "", "", "", "")  # fmt: skip
        return table

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=140).print(self.table())
        return text.getvalue()

    def save_trace(self, path: str | os.PathLike[str]) -> None:
        """Write the spans in Chrome's trace event format, which Perfetto reads too."""
        kernels = {kernel.name: kernel for kernel in self.kernels}
        events = [
            {
                "name": span.name, "cat": kernels[span.name].root, "ph": "X", "pid": 0, "tid": 0,
                "ts": span.begin / 1e3, "dur": span.length / 1e3,
                "args": {"layer": span.layer, **_arguments(kernels[span.name])},
            }
            for span in self.spans
        ]  # fmt: skip
        name = {"name": "process_name", "ph": "M", "pid": 0, "args": {"name": self.graph}}
        text = json.dumps({"traceEvents": [name, *events], "displayTimeUnit": "ns"})
        with writing(Path(path)):
            Path(path).write_text(text)


_WORDS = ("kernel", "layers", "bound")
_COLUMNS = ("kernel", "layers", "calls", "µs", "share", "GFLOP/s", "GB/s", "bound", "roofline")


def _cells(kernel: KernelProfile, seconds: float) -> tuple[str, ...]:
    more = f" +{len(kernel.layers) - 1}" if len(kernel.layers) > 1 else ""
    known = kernel.work != NO_WORK
    return (
        kernel.name,
        (kernel.layers[0] if kernel.layers else "") + more,
        str(kernel.calls),
        f"{kernel.seconds * 1e6:.1f}",
        f"{kernel.seconds / seconds:.1%}",
        f"{kernel.gflops:.1f}" if known else "",
        f"{kernel.gbytes:.1f}" if known else "",
        kernel.bound if known else "",
        f"{kernel.fraction:.0%}" if known else "",
    )


def _arguments(kernel: KernelProfile) -> dict[str, float | str]:
    return {
        "GFLOP/s": round(kernel.gflops, 2), "GB/s": round(kernel.gbytes, 2),
        "bound": kernel.bound, "roofline": f"{kernel.fraction:.0%}",
    }  # fmt: skip


# --- measuring -------------------------------------------------------------------------------


def profile(
    backend: TvmBackend,
    graph: Graph,
    state: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
    steps: int = 10,
) -> Profile:
    """Run a graph some steps on copies of its state, and say where the time went.

    Parameters
    ----------
    backend : TvmBackend
    graph : Graph
        Of fixed sizes, not optimized.
    state, inputs : mapping of str to ndarray
        By the names of the graph's values; neither is changed.
    steps : int
        How many count, after some that warm up.
    """
    if steps < 1:
        raise ArgumentError(f"profile: steps must be 1 or more, got {steps}")
    executable = backend.compile_timed(graph)
    held = backend.state()
    for value in executable.graph.state:
        held.write(value.name, state[value.name])
    wanted = {v.name: inputs[v.name] for v in executable.graph.inputs}
    runs = []
    for step in range(WARM_UP + steps):
        executable(held, wanted)
        if step >= WARM_UP:
            runs.append([(event.name, times.copy()) for event, times in executable.times()])
    return _summary(executable, runs, host_roofline(backend.target.text))


Run = list[tuple[str, np.ndarray]]


def _summary(executable: TimedExecutable, runs: Sequence[Run], roofline: Roofline) -> Profile:
    plan = executable.plan
    lengths = [_length(run) for run in runs]
    middle = sorted(range(len(runs)), key=lengths.__getitem__)[len(runs) // 2]
    layers = dict(_layers(plan))
    kernels = {kernel.name: kernel for kernel in plan.kernels}
    seconds: dict[str, list[float]] = {}
    for run in runs:
        total: dict[str, float] = {}
        for name, times in run:
            total[name] = total.get(name, 0.0) + float((times[:, 1] - times[:, 0]).sum()) / 1e9
        for name, share in total.items():
            seconds.setdefault(name, []).append(share)
    counts: dict[str, int] = {}
    for name, times in runs[middle]:
        counts[name] = counts.get(name, 0) + len(times)
    found = [
        _kernel(kernels.get(name), name, layers.get(name, ()), counts[name], shares, roofline)
        for name, shares in seconds.items()
        if counts[name]
    ]
    return Profile(
        plan.graph.name, len(runs), statistics.median(lengths) / 1e9,
        tuple(sorted(found, key=lambda k: -k.seconds)), tuple(_spans(plan, runs[middle])), roofline,
    )  # fmt: skip


def _length(run: Run) -> int:
    """Nanoseconds from the first begin to the last end."""
    all_times = np.concatenate([times for _, times in run]) if run else np.zeros((0, 2), np.int64)
    return int(all_times[:, 1].max() - all_times[:, 0].min()) if len(all_times) else 0


def _kernel(
    kernel: Kernel | None, name: str, layers: tuple[str, ...], calls: int,
    shares: Sequence[float], roofline: Roofline,
) -> KernelProfile:  # fmt: skip
    seconds = statistics.median(shares)
    if kernel is None:
        return KernelProfile(name, name, (), calls, seconds, NO_WORK, 0.0, "")
    once = work_of(kernel)
    work = Work(*(calls * part for part in (once.flops, once.operations, once.read, once.written)))
    return KernelProfile(name, kernel.root, layers, calls, seconds, work,
                         calls * roofline.seconds(once), roofline.bound(once))  # fmt: skip


def _layers(plan: Plan) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The layers that the calls of each kernel come from."""
    found: dict[str, dict[str, None]] = {}
    for name, layer in _calls(plan):
        if layer:
            found.setdefault(name, {})[layer] = None
    return ((name, tuple(layers)) for name, layers in found.items())


def _calls(plan: Plan) -> Iterator[tuple[str, str]]:
    """Kernel and layer of every call, in the order of the program."""
    for _, call in plan.kernel_calls():
        nodes = (v.node for v in reversed(call.outputs))
        layer = next((n.source.layer for n in nodes if n and n.source.layer), "")
        yield call.kernel.name, layer


def _spans(plan: Plan, run: Run) -> Iterator[Span]:
    """The calls of one step in the order of time."""
    start = min((int(times[0, 0]) for _, times in run if len(times)), default=0)
    names = {kernel.name for kernel in plan.kernels}
    calls = _calls(plan)
    spans = []
    for name, times in run:
        layer = ""
        if name in names:
            layer = next((where for called, where in calls if called == name), "")
        spans += [Span(name, layer, int(b) - start, int(e - b)) for b, e in times]
    return iter(sorted(spans, key=lambda span: span.begin))


# --- the command -----------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hornfels profile`, beside the model."""
    parser.add_argument("--kind", choices=("train", "test", "predict"), default="train",
                        help="which step (train)")  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=32, help="examples a step (32)")
    parser.add_argument("--steps", type=int, default=10, help="steps that count (10)")
    parser.add_argument("--rows", type=int, default=30, help="kernels to show (30)")
    parser.add_argument("--target", default="cpu", help="as of hornfels.compile (cpu)")
    parser.add_argument("--trace", type=Path, metavar="FILE.json",
                        help="write a trace for Perfetto or chrome://tracing")  # fmt: skip


def random_inputs(types: Mapping[str, TensorType], batch: int) -> dict[str, np.ndarray]:
    """Made-up inputs: numbers in [0, 1), integers 0 and 1; open sizes are all `batch`.

    Parameters
    ----------
    types : mapping of str to TensorType
        As `Model.declared_types` gives them.
    """
    rng = np.random.default_rng(0)
    found = {}
    for name, type in types.items():
        shape = tuple(d if isinstance(d, int) else batch for d in type.shape)
        draw = rng.random(shape) if type.dtype.is_float else rng.integers(0, 2, shape)
        found[name] = draw.astype(type.dtype.numpy)
    return found
