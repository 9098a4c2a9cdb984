# SPDX-License-Identifier: GPL-3.0-or-later
"""Download a large file with curl: resumed where it stopped, from several mirrors, verified while it arrives.

curl speaks to the network: TLS, proxies, HTTP/2, time limits. What arrives comes through a pipe, so that nothing gets
into the file before the server's answer was judged: an error page, the whole file where its rest was asked for, or another
file under the same URL. A thread follows the growing file and hashes it, an earlier run's half included.

Beside `<name>.part` lies `<name>.part.json`, which says what the half is a half of. Both stay when a download is given up,
and the next run goes on from there.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import select
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, NoReturn, cast
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from ansible.module_utils.api_endpoint.digests import value_digest
from ansible.module_utils.api_endpoint.errors import DeployError, lacks_room
from ansible.module_utils.api_endpoint.files import read_json, write_json
from ansible.module_utils.api_endpoint.placeholders import HEAD_BYTES, LFS, page, pointer, readable
from ansible.module_utils.api_endpoint.urls import shown_url

# Bytes read at a time: what a pipe holds, and little enough to stay in the processor's cache. 1 MiB is half as fast.
PIECE_BYTES = 64 * 1024
EXCERPT_BYTES = 4000  # bytes of an error page that are read
HEADERS_BYTES = 256 * 1024  # bytes of headers at most
REDIRECTS = 50  # as curl's own limit
AGENT = "api_endpoint (Ansible role)"

# Statuses below 500 after which the same request may succeed later; above, all but those that say "never".
PASSING = (202, 408, 425, 429)
NEVER = (501, 505)
# curl's exit statuses that another try will not fix: URL, protocol, certificate, local set-up.
HOPELESS = {1, 2, 3, 4, 27, 48, 51, 53, 54, 58, 59, 60, 61, 66, 77, 80, 82, 83, 90, 91}

BLANKS = " \t\r\n"
PAGE_BYTES = 16 * 1024 * 1024  # what is larger is no page
PAGE_REMEDY = (
    "Give the URL of the file itself, which answers without a page to log in or to agree to: what `curl -L URL` prints is "
    "what arrives here. On GitHub and Hugging Face that is the link to download (raw, resolve), not the page (blob)."
)
POINTER_REMEDY = (
    "Give the URL under which the server has the file: on GitHub "
    "https://media.githubusercontent.com/media/<owner>/<name>/<branch>/<path>, on Hugging Face /resolve/ in place of /raw/. "
    "Or run `git lfs pull` in a clone, and give the file as src."
)
LATER = "Run again later, or add a mirror."

Progress = Callable[[int, "int | None"], None]
Note = Callable[[str], None]


@dataclass(frozen=True)
class Policy:
    """How patient a download is; times in seconds."""

    tries: int = 6  # for each mirror, in a row, without progress
    first_wait: float = 1.0  # doubled after each failure in a row
    longest_wait: float = 60.0
    longest_retry_after: float = 300.0  # of what a server asks for with Retry-After
    connect_timeout: float = 20.0
    stall_timeout: int = 60  # a connection slower than stall_rate for so long is given up
    stall_rate: int = 100  # bytes a second
    least_progress: int = 64 * 1024  # new bytes that make a try count as progress
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Fetched:
    """A file that arrived whole and, if its digest was known, right."""

    sha256: str
    size: int  # bytes
    url: str  # the mirror that it came from, without user, password and query
    transferred: int  # bytes that this run got over the network into the file


class _TryError(Exception):
    """A try that failed: what the server or curl said, what to do about it, and whether to try again."""

    def __init__(
        self, text: str, remedy: str = "", *, lasting: bool = False, wait: float = 0.0
    ) -> None:
        super().__init__(text)
        self.remedy = remedy
        self.lasting = lasting
        self.wait = wait


class _AgainError(Exception):
    """The bytes so far do not belong to what the server has now: start again, without waiting."""


class _RepeatError(_AgainError):
    """The digest is wrong, and the file was joined from halves that may not belong together."""


@dataclass
class _Head:
    """Status line and headers of an answer, the names in lower case."""

    line: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        found = re.match(r"HTTP/\S+ (\d{3})", self.line)
        return int(found[1]) if found else 0

    @property
    def length(self) -> int | None:
        text = self.headers.get("content-length", "")
        return int(text) if text.isdecimal() else None

    @property
    def content_range(self) -> tuple[int | None, int | None]:
        """Where the part begins, and the size of the whole file; None for what is not said."""
        found = re.fullmatch(
            r"bytes\s+(?:(\d+)-\d+|\*)/(?:(\d+)|\*)", self.headers.get("content-range", "").strip()
        )
        if not found:
            return None, None
        return int(found[1]) if found[1] else None, int(found[2]) if found[2] else None

    @property
    def retry_after(self) -> float:
        """Seconds that the server asks to wait."""
        text = self.headers.get("retry-after", "").strip()
        if text.isdecimal():
            return float(text)
        with suppress(ValueError, TypeError):
            date = parsedate_to_datetime(text)
            date = date if date.tzinfo else date.replace(tzinfo=UTC)
            return max(0.0, (date - datetime.now(UTC)).total_seconds())
        return 0.0


def _parse_head(text: bytes) -> _Head | None:
    """Return the final head in what curl wrote down, or None when it is not complete yet."""
    for block in re.split(rb"\r?\n\r?\n", text)[:-1]:
        # Not str.splitlines and str.strip: a byte of a name in UTF-8 may look like the end of a line.
        first, *lines = re.split(r"\r?\n", block.decode("latin-1"))
        head = _Head(first.strip(BLANKS))
        for line in lines:
            name, _, value = line.partition(":")
            head.headers[name.strip(BLANKS).lower()] = value.strip(BLANKS)
        if head.status >= 200:
            return head
    return None


def _as_sent(url: str, base: str = "") -> str:
    """Return a URL, relative to another one, encoded as curl does it; each of its characters is a byte."""
    place, mark, query = url.partition("?")
    query = query.replace(" ", "+")
    encoded = "".join(
        letter if "!" <= letter <= "~" else f"%{ord(letter):02X}"
        for letter in f"{place}{mark}{query}"
    )
    parts = urlsplit(urljoin(base, encoded))
    login, at, server = parts.netloc.rpartition("@")
    if "%" in server:  # a name in letters beyond ASCII
        server = unquote(server).encode("idna").decode()
    return urlunsplit(parts._replace(netloc=f"{login}{at}{server}", fragment=""))


def with_login_of(known: str, url: str) -> str:
    """Return a URL with the user and password of a known one when it is on the same server and has none."""
    one, other = urlsplit(known), urlsplit(url)
    login, at, server = one.netloc.rpartition("@")
    if at and other.scheme == one.scheme and other.netloc == server:
        return urlunsplit(other._replace(netloc=f"{login}@{server}"))
    return url


def asked_size(url: str, headers: Mapping[str, str]) -> int | None:
    """Return how many bytes a server says that a file has; None when it does not say. It is a help, and never an error."""
    first = target = _as_sent(_in_bytes(url))
    with suppress(OSError, ValueError):
        for _ in range(REDIRECTS + 1):
            own = headers if _origin(target) == _origin(first) else {}
            curl = _Curl(target, own, Policy(), is_head=True)
            try:
                head = curl.answer(lambda: None)
            finally:
                curl.close()
            if head is None or not (300 <= head.status < 400 and "location" in head.headers):
                return head.length if head and head.status == 200 else None
            target = with_login_of(target, _as_sent(head.headers["location"], target))
    return None


def _in_bytes(url: str) -> str:
    """Return a URL as characters that each stand for a byte of it in UTF-8."""
    return url.encode().decode("latin-1")


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Return whom a URL talks to."""
    parts = urlsplit(url)
    port = re.search(r":(\d+)$", parts.netloc)
    return (
        parts.scheme,
        parts.hostname,
        int(port[1]) if port else {"http": 80, "https": 443}.get(parts.scheme),
    )


