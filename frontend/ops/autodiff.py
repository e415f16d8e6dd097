"""Derivatives of functions over `ops`, and functions with a derivative of their own.

Each works in three places: on arrays it is evaluated at once; while a graph is traced it emits
into that graph; on symbolic tensors it becomes a node of the layer graph.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from ...ir import autodiff, sugar
from ...ir.builder import constant, current
from ...ir.errors import ArgumentError, GradientError
from ...ir.graph import Value, outline, reachable
from ...ir.op import get as primitive
from .. import tree
from ..closures import require_callable
from ..eager_trace import EagerTrace
from ..keras_tensor import CallNode, is_symbolic
from ..operation import OpCall, evaluate_symbolically
from ..operators import is_number
from ..variable import Variable
from .core import tensor

# --- public: gradients -----------------------------------------------------------------------


def grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns the gradient of `f`, which returns a scalar.

    Parameters
    ----------
    f : callable
        Written over `ops`, layers and variables. With `has_aux` it returns a pair of the scalar
        and of anything that comes along.
    argnums : int or sequence of int
        The positional arguments to differentiate by: floating-point tensors, variables, or nests
        of them.
    has_aux : bool

    Returns
    -------
    callable
        With the arguments of `f`. It returns what `argnums` names in the structure of those
        arguments (for a sequence a tuple), with `has_aux` a pair of that and of what came along.
        Where `f` does not depend on an argument, the gradient is zeros.

    Raises
    ------
    GradientError
        When it is called: if `f` returns no floating-point scalar, an argument is no
        floating-point tensor, or an op on the way has no derivative.

    Examples
    --------
    >>> hornfels.grad(lambda x: ops.sum(x * x))(np.array([1.0, 2.0], "float32"))
    array([2., 4.], dtype=float32)
    """

    def body(*args: Any, **kwargs: Any) -> Any:
        (_, aux), grads = _value_and_grad("grad", f, argnums, has_aux, args, kwargs)
        return (grads, aux) if has_aux else grads

    return _transformed(body, f)


def value_and_grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """As `grad`, but the function returns a pair: what `f` returns, and the gradient.

    Examples
    --------
    >>> loss, dw = hornfels.value_and_grad(lambda w: ops.mean(ops.square(x @ w - y)))(w)
    """

    def body(*args: Any, **kwargs: Any) -> Any:
        (value, aux), grads = _value_and_grad("value_and_grad", f, argnums, has_aux, args, kwargs)
        return ((value, aux) if has_aux else value), grads

    return _transformed(body, f)


