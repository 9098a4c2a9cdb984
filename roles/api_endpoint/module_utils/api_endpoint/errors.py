# SPDX-License-Identifier: GPL-3.0-or-later
"""The project's error, and the words for any error."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from ansible.module_utils.api_endpoint.urls import hide

# Reasons for which a disk takes no more, by their numbers and, in what other programs say, by their English words.
FULL = (errno.ENOSPC, errno.EDQUOT)
MEMORY_FILESYSTEMS = ("tmpfs", "ramfs")


class DeployError(Exception):
    """A problem that the user can fix; its text says what, where and how, without the passwords of URLs."""

    def __str__(self) -> str:
        """Return the text."""
        return hide(super().__str__())


def says_full(text: str) -> bool:
    """Tell whether the words of an error say that a disk takes no more."""
    return any(os.strerror(number) in text for number in FULL)


def disk_of(path: str | os.PathLike[str]) -> str:
    """Name the disk that holds a path, which need not be there: where it is mounted, its size, and what is free."""
    place = Path(os.path.abspath(path))
    while not place.exists():
        place = place.parent
    found = os.statvfs(place)
    size, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    place = place.resolve()
    while not place.is_mount():
        place = place.parent
    kind = "memory, " if _type_of(place) in MEMORY_FILESYSTEMS else ""
    # A filesystem without a fixed number of inodes says 0 of 0.
    files = (
        f", room for {found.f_favail:,} more files"
        if found.f_files and found.f_favail < 1000
        else ""
    )
    return f"the disk at {place} ({kind}{size / 1e6:,.0f} MB, {free / 1e6:,.0f} MB free{files})"


def _type_of(mount: Path) -> str:
    """Return the type of the filesystem that is mounted somewhere; empty where that cannot be told, as on macOS."""
    try:
        lines = (
            Path("/proc/self/mounts")
            .read_text(encoding="utf-8", errors="surrogateescape")
            .splitlines()
        )
    except OSError:
        return ""
    return next((line.split()[2] for line in reversed(lines) if line.split()[1] == str(mount)), "")


def lacks_room(path: str | os.PathLike[str], said: str, computer: str = "the host") -> str:
    """Say which disk of which computer takes no more; `said` are the words of the program that found out."""
    how = (
        "The quota was used up on" if os.strerror(errno.EDQUOT) in said else "No space was left on"
    )
    return f"{how} {disk_of(path)} of {computer}: {said[-600:]}"


def describe_error(error: BaseException, place: str | os.PathLike[str] | None = None) -> str:
    """Say an error in words that a user can act on; `place` is where was written, for an error that does not say it."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and says_full(text):
        where = error.filename2 or error.filename or place
        said = (
            lacks_room(os.fsdecode(where), text)
            if where
            else f"A disk of the host is full: {text[-600:]}"
        )
        return (
            f"{said}\n`df -h` and `df -i` on the host list its disks. Make room there, or let fewer releases be "
            "kept (api_endpoint_keep_releases); then run again."
        )
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return f"{text}. The filesystem, or `ulimit -f`, does not allow a file of that size there."
    return hide(
        text if isinstance(error, (DeployError, OSError)) else f"{type(error).__name__}: {text}"
    )
