"""Attention."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes

from ...ir import sugar
from ...ir.builder import current
from ...ir.errors import ArgumentError, ShapeError
from ...ir.graph import Value, outline
from ...ir.op import get as primitive
from ...ir.types import bf16, boolean, f16, f32, i32
from ..operation import operation
from .activation import softmax_of
from .core import floats, tensor


@operation
def dot_product_attention(
    query: Any, key: Any, value: Any, bias: Any = None, mask: Any = None, scale: Any = None,
    is_causal: bool = False, flash_attention: bool | None = None,
    attn_logits_soft_cap: float | None = None,
) -> Any:  # fmt: skip
    """`softmax(query key^T * scale + bias) value`, for each head.

    Parameters
    ----------
    query : tensor of shape `(batch, time, heads, depth)`
    key, value : tensors of shape `(batch, source, key heads, depth)`
        Each of their heads serves `heads / key heads` heads of the query.
    bias : tensor, optional
        Added to the logits; broadcasts to `(batch, heads, time, source)`.
    mask : tensor of bool, optional
        Where the source may be looked at; broadcasts like `bias`.
    scale : float, optional
        `1 / sqrt(depth)` by default.
    is_causal : bool
        Whether no position sees a later one.
    flash_attention : bool, optional
        Must not be True: there is no such kernel by hand; the compiler fuses what it can.
    attn_logits_soft_cap : float, optional
        The logits become `logits / (1 + |logits| / cap)`.

    Returns
    -------
    tensor of shape `(batch, time, heads, depth of value)`
        The logits of float16 and bfloat16 and what is computed of them are float32; in gradients
        the cotangent of bfloat16 logits is rounded before it is multiplied.
    """
    if flash_attention:
        raise ArgumentError("dot_product_attention: there is no flash attention by hand",
                            hint="leave flash_attention at None")  # fmt: skip
    q, k, v = floats(query, key, value)
    if any(x.ndim != 4 for x in (q, k, v)):
        listed = ", ".join(str(x.type) for x in (q, k, v))
        raise ShapeError(f"dot_product_attention: operands must have rank 4, got {listed}")
    dtype = q.dtype
    q, k = (sugar.cast(x, f32) if dtype in (f16, bf16) else x for x in (q, k))
    k, v = _heads(k, q), _heads(v, q)
    scale = 1 / math.sqrt(int(q.shape[-1])) if scale is None else scale
    product = _each_head(q) @ sugar.transpose(k, (0, 2, 3, 1))
    logits = (_with_short_cotangent(product) if dtype == bf16 else product) * scale
    if bias is not None:
        logits = logits + sugar.cast(tensor(bias), logits.dtype)
    if attn_logits_soft_cap is not None:
        logits = logits / (sugar.unary("abs", logits) / attn_logits_soft_cap + 1)
    seen = _visible(logits, mask, is_causal)
    if seen is not None:
        lowest = -0.7 * float(ml_dtypes.finfo(logits.dtype.numpy).max)  # type: ignore[no-untyped-call]
        logits = sugar.select(seen, logits, lowest)
    weights = sugar.cast(softmax_of(logits, -1), dtype)
    return sugar.transpose(sugar.matmul(weights, _each_head(v)), (0, 2, 1, 3))


def _with_short_cotangent(product: Value) -> Value:
    """A product in f32 of factors that are bf16, as its gradients shall be: processors multiply
    pairs of bf16 in half of the time, if the cotangent is rounded too."""
    builder = current()
    if builder is None or builder.eager:
        return product
    upstream = Value(product.type, name="upstream")
    rounded = sugar.cast(sugar.cast(upstream, bf16), f32)
    rule = outline("backward", {upstream: "upstream"}, {"d": rounded})
    (found,) = primitive("custom_gradient").all(
        product, product, backward=rule, outputs=1, residuals=0, arguments=1, wrt=(0,)
    )
    return found


def _each_head(x: Value) -> Value:
    """`(batch, heads, time, depth)`."""
    return sugar.transpose(x, (0, 2, 1, 3))


def _heads(x: Value, query: Value) -> Value:
    """The heads of a key or value, repeated for the heads of the query that share them."""
    wanted, found = int(query.shape[2]), int(x.shape[2])
    if wanted == found:
        return x
    if found == 0 or wanted % found:
        raise ShapeError(
            "dot_product_attention: heads of the query must be a multiple of those of the key, "
            f"got {query.type} and {x.type}"
        )
    batch, source, _, depth = x.shape
    shape = (batch, source, found, wanted // found, depth)
    repeated = primitive("broadcast")(x, shape=shape, axes=(0, 1, 2, 4))
    return sugar.reshape(repeated, (batch, source, wanted, depth))


def _visible(logits: Value, mask: Any, is_causal: bool) -> Value | None:
    """Which source each position may look at."""
    seen = None if mask is None else tensor(mask, boolean)
    if not is_causal:
        return seen
    iota = primitive("iota")
    shape = logits.shape[-2:]
    earlier = iota(shape=shape, axis=1, dtype=i32) <= iota(shape=shape, axis=0, dtype=i32)
    return earlier if seen is None else sugar.binary("logical_and", seen, earlier)


__all__ = ["dot_product_attention"]
