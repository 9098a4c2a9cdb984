# SPDX-License-Identifier: GPL-3.0-or-later
"""The disks of a host: what is on each, which one is the volume, and what may be done to it.

Looking is apart from deciding: `look` asks lsblk, wipefs and blkid, `choose` takes their answers and either says what to do
or refuses, with the disk, what is on it, and the remedy. A disk is formatted only when nothing at all was found on it.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.artifacts.store import mib
from ansible.module_utils.api_endpoint.digests import CHUNK_BYTES
from ansible.module_utils.api_endpoint.errors import DeployError

COLUMNS = "NAME,PATH,TYPE,SIZE,RO,MOUNTPOINTS,SERIAL"
FILESYSTEMS = {"ext4": 16, "xfs": 12}  # and the longest label of each
OPTIONS = ("nofail", "discard", "x-systemd.device-timeout=10s")
LEAST_BYTES = 16 * 1024 * 1024  # bytes by which a disk must exceed its filesystem to count as grown
IN_WORDS = {
    "LVM2_member": "a part of an LVM volume group",
    "linux_raid_member": "a member of a RAID",
    "crypto_LUKS": "an encrypted volume (LUKS)",
    "swap": "swap space",
    "dos": "a partition table",
    "gpt": "a partition table",
    "PMBR": "a partition table",
}

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in English; its failure is the caller's to judge."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env=environment,
    )


@dataclass(frozen=True)
class Signature:
    """One thing that was recognised on a disk."""

    kind: str
    label: str = ""
    uuid: str = ""

    def __str__(self) -> str:
        """Say what it is."""
        words = (
            IN_WORDS.get(self.kind)
            or f"{'an' if self.kind[:1] in 'aeiox' else 'a'} {self.kind} filesystem"
        )
        return words + (f" with the label {self.label!r}" if self.label else "")


@dataclass(frozen=True)
class Disk:
    """A disk, or a part of one."""

    path: str
    kind: str = "disk"  # lsblk's word: disk, part, lvm, crypt, loop, rom, ...
    size: int = 0  # bytes
    read_only: bool = False
    mounts: tuple[str, ...] = ()
    parts: tuple[Disk, ...] = ()
    serial: str = ""
    signatures: tuple[Signature, ...] = ()
    is_held: bool = False  # the kernel uses it
    is_zero: bool = True  # its first and its last MiB hold nothing but zeros
    is_file: bool = False  # a loop device over a file of this host, which is no disk
    is_system: bool = False  # it, its whole or its parts hold /
    last_mount: str = "unknown"  # where an ext4 without a label was mounted last; empty for never

    def __str__(self) -> str:
        """Name it, with its size and what is on it."""
        return f"{self.path} ({mib(self.size)}): {self.contents}"

    @property
    def contents(self) -> str:
        """What is on it, in words."""
        if self.is_system:
            return "it holds the system (/)"
        if self.mounts:
            return f"it is mounted at {', '.join(self.mounts)}"
        if self.parts:
            return "it has partitions or volumes: " + ", ".join(
                f"{part.path}{f' mounted at {part.mounts[0]}' if part.mounts else ''}"
                for part in self.parts
            )
        if self.signatures:
            return " and ".join(dict.fromkeys(str(signature) for signature in self.signatures))
        if self.is_held:
            return "the system uses it (`lsof` and `ls /sys/class/block/*/holders` say for what)"
        if self.is_file:
            return "it is a file of this host, not a disk"
        return "nothing" if self.is_zero else "data of an unknown kind"

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing on it, and nobody uses it."""
        in_use = self.is_system or self.mounts or self.parts or self.is_held or self.is_file
        return not in_use and not self.signatures and self.is_zero and self.size > 0

    @property
    def filesystem(self) -> Signature:
        """What it is formatted with; an empty signature when it is not, or with more than one thing."""
        return self.signatures[0] if len(self.signatures) == 1 else Signature("")

    @property
    def identity(self) -> dict[str, Any]:
        """What tells this disk from others when it has no filesystem."""
        return {"path": self.path, "size": self.size, "serial": self.serial}


def everything(disks: list[Disk] | tuple[Disk, ...]) -> Iterator[Disk]:
    """Yield disks, their parts, and the parts of these."""
    for disk in disks:
        yield disk
        yield from everything(disk.parts)


# --- reading what the tools say


