#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make folders with their owners and rights, in one go."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_folders
short_description: Make folders with their owners and rights, in one go
description:
  - Makes each folder that is not there, and its parents, and sets its owner, group and rights.
  - Never follows a link at a folder's own name, so that an account that owns the folder above cannot turn the change to
    another place.
options:
  folders:
    description: The folders, parents before what lies below them.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      owner:
        description: Its owner.
        type: str
        default: root
      group:
        description: Its group.
        type: str
        default: www-data
      mode:
        description: Its rights, in octal.
        type: str
        default: "0750"
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Make the folders
  api_endpoint_folders:
    folders:
      - path: /var/lib/api-endpoint
      - path: /var/lib/api-endpoint/state/home
        owner: www-data
"""

RETURN = r"""
made:
  description: The folders that were (or in check mode would be) made or changed.
  type: list
  elements: str
  returned: always
"""

import grp
import os
import pwd
import stat
from typing import Any

from ansible.module_utils.api_endpoint_store import StoreError, in_words
from ansible.module_utils.basic import AnsibleModule


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
        raise StoreError(
            f"{path} is no folder ({error.strerror}). The endpoint needs a folder there: move away what has its name."
        ) from error
    try:
        found = os.fstat(handle)
        try:
            wanted = (pwd.getpwnam(folder["owner"]).pw_uid, grp.getgrnam(folder["group"]).gr_gid)
        except KeyError as error:
            raise StoreError(f"{path} should belong to {folder['owner']}:{folder['group']}: {error.args[0]}.") from error
        differs = (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) != (*wanted, mode)
        if differs and not check_mode:
            os.fchown(handle, *wanted)
            os.fchmod(handle, mode)
    finally:
        os.close(handle)
    return made or differs


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "folders": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "www-data"},
                    "mode": {"type": "str", "default": "0750"},
                },
            },
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    try:
        made = [folder["path"] for folder in module.params["folders"] if ensure(folder, module.check_mode)]
    except (StoreError, OSError) as error:
        module.fail_json(msg=in_words(error))
    module.exit_json(changed=bool(made), made=made)


if __name__ == "__main__":
    main()
