#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replace nginx's configuration as a whole, or not at all."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_nginx
short_description: Replace nginx's configuration as a whole, or not at all
description:
  - Puts the wanted files into a copy of the configuration folder, lets C(nginx -t) judge the copy, and only then
    writes them. A configuration that nginx rejects never reaches the disk, where the next start of nginx would find it.
  - A file that was there with other content is kept beside it with the ending C(.before-api-endpoint), once.
  - Including other files works when their paths are relative to the folder, as in the role's C(nginx.conf).
options:
  folder:
    description: The configuration folder.
    type: path
    default: /etc/nginx
  files:
    description: Content by path, relative to O(folder).
    type: dict
    required: true
  links:
    description: Targets of symbolic links by path, relative to O(folder).
    type: dict
    default: {}
  absent:
    description: Paths that must not be there, relative to O(folder).
    type: list
    elements: str
    default: []
  pending:
    description:
      - Absolute path of a mark that is set before anything is written, for whoever reloads nginx to remove. While it is
        there the module reports a change, so that a run that was cut off before the reload is made up for.
    type: path
    required: true
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Configure nginx
  api_endpoint_nginx:
    pending: /run/nginx-api-endpoint.pending
    files:
      nginx.conf: "{{ lookup('template', 'nginx.conf.j2') }}"
    absent:
      - sites-enabled/default
"""

RETURN = r"""
written:
  description: The paths that were (or in check mode would be) written, linked or removed.
  type: list
  elements: str
  returned: always
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from ansible.module_utils.api_endpoint_store import StoreError, point, write_file
from ansible.module_utils.basic import AnsibleModule

KEPT = ".before-api-endpoint"  # ending of the file in which foreign content is kept


def current(path: Path) -> str | None:
    """Return what is at a path: a file's content, or a link's target behind an arrow; None when there is nothing."""
    if path.is_symlink():
        return f"-> {os.readlink(path)}\n"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def is_foreign(before: str | None, after: str | None) -> bool:
    """Tell whether content is somebody else's: the role's own files keep their first line, which says whose they are."""
    return before is not None and before.splitlines()[:1] != (after or "").splitlines()[:1]


def apply(folder: Path, wanted: dict[str, str | None], links: dict[str, str]) -> None:
    """Write, link and remove."""
    for name, content in wanted.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in links:
            point(path, links[name])
        elif content is None:
            path.unlink()
        else:
            write_file(path, content, 0o644)


def judge(folder: Path, wanted: dict[str, str | None], links: dict[str, str]) -> None:
    """Let nginx judge the wanted configuration in a copy of the folder."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, "nginx")
        shutil.copytree(folder, copy, symlinks=True)
        apply(copy, wanted, links)
        done = subprocess.run(
            ["nginx", "-t", "-q", "-c", str(copy / "nginx.conf")], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            words = done.stderr.strip().replace(str(copy), str(folder))
            raise StoreError(f"nginx rejects the new configuration; the old one is in place.\n{words}")


def ensure(module: AnsibleModule) -> dict[str, object]:
    """Bring the files to what is wanted."""
    folder = Path(module.params["folder"])
    links = {name: str(target) for name, target in module.params["links"].items()}
    wanted: dict[str, str | None] = {
        **module.params["files"],
        **{name: f"-> {target}\n" for name, target in links.items()},
        **dict.fromkeys(module.params["absent"]),
    }
    before = {name: current(folder / name) for name in wanted}
    changes = {name: content for name, content in wanted.items() if content != before[name]}
    installed = shutil.which("nginx") is not None and folder.is_dir()
    if changes and installed:
        judge(folder, changes, links)
    pending = Path(module.params["pending"])
    if changes and not module.check_mode:
        pending.touch()
        for name in changes:
            path, kept = folder / name, folder / f"{name}{KEPT}"
            if is_foreign(before[name], changes[name]) and not path.is_symlink() and not kept.exists():
                shutil.copy2(path, kept)
        apply(folder, changes, links)
    return {
        "changed": bool(changes) or pending.exists(),
        "written": sorted(changes),
        "diff": [
            {
                "before_header": str(folder / name),
                "after_header": str(folder / name),
                "before": before[name] or "",
                "after": content or "",
            }
            for name, content in changes.items()
        ],
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "default": "/etc/nginx"},
            "files": {"type": "dict", "required": True},
            "links": {"type": "dict", "default": {}},
            "absent": {"type": "list", "elements": "str", "default": []},
            "pending": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    try:
        result = ensure(module)
    except (StoreError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