def vjp(f: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """What `f` returns at `primals`, and a function that takes cotangents back.

    Parameters
    ----------
    f : callable
        Of tensors or nests of them.
    primals : tensors or nests of them
        Floating point.
    has_aux : bool
        Whether `f` returns a pair of its outputs and of anything that comes along.

    Returns
    -------
    outputs, pullback[, aux]
        `pullback(cotangents)`, of the structure of the outputs, returns a tuple with one
        cotangent for each primal, in its structure. It may be called several times, and on
        arrays it does not compute `f` again. None in place of a cotangent is zero.

    Raises
    ------
    GradientError
        If a primal is not floating point, or an op on the way has no derivative.

    Examples
    --------
    >>> y, pullback = hornfels.vjp(ops.sin, x)
    >>> (dx,) = pullback(ops.ones_like(y))
    """
    require_callable("vjp", f=f)
    if is_symbolic(primals):
        raise ArgumentError(
            "vjp: takes arrays or traced tensors, got a symbolic tensor",
            hint="call it in a layer's call, or in a function given to hornfels.compile",
        )
    builder = current()
    if builder is not None and not builder.eager:
        result, leaves, outputs = _linearized("vjp", f, primals, has_aux)

        def pull(cotangents: Any) -> tuple[Any, ...]:
            return _pull(leaves, outputs, cotangents)

        return (result[0], pull, result[1]) if has_aux else (result[0], pull)
    with EagerTrace("vjp") as trace:
        result, leaves, outputs = _linearized("vjp", f, primals, has_aux)
    found = trace.arrays(result)
    trace.store()

    def pull_arrays(cotangents: Any) -> tuple[Any, ...]:
        with trace:
            shares = _pull(leaves, outputs, cotangents)
        return tuple(_results(trace.arrays(shares)))

    return (_results(found[0]), pull_arrays, *(_results(found[1:]) if has_aux else ()))


def jvp(
    fun: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False
) -> Any:
    """What `fun` returns at `primals`, and its derivative in the direction of `tangents`.

    Parameters
    ----------
    fun : callable
        Of tensors or nests of them.
    primals : tuple
        The arguments of `fun`.
    tangents : tuple
        The direction: of the structure of `primals`, with None for zero. An argument that is not
        floating point does not move.
    has_aux : bool
        Whether `fun` returns a pair of its outputs and of anything that comes along.

    Returns
    -------
    outputs, tangents[, aux]
        The tangents have the structure of the outputs.

    Raises
    ------
    ArgumentError
        If the structures of primals and tangents differ.
    GradientError
        If something moves that is not floating point, or an op on the way has no derivative.

    Examples
    --------
    >>> y, dy = ops.jvp(ops.sin, (x,), (v,))     # dy is cos(x) * v
    """
    for name, given in (("primals", primals), ("tangents", tangents)):
        if not isinstance(given, list | tuple):
            raise ArgumentError(f"jvp: {name} must be a tuple, got {type(given).__name__}")

    def body(primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
        result, moved = _jvp("jvp", fun, primals, tangents, has_aux)
        return (result[0], moved, result[1]) if has_aux else (result[0], moved)

    return _transformed(body, fun)(primals, tangents)


def hessian_vector_product(
    f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]
) -> Any:
    """The Hessian of a scalar function times a vector, forward over backward.

    It costs a few times what the gradient does; the Hessian itself is never there.

    Parameters
    ----------
    f : callable
        Returns a floating-point scalar.
    primals : tuple
        The arguments of `f`, all of which are differentiated by.
    tangents : tuple
        The vector: of the structure of `primals`.

    Returns
    -------
    tuple
        Of the structure of `primals`.

    Examples
    --------
    >>> (hv,) = hornfels.hessian_vector_product(loss, (w,), (v,))
    """
    if not isinstance(primals, list | tuple):
        raise ArgumentError("hessian_vector_product: primals must be a tuple, got "
                            f"{type(primals).__name__}")  # fmt: skip
    gradient = grad(f, tuple(range(len(primals))))
    return jvp(gradient, primals, tangents)[1]


# --- public: a gradient of one's own ---------------------------------------------------------


def custom_gradient(f: Callable[..., Any]) -> Callable[..., Any]:
    """A function with a gradient of its own, as a decorator.

    Parameters
    ----------
    f : callable
        `f(*args)` returns a pair: the output, a tensor or a nest of them, and `grad_fn`, which
        takes the cotangents in the structure of the output and returns those of the arguments:
        one if there is one argument, else a tuple with one for each tensor among them, None
        where there is none. If `grad_fn` has a keyword-only argument `upstream`, it gets the
        cotangents in that, after the arguments.

    Returns
    -------
    callable
        Returns what `f(*args)[0]` is. Variables among the arguments take part like tensors. A
        tensor or variable that `f` uses and that is none of its arguments has no gradient, and
        asking for one is an error.

    Examples
    --------
    >>> @ops.custom_gradient
    ... def log1pexp(x):
    ...     e = ops.exp(x)
    ...     def grad(upstream):
    ...         return upstream * (1.0 - 1.0 / (1.0 + e))
    ...     return ops.log(1.0 + e), grad
    """

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        if is_symbolic((args, kwargs)):
            outputs = evaluate_symbolically(call, args, kwargs)
            CallNode(OpCall(call), args, kwargs, outputs)
            return outputs
        builder = current()
        if builder is None or builder.eager:
            read = tree.map_structure(_read, (args, kwargs))
            return f(*read[0], **read[1])[0]
        return _with_rule(f, args, kwargs)

    return call


# --- where a derivative runs -----------------------------------------------------------------


def _transformed(body: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """A body over Values as a function on arrays, traced and symbolic tensors."""
    require_callable("derivatives", function=function)

    def call(*args: Any, **kwargs: Any) -> Any:
        if is_symbolic((args, kwargs)):
            outputs = evaluate_symbolically(body, args, kwargs)
            CallNode(OpCall(call), args, kwargs, outputs)
            return outputs
        builder = current()
        if builder is not None and not builder.eager:
            return body(*args, **kwargs)
        with EagerTrace() as trace:
            outputs = body(*args, **kwargs)
        found = trace.arrays(outputs)
        trace.store()
        return _results(found)

    functools.update_wrapper(call, function, updated=())
    return call


def _results(arrays: Any) -> Any:
    """Arrays as the surrounding code takes them: constants where an op is evaluated eagerly."""
    if current() is None:
        return arrays
    return tree.map_structure(lambda x: x if x is None else constant(x), arrays)


# --- the derivatives over Values -------------------------------------------------------------


def _read(x: Any) -> Any:
    return x.value if isinstance(x, Variable) else x


def _primal(name: str, x: Any) -> Any:
    """A copy of a floating-point argument: the derivative is by this use of it alone."""
    if x is None:
        return None
    v = tensor(x)
    if not v.dtype.is_float:
        raise GradientError(
            f"{name}: what is differentiated by must be floating point, got {v.type}",
            hint="cast it, or choose other arguments",
        )
    return primitive("reshape")(v, shape=v.shape)


def _split(name: str, result: Any, has_aux: bool) -> tuple[Any, Any]:
    """What a function returns and what comes along."""
    if not has_aux:
        return result, None
    if not isinstance(result, tuple) or len(result) != 2:
        raise ArgumentError(f"{name}: with has_aux the function must return a pair, got {result!r}")
    return result


def _values(structure: Any) -> list[Value]:
    return [v for v in tree.leaves(structure) if v is not None]


def _refill(structure: Any, flat: Sequence[Any]) -> Any:
    """The structure with its leaves replaced by those of `flat`, except None."""
    following = iter(flat)
    return tree.map_structure(lambda v: None if v is None else next(following), structure)


def _value_and_grad(
    name: str, f: Callable[..., Any], argnums: int | Sequence[int], has_aux: bool,
    args: Sequence[Any], kwargs: dict[str, Any],
) -> tuple[tuple[Any, Any], Any]:  # fmt: skip
    positions = list(argnums) if isinstance(argnums, list | tuple) else [argnums]
    for i in positions:
        if not isinstance(i, int) or not -len(args) <= i < len(args):
            raise ArgumentError(f"{name}: argnums must name positional arguments, "
                                f"got {i!r} for {len(args)} of them")  # fmt: skip
    positions = [i % len(args) for i in positions]
    args = list(args)
    given = [x for i in positions for x in tree.leaves(args[i]) if x is not None]
    for i in dict.fromkeys(positions):
        args[i] = tree.map_structure(lambda x: _primal(name, x), args[i])
    value, aux = _split(name, f(*args, **kwargs), has_aux)
    loss = tensor(value)
    if loss.shape != () or not loss.dtype.is_float:
        raise GradientError(
            f"{name}: the function must return a floating-point scalar, got {loss.type}",
            hint="reduce it with ops.sum or ops.mean, or use vjp or jvp",
        )
    wrt = [args[i] for i in positions]
    leaves = _values(wrt)
    found = autodiff.gradients(loss, leaves)
    _refuse_bypassed(name, given, found, loss)
    grads = tuple(_refill(wrt, _or_zeros(found, leaves)))
    return (loss, aux), grads if isinstance(argnums, list | tuple) else grads[0]


def _refuse_bypassed(
    name: str, given: Sequence[Any], found: Sequence[Value | None], loss: Value
) -> None:
    """Refuse a variable that the function reads itself, as a layer's does: zeros would be wrong."""
    unused = {
        tensor(x): x
        for x, g in zip(given, found, strict=True)
        if g is None and isinstance(x, Variable)
    }
    if not unused:
        return
    for v in (loss, *(v for node in reachable([loss]) for v in node.inputs)):
        if v in unused:
            raise GradientError(
                f"{name}: the function reads variable {unused[v].path!r} itself and not the "
                "argument, which alone is differentiated by",
                hint="use the argument, or hornfels.gradients(loss, variables)",
            )


def _or_zeros(found: Sequence[Value | None], like: Sequence[Value]) -> list[Value]:
    return [sugar.zeros_like(v) if g is None else g for g, v in zip(found, like, strict=True)]


def _linearized(
    name: str, f: Callable[..., Any], primals: Sequence[Any], has_aux: bool
) -> tuple[tuple[Any, Any], Any, Any]:
    """What `f` returns, the primals as it saw them, and its outputs."""
    copies = tree.map_structure(lambda x: _primal(name, x), tuple(primals))
    outputs, aux = _split(name, f(*copies), has_aux)
    outputs = tree.map_structure(lambda x: None if x is None else tensor(x), outputs)
    return (outputs, aux), copies, outputs


def _pull(primals: Any, outputs: Any, cotangents: Any) -> tuple[Any, ...]:
    given = _aligned("vjp", "cotangents", cotangents, "outputs", outputs)
    flat = _values(outputs)
    incoming = [None if g is None else tensor(g, v.dtype) for g, v in zip(given, flat, strict=True)]
    leaves = _values(primals)
    found = autodiff.pullback(flat, leaves, incoming)
    return tuple(_refill(primals, _or_zeros(found, leaves)))


def _aligned(name: str, what: str, given: Any, like_what: str, like: Any) -> list[Any]:
    """The leaves of `given` beside those of `like`; None stands for a whole part."""
    if given is None:
        return [None] * len(_values(like))
    if isinstance(like, dict | list | tuple):
        keys = list(like) if isinstance(like, dict) else range(len(like))
        if type(given) is not type(like) or len(given) != len(like) or (
            isinstance(like, dict) and set(given) != set(like)
        ):  # fmt: skip
            raise ArgumentError(f"{name}: {what} must have the structure of the {like_what}")
        return [x for k in keys for x in _aligned(name, what, given[k], like_what, like[k])]
    return [] if like is None else [given]


def _jvp(
    name: str, f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool
) -> tuple[tuple[Any, Any], Any]:
    args = tree.map_structure(lambda x: None if x is None else tensor(x), tuple(primals))
    given = _aligned(name, "tangents", tuple(tangents), "primals", args)
    pairs = list(zip(_values(args), given, strict=True))
    copies = [v if t is None else _primal(name, v) for v, t in pairs]
    outputs, aux = _split(name, f(*_refill(args, copies)), has_aux)
    outputs = tree.map_structure(lambda x: None if x is None else tensor(x), outputs)
    flat = _values(outputs)
    directions = [None if t is None else tensor(t, v.dtype) for v, t in pairs]
    found = autodiff.jvp(flat, copies, directions)
    return (outputs, aux), _refill(outputs, _or_zeros(found, flat))


# --- custom gradients over Values ------------------------------------------------------------


def _with_rule(f: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Trace `f` and its rule, and join the two in a `custom_gradient` node."""
    builder = current()
    assert builder is not None
    args = tree.map_structure(_argument, args)
    arguments = [x for x in tree.leaves(args) if _is_tensor_like(x)]
    with builder.record() as made:
        found = f(*args, **tree.map_structure(_read, kwargs))
    if not isinstance(found, tuple) or len(found) != 2 or not callable(found[1]):
        raise ArgumentError("custom_gradient: the function must return a pair of its output and "
                            f"a function of the cotangents, got {found!r}")  # fmt: skip
    structure, rule = found
    outputs = [tensor(x) for x in tree.leaves(structure)]
    unknown = {v: Value(v.type, name=f"upstream{i}") for i, v in enumerate(outputs)}
    upstream = [unknown[v] if v.dtype.is_float else sugar.zeros_like(v) for v in outputs]
    grads = _call_rule(rule, args, tree.pack_like(structure, upstream))
    shares = _shares(grads, arguments)
    cotangents = [unknown[v] for v in outputs if v.dtype.is_float]
    residuals = _residuals(shares.values(), cotangents)
    backward = outline(
        "backward",
        {v: f"r{i}" for i, v in enumerate(residuals)} | {v: v.name for v in cotangents},
        {f"d{i}": share for i, share in shares.items()},
    )
    tensors = [x if isinstance(x, Value) else tensor(x) for x in arguments]
    closed = _closed_over(made, outputs, tensors)
    results = primitive("custom_gradient").all(
        *outputs, *residuals, *tensors, *closed, backward=backward, outputs=len(outputs),
        residuals=len(residuals), arguments=len(tensors), wrt=tuple(shares),
    )  # fmt: skip
    return tree.pack_like(structure, list(results))


def _is_tensor_like(x: Any) -> bool:
    return isinstance(x, Value) or is_number(x)


def _argument(x: Any) -> Any:
    """Arrays and variables as Values; numbers stay weak, None and words what they are."""
    if x is None or isinstance(x, str | bytes) or is_number(x):
        return x
    return tensor(x)


def _call_rule(rule: Callable[..., Any], args: Any, upstream: Any) -> Any:
    try:
        parameters = inspect.signature(rule).parameters
    except (TypeError, ValueError):
        return rule(upstream)
    found = parameters.get("upstream")
    if found is not None and found.kind is inspect.Parameter.KEYWORD_ONLY and (
        found.default is inspect.Parameter.empty
    ):  # fmt: skip
        return rule(*args, upstream=upstream)
    return rule(upstream)


def _shares(grads: Any, arguments: Sequence[Any]) -> dict[int, Value]:
    """The cotangents of arguments by position, as far as there are any, in their types."""
    flat = tree.flatten(grads)
    if len(flat) != len(arguments):
        raise ArgumentError(
            f"custom_gradient: there must be one gradient for each of the {len(arguments)} "
            f"arguments, got {len(flat)}"
        )
    shares = {}
    for i, (g, x) in enumerate(zip(flat, arguments, strict=True)):
        if g is None or not isinstance(x, Value) or not x.dtype.is_float:
            continue
        share = tensor(g, x.dtype)
        if share.shape != x.shape:
            raise GradientError(f"custom_gradient: the gradient of argument {i} must be {x.type}, "
                                f"got {share.type}")  # fmt: skip
        shares[i] = share
    return shares


def _residuals(shares: Any, cotangents: Sequence[Value]) -> list[Value]:
    """What the rule reads that does not depend on the cotangents, constants left out."""
    inside = set(cotangents)
    nodes = reachable(shares)
    for node in nodes:
        if any(v in inside for v in node.inputs):
            inside.update(node.outputs)
    read = [v for node in nodes if node.outputs[0] in inside for v in node.inputs]
    return tree.unique(v for v in [*read, *shares] if v not in inside and not v.is_constant)


def _closed_over(made: Any, outputs: Sequence[Value], arguments: Sequence[Value]) -> list[Value]:
    """Floating-point values that the function read although they are none of its arguments."""
    own = {v for node in made for v in node.outputs} | set(arguments)
    needed = set(reachable(outputs, set(arguments)))
    read = [v for node in made if node in needed for v in node.inputs]
    return tree.unique(v for v in [*read, *outputs] if v.dtype.is_float and v not in own
                       and not v.is_constant)  # fmt: skip


__all__ = ["custom_gradient", "jvp"]
