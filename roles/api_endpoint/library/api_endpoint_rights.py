#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make folders, and put owners and rights right that somebody has changed by hand."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_rights
short_description: Make accounts and folders, and put owners and rights right that somebody has changed by hand
description:
  - Makes each account that is not there, with a group of its name, and puts it into its further groups.
  - Makes each folder that is not there, and its parents, and sets its owner, group and rights.
  - Walks through trees and gives each file and folder the owner, the rights that it needs, and takes the rights that it must
    not have. Rights that are neither stay as they are, so that what is as the role made it is not changed.
  - A file that its owner may execute is given the group's right to do so where the group may read it.
  - Follows no link, whose own owner it sets, so that an account that may write in a tree cannot turn a change to another
    place. What is not there is left out, and so is what lies on a disk that fails.
options:
  accounts:
    description: Accounts of services, each with the list of the groups that it is in besides its own.
    type: dict
    default: {}
  folders:
    description: The folders that must be there, parents before what lies below them.
    type: list
    elements: dict
    default: []
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
        default: root
      mode:
        description: Its rights, in octal.
        type: str
        default: "0750"
  trees:
    description: The trees.
    type: list
    elements: dict
    required: true
    suboptions:
      paths:
        description: Patterns, as in a shell, of the files and folders that are the trees' tops.
        type: list
        elements: str
        required: true
      owner:
        description: Owner of all that is in the tree.
        type: str
        required: true
      group:
        description: Group of all that is in the tree. Left empty, groups stay as they are.
        type: str
        default: ""
      folders:
        description: Rights that a folder needs, in octal.
        type: str
        default: "0750"
      files:
        description: Rights that a file needs, in octal.
        type: str
        default: "0440"
      never:
        description: Rights that nothing in the tree may have, in octal.
        type: str
        default: "6022"
      leave:
        description: Names of files that are left as they are.
        type: list
        elements: str
        default: []
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Put rights right that were changed by hand
  api_endpoint_rights:
    folders:
      - path: /var/lib/api-endpoint
    trees:
      - paths:
          - /var/lib/api-endpoint/releases/*
        owner: root
        group: www-data
"""

RETURN = r"""
made:
  description: The accounts and folders that were (or in check mode would be) made or changed.
  type: list
  elements: str
  returned: always
mended:
  description: The first hundred paths that were (or in check mode would be) changed.
  type: list
  elements: str
  returned: always
"""

import errno
import glob
import grp
import os
import pwd
import stat
from collections.abc import Iterator
from typing import Any

from ansible.module_utils import api_endpoint_accounts, api_endpoint_folders
from ansible.module_utils.api_endpoint_store import StoreError, in_words
from ansible.module_utils.basic import AnsibleModule

SHOWN = 100  # paths that are returned at most
BROKEN = {errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENODEV, errno.ENXIO}  # what a disk says that fails or is gone


class Tree:
    """The files and folders that one entry of the parameters is about."""

    def __init__(self, given: dict[str, Any], check_mode: bool) -> None:
        self.paths: list[str] = given["paths"]
        self.check_mode = check_mode
        self.folders, self.files, self.never = (int(given[name], 8) for name in ("folders", "files", "never"))
        self.leave: list[str] = given["leave"]
        try:
            self.owner = pwd.getpwnam(given["owner"]).pw_uid
            self.group = grp.getgrnam(given["group"]).gr_gid if given["group"] else None
        except KeyError as error:
            if check_mode:  # a dry run: the account is not made yet, so all of it is amiss, which making the account tells
                self.paths = []
                return
            raise StoreError(
                f"{' '.join(self.paths)} should belong to {given['owner']}:{given['group']}: {error.args[0]}."
            ) from error

    def mend(self) -> Iterator[str]:
        """Mend all of it; yield each path that was amiss."""
        for top in sorted(top for pattern in self.paths for top in glob.glob(pattern)):
            try:
                yield from self.mend_below(top)
            except OSError as error:
                # A disk that fails, or was pulled off: the step that needs it says what it is about.
                if error.errno not in BROKEN:
                    raise

    def mend_below(self, top: str) -> Iterator[str]:
        """Mend one file, or one folder with all that is in it."""
        handle = os.open(os.path.dirname(top), os.O_RDONLY | os.O_DIRECTORY)
        try:
            if self.mend_one(os.path.basename(top), handle):
                yield top
        finally:
            os.close(handle)
        if os.path.islink(top):
            return
        for folder, folders, files, inside in os.fwalk(top, follow_symlinks=False):
            for name in [*folders, *(file for file in files if file not in self.leave)]:
                if self.mend_one(name, inside):
                    yield os.path.join(folder, name)

    def mend_one(self, name: str, folder: int) -> bool:
        """Mend a file or folder in an open folder; return whether it was amiss."""
        # O_PATH opens the very thing that has the name, a link or socket too, and does nothing to it.
        try:
            handle = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=folder)
        except FileNotFoundError:
            return False
        try:
            found = os.fstat(handle)
            owner, group = self.owner, found.st_gid if self.group is None else self.group
            is_link = stat.S_ISLNK(found.st_mode)
            mode = stat.S_IMODE(found.st_mode)
            wanted = mode if is_link else self.wanted(found.st_mode)
            if (found.st_uid, found.st_gid, mode) == (owner, group, wanted):
                return False
            if not self.check_mode:
                if is_link:
                    os.chown(name, owner, group, dir_fd=folder, follow_symlinks=False)
                    return True
                path = f"/proc/self/fd/{handle}"
                os.chown(path, owner, group)
                os.chmod(path, wanted)
            return True
        finally:
            os.close(handle)

    def wanted(self, mode: int) -> int:
        """Return the rights that something with this mode should have."""
        needed = self.folders if stat.S_ISDIR(mode) else self.files
        if stat.S_ISREG(mode) and mode & stat.S_IXUSR:
            needed |= (needed & 0o444) >> 2
        return (stat.S_IMODE(mode) | needed) & ~self.never


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Mend every tree."""
    mended = [path for given in module.params["trees"] for path in Tree(given, module.check_mode).mend()]
    return {"changed": bool(mended), "mended": mended[:SHOWN]}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "accounts": {"type": "dict", "default": {}},
            "folders": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "mode": {"type": "str", "default": "0750"},
                },
            },
            "trees": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "paths": {"type": "list", "elements": "str", "required": True},
                    "owner": {"type": "str", "required": True},
                    "group": {"type": "str", "default": ""},
                    "folders": {"type": "str", "default": "0750"},
                    "files": {"type": "str", "default": "0440"},
                    "never": {"type": "str", "default": "6022"},
                    "leave": {"type": "list", "elements": "str", "default": []},
                },
            },
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    try:
        made = api_endpoint_accounts.ensure(module.params["accounts"], module.check_mode)
        made += [
            folder["path"] for folder in module.params["folders"] if api_endpoint_folders.ensure(folder, module.check_mode)
        ]
        result = ensure(module)
    except (StoreError, OSError) as error:
        module.fail_json(msg=in_words(error))
    module.exit_json(**{**result, "changed": bool(made) or result["changed"]}, made=made)


if __name__ == "__main__":
    main()
