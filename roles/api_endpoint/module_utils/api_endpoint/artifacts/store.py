# SPDX-License-Identifier: GPL-3.0-or-later
"""The store of model data: what an artifact is, under which key it lies, and whether it is still what was verified.

    <data_dir>/<key>/artifact         a file or a folder, never changed
    <data_dir>/<key>/artifact.json    its stamp: key, size, fingerprint, source
    <data_dir>/.part-<id>             a half that the next run goes on from

The key of a plain file is its SHA-256; that of a folder of the laptop the digest of its tree; that of anything made of other
data (unpacked, or by a command) a digest of what it is made of. So every key is known before a byte is moved, but for a
download without a checksum.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.digests import value_digest
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.files import (
    BUILDING,
    chown_tree,
    read_json,
    staged_dir,
    write_file,
    write_json,
)

PART = ".part-"
MARGIN_BYTES = 64 * 1024 * 1024  # bytes that stay free on the disk of the data
INODES = 1000  # and files


@dataclass(frozen=True)
class Artifact:
    """One entry of api_endpoint_artifacts; its key is empty while it is not known."""

    dest: str
    key: str
    sha256: str = ""  # of what is fetched
    urls: list[str] = field(default_factory=list)
    src: str = ""
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    size: int | None = None  # bytes of what is fetched
    unpack: bool = False
    command: str = ""
    inputs: list[str] = field(default_factory=list)  # the dest of what the command reads
    mode: str = ""
    writable: bool = False
    is_folder: bool = False

    @property
    def source(self) -> str:
        """Where it comes from, for a stamp and for messages."""
        return (
            self.src
            or self.path
            or (self.urls[0] if self.urls else f"the command {self.command!r}")
        )

    def with_key(self, key: str) -> Artifact:
        """Return the same artifact with its key."""
        return replace(self, key=key)

    @property
    def part(self) -> str:
        """The name of its half."""
        return PART + (self.sha256 or value_digest(self.urls))


def key_of(sha256: str, unpack: bool, mode: str) -> str:
    """Return the key of what is fetched, and of what is made of it."""
    if not sha256 or not (unpack or mode):
        return sha256
    return value_digest({"sha256": sha256, "unpack": unpack, "mode": mode})


def fingerprint_of_file(size: int, mtime_ns: int, mode: int) -> str:
    """Return the fingerprint of something that is no folder."""
    return value_digest([".", size, mtime_ns, stat.S_IFMT(mode)])


def fingerprint(path: Path) -> str:
    """Return a digest of sizes and times, which says without reading it that a file or folder was not touched."""

    def entry(name: str) -> list[Any]:
        found = os.lstat(name)
        return [
            os.path.relpath(name, path),
            found.st_size,
            found.st_mtime_ns,
            stat.S_IFMT(found.st_mode),
        ]

    if not path.is_dir():
        found = os.lstat(path)
        return fingerprint_of_file(found.st_size, found.st_mtime_ns, found.st_mode)
    entries = []
    for folder, folders, files in os.walk(path):
        folders.sort()
        entries += [entry(os.path.join(folder, name)) for name in sorted(files)]
    return value_digest(entries)


def extent(path: Path) -> tuple[int, int]:
    """Return bytes and number of files of a file or folder."""
    if not path.is_dir():
        return path.stat().st_size, 1
    sizes = [
        os.lstat(os.path.join(folder, name)).st_size
        for folder, _, files in os.walk(path)
        for name in files
    ]
    return sum(sizes), len(sizes)


def mib(count: float) -> str:
    """Return a number of bytes as people read it."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:.0f} bytes"


