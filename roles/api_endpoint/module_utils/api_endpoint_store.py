# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules and action plugins of `api_endpoint` share: digests, and writes that are never half done.

Everything on the host that is expensive or must not change lives in a store under the digest of what went into it:
`code/<digest>`, `venvs/<key>`, `<data_dir>/<digest>`, `releases/<id>`. An entry is built under a temporary name, or
marked complete last, so that what is found under its final name is whole, whatever was killed when.
"""

from __future__ import annotations

import errno
import grp
import hashlib
import json
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

CHUNK = 1024 * 1024  # bytes read at a time
BUILDING = ".building-"  # prefix of entries that are not finished; a later run may remove them

# Never part of an app's code: version control, caches and virtualenvs of the laptop.
ALWAYS_EXCLUDED = (
    ".git", ".hg", ".svn", "__pycache__", "*.pyc", ".venv", "venv", ".mypy_cache", ".pytest_cache", ".ruff_cache",
    ".DS_Store", "node_modules",
)  # fmt: skip


class StoreError(Exception):
    """Something that the user must mend; its text says what, where and how."""


def in_words(error: BaseException) -> str:
    """Say an error in words that a user can act on."""
    text = str(error) or type(error).__name__
    if isinstance(error, StoreError):
        return text
    if isinstance(error, OSError) and os.strerror(errno.ENOSPC) in text:
        return (
            f"The host's disk is full: {text[-600:]}\n`df -h` and `df -i` on the host say which. Free some room, or let "
            "fewer releases be kept (api_endpoint_keep_releases); then run again."
        )
    return text if isinstance(error, OSError) else f"{type(error).__name__}: {text}"


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal, reading it once with constant memory."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()


def value_digest(value: Any, length: int = 64) -> str:
    """Return the first `length` hexadecimal digits of the SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def walk(root: Path, exclude: tuple[str, ...] | list[str] = ()) -> Iterator[Path]:
    """Yield every file and link below `root`, relative to it, in a fixed order.

    `exclude` holds patterns in the shell's style. One without a slash matches a file or folder of that name anywhere;
    one with a slash matches a path from `root`.
    """
    patterns = [*ALWAYS_EXCLUDED, *(pattern.rstrip("/") for pattern in exclude)]

    def excluded(path: Path) -> bool:
        return any(
            fnmatch(str(path), pattern.lstrip("/")) if "/" in pattern else fnmatch(path.name, pattern)
            for pattern in patterns
        )

    def below(folder: Path) -> Iterator[Path]:
        for name in sorted(os.listdir(root / folder)):
            path = folder / name
            if excluded(path):
                continue
            if (root / path).is_dir() and not (root / path).is_symlink():
                yield from below(path)
            else:
                yield path

    yield from below(Path())


def tree_digest(root: Path) -> str:
    """Return a digest of the files below `root`: names, contents, link targets and whether they are executable."""
    entries = []
    for path in walk(root):
        found = root / path
        if found.is_symlink():
            entries.append(["link", str(path), os.readlink(found)])
        elif not found.is_file():
            raise StoreError(f"{found} is neither a file nor a folder nor a link. Remove it.")
        else:
            executable = bool(found.stat().st_mode & stat.S_IXUSR)
            entries.append(["program" if executable else "file", str(path), file_digest(found)])
    return value_digest(entries)


def read_json(path: str | Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None when there is no such file."""
    try:
        with open(path, encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
            return found
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StoreError(f"{path} is damaged: {error}. Move it away and run again.") from error


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
        with os.fdopen(handle, "w", encoding="utf-8") as file:
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


def point(link: str | Path, target: str) -> bool:
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


def own(root: Path, user: str, group: str) -> None:
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
def building(final: Path) -> Iterator[Path]:
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


def inside(root: Path, path: str) -> bool:
    """Tell whether a relative path, taken from `root`, stays below it."""
    whole = os.path.normpath(os.path.join(root, path))
    return not os.path.isabs(path) and whole.startswith(str(root).rstrip("/") + "/")
