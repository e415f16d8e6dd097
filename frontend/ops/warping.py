"""Images read at computed places: any coordinates, affine and perspective maps, elastic ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from ...ir import sugar
from ...ir.errors import ArgumentError, ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import Size, bf16, f16, f32, i32, size_of
from ..operation import operation
from .core import floating, tensor
from .images import batched, blurred
from .linalg import solve

_ORDER = {"nearest": 0, "bilinear": 1}

# --- positions beyond the border ---------------------------------------------------------------


def _mirrored(index: Value, size: int) -> Value:
    """`d c b a b c d`: the edge is not repeated."""
    period = 2 * (size - 1)
    if period == 0:
        return sugar.zeros_like(index)
    return sugar.unary("abs", sugar.binary("remainder", index + (size - 1), period) - (size - 1))


def _reflected(index: Value, size: int) -> Value:
    """`b a a b c d d c`: the edge is repeated."""
    return sugar.floor_divide(_mirrored(index * 2 + 1, 2 * size + 1) - 1, 2)


_FILL_MODES: dict[str, Callable[[Value, int], Value]] = {
    "constant": lambda index, size: index,
    "nearest": lambda index, size: sugar.binary(
        "minimum", sugar.binary("maximum", index, 0), size - 1
    ),
    "wrap": lambda index, size: sugar.binary("remainder", index, size),
    "mirror": _mirrored,
    "reflect": _reflected,
}


def _require_fill_mode(op: str, fill_mode: str) -> None:
    if fill_mode not in _FILL_MODES:
        raise ArgumentError(
            f"{op}: fill_mode must be one of {', '.join(_FILL_MODES)}, got {fill_mode!r}"
        )


def _require_interpolation(op: str, interpolation: str) -> int:
    if interpolation not in _ORDER:
        raise ArgumentError(
            f"{op}: interpolation must be nearest or bilinear, got {interpolation!r}"
        )
    return _ORDER[interpolation]


# --- reading -----------------------------------------------------------------------------------


def sampled(
    rows: Value, base: Value | int, sizes: Sequence[int], coordinates: Sequence[Value],
    order: int, fill_mode: str, fill: Any,
) -> Value:  # fmt: skip
    """Rows read at coordinates, interpolated between neighbours.

    Row `base + i * sizes[1] + j` is what lies at `(i, j)`. The result has the axes of the
    coordinates, then those of a row.
    """
    nodes = [
        _neighbours(c, size, order, fill_mode) for c, size in zip(coordinates, sizes, strict=True)
    ]
    rest = (1,) * (rows.ndim - 1)
    total: Value | None = None
    for corner in itertools.product(*nodes):
        at: Value | int = 0
        inside, weight = None, None
        for (index, legal, share), size in zip(corner, sizes, strict=True):
            at = at * size + index
            inside = legal if inside is None or legal is None else inside & legal
            weight = share if weight is None or share is None else weight * share
        found = primitive("gather")(rows, sugar.value(at + base), axis=0)
        if inside is not None:
            inside = sugar.reshape(inside, (*inside.shape, *rest))
            found = sugar.select(inside, found, sugar.value(fill, rows.dtype))
        if weight is not None:
            found = found * sugar.cast(sugar.reshape(weight, (*weight.shape, *rest)), found.dtype)
        total = found if total is None else total + found
    assert total is not None
    return total


Node = tuple[Value, Value | None, Value | None]


def _neighbours(place: Value, size: int, order: int, fill_mode: str) -> list[Node]:
    """Indices along one axis, where they lie inside (None: always), their weights (None: 1)."""
    if order == 0:
        nearest = _half_away(place) if place.dtype.is_float else place
        found: list[tuple[Value, Value | None]] = [(sugar.cast(nearest, i32), None)]
    else:
        place = floating(place)
        low = sugar.unary("floor", place)
        share = place - low
        index = sugar.cast(low, i32)
        found = [(index, 1 - share), (index + 1, share)]
    nodes: list[Node] = []
    for index, weight in found:
        legal = (index >= 0) & (index < size) if fill_mode == "constant" else None
        nodes.append((_FILL_MODES[fill_mode](index, size), legal, weight))
    return nodes


def _half_away(x: Value) -> Value:
    """The nearest whole number, halves away from zero."""
    size = sugar.unary("abs", x)
    low = sugar.unary("floor", size)
    rounded = sugar.select(size - low >= 0.5, low + 1, low)
    return sugar.select(x < 0, -rounded, rounded)


def _computed(x: Value) -> Value:
    """What interpolation is computed in."""
    return x if x.dtype.is_float else floating(x)


def _as_before(result: Value, x: Value) -> Value:
    return sugar.cast(_half_away(result) if x.dtype.is_integer else result, x.dtype)


@operation
def map_coordinates(
    inputs: Any, coordinates: Any, order: int, fill_mode: str = "constant", fill_value: Any = 0
) -> Any:
    """A tensor read at coordinates.

    Parameters
    ----------
    inputs : tensor of rank k
    coordinates : tensor of shape `(k, ...)`
        For each element of the result its position along each axis.
    order : int
        0 reads the nearest element, 1 interpolates linearly.
    fill_mode : str
        Beyond the border: `constant` is `fill_value`, `nearest` the edge, `wrap` starts again,
        `mirror` goes back without repeating the edge, `reflect` with.
    """
    x, places = tensor(inputs), tensor(coordinates)
    if places.ndim < 2 or places.shape[0] != x.ndim:
        raise ShapeError(
            f"map_coordinates: coordinates must have shape ({x.ndim}, ...) for {x.type}, "
            f"got {places.type}"
        )
    if order not in (0, 1):
        raise ArgumentError(f"map_coordinates: order must be 0 or 1, got {order!r}")
    _require_fill_mode("map_coordinates", fill_mode)
    flat = sugar.reshape(_computed(x), (x.type.size,))
    each = [places[i] for i in range(x.ndim)]
    sizes = [int(d) for d in x.shape]
    return _as_before(sampled(flat, 0, sizes, each, order, fill_mode, fill_value), x)


def _read(x: Value, rows: Value, columns: Value, order: int, fill_mode: str, fill: Any) -> Value:
    """A batch of images with channels last at `(batch, ...)` places each."""
    batch, height, width, channels = x.shape
    pixels = sugar.reshape(_computed(x), (size_of((batch, height, width)), channels))
    lead = (batch, *(1,) * (rows.ndim - 1))
    number = primitive("iota")(shape=lead, axis=0, dtype=i32)
    sizes = [int(height), int(width)]
    base = number * (sizes[0] * sizes[1])
    return _as_before(sampled(pixels, base, sizes, [rows, columns], order, fill_mode, fill), x)


def _grid(height: Size, width: Size, dtype: Any) -> tuple[Value, Value]:
    """Row and column of every pixel, `(1, height, width)`."""
    iota = primitive("iota")
    shape = (1, height, width)
    rows, columns = (iota(shape=shape, axis=axis, dtype=i32) for axis in (1, 2))
    return sugar.cast(rows, dtype), sugar.cast(columns, dtype)


# --- maps --------------------------------------------------------------------------------------


@operation
def affine_transform(
    images: Any, transform: Any, interpolation: str = "bilinear", fill_mode: str = "constant",
    fill_value: Any = 0, data_format: str | None = None,
) -> Any:  # fmt: skip
    """Images moved, turned, scaled and sheared.

    Parameters
    ----------
    transform : tensor of shape `(8,)` or `(batch, 8)`
        `a0 a1 a2 b0 b1 b2 c0 c1`: the pixel at column x and row y is read at column
        `a0 x + a1 y + a2` and row `b0 x + b1 y + b2`. The last two are not used.
    interpolation : str
        `nearest` or `bilinear`.
    fill_mode, fill_value
        As in `map_coordinates`.
    """
    order = _require_interpolation("affine_transform", interpolation)
    _require_fill_mode("affine_transform", fill_mode)
    t = floating(transform)
    if t.ndim not in (1, 2) or t.shape[-1] != 8:
        raise ShapeError(
            f"affine_transform: transform must have shape (8,) or (batch, 8), got {t.type}"
        )
    t = sugar.reshape(t, (1, 8)) if t.ndim == 1 else t

    def run(x: Value) -> Value:
        y_at, x_at = _grid(x.shape[1], x.shape[2], t.dtype)
        a0, a1, a2, b0, b1, b2 = (sugar.reshape(t[:, i], (-1, 1, 1)) for i in range(6))
        shape = x.shape[:3]
        columns = sugar.broadcast_to(a0 * x_at + a1 * y_at + a2, shape)
        rows = sugar.broadcast_to(b0 * x_at + b1 * y_at + b2, shape)
        return _read(x, rows, columns, order, fill_mode, fill_value)

    return batched("affine_transform", tensor(images), data_format, run)


@operation
def perspective_transform(
    images: Any, start_points: Any, end_points: Any, interpolation: str = "bilinear",
    fill_value: Any = 0, data_format: str | None = None,
) -> Any:  # fmt: skip
    """Images seen from elsewhere: four points of each move to four others.

    Parameters
    ----------
    start_points, end_points : tensors of shape `(4, 2)` or `(batch, 4, 2)`
        Column and row of the points in the images and in the result.
    """
    order = _require_interpolation("perspective_transform", interpolation)
    start, end = sugar.cast(floating(start_points), f32), sugar.cast(floating(end_points), f32)
    if start.shape != end.shape or start.shape[-2:] != (4, 2) or start.ndim not in (2, 3):
        raise ShapeError(
            "perspective_transform: points must both have shape (4, 2) or (batch, 4, 2), "
            f"got {start.type} and {end.type}"
        )
    start, end = (sugar.reshape(p, (1, 4, 2)) if p.ndim == 2 else p for p in (start, end))
    h = _homography(start, end)

    def run(x: Value) -> Value:
        y_at, x_at = _grid(x.shape[1], x.shape[2], f32)
        c = [sugar.reshape(h[:, i], (-1, 1, 1)) for i in range(8)]
        far = c[6] * x_at + c[7] * y_at + 1
        shape = x.shape[:3]
        columns = sugar.broadcast_to((c[0] * x_at + c[1] * y_at + c[2]) / far, shape)
        rows = sugar.broadcast_to((c[3] * x_at + c[4] * y_at + c[5]) / far, shape)
        return _read(x, rows, columns, order, "constant", fill_value)

    return batched("perspective_transform", tensor(images), data_format, run)


def _homography(start: Value, end: Value) -> Value:
    """The eight numbers of the map from `end` back to `start`, `(batch, 8)`."""
    u, v = end[..., 0], end[..., 1]
    zero = sugar.zeros_like(u)
    one = zero + 1

    def equations(target: Value, columns: Sequence[Value]) -> Value:
        found = [*columns, -target * u, -target * v]
        return primitive("concat")(*(sugar.reshape(f, (*f.shape, 1)) for f in found), axis=2)

    x, y = start[..., 0], start[..., 1]
    matrix = primitive("concat")(
        equations(x, (u, v, one, zero, zero, zero)), equations(y, (zero, zero, zero, u, v, one)),
        axis=1,
    )  # fmt: skip
    wanted = primitive("concat")(x, y, axis=1)
    found: Value = solve(matrix, sugar.reshape(wanted, (*wanted.shape, 1)))
    return found[..., 0]


@operation
def elastic_transform(
    images: Any, alpha: Any = 20.0, sigma: Any = 5.0, interpolation: str = "bilinear",
    fill_mode: str = "reflect", fill_value: Any = 0.0, seed: Any = None,
    data_format: str | None = None,
) -> Any:  # fmt: skip
    """Images whose pixels are moved by smooth random amounts (Simard et al., 2003).

    Parameters
    ----------
    alpha : float
        How far: the factor of the smoothed noise.
    sigma : float
        Standard deviation of the noise and of the bell that smooths it, in pixels. It decides
        about the size of a window, so it must be known when a graph is made.
    seed : int or SeedGenerator, optional
    """
    from .. import random

    order = _require_interpolation("elastic_transform", interpolation)
    _require_fill_mode("elastic_transform", fill_mode)
    spread = float(sugar.concrete(tensor(sigma), "elastic_transform: sigma"))
    reach = int(6 * spread) | 1
    source = random.SeedGenerator(seed) if seed is None or isinstance(seed, int) else seed

    def run(x: Value) -> Value:
        dtype = x.dtype if x.dtype.is_float and x.dtype not in (f16, bf16) else f32
        moves = []
        for _ in range(2):
            noise = tensor(random.normal((*x.shape[:3], 1), dtype="float32", seed=source)) * spread
            smooth = blurred(noise, (reach, reach), (spread, spread), "channels_last")
            moves.append(sugar.cast(smooth[..., 0], dtype) * sugar.value(alpha, dtype))
        rows, columns = _grid(x.shape[1], x.shape[2], dtype)
        return _read(x, rows + moves[0], columns + moves[1], order, fill_mode, fill_value)

    return batched("elastic_transform", tensor(images), data_format, run)


__all__ = ["affine_transform", "elastic_transform", "map_coordinates", "perspective_transform"]
