"""A lint rule: no reduction in `analysis` may leave out NaN without saying so.

xarray and pandas leave NaN out of sums and means unless told otherwise, so that a sum over nothing is 0. What is
labelled cannot be known from the text alone; it is guessed from how the call looks: it names a dimension, or what it is
called on was looked up by name. Numpy's own reductions propagate NaN and are none of this rule's business, except its
`nan...` functions, which need a comment that begins "NaN:" on the same line.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

REDUCTIONS = {"sum", "mean", "std", "var", "median", "max", "min", "prod", "quantile", "cumsum", "cumprod"}
COUNTS = {"notnull", "isnull", "any", "all"}
LOOKED_UP = {"sel", "isel", "where", "groupby", "to_dataset", "reset_coords", "get", "need"}
PLAIN = {"values", "to_numpy", "item"}
ALLOWED = "# NaN:"


def bare_reductions(text: str) -> list[tuple[int, str]]:
    """(line, source) of every reduction of a source text that may leave out NaN silently."""
    lines = text.splitlines()
    found = []
    for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
        if _is_bare(call) and not any(ALLOWED in line for line in lines[call.lineno - 1 : call.end_lineno]):
            found.append((call.lineno, ast.unparse(call)))
    return sorted(found)


def _is_bare(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute):
        return False
    if call.func.attr.startswith("nan") and call.func.attr != "nan" and _is_numpy(call.func.value):
        return True
    if call.func.attr not in REDUCTIONS or _is_numpy(call.func.value):
        return False
    on = call.func.value
    if isinstance(on, ast.Call) and isinstance(on.func, ast.Attribute) and on.func.attr in COUNTS:
        return False
    given = {keyword.arg for keyword in call.keywords}
    if "skipna" in given or "axis" in given:
        return False
    if "dim" in given or any(map(_names_a_dimension, call.args[:1])):
        return True
    return not call.args and any(map(_is_looked_up, _chain(on)))


def _is_numpy(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("np", "numpy", "math")


def _names_a_dimension(argument: ast.expr) -> bool:
    """Of `.sum("ring")`, `.mean(("y", "x"))`, `.sum(spectrum.STATE)`, `.mean([dim for dim in ...])`."""
    if isinstance(argument, ast.Constant):
        return isinstance(argument.value, str)
    if isinstance(argument, ast.Tuple | ast.List):
        return any(map(_names_a_dimension, argument.elts))
    if isinstance(argument, ast.Attribute | ast.Name):
        return (argument.attr if isinstance(argument, ast.Attribute) else argument.id).isupper()
    return isinstance(argument, ast.ListComp | ast.GeneratorExp)


def _chain(node: ast.AST) -> Iterator[ast.AST]:
    """What a reduction is called on, inwards, as far as it is labelled: `.values` and numpy's functions end it."""
    if isinstance(node, ast.Attribute) and node.attr in PLAIN:
        return
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in PLAIN or _is_numpy(node.func.value):
            return
        yield node
        yield from _chain(node.func.value)
        return
    yield node
    if isinstance(node, ast.BinOp):
        yield from _chain(node.left)
        yield from _chain(node.right)
    elif isinstance(node, ast.Attribute | ast.Subscript):
        yield from _chain(node.value)


def _is_looked_up(node: ast.AST) -> bool:
    """Of `at["gain"]` and `.sel(...)`."""
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOOKED_UP
