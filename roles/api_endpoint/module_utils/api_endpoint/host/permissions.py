# SPDX-License-Identifier: GPL-3.0-or-later
"""Make folders, and put owners and rights right that somebody has changed by hand."""

from __future__ import annotations

import errno
import glob
import grp
import os
import pwd
import stat
from collections.abc import Iterator
from typing import Any

from ansible.module_utils.api_endpoint.errors import DeployError, describe_error
from ansible.module_utils.api_endpoint.host import accounts
from ansible.module_utils.api_endpoint.host.folders import ensure as ensure_folder
from ansible.module_utils.basic import AnsibleModule

SHOWN = 100  # paths that are returned at most
BROKEN = {
    errno.EIO,
    errno.EBADMSG,
    errno.EUCLEAN,
    errno.ENODEV,
    errno.ENXIO,
}  # what a disk says that fails or is gone


class Tree:
    """The files and folders that one entry of the parameters is about."""

    def __init__(self, given: dict[str, Any], check_mode: bool) -> None:
        self.paths: list[str] = given["paths"]
        self.check_mode = check_mode
        self.folders, self.files, self.never = (
            int(given[name], 8) for name in ("folders", "files", "never")
        )
        self.leave: list[str] = given["leave"]
        try:
            self.owner = pwd.getpwnam(given["owner"]).pw_uid
            self.group = grp.getgrnam(given["group"]).gr_gid if given["group"] else None
        except KeyError as error:
            if check_mode:  # a dry run: the account is not made yet, so all of it is amiss, which making the account tells
                self.paths = []
                return
            raise DeployError(
                f"{' '.join(self.paths)} should belong to {given['owner']}:{given['group']}: {error.args[0]}."
            ) from error

    def repair(self) -> Iterator[str]:
        """Repair the whole tree; yield each path that was wrong."""
        for top in sorted(top for pattern in self.paths for top in glob.glob(pattern)):
            try:
                yield from self.repair_below(top)
            except OSError as error:
                # A disk that fails, or was pulled off: the step that needs it says what it is about.
                if error.errno not in BROKEN:
                    raise

    def repair_below(self, top: str) -> Iterator[str]:
        """Repair one file, or one folder with all that is in it."""
        handle = os.open(os.path.dirname(top), os.O_RDONLY | os.O_DIRECTORY)
        try:
            if self.repair_one(os.path.basename(top), handle):
                yield top
        finally:
            os.close(handle)
        if os.path.islink(top):
            return
        for folder, folders, files, inside in os.fwalk(top, follow_symlinks=False):
            for name in [*folders, *(file for file in files if file not in self.leave)]:
                if self.repair_one(name, inside):
                    yield os.path.join(folder, name)

    def repair_one(self, name: str, folder: int) -> bool:
        """Repair a file or folder in an open folder; return whether it was wrong."""
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
    """Repair every tree."""
    repaired = [
        path for given in module.params["trees"] for path in Tree(given, module.check_mode).repair()
    ]
    return {"changed": bool(repaired), "repaired": repaired[:SHOWN]}


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    os.umask(0o022)
    try:
        made = accounts.ensure(module.params["accounts"], module.check_mode)
        made += [
            folder["path"]
            for folder in module.params["folders"]
            if ensure_folder(folder, module.check_mode)
        ]
        result = ensure(module)
    except (DeployError, OSError) as error:
        module.fail_json(msg=describe_error(error))
    module.exit_json(**{**result, "changed": bool(made) or result["changed"]}, made=made)
