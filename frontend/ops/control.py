"""Control flow on tensors: loops and branches whose number of steps or choice a graph decides.

The functions that these take are traced once, into bodies of the IR's `scan`, `while` and `cond`.
They may read tensors and variables around them, and assign to variables.
"""

from __future__ import annotations

from builtins import map as map_  # the name is that of an op here
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ...ir import sugar
from ...ir.batching import batch
from ...ir.errors import ArgumentError, ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import Size, TensorType, boolean, i32, promote
from .. import tree
from ..closures import closing, require_callable
from ..operation import operation
from ..operators import is_number
from ..region import RegionTrace, ordered, read, write
from ..variable import Variable
from .core import tensor

# --- nests -----------------------------------------------------------------------------------


def _values(structure: Any) -> Any:
    """The nest with Values of the current builder for its leaves; None stays."""
    return tree.map_structure(lambda x: None if x is None else tensor(x), structure)


def _flat(structure: Any) -> list[Value]:
    return [x for x in tree.leaves(structure) if x is not None]


def _types(structure: Any) -> Any:
    return tree.map_structure(lambda x: None if x is None else x.type, structure)


def _pack(structure: Any, values: Sequence[Value]) -> Any:
    """The nest with its leaves replaced in order; None stays."""
    following = iter(values)
    return tree.map_structure(lambda x: None if x is None else next(following), structure)


