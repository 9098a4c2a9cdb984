# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at an app's Python for what the role must know: absolute paths, what it writes, headers that it reads, threads."""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterator

from old_template.notes import Notes

ABSOLUTE = re.compile(r"/(etc|srv|extrastorage|mnt|data|home|opt|var|tmp)(/[\w.{}-]+)*/?")
CACHES = {
    "TRANSFORMERS_CACHE",
    "HF_HOME",
    "SENTENCE_TRANSFORMERS_HOME",
    "TORCH_HOME",
    "NLTK_DATA",
    "XDG_CACHE_HOME",
    "TFHUB_CACHE_DIR",
}
WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|REPLACE) (INTO|OR|FROM|\w+ SET)\b", re.I)
USUAL = {
    "accept", "accept-language", "authorization", "content-type", "cookie", "origin", "referer", "x-api-key", "x-request-id",
}  # fmt: skip
CALLERS = {"user-agent", "x-forwarded-for", "x-real-ip", "api-user-agent"}


class App:
    """What was seen in an app's code."""

    def __init__(self, name: str, notes: Notes) -> None:
        self.etc = f"/etc/{name}"
        self.notes = notes
        self.mounts: set[str] = set()
        self.headers: set[str] = set()
        self.opened_for_writing: set[str] = set()  # databases beside the code that are opened so that they must be writable
        self.written: set[str] = set()  # paths beside the code that it writes
        self.imports: set[str] = set()
        self.routes: list[str] = []
        self.names: set[str] = set()  # at the top of the WSGI module
        self.file = ""
        self.lines: list[str] = []

    def read(self, text: str, file: str, *, is_wsgi: bool) -> None:
        """Look at one module."""
        self.file, self.lines = file, text.splitlines()
        try:
            tree = ast.parse(text)
        except SyntaxError as error:
            self.notes.add(file, error.lineno or 1, str(error.text or ""), "This is no Python that can be read.")
            return
        if is_wsgi:
            targets = (target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets)
            self.names |= {target.id for target in targets if isinstance(target, ast.Name)}
        for node in ast.walk(tree):
            self.look(node)

    def look(self, node: ast.AST) -> None:
        """Look at one part of the code."""
        if isinstance(node, ast.Import):
            self.imports |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            self.imports.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.FunctionDef):
            self.routes += [text for call in node.decorator_list for text in texts(call) if text.startswith("/")]
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
        if not ABSOLUTE.fullmatch(text) or f"{text}/".startswith(f"{self.etc}/"):
            return
        top = "/" + text.split("/")[1]
        if top == "/extrastorage":
            self.mounts.add(top)
        elif top in ("/mnt", "/data", "/srv", "/home", "/opt"):
            self.note(
                node, "A folder of the host. Bring what it reads there as an artifact, with the folder as a release mount."
            )

    def beside(self, path: str) -> str:
        """Return a path relative to the app's folder; nothing for one that is elsewhere."""
        inside = path.removeprefix(f"{self.etc}/")
        return "" if inside.startswith(("/", "..")) else inside

    def writes(self, path: str, node: ast.AST) -> None:
        """Note what the app writes beside its code."""
        if path:
            self.written.add(path)
        else:
            self.note(node, "It writes here. What lies beside the code is read-only now: see api_endpoint_writable_paths.")

    def call(self, node: ast.Call) -> None:
        """Look at a call."""
        name = dotted(node.func)
        last = name.rpartition(".")[2]
        first = self.beside(literal(node.args[0])) if node.args else ""
        if last == "open" and any(letter in mode_of(node) for letter in "wax+"):
            self.writes(first, node)
        elif last == "SqliteDict" and flag_of(node) != "r":
            if first:
                self.opened_for_writing.add(first)
            else:
                self.note(node, "It opens this so that it must be writable: writable: true on the artifact.")
        elif name == "sqlite3.connect" and first and WRITES.search("\n".join(self.lines)):
            self.opened_for_writing.add(first)
        elif name == "sqlite3.connect":
            self.note(node, "SQLite. If it writes there: writable: true on the artifact, or api_endpoint_writable_paths.")
        elif last in ("SQLiteQueue", "FIFOSQLiteQueue", "Queue", "SQLiteAckQueue", "PDict") and "persistqueue" in name:
            self.note(node, "A queue on the disk: give its folder as api_endpoint_writable_paths.")
        elif last in ("makedirs", "mkdir"):
            self.writes(first and f"{first}/", node)
        elif last == "urlretrieve":
            self.writes(self.beside(literal(node.args[1])) if len(node.args) > 1 else "", node)
        elif last == "Thread":
            self.note(node, "A thread. If it starts when the app is imported: api_endpoint_preload: false.")
        elif last in ("get", "getlist") and name.endswith("headers.get") and name.startswith("request."):
            self.header(first, node)
        elif last in ("get", "getenv") and name in ("os.environ.get", "os.getenv") and first:
            self.note(node, "An environment variable: api_endpoint_environment, or api_endpoint_secrets.")

    def subscript(self, node: ast.Subscript) -> None:
        """Look at what is taken by name."""
        name = dotted(node.value)
        key = node.slice.value if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str) else ""
        if name == "request.headers" and key:
            self.header(key, node)
        elif name == "os.environ" and key in CACHES and isinstance(node.ctx, ast.Store):
            self.note(
                node,
                "It keeps what it downloads there, read-only now: point it to a folder of api_endpoint_writable_paths.",
            )
        elif name == "os.environ" and key and isinstance(node.ctx, ast.Load):
            self.note(node, "An environment variable: api_endpoint_environment, or api_endpoint_secrets.")

    def header(self, name: str, node: ast.AST) -> None:
        """Note a request header that the app reads."""
        if name.lower() in CALLERS:
            self.note(
                node,
                "It asks who called, which it no longer learns. See api_endpoint_forward_user_agent and -_client_address.",
            )
        elif name and name.lower() not in USUAL:
            self.headers.add(name)


def dotted(node: ast.expr) -> str:
    """Return a name with its dots; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def texts(node: ast.expr) -> Iterator[str]:
    """Return the plain texts in an expression."""
    return (part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str))


def literal(node: ast.expr) -> str:
    """Return a path that is plain text, or what plain text joins to a folder: os.path.join(folder, "resources", "x")."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return posixpath.normpath(posixpath.join(literal(node.left), literal(node.right))) if literal(node.right) else ""
    if isinstance(node, ast.Call) and dotted(node.func) in ("os.path.join", "path.join") and len(node.args) > 1:
        parts = [literal(part) for part in node.args[1:]]
        return posixpath.join(literal(node.args[0]), *parts) if all(parts) else ""
    return ""


def mode_of(node: ast.Call) -> str:
    """Return the mode in which a file is opened."""
    given = [keyword.value for keyword in node.keywords if keyword.arg == "mode"] + node.args[1:2]
    return str(given[0].value) if given and isinstance(given[0], ast.Constant) else ""


def flag_of(node: ast.Call) -> str:
    """Return how a SqliteDict is opened."""
    given = [keyword.value for keyword in node.keywords if keyword.arg == "flag"]
    return str(given[0].value) if given and isinstance(given[0], ast.Constant) else "c"
