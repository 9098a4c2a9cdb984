# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at an app's Python for what the role must know: what it imports and answers, headers, variables, absolute paths."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from typing import Any

from old_template.files import FileReader, Files
from old_template.layout import BESIDE, VOLUME, Layout
from old_template.notes import Notes
from old_template.shell import Source
from old_template.values import Module, dotted

ABSOLUTE = re.compile(r"/(etc|srv|extrastorage|mnt|data|home|opt|var|tmp)(/[\w.{}-]+)*/?")
USUAL = {
    "accept", "accept-language", "authorization", "content-type", "cookie", "origin", "referer", "x-api-key", "x-request-id",
}  # fmt: skip
CALLERS = {"user-agent", "x-forwarded-for", "x-real-ip", "api-user-agent"}
CALLER = "It asks who called, which it no longer learns. See api_endpoint_forward_user_agent and -_client_address."


class App:
    """What was seen in an app's code."""

    def __init__(
        self, layout: Layout, notes: Notes, follow: Callable[[str], dict[str, Source]]
    ) -> None:
        self.layout, self.notes = layout, notes
        self.headers: set[str] = set()
        self.imports: set[str] = set()
        self.routes: list[str] = []
        self.names: set[str] = set()  # at the top of the WSGI module
        self.variables: dict[str, None] = {}  # of the environment, which it reads
        self.files = Files()
        self.modules: dict[str, Module] = {}  # by the end of their path, without .py
        self.reader = FileReader(
            self.files, layout.root, BESIDE + layout.cwd.removeprefix(layout.root), follow
        )
        self.file, self.lines = "", [""]

    def read(self, texts: dict[str, str]) -> None:
        """Look at all modules of the app."""
        for file, text in texts.items():
            try:
                tree = ast.parse(text)
            except (SyntaxError, ValueError) as error:
                number = getattr(error, "lineno", None) or 1
                said = str(getattr(error, "text", "") or "")
                self.notes.add(file, number, said, "This is no Python that can be read.")
                continue
            self.modules[file] = Module(
                tree, self.layout.beside(file), self.reader.cwd, self.elsewhere
            )
        for file, module in self.modules.items():
            self.file, self.lines = file, texts[file].splitlines() or [""]
            if file == self.layout.wsgi:
                targets = (
                    target
                    for node in module.tree.body
                    if isinstance(node, ast.Assign)
                    for target in node.targets
                )
                self.names |= {target.id for target in targets if isinstance(target, ast.Name)}
            for node in ast.walk(module.tree):
                self.look(node)
            self.reader.look(module, file, self.lines)

    def elsewhere(self, name: str, attribute: str) -> Any:
        """Return what a name of another module of the app stands for."""
        ending = "/" + name.lstrip(".").replace(".", "/")
        module = next(
            (
                one
                for file, one in self.modules.items()
                if f"/{file.removesuffix('.py')}".endswith(ending)
            ),
            None,
        )
        given = module.assigned.get(module.tree, {}).get(attribute, []) if module else []
        return module.value(given[-1][1]) if module and given else None

    def look(self, node: ast.AST) -> None:
        """Look at one part of the code."""
        if isinstance(node, ast.Import):
            self.imports |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            self.imports.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.FunctionDef):
            self.routes += [
                text for call in node.decorator_list for text in texts(call) if text.startswith("/")
            ]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            self.path(node.value, node)
        elif isinstance(node, ast.Call):
            self.call(node)
        elif isinstance(node, ast.Subscript):
            self.subscript(node)
        elif isinstance(node, ast.Attribute) and node.attr == "remote_addr":
            self.note(node, "It asks who called. See api_endpoint_forward_client_address.")

    def note(self, node: ast.AST, why: str) -> None:
        """Note the line on which something stands."""
        number = getattr(node, "lineno", 1)
        self.notes.add(self.file, number, self.lines[number - 1], why)

    def path(self, text: str, node: ast.AST) -> None:
        """Note an absolute path."""
        top = "/".join(text.split("/")[:2])
        if not ABSOLUTE.fullmatch(text) or f"{text}/".startswith(f"{self.layout.root}/"):
            return
        if top == VOLUME:
            self.layout.mounts.add(top)
        elif top in ("/mnt", "/data", "/srv", "/home", "/opt"):
            self.note(
                node,
                "A folder of the host. Bring what it reads there as an artifact, with the folder as a release mount.",
            )

    def call(self, node: ast.Call) -> None:
        """Look at a call."""
        name = dotted(node.func)
        first = (
            next(iter(texts(node.args[0])), "")
            if node.args and isinstance(node.args[0], ast.Constant)
            else ""
        )
        if name in ("request.headers.get", "request.headers.getlist"):
            self.header(first, node)
        elif name in ("os.environ.get", "os.getenv") and first:
            self.variables[first] = None

    def subscript(self, node: ast.Subscript) -> None:
        """Look at what is taken by name."""
        name = dotted(node.value)
        key = (
            node.slice.value
            if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)
            else ""
        )
        if name == "request.headers" and key:
            self.header(key, node)
        elif name == "os.environ" and key and isinstance(node.ctx, ast.Load):
            self.variables[key] = None

    def header(self, name: str, node: ast.AST) -> None:
        """Note a request header that the app reads."""
        if name.lower() in CALLERS:
            self.note(node, CALLER)
        elif name and name.lower() not in USUAL:
            self.headers.add(name)


def texts(node: ast.expr) -> Iterator[str]:
    """Return the plain texts in an expression."""
    return (
        part.value
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    )
