# SPDX-License-Identifier: GPL-3.0-or-later
"""Read nginx's access log as the role has it written, forwards or backwards, rotated files included."""

from __future__ import annotations

import calendar
import contextlib
import gzip
import math
import os
import re
import stat
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, NamedTuple

from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.files import read_json, write_json

ACCESS_LOG = Path("/var/log/nginx/access.log")
LOG_FOLDER = Path("/var/log")  # in which each endpoint has a folder
MOST_AUDITS = 100  # whose times are kept
BLOCK = 256 * 1024  # bytes read at a time
LONGEST = 1024 * 1024  # bytes of a line; nothing that nginx writes is longer
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)

MONTHS = {name: number for number, name in enumerate(calendar.month_abbr) if name}
# The log_format of site.conf.j2. nginx writes a quotation mark as \x22, so none is within.
LINE = re.compile(
    r'\[(\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d):(\d\d) ([+-]\d{4})\] "([^"]*)" (\d{3}) (\d+) "([^"]*)" (\d+)\.(\d{3})'
)


class Request(NamedTuple):
    """A request, as a line of the log tells it."""

    time: int  # seconds since the epoch
    method: str  # empty when the request was none
    target: str  # path and query
    status: int
    size: int  # bytes of the answer's body
    referrer: str
    duration: int  # milliseconds

    @property
    def path(self) -> str:
        """The path without its query."""
        return self.target.partition("?")[0]


@lru_cache(maxsize=4096)
def minute(text: str, zone: str) -> int:
    """Return the seconds since the epoch of a minute such as 25/Nov/2026:13:21 in a zone such as +0100."""
    day, month, rest = text.split("/")
    year, hour, minutes = (int(part) for part in rest.split(":"))
    east = (1 if zone[0] == "+" else -1) * (int(zone[1:3]) * 60 + int(zone[3:]))
    # Not strptime, which knows the months by the names that a locale gives them.
    return calendar.timegm((year, MONTHS[month], int(day), hour, minutes, 0)) - 60 * east


def parse(line: bytes) -> Request | None:
    """Return the request of a line; None when it is none of ours."""
    found = LINE.fullmatch(line.decode(errors="replace").rstrip())
    if not found:
        return None
    text, second, zone, request, status, size, referrer, seconds, milliseconds = found.groups()
    method, _, rest = request.partition(" ")
    target = rest.rpartition(" ")[0]
    try:
        when = minute(text, zone) + int(second)
    except (KeyError, ValueError):
        return None
    duration = int(seconds) * 1000 + int(milliseconds)
    return Request(
        when, method if target else "", target, int(status), int(size), referrer, duration
    )


@dataclass
class Budget:
    """How much may be read, and how long that may take."""

    size: int  # bytes, unpacked
    seconds: float
    is_spent: bool = False
    begun: float = field(default_factory=time.monotonic)

    def take(self, size: int) -> bool:
        """Take bytes from it; tell whether there were that many, and time."""
        self.size -= size
        self.is_spent = (
            self.is_spent or self.size < 0 or time.monotonic() - self.begun > self.seconds
        )
        return not self.is_spent


def open_log(path: Path) -> IO[bytes]:
    """Open a log that an account other than root may have put there: a file, and nothing that leads elsewhere."""
    file = open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")  # noqa: SIM115 - the caller's to close
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(f"{path} is no file")
    return file


def files_of(log: Path) -> list[Path]:
    """Return a log and its rotated files, the newest first."""
    numbered = []
    for path in log.parent.glob(f"{log.name}*"):
        if found := re.fullmatch(r"(?:\.(\d+))?(?:\.gz)?", path.name[len(log.name) :]):
            numbered.append((int(found[1] or 0), path))
    return [path for _number, path in sorted(numbered)]


def opened(paths: Iterable[Path]) -> Iterator[tuple[Path, IO[bytes]]]:
    """Open one file after the other, but those that are rotated away meanwhile."""
    for path in paths:
        try:
            file = open_log(path)
        except FileNotFoundError:
            continue
        with file:
            yield path, file


