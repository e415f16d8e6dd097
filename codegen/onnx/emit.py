"""Emitter: collects ONNX nodes and knows which element types ONNX Runtime's kernels take.

The default domain's operators are typed more widely than ONNX Runtime's CPU kernels. Where a
kernel is missing the emitter computes in the next wider type and casts back: f16 and bf16 in
f32, i8 in i32, u32 in i64. `KERNELS` is data, read from the runtime's own kernel registry.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import TensorProto

from ...ir.errors import LoweringError
from ...ir.types import DTYPES, DType, TensorType, as_dtype, boolean, f32, i64
from .wide import COMPARE, compared

OPSET = 21
"""Opset of every model.

18 brings BitwiseXor (Threefry) and 20 the boolean ReduceMax; from 22 on ONNX Runtime lacks
kernels of several operators; 21 runs on ONNX Runtime 1.18 and newer."""

IR_VERSION = 10
"""File format version that goes with opset 21; onnx's own default is newer than the runtime."""

PROTO = {
    "f64": TensorProto.DOUBLE, "f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16, "i64": TensorProto.INT64, "i32": TensorProto.INT32,
    "i16": TensorProto.INT16, "i8": TensorProto.INT8, "u32": TensorProto.UINT32,
    "u8": TensorProto.UINT8, "bool": TensorProto.BOOL,
}  # fmt: skip

_FLOATS = "f64 f32"
_NUMBERS = "f64 f32 i64 i32 i16 i8 u8 u32"
_MOST = "f64 f32 i64 i32 i8 u8 u32"
KERNELS: dict[str, frozenset[str]] = {
    op: frozenset(types.split())
    for ops, types in {
        "Exp Log Sqrt Reciprocal Sin Cos Tanh Sigmoid Floor Ceil Round Gemm Softmax LogSoftmax "
        "ReduceMean Sum": _FLOATS,
        "Erf Conv ConvTranspose AveragePool GlobalAveragePool MaxUnpool HardSigmoid Mean Tan Asin "
        "Acos Atan Sinh Cosh Asinh Acosh Atanh": "f32",
        "Abs Add Sub Mul Div Sign Less LessOrEqual Greater GreaterOrEqual Mod": _NUMBERS,
        "Neg": "f64 f32 i64 i32 i16 i8",
        "Equal": _NUMBERS + " bool",
        "BitwiseAnd BitwiseOr BitwiseXor BitwiseNot": "i64 i32 i16 i8 u8 u32",
        "BitShift": "u8 u32",
        "Max Min Clip Where": _MOST,
        "Pad": _MOST + " bool",
        "Expand": _NUMBERS + " f16 bool",
        "Pow": "f64 f32 i64 i32",
        "MatMul": "f64 f32 i64 i32 u32",
        "Range": "f64 f32 i64 i32 i16",
        "Relu": "f64 f32 i32 i8",
        "MaxPool": "f64 f32 i8 u8",
        "ReduceSum ReduceProd CumSum": "f64 f32 i64 i32",
        "ReduceMax ReduceMin": "f64 f32 i64 i32 i8 u8 bool",
        "ArgMax ArgMin": "f64 f32 i64 i32 i8 u8",
        "TopK": "f64 f32 i64 i32 i16 i8 u8",
        "DFT": "f64 f32",
    }.items()
    for op in ops.split()
}
"""Element types of ONNX Runtime's CPU kernels; an operator that is not listed takes all."""

_WIDER = {
    "bf16": "f32 f64", "f16": "f32 f64", "f32": "f64", "bool": "i32 f32", "i8": "i32 i64 f32",
    "u8": "i32 i64 f32", "i16": "i32 i64 f32", "u32": "i64 f64", "i32": "i64 f64",
}  # fmt: skip
_TYPED_OPERAND = {"Where": 1}  # position of the operand that decides; 0 elsewhere


