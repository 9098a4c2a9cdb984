# SPDX-License-Identifier: GPL-3.0-or-later
"""Files and folders that are written, owned and replaced so that an interruption leaves no half."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.errors import DeployError

BUILDING = ".building-"  # prefix of entries that are not finished; a later run may remove them


@contextmanager
def acting_as(user: str) -> Iterator[None]:
    """Look at files with an account's rights, in this process: one of the account's own would be within the app's reach."""
    account = pwd.getpwnam(user)
    groups = os.getgroups()
    try:
        os.setgroups([])
        os.setegid(account.pw_gid)
        os.seteuid(account.pw_uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def read_json(path: str | Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None when there is no such file."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            found: dict[str, Any] = json.load(file)
            return found
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DeployError(f"{path} is damaged: {error}. Move it away and run again.") from error


def sync_folder(folder: str | Path) -> None:
    """Make renames and new names in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: str | Path, content: str, mode: int, group: str = "root") -> None:
    """Replace a file in one step: it has the old content or the new, never half of either."""
    target = Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(content)
            file.flush()
            os.fchown(file.fileno(), 0, grp.getgrnam(group).gr_gid)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    sync_folder(target.parent)


def write_json(path: str | Path, value: dict[str, Any], mode: int, group: str = "root") -> None:
    """Replace a JSON file in one step."""
    write_file(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", mode, group)


def replace_symlink(link: str | Path, target: str) -> bool:
    """Turn a symbolic link to `target` in one step; return whether it pointed elsewhere."""
    path = Path(link)
    if path.is_symlink() and os.readlink(path) == target:
        return False
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    os.symlink(target, temporary)
    os.replace(temporary, path)
    sync_folder(path.parent)
    return True


def chown_tree(root: Path, user: str, group: str) -> None:
    """Give `root` and all below it to user and group; folders 0750, files 0640, programs 0750; links stay as they are.

    Nobody but root gets into the tree meanwhile, and no link is followed, whoever put it there.
    """
    uid, gid = pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid
    above = os.open(root.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not root.is_symlink() and root.is_dir():
            os.chown(root.name, os.geteuid(), os.getegid(), dir_fd=above, follow_symlinks=False)
            os.chmod(root, stat.S_IRWXU)
            for _folder, folders, files, inside_it in os.fwalk(root, follow_symlinks=False):
                for name in (*folders, *files):
                    _own_one(name, inside_it, uid, gid)
        _own_one(root.name, above, uid, gid)
    finally:
        os.close(above)


def _own_one(name: str, folder: int, uid: int, gid: int) -> None:
    """Give one thing in an open folder to a user and a group."""
    # O_PATH opens the very thing that has the name, a link or a pipe too, and does nothing to it.
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=folder)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISLNK(mode):
            os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)
            return
        path = f"/proc/self/fd/{handle}"
        os.chown(path, uid, gid)
        os.chmod(path, 0o750 if stat.S_ISDIR(mode) or mode & stat.S_IXUSR else 0o640)
    finally:
        os.close(handle)


def sync_tree(root: Path) -> None:
    """Bring every file below `root` to the disk before it gets the name under which it counts as whole."""
    for folder, _folders, files in os.walk(root):
        for name in files:
            path = os.path.join(folder, name)
            if not stat.S_ISREG(os.lstat(path).st_mode):
                continue
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        sync_folder(folder)


@contextmanager
def work_folder(root: str | Path, name: str) -> Iterator[Path]:
    """Yield an empty folder on the disk of the endpoint, gone at the end; what a killed run left there goes first."""
    folder = Path(root, "work", name)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    remove_tree(folder)
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        remove_tree(folder)


def remove_tree(folder: Path) -> None:
    """Remove a folder that may be deeper than Python's rmtree can go, if it is there."""
    subprocess.run(
        ["rm", "--recursive", "--force", "--one-file-system", "--", str(folder)], check=True
    )


@contextmanager
def staged_dir(final: Path) -> Iterator[Path]:
    """Yield an empty folder beside `final` that takes its name, in one step, when the block ends without an error."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=final.parent, prefix=BUILDING))
    try:
        yield temporary
        sync_tree(temporary)
        os.rename(temporary, final)
        sync_folder(final.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def escapes(root: Path, path: Path) -> bool:
    """Tell whether a path in a tree leaves it, by a link at any place; those who made the tree are not trusted."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def is_within(root: Path, path: str) -> bool:
    """Tell whether a relative path, taken from `root`, stays below it."""
    whole = os.path.normpath(os.path.join(root, path))
    return not os.path.isabs(path) and whole.startswith(str(root).rstrip("/") + "/")
