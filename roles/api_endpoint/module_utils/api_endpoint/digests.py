# SPDX-License-Identifier: GPL-3.0-or-later
"""Digests of files, folders and values, by which the content of a release is known."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.errors import DeployError

CHUNK_BYTES = 1024 * 1024  # bytes read at a time
# Never part of an app's code or of a folder of data: version control, caches, and what editors and package managers keep
# on the laptop. Virtualenvs are known by what is in them.
ALWAYS_EXCLUDED = (
    ".git", ".hg", ".svn", "__pycache__", "*.pyc", ".venv", "venv", ".mypy_cache", ".pytest_cache", ".ruff_cache",
    ".DS_Store", "._*", "node_modules", ".tox", ".nox", ".eggs", "__pypackages__", ".ipynb_checkpoints", ".idea", ".vscode",
)  # fmt: skip


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal, reading it once with constant memory."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            found.update(chunk)
    return found.hexdigest()


def value_digest(value: Any, length: int = 64) -> str:
    """Return the first `length` hexadecimal digits of the SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # A name that is no UTF-8 is a text with surrogates.
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:length]


def is_excluded(path: Path, patterns: Iterable[str]) -> bool:
    """Tell whether a relative path matches one of the patterns of `walk`."""
    return any(
        fnmatch(str(path), pattern.lstrip("/")) if "/" in pattern else fnmatch(path.name, pattern)
        for pattern in patterns
    )


def is_virtualenv(folder: Path) -> bool:
    """Tell whether a folder, or what a link leads to, is a virtualenv or a conda environment, whatever its name."""
    signs = ("pyvenv.cfg", "conda-meta", "bin/activate_this.py", "Scripts/activate.bat")
    return any((folder / sign).exists() for sign in signs)


def _is_part_of_virtualenv(root: Path, path: Path) -> bool:
    """Tell whether something in a virtualenv that was made around an app is the virtualenv's."""
    match path.parts:
        case ["bin" | "Scripts"]:
            return any(
                (root / path / name).exists()
                for name in ("activate", "python", "python3", "python.exe")
            )
        case ["pyvenv.cfg" | "lib64" | "conda-meta"]:
            return True
        case ["lib" | "Lib" | "include" | "Include" | "share", name]:
            return name.startswith("python") or name in ("site-packages", "site", "man", "jupyter")
    return False


def walk(root: Path, exclude: Iterable[str] = (), *, follow: bool = False) -> Iterator[Path]:
    """Yield every file and link below `root`, relative to it, in a fixed order.

    Virtualenvs are left out, also one that was made around the rest. `exclude` holds patterns in the shell's style. One
    without a slash matches a file or folder of that name anywhere; one with a slash matches a path from `root`. With
    `follow`, a link to a folder is gone into like the folder; DeployError when it leads back to where it came from.
    """
    patterns = [*ALWAYS_EXCLUDED, *(pattern.rstrip("/") for pattern in exclude)]

    is_inside_one = is_virtualenv(root)

    def below(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
        here = (*above, os.path.realpath(root / folder)) if follow else ()
        for name in sorted(os.listdir(root / folder)):
            path = folder / name
            if is_excluded(path, patterns) or (
                is_inside_one and _is_part_of_virtualenv(root, path)
            ):
                continue
            is_folder = (root / path).is_dir()
            if is_folder and is_virtualenv(root / path):
                continue
            is_link = (root / path).is_symlink()
            if follow and is_link and os.path.realpath(root / path) in here:
                raise DeployError(
                    f"The link {root / path} leads back to a folder that it lies in. Remove it."
                )
            if is_folder and (follow or not is_link):
                yield from below(path, here)
            else:
                yield path

    yield from below(Path(), ())


def leads_out(root: Path, path: Path) -> bool:
    """Tell whether a link below `root` leads out of it, by its text or in truth, or into a part of it that is left out."""
    target = os.readlink(root / path)
    by_text = os.path.normpath(path.parent / target)
    real = os.path.realpath(root / path)
    inside = os.path.relpath(real, os.path.realpath(root))
    if os.path.isabs(target) or ".." in (by_text.split("/")[0], inside.split("/")[0]):
        return True
    return any(is_excluded(part, ALWAYS_EXCLUDED) for part in (Path(inside), *Path(inside).parents))


def tree_digest(
    root: Path, *, follow: bool = False, digest: Callable[[Path], str] = file_digest
) -> str:
    """Return a digest of the files below `root`: names, contents, link targets and whether they are executable.

    With `follow`, a link counts as what it points to. `digest` reads a file.
    """
    entries = []
    for path in walk(root, follow=follow):
        found = root / path
        if found.is_symlink() and not follow:
            entries.append(["link", str(path), os.readlink(found)])
        elif not found.is_file():
            raise DeployError(f"{found} is neither a file nor a folder nor a link. Remove it.")
        else:
            executable = bool(found.stat().st_mode & stat.S_IXUSR)
            entries.append(["program" if executable else "file", str(path), digest(found)])
    return value_digest(entries)