def parse_lsblk(text: str) -> list[Disk]:
    """Return the disks of `lsblk --json --bytes --output COLUMNS`."""

    def disk(entry: dict[str, Any]) -> Disk:
        parts = tuple(disk(child) for child in entry.get("children") or [])
        mounts = tuple(mount for mount in entry.get("mountpoints") or [] if mount)
        return Disk(
            path=entry["path"],
            kind=entry["type"],
            size=int(entry.get("size") or 0),
            read_only=bool(entry.get("ro")),
            mounts=mounts,
            parts=parts,
            serial=(entry.get("serial") or "").strip(),
        )

    def mark(found: Disk, whole_is_system: bool) -> Disk:
        is_system = whole_is_system or any("/" in part.mounts for part in everything([found]))
        return replace(
            found, is_system=is_system, parts=tuple(mark(part, is_system) for part in found.parts)
        )

    return [mark(disk(entry), False) for entry in json.loads(text)["blockdevices"]]


def parse_wipefs(text: str) -> tuple[Signature, ...]:
    """Return the signatures of `wipefs --json --no-act`, which says nothing at all for none on older versions."""
    if not text.strip():
        return ()
    found = (
        Signature(entry["type"], entry.get("label") or "", entry.get("uuid") or "")
        for entry in json.loads(text).get("signatures") or []
    )
    return tuple(dict.fromkeys(found))


def parse_blkid(text: str) -> Signature:
    """Return what `blkid -p -o export` recognised; an empty signature for nothing."""
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    values = {name: re.sub(r"\\(.)", r"\1", value) for name, value in values.items()}
    return Signature(
        values.get("TYPE") or values.get("PTTYPE") or "",
        values.get("LABEL", ""),
        values.get("UUID", ""),
    )


@dataclass(frozen=True)
class Mounted:
    """What is mounted at a place."""

    source: str
    kind: str
    read_only: bool
    number: str  # major:minor


def parse_mounts(text: str, place: str) -> Mounted | None:
    """Return what /proc/<pid>/mountinfo has at a place, the uppermost; None when nothing is mounted there."""
    found = None
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, more = before.split(), after.split()
        if len(fields) > 5 and len(more) > 2 and re.sub(r"\\040", " ", fields[4]) == place:
            options = {*fields[5].split(","), *more[2].split(",")}
            found = Mounted(more[1], more[0], "ro" in options, fields[2])
    return found


def mounted_at(place: str, process: str = "self") -> Mounted | None:
    """Return what a process sees mounted at a place."""
    try:
        return parse_mounts(Path("/proc", process, "mountinfo").read_text(encoding="utf-8"), place)
    except OSError:
        return None


# --- looking


def is_zero(path: str, size: int) -> bool:
    """Tell whether the first and the last MiB of a disk hold nothing but zeros."""
    with open(path, "rb", buffering=0) as disk:
        for offset in (0, max(0, size - CHUNK_BYTES)):
            disk.seek(offset)
            if any(disk.read(CHUNK_BYTES)):
                return False
    return True


def is_held(path: str) -> bool:
    """Tell whether the kernel uses a disk: it is mounted somewhere, or has something above it."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError:
        return True
    return False


def is_file(path: str) -> bool:
    """Tell whether a loop device's content is a file that lies on this host."""
    with suppress(OSError):
        backing = (
            Path("/sys/class/block", os.path.basename(path), "loop/backing_file")
            .read_text(encoding="utf-8")
            .strip()
        )
        return backing.endswith(" (deleted)") or os.path.exists(backing)
    return False


def probe(disk: Disk, run: Run = run) -> Disk:
    """Return a disk with what is found on it."""
    if disk.parts:
        return replace(disk, parts=tuple(probe(part, run) for part in disk.parts))
    if disk.size == 0:
        return disk
    signatures = parse_wipefs(run("wipefs", "--json", "--no-act", disk.path).stdout)
    asked = run("blkid", "--probe", "--output", "export", disk.path)
    if (
        not signatures and asked.returncode != 2
    ):  # 2: nothing was found; 8: several things; 0: something
        signatures = (Signature(parse_blkid(asked.stdout).kind or "unrecognised"),)
    if [(found.kind, found.label) for found in signatures] == [("ext4", "")]:
        shown = re.search(
            r"^Last mounted on:\s*(.*)", run("dumpe2fs", "-h", disk.path).stdout, re.M
        )
        disk = replace(
            disk, last_mount=shown[1].replace("<not available>", "").strip() if shown else "unknown"
        )
    if disk.mounts or disk.is_system:
        return replace(disk, signatures=signatures)
    try:
        zero = is_zero(disk.path, disk.size)
    except OSError:
        zero = False
    return replace(
        disk,
        signatures=signatures,
        is_zero=zero,
        is_held=is_held(disk.path),
        is_file=disk.kind == "loop" and is_file(disk.path),
    )


