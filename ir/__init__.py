"""The intermediate representation: types, graph, ops, differentiation, text, oracle."""

from . import ops, sugar
from .autodiff import gradient_graph, gradients, jvp, pullback
from .builder import Builder, EagerBuilder, constant, current
from .evaluate import Evaluation, evaluate
from .graph import Graph, Node, Source, Value
from .op import REGISTRY, Op
from .text import parse, to_text
from .types import DType, Size, TensorType, as_dtype, symbol
from .verify import verify

__all__ = [
    "REGISTRY",
    "Builder",
    "DType",
    "EagerBuilder",
    "Evaluation",
    "Graph",
    "Node",
    "Op",
    "Size",
    "Source",
    "TensorType",
    "Value",
    "as_dtype",
    "constant",
    "current",
    "evaluate",
    "gradient_graph",
    "gradients",
    "jvp",
    "ops",
    "parse",
    "pullback",
    "sugar",
    "symbol",
    "to_text",
    "verify",
]
