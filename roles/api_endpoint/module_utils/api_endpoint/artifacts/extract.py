# SPDX-License-Identifier: GPL-3.0-or-later
"""Extract an archive, or one compressed file, without trusting it.

The first bytes decide what it is, not the name. The system's own tools do the work, inside the sandbox of the app: one
turns the file into a stream, GNU tar extracts the stream into a folder. This process carries the stream from one to the
other, counts it, watches the disk, and looks at what came out. Whatever would leave the folder, replace a member, or grow
out of proportion is refused, and nothing is left of it.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import stat
import subprocess
import tarfile
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from ansible.module_utils.api_endpoint.artifacts.store import INODES, MARGIN_BYTES
from ansible.module_utils.api_endpoint.digests import CHUNK_BYTES
from ansible.module_utils.api_endpoint.errors import DeployError, disk_of, says_full
from ansible.module_utils.api_endpoint.files import chown_tree
from ansible.module_utils.api_endpoint.sandbox import Sandbox

BLOCK_BYTES = 512  # of a tar
RATIO_FREE_BYTES = 64 * 1024 * 1024  # below which no ratio is absurd
MEMORY_BYTES = 1024 * 1024 * 1024  # of address space that a tool gets
STALL_SECONDS = 600  # without progress
TICK_SECONDS = 0.5

Progress = Callable[[int], None]


def zip_to_tar() -> None:
    """Read a zip from the standard input, write a tar: a program of its own, whose source goes into the sandbox."""
    import contextlib
    import stat
    import sys
    import tarfile
    import zipfile

    source, output = zipfile.ZipFile(sys.stdin.buffer), sys.stdout.buffer
    with tarfile.open(
        fileobj=output, mode="w|", format=tarfile.GNU_FORMAT, errors="surrogateescape"
    ) as tar:
        for entry in source.infolist():
            name = entry.filename
            if not entry.flag_bits & 0x800:  # not marked as UTF-8, and often UTF-8 all the same
                with contextlib.suppress(UnicodeError):
                    name = name.encode("cp437").decode()
            mode = entry.external_attr >> 16 if entry.create_system == 3 else 0
            kind = stat.S_IFMT(mode)
            if entry.flag_bits & 0x1:
                sys.exit(f"the member {name!r} is encrypted. Pack it without a password")
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                sys.exit(
                    f"the member {name!r} is neither file, folder nor link, but a device or the like"
                )
            member = tarfile.TarInfo(name.replace("\\", "/"))
            member.mode = 0o755 if mode & stat.S_IXUSR else 0o644
            if member.name.endswith("/") or kind == stat.S_IFDIR:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(member)
                continue
            if entry.compress_type not in (0, 8, 12, 14):
                method = {9: "deflate64", 93: "zstd", 95: "xz", 98: "ppmd"}.get(
                    entry.compress_type, entry.compress_type
                )
                sys.exit(
                    f"the member {name!r} is compressed by {method}, which is not read in a zip. Pack it with `zip -r`"
                )
            with source.open(entry) as content:
                if kind == stat.S_IFLNK:
                    member.type, member.linkname = (
                        tarfile.SYMTYPE,
                        content.read(4096).decode(errors="surrogateescape"),
                    )
                    tar.addfile(member)
                    continue
                member.size = entry.file_size
                tar.addfile(member, content)
                content.read(1)  # at the end it compares the checksum


UNZIP = f"{inspect.getsource(zip_to_tar)}\nzip_to_tar()"
ZSTD = ["zstd", "--decompress", "--stdout", "--quiet", "--no-progress", "--memory=128MB"]
# By the first bytes of a file, the program that makes a stream of it.
READERS: dict[bytes, list[str]] = {
    b"\x1f\x8b": ["gzip", "--decompress", "--stdout"],
    b"\x1f\x9d": ["gzip", "--decompress", "--stdout"],  # of compress, .Z
    b"BZh": ["bzip2", "--decompress", "--stdout"],
    b"\xfd7zXZ\x00": ["xz", "--decompress", "--stdout", "--memlimit-decompress=128MiB"],
    b"\x5d\x00\x00": ["xz", "--decompress", "--stdout", "--memlimit-decompress=128MiB"],  # .lzma
    b"\x28\xb5\x2f\xfd": ZSTD,
    b"\x50\x2a\x4d\x18": ZSTD,  # of pzstd
    b"PK\x03\x04": ["python3", "-I", "-c", UNZIP],
    b"PK\x05\x06": ["python3", "-I", "-c", UNZIP],
}
# By the first bytes of a file, what it is that is not read, and the command that makes something of it that is.
OTHERS = {
    b"7z\xbc\xaf\x27\x1c": ("7z", "7z x"),
    b"Rar!\x1a\x07": ("rar", "unrar x"),
    b"\x04\x22\x4d\x18": ("lz4", "lz4 -d"),
    b"LZIP": ("lzip", "lzip -d"),
    b"\xff\x06\x00\x00sNaPpY": ("snappy", "snzip -d"),
    b"\x89LZO": ("lzop", "lzop -d"),
    b"MSCF": ("cab", "cabextract"),
    b"PK\x07\x08": ("a part of a zip that was split", "zip -s 0 --out whole.zip"),
}
TAR = [
    # With --ignore-zeros tar reads what follows the end as well: another tar, or an error.
    "tar", "--extract", "--file=-", "--verbose", "--quoting-style=literal", "--keep-old-files", "--ignore-zeros", "--touch",
    "--no-same-owner", "--no-same-permissions", "--delay-directory-restore",
    # What macOS puts into archives beside the files.
    "--exclude=__MACOSX", "--exclude=._*", "--exclude=.DS_Store",
    "--warning=no-unknown-keyword", "--warning=no-timestamp",
]  # fmt: skip
SPECIAL = "the member {0!r} is neither file, folder nor link, but a device or the like"
# Messages of the tools, and their meanings. Any other message is passed on as it stands.
MEANINGS = (
    (r"tar: (.*): Member name contains '\.\.'", "the name {0!r} leads out of the archive"),
    (r"tar: (.*): Cannot .*: File exists", "the member {0!r} is in it twice"),
    (r"tar: (.*): (?:Cannot mknod|Unknown file type)", SPECIAL),
    (
        r"tar: (.*): Cannot hard link to ‘(.*)’",
        "the hard link {0!r} points to {1!r}, which is no file before it",
    ),
    (r"tar: (.*): Cannot create symlink to ‘’", "the link {0!r} points nowhere"),
    (
        r"tar: (.*): Cannot open: (?:Not a directory|No such file)",
        "the member {0!r} is below a file or link",
    ),
    (r".*File name too long", "it has a name that is too long for the file system"),
    (r"(the member .*)", "{0}"),
    (
        r".*Window size larger than maximum : (\d+)",
        "it takes too much memory, because it was compressed by zstd with a window of {0} bytes (--long, --ultra), and at "
        "most 134217728 are read. Compress it again, with --long=27 at most: zstd -dc --long=31 FILE | zstd -o NEW",
    ),
    (
        r".*[Mm]emory",
        "it takes too much memory. Compress it again, with xz -9 or zstd --long=27 at most",
    ),
)
COMPARE = "Is it whole? Compare its checksum with the one at its source"


@dataclass(frozen=True)
class Limits:
    """What an archive may become."""

    size: int  # bytes of all that is extracted
    ratio: int = 200  # extracted bytes for each byte of the archive, above 64 MiB
    members: int = 200_000  # files, folders and links
    depth: int = 200  # folders in each other

    def check_size(self, count: int, packed: int) -> None:
        """Refuse so many bytes out of an archive of so many."""
        if count > self.size:
            raise DeployError(f"it unpacks to more than {self.size:,} bytes, which is the limit")
        if count > max(RATIO_FREE_BYTES, packed * self.ratio):
            raise DeployError(
                f"it has {packed:,} bytes and unpacks to more than {self.ratio} times as many, as archives do that are "
                "made to fill a disk"
            )


@dataclass
class Tool:
    """A program that runs in a sandbox."""

    name: str
    sandbox: Sandbox
    process: subprocess.Popen[bytes]
    errors: IO[bytes]

    def complaint(self) -> str:
        """Return its objection to the archive; empty when it ended well, without a word."""
        said = os.pread(self.errors.fileno(), 4000, 0).decode(errors="replace")
        said = re.sub(
            r"^/usr/bin/", "", said, flags=re.M
        )  # of the program's name, which systemd makes a path
        said = said.removesuffix(
            "\ntar: Exiting with failure status due to previous errors\n"
        ).strip()
        said = re.sub(r"(?s)^Traceback .*\n(?:\w+\.)*\w+: (?=[^\n]+$)", "", said)  # of zipfile
        for pattern, meaning in MEANINGS:
            if found := re.search(f"^{pattern}", said, re.M):
                return meaning.format(*found.groups())
        if said or self.process.returncode:
            return f"{said[:500] or f'{self.name} ended with status {self.process.returncode}'}. {COMPARE}"
        return ""


class Extraction:
    """One archive on its way into a folder, or one compressed file on its way into a file."""

    def __init__(self, archive: Path, target: Path, limits: Limits, name: str, user: str) -> None:
        self.archive, self.target, self.limits, self.name, self.user = (
            archive,
            target,
            limits,
            name,
            user,
        )
        self.packed = archive.stat().st_size
        self.bytes = 0  # of the stream
        self.end = b""  # its last block
        self.tools: list[Tool] = []
        self.failure: Exception | None = None
        self.listing = tempfile.TemporaryFile(dir=target.parent)  # noqa: SIM115 - tar's list of names, one a line
        self.position, self.line = 0, b""  # how far it is read, and the beginning of a line
        self.listed: Counter[str] = Counter()
        self.paths = {""}  # what is listed, and the folders above
        self.progressed = (0, 0, time.monotonic())

    def start(self, task: str, command: list[str], **streams: Any) -> subprocess.Popen[bytes]:
        """Start a program in a sandbox in which it can write the target, if that is a folder, and nothing else."""
        folder = self.target if task == "extract" else Path("/")
        sandbox = Sandbox(
            name=self.name,
            task=task,
            user=self.user,
            folder=folder,
            environment={"LC_ALL": "C.UTF-8"},
            writable=(str(folder),) if task == "extract" else (),
            timeout=None,
            limits={"AS": MEMORY_BYTES},
        )
        errors = tempfile.TemporaryFile(dir=self.target.parent)  # noqa: SIM115 - is read when the tool has ended
        process = sandbox.start(command, stderr=errors, **streams)
        self.tools.append(Tool(command[0], sandbox, process, errors))
        return process

    def run(self, progress: Progress) -> None:
        """Extract all of it, or raise DeployError."""
        with open(self.archive, "rb") as file:
            magic = os.pread(file.fileno(), 16, 0)
            command = next(
                (command for first, command in READERS.items() if magic.startswith(first)), []
            )
            source: IO[bytes] = file
            if command:
                reader = self.start("decompress", command, stdin=file, stdout=subprocess.PIPE)
                source = cast("IO[bytes]", reader.stdout)
            block = source.read(BLOCK_BYTES)
            is_archive = UNZIP in command or is_tar(block)
            if not is_archive and not command:
                kind, opens = next(
                    (other for first, other in OTHERS.items() if magic.startswith(first)), ("", "")
                )
                formats = "tar, zip, gz, bz2, xz, zst, lzma and Z"
                raise DeployError(
                    f"it is {kind}, which is not read. Open it (`{opens}`) and pack it again, as one of {formats}"
                    if kind
                    else f"it is none of {formats}. Give one of these, or do not ask for unpacking"
                )
            sink: IO[bytes] = self.start_tar() if is_archive else open(self.target, "xb")  # noqa: SIM115 - carry closes it
            carrier = threading.Thread(target=self.carry, args=(block, source, sink), daemon=True)
            carrier.start()
            is_done = False
            while not is_done:
                carrier.join(TICK_SECONDS)
                is_done = not carrier.is_alive()  # before the last look, so that it misses nothing
                self.watch()
                progress(self.bytes)
        self.raise_failure()
        if is_archive:
            # tar takes the end of the stream for the end of the archive. A decompressor does not, it knows its own.
            if not command and self.end.strip(b"\0"):
                raise DeployError(f"it ends without the mark that ends a tar. {COMPARE}")
            self.inspect()

    def start_tar(self) -> IO[bytes]:
        """Start tar in the target, a new folder of the app's account; return its input."""
        self.target.mkdir()
        chown_tree(self.target, self.user, self.user)
        tar = self.start(
            "extract",
            [*TAR, f"--directory={self.target}"],
            stdin=subprocess.PIPE,
            stdout=self.listing,
        )
        return cast("IO[bytes]", tar.stdin)

    def carry(self, data: bytes, source: IO[bytes], sink: IO[bytes]) -> None:
        """Carry the stream to its end, and wait for the tools."""
        try:
            while data:
                self.bytes += len(data)
                self.limits.check_size(self.bytes, self.packed)
                self.end = (self.end + data[-BLOCK_BYTES:])[-BLOCK_BYTES:]
                sink.write(data)
                data = source.read(CHUNK_BYTES)
            sink.flush()
        except Exception as error:  # is raised where the run waits
            self.failure = error
        for stream in (sink, source):
            with contextlib.suppress(OSError):
                stream.close()
        for tool in self.tools:
            tool.process.wait()

    def watch(self) -> None:
        """Look at what tar lists and at the disk, while the tools run."""
        while data := os.pread(self.listing.fileno(), CHUNK_BYTES, self.position):
            self.position += len(data)
            *lines, self.line = (self.line + data).split(b"\n")
            for line in lines:
                self.note(os.fsdecode(line))
        if reason := lack_of_room(self.target.parent):
            raise DeployError(reason)
        now = time.monotonic()
        if self.progressed[:2] != (self.bytes, self.position):
            self.progressed = (self.bytes, self.position, now)
        if now - self.progressed[2] > STALL_SECONDS:
            raise DeployError(f"there was no progress for {STALL_SECONDS} s. Run again")

    def note(self, name: str) -> None:
        """Note a name that tar lists."""
        if name.startswith("/"):
            raise DeployError(
                f"the name {name!r} is absolute. Pack it again from inside (`tar -C <folder> -c .`)"
            )
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if len(parts) > self.limits.depth:
            raise DeployError(
                f"it has more than {self.limits.depth} folders in each other, which is the limit"
            )
        self.listed["/".join(parts)] += 1
        while parts and (path := "/".join(parts)) not in self.paths:
            self.paths.add(path)
            parts.pop()
        if len(self.paths) - 1 > self.limits.members:
            raise DeployError(
                f"it has more than {self.limits.members:,} members, which is the limit"
            )

    def raise_failure(self) -> None:
        """Raise what went wrong, if anything did; of two tools the one that ended first is to blame."""
        if isinstance(self.failure, DeployError):
            raise self.failure
        is_cut = isinstance(self.failure, BrokenPipeError)
        for tool in reversed(self.tools) if is_cut else self.tools:
            if reason := tool.complaint():
                raise DeployError(
                    lack_of_room(self.target.parent, is_full=says_full(reason)) or reason
                )
        if self.failure:
            said = str(self.failure)
            raise DeployError(lack_of_room(self.target.parent, is_full=says_full(said)) or said)

    def inspect(self) -> None:
        """Refuse what came out unless it is files, folders and links that stay inside, each listed once."""
        found = {"": stat.S_IFDIR}
        outside: dict[int, int] = {}  # of what has several names, how many of them were not met yet
        size = 0
        for folder, folders, files, handle in os.fwalk(self.target, follow_symlinks=False):
            for name in (*folders, *files):
                path = os.path.join(folder, name).removeprefix(f"{self.target}/")
                check_letters(path)
                status = os.stat(name, dir_fd=handle, follow_symlinks=False)
                found[path] = kind = stat.S_IFMT(status.st_mode)
                if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                    raise DeployError(SPECIAL.format(path))
                if kind == stat.S_IFDIR:
                    continue
                if kind == stat.S_IFLNK:
                    check_link(path, os.readlink(name, dir_fd=handle))
                    if status.st_nlink > 1:
                        raise DeployError(f"the link {path!r} has a hard link, which is to no file")
                elif status.st_ino not in outside:
                    size += status.st_size
                outside[status.st_ino] = outside.get(status.st_ino, status.st_nlink) - 1
        self.limits.check_size(size, self.packed)
        if any(outside.values()):
            raise DeployError("it has a hard link to a file outside")
        for path in (path for path, kind in found.items() if kind == stat.S_IFLNK):
            if not (self.target / path).exists():
                to = os.readlink(self.target / path)
                raise DeployError(
                    f"the link {path!r} points to {to!r}, which is not in it. Pack that too, or leave the link out"
                )
        for path, count in self.listed.items():
            if path not in found:
                raise DeployError(f"the member {path!r} is below a file or link")
            if count > 1 and found[path] != stat.S_IFDIR:
                raise DeployError(
                    f"the member {path!r} is in it twice. Pack it anew, without `tar -r` or `-u`"
                )

    def stop(self) -> None:
        """End the tools, and remove what they have made."""
        for tool in self.tools:
            tool.process.kill()
            tool.sandbox.end()
        # Not Python's rmtree: a hostile tree is deeper than it can go.
        subprocess.run(["rm", "--recursive", "--force", "--", str(self.target)], check=True)


