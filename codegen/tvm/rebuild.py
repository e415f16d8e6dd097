"""Statements rewritten from within."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx


def rebuilt(statement: tirx.Stmt, rewrite: Callable[[tirx.Stmt], tirx.Stmt]) -> tirx.Stmt:
    """A statement with the statements in it rewritten; itself if that changes none of them.

    `type` is compared, for `isinstance` is slow for classes of TVM.
    """
    kind = type(statement)
    if kind is tirx.SeqStmt:
        items = list(statement.seq)
        parts = [rewrite(item) for item in items]
        same = all(a is b for a, b in zip(items, parts, strict=True))
        return statement if same else tirx.SeqStmt(parts)
    if kind is tirx.IfThenElse:
        then, otherwise = statement.then_case, statement.else_case
        new, other = rewrite(then), None if otherwise is None else rewrite(otherwise)
        same = new is then and other is otherwise
        return statement if same else tirx.IfThenElse(statement.condition, new, other)
    if kind not in (tirx.For, tirx.AttrStmt, tirx.While):
        return statement
    inside = statement.body
    body = rewrite(inside)
    if body is inside:
        return statement
    if kind is tirx.For:
        return tirx.For(statement.loop_var, statement.min, statement.extent, statement.kind, body)
    if kind is tirx.While:
        return tirx.While(statement.condition, body)
    return tirx.AttrStmt(statement.node, statement.attr_key, statement.value, body)