def backwards(file: IO[bytes], budget: Budget) -> Iterator[bytes]:
    """Yield a file's lines, the last one first, while the budget lasts."""
    position, rest = file.seek(0, os.SEEK_END), b""
    while position and budget.take(min(BLOCK, position)):
        size = min(BLOCK, position)
        position -= size
        file.seek(position)
        rest, *lines = (file.read(size) + rest).split(b"\n")
        yield from (line for line in reversed(lines) if line)
        if len(rest) > LONGEST:
            rest = b""
    if rest and not position:
        yield rest


def unpacked(file: IO[bytes], budget: Budget) -> Iterator[bytes]:
    """Yield a packed file's lines, the last one first; none when there are more than the budget has, or it is damaged."""
    try:
        with gzip.open(file) as content:
            data = content.read(max(0, budget.size) + 1)
    except DAMAGED:
        return
    if budget.take(len(data)):
        yield from (line for line in reversed(data.split(b"\n")) if line)


def recent(log: Path, since: float, budget: Budget) -> Iterator[Request]:
    """Yield the requests of a log since a time, the last one first, from rotated files too, while the budget lasts."""
    seen = set()  # a file may have got its next name meanwhile
    for path, file in opened(files_of(log)):
        found = os.fstat(file.fileno())
        if found.st_ino in seen:
            continue
        seen.add(found.st_ino)
        if found.st_mtime < since:
            return
        for line in (unpacked if path.suffix == ".gz" else backwards)(file, budget):
            request = parse(line)
            if request and request.time < since:
                return
            if request:
                yield request
        if budget.is_spent:
            return


def lines_of(log: Path) -> Iterator[bytes]:
    """Yield all lines of a log, the oldest first, from rotated files too; of a damaged one those before the damage."""
    for path, plain in opened(reversed(files_of(log))):
        file = gzip.open(plain) if path.suffix == ".gz" else plain  # noqa: SIM115 - it ends with the file
        try:
            while line := file.readline(LONGEST):
                yield line
        except DAMAGED:
            continue


def audits_file(name: str) -> Path:
    """Return the file in which the times of an endpoint's privacy audits are noted."""
    return LOG_FOLDER / name / "audits.json"


def note_audit(name: str, begun: float, ended: float) -> None:
    """Note when an audit sent its requests (epoch): they are nobody's traffic. A note that fails is no failed audit."""
    with contextlib.suppress(OSError):
        write_json(
            audits_file(name), {"sent": [*audits(name), (begun, ended)][-MOST_AUDITS:]}, 0o640
        )


def audits(name: str) -> list[tuple[float, float]]:
    """Return when audits sent requests; none when the note is missing or damaged."""
    with contextlib.suppress(DeployError, OSError, ValueError, TypeError):
        return [
            (begun, ended) for begun, ended in (read_json(audits_file(name)) or {}).get("sent", [])
        ]
    return []


def is_of_audit(request: Request, times: list[tuple[float, float]]) -> bool:
    """Tell whether a request came while an audit sent its own; which of these are the audit's, the log cannot tell."""
    return any(int(begun) <= request.time <= ended + 1 for begun, ended in times)


def is_health(request: Request, path: str) -> bool:
    """Tell whether a request asks the health path, with its query or, where the log has none, without."""
    return request.target in (path, path.partition("?")[0])


def percentile(durations: Counter[int], percent: int) -> int | None:
    """Return the duration that so many percent of all did not exceed; None when there are none."""
    rank = math.ceil(durations.total() * percent / 100)
    for duration in sorted(durations):
        rank -= durations[duration]
        if rank <= 0:
            return duration
    return None


def in_seconds(milliseconds: int | None) -> str:
    """Return a duration as people read it."""
    if milliseconds is None:
        return "-"
    return f"{milliseconds} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"