def is_tar(block: bytes) -> bool:
    """Tell whether a stream that begins so is a tar, by the checksum in its first header."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def check_letters(name: str) -> None:
    """Refuse a name that cannot be shown in a line. It need not be UTF-8: programs read a name by its bytes."""
    if re.search(r"[\x00-\x1f\x7f]", name):
        raise DeployError(
            f"the name {name!r} has control characters in it. Rename it, and pack it again"
        )


def check_link(path: str, target: str) -> None:
    """Refuse a symbolic link unless it stays inside, by going up, if at all, at its beginning alone."""
    check_letters(target)
    parts = [part for part in target.split("/") if part not in ("", ".")]
    up = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    if not parts or target.startswith("/") or ".." in parts[up:] or up > path.count("/"):
        raise DeployError(
            f"the link {path!r} points to {target!r}, out of the archive or up after going down. "
            "`tar --dereference` packs what links point to"
        )


def lack_of_room(folder: Path, *, is_full: bool = False) -> str:
    """Say what the disk of a folder lacks; empty when it has room, unless it is known to be full."""
    disk = os.statvfs(folder)
    # A filesystem without a fixed number of inodes says 0 of 0.
    if disk.f_files and disk.f_favail < INODES // 2:
        return f"{disk_of(folder)} of the host is out of inodes (`df -i` counts them). Remove files there and run again"
    if is_full or disk.f_bavail * disk.f_frsize < MARGIN_BYTES // 2:
        return f"{disk_of(folder)} of the host is full. Make room there and run again"
    return ""


def extract(
    archive: Path,
    target: Path,
    limits: Limits,
    *,
    name: str,
    user: str,
    progress: Progress = lambda _bytes: None,
) -> None:
    """Extract `archive` to `target`, which must not exist yet: a folder, or a file for a single compressed one.

    The tools run in the sandbox of the endpoint `name` as its account `user`, to whom a folder belongs in the end: Store.add
    sets owners and modes. `progress` gets the bytes that were extracted. Nothing is left at `target` when DeployError is
    raised; nothing is synced to the disk.
    """
    if os.path.lexists(target):
        raise DeployError(
            f"{archive} cannot be unpacked to {target}: something is there already. Give a new name."
        )
    extraction = Extraction(archive, target, limits, name, user)
    try:
        extraction.run(progress)
    except BaseException as error:
        extraction.stop()
        if isinstance(error, DeployError):
            raise DeployError(f"{archive} cannot be unpacked: {error}.") from error
        raise