def look(run: Run = run) -> list[Disk]:
    """Return the disks of this host, with what is on them."""
    listed = run("lsblk", "--json", "--bytes", "--output", COLUMNS)
    if listed.returncode != 0:
        raise DeployError(f"lsblk failed: {listed.stderr.strip()}")
    there = []
    for disk in parse_lsblk(listed.stdout):
        with suppress(OSError):
            if stat.S_ISBLK(os.stat(disk.path).st_mode) and disk.size and disk.kind != "rom":
                there.append(probe(disk, run))
    return there


# --- deciding


@dataclass(frozen=True)
class Wanted:
    """What api_endpoint_volume asks for."""

    mount: str
    device: str = "auto"
    label: str = ""
    filesystem: str = "ext4"


@dataclass(frozen=True)
class Choice:
    """The disk, and what is to be done: `use` it as it is mounted, `mount` it, or `format` and mount it."""

    disk: Disk
    action: str


def listing(disks: list[Disk]) -> str:
    """Say which disks there are."""
    return "This host has:\n" + "\n".join(f"  {disk}" for disk in disks)


def choose(
    wanted: Wanted,
    disks: list[Disk],
    mounted: Mounted | None,
    fstab: str,
    staging: str = "",
    unfinished: dict[str, Any] | None = None,
) -> Choice:
    """Return the volume and what is to be done with it, or raise DeployError.

    `staging` is where an interrupted move may have left it mounted; `unfinished` is the disk that an interrupted run was
    formatting (its identity and the new filesystem's uuid).
    """
    device = os.path.realpath(wanted.device) if wanted.device != "auto" else ""
    parts = list(everything(disks))
    if mounted:
        return Choice(_mounted(wanted, device, parts, mounted), "use")
    if line := line_for(fstab, wanted.mount):
        disk = _in_fstab(wanted, device, parts, line)
        return Choice(_usable(disk, wanted, staging), "mount")
    if device:
        named = [disk for disk in parts if os.path.realpath(disk.path) == device]
        if not named:
            raise DeployError(
                f"api_endpoint_volume.device is {wanted.device!r}, and this host has no such disk. Attach the volume, or "
                f"correct the name. {listing(disks)}"
            )
        return _judge(named[0], wanted, staging, unfinished or {})
    ours = [
        disk
        for disk in parts
        if wanted.label and wanted.label in [found.label for found in disk.signatures]
    ]
    ours += [disk for disk in parts if disk not in ours and _was_staged(disk, staging)]
    ours += [disk for disk in parts if disk not in ours and _is_unfinished(disk, unfinished or {})]
    if len(ours) > 1:
        names = ", ".join(disk.path for disk in ours)
        raise DeployError(
            f"Several disks have the label {wanted.label!r}: {names}. Name the right one in api_endpoint_volume.device."
        )
    blank = [disk for disk in disks if disk.is_blank]
    if not ours and len(blank) != 1:
        what = "Several disks are unused" if blank else "No disk is unused"
        raise DeployError(
            f"{what}, so api_endpoint_volume.device: auto cannot tell which one is the volume. "
            + ("Name it" if blank else "Attach a new volume, or name one with its label")
            + f" (device: /dev/sdb). Nothing was formatted. {listing(disks)}"
        )
    return _judge((ours or blank)[0], wanted, staging, unfinished or {})


