# SPDX-License-Identifier: GPL-3.0-or-later
"""Search what was written on this host for marks: files, packed ones too, and the journal."""

from __future__ import annotations

import bz2
import gzip
import ipaddress
import lzma
import os
import stat
import subprocess
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

CHUNK_BYTES = 1024 * 1024  # bytes that are looked at together
CONTEXT_BYTES = 60  # bytes of an excerpt before and after what was found
MOST = 3  # finds of a kind in a place that are kept with an excerpt; more are counted

# How the separator within an address may be written: as it is, escaped for a URL, as nginx escapes, as other logs do.
ENCODED = {
    ".": ("%2e", r"\x2e", r"\056", r"\u002e", "%252e"),
    ":": ("%3a", r"\x3a", r"\072", r"\u003a", "%253a"),
}

# The first bytes of packed files.
PACKED = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2"}


class SearchError(Exception):
    """Something could not be searched; the message says what and why."""


@dataclass(frozen=True)
class Form:
    """One way to write a mark, in small letters."""

    text: bytes
    plain: bool = True  # as it is, not escaped


@dataclass(frozen=True)
class Mark:
    """What is searched for: `kind` is what a report calls it."""

    kind: str
    forms: tuple[Form, ...]
    number: bool = False  # it begins and ends with digits: what has another digit before or after it is something else


def text_mark(kind: str, text: str) -> Mark:
    """Return the mark for a word of letters and digits, which nothing that writes logs would escape."""
    return Mark(kind, (Form(text.lower().encode()),))


def address_mark(kind: str, address: str) -> Mark:
    """Return the mark for an address, in all its forms.

    Of an IPv6 address its last four groups are searched for, so that the first ones may vary; none of these may be short.
    """
    parsed = ipaddress.ip_address(address)
    separator = "." if parsed.version == 4 else ":"
    groups = address.lower().split(separator)
    if parsed.version == 6:
        groups = parsed.exploded.split(":")[-4:]
    forms = [Form(separator.join(groups).encode())]
    forms += [Form(encoded.join(groups).encode(), plain=False) for encoded in ENCODED[separator]]
    if parsed.version == 4:
        forms.append(Form("-".join(groups).encode()))
        forms.append(Form(".".join(reversed(groups)).encode()))
        value = f"{int(parsed):08x}"
        forms.append(Form(f"ffff:{value[:4]}:{value[4:]}".encode()))
    return Mark(kind, tuple(forms), number=True)


@dataclass(frozen=True)
class Find:
    """A mark that was found."""

    kind: str
    place: str  # path of the file, or `journal`
    excerpt: str
    plain: bool = True


@dataclass
class Searched:
    """What was searched, and what was found."""

    files: int = 0
    bytes: int = 0  # of the files, unpacked
    entries: int = 0  # of the journal
    found: list[Find] = field(default_factory=list)  # the first ones of each kind in each place
    counted: Counter[tuple[str, str]] = field(
        default_factory=Counter
    )  # all of them, by kind and place
    failed: list[str] = field(default_factory=list)  # what could not be searched, and why


def readable(excerpt: bytes) -> str:
    """Return bytes as text of one line."""
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in excerpt)


