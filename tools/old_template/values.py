# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds what an expression of Python stands for, as far as plain values tell: names, paths, f-strings. Nothing is run.

An unknown value is None. A text that is known in part has UNKNOWN in the place of the rest.
"""

from __future__ import annotations

import ast
import posixpath
from collections.abc import Callable, Iterator
from typing import Any

UNKNOWN = "\ue001"
MOST = 64  # sets of values that are tried for one call
DEEPEST = 12  # names of names of names
Bound = dict[str, Any]
Function = ast.FunctionDef | ast.AsyncFunctionDef
Elsewhere = Callable[[str, str], Any]  # returns what a name of another module of the app stands for


class Module:
    """The names of one module, and what they stand for."""

    def __init__(
        self,
        tree: ast.Module,
        file: str,
        cwd: str,
        elsewhere: Elsewhere = lambda _module, _name: None,
    ) -> None:
        """Read a module that is at `file` on the host; programs start in `cwd` there."""
        self.file, self.cwd, self.elsewhere = file, cwd, elsewhere
        self.tree = tree
        self.parents = {
            child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)
        }
        self.assigned: dict[ast.AST, dict[str, list[tuple[int, ast.expr]]]] = {}
        self.imported: dict[str, tuple[str, str]] = {}
        self.calls: dict[str, list[ast.Call]] = {}
        self.functions: dict[str, Function] = {}
        for node in ast.walk(tree):
            self.note(node)

    def note(self, node: ast.AST) -> None:
        """Note what gives a name its value."""
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self.give(target, node.value)
        elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
            self.give(node.target, node.value)
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            self.give(node.optional_vars, node.context_expr)
        elif isinstance(node, ast.For) and isinstance(node.target, ast.Name):
            self.give(node.target, node.iter)
        elif isinstance(node, ast.ImportFrom):
            self.imported |= {
                alias.asname or alias.name: (node.module or "", alias.name) for alias in node.names
            }
        elif isinstance(node, ast.Import):
            self.imported |= {alias.asname or alias.name: (alias.name, "") for alias in node.names}
        elif isinstance(node, ast.Call):
            self.calls.setdefault(dotted(node.func).rpartition(".")[2], []).append(node)
        elif isinstance(node, Function):
            self.functions[node.name] = node

    def give(self, target: ast.expr, value: ast.expr) -> None:
        """Note that a name, or an attribute of an object, gets a value."""
        name = dotted(target)
        scope = self.tree if "." in name else self.scope(target)
        if name:
            self.assigned.setdefault(scope, {}).setdefault(name, []).append((target.lineno, value))

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """Return what a part of the code is in, from the inside to the outside."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def scope(self, node: ast.AST) -> ast.AST:
        """Return the function, or the module, that a part of the code is in."""
        return next((above for above in self.above(node) if isinstance(above, Function)), self.tree)

    def expression(self, name: str, at: ast.AST) -> ast.expr | None:
        """Return the expression that a name was given last where it is used."""
        scope, line = self.scope(at), getattr(at, "lineno", 0)
        while True:
            given = self.assigned.get(scope, {}).get(name, [])
            # What a module gives later is there when one of its functions is called.
            before = [value for number, value in given if number <= line] or [
                value for _, value in given if line == 0
            ]
            if before:
                return before[-1]
            if scope is self.tree:
                return None
            scope = self.scope(scope)
            line = 0 if scope is self.tree else line

    # --- sets of values

    def bindings(self, node: ast.AST, depth: int = 0) -> list[Bound]:
        """Return the values that parameters and loops have where a part of the code is: a set for each call and round."""
        found: list[Bound] = [{}]
        for above in reversed(list(self.above(node))):
            if isinstance(above, Function):
                found = [outer | inner for outer in found for inner in self.called(above, depth)]
            loops = [above] if isinstance(above, ast.For) else getattr(above, "generators", [])
            for loop in loops:
                found = [bound for outer in found for bound in self.rounds(loop, outer)]
            found = found[:MOST]
        return found

    def called(self, function: Function, depth: int) -> list[Bound]:
        """Return the arguments of each call of a function within the module."""
        names = [one.arg for one in [*function.args.posonlyargs, *function.args.args]]
        defaults = dict(zip(reversed(names), reversed(function.args.defaults), strict=False))
        defaults |= {
            one.arg: value
            for one, value in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
            if value is not None
        }
        plain: Bound = {name: self.value(value) for name, value in defaults.items()}
        if names[:1] in (["self"], ["cls"]):
            names = names[1:]
        found = []
        for call in self.calls.get(function.name, []) if depth < 3 else []:
            for bound in self.bindings(call, depth + 1):
                given = {
                    name: self.value(value, bound)
                    for name, value in zip(names, call.args, strict=False)
                }
                given |= {one.arg: self.value(one.value, bound) for one in call.keywords if one.arg}
                found.append({**dict.fromkeys(names), **plain, **given})
        return found or [{**dict.fromkeys(names), **plain}]

    def rounds(self, loop: ast.For | ast.comprehension, outer: Bound) -> Iterator[Bound]:
        """Return the values of a loop's names in each round, as far as it goes over plain values."""
        over = self.value(loop.iter, outer)
        for one in over if isinstance(over, (list, tuple)) else [None]:
            names = loop.target.elts if isinstance(loop.target, ast.Tuple) else [loop.target]
            parts = (
                one
                if isinstance(loop.target, ast.Tuple) and isinstance(one, (list, tuple))
                else [one] * len(names)
            )
            yield outer | {dotted(name): part for name, part in zip(names, parts, strict=False)}

    # --- one value

    def value(self, node: ast.expr | None, bound: Bound | None = None, depth: int = 0) -> Any:
        """Return what an expression stands for."""
        action = getattr(self, f"_{type(node).__name__.lower()}", None)
        return action(node, bound or {}, depth + 1) if action and depth < DEEPEST else None

    def text(self, node: ast.expr | None, bound: Bound | None = None, depth: int = 0) -> str:
        """Return what an expression stands for as text, UNKNOWN where it is not known."""
        value = self.value(node, bound, depth)
        return str(value) if isinstance(value, (str, int, float)) and value is not True else UNKNOWN

    def _constant(self, node: ast.Constant, _bound: Bound, _depth: int) -> Any:
        return node.value

    def _name(self, node: ast.Name, bound: Bound, depth: int) -> Any:
        if node.id in bound:
            return bound[node.id]
        if node.id == "__file__":
            return self.file
        expression = self.expression(node.id, node)
        if expression is not None:
            return self.value(expression, bound, depth)
        return self.elsewhere(*self.imported[node.id]) if node.id in self.imported else None

    def _attribute(self, node: ast.Attribute, bound: Bound, depth: int) -> Any:
        name = dotted(node)
        if name in ("os.curdir", "os.sep", "os.pardir"):
            return {"os.curdir": ".", "os.sep": "/", "os.pardir": ".."}[name]
        if (expression := self.expression(name, node)) is not None:
            return self.value(expression, bound, depth)
        if node.attr in ("parent", "name", "stem") and (
            path := self.text(node.value, bound, depth)
        ):
            return {
                "parent": posixpath.dirname,
                "name": posixpath.basename,
                "stem": lambda one: posixpath.splitext(posixpath.basename(one))[0],
            }[node.attr](path)
        module = dotted(node.value)
        return (
            self.elsewhere(self.imported[module][0], node.attr) if module in self.imported else None
        )

    def _joinedstr(self, node: ast.JoinedStr, bound: Bound, depth: int) -> Any:
        return "".join(self.text(part, bound, depth) for part in node.values)

    def _formattedvalue(self, node: ast.FormattedValue, bound: Bound, depth: int) -> Any:
        return self.text(node.value, bound, depth)

    def _list(self, node: ast.List | ast.Tuple, bound: Bound, depth: int) -> Any:
        return [self.value(one, bound, depth) for one in node.elts]

    _tuple = _list

    def _dict(self, node: ast.Dict, bound: Bound, depth: int) -> Any:
        keys = [self.value(key, bound, depth) for key in node.keys]
        return {
            key: self.value(value, bound, depth)
            for key, value in zip(keys, node.values, strict=True)
            if isinstance(key, (str, int))
        }

    def _binop(self, node: ast.BinOp, bound: Bound, depth: int) -> Any:
        left, right = self.value(node.left, bound, depth), self.value(node.right, bound, depth)
        if isinstance(node.op, ast.Div):
            return posixpath.join(
                left if isinstance(left, str) else UNKNOWN,
                right if isinstance(right, str) else UNKNOWN,
            )
        if isinstance(node.op, ast.Add) and (isinstance(left, str) or isinstance(right, str)):
            return (left if isinstance(left, str) else UNKNOWN) + (
                right if isinstance(right, str) else UNKNOWN
            )
        if isinstance(node.op, ast.Mod) and isinstance(left, str):
            parts = right if isinstance(right, list) else [right]
            return filled(left, [UNKNOWN if part is None else part for part in parts])
        return None

    def _ifexp(self, node: ast.IfExp, bound: Bound, depth: int) -> Any:
        value = self.value(node.body, bound, depth)
        return self.value(node.orelse, bound, depth) if value is None else value

    def _boolop(self, node: ast.BoolOp, bound: Bound, depth: int) -> Any:
        return next(
            (
                value
                for part in node.values
                if (value := self.value(part, bound, depth)) is not None
            ),
            None,
        )

    def _subscript(self, node: ast.Subscript, bound: Bound, depth: int) -> Any:
        key = self.value(node.slice, bound, depth)
        if (
            isinstance(node.value, ast.Attribute)
            and node.value.attr == "parents"
            and isinstance(key, int)
        ):
            path = self.text(node.value.value, bound, depth)
            for _ in range(key + 1):
                path = posixpath.dirname(path)
            return path
        held = self.value(node.value, bound, depth)
        try:
            return held[key] if isinstance(held, (list, dict)) and key is not None else None
        except (KeyError, IndexError, TypeError):
            return None

    def _call(self, node: ast.Call, bound: Bound, depth: int) -> Any:
        name = dotted(node.func)
        given = [self.text(one, bound, depth) for one in node.args]
        if name in PATHS and given:
            return PATHS[name](*given)
        if name in ("os.getcwd", "Path.cwd", "pathlib.Path.cwd"):
            return self.cwd
        if name in ("os.environ.get", "os.getenv", "environ.get", "getenv"):
            return self.value(node.args[1], bound, depth) if len(node.args) > 1 else None
        if isinstance(node.func, ast.Attribute):
            return self.method(node.func, given, bound, depth)
        if (function := self.functions.get(name)) is not None:
            return self.returned(function, node, bound, depth)
        return None

    def method(self, function: ast.Attribute, given: list[str], bound: Bound, depth: int) -> Any:
        """Return what a method of a text, a path or a dictionary returns."""
        held = self.value(function.value, bound, depth)
        if isinstance(held, dict) and function.attr in ("items", "keys", "values"):
            return [
                list(one) if isinstance(one, tuple) else one
                for one in getattr(held, function.attr)()
            ]
        if not isinstance(held, str):
            return None
        if function.attr in (
            "resolve",
            "absolute",
            "as_posix",
            "expanduser",
            "strip",
            "rstrip",
            "lower",
        ):
            return held.rstrip("".join(given)) if function.attr == "rstrip" and given else held
        if function.attr == "joinpath":
            return posixpath.join(held, *given)
        if function.attr in ("with_name", "with_suffix") and given:
            return posixpath.join(posixpath.dirname(held), given[0]) if function.attr == "with_name" else (
                posixpath.splitext(held)[0] + given[0]
            )  # fmt: skip
        if function.attr == "replace" and len(given) == 2:
            return held.replace(given[0], given[1])
        return filled(held, given) if function.attr == "format" else None

    def returned(self, function: Function, call: ast.Call, bound: Bound, depth: int) -> Any:
        """Return what a function of the module returns when it says only one thing."""
        returns = [
            node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Return) and node.value is not None
        ]
        if len(returns) != 1:
            return None
        names = [one.arg for one in function.args.args]
        given = dict(zip(names, (self.value(one, bound, depth) for one in call.args), strict=False))
        return self.value(returns[0], dict.fromkeys(names) | given, depth)