def _paths(structure: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The leaves with where they are: `carry[0]['h']`."""
    if isinstance(structure, dict):
        for key, item in structure.items():
            yield from _paths(item, f"{path}[{key!r}]")
    elif isinstance(structure, list | tuple):
        for i, item in enumerate(structure):
            yield from _paths(item, f"{path}[{i}]")
    else:
        yield path, structure


def _skeleton(structure: Any) -> Any:
    """Equal for nests that have the same places for leaves."""
    if isinstance(structure, dict):
        return {key: _skeleton(item) for key, item in structure.items()}
    if isinstance(structure, list | tuple):
        return [_skeleton(item) for item in structure]
    return None if structure is None else ...


def _shown(structure: Any) -> str:
    """A nest in words, with the types of its tensors."""
    return str(tree.map_structure(lambda x: x.type if isinstance(x, Value | Variable) else x,
                                  structure))  # fmt: skip


def _like(x: Any, wanted: TensorType) -> Value:
    """A result as a Value; Python numbers take the dtype that is wanted."""
    fits = is_number(x) and (wanted.dtype.is_float or not isinstance(x, float))
    return tensor(x, wanted.dtype if fits else None)


def _kept(name: str, what: str, begins: Any, becomes: Any) -> list[Value]:
    """The leaves of what a step returned, which must be of the types of what it got."""
    if _skeleton(begins) != _skeleton(becomes):
        raise ShapeError(f"{name}: {what} must keep its structure, it begins as "
                         f"{_shown(begins)} and becomes {_shown(becomes)}")  # fmt: skip
    found = []
    for (path, old), new in zip(_paths(begins, what), tree.leaves(becomes), strict=True):
        if old is None:
            continue
        value = _like(new, old.type)
        if value.type != old.type:
            raise ShapeError(
                f"{name}: {path} must keep its type, it begins as {old.type} and becomes "
                f"{value.type}",
                hint=f"begin with {value.type}" if value.shape == old.shape else "",
            )
        found.append(value)
    return found


# --- scan ------------------------------------------------------------------------------------


@closing
@operation
def scan(
    f: Callable[..., Any], init: Any, xs: Any = None, length: Any = None, reverse: bool = False,
    unroll: Any = 1, gradient: str = "store",
) -> Any:  # fmt: skip
    """Run `f` once for each slice of `xs`, carrying a value from step to step.

    `carry, ys[i] = f(carry, xs[i])` for `i` in 0, 1, ..., `length - 1`, or the other way round.

    Parameters
    ----------
    f : callable
        `f(carry, x)` -> the new carry, of the types of the old one, and what is stacked.
    init : tensor or nest of tensors
        The first carry.
    xs : tensor or nest of tensors, optional
        All of one size along the first axis, along which they are sliced.
    length : int, optional
        The number of steps; needed if there are no `xs`.
    reverse : bool
        Run from the last slice to the first.
    unroll : int or bool
        As Keras has it; it changes nothing here.
    gradient : "store" or "recompute"
        Whether a gradient keeps what the steps computed, or their carries alone and computes
        the rest again: less memory, more time.

    Returns
    -------
    tuple
        The last carry, and the stacked results.

    Raises
    ------
    ShapeError
        If the carry changes its types, or the slices are not equally many.
    ArgumentError
        If the number of steps is not known when the function is traced.

    Examples
    --------
    >>> ops.scan(lambda total, x: (total + x, total + x), 0.0, np.ones(3, "float32"))
    (array(3., dtype=float32), array([1., 2., 3.], dtype=float32))
    """
    require_callable("scan", f=f)
    if not isinstance(unroll, bool) and (not isinstance(unroll, int) or unroll < 1):
        raise ArgumentError(f"scan: unroll must be a positive integer or a bool, got {unroll!r}")
    first, slices = _values(init), _values(xs)
    steps = _length("scan: xs", _flat(slices), length)
    step = RegionTrace.of("step", f, _types(first), tree.map_structure(_slice, slices))
    with step:
        if not isinstance(step.result, list | tuple) or len(step.result) != 2:
            raise ArgumentError("scan: f must return a pair: the new carry, and what is stacked; "
                                f"got {_shown(step.result)}")  # fmt: skip
        carry, ys = step.result
        new = _kept("scan", "carry", first, carry)
        stacked = _values(ys)
    start = _flat(first)
    last, stacks = _emit_scan(
        step, start, _flat(slices), [*new, *_flat(stacked)],
        length=steps, reverse=bool(reverse), gradient=gradient,
    )  # fmt: skip
    return _pack(first, last), _pack(stacked, stacks)


def _slice(x: Value | None) -> TensorType | None:
    return None if x is None else x.type.with_shape(x.shape[1:])


def _length(what: str, xs: Sequence[Value], length: Any) -> Size:
    """The number of slices."""
    if isinstance(length, np.integer):
        length = int(length)
    if length is None and not xs:
        raise ArgumentError(f"{what} must hold a tensor, or length be given",
                            hint="while_loop ends by a condition")  # fmt: skip
    if length is not None and (not isinstance(length, Size) or isinstance(length, bool)):
        raise ArgumentError(f"scan: length must be an integer, got {length!r:.60}",
                            hint="fori_loop takes a number that is computed")  # fmt: skip
    sizes = [x.shape[0] if x.ndim else None for x in xs]
    wanted = sizes[0] if length is None else length
    if wanted is None or any(size != wanted for size in sizes):
        raise ShapeError(f"{what} must have {'one size' if length is None else length} along "
                         f"the first axis, got {', '.join(str(x.type) for x in xs)}")  # fmt: skip
    return wanted


def _emit_scan(
    step: RegionTrace, start: list[Value], slices: list[Value], results: list[Value], **attrs: Any
) -> tuple[Sequence[Value], Sequence[Value]]:
    """The node; its last carries and its stacks. Variables that a step assigns to are carries."""
    changed = step.assigned
    steady = ordered(step.read_variables, changed)
    count = len(start)
    with step:
        results = [*results[:count], *map_(read, changed), *results[count:]]
    outside = step.outside(results)
    inputs = [*step.inputs[:count], *changed, *step.inputs[count:], *steady, *outside]
    outputs = primitive("scan").all(
        *start, *map_(read, changed), *slices, *map_(read, steady), *outside,
        body=step.close(results, inputs), carry=count + len(changed), stacked=len(slices), **attrs,
    )  # fmt: skip
    end = count + len(changed)
    for variable, value in zip(changed, outputs[count:end], strict=True):
        write(variable, value)
    return outputs[:count], outputs[end:]


@closing
@operation
def map(f: Callable[..., Any], xs: Any) -> Any:
    """`f` of each slice of `xs` along the first axis, one after the other, stacked.

    Parameters
    ----------
    f : callable
        `f(x)` -> a tensor or a nest of tensors.
    xs : tensor or nest of tensors
        All of one size along the first axis.

    Examples
    --------
    >>> ops.map(lambda x: x * 2, np.arange(3))
    array([0, 2, 4])
    """
    require_callable("map", f=f)
    return scan(lambda carry, x: (carry, f(x)), (), xs)[1]


# --- loops that end by a condition -----------------------------------------------------------


@closing
@operation
def while_loop(
    cond: Callable[..., Any],
    body: Callable[..., Any],
    loop_vars: Any,
    maximum_iterations: Any = None,
) -> Any:
    """Run `loop_vars = body(*loop_vars)` as long as `cond(*loop_vars)` holds.

    There is no gradient, since nobody knows how many steps to store; forward mode works.

    Parameters
    ----------
    cond : callable
        `cond(*loop_vars)` -> a truth value.
    body : callable
        `body(*loop_vars)` -> the new ones, of the same types.
    loop_vars : tuple or list of nests of tensors, or one tensor
    maximum_iterations : int, optional
        The loop ends after so many steps at the latest.

    Returns
    -------
    tuple
        The last loop variables; without a tuple if there was none.

    Examples
    --------
    >>> ops.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x * 2.0), (0, 1.0))
    (array(3, dtype=int32), array(8., dtype=float32))
    """
    require_callable("while_loop", cond=cond, body=body)
    several = isinstance(loop_vars, list | tuple)
    first = _values(tuple(loop_vars) if several else (loop_vars,))
    limit = None if maximum_iterations is None else tensor(maximum_iterations, i32)
    types = _types(first)
    counter = () if limit is None else (i32(),)
    condition = RegionTrace.of("condition", lambda given, *_: cond(*given), types, *counter)
    step = RegionTrace.of("step", lambda given, *_: body(*given), types, *counter)
    if condition.assigned:
        raise ArgumentError(f"while_loop: cond must not assign to variables, it assigns to "
                            f"{condition.assigned[0].path!r}")  # fmt: skip
    with condition:
        goes_on = _predicate("while_loop: cond must return", condition.result)
        if limit is not None:
            goes_on = goes_on & (condition.inputs[-1] < limit)
    with step:
        result = step.result if several else (step.result,)
        if isinstance(result, list):
            result = tuple(result)
        new = _kept("while_loop", "loop_vars", first, result)
        new += [step.inputs[-1] + 1] if limit is not None else []
    start = _flat(first) + ([tensor(0, i32)] if limit is not None else [])
    last = _emit_while(condition, goes_on, step, start, new)
    packed = _pack(first, last)
    return packed if several else packed[0]


def _emit_while(
    condition: RegionTrace, goes_on: Value, step: RegionTrace, start: list[Value], new: list[Value]
) -> Sequence[Value]:
    """The node's carries. Variables that a step assigns to are carries."""
    changed = step.assigned
    steady = ordered([*step.read_variables, *condition.read_variables], changed)
    with step:
        results = [*new, *map_(read, changed)]
    outside = ordered([*step.outside(results), *condition.outside([goes_on])])
    last = primitive("while").all(
        *start, *map_(read, changed), *map_(read, steady), *outside,
        condition=condition.close([goes_on], [*condition.inputs, *changed, *steady, *outside]),
        body=step.close(results, [*step.inputs, *changed, *steady, *outside]),
        carry=len(results),
    )  # fmt: skip
    for variable, value in zip(changed, last[len(start) :], strict=True):
        write(variable, value)
    return last[: len(start)]


