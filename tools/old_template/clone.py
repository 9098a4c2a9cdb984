# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a clone, and what git says of it without being run."""

from __future__ import annotations

import configparser
import posixpath
import re
from fnmatch import fnmatch
from pathlib import Path

LARGEST = 2_000_000  # bytes of a file that is read
USUAL_BRANCHES = {"main", "master", "HEAD", ""}


class Clone:
    """The files of a clone; what a link leads to outside of it is none of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.names = sorted(
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if ".git" not in path.relative_to(self.folder).parts
            and path.is_file()
            and path.resolve().is_relative_to(self.folder)
        )

    def text(self, name: str) -> str:
        """Return a file's content."""
        return (
            (self.folder / name)
            .read_bytes()[:LARGEST]
            .decode(errors="replace")
            .replace("\r\n", "\n")
        )

    def named(self, *patterns: str) -> list[str]:
        """Return the files of certain names, in the order of the patterns, those in fewer folders first."""
        found = [
            name
            for pattern in patterns
            for name in sorted(self.names, key=lambda name: (name.count("/"), name))
            if fnmatch(posixpath.basename(name), pattern)
        ]
        return list(dict.fromkeys(found))

    def inside(self, path: str) -> list[str]:
        """Return the files that a path or pattern names, or that are in the folder that it names."""
        return [
            name
            for name in self.names
            if fnmatch(name, path) or f"{name}/".startswith(f"{path}/") or path == "."
        ]

    def git(self, name: str) -> str:
        """Return a file of git's; git itself is not started, since a clone can tell it to run something."""
        try:
            return (self.folder / ".git" / name).read_text(encoding="utf-8")
        except OSError:
            return ""

    @property
    def remote(self) -> str:
        """The URL that it was cloned from."""
        settings = configparser.ConfigParser(strict=False, interpolation=None)
        try:
            settings.read_string(re.sub(r"(?m)^\s+", "", self.git("config")))
        except configparser.Error:
            return ""
        return settings.get('remote "origin"', "url", fallback="")

    @property
    def branch(self) -> str:
        """The branch that is checked out."""
        head = self.git("HEAD").strip()
        return head.removeprefix("ref: refs/heads/") if head.startswith("ref: ") else ""

    def has_branch(self, name: str) -> bool:
        """Tell whether the repository may have a branch; where the clone knows none of its branches, it may."""
        known = set(re.findall(r"refs/remotes/origin/(\S+)", self.git("packed-refs")))
        folder = self.folder / ".git" / "refs" / "remotes" / "origin"
        known |= {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        return name in known or not known - {"HEAD"}