def kernel_dtype(op_type: str, dtype: DType) -> DType | None:
    """The type in which the runtime can run `op_type` on `dtype` without loss, or None."""
    kernels = KERNELS.get(op_type)
    if kernels is None or dtype.name in kernels:
        return dtype
    wider = next((w for w in _WIDER.get(dtype.name, "").split() if w in kernels), None)
    return DTYPES[wider] if wider else None


@dataclass
class OnnxNode:
    """One node on its way into a NodeProto; control flow has nested graphs by attribute."""

    op_type: str
    inputs: list[str]
    outputs: list[str]
    attrs: dict[str, Any]
    layer: str = ""
    bodies: dict[str, Body] = field(default_factory=dict)

    @property
    def reads(self) -> Iterator[str]:
        """The operands, and what nested graphs read of those around them."""
        yield from self.inputs
        for body in self.bodies.values():
            inside = {name for name, _ in body.inputs}
            inside.update(output for node in body.nodes for output in node.outputs)
            yield from (name for node in body.nodes for name in node.reads if name not in inside)

    def rename(self, names: Mapping[str, str]) -> None:
        """Replace names, in nested graphs too; all names of a model differ."""
        self.inputs = [names.get(i, i) for i in self.inputs]
        self.outputs = [names.get(o, o) for o in self.outputs]
        for body in self.bodies.values():
            for node in body.nodes:
                node.rename(names)


@dataclass
class Body:
    """A nested graph: names and types of its inputs and outputs, and its nodes."""

    inputs: list[tuple[str, TensorType]]
    outputs: list[tuple[str, TensorType]]
    nodes: list[OnnxNode]


def needed(nodes: Sequence[OnnxNode], results: Iterable[str]) -> list[OnnxNode]:
    """The nodes that the results depend on."""
    wanted, kept = set(results), []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.reads)
            kept.append(node)
    return kept[::-1]


