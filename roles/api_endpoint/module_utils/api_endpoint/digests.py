# SPDX-License-Identifier: GPL-3.0-or-later
"""Digests of files, folders and values, by which the content of a release is known."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.errors import DeployError

CHUNK = 1024 * 1024  # bytes read at a time
# Never part of an app's code: version control, caches and virtualenvs of the laptop.
ALWAYS_EXCLUDED = (
    ".git", ".hg", ".svn", "__pycache__", "*.pyc", ".venv", "venv", ".mypy_cache", ".pytest_cache", ".ruff_cache",
    ".DS_Store", "node_modules",
)  # fmt: skip


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal, reading it once with constant memory."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()


def value_digest(value: Any, length: int = 64) -> str:
    """Return the first `length` hexadecimal digits of the SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def walk(root: Path, exclude: tuple[str, ...] | list[str] = ()) -> Iterator[Path]:
    """Yield every file and link below `root`, relative to it, in a fixed order.

    `exclude` holds patterns in the shell's style. One without a slash matches a file or folder of that name anywhere;
    one with a slash matches a path from `root`.
    """
    patterns = [*ALWAYS_EXCLUDED, *(pattern.rstrip("/") for pattern in exclude)]

    def excluded(path: Path) -> bool:
        return any(
            fnmatch(str(path), pattern.lstrip("/")) if "/" in pattern else fnmatch(path.name, pattern)
            for pattern in patterns
        )

    def below(folder: Path) -> Iterator[Path]:
        for name in sorted(os.listdir(root / folder)):
            path = folder / name
            if excluded(path):
                continue
            if (root / path).is_dir() and not (root / path).is_symlink():
                yield from below(path)
            else:
                yield path

    yield from below(Path())


def tree_digest(root: Path) -> str:
    """Return a digest of the files below `root`: names, contents, link targets and whether they are executable."""
    entries = []
    for path in walk(root):
        found = root / path
        if found.is_symlink():
            entries.append(["link", str(path), os.readlink(found)])
        elif not found.is_file():
            raise DeployError(f"{found} is neither a file nor a folder nor a link. Remove it.")
        else:
            executable = bool(found.stat().st_mode & stat.S_IXUSR)
            entries.append(["program" if executable else "file", str(path), file_digest(found)])
    return value_digest(entries)
