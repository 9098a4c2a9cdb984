# SPDX-License-Identifier: GPL-3.0-or-later
"""Write files with their owners and rights, in one go."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.errors import DeployError, describe_error
from ansible.module_utils.api_endpoint.files import write_file
from ansible.module_utils.api_endpoint.host.file_state import look_for_unused
from ansible.module_utils.basic import AnsibleModule

OWNER = "0:0"  # of all files: root


def found_at(path: Path) -> tuple[str | None, str]:
    """Return a file's content, None when there is none, and its owner, group and rights in words."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None, ""
    if stat.S_ISDIR(found.st_mode):
        raise DeployError(f"{path} is a folder. A file belongs there: move away what has its name.")
    rights = f"{found.st_uid}:{found.st_gid} {stat.S_IMODE(found.st_mode):04o}"
    return (
        path.read_text(encoding="utf-8", errors="replace") if stat.S_ISREG(found.st_mode) else None
    ), rights


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
    command = look_for_unused(
        list(given["files"]), given["needs"] or "", given["loaded_as"], given["read_by"]
    )
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    os.umask(0o022)
    try:
        result = ensure(module)
    except (DeployError, OSError) as error:
        module.fail_json(msg=describe_error(error))
    module.exit_json(**result)