def _predicate(what: str, x: Any) -> Value:
    value = tensor(x, boolean)
    if value.ndim:
        raise ShapeError(f"{what} a scalar, got {value.type}")
    return value


@closing
@operation
def fori_loop(lower: Any, upper: Any, body_fun: Callable[..., Any], init_val: Any) -> Any:
    """`val = body_fun(i, val)` for `i` in `lower`, `lower + 1`, ..., `upper - 1`.

    Where both ends are known when the function is traced, it is a `scan` and has a gradient;
    else it is a `while_loop`.

    Parameters
    ----------
    lower, upper : int or integer tensor
    body_fun : callable
        `body_fun(i, val)` -> the new val, of the types of the old one.
    init_val : tensor or nest of tensors

    Examples
    --------
    >>> ops.fori_loop(1, 5, lambda i, total: total + i, 0)
    array(10, dtype=int32)
    """
    require_callable("fori_loop", body_fun=body_fun)
    begin, end = tensor(lower), tensor(upper)
    if not (begin.dtype.is_integer and end.dtype.is_integer) or begin.ndim or end.ndim:
        raise ShapeError("fori_loop: lower and upper must be integer scalars, got "
                         f"{begin.type} and {end.type}")  # fmt: skip
    if begin.is_constant and end.is_constant:
        steps = max(0, int(end) - int(begin))
        start = (begin, init_val)
        return scan(lambda c, _: ((c[0] + 1, body_fun(*c)), None), start, length=steps)[0][1]
    begin, end = sugar.common(begin, end)
    start = (begin, init_val)
    return while_loop(lambda i, _: i < end, lambda i, val: (i + 1, body_fun(i, val)), start)[1]


# --- branches --------------------------------------------------------------------------------


