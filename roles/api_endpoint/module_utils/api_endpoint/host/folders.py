# SPDX-License-Identifier: GPL-3.0-or-later
"""Make folders with their owners and rights.

A link at a folder's own name is never followed, so that an account that owns the folder above cannot turn the change to
another place.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from typing import Any

from ansible.module_utils.api_endpoint.errors import DeployError


def ensure(folder: dict[str, Any], check_mode: bool) -> bool:
    """Bring one folder to what is wanted; return whether it was not so."""
    path, mode = folder["path"], int(folder["mode"], 8)
    made = False
    if not os.path.lexists(path):
        if check_mode:
            return True
        os.makedirs(path, mode=0o755)
        made = True
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (NotADirectoryError, OSError) as error:
        raise DeployError(
            f"{path} is no folder ({error.strerror}). The endpoint needs a folder there: move away what has its name."
        ) from error
    try:
        found = os.fstat(handle)
        try:
            wanted = (pwd.getpwnam(folder["owner"]).pw_uid, grp.getgrnam(folder["group"]).gr_gid)
        except KeyError as error:
            if check_mode:  # a dry run: the account is not made yet
                return True
            raise DeployError(
                f"{path} should belong to {folder['owner']}:{folder['group']}: {error.args[0]}."
            ) from error
        differs = (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) != (*wanted, mode)
        if differs and not check_mode:
            os.fchown(handle, *wanted)
            os.fchmod(handle, mode)
    finally:
        os.close(handle)
    return made or differs