class Store:
    """The artifacts on the host."""

    def __init__(self, folder: str | Path, group: str) -> None:
        self.folder = Path(folder)
        self.group = group

    def claim(self, name: str, may_write: bool) -> None:
        """Make sure that the folder is this endpoint's: what it does not need is removed there."""
        mark = self.folder / ".endpoint"
        owner = mark.read_text(encoding="utf-8").strip() if mark.exists() else ""
        if owner not in ("", name):
            raise DeployError(
                f"api_endpoint_data_dir is {str(self.folder)!r}, which holds the data of the endpoint {owner!r}. "
                "Give each endpoint a folder of its own."
            )
        if not owner and may_write:
            write_file(mark, f"{name}\n", 0o640)

    def place(self, key: str) -> Path:
        """Return where an artifact lies."""
        return self.folder / key / "artifact"

    def stamp(self, key: str) -> dict[str, Any]:
        """Return what was written down of an artifact; empty when there is none."""
        return read_json(self.folder / key / "artifact.json") or {} if key else {}

    def has(self, key: str) -> bool:
        """Tell whether an artifact is here and untouched since it was verified."""
        stamp = self.stamp(key)
        try:
            return bool(stamp) and fingerprint(self.place(key)) == stamp.get("fingerprint")
        except FileNotFoundError:
            return False

    def unverified(self, urls: list[str]) -> str:
        """Return the key of what was fetched without a checksum from these URLs; empty when nothing was."""
        for path in sorted(self.folder.glob("*/artifact.json")):
            stamp = read_json(path) or {}
            if stamp.get("unverified") and stamp.get("source") in urls and self.has(stamp["key"]):
                return str(stamp["key"])
        return ""

    def add(self, key: str, made: Path, **stamp: Any) -> None:
        """Give a verified file or folder, on the same filesystem, its place; it moves there."""
        final = self.folder / key
        size, files = extent(made)
        new = self.folder / f"{BUILDING}new-{key[:16]}"
        shutil.rmtree(new, ignore_errors=True)
        with staged_dir(new) as folder:
            os.rename(made, folder / "artifact")
            chown_tree(folder, "root", self.group)
            if mode := stamp.pop("mode", ""):
                os.chmod(folder / "artifact", int(mode, 8))
            known = {"key": key, "size": size, "files": files, **stamp}
            write_json(
                folder / "artifact.json",
                {**known, "fingerprint": fingerprint(folder / "artifact")},
                0o640,
                self.group,
            )
        self.replace(new, final)

    def replace(self, new: Path, final: Path) -> None:
        """Give a finished folder its name; what had it, and is damaged, goes."""
        old = self.folder / f"{BUILDING}old-{final.name[:16]}"
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            os.rename(final, old)
        os.rename(new, final)
        shutil.rmtree(old, ignore_errors=True)

    def restamp(self, key: str) -> None:
        """Note that an artifact, whose content was compared, is what it should be."""
        stamp = {**self.stamp(key), "fingerprint": fingerprint(self.place(key))}
        write_json(self.folder / key / "artifact.json", stamp, 0o640, self.group)

    def check_room(self, needs: Iterable[tuple[str, int]], files: int = 0) -> None:
        """Raise DeployError when the disk of the data lacks room for the bytes of what is needed, or for so many files."""
        folder = self.folder
        while not folder.exists():
            folder = folder.parent
        disk = os.statvfs(folder)
        free, free_files = disk.f_bavail * disk.f_frsize, disk.f_favail
        wanted = list(needs)
        total = sum(count for _, count in wanted)
        if wanted and total + MARGIN_BYTES > free:
            listed = ", ".join(f"{what}: {mib(count)}" for what, count in wanted)
            raise DeployError(
                f"The disk of {self.folder} has {mib(free)} free, and {mib(total)} are needed, with "
                f"{mib(MARGIN_BYTES)} to spare ({listed}). "
                "Nothing was fetched. Make room, keep fewer releases (api_endpoint_keep_releases), or move the "
                "data to a larger disk (api_endpoint_data_dir)."
            )
        # A filesystem without a fixed number of inodes says 0 of 0.
        if wanted and disk.f_files and files + INODES > free_files:
            raise DeployError(
                f"The disk of {self.folder} has room for {free_files:,} more files, and {files + INODES:,} are needed. "
                "Nothing was fetched. Remove what is not needed there (`df -i` counts)."
            )
