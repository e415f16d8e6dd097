"""Mutants: copies of a function, each with one small fault put into its source.

Swapped operands, another operator, a dropped sign, a constant that is off by one, a flag turned,
two results exchanged, a statement left out. A test suite that is worth its name refuses each.
"""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.MatMult: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}  # fmt: skip
_ORDERED = (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.MatMult)


@dataclass(frozen=True)
class Mutant:
    """A function with a fault, and what the fault is."""

    function: Callable[..., Any]
    fault: str


def mutants(function: Callable[..., Any], *, statements: bool = False) -> Iterator[Mutant]:
    """All mutants of a function; with `statements` those that leave one out."""
    tree = _tree_of(function)
    if tree is None:
        return
    count = len(_places(tree))
    for position in range(count):
        for kind in _KINDS if not statements else (_leave_out,):
            mutated = copy.deepcopy(tree)
            node = _places(mutated)[position]
            before = ast.unparse(node) if isinstance(node, ast.expr | ast.stmt) else ""
            after = kind(mutated, node)
            if after is None or after == before:
                continue
            made = _function(ast.fix_missing_locations(mutated), function)
            yield Mutant(made, f"{_short(before)} -> {_short(after)}")


_SAME = frozenset({
    "min", "max", "maximum", "minimum", "fmax", "swapaxes", "equal", "not_equal", "zip",
    "isinstance",
})  # fmt: skip
"""Functions whose arguments may change places, or that fail for any others at once."""

_PLAIN = frozenset({"strict", "copy"})
"""Flags of Python and NumPy that do not change a result."""


def _places(tree: ast.FunctionDef) -> list[ast.AST]:
    """The nodes of the body in which a fault is one: no annotations, no words of an error."""
    found: list[ast.AST] = []
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop(0)
        found.append(node)
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.arguments):
            continue
        if isinstance(node, ast.AnnAssign):
            pending += [node.value] if node.value else []
        elif not isinstance(node, ast.keyword) or node.arg not in _PLAIN:
            pending += ast.iter_child_nodes(node)
    return found


def _short(text: str) -> str:
    return " ".join(text.split())[:70]


def _tree_of(function: Callable[..., Any]) -> ast.FunctionDef | None:
    """The definition of a plain function that is written with `def`."""
    if not isinstance(function, FunctionType) or function.__name__ == "<lambda>":
        return None
    source = textwrap.dedent(inspect.getsource(function))
    (node,) = ast.parse(source).body
    if not isinstance(node, ast.FunctionDef):
        return None
    node.decorator_list = []
    if ast.get_docstring(node):
        node.body = node.body[1:] or [ast.Pass()]
    return node


def _function(tree: ast.FunctionDef, like: Any) -> Callable[..., Any]:
    """Compile a definition, in the place of a function: its globals, closure and defaults."""
    free = like.__code__.co_freevars
    outer = ast.parse(f"def outer({', '.join(free)}):\n    pass").body[0]
    assert isinstance(outer, ast.FunctionDef)
    outer.body = [_without_annotations(tree)]
    module = ast.fix_missing_locations(ast.Module([outer], []))
    code = compile(module, like.__code__.co_filename, "exec", dont_inherit=True)
    inner = _inner(_inner(code))
    cells = dict(zip(free, like.__closure__ or (), strict=True))
    closure = tuple(cells[name] for name in inner.co_freevars)
    made = FunctionType(inner, like.__globals__, like.__name__, like.__defaults__, closure)
    made.__kwdefaults__ = like.__kwdefaults__
    return made


def _without_annotations(tree: ast.FunctionDef) -> ast.FunctionDef:
    tree.returns = None
    arguments = tree.args
    for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs,
                 arguments.vararg, arguments.kwarg):  # fmt: skip
        if each is not None:
            each.annotation = None
    return tree


def _inner(code: CodeType) -> CodeType:
    return next(c for c in code.co_consts if isinstance(c, CodeType))


# --- faults ----------------------------------------------------------------------------------


def _other_operator(tree: ast.AST, node: ast.AST) -> str | None:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        node.op = _OPERATORS[type(node.op)]()
        return ast.unparse(node)
    return None


def _swapped_operands(tree: ast.AST, node: ast.AST) -> str | None:
    if isinstance(node, ast.BinOp) and isinstance(node.op, _ORDERED):
        node.left, node.right = node.right, node.left
        return ast.unparse(node)
    return None


def _swapped_arguments(tree: ast.AST, node: ast.AST) -> str | None:
    if isinstance(node, ast.Call) and len(node.args) > 1:
        called = ast.unparse(node.func).rpartition(".")[2]
        if called in _SAME or any(isinstance(a, ast.Starred) for a in node.args[:2]):
            return None
        node.args[0], node.args[1] = node.args[1], node.args[0]
        return ast.unparse(node)
    return None


def _turned_comparison(tree: ast.AST, node: ast.AST) -> str | None:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISONS:
        node.ops[0] = _COMPARISONS[type(node.ops[0])]()
        return ast.unparse(node)
    return None


def _other_constant(tree: ast.AST, node: ast.AST) -> str | None:
    if not isinstance(node, ast.Constant) or not isinstance(node.value, bool | int | float):
        return None
    if isinstance(node.value, bool):
        node.value = not node.value
    else:
        node.value += 1 if isinstance(node.value, int) else 0.25
    return ast.unparse(node)


def _dropped_sign(tree: ast.AST, node: ast.AST) -> str | None:
    for parent in ast.walk(tree):
        for name, field in ast.iter_fields(parent):
            items = field if isinstance(field, list) else [field]
            for i, item in enumerate(items):
                if item is node and isinstance(item, ast.UnaryOp):
                    if isinstance(field, list):
                        field[i] = item.operand
                    else:
                        setattr(parent, name, item.operand)
                    return ast.unparse(item.operand)
    return None


def _exchanged_results(tree: ast.AST, node: ast.AST) -> str | None:
    if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
        items = node.value.elts
        if len(items) > 1:
            items[0], items[1] = items[1], items[0]
            return ast.unparse(node)
    return None


def _leave_out(tree: ast.AST, node: ast.AST) -> str | None:
    """Without a check: a call that stands alone, or an `if` that only raises."""
    alone = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    raising = isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise) and not node.orelse
    if not (alone or raising):
        return None
    for parent in ast.walk(tree):
        for _, field in ast.iter_fields(parent):
            if isinstance(field, list) and node in field:
                field[field.index(node)] = ast.Pass()
                return "nothing"
    return None


_KINDS = (_other_operator, _swapped_operands, _swapped_arguments, _turned_comparison,
          _other_constant, _dropped_sign, _exchanged_results)  # fmt: skip