@closing
@operation
def cond(pred: Any, true_fn: Callable[[], Any], false_fn: Callable[[], Any]) -> Any:
    """`true_fn()` if the scalar `pred` is true, else `false_fn()`.

    Where `pred` is known only when the graph runs, both are traced and one runs. What they assign
    to variables is kept of the one that ran.

    Parameters
    ----------
    pred : bool or scalar tensor
    true_fn, false_fn : callable
        Without arguments; both return nests of the same structure and types.

    Raises
    ------
    ShapeError
        If the two return different structures or types.

    Examples
    --------
    >>> ops.cond(np.array(3) > 2, lambda: 1.0, lambda: 0.0)
    1.0
    """
    require_callable("cond", true_fn=true_fn, false_fn=false_fn)
    predicate = _predicate("cond: pred must be", pred)
    if predicate.is_constant:
        return true_fn() if bool(predicate) else false_fn()
    traces = (RegionTrace.of("then", true_fn), RegionTrace.of("otherwise", false_fn))
    first, second = (t.result for t in traces)
    if _skeleton(first) != _skeleton(second):
        raise ShapeError(f"cond: the branches must return alike, got {_shown(first)} "
                         f"and {_shown(second)}")  # fmt: skip
    pairs = [
        _both(traces, path, a, b)
        for (path, a), b in zip(_paths(first, "result"), tree.leaves(second), strict=True)
        if a is not None
    ]
    changed = ordered(v for t in traces for v in t.assigned)
    results = []
    for i, trace in enumerate(traces):
        with trace:
            results.append([*(pair[i] for pair in pairs), *map_(read, changed)])
    variables = ordered(v for t in traces for v in t.read_variables)
    outside = ordered(v for t, r in zip(traces, results, strict=True) for v in t.outside(r))
    then, otherwise = (
        t.close(r, [*variables, *outside]) for t, r in zip(traces, results, strict=True)
    )
    chosen = primitive("cond").all(predicate, *map_(read, variables), *outside,
                                   then=then, otherwise=otherwise)  # fmt: skip
    for variable, value in zip(changed, chosen[len(pairs) :], strict=True):
        write(variable, value)
    return _pack(first, chosen[: len(pairs)])


def _both(traces: Sequence[RegionTrace], path: str, a: Any, b: Any) -> tuple[Value, Value]:
    """The two values of a leaf; of Python numbers beside tensors the tensors say the dtype."""
    values = []
    for trace, x, other in zip(traces, (a, b), (b, a), strict=True):
        with trace:
            both = is_number(x) and is_number(other)
            wanted = tensor(other).type
            value = _like(x, wanted)
            if both:
                value = value.astype(promote(value.dtype, wanted.dtype))
            values.append(value)
    if values[0].type != values[1].type:
        raise ShapeError(f"cond: {path} must be of one type, got {values[0].type} "
                         f"and {values[1].type}")  # fmt: skip
    return values[0], values[1]


@closing
@operation
def switch(index: Any, branches: Sequence[Callable[..., Any]], *operands: Any) -> Any:
    """`branches[index](*operands)`; an index beside the list takes the nearest branch.

    The branch is found by halves: `log2(len(branches))` comparisons.

    Parameters
    ----------
    index : int or integer scalar tensor
    branches : sequence of callables
        All return nests of the same structure and types.
    *operands : tensors or nests of tensors

    Examples
    --------
    >>> ops.switch(1, [lambda x: x, lambda x: -x], np.array([1, 2]))
    array([-1, -2])
    """
    if not branches:
        raise ArgumentError("switch: branches must not be empty")
    require_callable("switch", **{f"branches[{i}]": branch for i, branch in enumerate(branches)})
    at = tensor(index)
    if at.ndim or not at.dtype.is_integer:
        raise ShapeError(f"switch: index must be an integer scalar, got {at.type}")
    values = _values(operands)

    def choose(low: int, high: int) -> Any:
        if high - low == 1:
            return branches[low](*values)
        middle = (low + high) // 2
        return cond(at < middle, lambda: choose(low, middle), lambda: choose(middle, high))

    return choose(0, len(branches))


# --- many at once ----------------------------------------------------------------------------


