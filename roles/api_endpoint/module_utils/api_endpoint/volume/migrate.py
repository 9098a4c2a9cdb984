# SPDX-License-Identifier: GPL-3.0-or-later
"""Copy a folder to another disk so that nothing is lost, whenever it is cut off: the source stays, the copy is compared.

A file gets its name on the target only when it is whole, with its owner, rights and time, so that the next run goes on with
the file that was cut off. Holes stay holes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ansible.module_utils.api_endpoint.artifacts.store import INODES, MARGIN_BYTES, PART, mib
from ansible.module_utils.api_endpoint.digests import CHUNK_BYTES
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.files import BUILDING

TEMPORARY = ".moving"
STAMP = "artifact.json"

Say = Callable[[str], None]


@dataclass
class Listing:
    """What lies below a folder, by relative path."""

    folders: list[str] = field(default_factory=list)
    files: dict[str, os.stat_result] = field(default_factory=dict)  # links too

    @property
    def size(self) -> int:
        """The bytes that it takes on the disk."""
        return sum(min(found.st_size, found.st_blocks * 512) for found in self.files.values())


def listing(root: Path) -> Listing:
    """Return what lies below a folder, on its own filesystem; what an earlier run did not finish building is left out."""
    found = Listing()
    if not root.is_dir():
        return found
    device = root.stat().st_dev
    for folder, folders, files in os.walk(root):
        here = os.path.relpath(folder, root)
        for name in sorted(folders):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                files.append(name)
            elif os.lstat(path).st_dev != device:
                raise DeployError(
                    f"Something is mounted at {path}, below the volume's place {root}. Unmount it, or choose another place "
                    "(api_endpoint_volume.mount)."
                )
        folders[:] = [
            name
            for name in sorted(folders)
            if not os.path.islink(os.path.join(folder, name))
            and not name.startswith(BUILDING)
            and name != "lost+found"
        ]
        found.folders += [os.path.normpath(os.path.join(here, name)) for name in folders]
        for name in sorted(files):
            if name != TEMPORARY:
                found.files[os.path.normpath(os.path.join(here, name))] = os.lstat(
                    os.path.join(folder, name)
                )
    return found


def strangers(root: Path, data_dir: Path) -> list[str]:
    """Return what lies below `root` and is not the endpoint's data: it would be hidden by what is mounted there."""
    if not root.is_dir() or root == data_dir:
        return []
    found = []
    way = [root / part for part in _ancestors(data_dir, root)]
    for folder in [root, *way]:
        if folder.is_dir():
            names = (folder / name for name in sorted(os.listdir(folder)) if name != "lost+found")
            found += [str(path) for path in names if path not in way and path != data_dir]
    return found


def _ancestors(path: Path, root: Path) -> list[Path]:
    """Return the folders between `root` and `path`, relative to `root`, without both."""
    parts = path.relative_to(root).parts[:-1]
    return [Path(*parts[: count + 1]) for count in range(len(parts))]


def segments(handle: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, end) of the parts of a file that hold data; holes are left out."""
    offset = 0
    while offset < size:
        try:
            begin = os.lseek(handle, offset, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(handle, begin, os.SEEK_HOLE)
        yield begin, end
        offset = end


def content(path: Path, seen: Callable[[int], None], from_disk: bool = False) -> str:
    """Return a digest of a file's content, whatever is a hole in it; `from_disk` reads what the disk has, not the memory."""
    found = hashlib.sha256()
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        size = os.fstat(handle).st_size
        if from_disk:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        found.update(str(size).encode())
        for begin, end in segments(handle, size):
            while begin < end:
                piece = os.pread(handle, min(CHUNK_BYTES, end - begin), begin)
                if not piece:
                    raise DeployError(f"{path} became shorter while it was read. Run again.")
                # Zeros count for nothing, so that a hole on one disk and zeros on the other are the same.
                if any(piece):
                    _update(found, begin, piece)
                begin += len(piece)
                seen(len(piece))
    finally:
        os.close(handle)
    return found.hexdigest()


def _update(found: hashlib._Hash, offset: int, piece: bytes) -> None:
    """Add a piece of a file to its digest, by blocks, leaving out those of zeros."""
    zeros = bytes(4096)
    for begin in range(0, len(piece), 4096):
        block = piece[begin : begin + 4096]
        if block != zeros[: len(block)]:
            found.update(f"@{offset + begin}:".encode())
            found.update(block)


class Progress:
    """Says how far it is: percent, rate and time left."""

    def __init__(self, say: Say, what: str, total: int) -> None:
        self.say, self.what, self.total = say, what, total
        self.done = 0
        self.begun = time.monotonic()

    def __call__(self, count: int) -> None:
        """Count so many bytes more."""
        self.done += count
        rate = self.done / max(time.monotonic() - self.begun, 0.001)
        left = max(0, self.total - self.done) / max(rate, 1)
        minutes, seconds = divmod(int(left), 60)
        self.say(
            f"{self.what}: {min(1, self.done / max(self.total, 1)):.0%} of {mib(self.total)}, {mib(rate)}/s, "
            f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"
        )