def _mounted(wanted: Wanted, device: str, parts: list[Disk], mounted: Mounted) -> Disk:
    """Return the disk that is mounted at the volume's place already."""
    found = [
        disk for disk in parts if os.path.realpath(disk.path) == os.path.realpath(mounted.source)
    ]
    if not found:
        raise DeployError(
            f"{mounted.source} ({mounted.kind}) is mounted at {wanted.mount}, and this host has no such disk any more. "
            "If the volume was pulled off, attach it again, and then: "
            f"umount --lazy {wanted.mount} && mount {wanted.mount}. If it is none, leave api_endpoint_volume empty."
        )
    if device and os.path.realpath(found[0].path) != device:
        raise DeployError(
            f"{mounted.source} is mounted at {wanted.mount}, and api_endpoint_volume.device is {wanted.device!r}. "
            "Correct the one, or unmount the other."
        )
    if mounted.kind != wanted.filesystem:
        raise DeployError(_wrong(found[0].path, mounted.kind, wanted))
    if mounted.read_only:
        raise DeployError(
            f"The volume {mounted.source} is mounted read-only at {wanted.mount}. Nothing was changed. `dmesg` says why: "
            f"after an error of the disk, stop the endpoint, `umount {wanted.mount}`, `fsck {mounted.source}`, run again; "
            f"otherwise `mount -o remount,rw {wanted.mount}`."
        )
    return found[0]


def _wrong(path: str, kind: str, wanted: Wanted) -> str:
    remedy = (
        f"Set filesystem: {kind}, or name another volume."
        if kind in FILESYSTEMS
        else "Name another one."
    )
    return (
        f"The volume {path} has the filesystem {kind}, and api_endpoint_volume.filesystem is {wanted.filesystem!r}. "
        f"Nothing was changed. {remedy}"
    )


def _in_fstab(wanted: Wanted, device: str, parts: list[Disk], line: list[str]) -> Disk:
    """Return the disk that /etc/fstab has for the volume's place."""
    key, _, value = line[0].partition("=")
    value = value.strip('"')

    def is_it(disk: Disk) -> bool:
        found = disk.filesystem
        names = {"UUID": found.uuid, "LABEL": found.label}
        return (
            names.get(key) == value
            if value
            else os.path.realpath(line[0]) == os.path.realpath(disk.path)
        )

    matching = [disk for disk in parts if is_it(disk)]
    if not matching:
        raise DeployError(
            f"/etc/fstab has {line[0]} for {wanted.mount}, and no disk of this host is that. Nothing was formatted. "
            f"Attach the volume again. Only if it is gone for good: remove that line from /etc/fstab. {listing(parts)}"
        )
    if device and os.path.realpath(matching[0].path) != device:
        raise DeployError(
            f"/etc/fstab has {line[0]} for {wanted.mount}, which is {matching[0].path}, and api_endpoint_volume.device is "
            f"{wanted.device!r}. Correct the one or the other."
        )
    return matching[0]


def _usable(disk: Disk, wanted: Wanted, staging: str) -> Disk:
    """Return a disk that has its filesystem and can be mounted, or raise DeployError."""
    elsewhere = [place for place in disk.mounts if place != staging]
    if disk.is_system or elsewhere:
        raise DeployError(
            f"The disk {disk}. It is left alone. Name another one in api_endpoint_volume.device, or unmount it."
        )
    if disk.read_only:
        raise DeployError(
            f"The disk {disk.path} is read-only. Nothing was changed. Attach the volume so that it can be written (a "
            "snapshot or a volume that is attached elsewhere cannot), or name another one in api_endpoint_volume.device."
        )
    if not disk.mounts and disk.is_held:
        raise DeployError(
            f"The disk {disk.path} is in use: the system has opened it for itself. Name another one, or free it."
        )
    if disk.filesystem.kind != wanted.filesystem:
        raise DeployError(_wrong(disk.path, disk.filesystem.kind or disk.contents, wanted))
    return disk


def _is_unfinished(disk: Disk, unfinished: dict[str, Any]) -> bool:
    """Tell whether a disk is what an interrupted run was formatting, and has nothing else on it since.

    Without a uuid, the tool of Cloud VPS was formatting it: what that makes has no label, and was never mounted.
    """
    known = {name: unfinished.get(name) for name in disk.identity}
    is_new = (
        not disk.last_mount
        if not unfinished.get("uuid")
        else disk.filesystem.uuid == unfinished["uuid"]
    )
    is_ours = not disk.signatures or is_new
    in_use = disk.is_system or disk.mounts or disk.parts or disk.is_held
    return bool(unfinished) and known == disk.identity and is_ours and not in_use