def filled(text: str, given: list[Any]) -> str:
    """Return a text with its placeholders, of either kind, filled in; UNKNOWN when they do not fit."""
    try:
        return text % tuple(given) if "%" in text else text.format(*given)
    except (IndexError, KeyError, ValueError, TypeError, AttributeError):
        return UNKNOWN


def dotted(node: ast.expr) -> str:
    """Return a name with its dots; what is before the last dot is empty when it is no name."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def joined(*parts: str) -> str:
    """Return a path of parts."""
    return posixpath.join(*parts)


def same(path: str, *_options: str) -> str:
    """Return a path as it is."""
    return path


PATHS: dict[str, Callable[..., str]] = {
    **dict.fromkeys(("os.path.join", "path.join", "join"), joined),
    **dict.fromkeys(("Path", "pathlib.Path", "PurePath", "pathlib.PurePath", "PosixPath"), joined),
    **dict.fromkeys(("os.path.dirname", "path.dirname", "dirname"), posixpath.dirname),
    **dict.fromkeys(("os.path.basename", "path.basename", "basename"), posixpath.basename),
    **dict.fromkeys(
        ("os.path.normpath", "os.path.abspath", "os.path.realpath", "abspath", "realpath"), same
    ),
    **dict.fromkeys(
        (
            "path.abspath",
            "path.realpath",
            "str",
            "os.fspath",
            "os.path.expanduser",
            "resource_path",
        ),
        same,
    ),
}
