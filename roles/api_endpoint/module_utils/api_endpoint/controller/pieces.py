# SPDX-License-Identifier: GPL-3.0-or-later
"""Send a file or folder over Ansible's own connection, a piece at a time: for hosts that rsync cannot log in to by itself.

Whatever Ansible does to get there and to become root (a password for SSH, for sudo or for su, any kind of connection) holds
for these pieces too. Each is sent as the user, to Ansible's temporary folder, and put in its place as root.
"""

from __future__ import annotations

import os
import shlex
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.api_endpoint.digests import walk

MIB = 1024 * 1024
FIRST_BYTES = 4 * MIB
LEAST_BYTES = MIB
MOST_BYTES = 64 * MIB
MOST_FILES = 2000  # in one piece
SHORT_SECONDS, LONG_SECONDS = (
    4,
    15,
)  # pieces that took less or more are followed by larger or smaller ones
SAY_SECONDS = 10


@dataclass
class Remote:
    """How things get to the host: `put` sends a file and returns its path there, `run` runs a shell command as root.

    `run` returns what the command wrote, and raises DeployError when it failed.
    """

    put: Callable[[Path], str]
    run: Callable[[str], str]
    say: Callable[[str], None]


class Pieces:
    """Sends a file or folder to `target`, an absolute path on the host; what is there already is not sent again.

    With `follow`, what links in a folder point to is sent in their place.
    """

    def __init__(self, source: Path, target: str, remote: Remote, *, follow: bool = False) -> None:
        self.source, self.target, self.remote, self.follow = source, target, remote, follow
        self.bytes = FIRST_BYTES
        self.sent = self.total = 0
        self.said = time.monotonic()

    def send(self) -> None:
        """Send what is missing."""
        target = shlex.quote(self.target)
        if not self.source.is_dir():
            there = self.remote.run(f"stat --format %s {target} 2>/dev/null || echo 0")
            self.total = self.source.stat().st_size
            self.send_file(self.source, self.target, int(there.split()[0]))
            return
        self.remote.run(f"mkdir -p {target}")
        there = self.remote.run(f"find {target} -type f -printf '%s %T@ %P\\0'")
        known = {}
        for entry in there.split("\0"):
            size, _, rest = entry.lstrip("\r\n").partition(" ")
            if rest:
                known[rest.partition(" ")[2]] = (int(size), int(float(rest.partition(" ")[0])))
        self.send_folder(known)

    def send_file(self, source: Path, target: str, there: int) -> None:
        """Send what a file has beyond its first bytes that are there; none of these counts when there are too many."""
        found = source.stat()
        offset = there if there <= found.st_size else 0
        self.sent += offset
        place = shlex.quote(target)
        with source.open("rb") as file:
            file.seek(offset)
            while offset < found.st_size or (offset, there) == (0, 0):
                data = file.read(self.bytes)
                # A piece that was cut off on its way into the file goes with this.
                self.place(data, f'truncate --size {offset} {place} && cat "$piece" >>{place}')
                if not data:
                    break
                offset += len(data)
        rights = "0700" if os.access(source, os.X_OK) else "0600"
        self.remote.run(
            f"chmod {rights} {place} && touch --no-create --date @{int(found.st_mtime)} {place}"
        )

    def send_folder(self, known: dict[str, tuple[int, int]]) -> None:
        """Send what a folder has; `known` has size and time of the files that are there."""
        small: list[Path] = []
        large: list[Path] = []
        paths = list(walk(self.source, follow=self.follow))
        self.total = sum(self.of(path).st_size for path in paths)
        for path in paths:
            found = self.of(path)
            if known.get(str(path)) == (found.st_size, int(found.st_mtime)):
                self.sent += found.st_size
            elif found.st_size > MOST_BYTES:
                large.append(path)
            else:
                small.append(path)
        while small:
            group = list(self.first(small))
            del small[: len(group)]
            with tempfile.NamedTemporaryFile(suffix=".tar") as packed:
                with tarfile.open(
                    packed.name, "w", format=tarfile.GNU_FORMAT, dereference=self.follow
                ) as tar:
                    for path in group:
                        tar.add(self.source / path, arcname=str(path), recursive=False)
                self.place(
                    packed.name,
                    f'tar --extract --no-same-owner --file "$piece" --directory {shlex.quote(self.target)}',
                    sum(self.of(path).st_size for path in group),
                )
        for path in large:
            target = f"{self.target}/{path}"
            self.remote.run(f"mkdir -p {shlex.quote(os.path.dirname(target))}")
            self.send_file(self.source / path, target, known.get(str(path), (0, 0))[0])

    def of(self, path: Path) -> os.stat_result:
        """Return what is known of a file, or of a link where these are not followed."""
        return (self.source / path).stat() if self.follow else (self.source / path).lstat()

    def first(self, paths: list[Path]) -> Iterator[Path]:
        """Yield the first of some files that make one piece."""
        size = 0
        for path in paths[:MOST_FILES]:
            size += self.of(path).st_size
            yield path
            if size >= self.bytes:
                return

    def place(self, data: bytes | str, command: str, size: int | None = None) -> None:
        """Send one piece, bytes or a file's path, and put it in its place, where `$piece` in the command is its path."""
        begin = time.monotonic()
        if isinstance(data, bytes):
            with tempfile.NamedTemporaryFile() as piece:
                piece.write(data)
                piece.flush()
                there = self.remote.put(Path(piece.name))
        else:
            there = self.remote.put(Path(data))
        self.remote.run(f"piece={shlex.quote(there)} && {command}")
        self.sent += len(data) if size is None else size
        now = time.monotonic()
        if now - begin < SHORT_SECONDS:
            self.bytes = min(2 * self.bytes, MOST_BYTES)
        elif now - begin > LONG_SECONDS:
            self.bytes = max(self.bytes // 2, LEAST_BYTES)
        if now - self.said >= SAY_SECONDS and self.total:
            self.said = now
            self.remote.say(f"sending {self.source.name}: {100 * self.sent // self.total} %")
