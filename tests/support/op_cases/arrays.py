"""Making arrays, moving, joining, indexing, sorting, products."""

from __future__ import annotations

import numpy as np

from .case import (
    BOOLS,
    CUBE,
    NANS,
    NUMBERS,
    SIGNED,
    VECTOR,
    A,
    B,
    case,
    floats,
    int32,
    ints,
)  # fmt: skip

_GRID = int32([0, 1], [1, -1])
_SORTED = np.sort(floats(9))
_PLACES = int32([0, 1], [2, 3], [1, 1], [3, 0], [-1, 2])
_IDS = int32(0, 2, 2, 1, 5, -1)
_PADS = ["constant", "edge", "reflect", "symmetric", "wrap", "maximum", "minimum", "mean",
         "median", "linear_ramp", "empty"]  # fmt: skip

CASES = [
    # making
    case("zeros", (2, 3)), case("ones", (2, 3), dtype="int32"), case("full", (2,), 7.0),
    case("empty", (2, 0)), case("zeros_like", A), case("ones_like", A), case("empty_like", A[:0]),
    case("full_like", A, 2.0), case("arange", 5), case("arange", 1, 9, 2), case("array", [1, 2.5]),
    case("arange", 0.0, 1.0, 0.25), case("eye", 3), case("eye", 3, 4, 1), case("identity", 3),
    case("tri", 3, 4, -1), case("linspace", 0.0, 1.0, 5), case("linspace", 0, 9, 4, dtype="int32"),
    case("linspace", np.float32(0), VECTOR, 5, axis=-1),
    case("linspace", 0, 1, 5, endpoint=False, retstep=True), case("logspace", 0.0, 2.0, 5),
    case("geomspace", 1.0, 100.0, 5), case("geomspace", -1.0, -100.0, 5, endpoint=False),
    case("vander", VECTOR), case("vander", VECTOR, 3, increasing=True),
    case("meshgrid", VECTOR, floats(3)), case("meshgrid", VECTOR, floats(3), indexing="ij"),
    case("cast", A, "int32"), case("cast", A, "bool"), case("cast", BOOLS, "float32"),
    case("saturate_cast", 100 * A, "uint8"), case("convert_to_tensor", [1, 2.5]),
    case("size", CUBE), case("ndim", CUBE), case("shape", CUBE),
    # diagonals
    case("diag", A, 1), case("diag", VECTOR, -2), case("diagflat", A[:2, :2], 1),
    case("diagonal", CUBE, 1, 1, 2), case("trace", CUBE, -1, 0, 2), case("trace", SIGNED),
    case("tril", A), case("triu", CUBE, k=1),
    # shapes
    case("reshape", CUBE, (4, -1)), case("transpose", CUBE),
    case("transpose", CUBE, axes=(1, 0, 2)),
    case("swapaxes", CUBE, 0, -1), case("moveaxis", CUBE, 0, 2), case("ravel", CUBE),
    case("moveaxis", CUBE, [0, 1], [2, 0]), case("expand_dims", A, 1),
    case("expand_dims", A, (0, -1)), case("squeeze", floats(1, 3, 1)),
    case("squeeze", floats(1, 3, 1), axis=-1), case("broadcast_to", VECTOR, (3, 4)),
    case("flip", CUBE), case("flip", CUBE, axis=1), case("fliplr", CUBE), case("flipud", CUBE),
    case("rot90", A), case("rot90", CUBE, 3, axes=(0, 2)), case("rot90", A, 2),
    case("repeat", A, 2), case("repeat", A, 3, axis=1), case("tile", A, (2, 1)),
    case("repeat", A, np.array([1, 0, 2]), axis=0, traced=False),
    case("tile", VECTOR, (2, 3)), case("roll", A, 1), case("roll", A, -1, axis=1),
    case("rearrange", CUBE, "a b (h d) -> a h b d", h=2, jit=False),
    case("rearrange", CUBE, "a b c -> (a b) c"),
    # joining and splitting
    case("concatenate", [A, B]), case("concatenate", [A, SIGNED], axis=-1),
    case("stack", [A, B], axis=1), case("vstack", [A, B]), case("hstack", [A, B]),
    case("dstack", [A, B]), case("dstack", [VECTOR, VECTOR]), case("vstack", [VECTOR, VECTOR]),
    case("hstack", [VECTOR, VECTOR]), case("append", A, B), case("append", A, B, axis=0),
    case("split", CUBE, 2, axis=2), case("split", CUBE, [1, 3], axis=-1),
    case("array_split", CUBE, 3, axis=2), case("hsplit", A, 2), case("vsplit", A, 3),
    case("dsplit", CUBE, 2), case("unstack", CUBE, axis=1),
    # taking
    case("take", A, ints(5, high=3), axis=0), case("take", A, ints(2, 2, high=12)),
    case("take", A, int32(-1, 0), axis=1), case("take_along_axis", A, ints(3, 2, high=4), axis=1),
    case("take_along_axis", CUBE, ints(2, 1, 4, high=3), axis=1),
    case("take_along_axis", A, int32(3, -1)),
    *[case("get_item", CUBE, key) for key in (
        0, (0, slice(1, None)), (slice(None, None, -1), ..., None))],
    *[case("get_item", CUBE, key, traced=False) for key in (
        _GRID, (slice(None), _GRID), (_GRID, _GRID), (_GRID, slice(None), int32(0, 3)),
        (0, slice(None), _GRID), (..., _GRID), CUBE > 0)],
    case("unravel_index", int32(0, 5, 11, -1), (3, 4)), case("slice", A, [1, 1], [2, 2]),
    case("slice", A, int32(1, 3), (2, 2)), case("slice_update", A, [1, 3], floats(2, 2)),
    case("where", BOOLS, A, B), case("where", BOOLS, A, 0.0), case("where", BOOLS, traced=False),
    case("select", [BOOLS, ~BOOLS & (A > 0)], [A, B], 7.0), case("nonzero", SIGNED, traced=False),
    *[case("pad", A, ((1, 2), (0, 3)), mode=mode) for mode in _PADS],
    case("pad", A, 1, constant_values=2.0), case("pad", SIGNED, ((1, 0), (2, 2)), mode="mean"),
    # scatter
    case("scatter", _PLACES, floats(5), (3, 4)), case("scatter", int32([0], [2]), A[:2], (3, 4)),
    *[case("scatter_update", A, _PLACES, floats(5), reduction=r, gradient=r != "mul")
      for r in (None, "add", "max", "min", "mul")],
    case("scatter_update", A, int32([0], [2]), floats(2, 4)),
    *[case(f"segment_{r}", x, _IDS, num_segments=4, gradient=r != "prod")
      for r in ("sum", "max", "min", "prod") for x in (floats(6, 2), np.arange(6, dtype=np.int32))],
    # sorting
    *[case("sort", x, axis=a) for x in (A, NANS, NUMBERS) for a in (-1, 0)],
    *[case("argsort", x, axis=a) for x in (A, NANS, NUMBERS) for a in (-1, None)],
    case("sort", BOOLS), case("top_k", A, 2), case("top_k", NUMBERS, 3),
    case("argpartition", np.sort(A), 1),
    case("in_top_k", int32(1, 2, 0), A, 2, gradient=False),
    case("searchsorted", _SORTED, A, gradient=False),
    *[case("searchsorted", int32(1, 2, 2, 3), int32(0, 2, 9), side=s) for s in ("left", "right")],
    case("digitize", A, np.sort(VECTOR), gradient=False),
    case("digitize", A, np.sort(VECTOR)[::-1].copy(), gradient=False),
    case("isin", NUMBERS, int32(1, 3)), case("isin", NUMBERS, int32(1, 3), invert=True),
    case("unique", NUMBERS, traced=False),
    case("unique", NUMBERS, return_index=True, return_inverse=True, return_counts=True, size=6),
    case("unique", NUMBERS, size=9, fill_value=-5),
    case("unique", int32([1, 2], [0, 3], [1, 2]), axis=0, size=2, return_counts=True),
    # products
    case("matmul", A, floats(4, 5)), case("matmul", CUBE, floats(4, 5)),
    case("matmul", CUBE, floats(2, 4, 5)), case("matmul", VECTOR, floats(4, 5)),
    case("matmul", SIGNED.astype(np.int8), SIGNED.T.astype(np.int8)),
    case("dot", A, VECTOR), case("dot", A, floats(2, 4, 5)), case("inner", A, B),
    case("outer", VECTOR, VECTOR), case("vdot", A, B), case("kron", A, floats(2, 3)),
    case("tensordot", CUBE, floats(3, 4, 5), axes=2), case("tensordot", A, CUBE, axes=[[1], [2]]),
    case("cross", floats(4, 3), floats(4, 3)), case("cross", floats(4, 2), floats(4, 3)),
    case("cross", floats(4, 2), floats(4, 2)), case("cross", floats(3, 4), floats(3, 4), axis=0),
    case("cdist", floats(4, 3), floats(5, 3)),
    *[case("einsum", *args) for args in (
        ("ij,kj->ik", A, B), ("bij,bkj->bik", CUBE, CUBE), ("ijk->ki", CUBE),
        ("ij,jk", A, floats(4, 2)), ("abc,cd->abd", CUBE, floats(4, 2)), ("...ij,jk", CUBE, A.T),
        ("iij->j", floats(3, 3, 4)), ("abc,cd,db->a", CUBE, floats(4, 5), floats(5, 3)),
        ("ij,kl->ijkl", A, B), ("ij,ij->ij", A, B), ("ii", floats(3, 3)), ("i...->...", CUBE))],
    case("norm", A, axis=1), case("norm", VECTOR, ord=1), case("norm", VECTOR, ord=np.inf),
    case("normalize", A), case("normalize", A, order=1, axis=0), case("normalize", A, order=3),
]  # fmt: skip
