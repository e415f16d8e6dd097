"""How far two right implementations of a graph may differ, element by element.

A backend may round each operation a little differently, add in another order, flush denormal
numbers and change the sign of zero. What that does to a result depends on the graph: it may
cancel, amplify, or change a comparison. So the oracle runs the graph several times with just
such errors put in at random (Monte Carlo arithmetic), and the spread of the results says what a
backend may differ by. Elements that a comparison decides one way or the other, by rounding, are
not compared; how many these are is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..ir.evaluate import Apply, applying, evaluate
from ..ir.graph import Graph, Node
from ..ir.types import DTYPES, type_of

RUNS = 7
"""Perturbed runs of the oracle."""

MARGIN = 8.0
"""How much further than the perturbed runs a backend may lie."""

_BITS = {"f64": 52, "f32": 23, "f16": 10, "bf16": 7}
EPS = {DTYPES[name].numpy: 2.0**-bits for name, bits in _BITS.items()}
_LEAST = {"f64": 2.0**-1022, "f32": 2.0**-126, "f16": 2.0**-24, "bf16": 2.0**-126}
LEAST = {DTYPES[name].numpy: least for name, least in _LEAST.items()}
"""What numbers closer to 0 may be flushed to; of f16 the smallest denormal."""

EXACT = frozenset({
    "neg", "abs", "sign", "floor", "ceil", "round", "relu", "stop_gradient", "maximum", "minimum",
    "select", "reduce_max", "reduce_min", "max_pool", "sort", "top_k", "cummax", "cummin",
    "is_finite", "bitcast", "dynamic_slice", "dynamic_update", "take_along",
})  # fmt: skip
"""Ops whose results are numbers that they were given, or whole."""

BACKWARD = frozenset({
    "reduce_sum", "reduce_prod", "matmul", "conv", "conv_input_grad", "conv_kernel_grad",
    "avg_pool", "avg_pool_grad", "max_pool_grad", "scatter_add", "scatter_add_along", "cumsum",
    "cumprod", "linear_recurrence", "remainder", "sin", "cos", "pow", "fft", "cholesky",
    "triangular_solve", "lu", "qr", "svd", "eigh",
})  # fmt: skip
"""Ops whose error is that of slightly other operands: those that add up terms, above all."""


ABSOLUTE = frozenset({"sigmoid"})
"""Ops with results up to 1 whose error some libraries keep small beside 1 only."""

NORMWISE = frozenset({"fft", "cholesky", "triangular_solve", "lu", "qr", "svd", "eigh"})
"""Ops whose error is small beside the largest element of a matrix, not beside each: it is that of
another matrix, a few units away."""


class Undefined(Exception):
    """A graph computes what the IR does not define on these arrays; nothing can be compared."""


def checked(node: Node, operands: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """The oracle, which refuses what is undefined."""
    name = node.op.name
    if name == "cast" and operands[0].dtype in EPS:
        target = node.output.dtype
        if target.is_integer:
            info = np.iinfo(target.numpy)
            wide = operands[0].astype(np.float64)
            with np.errstate(all="ignore"):
                inside = np.all((wide > info.min - 1.0) & (wide < info.max + 1.0))
            if not inside:
                raise Undefined("cast of a float out of the integer's range")
    if name in ("shift_left", "shift_right") and operands[1].size:
        bits = operands[1].dtype.itemsize * 8
        if operands[1].min() < 0 or operands[1].max() >= bits:
            raise Undefined("shift by more than the bits that there are")
    return node.op.evaluate(*operands, **node.attrs)


@dataclass
class _Noise:
    """Puts rounding errors into a run."""

    rng: np.random.Generator
    flush: bool

    def __call__(self, node: Node, operands: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        op = node.op
        moves = op.name == "scatter" and node.attrs["combine"] == "set"
        if moves or op.kind in ("index", "constant") or op.name in EXACT:
            results = checked(node, operands)
            return [self.zeros(r) for r in results] if op.kind == "elementwise" else results
        if op.name in BACKWARD or op.kind == "region":
            units = 4.0 if op.name in NORMWISE else 1.0
            operands = [self.shaken(x, units, _scale(op.name, x)) for x in operands]
        results = checked(node, operands)
        if op.name == "cast" and not _narrows(node):
            return results
        return [self.zeros(self.shaken(r, 3.0, _scale(op.name, r))) for r in results]

    def shaken(self, x: np.ndarray, units: float, scale: float = 0.0) -> np.ndarray:
        """`x` with errors of so many units of each element, and of a number beside it."""
        eps = EPS.get(x.dtype)
        if eps is None or x.size == 0:
            return x
        with np.errstate(all="ignore"):
            wide = x.astype(np.float64)
            wide = wide * (1 + units * eps * self.rng.uniform(-1, 1, x.shape))
            if scale:
                wide = wide + units * eps * scale * self.rng.uniform(-1, 1, x.shape)
            if x.dtype.itemsize == 2:  # a denormal keeps fewer digits
                least = np.where(wide == 0, 0, LEAST[x.dtype])
                wide = wide + least * self.rng.uniform(-1, 1, x.shape)
            if self.flush:
                wide = np.where(np.abs(wide) < LEAST[x.dtype], 0.0, wide)
            return wide.astype(x.dtype)

    def zeros(self, x: np.ndarray) -> np.ndarray:
        """Zeros with either sign."""
        if x.dtype not in EPS or x.size == 0 or np.all(x):
            return x
        negative = self.rng.random(x.shape) < 0.5
        return np.where((x == 0) & negative, np.asarray(-0.0, x.dtype), x)


def _scale(op: str, result: np.ndarray) -> float:
    """The number beside which an op's error is small, where that is not each element."""
    if op in ABSOLUTE:
        return 1.0 if result.dtype in EPS else 0.0
    if op not in NORMWISE or result.dtype not in EPS or result.size == 0:
        return 0.0
    largest = float(np.abs(result.astype(np.float64)).max())
    return largest if np.isfinite(largest) else 0.0