def _quoted(text: str) -> str:
    """Return a value as curl's configuration wants it."""
    if any(character in text for character in "\r\n\0"):
        raise DeployError(
            "A URL or header of a download has a line break in it. Give it in one line."
        )
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t") + '"'


class _Digest(threading.Thread):
    """Hashes a file while it grows, up to where it is told that the bytes are good."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by the thread
        self._sum = hashlib.sha256()
        self._changed = threading.Condition()
        self._limit = 0
        self._closed = False
        self._error: OSError | None = None
        self.start()

    def grow(self, limit: int, *, last: bool = False) -> None:
        """Say how far the file may be read, and whether that is all."""
        with self._changed:
            self._limit, self._closed = limit, self._closed or last
            self._changed.notify()

    def run(self) -> None:
        """Read and hash until closed."""
        position, buffer = 0, memoryview(bytearray(PIECE_BYTES))
        with self._file:
            while True:
                with self._changed:
                    while self._limit <= position and not self._closed:
                        self._changed.wait()
                    limit = self._limit
                if limit <= position:
                    return
                try:
                    count = self._file.readinto(buffer[: min(PIECE_BYTES, limit - position)])
                    if not count:
                        raise OSError(errno.EIO, "it became shorter while it was read")
                except OSError as error:
                    self._error = error
                    return
                self._sum.update(buffer[:count])
                position += count

    def stop(self) -> None:
        """End without a result."""
        self.grow(0, last=True)
        self.join()

    def result(self, size: int, tick: Callable[[], None]) -> str:
        """Return the digest of the first `size` bytes."""
        self.grow(size, last=True)
        while self.is_alive():
            self.join(0.5)
            tick()
        if self._error:
            raise self._error
        return self._sum.hexdigest()


class _Curl:
    """One request."""

    def __init__(
        self, url: str, headers: Mapping[str, str], policy: Policy, *, is_head: bool = False
    ) -> None:
        """Start curl; URL and headers go through its standard input, where no list of processes shows them."""
        self.head = b""
        self.buffer = memoryview(bytearray(PIECE_BYTES))
        self._heads, head_end = os.pipe()
        os.set_blocking(self._heads, False)
        config = [
            f"url = {_quoted(url)}",
            "globoff",
            "silent",
            "show-error",
            "no-buffer",
            'proto = "=http,https"',
            "suppress-connect-headers",
            f"user-agent = {_quoted(AGENT)}",
            f"connect-timeout = {policy.connect_timeout}",
            f"speed-time = {policy.stall_timeout}",
            f"speed-limit = {policy.stall_rate}",
            f'dump-header = "/dev/fd/{head_end}"',
            *(["head", "max-time = 20"] if is_head else []),
            *(
                f"header = {_quoted(f'{name}: {value}' if value else f'{name};')}"
                for name, value in headers.items()
            ),
        ]
        pipe = subprocess.PIPE
        try:
            self.process = subprocess.Popen(
                ["curl", "--disable", "--config", "-"],
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                pass_fds=(head_end,),
                bufsize=0,
            )
        except FileNotFoundError as error:
            os.close(self._heads)
            raise DeployError(
                "curl is not installed on the host. Install Debian's package curl."
            ) from error
        finally:
            os.close(head_end)
        self.streams = [
            cast("IO[bytes]", stream) for stream in (self.process.stdout, self.process.stderr)
        ]
        self.body = self.streams[0].fileno()
        with suppress(BrokenPipeError), cast("IO[bytes]", self.process.stdin) as stdin:
            stdin.write("\n".join(config).encode())

    def _read_head(self) -> bool:
        """Take what there is of the head; return whether there may be more."""
        try:
            text = os.read(self._heads, 65536)
        except BlockingIOError:
            return True
        if len(self.head) < HEADERS_BYTES:
            self.head += text
        return bool(text)

    def answer(self, tick: Callable[[], None]) -> _Head | None:
        """Wait for the answer's head; None when there was none."""
        while True:
            ready, _, _ = select.select([self._heads], [], [], 1.0)
            more = self._read_head() if ready else True
            if head := _parse_head(self.head):
                return head
            if not more:
                return None
            tick()

    def read(self, tick: Callable[[], None]) -> memoryview:
        """Return the next bytes of the body, none at its end; they are valid until the next call."""
        while True:
            ready, _, _ = select.select([self.body, self._heads], [], [], 1.0)
            tick()
            if self._heads in ready and not self._read_head():
                ready = [self.body]  # curl has ended, or will not write headers any more
            if self.body in ready:
                return self.buffer[: os.readv(self.body, [self.buffer])]

    def excerpt(self, tick: Callable[[], None]) -> str:
        """Return the beginning of the body as text, waiting a few seconds for it at most."""
        text, until = b"", time.monotonic() + 5
        while len(text) < EXCERPT_BYTES and time.monotonic() < until and (more := self.read(tick)):
            text += more
        return readable(text[:EXCERPT_BYTES])

    def end(self) -> tuple[int, str]:
        """Return curl's exit status, and what it said when it is not 0, after the body has ended."""
        said = self.streams[1].read(EXCERPT_BYTES).decode(errors="replace").strip()
        return self.process.wait(), said

    def close(self) -> None:
        """End curl, wherever it is."""
        self.process.kill()
        self.process.wait()
        for stream in self.streams:
            stream.close()
        os.close(self._heads)


