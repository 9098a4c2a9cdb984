# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a path of the laptop that a variable names is found."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.errors import DeployError


def short(path: Path | str) -> str:
    """Return a path relative to the current folder, or to the one above; another one stays absolute."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("../..") else relative


def local_path(given: str, variables: Mapping[str, Any], name: str) -> Path:
    """Return the file or folder of the laptop that the variable `name` means by `given`.

    A relative path is looked for in the endpoint's folder, which is the one of its inventory; then in the folder of the
    playbook, in the one above it (the project's folder, when the playbook lies in playbooks/), and in the folder from
    which Ansible was started. The first that exists is taken. Raise DeployError when there is none, and when the endpoint's
    folder has another one than the rest: `./` in front means the endpoint's.
    """
    path = Path(os.path.expanduser(given))
    playbook = Path(variables.get("playbook_dir") or ".")
    own = variables.get("inventory_dir")
    of_the_endpoint = [Path(own) / path] if own else []
    others = [playbook / path, playbook.parent / path, Path.cwd() / path]
    candidates = [path] if path.is_absolute() else [*of_the_endpoint, *others]
    found = [candidate for candidate in candidates if given and candidate.exists()]
    if not found:
        looked = ", ".join(dict.fromkeys(os.path.normpath(candidate) for candidate in candidates))
        raise DeployError(
            f"{name} is {given!r}, which is not on this computer. Looked for: {looked}."
        )
    first = found[0].resolve()
    if found[0] in of_the_endpoint and not given.startswith("./"):
        for other in found[1:]:
            if not _is_the_same(first, other.resolve()):
                raise DeployError(
                    f"{name} is {given!r}, which is in two places: {first} and {other.resolve()}. Write "
                    f"{'./' + given!r} for the first, or the whole path for the other."
                )
    return first


def _is_the_same(one: Path, other: Path) -> bool:
    """Tell whether two paths lead to the same, or to files with the same content."""
    if one == other or not (one.is_file() and other.is_file()):
        return one == other
    return filecmp.cmp(one, other, shallow=True)
