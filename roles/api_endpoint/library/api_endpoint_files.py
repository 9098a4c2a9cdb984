#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write files with their owners and rights, in one go."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_files
short_description: Write files with their owners and rights, in one go
description:
  - Brings each file to its content, owned by root, in one step, so that nobody reads half of it. Missing folders above it
    are made. What is a link there is replaced by the file.
  - One module for several files is several times faster than a task for each. The action plugin of the same name looks at
    the files by a shell command first, and leaves it at that when all are as they should be.
  - O(needs), O(loaded_as) and O(read_by) say what shows that the files are in use. When they are not, the module reports a
    change, so that the handlers of a run that was killed between a file and its handler run now.
options:
  files:
    description: Content by absolute path.
    type: dict
    required: true
  mode:
    description: The files' rights, in octal.
    type: str
    default: "0644"
  needs:
    description:
      - Absolute path of something that is there when the files are in use.
    type: path
  loaded_as:
    description:
      - Units to which the files belong. They are in use when systemd has loaded the latest files of each unit. Name the
        instances of a template.
    type: list
    elements: str
    default: []
  read_by:
    description:
      - Units that read the files when they start. The files are in use when each unit runs, and was started after the latest
        file was written.
    type: list
    elements: str
    default: []
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Have rsyslog take nginx's errors
  api_endpoint_files:
    files:
      /etc/rsyslog.d/30-nginx-private.conf: "{{ lookup('template', 'rsyslog.conf.j2') }}"
    needs: /run/nginx-error-log.sock
    read_by: [rsyslog.service]
  notify: Restart rsyslog
"""

RETURN = r"""
written:
  description: The files that were (or in check mode would be) written, or whose owner or rights were changed.
  type: list
  elements: str
  returned: always
unused:
  description: Why files that are as they should be are not in use, a line for each reason.
  type: list
  elements: str
  returned: always
"""

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint_look import look_for_unused
from ansible.module_utils.api_endpoint_store import StoreError, in_words, write_file
from ansible.module_utils.basic import AnsibleModule

OWNER = "0:0"  # of all files: root


def found_at(path: Path) -> tuple[str | None, str]:
    """Return a file's content, None when there is none, and its owner, group and rights in words."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None, ""
    if stat.S_ISDIR(found.st_mode):
        raise StoreError(f"{path} is a folder. A file belongs there: move away what has its name.")
    rights = f"{found.st_uid}:{found.st_gid} {stat.S_IMODE(found.st_mode):04o}"
    return (path.read_text(encoding="utf-8", errors="replace") if stat.S_ISREG(found.st_mode) else None), rights


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Bring the files to what is wanted."""
    mode = int(module.params["mode"], 8)
    wanted_rights = f"{OWNER} {mode:04o}"
    written, diff = [], []
    for name, content in module.params["files"].items():
        path = Path(name)
        before, rights = found_at(path)
        if (before, rights) == (content, wanted_rights):
            continue
        written.append(name)
        # What differs is shown: the content, or the owner and rights alone.
        shown, wanted = (rights, wanted_rights) if before == content else (before or "", content)
        diff.append({"before_header": name, "after_header": name, "before": shown, "after": wanted})
        if not module.check_mode:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, content, mode)
    # What was just written is not in use yet; the handlers run for it in any case.
    unused = [] if written else find_unused(module)
    return {"changed": bool(written or unused), "written": written, "unused": unused, "diff": diff}


def find_unused(module: AnsibleModule) -> list[str]:
    """Return why the files are not in use, a line for each reason."""
    given = module.params
    command = look_for_unused(list(given["files"]), given["needs"] or "", given["loaded_as"], given["read_by"])
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "dict", "required": True},
            "mode": {"type": "str", "default": "0644"},
            "needs": {"type": "path"},
            "loaded_as": {"type": "list", "elements": "str", "default": []},
            "read_by": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    try:
        result = ensure(module)
    except (StoreError, OSError) as error:
        module.fail_json(msg=in_words(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