class _Download:
    """A download into one file."""

    def __init__(
        self, part: Path, sha256: str, size: int | None, headers: Mapping[str, str], policy: Policy,
        progress: Progress | None, note: Note | None, name: str,
    ) -> None:  # fmt: skip
        self.part, self.side = part, part.with_name(f"{part.name}.json")
        self.sha256, self.size, self.headers, self.policy = (
            sha256.lower(),
            size,
            dict(headers),
            policy,
        )
        self._progress, self._note, self.name = progress, note, name
        self._ticked = 0.0
        self.transferred = self.restarts = 0
        self.done = False
        self.total: int | None = size
        self.no_ranges: set[str] = set()  # mirrors that answer ranges wrongly
        self.file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self.file)
            raise DeployError(
                f"Another run is downloading into {part} at this moment. Wait until it has ended, or end it, and run again."
            ) from error
        self.offset = self.best = os.fstat(self.file).st_size
        # Whether the bytes may have been joined from different files: asked for again when the digest is wrong.
        self.doubtful = self.offset > 0
        self.state = self._read_state()
        self.digest = _Digest(part)
        self.digest.grow(self.offset)

    def _read_state(self) -> dict[str, object]:
        """Return what is known about the file's first half."""
        if not self.offset:
            return {}
        try:
            return read_json(self.side) or {}
        except (OSError, ValueError, DeployError):
            return {}

    def close(self) -> None:
        """Leave the files to the next run, unless there is nothing in them."""
        self.digest.stop()
        if not self.offset and not self.done:
            self.part.unlink(missing_ok=True)
            self.side.unlink(missing_ok=True)
        os.close(self.file)

    def tick(self, *, now: bool = False) -> None:
        """Report progress about each second."""
        if self._progress and (now or time.monotonic() - self._ticked >= 1):
            self._ticked = time.monotonic()
            self._progress(self.offset, self.total)

    def note(self, text: str) -> None:
        """Report something worth knowing."""
        if self._note:
            self._note(self.hide(text))

    def hide(self, text: str) -> str:
        """Return a text without the values of the extra headers, which a server may have repeated."""
        for value in self.headers.values():
            if len(value) >= 6:
                text = text.replace(value, "(hidden)")
        return text

    def restart(self) -> None:
        """Drop the bytes there are."""
        self.digest.stop()
        os.ftruncate(self.file, 0)
        self.side.unlink(missing_ok=True)
        self.offset = self.best = 0
        self.restarts += 1
        self.total, self.state, self.doubtful = self.size, {}, False
        self.digest = _Digest(self.part)

    # One mirror.

    def from_mirror(self, url: str) -> Fetched:
        """Try one mirror until the file is there; raise _TryError when it does not come to that."""
        idle = self.restarts = 0
        repeated = False
        while True:
            before = self.best
            try:
                # A file of the expected length needs no server, if its digest can tell that it is the right one.
                if self.offset != self.size or not self.sha256:
                    self.attempt(url)
                return self.verified(url, may_repeat=not repeated)
            except _AgainError as reason:
                repeated = repeated or isinstance(reason, _RepeatError)
                self.note(f"{shown_url(url)}: {reason}; starting again from the beginning")
                self.restart()
                failure, waits = _TryError(str(reason)), False
            except _TryError as reason:
                self.best = max(self.best, self.offset)
                idle = 1 if self.best - before >= self.policy.least_progress else idle + 1
                failure, waits = reason, True
            if failure.lasting:
                raise failure
            if idle >= self.policy.tries or self.restarts > self.policy.tries:
                if self.restarts > 1:
                    remedy = "The server cannot resume downloads, or changes the file all the time: use another mirror."
                    raise _TryError(f"{failure} (started again {self.restarts} times)", remedy)
                raise failure
            if waits:
                self.wait(url, failure, idle)

    def wait(self, url: str, failure: _TryError, idle: int) -> None:
        """Wait before the next try, longer each time, and as long as the server asks for within reason."""
        policy = self.policy
        seconds = min(policy.longest_wait, policy.first_wait * 2 ** (idle - 1))
        seconds = max(seconds, min(failure.wait, policy.longest_retry_after))
        self.note(
            f"{shown_url(url)}: {failure}; trying again in {seconds:.0f} s, at {self.offset:,} bytes"
        )
        while seconds > 0:
            policy.sleep(min(seconds, 1.0))
            seconds -= 1.0
            self.tick()

    def verified(self, url: str, *, may_repeat: bool) -> Fetched:
        """Return the result if the digest is the expected one; else drop what has arrived."""
        self.total = self.offset
        self.check_content()
        found = self.digest.result(self.offset, self.tick)
        if not self.sha256 or found == self.sha256:
            self.tick(now=True)
            self.side.unlink(missing_ok=True)
            self.done = True
            return Fetched(found, self.offset, shown_url(url), self.transferred)
        text = f"it is not the expected file: its SHA-256 is {found}, expected {self.sha256} ({self.offset:,} bytes)"
        if self.doubtful and may_repeat:
            raise _RepeatError(f"{text}, joined from several tries")
        self.restart()
        raise _TryError(
            text,
            "Either the file was damaged on its way or on the server, or it was replaced there and sha256 is out of date: "
            "compare with sha256sum where the file was made.",
            lasting=True,
        )

    def check_content(self) -> None:
        """Refuse a page, or what only stands for a file; a page is one on purpose where the file's name says so."""
        head = os.pread(self.file, HEAD_BYTES, 0)
        what, command = pointer("", head)
        if what:
            said = f"it is {what}, not the file itself"
            remedy = (
                POINTER_REMEDY
                if what == LFS
                else f"Run `{command}` in a clone, and give the file as src."
            )
        elif said := page(self.name, head) if self.offset <= PAGE_BYTES else "":
            said, remedy = f"it is {said}", PAGE_REMEDY
        elif not (self.offset or self.sha256 or self.size == 0):
            said, remedy = "it is empty", "If that is right, give its sha256, or size: 0."
        else:
            return
        self.restart()
        raise _TryError(said, remedy, lasting=True)

    def attempt(self, mirror: str) -> None:
        """Make one request, redirects followed, and take its body; return when the file is whole."""
        url, asked = _as_sent(_in_bytes(mirror)), self.range_headers(mirror)
        for _ in range(REDIRECTS + 1):
            # A redirect to somebody else does not get the headers: they may be keys.
            own = self.headers if _origin(url) == _origin(mirror) else {}
            curl = _Curl(url, {**own, **asked}, self.policy)
            try:
                head = curl.answer(self.tick)
                if head is None:
                    raise self.failure(curl, None) or _TryError("no answer")
                if not (300 <= head.status < 400 and "location" in head.headers):
                    self.judge(mirror, curl, head, ranged=bool(asked))
                    return
                url = self.redirected(url, head)
            finally:
                curl.close()
        raise _TryError(
            f"it redirects more than {REDIRECTS} times", "Correct the URL.", lasting=True
        )

    def redirected(self, url: str, head: _Head) -> str:
        """Return where a redirect leads to, if one may follow it."""
        try:
            target = with_login_of(url, _as_sent(head.headers["location"], url))
        except ValueError as error:
            said = f"the server answered {head.line!r}, a redirect to {head.headers['location']!r}: {error}"
            raise _TryError(said, "Correct the URL.", lasting=True) from error
        if _origin(target)[0] not in ("http", "https"):
            raise _TryError(
                f"the server answered {head.line!r}, a redirect to {shown_url(target)!r}, which is neither http nor https",
                "Correct the URL.",
                lasting=True,
            )
        if (
            urlsplit(url).scheme == "https"
            and urlsplit(target).scheme == "http"
            and not self.sha256
        ):
            raise _TryError(
                f"the server answered {head.line!r}, a redirect from https to {shown_url(target)!r}, whose answer anybody "
                "on the way can change",
                "Give sha256, by which the file is known.",
                lasting=True,
            )
        return target

    def range_headers(self, mirror: str) -> dict[str, str]:
        """Return the headers that ask for the rest of the file, none to ask for all of it."""
        known = self.state.get("source") == value_digest(mirror, 16)
        etag, modified = (
            str(self.state.get(name) or "") if known else "" for name in ("etag", "modified")
        )
        validator = etag if etag and not etag.startswith("W/") else modified
        # Without a digest to check the result against, halves are joined only where the server vouches for both.
        if not self.offset or mirror in self.no_ranges or not (validator or self.sha256):
            return {}
        return {"Range": f"bytes={self.offset}-", **({"If-Range": validator} if validator else {})}

    # One answer.

    def judge(self, mirror: str, curl: _Curl, head: _Head, *, ranged: bool) -> None:
        """Decide what to do with an answer, and take its body if it is the one asked for."""
        start, total = head.content_range
        if head.status == 416 and ranged:
            if total == self.offset and self.size in (None, total):
                return  # all is there already
            self.check_size(curl, head, total)
            raise _AgainError(f"the server has no bytes after the first {self.offset:,}")
        if head.status == 206 and ranged:
            if start != self.offset:
                self.no_ranges.add(mirror)
                raise _AgainError(
                    f"the server sent another range than asked for ({head.headers.get('content-range')})"
                )
            if total is None and head.length is not None:
                total = start + head.length
            self.check_size(curl, head, total)
            self.check_same(mirror, head, total)
        elif head.status in (200, 203):
            total = head.length
            self.check_size(curl, head, total)
            if self.offset:
                # This is the whole file. Appended to a half it would be rubbish.
                self.note(
                    f"{shown_url(mirror)}: the server sends the whole file instead of its rest"
                )
                self.restart()
        else:
            self.refused(curl, head)
        self.remember(mirror, head, total)
        self.receive(curl, head)

    def check_size(self, curl: _Curl, head: _Head, total: int | None) -> None:
        """Refuse a file of another size before a byte of it is written."""
        if self.size is None or total in (None, self.size):
            return
        page = curl.excerpt(self.tick) if "text" in head.headers.get("content-type", "") else ""
        raise _TryError(
            f"the server answered {head.line!r} with a file of {total:,} bytes, expected {self.size:,}"
            + (f", which begins {page!r}" if page else ""),
            "Either the file on the server is cut off or another one, or size is out of date.",
            lasting=True,
        )

    def check_same(self, mirror: str, head: _Head, total: int | None) -> None:
        """Make sure, as far as the server tells, that the rest belongs to the half there is."""
        now = {
            "etag": head.headers.get("etag", ""),
            "modified": head.headers.get("last-modified", ""),
        }
        before = {name: str(self.state.get(name) or "") for name in now}
        if self.state.get("source") != value_digest(mirror, 16):
            self.doubtful = True
        else:
            for name in ("etag", "modified"):
                if now[name] and before[name] and now[name] != before[name]:
                    raise _AgainError(
                        f"the file on the server has changed ({before[name]} became {now[name]})"
                    )
                if now[name] and before[name]:
                    break
            else:
                self.doubtful = True
        known = self.state.get("total")
        if known is not None and total is not None and total != known:
            raise _AgainError(
                f"the file on the server has changed ({known:,} bytes became {total:,})"
            )

    def remember(self, mirror: str, head: _Head, total: int | None) -> None:
        """Write down what the file in the making is, for a resumption."""
        self.total = total if self.size is None else self.size
        state: dict[str, object] = {
            "source": value_digest(mirror, 16),  # a digest, because a URL may hold a password
            "etag": head.headers.get("etag", ""),
            "modified": head.headers.get("last-modified", ""),
            "total": total,
        }
        if state != self.state:
            write_json(self.side, state, 0o600)
            self.state = state

    def receive(self, curl: _Curl, head: _Head) -> None:
        """Append the body to the file."""
        while chunk := curl.read(self.tick):
            if self.size is not None and self.offset + len(chunk) > self.size:
                self.restart()
                raise _TryError(
                    f"the server answered {head.line!r} and sent more than the expected {self.size:,} bytes",
                    "Either there is another file on the server, or size is out of date.",
                    lasting=True,
                )
            self.append(chunk)
        if failure := self.failure(curl, head):
            raise failure

    def append(self, rest: memoryview) -> None:
        """Write bytes at the end of the file and let them be hashed."""
        while rest:
            count = os.pwrite(self.file, rest, self.offset)
            rest = rest[count:]
            self.offset += count
            self.transferred += count
        self.digest.grow(self.offset)

    def failure(self, curl: _Curl, head: _Head | None) -> _TryError | None:
        """Return why a request whose body has ended did not complete the file, None when it did."""
        status, said = curl.end()
        answered = f"the server answered {head.line!r}, then: " if head else ""
        if status or not head:
            text = said.removeprefix("curl: ") or f"no answer (curl ended with status {status})"
            remedy = "Correct the URL or the host's certificates." if status in HOPELESS else LATER
            return _TryError(f"{answered}{text}", remedy, lasting=status in HOPELESS)
        if self.total is not None and self.offset != self.total:
            return _TryError(
                f"{answered}the connection ended at {self.offset:,} of {self.total:,} bytes", LATER
            )
        return None

    def refused(self, curl: _Curl, head: _Head) -> NoReturn:
        """Raise what an answer other than the file means."""
        page = curl.excerpt(self.tick)
        remedy = LATER
        if head.status in (401, 403, 407):
            remedy = "Check that the host may read the URL; headers can be given with it."
        elif head.status in (404, 410):
            remedy = "Correct the URL, or publish the file there again."
        lasting = head.status in NEVER or (head.status < 500 and head.status not in PASSING)
        text = f"the server answered {head.line!r}" + (f" and {page!r}" if page else "")
        raise _TryError(text, remedy, lasting=lasting, wait=head.retry_after)