class Search:
    """A search for marks."""

    def __init__(self, marks: Iterable[Mark], deadline: float = float("inf")) -> None:
        self.marks = list(marks)
        self.deadline = deadline  # by time.monotonic()
        self.result = Searched()
        # What lies this close to a chunk's end is looked at again together with the next one.
        self._overlap = (
            max((len(form.text) for mark in self.marks for form in mark.forms), default=0) + 1
        )
        self._seen: set[tuple[int, int]] = set()
        self._kept: Counter[tuple[str, str, bool]] = Counter()

    # --- one stream

    def stream(self, stream: BinaryIO, place: str) -> int:
        """Search a stream to its end and return how many bytes it had; memory is bounded however long it is."""
        kept = b""  # the end of what came before: context, and then what is not searched yet
        begin = 0  # where in `kept` the part begins that is not searched yet
        total = 0
        while True:
            if time.monotonic() > self.deadline:
                raise SearchError(f"{place}: there was no time left to search it")
            chunk = stream.read(CHUNK_BYTES)
            total += len(chunk)
            buffer = kept + chunk
            end = len(buffer) if not chunk else max(begin, len(buffer) - self._overlap)
            self._look(buffer, begin, end, place)
            if not chunk:
                return total
            cut = max(0, end - CONTEXT_BYTES)
            kept, begin = buffer[cut:], end - cut

    def _look(self, buffer: bytes, begin: int, end: int, place: str) -> None:
        """Find the marks that begin in a part of a buffer."""
        small = buffer.lower()
        for mark in self.marks:
            for form in mark.forms:
                at = small.find(form.text, begin)
                while 0 <= at < end:
                    after = at + len(form.text)
                    if not (mark.number and (_is_digit(small, at - 1) or _is_digit(small, after))):
                        excerpt = buffer[max(0, at - CONTEXT_BYTES) : after + CONTEXT_BYTES]
                        self._note(Find(mark.kind, place, readable(excerpt), form.plain))
                    at = small.find(form.text, after)

    def _note(self, find: Find) -> None:
        self.result.counted[find.kind, find.place] += 1
        self._kept[find.kind, find.place, find.plain] += 1
        if self._kept[find.kind, find.place, find.plain] <= MOST:
            self.result.found.append(find)

    # --- files

    def folder(self, folder: str | Path, since: float) -> None:
        """Search each file below a folder that was changed since a time (by time.time()); follow no links."""
        folders = [os.fspath(folder)]
        while folders:
            path = folders.pop()
            try:
                entries = list(os.scandir(path))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                self.result.failed.append(f"{path}: {error.strerror}")
                continue
            for entry in entries:
                with suppress(FileNotFoundError):
                    about = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(about.st_mode):
                        folders.append(entry.path)
                    elif (
                        stat.S_ISREG(about.st_mode) and max(about.st_mtime, about.st_ctime) >= since
                    ):
                        self.file(entry.path)

    def file(self, path: str, place: str = "") -> None:
        """Search one file, as it is and, if it is packed, unpacked; once, under whatever names it is met again."""
        place = place or path
        try:
            flags = os.O_RDONLY | os.O_NONBLOCK | (os.O_NOFOLLOW if place == path else 0)
            with open(os.open(path, flags), "rb") as file:
                about = os.fstat(file.fileno())
                known = (about.st_dev, about.st_ino)
                if not stat.S_ISREG(about.st_mode) or known in self._seen:
                    return
                self._seen.add(known)
                head = file.read(6)
                kind = next((kind for magic, kind in PACKED.items() if head.startswith(magic)), "")
                file.seek(0)
                size = self.stream(file, place)
                if kind:
                    file.seek(0)
                    with unpacked(file, kind) as stream:
                        size = self.stream(stream, place)
            self.result.files += 1
            self.result.bytes += size
        except FileNotFoundError:
            return
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            self.result.failed.append(f"{place}: {error}")
        except SearchError as error:
            self.result.failed.append(str(error))

    def deleted(self, processes: Iterable[int], since: float) -> None:
        """Search the files that processes have open though they are deleted, if they were changed since a time."""
        for process in processes:
            folder = f"/proc/{process}/fd"
            with suppress(OSError):
                for name in os.listdir(folder):
                    with suppress(OSError):
                        path = f"{folder}/{name}"
                        target = os.readlink(path)
                        # Memory that has a name is no file.
                        if target.endswith(" (deleted)") and not target.startswith(
                            ("/memfd:", "/dev/zero")
                        ):
                            about = os.stat(path)
                            if (
                                stat.S_ISREG(about.st_mode)
                                and max(about.st_mtime, about.st_ctime) >= since
                            ):
                                self.file(path, place=f"{target}, open in process {process}")

    # --- the journal

    def journal(self, since: float) -> None:
        """Search the journal's entries since a time (by time.time())."""
        call = ["journalctl", "--output=export", "--all", f"--since=@{int(since)}"]
        try:
            with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                counting = _Counting(cast(BinaryIO, process.stdout))
                self.stream(cast(BinaryIO, counting), "journal")
                said = cast(BinaryIO, process.stderr).read().decode(errors="replace").strip()
            if process.returncode != 0:
                raise SearchError(
                    f"journal: journalctl ended with status {process.returncode}: {said}"
                )
        except OSError as error:
            raise SearchError(f"journal: {error}") from error
        self.result.entries += counting.entries


class _Counting:
    """Counts the entries of an exported journal while it is read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._line = b"\n"  # the end of what was read before
        self.entries = 0

    def read(self, size: int) -> bytes:
        """Read on."""
        chunk = self._stream.read(size)
        both = self._line + chunk
        self.entries += both.count(b"\n__CURSOR=")
        self._line = both[-9:]
        return chunk


def _is_digit(text: bytes, at: int) -> bool:
    return 0 <= at < len(text) and text[at : at + 1].isdigit()


@contextmanager
def unpacked(file: BinaryIO, kind: str) -> Iterator[BinaryIO]:
    """Return the stream of what is in a packed file; Debian's Python has no zstd of its own."""
    openers: dict[str, Callable[[BinaryIO], object]] = {
        "gzip": gzip.open,
        "xz": lzma.open,
        "bzip2": bz2.open,
    }
    if kind in openers:
        yield cast(BinaryIO, openers[kind](file))
        return
    with subprocess.Popen(
        ["zstd", "-dcq"], stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        yield cast(BinaryIO, process.stdout)
        said = cast(BinaryIO, process.stderr).read().decode(errors="replace").strip()
    if process.returncode != 0:
        raise OSError(f"zstd: {said}")
