# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a path of the laptop that a variable names is found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.errors import DeployError


def short(path: Path | str) -> str:
    """Return a path relative to the current folder, or to the one above; another one stays absolute."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("../..") else relative


def local_path(given: str, variables: dict[str, Any], name: str) -> Path:
    """Return the file or folder of the laptop that the variable `name` means by `given`.

    A relative path is looked for in the folder of the playbook, in the one above it (the project's folder, when the
    playbook lies in playbooks/), and in the folder from which Ansible was started; the first that exists is taken.
    """
    path = Path(os.path.expanduser(given))
    playbook = Path(variables.get("playbook_dir") or ".")
    candidates = (
        [path]
        if path.is_absolute()
        else [playbook / path, playbook.parent / path, Path.cwd() / path]
    )
    for candidate in candidates:
        if given and candidate.exists():
            return candidate.resolve()
    looked = ", ".join(dict.fromkeys(os.path.normpath(candidate) for candidate in candidates))
    raise DeployError(f"{name} is {given!r}, which is not on this computer. Looked for: {looked}.")