def download(
    part: str | Path,
    urls: Sequence[str],
    *,
    sha256: str = "",
    size: int | None = None,
    headers: Mapping[str, str] | None = None,
    policy: Policy | None = None,
    progress: Progress | None = None,
    note: Note | None = None,
    name: str = "",
) -> Fetched:
    """Download a file to `part` and return its digest, after comparing it with `sha256` (hexadecimal; empty: unknown).

    `urls` are mirrors of the same file, tried in this order; `size` is its expected number of bytes. `headers` go to the
    mirrors' own hosts only, not to where these redirect to, and never into a list of processes or a message. About each
    second `progress` gets the bytes that are there and the bytes of the whole file, None while it is not known; `note`
    gets a sentence whenever something goes wrong that is tried again. Of a file whose `name` is a page's, a page is taken.

    What `part` holds already is continued. It stays when DeployError is raised, but for one with a wrong digest. The file
    is not synced to the disk.
    """
    target = Path(part)
    policy = policy or Policy()
    work = _Download(target, sha256, size, headers or {}, policy, progress, note, name)
    try:
        failures: list[tuple[str, _TryError]] = []
        for url in urls:
            try:
                return work.from_mirror(url)
            except _TryError as failure:
                failures.append((url, failure))
                work.note(f"{shown_url(url)}: {failure}; giving this server up")
        said = (
            "; ".join(f"{shown_url(url)}: {failure}" for url, failure in failures)
            or "No URL was given"
        )
        remedies = dict.fromkeys(failure.remedy for _url, failure in failures if failure.remedy)
        kept = (
            [f"{work.offset:,} bytes are kept in {target}: the next run goes on from there."]
            if work.offset
            else []
        )
        raise DeployError(work.hide(" ".join([f"{said}.", *remedies, *kept])))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        need = (
            f"{work.total - work.offset:,} bytes more are needed"
            if work.total
            else "the file's size is not known"
        )
        raise DeployError(
            f"{lacks_room(target, str(error))}. It is full: {work.offset:,} bytes have arrived, {need}. Make room and run "
            "again: what has arrived is kept, and the download goes on from there."
        ) from error
    finally:
        work.close()