def _narrows(node: Node) -> bool:
    source, target = node.inputs[0].dtype, node.output.dtype
    return source.is_float and target.is_float and target.bits <= source.bits


Arrays = dict[str, np.ndarray]
Run = Callable[[Mapping[str, np.ndarray]], tuple[Arrays, Arrays]]
"""From inputs and state to outputs and new state."""


def steady(graph: Graph) -> list[str]:
    """The state that no run changes: weights, of which a program keeps what it computes."""
    updated = {old.name for old, _ in graph.updates}
    return [v.name for v in graph.state if v.name not in updated]


def turned(array: np.ndarray) -> np.ndarray:
    """The elements from the last to the first: another array, as valid as this one."""
    return np.array(array.reshape(-1)[::-1].reshape(array.shape), order="C")


def rounds(
    run: Run, arrays: Mapping[str, np.ndarray], steps: int, weights: Sequence[str] = ()
) -> list[Arrays]:
    """Results of some runs, each with the state that the last one left; updates as `new/...`.

    Before the last one somebody else changes the weights.
    """
    held, found = dict(arrays), []
    for step in range(steps):
        if 0 < step == steps - 1:
            held |= {name: turned(held[name]) for name in weights}
        outputs, updates = run(held)
        found.append(outputs | {f"new/{name}": a for name, a in updates.items()})
        held |= updates
    return found


def oracle_rounds(
    graph: Graph, arrays: Mapping[str, np.ndarray], steps: int, apply: Apply = checked
) -> list[Arrays]:
    """What the oracle says."""

    def run(held: Mapping[str, np.ndarray]) -> tuple[Arrays, Arrays]:
        with applying(apply):
            result = evaluate(graph, held)
        return result.outputs, result.updates

    return rounds(run, arrays, steps, steady(graph))


@dataclass
class Sharpness:
    """How much a comparison can see."""

    elements: int = 0
    compared: int = 0  # elements that had to agree at all
    sharp: int = 0  # elements that had to agree to 1 % (of f16 and bf16 10 %)

    def __iadd__(self, other: Sharpness) -> Sharpness:
        self.elements += other.elements
        self.compared += other.compared
        self.sharp += other.sharp
        return self


@dataclass(frozen=True)
class Difference:
    """Where a backend's result is not what it must be."""

    step: int
    name: str
    text: str