@closing
@operation
def vectorized_map(function: Callable[..., Any], elements: Any) -> Any:
    """`function` of each slice of `elements` along the first axis, all at once, stacked.

    The function is traced once for one slice, then its ops get an axis more: it costs what the
    same ops cost on so many elements. Ops that cannot take an axis more (`while_loop`, random
    numbers) run one slice after the other, inside. Where a slice decides a `cond`, both branches
    run for all. `map` runs everything one after the other, in less memory.

    Parameters
    ----------
    function : callable
        `function(slices)`; it must not assign to variables.
    elements : tensor or nest of tensors
        All of one size along the first axis.

    Examples
    --------
    >>> ops.vectorized_map(lambda x: x * 2, np.arange(3))
    array([0, 2, 4])
    """
    require_callable("vectorized_map", function=function)
    given = _values(elements)
    leaves = _flat(given)
    size = _length("vectorized_map: elements", leaves, None)
    trace = RegionTrace.of("example", function, tree.map_structure(_slice, given))
    if trace.assigned:
        raise ArgumentError(
            f"vectorized_map: function must not assign to variables, it assigns to "
            f"{trace.assigned[0].path!r}", hint="map runs one after the other"
        )  # fmt: skip
    with trace:
        result = _values(trace.result)
    outside, variables = trace.outside(_flat(result)), trace.read_variables
    graph = trace.close(_flat(result), [*trace.inputs, *variables, *outside])
    arguments = [*leaves, *map_(read, variables), *outside]
    many = [i < len(leaves) for i in range(len(arguments))]
    return _pack(result, batch(graph, arguments, many, size))


@closing
@operation
def associative_scan(
    f: Callable[..., Any], elems: Any, reverse: bool = False, axis: int = 0
) -> Any:
    """All prefixes of `elems` along `axis`, combined with an associative `f`, in log2(n) rounds.

    A round combines pairs of slices in one call, so that `f` gets several at once: about `2 n`
    combinations in all.

    Parameters
    ----------
    f : callable
        `f(a, b)` -> the combination; a and b are nests like `elems`, of some of its slices.
    elems : tensor or nest of tensors
        All of one known size along `axis`.
    reverse : bool
        Combine from the end: `a` then stands after `b`.

    Examples
    --------
    >>> ops.associative_scan(lambda a, b: a * b, np.arange(1, 5))
    array([ 1,  2,  6, 24])
    """
    require_callable("associative_scan", f=f)
    first = _values(elems)
    leaves = _flat(first)
    axes = [sugar.normalize_axis("associative_scan", axis, x.ndim) for x in leaves]
    sizes = {x.shape[a] for x, a in zip(leaves, axes, strict=True)}
    if len(sizes) != 1 or not all(isinstance(size, int) for size in sizes):
        raise ShapeError(f"associative_scan: elems must have one known size along axis {axis}, "
                         f"got {', '.join(str(x.type) for x in leaves)}")  # fmt: skip

    def part(xs: Sequence[Value], *key: Any) -> list[Value]:
        return [x[(slice(None),) * a + (slice(*key),)] for x, a in zip(xs, axes, strict=True)]

    def combine(xs: Sequence[Value], ys: Sequence[Value]) -> list[Value]:
        return _flat(_values(f(_pack(first, xs), _pack(first, ys))))

    def prefixes(xs: list[Value]) -> list[Value]:
        count = int(xs[0].shape[axes[0]])
        if count < 2:
            return xs
        odd = prefixes(combine(part(xs, 0, count - 1, 2), part(xs, 1, None, 2)))
        left = odd if count % 2 else part(odd, 0, -1)
        even = combine(left, part(xs, 2, None, 2)) if count > 2 else []
        even = [
            primitive("concat")(x, y, axis=a)
            for x, y, a in zip(part(xs, 0, 1), even or part(xs, 0, 0), axes, strict=True)
        ]
        return [_interleaved(x, y, a) for x, y, a in zip(even, odd, axes, strict=True)]

    def turned(xs: Sequence[Value]) -> list[Value]:
        if not reverse:
            return list(xs)
        return [primitive("reverse")(x, axes=(a,)) for x, a in zip(xs, axes, strict=True)]

    return _pack(first, turned(prefixes(turned(leaves))))


def _interleaved(even: Value, odd: Value, axis: int) -> Value:
    """Slices of the one and the other in turn; `even` may have one more."""
    pairs, shape = int(odd.shape[axis]), odd.shape
    before = (slice(None),) * axis
    columns = (*shape[: axis + 1], 1, *shape[axis + 1 :])
    both = primitive("concat")(
        sugar.reshape(even[(*before, slice(0, pairs))], columns), sugar.reshape(odd, columns),
        axis=axis + 1,
    )  # fmt: skip
    result = sugar.reshape(both, (*shape[:axis], 2 * pairs, *shape[axis + 1 :]))
    rest = even[(*before, slice(pairs, None))]
    return primitive("concat")(result, rest, axis=axis) if rest.shape[axis] else result


__all__ = [
    "associative_scan",
    "cond",
    "fori_loop",
    "map",
    "scan",
    "switch",
    "vectorized_map",
    "while_loop",
]