class Move:
    """The copy of a folder's content to a folder on another disk; `store` is the store of data, relative to both.

    A volume that comes from another host may have a store of its own: what both have under the same key is the same.
    """

    def __init__(self, source: Path, target: Path, store: str) -> None:
        self.source = source
        self.target = target
        self.store = os.path.normpath(store)
        self.compared: set[str] = set()

    def is_known(self, name: str) -> bool:
        """Tell whether a file belongs to an entry of the store that the volume has from elsewhere, or is half of one."""
        inner = os.path.relpath(name, self.store)
        first = inner.split(os.sep)[0]
        if first.startswith(PART):
            return os.path.lexists(self.target / self.store / first)
        stamp = os.path.join(self.store, first, STAMP)
        if (
            first == ".."
            or not (self.target / stamp).is_file()
            or not (self.source / stamp).is_file()
        ):
            return False
        return not same((self.source / stamp).lstat(), (self.target / stamp).lstat())

    def missing(self, found: Listing) -> list[str]:
        """Return the files that the target does not have yet; refuse when it has another one under the same name.

        The stamp of an entry, which says that it is whole, comes last.
        """
        wanted = []
        for name, known in found.files.items():
            path = self.target / name
            if not os.path.lexists(path):
                if not self.is_known(name):
                    wanted.append(name)
            elif (
                not same(known, path.lstat())
                and not self.is_known(name)
                and not alike(self.source / name, path)
            ):
                raise DeployError(
                    f"Both disks have {name}, and they differ: {self.source / name} and, on the volume, {path}. Nothing was "
                    "switched. Move away or remove the one that is not needed, and run again."
                )
        return sorted(wanted, key=lambda name: os.path.basename(name) == STAMP)

    def check_room(self, size: int, files: int) -> None:
        """Raise DeployError when the target lacks room."""
        disk = os.statvfs(self.target)
        free = disk.f_bavail * disk.f_frsize
        if size and size + MARGIN_BYTES > free:
            raise DeployError(too_small(self.source, size, free))
        if files and disk.f_files and files + INODES > disk.f_favail:
            raise DeployError(
                f"The volume has room for {disk.f_favail:,} more files, and {self.source} has {files:,}."
            )

    def copy(self, say: Say) -> int:
        """Copy what is missing, compare everything that was not compared yet; return the number of files there are."""
        found = listing(self.source)
        missing = self.missing(found)
        size = sum(
            min(found.files[name].st_size, found.files[name].st_blocks * 512) for name in missing
        )
        self.check_room(size, len(missing))
        (self.target / TEMPORARY).unlink(missing_ok=True)
        for name in found.folders:
            (self.target / name).mkdir(mode=0o700, exist_ok=True)
        progress = Progress(say, "moving data to the volume", size)
        for name in missing:
            self._copy(name, found.files[name], progress)
        os.sync()
        self._compare(found, say)
        for name in ["", *sorted(found.folders, key=len, reverse=True)]:
            take_over(self.source / name, self.target / name)
        os.sync()
        return len(found.files)

    def _copy(self, name: str, known: os.stat_result, progress: Progress) -> None:
        source, target, temporary = self.source / name, self.target / name, self.target / TEMPORARY
        if stat.S_ISLNK(known.st_mode):
            temporary.symlink_to(os.readlink(source))
        elif stat.S_ISREG(known.st_mode):
            with open(source, "rb", buffering=0) as old, open(temporary, "wb", buffering=0) as new:
                new.truncate(known.st_size)
                for begin, end in segments(old.fileno(), known.st_size):
                    while begin < end:
                        piece = os.pread(old.fileno(), min(CHUNK_BYTES, end - begin), begin)
                        if not piece:
                            raise DeployError(
                                f"{source} became shorter while it was copied. Run again."
                            )
                        begin += os.pwrite(new.fileno(), piece, begin)
                        progress(len(piece))
                os.fsync(new.fileno())
        else:
            raise DeployError(f"{source} is neither a file nor a folder nor a link. Remove it.")
        take_over(source, temporary)
        os.rename(temporary, target)

    def _compare(self, found: Listing, say: Say) -> None:
        """Read every file again, from both disks, and compare."""
        names = [
            name
            for name, known in found.files.items()
            if stat.S_ISREG(known.st_mode) and name not in self.compared and not self.is_known(name)
        ]
        progress = Progress(
            say,
            "comparing what was moved",
            2 * sum(found.files[name].st_blocks * 512 for name in names),
        )
        for name in names:
            if content(self.source / name, progress) != content(
                self.target / name, progress, from_disk=True
            ):
                (self.target / name).unlink()
                raise DeployError(
                    f"The copy of {self.source / name} on the volume differs from it. The copy was removed, and nothing was "
                    "switched. Run again; when it happens again, the volume or the host's memory is faulty."
                )
            self.compared.add(name)


def same(known: os.stat_result, found: os.stat_result) -> bool:
    """Tell by kind, size and time whether two files are the same."""
    kind = stat.S_IFMT(known.st_mode) == stat.S_IFMT(found.st_mode)
    if stat.S_ISLNK(known.st_mode):
        return kind
    return kind and (known.st_size, known.st_mtime_ns) == (found.st_size, found.st_mtime_ns)


def alike(one: Path, other: Path) -> bool:
    """Tell by reading them whether two files of the same size have the same content, when both are files."""
    known, found = one.lstat(), other.lstat()
    if (
        not (stat.S_ISREG(known.st_mode) and stat.S_ISREG(found.st_mode))
        or known.st_size != found.st_size
    ):
        return False
    return content(one, lambda _count: None) == content(other, lambda _count: None)


def take_over(source: Path, target: Path) -> None:
    """Give a copy the owner, rights and times of the original."""
    known = source.lstat()
    os.chown(target, known.st_uid, known.st_gid, follow_symlinks=False)
    shutil.copystat(source, target, follow_symlinks=False)


def too_small(source: Path, size: int, free: int) -> str:
    """Say that a volume has no room for what is to be moved to it."""
    return (
        f"The volume has {mib(free)} free, and {mib(size)} of {source} move to it, with {mib(MARGIN_BYTES)} to spare. "
        "Nothing was moved. Take a larger volume, or keep fewer releases (api_endpoint_keep_releases)."
    )
