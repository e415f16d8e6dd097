"""Op: everything that is known about an operation, in one declaration; and the registry."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from .errors import ArgumentError, HornfelsError
from .graph import Value
from .types import TensorType

Kind = Literal[
    "constant",  # no operands, a fixed array
    "elementwise",  # has `scalar`; output element i depends on element i of the operands
    "index",  # moves elements: each output element is one element of an operand, or computed
    #           from its own position (iota, rng_bits, broadcast, reshape, slice, pad, ...)
    "reduce",  # combines the elements along `axes` or `axis`
    "contraction",  # matmul and convolutions with their gradients
    "window",  # pooling and its gradients
    "opaque",  # anything else: one kernel of its own
    "region",  # control flow: attributes are graphs that run any number of times
]


@dataclass(frozen=True)
class Reason:
    """Why an op lacks something, in words; `docs/coverage.md` lists them."""

    text: str


CODE = "code"
"""Value of `Op.onnx`: lowered by a function in `codegen/onnx/ops/` of the same family name."""


Prepare = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]
"""Makes legal operands of those that were drawn: positive definite ones, say."""


@dataclass(frozen=True)
class Case:
    """One sample: operand types and attributes, and the range that operands are drawn from."""

    types: tuple[TensorType, ...]
    attrs: dict[str, Any]
    domain: tuple[float, float] = (-2.0, 2.0)
    distinct: bool = False  # draw without ties (for max, sort)
    integers: tuple[int, int] | None = None  # range of integer operands, end excluded
    prepare: Prepare | None = None
    differentiable: bool = True  # False where the op has a gradient, but not for this sample


def case(
    *types: TensorType,
    domain: tuple[float, float] = (-2.0, 2.0),
    distinct: bool = False,
    integers: tuple[int, int] | None = None,
    prepare: Prepare | None = None,
    differentiable: bool = True,
    **attrs: Any,
) -> Case:
    """A sample that the generated conformance tests run."""
    return Case(types, attrs, domain, distinct, integers, prepare, differentiable)


@dataclass(frozen=True)
class Rejected:
    """Operands that the type rule refuses with exactly this message."""

    types: tuple[TensorType, ...]
    attrs: dict[str, Any]
    error: str


def reject(*types: TensorType, error: str, **attrs: Any) -> Rejected:
    """A sample that must raise `error`."""
    return Rejected(types, attrs, error)


@dataclass(frozen=True, eq=False)
class Op:
    """The declaration of an operation.

    Attributes
    ----------
    name, doc : str
    kind : Kind
        What fusion may do with it.
    type : callable
        `type(*operand_types, **attrs)` -> TensorType or tuple of them; raises our own errors.
    numpy : callable
        `numpy(*arrays, **attrs)` -> array or tuple of arrays: the oracle.
    vjp : callable or Reason
        `vjp(cotangent, *operands, out, **attrs)` -> one cotangent or None for each operand,
        emitting IR. With several outputs `cotangent` and `out` are tuples, and a cotangent that
        nothing feeds is None. Ops of kind "region" get one more keyword: `wanted`, whether a
        cotangent is asked for, for each operand.
    jvp : callable or None
        `jvp(tangents, *operands, out, **attrs)` -> one tangent or None for each output, emitting
        IR. `tangents` and what it returns are always tuples, and None stands for zero; `out` is
        as for `vjp`. None derives it from `vjp`, which is linear in its cotangent: the transpose
        of that is the jvp.
    scalar : callable or None
        `scalar(m, *elements, **attrs)` for elementwise ops: one element over the math
        namespace `m`.
    flops : callable or None
        `flops(*operand_types, out, **attrs)`: floating-point operations of a contraction, a
        multiply-add being two; `out` is the type of its result, sizes are fixed. None for ops
        whose work is counted by the element.
    onnx : str or Reason
        The standard op of the same meaning, `CODE` for a function in the backend, or a Reason.
    tvm : Reason or None
        Why the native backend lacks it; None if it has it.
    samples, rejects : sequences
        What the conformance tests run.
    """

    name: str
    doc: str
    kind: Kind
    type: Callable[..., TensorType | tuple[TensorType, ...]]
    numpy: Callable[..., Any]
    vjp: Callable[..., Sequence[Value | Reason | None]] | Reason
    onnx: str | Reason
    jvp: Callable[..., Sequence[Value | None]] | None = None
    scalar: Callable[..., Any] | None = None
    flops: Callable[..., int] | None = None
    tvm: Reason | None = None
    samples: Sequence[Case] = field(default=())
    rejects: Sequence[Rejected] = field(default=())

    def infer(self, *types: TensorType, **attrs: Any) -> tuple[TensorType, ...]:
        """The types of the outputs."""
        try:
            result = self.type(*types, **attrs)
        except HornfelsError:
            raise
        except TypeError as error:
            raise ArgumentError(f"{self.name}: {self._mismatch(types, attrs) or error}") from error
        return result if isinstance(result, tuple) else (result,)

    def _mismatch(self, types: Sequence[TensorType], attrs: dict[str, Any]) -> str:
        """What is wrong with the number of operands or the names of attributes, if anything."""
        try:
            inspect.signature(self.type).bind(*types, **attrs)
        except TypeError as error:
            return str(error)
        return ""

    def evaluate(self, *arrays: np.ndarray, **attrs: Any) -> tuple[np.ndarray, ...]:
        """The oracle's outputs, always a tuple of arrays of the inferred dtypes."""
        with np.errstate(all="ignore"):
            result = self.numpy(*arrays, **attrs)
        outputs = result if isinstance(result, tuple) else (result,)
        return tuple(np.asarray(out) for out in outputs)

    def __call__(self, *operands: Value, **attrs: Any) -> Value:
        """Emit a node into the current builder; for ops of one output."""
        (out,) = self.all(*operands, **attrs)
        return out

    def all(self, *operands: Value, **attrs: Any) -> tuple[Value, ...]:
        """Emit a node into the current builder and return all outputs."""
        from .builder import emit

        return emit(self, operands, attrs)

    def __repr__(self) -> str:
        return f"<Op {self.name}>"


REGISTRY: dict[str, Op] = {}


def define(op: Op) -> Op:
    """Register an op; its name must be new."""
    if op.name in REGISTRY:
        raise ArgumentError(f"op {op.name!r} is defined twice")
    REGISTRY[op.name] = op
    return op


def get(name: str) -> Op:
    """The op of that name."""
    try:
        return REGISTRY[name]
    except KeyError:
        raise ArgumentError(f"no op is named {name!r}; there are {', '.join(REGISTRY)}") from None