@dataclass
class Emitter:
    """Nodes and initializers of one model or nested graph; equal nodes are emitted once.

    A nested graph may read whatever is visible around it, so it shares initializers and names
    with the graphs around. In a loop (`hoists`), what depends on nothing inside is computed once
    outside: the transpose of a weight, a size.
    """

    nodes: list[OnnxNode] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    dtypes: dict[str, DType] = field(default_factory=dict)
    layer: str = ""
    location: str = ""
    outer: Emitter | None = None
    hoists: bool = False
    _producer: MutableMapping[str, OnnxNode] = field(default_factory=dict)
    _seen: MutableMapping[Any, tuple[str, ...]] = field(default_factory=dict)
    _constants: dict[Any, str] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)
    _counts: dict[str, int] = field(default_factory=dict)
    _own: set[str] = field(default_factory=set)

    def nested(self, hoists: bool) -> Emitter:
        """An emitter for a graph inside this one."""
        return Emitter(
            arrays=self.arrays, dtypes=self.dtypes, layer=self.layer, location=self.location,
            outer=self, hoists=hoists, _producer=ChainMap({}, self._producer),
            _seen=ChainMap({}, self._seen), _constants=self._constants, _used=self._used,
            _counts=self._counts,
        )  # fmt: skip

    def owns(self, name: str) -> bool:
        """Whether this graph, not one around it, has this input or computes this."""
        return name in self._own

    # --- names -------------------------------------------------------------------------------

    def reserve(self, name: str, dtype: DType) -> str:
        """Take a name for an input or output."""
        self._used.add(name)
        self._own.add(name)
        self.dtypes[name] = dtype
        return name

    def input(self, stem: str, dtype: DType) -> str:
        """An input of a nested graph, under an unused name."""
        return self.reserve(self._fresh(f"{self.layer}/{stem}" if self.layer else stem), dtype)

    def _fresh(self, stem: str) -> str:
        """An unused name: `Relu`, `Relu_1`, ..."""
        name = stem
        while name in self._used:
            self._counts[stem] = self._counts.get(stem, 0) + 1
            name = f"{stem}_{self._counts[stem]}"
        self._used.add(name)
        return name

    # --- constants ---------------------------------------------------------------------------

    def const(self, value: Any, dtype: Any = None, name: str = "") -> str:
        """The name of an initializer that holds `value`; equal ones without a name are shared."""
        array = np.asarray(value)
        if dtype is not None:
            with np.errstate(invalid="ignore"):  # a number out of range wraps, as in the oracle
                array = array.astype(as_dtype(dtype).numpy)
        key = (name, str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            stored = name if name and name not in self._used else self._fresh(name or "constant")
            self._used.add(stored)
            self.arrays[stored] = array
            self.dtypes[stored] = as_dtype(array.dtype)
            self._constants[key] = stored
        return self._constants[key]

    def ints(self, *values: int) -> str:
        """An i64 vector."""
        return self.const(np.array(values, np.int64))

    def like(self, value: float, other: str) -> str:
        """A scalar of the element type of `other`."""
        return self.const(value, self.dtypes[other])

    # --- nodes -------------------------------------------------------------------------------

    def op(self, op_type: str, *inputs: str, dtype: DType | None = None, **attrs: Any) -> str:
        """Emit a node of one output and return its name.

        `dtype` is that of the result; the one of the operands by default. An empty name stands
        for an operand left out.
        """
        return self.multi(op_type, inputs, (dtype,), attrs)[0]

    def raw(self, op_type: str, *inputs: str, **attrs: Any) -> str:
        """Emit a node as it is, of the dtype of its first operand."""
        return self._emit(op_type, inputs, (self.dtypes[inputs[0]],), attrs)[0]

    def multi(
        self,
        op_type: str,
        inputs: Sequence[str],
        dtypes: Sequence[DType | None],
        attrs: dict[str, Any],
    ) -> tuple[str, ...]:
        """Emit a node with an output for each of `dtypes`."""
        operand = self.dtypes[inputs[_TYPED_OPERAND.get(op_type, 0)]]
        expected = tuple(d or operand for d in dtypes)
        run = kernel_dtype(op_type, operand)
        if run is None:
            raise LoweringError(
                f"onnx: ONNX Runtime has no {op_type} kernel for {operand}",
                where=self.location,
                hint="cast to f32 before it, or use backend='tvm'",
            )
        if run == operand and not (run == i64 and op_type in COMPARE):
            return self._emit(op_type, inputs, expected, attrs)
        inputs = [self.cast(i, run) if i and self.dtypes[i] == operand else i for i in inputs]
        computed = [run if d == operand else d for d in expected]
        if run == i64 and op_type in COMPARE:
            outputs: tuple[str, ...] = (compared(self, op_type, inputs, attrs),)
        else:
            outputs = self._emit(op_type, inputs, computed, attrs)
        return tuple(self.cast(o, d) for o, d in zip(outputs, expected, strict=True))

    def _emit(
        self, op_type: str, inputs: Sequence[str], dtypes: Sequence[DType], attrs: dict[str, Any]
    ) -> tuple[str, ...]:
        if self.hoists and self.outer is not None and self._own.isdisjoint(inputs):
            return self.outer._emit(op_type, inputs, dtypes, attrs)
        attrs = {k: v for k, v in attrs.items() if v is not None}
        key = (op_type, tuple(inputs), len(dtypes), repr(sorted(attrs.items())))
        if key not in self._seen:
            self._seen[key] = self._append(op_type, inputs, dtypes, attrs, {})
        return self._seen[key]

    def region(
        self,
        op_type: str,
        inputs: Sequence[str],
        dtypes: Sequence[DType],
        bodies: dict[str, Body],
        **attrs: Any,
    ) -> tuple[str, ...]:
        """Emit a node that has nested graphs."""
        return self._append(op_type, inputs, dtypes, attrs, bodies)

    def _append(
        self,
        op_type: str,
        inputs: Sequence[str],
        dtypes: Sequence[DType],
        attrs: dict[str, Any],
        bodies: dict[str, Body],
    ) -> tuple[str, ...]:
        stem = f"{self.layer}/{op_type}" if self.layer else op_type
        outputs = [self._fresh(stem) for _ in dtypes]
        node = OnnxNode(op_type, list(inputs), outputs, attrs, self.layer, bodies)
        self.nodes.append(node)
        for name, dtype in zip(outputs, dtypes, strict=True):
            self.dtypes[name] = dtype
            self._producer[name] = node
        self._own.update(outputs)
        return tuple(outputs)

    def body(
        self, inputs: Sequence[tuple[str, TensorType]], outputs: Sequence[tuple[str, TensorType]]
    ) -> Body:
        """The nested graph of what was emitted; its outputs are computed in it, each once.

        ONNX Runtime takes neither an input of the body nor a value of the graph around it for
        an output, so those are copied.
        """
        computed = {output for node in self.nodes for output in node.outputs}
        results: list[tuple[str, TensorType]] = []
        for name, type in outputs:
            if name not in computed:
                (name,) = self._append("Identity", [name], [type.dtype], {}, {})
            computed.discard(name)
            results.append((name, type))
        return Body(list(inputs), results, needed(self.nodes, [name for name, _ in results]))

    # --- moves of data, folded on constants --------------------------------------------------

    def cast(self, x: str, dtype: DType) -> str:
        """Convert the element type."""
        if self.dtypes[x] == dtype:
            return x
        if x in self.arrays and self.arrays[x].size == 1:
            return self.const(self.arrays[x].astype(dtype.numpy))
        return self.op("Cast", x, dtype=dtype, to=PROTO[dtype.name])

    def transpose(self, x: str, perm: Sequence[int]) -> str:
        """Permute axes; two in a row become one, or none."""
        perm = tuple(perm)
        if x in self.arrays:
            array = np.ascontiguousarray(self.arrays[x].transpose(perm))
            return x if perm == tuple(range(len(perm))) else self.const(array, name=x + "/T")
        producer = self._producer.get(x)
        if producer is not None and producer.op_type == "Transpose":
            inner = producer.attrs["perm"]
            return self.transpose(producer.inputs[0], tuple(inner[p] for p in perm))
        return x if perm == tuple(range(len(perm))) else self.op("Transpose", x, perm=perm)

    def unsqueeze(self, x: str, axes: Sequence[int]) -> str:
        """Insert axes of size 1 at these positions of the result."""
        if not axes:
            return x
        if x in self.arrays:
            return self.const(np.expand_dims(self.arrays[x], tuple(axes)))
        return self.op("Unsqueeze", x, self.ints(*axes))

    def squeeze(self, x: str, axes: Sequence[int]) -> str:
        """Drop axes of size 1."""
        if not axes:
            return x
        if x in self.arrays:
            return self.const(self.arrays[x].squeeze(tuple(axes)))
        return self.op("Squeeze", x, self.ints(*axes))

    def logical_not(self, x: str) -> str:
        return self.op("Not", x)

    def where(self, condition: str, x: str, y: str) -> str:
        """Elementwise choice; booleans have no kernel and become logic."""
        if self.dtypes[x] == boolean:
            kept = self.op("And", condition, x)
            return self.op("Or", kept, self.op("And", self.logical_not(condition), y))
        return self.op("Where", condition, x, y, dtype=self.dtypes[x])

    def shape_of(self, x: str, axis: int) -> str:
        """The size of one axis as an i64 vector of one element."""
        return self.op("Shape", x, dtype=i64, start=axis, end=axis + 1)

    def accumulator(self, dtype: DType) -> DType:
        """The type in which sums over repeated positions run."""
        return f32 if dtype.is_float and dtype.bits == 16 else dtype
