# SPDX-License-Identifier: GPL-3.0-or-later
"""Unpack an archive, or one compressed file, without trusting it.

tar (plain, gz, xz, zst) and zip become a new folder; a gz, xz or zst file that holds no tar becomes a new file. The first
bytes decide what it is, not the name. Whatever would leave the folder, replace a member, or grow out of proportion is
refused, and nothing is left of what was unpacked till then.

No member is written through a link: links are made last, in folders that are real ones, and may go up only at their
beginning, so that no chain of them leads out. This holds without the filters of newer versions of Python's tarfile.
"""

from __future__ import annotations

import errno
import io
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Protocol, cast

from ansible.module_utils.api_endpoint_store import CHUNK, StoreError

BLOCK = 512  # bytes of a block of tar
HEADER = 64 * 1024  # bytes of a header of tar at most: names and attributes, not content
LINK = 4096  # bytes of a link's target at most
GRACE = 64 * 1024 * 1024  # bytes below which no ratio is absurd
XZ_MEMORY = 80 * 1024 * 1024  # bytes for decompression; xz -9 takes 65 MiB
ZST_MEMORY = "64MB"  # more than zstd -19 takes; --ultra and --long may take more

MAGIC = {b"\x1f\x8b": "gz", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zst", b"PK\x03\x04": "zip", b"PK\x05\x06": "zip"}

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Limits:
    """What an archive may become."""

    size: int  # bytes of all that is unpacked
    ratio: int = 200  # unpacked bytes for each byte of the archive, above 64 MiB
    members: int = 200_000  # files, folders and links


@dataclass(frozen=True)
class Unpacked:
    """What an archive became."""

    kind: str  # tar, tar.gz, tar.xz, tar.zst, zip, gz, xz, zst
    size: int  # bytes of the files
    files: int  # number of files and links


class _Decompressor(Protocol):
    """What zlib and lzma have in common."""

    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


class _Inflated(io.RawIOBase):
    """The content of a gz or xz file, several parts in a row included, with bounded memory."""

    def __init__(self, file: BinaryIO, kind: str) -> None:
        super().__init__()
        self._file, self._kind = file, kind
        self._engine: _Decompressor | None = self._new()
        self._waiting = b""

    def _new(self) -> _Decompressor:
        if self._kind == "gz":
            return cast(_Decompressor, zlib.decompressobj(wbits=31))
        return cast(_Decompressor, lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY))

    def readable(self) -> bool:
        return True

    def readinto(self, target: object) -> int:
        """Fill `target` as far as one step goes; 0 at the end."""
        view = memoryview(cast(bytearray, target))
        while self._engine:
            if not self._waiting and getattr(self._engine, "needs_input", True):
                self._waiting = self._file.read(CHUNK // 4)
                if not self._waiting:
                    raise EOFError("it ends in the middle")
            data = self._engine.decompress(self._waiting, len(view))
            self._waiting = getattr(self._engine, "unconsumed_tail", b"")
            if self._engine.eof:
                self._next(self._engine.unused_data)
            if data:
                view[: len(data)] = data
                return len(data)
        return 0

    def _next(self, rest: bytes) -> None:
        """Begin with the next part of the file, after zeros, if there is one."""
        while not (rest := rest.lstrip(b"\0")):
            rest = self._file.read(CHUNK // 4)
            if not rest:
                self._engine = None
                return
        self._waiting, self._engine = rest, self._new()


class _Budget:
    """Counts what comes out of an archive, and refuses when it is too much."""

    def __init__(self, archive: Path, limits: Limits, progress: Progress | None) -> None:
        self.limits, self.packed = limits, max(1, archive.stat().st_size)
        self.bytes = self.members = 0
        self._progress, self._told = progress, time.monotonic()

    def more_bytes(self, count: int) -> None:
        """Count bytes."""
        self.bytes += count
        if self.bytes > self.limits.size:
            raise StoreError(f"it unpacks to more than {self.limits.size:,} bytes, which is the limit")
        if self.bytes > GRACE and self.bytes > self.packed * self.limits.ratio:
            raise StoreError(
                f"it has {self.packed:,} bytes and unpacks to more than {self.limits.ratio} times as many, as archives "
                "do that are made to fill a disk"
            )
        if self._progress and time.monotonic() - self._told >= 1:
            self._told = time.monotonic()
            self._progress(self.bytes)

    def more_members(self) -> None:
        """Count a member."""
        self.members += 1
        if self.members > self.limits.members:
            raise StoreError(f"it has more than {self.limits.members:,} members, which is the limit")


class _Stream:
    """A stream that can be read forwards, and counts; tarfile sees it as a file."""

    def __init__(self, source: BinaryIO, budget: _Budget) -> None:
        self._source, self._budget = source, budget
        self._position = 0
        self.end_seen = False  # whether the last header read was the one that ends an archive

    def content(self, most: int) -> bytes:
        """Return up to `most` bytes, fewer at the end only."""
        pieces = []
        while most and (piece := self._source.read(most)):
            self._budget.more_bytes(len(piece))
            pieces.append(piece)
            most -= len(piece)
        data = b"".join(pieces)
        self._position += len(data)
        return data

    def read(self, size: int = -1) -> bytes:
        """Return bytes of a header."""
        if not 0 <= size <= HEADER:
            raise StoreError(f"it has a header of {size:,} bytes, {HEADER:,} are the limit")
        data = self.content(size)
        if size >= BLOCK:
            self.end_seen = len(data) == BLOCK and not any(data)
        return data

    def tell(self) -> int:
        """Return how far the reading has come."""
        return self._position

    def seek(self, position: int) -> None:
        """Go forwards."""
        if position < self._position:
            raise StoreError("it has a member that begins before the one it follows")
        while self._position < position:
            if not self.content(min(CHUNK, position - self._position)):
                raise EOFError("it ends in the middle")

    def finish(self) -> None:
        """Read what follows the last member: nothing but padding may."""
        while data := self.content(CHUNK):
            if any(data):
                raise StoreError("it has more data after its end")


@contextmanager
def _opened(archive: Path, kind: str) -> Iterator[BinaryIO]:
    """Yield the decompressed content of a file."""
    with open(archive, "rb") as file:
        if kind == "plain":
            yield file
        elif kind in ("gz", "xz"):
            with io.BufferedReader(_Inflated(file, kind), CHUNK) as inflated:
                yield cast(BinaryIO, inflated)
        else:
            command = ["zstd", "--decompress", "--stdout", "--quiet", "--no-progress", f"--memory={ZST_MEMORY}"]
            pipe = subprocess.PIPE
            try:
                process = subprocess.Popen(command, stdin=file, stdout=pipe, stderr=pipe)
            except FileNotFoundError as error:
                raise StoreError("zstd is not installed on the host. Install Debian's package zstd") from error
            output, errors = cast("IO[bytes]", process.stdout), cast("IO[bytes]", process.stderr)
            try:
                try:
                    yield cast(BinaryIO, output)
                finally:
                    # After the last byte, zstd tells whether it was; what it says is more to the point than a short tar.
                    if not output.read(1) and process.wait():
                        raise EOFError(errors.read(1000).decode(errors="replace").strip())
            finally:
                process.kill()
                process.wait()
                output.close()
                errors.close()


def _is_tar(header: bytes) -> bool:
    """Tell whether a file that begins so is a tar, by the checksum in its first header."""
    try:
        tarfile.TarInfo.frombuf(header[:BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def kind_of(archive: str | Path) -> str:
    """Return tar, tar.gz, tar.xz, tar.zst, zip, gz, xz or zst by a file's first bytes."""
    path = Path(archive)
    with open(path, "rb") as file:
        start = file.read(BLOCK)
    packed = next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), "plain")
    if packed == "zip":
        return packed
    if packed == "plain":
        if _is_tar(start):
            return "tar"
        raise StoreError(
            f"{path} is no archive that can be unpacked: it is neither tar, zip, gz, xz nor zst. Give one of these, or do "
            "not ask for unpacking."
        )
    with open(path, "rb") as file:
        try:
            start = _first_block(path, packed, file)
        except (StoreError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise StoreError(f"{path} cannot be unpacked: {_explained(error, path)}.") from error
    return f"tar.{packed}" if _is_tar(start) else packed


def _first_block(path: Path, packed: str, file: BinaryIO) -> bytes:
    """Return the first block of a compressed file's content."""
    if packed != "zst":
        inflated, block = _Inflated(file, packed), b""
        while len(block) < BLOCK and (more := inflated.read(BLOCK - len(block))):
            block += more
        return block
    with _opened(path, packed) as stream:
        return stream.read(BLOCK)


# How much room it takes, where the format says so.


def needed_bytes(archive: str | Path) -> int | None:
    """Return how many bytes the archive says that it unpacks to (of a tar: with its headers); None when it does not say.

    A hostile archive may lie: the limits hold all the same when it is unpacked.
    """
    path = Path(archive)
    kind = kind_of(path)
    try:
        if kind == "tar":
            return path.stat().st_size
        if kind == "zip":
            with zipfile.ZipFile(path) as opened:
                return sum(entry.file_size for entry in opened.infolist())
        if kind in ("xz", "tar.xz"):
            with open(path, "rb") as file:
                return _xz_size(file)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, IndexError):
        return None
    return None


def _xz_size(file: BinaryIO) -> int:
    """Return the size of the content of an xz file, as its indexes say; raise ValueError when they cannot be read."""
    end, total = file.seek(0, os.SEEK_END), 0
    while end > 0:
        footer = _read_at(file, end - 12, 12)
        if footer[-4:] == b"\0\0\0\0":
            end -= 4  # padding between streams
            continue
        backward = (int(struct.unpack("<I", footer[4:8])[0]) + 1) * 4
        if footer[-2:] != b"YZ" or backward > min(end, GRACE):
            raise ValueError("no xz footer")
        index = _read_at(file, end - 12 - backward, backward)
        count, position = _varint(index, 1)
        blocks = 0
        for _ in range(count):
            unpadded, position = _varint(index, position)
            size, position = _varint(index, position)
            blocks += (unpadded + 3) // 4 * 4
            total += size
        end -= 12 + backward + blocks + 12
    if end < 0:
        raise ValueError("the sizes do not fit")
    return total


def _read_at(file: BinaryIO, position: int, count: int) -> bytes:
    """Return bytes from the middle of a file."""
    if position < 0:
        raise ValueError("before the beginning")
    file.seek(position)
    return file.read(count)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return a number of variable length and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
        if shift > 63:
            raise ValueError("a number is too long")


# Names and links.


def _check_letters(name: str) -> None:
    """Refuse a name that cannot be shown or written down."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raw = name.encode(errors="surrogateescape")
        raise StoreError(f"the name {raw!r} is not UTF-8. Rename the file and pack it again") from None
    if re.search(r"[\x00-\x1f\x7f]", name):
        raise StoreError(f"the name {name!r} has control characters in it")


def _safe_name(name: str) -> str:
    """Return a member's path below the folder, "" for the folder itself; refuse one that leaves it."""
    _check_letters(name)
    if name.startswith("/"):
        raise StoreError(f"the name {name!r} is absolute")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise StoreError(f"the name {name!r} leads out of the archive")
    return "/".join(parts)


class _Tree:
    """The folder that an archive becomes."""

    def __init__(self, root: Path, budget: _Budget) -> None:
        self.root, self.budget = root, budget
        self.files: dict[str, bool] = {}  # path: whether it is a file (else a link)
        self.folders = {""}
        self.links: list[tuple[str, str]] = []
        self.bytes = 0
        root.mkdir()
        root.chmod(0o755)

    def folder(self, path: str) -> None:
        """Make a folder and those above it."""
        missing = []
        while path not in self.folders:
            if path in self.files:
                raise StoreError(f"the member {path!r} is a file or link, and there are members below it")
            missing.append(path)
            path = path.rpartition("/")[0]
        for name in reversed(missing):
            self.budget.more_members()
            os.mkdir(self.root / name)
            (self.root / name).chmod(0o755)
            self.folders.add(name)

    def _place(self, path: str, *, is_file: bool) -> None:
        """Take a path for a file or link."""
        if not path or path in self.folders or path in self.files:
            raise StoreError(f"the member {path or '.'!r} is in it twice")
        self.folder(path.rpartition("/")[0])
        self.budget.more_members()
        self.files[path] = is_file

    def file(self, path: str, read: Callable[[int], bytes], size: int, *, executable: bool) -> None:
        """Write a file of `size` bytes."""
        self._place(path, is_file=True)
        handle = os.open(self.root / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb", buffering=0) as file:
            while size:
                data = read(min(CHUNK, size))
                if not data:
                    raise EOFError("it ends in the middle")
                _write(file, data)
                size -= len(data)
                self.bytes += len(data)
            os.fchmod(file.fileno(), 0o755 if executable else 0o644)

    def link(self, path: str, target: str) -> None:
        """Note a symbolic link, to be made last."""
        _check_letters(target)
        parts = [part for part in target.split("/") if part not in ("", ".")]
        up = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
        if not parts or target.startswith("/") or ".." in parts[up:] or up > path.count("/"):
            raise StoreError(f"the link {path!r} points to {target!r}, out of the archive or up after going down")
        self._place(path, is_file=False)
        self.links.append((path, target))

    def hard_link(self, path: str, target: str) -> None:
        """Give a file another name."""
        if not self.files.get(target):
            raise StoreError(f"the hard link {path!r} points to {target!r}, which is no file before it in the archive")
        self._place(path, is_file=True)
        os.link(self.root / target, self.root / path, follow_symlinks=False)

    def finish(self) -> None:
        """Make the links."""
        for path, target in self.links:
            os.symlink(target, self.root / path)


def _write(file: io.RawIOBase | IO[bytes], data: bytes) -> None:
    """Write all of `data`."""
    rest = memoryview(data)
    while rest:
        rest = rest[cast(int, file.write(rest)) :]


# The formats.


def _tar(stream: _Stream, tree: _Tree) -> None:
    """Unpack a tar."""
    accept = getattr(tarfile, "data_filter", None)
    with tarfile.open(
        fileobj=cast("IO[bytes]", stream), mode="r:", encoding="utf-8", errors="surrogateescape", errorlevel=2
    ) as tar:
        while member := tar.next():
            tar.members.clear()  # type: ignore[attr-defined, unused-ignore]  # or it remembers each of them
            name = _safe_name(member.name)
            if member.size < 0:
                raise StoreError(f"the member {name!r} has {member.size:,} bytes")
            if member.issparse():
                raise StoreError(f"the member {name!r} is stored as a sparse file. Pack it without --sparse")
            if member.isdir():
                tree.folder(name)
            elif member.isreg() and member.type in tarfile.SUPPORTED_TYPES:
                stream.seek(member.offset_data)
                tree.file(name, stream.content, member.size, executable=bool(member.mode & stat.S_IXUSR))
            elif member.issym():
                tree.link(name, member.linkname)
            elif member.islnk():
                tree.hard_link(name, _safe_name(member.linkname))
            else:
                raise StoreError(f"the member {name!r} is neither file, folder nor link, but a device or the like")
            if accept:
                accept(member, str(tree.root))
    if not stream.end_seen:
        raise EOFError("it ends without the mark that ends a tar, or a header in its middle is damaged")
    stream.finish()


def _zip_name(entry: zipfile.ZipInfo) -> str:
    """Return the name of a member: UTF-8 even if the archive does not say so, else what the format prescribes."""
    name = entry.filename
    if not entry.flag_bits & 0x800:
        try:
            name = name.encode("cp437").decode()
        except UnicodeError:
            name = entry.filename
    return name.replace("\\", "/")


def _zip(archive: Path, tree: _Tree) -> None:
    """Unpack a zip."""
    _check_directory(archive, tree.budget.limits)
    with zipfile.ZipFile(archive) as opened:
        for entry in opened.infolist():
            name = _zip_name(entry)
            is_folder, name = name.endswith("/"), _safe_name(name)
            mode = entry.external_attr >> 16 if entry.create_system == 3 else 0
            kind = stat.S_IFMT(mode)
            if entry.flag_bits & 0x1:
                raise StoreError(f"the member {name!r} is encrypted. Pack it without a password")
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                raise StoreError(f"the member {name!r} is neither file, folder nor link, but a device or the like")
            if is_folder or kind == stat.S_IFDIR:
                tree.folder(name)
                continue
            with opened.open(entry) as file:
                if kind == stat.S_IFLNK:
                    target = file.read(LINK)
                    tree.link(name, target.decode(errors="surrogateescape"))
                    continue
                tree.file(name, _counting(file, tree.budget), entry.file_size, executable=bool(mode & stat.S_IXUSR))
                if file.read(1):
                    raise EOFError(f"the member {name!r} is longer than it says")


def _counting(file: IO[bytes], budget: _Budget) -> Callable[[int], bytes]:
    """Return a function that reads from a file and counts."""

    def read(size: int) -> bytes:
        data = file.read(size)
        budget.more_bytes(len(data))
        return data

    return read


def _check_directory(archive: Path, limits: Limits) -> None:
    """Refuse a zip whose list of members alone would fill the memory."""
    with open(archive, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 66_000))
        tail = file.read()
    found = tail.rfind(b"PK\x05\x06")
    if found >= 0 and len(tail) - found >= 22:
        size, start = struct.unpack("<II", tail[found + 12 : found + 20])
        if start == 0xFFFFFFFF or size == 0xFFFFFFFF:
            more = tail.rfind(b"PK\x06\x06", 0, found)
            size = struct.unpack("<Q", tail[more + 40 : more + 48])[0] if more >= 0 else size
        if size > min(limits.members * 1024, GRACE):
            raise StoreError(f"its list of members has {size:,} bytes, which is too much for {limits.members:,} members")


def _single(stream: _Stream, target: Path) -> int:
    """Unpack a single file and return its size."""
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb", buffering=0) as file:
        while data := stream.content(CHUNK):
            _write(file, data)
        os.fchmod(file.fileno(), 0o644)
    return stream.tell()


def unpack(archive: str | Path, target: str | Path, limits: Limits, *, progress: Progress | None = None) -> Unpacked:
    """Unpack `archive` to `target`, which must not exist yet: a folder, or a file for a single compressed one.

    Files get the mode 0644, or 0755 if their owner may run them; folders 0755; all belong to whoever unpacks. About each
    second `progress` gets the bytes that were unpacked. Nothing is left at `target` when StoreError is raised; nothing is
    synced to the disk.
    """
    path, goal = Path(archive), Path(target)
    if os.path.lexists(goal):
        raise StoreError(f"{path} cannot be unpacked to {goal}: something is there already. Give a new name.")
    kind = kind_of(path)
    budget = _Budget(path, limits, progress)
    try:
        if kind == "zip":
            tree = _Tree(goal, budget)
            _zip(path, tree)
            tree.finish()
            return Unpacked(kind, tree.bytes, len(tree.files))
        packed = "plain" if kind == "tar" else kind.removeprefix("tar.")
        with _opened(path, packed) as source:
            stream = _Stream(source, budget)
            if not kind.startswith("tar"):
                return Unpacked(kind, _single(stream, goal), 1)
            tree = _Tree(goal, budget)
            _tar(stream, tree)
        tree.finish()
        return Unpacked(kind, tree.bytes, len(tree.files))
    except BaseException as error:
        _remove(goal)
        if (text := _explained(error, goal)) is None:
            raise
        raise StoreError(f"{path} cannot be unpacked: {text}.") from error


def _remove(goal: Path) -> None:
    """Remove what was unpacked so far."""
    if goal.is_dir() and not goal.is_symlink():
        shutil.rmtree(goal, ignore_errors=True)
    else:
        goal.unlink(missing_ok=True)


def _explained(error: BaseException, goal: Path) -> str | None:
    """Return what an error means to the user, or None when it is not about the archive."""
    if isinstance(error, StoreError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk that holds {goal} is full. Make room there and run again"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return "it has a name that is too long for the file system"
    if isinstance(error, lzma.LZMAError) and "emory" in str(error):
        return f"its decompression takes more than {XZ_MEMORY // 1024**2} MiB of memory. Compress it with xz -9 at most"
    if isinstance(error, (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, struct.error)):
        return f"{error or 'it ends in the middle'}. Is it whole? Compare its checksum with the one at its source"
    if isinstance(error, (NotImplementedError, RecursionError, ValueError, OverflowError)):
        return f"its format is damaged or too unusual ({error}). Pack it again, as tar or zip"
    return None
