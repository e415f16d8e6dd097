"""EinsumDense: a dense layer over any axes, written as a summation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...ir.errors import ArgumentError, ShapeError
from .. import activations, ops
from ..initializers import VarianceScaling
from .core import require_none
from .input_spec import InputSpec
from .weights import WeightedLayer

_FORMS = (
    r"([a-zA-Z]+),([a-zA-Z]+)->([a-zA-Z]+)",
    r"\.\.\.([a-zA-Z]+),([a-zA-Z]+)->\.\.\.([a-zA-Z]+)",
    r"([a-zA-Z]{2,})\.\.\.,([a-zA-Z]+)->([a-zA-Z]+)\.\.\.",
)


@dataclass(frozen=True)
class _Weights:
    """The shapes that an equation asks for, and which axes of the kernel are in- and outputs."""

    kernel: tuple[int, ...]
    bias: tuple[int, ...] | None
    input_axes: list[int]
    output_axes: list[int]


class EinsumDense(WeightedLayer):
    """`activation(einsum(equation, inputs, kernel) + bias)`.

    Parameters
    ----------
    equation : str
        `"abc,cd->abd"`: letters for the axes of the inputs, of the kernel and of the output.
        `...` may stand first, or last, in inputs and output.
    output_shape : int or sequence of int or None
        The sizes of the output's axes after the batch, those of `...` left out; None where the
        inputs tell.
    activation : str or callable, optional
    bias_axes : str, optional
        The letters of the output that the bias has; no bias without.
    kernel_initializer, bias_initializer : str or callable
    kernel_regularizer, bias_regularizer : str or callable, optional
    kernel_constraint, bias_constraint : str or callable, optional

    Examples
    --------
    >>> EinsumDense("abc,cd->abd", (None, 4), bias_axes="d")(np.ones((2, 5, 3), np.float32)).shape
    (2, 5, 4)
    """

    def __init__(
        self,
        equation: str,
        output_shape: Any,
        activation: Any = None,
        bias_axes: str | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        gptq_unpacked_column_size: int | None = None,
        quantization_config: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require_none(self, lora_rank=lora_rank, quantization_config=quantization_config,
                     gptq_unpacked_column_size=gptq_unpacked_column_size)  # fmt: skip
        self.equation = equation
        one = isinstance(output_shape, int)
        self.partial_output_shape = (output_shape,) if one else tuple(output_shape)
        self.bias_axes = bias_axes
        self.activation = activations.get(activation)
        self._describe_weight("kernel", kernel_initializer, kernel_regularizer, kernel_constraint)
        self._describe_weight("bias", bias_initializer, bias_regularizer, bias_constraint)

    def build(self, input_shape: Any) -> None:
        found = self._analyze(input_shape)
        self.input_spec = InputSpec(ndim=len(input_shape))
        start = self.kernel_initializer
        if isinstance(start, VarianceScaling) and None in (start.input_axes, start.output_axes):
            axes = {"input_axes": found.input_axes, "output_axes": found.output_axes}
            config = {**start.get_config(), "seed": start.seed, **axes}
            if type(start) is not VarianceScaling:  # GlorotUniform and the like fix the rest
                config = {name: config[name] for name in ("seed", *axes)}
            start = type(start)(**config)
        self.kernel = self.add_weight(
            shape=found.kernel, initializer=start, regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint, name="kernel",
        )  # fmt: skip
        self.bias = None if found.bias is None else self._make_weight("bias", found.bias)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        x = ops.einsum(self.equation, inputs, self.kernel)
        if self.bias is not None:
            x = ops.add(x, self.bias)
        return self.activation(x)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "equation": self.equation,
            "output_shape": self.partial_output_shape,
            "activation": activations.serialize(self.activation),
            "bias_axes": self.bias_axes,
            **self._weights_config("kernel", "bias"),
        }

    def _analyze(self, input_shape: Sequence[int | None]) -> _Weights:
        """The weights for inputs of a shape."""
        matches = [re.fullmatch(form, self.equation.replace(" ", "")) for form in _FORMS]
        match = next(filter(None, matches), None)
        if match is None:
            raise ArgumentError(
                f"layer {self.name!r}: equation must be like 'ab,bc->ac', '...b,bc->...c' or "
                f"'ab...,bc->ac...', got {self.equation!r}"
            )
        given, kernel, result = match.groups()
        left = match is matches[1]
        elided = len(input_shape) - len(given)
        inner = list(input_shape[1:elided]) if left else []
        after = list(input_shape[len(given) :]) if not left and elided > 0 else []
        shape = [input_shape[0], *inner, *self.partial_output_shape, *after]
        start = elided if left else 0
        sizes = dict(zip(given, input_shape[start:], strict=False))
        output = dict(zip(result, shape[start:], strict=False))
        self._check_letters(given, kernel, result, sizes, output)
        both = [output[c] if c in output else sizes[c] for c in kernel]
        bias = None
        if self.bias_axes is not None:
            first = min(result.find(c) for c in self.bias_axes)
            bias = tuple(output[c] if c in self.bias_axes else 1 for c in result[first:])
            bias += (1,) * len(after)
        for size in (*both, *(bias or ())):
            if not isinstance(size, int):
                raise ShapeError(
                    f"layer {self.name!r}: the sizes of the weights must be known, got inputs of "
                    f"shape {tuple(input_shape)} and output_shape {self.partial_output_shape}"
                )
        outputs = [i for i, c in enumerate(kernel) if c in output]
        inputs = [i for i, c in enumerate(kernel) if c not in output]
        return _Weights(tuple(both), bias, inputs, outputs)  # type: ignore[arg-type]

    def _check_letters(
        self, given: str, kernel: str, result: str, sizes: dict[str, Any], output: dict[str, Any]
    ) -> None:
        where = f"layer {self.name!r}: equation {self.equation!r}:"
        for c in given:
            if None not in (output.get(c), sizes.get(c)) and output[c] != sizes[c]:
                raise ShapeError(f"{where} axis {c!r} must have one size, got {sizes[c]} in the "
                                 f"inputs and {output[c]} in output_shape")  # fmt: skip
        for c in result:
            if c not in given and c not in kernel:
                raise ArgumentError(f"{where} axis {c!r} of the output is in no operand")
        for c in kernel:
            if c not in given and c not in result:
                raise ArgumentError(f"{where} axis {c!r} of the kernel is nowhere else")
        for c in self.bias_axes or "":
            if c not in result:
                raise ArgumentError(f"{where} bias_axes must be in the output, got {c!r}")