def _was_staged(disk: Disk, staging: str) -> bool:
    """Tell whether an interrupted run has a disk mounted where its copy is made, or had."""
    return bool(staging) and (staging in disk.mounts or disk.last_mount == staging)


def _judge(disk: Disk, wanted: Wanted, staging: str, unfinished: dict[str, Any]) -> Choice:
    """Say what to do with a disk, or refuse it."""
    if disk.read_only or disk.is_system:
        _usable(disk, wanted, staging)
    if disk.is_blank or _is_unfinished(disk, unfinished):
        return Choice(disk, "format")
    has_label = wanted.label in [
        signature.label for signature in disk.signatures if signature.label
    ]
    if has_label or _was_staged(disk, staging):
        return Choice(_usable(disk, wanted, staging), "mount")
    kind, label = disk.filesystem.kind, disk.filesystem.label
    remedy = f"To wipe it, if nothing on it is needed: wipefs --all {disk.path}"
    if disk.mounts or disk.parts or disk.is_held or disk.is_file:
        remedy = "Name another one in api_endpoint_volume.device, or free this one"
    elif kind in FILESYSTEMS and label:
        remedy = f"To use it with what is on it: api_endpoint_volume.label: {label}. {remedy}"
    elif kind in FILESYSTEMS:
        tool = {
            "ext4": f"e2label {disk.path} {wanted.label}",
            "xfs": f"xfs_admin -L {wanted.label} {disk.path}",
        }[kind]
        remedy = f"To use it with what is on it, give it the label: {tool}. {remedy}"
    raise DeployError(
        f"The disk {disk.path} is not empty: {disk.contents}. It was neither formatted nor mounted. {remedy}, and run again."
    )


# --- /etc/fstab


def fields_of(line: str) -> list[str]:
    """Return the fields of a line of fstab; none for a comment."""
    return [] if line.lstrip().startswith("#") else line.split()


def line_for(fstab: str, mount: str) -> list[str] | None:
    """Return the fields of the line for a mount point."""
    found = [
        fields
        for fields in map(fields_of, fstab.splitlines())
        if len(fields) > 2 and fields[1] == mount
    ]
    return found[-1] if found else None


def with_line(fstab: str, uuid: str, kind: str, wanted: Wanted, staging: str) -> str:
    """Return fstab with one line for the volume, and every other line as it is.

    A line that is there already, and names the volume, keeps its options; `nofail` and `discard` are added.
    """
    there = line_for(fstab, wanted.mount)
    source = f"UUID={uuid}"
    given = there[3].split(",") if there and len(there) > 3 else []
    names = {option.split("=")[0] for option in given}
    more = [option for option in OPTIONS if option.split("=")[0] not in names]
    line = (
        f"{source} {wanted.mount} {kind} {','.join([*given, *more])} 0 {2 if kind == 'ext4' else 0}"
    )
    if there and there[0] == source and {"nofail", "discard"} <= names:
        line = ""  # good as it is
    kept, placed = [], not line
    for old in fstab.splitlines():
        fields = fields_of(old)
        if len(fields) > 2 and fields[0] == source and fields[1] == staging:
            continue
        if line and len(fields) > 2 and fields[1] == wanted.mount:
            if not placed:
                kept.append(line)
            placed = True
            continue
        kept.append(old)
    if not placed:
        kept.append(line)
    return "".join(f"{entry}\n" for entry in kept)


# --- growing


def filesystem_size(disk: Disk, kind: str, mount: str, run: Run = run) -> int:
    """Return the bytes that a mounted filesystem spans; 0 when it cannot be told."""
    shown = run("dumpe2fs", "-h", disk.path) if kind == "ext4" else run("xfs_info", mount)
    return parse_filesystem_size(shown.stdout)


def parse_filesystem_size(text: str) -> int:
    """Return the size that dumpe2fs or xfs_info shows."""
    if found := re.search(r"^data\s*=\s*bsize=(\d+)\s+blocks=(\d+)", text, re.M):
        return int(found[1]) * int(found[2])
    count = re.search(r"^Block count:\s*(\d+)", text, re.M)
    size = re.search(r"^Block size:\s*(\d+)", text, re.M)
    return int(count[1]) * int(size[1]) if count and size else 0


def has_grown(disk: Disk, size: int) -> bool:
    """Tell whether a disk has become larger than its filesystem."""
    return bool(size) and disk.size - size > LEAST_BYTES
