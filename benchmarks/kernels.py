"""Single kernels over tables of shapes: time, GFLOP/s, GB/s, and the share of the roofline.

::

    python -m hornfels.benchmarks.kernels depthwise --ops forward,input,kernel --peer
    python -m hornfels.benchmarks.kernels resnet50 --batch 1 --threads 2

The roofline of a kernel is the larger of two times: its operations at the rate of a large matrix
product, and its operands and result, each moved once, at the bandwidth of a sum of two arrays
of that size; both are measured in the same run. What computes with arrays (`arrays`) is compiled
from a graph, and its operations are not counted. The peer, if any, is PyTorch (oneDNN) with as many
threads and the same layout of memory, timed in turns with the native kernel.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..codegen.tvm import emit
from ..codegen.tvm.build import build
from ..codegen.tvm.entry import Address, Call
from ..codegen.tvm.schedules import avg_pool_grad, conv, conv_kernel_grad, max_pool_grad, window
from ..codegen.tvm.schedules.conv import Geometry
from ..codegen.tvm.schedules.window import Windows
from ..codegen.tvm.target import Target, parse_target
from . import arrays
from .arrays import ArrayCase, Run, aligned, compiled

OPS = ("forward", "input", "kernel")
_BURST = 0.003  # seconds of calls that one measurement takes


@dataclass(frozen=True)
class Case:
    """A convolution or pooling of square images, channels last.

    Parameters
    ----------
    size, channels, outputs, kernel, stride
        Pixels along a side, channels in and out, taps and stride along a side.
    padding
        Elements before and after each axis.
    groups, dilation
        Of the kernel.
    transposed
        Whether the layer is the transposed convolution: forward is then the input gradient of a
        convolution from `outputs` to `channels`, and the other way round.
    pool
        ``"max"``, ``"avg"`` or nothing.
    batch
        Number of images.
    """

    size: int
    channels: int
    outputs: int
    kernel: int
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    groups: int = 1
    dilation: int = 1
    transposed: bool = False
    pool: str = ""
    batch: int = 8

    @property
    def result(self) -> int:
        """Pixels along a side of the result."""
        span = self.size + sum(self.padding) - (self.kernel - 1) * self.dilation - 1
        return span // self.stride + 1

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Of the images, the kernel and the result."""
        k, n = self.kernel, self.batch
        return (
            (n, self.size, self.size, self.channels),
            (k, k, self.channels // self.groups, self.outputs),
            (n, self.result, self.result, self.outputs),
        )

    @property
    def flops(self) -> int:
        """Multiplications and additions; comparisons of a pooling."""
        _, w, y = self.shapes
        return math.prod(y) * (self.kernel**2 if self.pool else 2 * math.prod(w[:-1]))

    def nbytes(self, op: str) -> int:
        """Bytes of operands and result."""
        x, w, y = (4 * math.prod(shape) for shape in self.shapes)
        if self.pool:
            return 2 * x + y if self.pool == "max" and op == "input" else x + y
        return x + w + y

    @property
    def text(self) -> str:
        """Such as ``8x56x56x64 > 64 3x3 /2``."""
        words = f"{self.batch}x{self.size}x{self.size}x{self.channels} > {self.outputs}"
        words += f" {self.kernel}x{self.kernel}"
        words += f" /{self.stride}" * (self.stride != 1) + f" d{self.dilation}" * (
            self.dilation != 1
        )
        words += f" g{self.groups}" * (self.groups != 1)
        return words + " transposed" * self.transposed + f" {self.pool}" * bool(self.pool)


def same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """The padding of Keras' "same"."""
    total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    return total // 2, total - total // 2


def _conv(size: int, channels: int, outputs: int, kernel: int, stride: int = 1) -> Case:
    return Case(size, channels, outputs, kernel, stride, same(size, kernel, stride))


def _depthwise(size: int, channels: int, kernel: int, stride: int = 1) -> Case:
    return replace(_conv(size, channels, channels, kernel, stride), groups=channels)


def _up(size: int, channels: int, outputs: int, kernel: int) -> Case:
    """A transposed convolution of stride 2 from `channels` at `size` to `outputs` at twice that."""
    return replace(_conv(2 * size, outputs, channels, kernel, 2), transposed=True)


def _pool(kind: str, size: int, channels: int, kernel: int, stride: int) -> Case:
    padding = (1, 1) if kernel == 3 and kind == "max" else (0, 0)
    return Case(size, channels, channels, kernel, stride, padding, channels, pool=kind)


FAMILIES: dict[str, tuple[Case | ArrayCase, ...]] = {
    "small": (  # the bench's cnn and resnet
        Case(28, 1, 32, 3, batch=128),
        Case(13, 32, 64, 3, batch=128),
        replace(_conv(32, 3, 16, 3), batch=128),
        replace(_conv(32, 16, 32, 3, 2), batch=128),
        replace(_conv(16, 32, 64, 3, 2), batch=128),
        replace(_conv(32, 16, 32, 1, 2), batch=128),
        replace(_conv(16, 32, 64, 1, 2), batch=128),
        replace(_conv(28, 1, 6, 5), batch=128),
        replace(_conv(14, 6, 16, 5), batch=128),
    ),
    "stem": (_conv(224, 3, 64, 7, 2), _conv(224, 3, 32, 3, 2), _conv(128, 3, 32, 3)),
    "pointwise": (
        *(_conv(112, 32, 16, 1), _conv(112, 16, 96, 1), _conv(56, 96, 24, 1)),
        *(_conv(56, 24, 144, 1), _conv(28, 144, 32, 1), _conv(14, 384, 64, 1)),
        *(_conv(14, 96, 576, 1), _conv(7, 960, 160, 1), _conv(7, 320, 1280, 1)),
    ),
    "resnet50": (
        *(_conv(56, 64, 64, 1), _conv(56, 64, 256, 1), _conv(56, 256, 64, 1)),
        *(_conv(56, 256, 512, 1, 2), _conv(56, 128, 128, 3, 2), _conv(28, 128, 512, 1)),
        *(_conv(14, 1024, 256, 1), _conv(28, 512, 1024, 1, 2), _conv(28, 256, 256, 3, 2)),
        *(_conv(14, 512, 512, 3, 2), _conv(14, 1024, 2048, 1, 2), _conv(7, 512, 2048, 1)),
    ),
    "depthwise": (
        *(_depthwise(112, 32, 3), _depthwise(112, 96, 3, 2), _depthwise(56, 144, 3)),
        *(_depthwise(56, 144, 3, 2), _depthwise(56, 144, 5, 2), _depthwise(28, 240, 5)),
        *(_depthwise(28, 240, 3, 2), _depthwise(14, 480, 5), _depthwise(14, 576, 3)),
        *(_depthwise(14, 672, 5, 2), _depthwise(7, 960, 3), _depthwise(7, 1152, 5)),
    ),
    "grouped": (
        *(replace(_conv(56, 128, 128, 3), groups=32), replace(_conv(14, 512, 512, 3), groups=32)),
        *(replace(_conv(28, 256, 256, 3, 2), groups=32), replace(_conv(56, 24, 96, 1), groups=3)),
        *(replace(_conv(28, 256, 256, 1), groups=8), replace(_conv(28, 64, 128, 3), groups=64)),
        replace(_conv(28, 256, 256, 3), groups=4),
        Case(56, 64, 64, 3, padding=(2, 2), dilation=2),
    ),
    "transposed": (_up(16, 256, 128, 2), _up(64, 64, 32, 2), _up(32, 128, 64, 3)),
    "pool": (
        *(_pool("max", 112, 64, 3, 2), _pool("max", 128, 32, 2, 2), _pool("avg", 56, 64, 2, 2)),
        *(_pool("avg", 7, 2048, 7, 7), _pool("avg", 28, 64, 3, 1)),
        *(_pool("max", 28, 192, 3, 1), _pool("avg", 14, 512, 3, 2)),
        replace(_pool("max", 26, 32, 2, 2), batch=128),
    ),
    **arrays.FAMILIES,
}  # fmt: skip


# --- native kernels --------------------------------------------------------------------------


def native(case: Case, op: str, arrays: list[np.ndarray], target: Target) -> Run:
    """Compile the kernel of a case: ``arrays`` are the operands and the result."""
    buffers = [emit.buffer(f"p{i}", a.shape, str(a.dtype)) for i, a in enumerate(arrays)]
    function = emit.kernel("kernel", buffers, _template(case, op, target)(*buffers))
    work = aligned((max(1, emit.workspace_bytes(function) // 4),))
    operands = [*arrays, work] if emit.workspace_bytes(function) else arrays
    call = Call("kernel", tuple(map(Address, range(len(operands)))))
    program = build({"kernel": function}, [call], target)
    pointers = [array.ctypes.data for array in operands]
    return lambda: (program.run(pointers), operands)


def _template(case: Case, op: str, target: Target) -> Callable[..., Any]:
    x_shape, w_shape, _ = case.shapes
    machine = target.machine
    if case.pool:
        windows = Windows((case.kernel,) * 2, (case.stride,) * 2, (case.padding,) * 2)
        options: dict[str, Any] = {"windows": windows, "machine": machine}
        if case.pool == "max":
            template = window.max_pool if op == "forward" else max_pool_grad.max_pool_grad
            return functools.partial(template, **options)
        options["include_padding"] = False
        if op == "forward":
            return functools.partial(window.avg_pool, **options)
        return functools.partial(avg_pool_grad.avg_pool_grad, input_shape=x_shape, **options)
    pair = (case.stride,) * 2, (case.padding,) * 2, (1, 1), (case.dilation,) * 2
    options = {"geometry": Geometry(*pair, case.groups), "machine": machine}
    if _meaning(case, op) == "forward":
        return functools.partial(conv.conv, **options)
    if _meaning(case, op) == "input":
        return functools.partial(conv.conv_input_grad, input_shape=x_shape, **options)
    return functools.partial(conv_kernel_grad.conv_kernel_grad, kernel_shape=w_shape, **options)


def _meaning(case: Case, op: str) -> str:
    """The op of the convolution that a transposed one's op is."""
    return {"forward": "input", "input": "forward"}.get(op, op) if case.transposed else op


def operands(case: Case, op: str) -> list[np.ndarray]:
    """Random operands and room for the result."""
    random = np.random.default_rng(0)
    shapes = dict(zip(("x", "w", "y"), case.shapes, strict=True))
    names = {"forward": "xwy", "input": "ywx", "kernel": "xyw"}[_meaning(case, op)]
    if case.pool:
        names = {"forward": "xy", "input": "xyx" if case.pool == "max" else "yx"}[op]
    found = []
    for name in names:
        array = aligned(shapes[name])
        array[...] = random.standard_normal(array.shape)
        found.append(array)
    return found


# --- PyTorch ---------------------------------------------------------------------------------


def peer(case: Case, op: str) -> tuple[Run, Callable[[], np.ndarray]]:
    """PyTorch's kernel of a case on the same operands, and its result."""
    import torch

    def images(array: np.ndarray) -> Any:
        return torch.from_numpy(array.copy()).permute(0, 3, 1, 2)  # channels last

    def weights(array: np.ndarray) -> Any:
        plain = torch.from_numpy(array.copy()).permute(3, 2, 0, 1)
        return plain.contiguous(memory_format=torch.channels_last)

    *inputs, out = operands(case, op)
    meaning = _meaning(case, op)
    if case.pool:
        return _pool_peer(torch, case, op, [images(a) for a in inputs], out)
    pair, before, after = (case.stride,) * 2, *case.padding
    if before != after:  # PyTorch pads both sides alike: the border is added beforehand
        case = replace(case, size=case.size + before + after, padding=(0, 0))
        x_shape = case.shapes[0]
    else:
        x_shape = case.shapes[0]
    x = images(np.zeros(x_shape, np.float32))
    if meaning != "input":
        low = before if before != after else 0
        size = inputs[0].shape[1]
        x[:, :, low : low + size, low : low + size] = images(inputs[0])
    w = weights(inputs[1] if meaning != "kernel" else np.zeros(case.shapes[1], np.float32))
    padding, dilation = (case.padding[0],) * 2, (case.dilation,) * 2
    if meaning == "forward":
        run = functools.partial(
            torch.nn.functional.conv2d, x, w, None, pair, padding, dilation, case.groups
        )
        return run, lambda: run().permute(0, 2, 3, 1).numpy()
    dy = images(inputs[0] if meaning == "input" else inputs[1])
    mask = [meaning == "input", meaning == "kernel", False]
    backward = functools.partial(
        torch.ops.aten.convolution_backward,
        *(dy, x, w, None, pair, padding, dilation, False, (0, 0), case.groups, mask),
    )

    def result() -> np.ndarray:
        found = backward()
        if meaning == "kernel":
            return found[1].permute(2, 3, 1, 0).numpy()
        low = before if before != after else 0
        size = out.shape[1]
        return found[0].permute(0, 2, 3, 1).numpy()[:, low : low + size, low : low + size]

    return backward, result


def _pool_peer(
    torch: Any, case: Case, op: str, inputs: list[Any], out: np.ndarray
) -> tuple[Run, Callable[[], np.ndarray]]:
    options = (case.kernel, case.stride, case.padding[0])
    run: Run
    if case.pool == "max":
        found = torch.ops.aten.max_pool2d_with_indices
        if op == "forward":
            run = functools.partial(torch.nn.functional.max_pool2d, inputs[0], *options)
        else:
            _, where = found(inputs[0], *([option] * 2 for option in options))
            back = torch.ops.aten.max_pool2d_with_indices_backward
            pairs = [[option] * 2 for option in options]
            run = functools.partial(back, inputs[1], inputs[0], *pairs, [1, 1], False, where)
    elif op == "forward":
        run = functools.partial(torch.nn.functional.avg_pool2d, inputs[0], *options)
    else:
        x = torch.from_numpy(out.copy()).permute(0, 3, 1, 2)
        pairs = [[option] * 2 for option in options]
        run = functools.partial(
            torch.ops.aten.avg_pool2d_backward, inputs[0], x, *pairs, False, False, None
        )
    return run, lambda: run().permute(0, 2, 3, 1).numpy()  # type: ignore[attr-defined]


# --- measuring -------------------------------------------------------------------------------

Clock = Callable[[], float]


def clock_for(threads: int) -> Clock:
    """Of the processor for one thread, so that other processes' turns do not count."""
    return time.thread_time if threads == 1 else time.perf_counter


@dataclass(frozen=True)
class Limits:
    """Rates of this machine: operations in GFLOP/s, and GB/s by the bytes that are moved."""

    gflops: float
    bandwidth: dict[int, float]

    def seconds(self, flops: int, nbytes: int) -> float:
        """The least time for so many operations and bytes."""
        size = next((s for s in self.bandwidth if nbytes <= s), max(self.bandwidth))
        return max(flops / self.gflops, nbytes / self.bandwidth[size]) / 1e9


def measure_limits(threads: int) -> Limits:
    """Measure a large product, and sums of arrays that fit the caches, through PyTorch."""
    import torch

    torch.set_num_threads(threads)
    clock = clock_for(threads)
    a = torch.rand(768, 768)
    rate = 2 * 768**3 / min(_times([lambda: a @ a], 0.3, clock)[0]) / 1e9
    bandwidth = {}
    for nbytes in (1 << 19, 1 << 22, 1 << 24, 1 << 27):
        b, c, d = (torch.rand(nbytes // 12) for _ in range(3))
        run = functools.partial(torch.add, b, c, out=d)
        bandwidth[nbytes] = nbytes / min(_times([run], 0.2, clock)[0]) / 1e9
    return Limits(rate, bandwidth)


def _times(runs: list[Run], seconds: float, clock: Clock) -> list[list[float]]:
    """Seconds of each run, in turns, one burst of calls after the other."""
    repeats = []
    for run in runs:
        run()
        start = clock()
        run()
        repeats.append(max(1, int(_BURST / max(1e-7, clock() - start))))
    found: list[list[float]] = [[] for _ in runs]
    end = clock() + seconds * len(runs)
    while clock() < end or len(found[0]) < 3:
        for run, count, own in zip(runs, repeats, found, strict=True):
            start = clock()
            for _ in range(count):
                run()
            own.append((clock() - start) / count)
    return found


def rows(
    cases: Iterable[Case | ArrayCase], ops: Iterable[str], options: argparse.Namespace
) -> Iterator[tuple[str, ...]]:
    """One line of the table for each case and op, while they are measured."""
    limits = measure_limits(options.threads)
    yield (f"{limits.gflops:.0f} GFLOP/s;", *(
        f"{rate:.0f} GB/s up to {size >> 10} KiB" for size, rate in limits.bandwidth.items()
    ))  # fmt: skip
    target = parse_target(f"cpu -num-cores={options.threads}")
    for case in cases:
        if isinstance(case, ArrayCase):
            yield _array_row(case, options, target, limits)
            continue
        for op in ops:
            if case.pool and op == "kernel":
                continue
            yield _row(case, op, options, target, limits)


def _row(
    case: Case, op: str, options: argparse.Namespace, target: Target, limits: Limits
) -> tuple[str, ...]:
    arrays = operands(case, op)
    start = time.perf_counter()
    runs = [native(case, op, arrays, target)]
    took = time.perf_counter() - start
    if options.peer:
        run, result = peer(case, op)
        runs.append(run)
        runs[0]()
        _compare(f"{case.text} {op}", arrays[-1], result())
    return case.text, op, *_measured(runs, case.flops, case.nbytes(op), options, limits, took)


def _array_row(
    case: ArrayCase, options: argparse.Namespace, target: Target, limits: Limits
) -> tuple[str, ...]:
    operands, start = case.arrays(), time.perf_counter()
    run, results, moved = compiled(case, operands, target)
    took, runs = time.perf_counter() - start, [run]
    if options.peer:
        import torch

        own = functools.partial(case.torch, torch, *map(torch.from_numpy, operands))
        runs.append(own)
        run()
        found = own()
        for result, want in zip(
            results, found if isinstance(found, tuple) else (found,), strict=True
        ):
            _compare(case.text, result, want.numpy())
    return case.text, "", *_measured(runs, 0, moved, options, limits, took)


def _compare(text: str, got: np.ndarray, want: np.ndarray) -> None:
    """Refuse a result that is not the peer's."""
    error = np.abs(got - want).max() / max(1e-9, np.abs(want).max())
    if not error < 1e-4:
        raise AssertionError(f"{text}: differs from the peer by {error:.1e}")


def _measured(
    runs: list[Run], flops: int, nbytes: int, options: argparse.Namespace, limits: Limits,
    compiled: float,
) -> Iterator[str]:  # fmt: skip
    times = _times(runs, options.seconds, clock_for(options.threads))
    best, middle = min(times[0]), float(np.median(times[0]))
    yield from (f"{best * 1e3:.3f}", f"{middle * 1e3:.3f}", f"{flops / best / 1e9:.0f}")
    yield from (f"{nbytes / best / 1e9:.1f}", f"{limits.seconds(flops, nbytes) / best:.0%}")
    yield f"{min(times[1]) / best:.2f}" if options.peer else ""
    yield f"{compiled:.2f}"


HEADER = (
    *("shape", "op", "best ms", "median ms", "GFLOP/s", "GB/s", "of roofline"),
    *("peer's time", "compile s"),
)


def main(arguments: list[str] | None = None) -> None:
    """Print the table of the families that the command line names."""
    parser = argparse.ArgumentParser(prog="hornfels.benchmarks.kernels", description=__doc__)
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--ops", default=",".join(OPS))
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.15, help="of measuring for each kernel")
    parser.add_argument("--peer", action="store_true", help="time PyTorch, too, and compare")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    cases = [case for name in options.families for case in FAMILIES[name]]
    if options.batch:
        cases = [
            case if isinstance(case, ArrayCase) else replace(case, batch=options.batch)
            for case in cases
        ]
    print(" | ".join(HEADER))
    for row in rows(cases, options.ops.split(","), options):
        print(" | ".join(row), flush=True)


if __name__ == "__main__":
    main()