@dataclass
class Expected:
    """What the results of a graph must be, and how exactly.

    Attributes
    ----------
    exact : list of arrays by name
        The oracle's results of every step.
    limits : list of arrays by name
        The allowed distance of every element; infinite where nothing is said.
    """

    exact: list[Arrays]
    limits: list[Arrays]
    sharpness: Sharpness = field(default_factory=Sharpness)

    def compare(self, found: Sequence[Mapping[str, np.ndarray]]) -> Difference | None:
        """The first result that is too far away."""
        for step, (exact, limits) in enumerate(zip(self.exact, self.limits, strict=True)):
            for name, array in exact.items():
                if name not in found[step]:
                    continue  # an update that changes nothing
                text = _mismatch(np.asarray(found[step][name]), np.asarray(array), limits[name])
                if text:
                    return Difference(step, name, text)
        return None


def expect(
    graph: Graph, arrays: Mapping[str, np.ndarray], steps: int, seed: int = 0, runs: int = RUNS
) -> Expected:
    """Run the oracle, and again with errors put in.

    Raises
    ------
    Undefined
        If the graph computes what the IR does not define.
    """
    exact = oracle_rounds(graph, arrays, steps)
    shaken = []
    for i in range(runs):
        noise = _Noise(np.random.default_rng([seed, i]), flush=i % 3 == 2)
        shaken.append(oracle_rounds(graph, arrays, steps, noise))
    limits, sharpness = [], Sharpness()
    for step, results in enumerate(exact):
        limits.append({})
        for name, array in results.items():
            samples = [np.asarray(s[step][name]) for s in shaken]
            limit = _limit(np.asarray(array), samples)
            limits[-1][name] = limit
            sharpness += _sharpness(np.asarray(array), limit)
    return Expected(exact, limits, sharpness)


def _limit(exact: np.ndarray, samples: Sequence[np.ndarray]) -> np.ndarray:
    """How far each element may be off."""
    if exact.dtype not in EPS:
        stable = np.ones(exact.shape, np.bool_)
        for s in samples:
            stable &= s == exact
        return np.where(stable, 0.0, np.inf)
    y, spread = exact.astype(np.float64), np.zeros(exact.shape)
    with np.errstate(all="ignore"):
        for s in samples:
            x = s.astype(np.float64)
            same = (x == y) | (np.isnan(x) & np.isnan(y))
            distance = np.where(same, 0.0, np.abs(x - y))
            spread = np.maximum(spread, np.where(np.isnan(distance), np.inf, distance))
        floor = 8 * EPS[exact.dtype] * np.where(np.isfinite(y), np.abs(y), 0)
    return MARGIN * spread + floor + 4 * LEAST[exact.dtype]


def _sharpness(exact: np.ndarray, limit: np.ndarray) -> Sharpness:
    if exact.size == 0:
        return Sharpness()
    compared = int(np.isfinite(limit).sum())
    if exact.dtype not in EPS:
        return Sharpness(exact.size, compared, compared)
    y = np.abs(exact.astype(np.float64))
    finite = y[np.isfinite(y)]
    scale = np.maximum(np.where(np.isfinite(y), y, 0), finite.mean() if finite.size else 0.0)
    share = 0.1 if exact.dtype.itemsize == 2 else 0.01
    sharp = int((limit <= share * scale + 8 * LEAST[exact.dtype]).sum())
    return Sharpness(exact.size, compared, sharp)


def _mismatch(found: np.ndarray, exact: np.ndarray, limit: np.ndarray) -> str:
    """What is wrong with a result, in words; empty if nothing is."""
    if found.dtype != exact.dtype or found.shape != exact.shape:
        return f"is {type_of(found)}, not {type_of(exact)}"
    if exact.dtype in EPS:
        with np.errstate(all="ignore"):
            x, y = found.astype(np.float64), exact.astype(np.float64)
            right = (x == y) | (np.isnan(x) & np.isnan(y)) | (np.abs(x - y) <= limit)
    else:
        right = found == exact
    wrong = ~(right | np.isinf(limit))
    if not wrong.any():
        return ""
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return (f"has {int(wrong.sum())} of {exact.size} elements wrong, at {list(at)} "
            f"{found[at]} instead of {exact[at]} (allowed: {limit[at]:.3g})")  # fmt: skip
