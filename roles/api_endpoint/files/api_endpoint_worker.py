# SPDX-License-Identifier: GPL-3.0-or-later
"""The role's part of gunicorn: uwsgi from nginx, a worker of threads that sheds load, and safe logs.

Each release has a copy of this file beside its gunicorn.conf.py, which names what it uses.
Decisions 13, 16, 17 and 32 (docs/adr) say why.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import fcntl
import gc
import inspect
import io
import json
import logging
import math
import os
import re
import select
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from gunicorn import SERVER_SOFTWARE, __version__
from gunicorn.config import KNOWN_SETTINGS
from gunicorn.errors import AppImportError
from gunicorn.glogging import Logger, loggers
from gunicorn.http.wsgi import FileWrapper
from gunicorn.workers.sync import SyncWorker

LEASE_SECONDS = 0.005  # an answer may keep the next request waiting for so long
UNNOTICED_SECONDS = 0.05  # every request may wait for so long
BURST_SECONDS = 5  # a queue that lasts longer is an overload
FILLING_BURST_SECONDS = 1  # the same, when nginx soon has to refuse the requests of others
SHEDDING_GAIN = 5  # shedding pays where answering takes so many times as long as reading
CLOCK_JUMP_SECONDS = 3600  # a longer wait means that somebody has set the clock
STREAM_SECONDS = 5  # an answer of unknown length that takes longer is a stream

HEAD_BYTES = 4  # of a uwsgi packet; two of them say how long the variables behind it are
PACKET_BYTES = HEAD_BYTES + 0xFFFF
PIECE_BYTES = 65536
UNWANTED_HEADERS = ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
                    "trailers", "transfer-encoding", "upgrade")  # fmt: skip
# RFC 9110: what a status and headers consist of.
STATUS = re.compile(r"[2-9][0-9]{2}(?: [ \t\x21-\x7e\x80-\xff]*)?")
HEADERS = re.compile(r"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [ \t\x21-\x7e\x80-\xff]*\r\n)*")

# nginx says the same when it sheds a request itself.
MESSAGE = "The API is busy. Please try again in a moment."
BUSY = json.dumps({"error": {"status": 503, "message": MESSAGE}}).encode() + b"\n"
LATE_MESSAGE = "The API took too long to answer."
LATE = json.dumps({"error": {"status": 504, "message": LATE_MESSAGE}}).encode() + b"\n"
STREAMS_MESSAGE = "Too many streams are open. Please try again in a moment."
STREAMS_FULL = json.dumps({"error": {"status": 503, "message": STREAMS_MESSAGE}}).encode() + b"\n"


def shed_headers(body: bytes) -> list[tuple[str, str]]:
    """Return the headers of an answer that sheds a request."""
    return [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("X-Load-Shed", "yes"),
    ]


class Queue:
    """Decides which requests have waited too long for a thread.

    A burst ends, and so does a fault that holds up a whole host, so waiting is worth it. When no
    request has found its thread at once for some seconds, more requests come than the workers can
    answer. All of them would wait too long; so the late ones are shed, and the others are answered
    in time. The idea is CoDel's (RFC 8289).

    Light clients are not shed because of a heavy one: nginx puts each client into one of fifty
    buckets, and a bucket that asks for little is always answered (RFC 8290). No request is shed
    where that takes about as long as the answer.
    """

    def __init__(self, workers: int = 1, threads: int = 1) -> None:
        self.workers = workers
        self.capacity = workers * threads
        self.taken: deque[float] = deque(
            maxlen=1000
        )  # when a thread took each of the last requests
        self.typical_latency = 0.0  # seconds within which most answers are made
        self.standing_since: float | None = None
        self.is_overloaded = False
        self.late_at = 0.0
        # Seconds of the last moments; those of a second ago count half.
        self.answering = 0.0
        self.reading = 0.0
        self.demand: dict[
            str, float
        ] = {}  # of answering, by bucket; shed requests count as typical ones
        self.aged_at = time.monotonic()

    def learn(self, bucket: str, seconds: float) -> None:
        """Note how long an answer took. A slow answer moves the typical latency most."""
        self.typical_latency += (seconds - self.typical_latency) / (
            4 if seconds > self.typical_latency else 64
        )
        self.answering += seconds
        self.demand[bucket] = self.demand.get(bucket, 0.0) + seconds

    def should_shed(self, bucket: str, waited: float, concurrency: int, reading: float) -> bool:
        """Decide on a request by the seconds that it waited for a thread and took to read.

        `concurrency` is how many requests nginx allows in flight, 0 if it does not say.
        """
        now = time.monotonic()
        self.taken.append(now)
        if now - self.aged_at > 1:
            self.age(now)
        self.reading += reading
        is_late = waited > max(UNNOTICED_SECONDS, 1.5 * self.typical_latency)
        self.watch(now, waited, is_late, concurrency)
        pays = self.answering > SHEDDING_GAIN * self.reading
        if not (self.is_overloaded and is_late and pays) or self.is_light(bucket):
            return False
        self.demand[bucket] = self.demand.get(bucket, 0.0) + self.typical_latency
        return True

    def watch(self, now: float, waited: float, is_late: bool, concurrency: int) -> None:
        """Notice an overload: it begins when all requests have been late for long."""
        if is_late:
            self.late_at = now
        if self.is_overloaded:
            self.is_overloaded = now - self.late_at < 1  # second without a late one
        if self.is_overloaded:
            return
        if not is_late:
            self.standing_since = None
        elif self.standing_since is None:
            self.standing_since = now
        else:
            fills = 0 < 0.75 * concurrency < self.in_flight(now - waited)
            burst = max(
                FILLING_BURST_SECONDS if fills else BURST_SECONDS, 10 * self.typical_latency
            )
            self.is_overloaded = now - self.standing_since > burst

    def in_flight(self, came: float) -> int:
        """Return how many requests were in flight when one came.

        This worker has taken its share of those that waited; the others have taken theirs.
        """
        return self.workers * sum(at >= came for at in list(self.taken)) + self.capacity

    def is_light(self, bucket: str) -> bool:
        """Tell whether fair shares would give a bucket all it asks for, and all of twice as much."""
        twice = 2 * self.demand.get(bucket, 0.0)
        others = [seconds for name, seconds in list(self.demand.items()) if name != bucket]
        return twice + sum(min(seconds, twice) for seconds in others) < self.answering

    def age(self, now: float) -> None:
        """Let the seconds of a second ago count half."""
        left = 0.5 ** (now - self.aged_at)
        self.aged_at = now
        self.answering *= left
        self.reading *= left
        self.demand = {bucket: seconds * left for bucket, seconds in list(self.demand.items())}


class AcceptLease:
    """A thread's right to accept connections."""

    busy_since: float | None = None


class Acceptor:
    """Lets one thread at a time accept connections: the same one as long as its answers are quick.

    That thread finds the processor's caches warm, and no other wakes up. When an answer takes
    longer, another thread gets the lease.
    """

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.free = threading.Lock()
        self.lease: AcceptLease | None = None

    def acquire(self) -> AcceptLease:
        """Wait for the lease."""
        self.free.acquire()
        self.lease = lease = AcceptLease()
        return lease

    def release(self, lease: AcceptLease) -> None:
        """End a lease, unless it has ended."""
        if self.lease is lease:
            self.lease = None
            with contextlib.suppress(RuntimeError):  # another thread has done it at the same time
                self.free.release()


class MalformedRequestError(Exception):
    """A request that does not come from an nginx which the role has configured."""


class ClientGoneError(ConnectionError):
    """nginx has closed the connection, because its client has."""


class StreamsFullError(Exception):
    """All places for streams are taken."""


class StreamPlaces:
    """Places for streams, which all workers share: bytes of a file that a stream's process locks.

    The kernel frees those of a process that dies, and others can count them in /proc/locks.
    """

    def __init__(self) -> None:
        self.count: int | None = None  # None: as many as come
        self.path = ""
        self.graceful_seconds = math.inf  # of requests that are no streams, when a version stops
        self.process = 0
        self.file = -1
        self.own: set[int] = set()
        self.changing = threading.Lock()

    def take(self) -> int | None:
        """Return a place that was free; None when none was."""
        if self.count is None:
            return -1
        with self.changing:
            if self.process != os.getpid():  # a lock is its process's
                self.process, self.own = os.getpid(), set()
                self.file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            for place in range(self.count):
                if place not in self.own:
                    with contextlib.suppress(OSError):
                        fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
                        self.own.add(place)
                        return place
        return None

    def free(self, place: int) -> None:
        """Let another stream have a place."""
        if place >= 0:
            with self.changing:
                self.own.discard(place)
                fcntl.lockf(self.file, fcntl.LOCK_UN, 1, place)


places = StreamPlaces()


def limit_streams(count: int, graceful_seconds: float) -> None:
    """Let at most `count` answers be streams, of all workers together.

    When a version stops, requests that are none get `graceful_seconds`; streams get gunicorn's
    `graceful_timeout`.
    """
    places.graceful_seconds = graceful_seconds
    if folder := os.environ.get("RUNTIME_DIRECTORY"):
        path = Path(folder, "streams")
        path.write_bytes(bytes(count))
        path.chmod(0o770)  # as the socket beside it has it
        places.path, places.count = str(path), count


def parse_packet(packet: bytes) -> dict[str, str]:
    """Return the variables of a uwsgi packet: lengths of two bytes, names and values."""
    text = packet.decode("latin-1")
    variables = {}
    at, end = HEAD_BYTES, len(packet)
    try:
        while at < end:
            name = at + 2
            name_end = name + (packet[at] | packet[at + 1] << 8)
            value = name_end + 2
            at = value + (packet[name_end] | packet[name_end + 1] << 8)
            variables[text[name:name_end]] = text[value:at]
    except IndexError:
        at = 0
    if at != end:
        raise MalformedRequestError
    return variables


def receive_exactly(client: socket.socket, size: int, flags: int = 0) -> bytes:
    """Return so many bytes."""
    data = b""
    while len(data) < size:
        try:
            more = client.recv(size - len(data), flags)
        except OSError as error:
            raise ClientGoneError from error
        if not more:
            raise ClientGoneError
        data += more
    return data


class Body(io.RawIOBase):
    """The body of a request that is not there at once. The app gets its last byte, and the socket keeps it."""

    def __init__(self, client: socket.socket, size: int) -> None:
        super().__init__()
        self.client = client
        self.left = size

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read a piece. A body that ends too early is an error: half of it is no request."""
        size = min(len(buffer), max(1, self.left - 1)) if self.left else 0
        if not size:
            return 0
        try:
            got = self.client.recv_into(buffer, size, socket.MSG_PEEK if self.left == 1 else 0)
        except OSError as error:
            raise ClientGoneError("the request's body was cut off") from error
        if not got:
            raise ClientGoneError("the request's body was cut off")
        self.left -= got
        return got

    def readall(self) -> bytes:
        """Read all that is left, in larger pieces than Python would."""
        return b"".join(iter(lambda: self.read(PIECE_BYTES) or b"", b""))


class Request:
    """A request as nginx sent it, with what gunicorn's hooks and logs look at."""

    version = (1, 1)
    rest: Body | None = None

    def __init__(self, client: socket.socket, begun: bytes, base: dict[str, Any]) -> None:
        """Receive a request. `begun` is what was in the socket at first, and still is."""
        self.client = client
        packet = self.receive_packet(begun)
        self.environ = environ = base | parse_packet(packet)
        self.body = self.receive_body(begun[len(packet) :], environ.get("CONTENT_LENGTH") or "0")
        try:
            self.method, self.uri, self.query = (
                environ["REQUEST_METHOD"],
                environ["RAW_URI"],
                environ["QUERY_STRING"],
            )
            self.path, self.scheme = environ["PATH_INFO"], environ["wsgi.url_scheme"]
            name, _, port = environ["HTTP_HOST"].partition(":")
        except KeyError as error:
            raise MalformedRequestError from error
        environ["SERVER_NAME"] = name
        environ["SERVER_PORT"] = port or ("443" if self.scheme == "https" else "80")
        environ["wsgi.input"] = self.body
        path = self.path
        if script := environ["SCRIPT_NAME"]:
            if not path.startswith(script):
                raise ValueError(f"SCRIPT_NAME is {script!r}, and the request is for another path")
            path = path[len(script) :]
        environ["PATH_INFO"] = unquote(path) if "%" in path else path

    def receive_packet(self, begun: bytes) -> bytes:
        """Return the packet of variables, and note how much of it is left in the socket: all, or its last byte."""
        self.left = size = HEAD_BYTES + int.from_bytes(begun[1:3], "little")
        if len(begun) >= size:
            return begun[:size]
        begun = receive_exactly(self.client, HEAD_BYTES)
        size = int.from_bytes(begun[1:3], "little")
        self.left = 1
        return (
            begun
            + receive_exactly(self.client, max(0, size - 1))
            + receive_exactly(self.client, 1, socket.MSG_PEEK)
        )

    def receive_body(self, begun: bytes, length: str) -> Any:
        """Return the body, of which some bytes are there."""
        if not (length.isascii() and length.isdecimal()):
            raise MalformedRequestError
        size = int(length)
        if len(begun) >= size:
            self.left += size
            return io.BytesIO(begun[:size])
        receive_exactly(self.client, self.left)
        self.rest = Body(self.client, size)
        return io.BufferedReader(self.rest)

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers, named as gunicorn does it."""
        return [
            (name.removeprefix("HTTP_").replace("_", "-"), value)
            for name, value in self.environ.items()
            if name.startswith("HTTP_") or name in ("CONTENT_TYPE", "CONTENT_LENGTH")
        ]

    def complete(self) -> None:
        """Take what is left of the request out of the socket: the answer is complete.

        An answer of unknown length ends with its connection. nginx takes a closed connection for the
        end, and a reset one for an error; and Linux resets a connection that is closed with
        something unread in it, also that of a process which is killed.
        """
        left = (self.rest.left or 1) if self.rest else self.left
        with contextlib.suppress(OSError):
            while left > 0 and (taken := len(self.client.recv(min(left, PIECE_BYTES)))):
                left -= taken


class Flight:
    """A request that is being answered, and when it gave its last sign of life."""

    headers_sent = False
    is_stream = False  # it has begun, and nobody knows when it ends
    is_cut = False

    def __init__(self, path: str) -> None:
        self.path = path
        self.alive_at = time.monotonic()

    def watch(self, parts: Iterable[bytes]) -> Iterable[bytes]:
        """Pass on the parts of an answer that gunicorn sends. Each is a sign of life."""
        try:
            for part in parts:
                yield part
                self.alive_at = time.monotonic()
        finally:
            if hasattr(parts, "close"):
                parts.close()


class Response(Flight):
    """An answer on its way to nginx; with what gunicorn's hooks and logs look at."""

    chunked = False
    place: int | None = None  # its place among the streams
    no_place_until = 0.0
    is_whole = False  # the app has given all of its parts at once

    def __init__(self, request: Request) -> None:
        super().__init__(request.path)
        self.request = request
        self.client = request.client
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self.head = b""
        self.response_length: int | None = None
        self.sent = 0  # bytes of the body
        self.omits_body = False

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """Note status and headers; they are sent with the first bytes of the body."""
        if exc_info:
            try:
                if self.headers_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.status:
            raise AssertionError("The app called start_response twice.")
        if not isinstance(status, str) or not STATUS.fullmatch(status):
            raise ValueError("The app answered with an invalid status. A valid one is '200 OK'.")
        code = status[:3]
        length, kept = None, []
        for name, value in headers:
            if not (isinstance(name, str) and isinstance(value, str)):
                raise TypeError(f"The app answered with a header {name!r} that is no text.")
            lower = name.lower()
            if lower in UNWANTED_HEADERS or (lower == "content-length" and code == "204"):
                continue
            if lower == "content-length":
                if not (value.isascii() and value.strip().isdecimal()):
                    raise ValueError("The app answered with a Content-Length that is no number.")
                length = int(value)
            kept.append((name, value))
        lines = "".join([f"{name}: {value}\r\n" for name, value in kept])
        # The value of none is the next one's line.
        if not HEADERS.fullmatch(lines) or lines.count("\n") != len(kept):
            bad = [
                name
                for name, value in kept
                if not HEADERS.fullmatch(f"{name}: {value}\r\n") or "\n" in name + value
            ]
            raise ValueError(
                f"The app answered with characters that no header may have, in {', '.join(map(repr, bad))}."
            )
        self.status, self.headers, self.response_length = status, kept, length
        self.omits_body = self.request.method == "HEAD" or code in ("204", "304")
        if length is None and not self.omits_body:
            # A stream: nginx sends its parts as they are made. It keeps this line to itself.
            lines += "X-Accel-Buffering: no\r\n"
        self.head = f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("latin-1")
        return self.write

    def write(self, data: bytes) -> None:
        """Send a part of the body, with the head before the first one."""
        if not isinstance(data, bytes):
            raise TypeError(f"The app answered with {type(data).__name__}. It must be bytes.")
        if not self.status:
            raise AssertionError("The app has not called start_response.")
        if not data:
            return
        if self.omits_body:
            data = b""
        elif self.response_length is not None:
            data = data[: self.response_length - self.sent]
        self.sent += len(data)
        self.send(data)

    def send(self, data: bytes) -> None:
        """Send bytes, behind the head if that is not sent yet."""
        if not self.headers_sent:
            self.admit()
            self.headers_sent = True
            self.is_stream = self.has_no_length
            data = self.head + data
        # How slowly its client may read, nginx decides.
        self.alive_at = math.inf
        try:
            self.client.sendall(data)
        except OSError as error:
            raise ClientGoneError from error
        finally:
            self.alive_at = time.monotonic()
        if self.is_stream and self.place is None and self.alive_at > self.no_place_until:
            self.place = places.take()
            self.no_place_until = self.alive_at + 1

    @property
    def has_no_length(self) -> bool:
        """Whether nobody knows beforehand when it ends: it is a stream, or a short one of them."""
        return self.response_length is None and not (self.omits_body or self.is_whole)

    def admit(self) -> None:
        """Refuse an answer of unknown length before its first byte, when there is no place for a stream.

        Events take their place now. Of all others most end soon: those that do not, take it then.
        """
        if not self.has_no_length or self.place is not None or self.headers_sent:
            return
        place = places.take()
        if place is None:
            raise StreamsFullError
        kind = next((value for name, value in self.headers if name.lower() == "content-type"), "")
        if kind.strip().lower().startswith("text/event-stream"):
            self.place = place
        else:
            places.free(place)
            self.no_place_until = time.monotonic() + STREAM_SECONDS

    def refuse(self) -> None:
        """Answer that there is no place for a stream."""
        self.status, self.sent = "", 0
        self.start_response("503 Service Unavailable", shed_headers(STREAMS_FULL))
        self.write(STREAMS_FULL)

    def close(self) -> None:
        """Send the head of an answer without a body."""
        if not self.status:
            raise AssertionError("The app has not called start_response.")
        if not self.headers_sent:
            self.send(b"")


class ErrorLog(io.TextIOBase):
    """What an app writes to `wsgi.errors` goes to gunicorn's error log, also after a rotation."""

    def writable(self) -> bool:
        """Say that it can be written to."""
        return True

    def write(self, text: str) -> int:
        """Write to the log."""
        write_to(
            [
                handler
                for handler in logging.getLogger("gunicorn.error").handlers
                if hasattr(handler, "stream")
            ],
            text,
        )
        return len(text)


def unquote(path: str) -> str:
    """Return a path as WSGI has it: each character is one byte."""
    return unquote_to_bytes(path.encode("latin-1")).decode("latin-1")


def speak_uwsgi() -> None:
    """Leave word that this version takes uwsgi as well as HTTP: a file that the unit looks for."""
    if folder := os.environ.get("RUNTIME_DIRECTORY"):
        word = Path(folder, "uwsgi")
        word.touch()
        word.chmod(0o770)  # as the socket beside it has it


class UwsgiWorker:
    """Lets any of gunicorn's workers take uwsgi from nginx. HTTP stays gunicorn's own."""

    alive: bool
    cfg: Any
    handle_error: Callable[..., None]
    log: Any
    max_requests: int
    nr: int
    wsgi: Callable[..., Iterable[bytes]]
    is_multithreaded = False

    def note_part(self) -> None:
        """Note that a part of an answer was sent."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Each is looked up in a table of all settings otherwise, at each request.
        self.hooks = self.cfg.pre_request, self.cfg.post_request
        self.environ = {
            "SCRIPT_NAME": "",
            "REMOTE_ADDR": "",
            "SERVER_SOFTWARE": SERVER_SOFTWARE,
            "wsgi.version": (1, 0),
            "wsgi.errors": ErrorLog(),
            "wsgi.multithread": self.is_multithreaded,
            "wsgi.multiprocess": self.cfg.workers > 1,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True,
        }

    def load_wsgi(self) -> None:
        """Load the app. Its settings tell by now where it is mounted."""
        super().load_wsgi()  # type: ignore[misc]
        if is_asgi(self.wsgi):
            raise AppImportError(
                "The app is an ASGI app, such as those of FastAPI and Starlette are, and the workers speak WSGI. "
                "Set api_endpoint_worker_class: asgi."
            )
        self.environ["SCRIPT_NAME"] = os.environ.get("SCRIPT_NAME", "")

    def handle(self, listener: Any, client: socket.socket, addr: Any) -> None:
        """Answer a request in uwsgi, as nginx sends it, or in HTTP, as people do."""
        response, begun = None, b""
        try:
            with contextlib.suppress(OSError):  # nothing came
                begun = client.recv(PACKET_BYTES, socket.MSG_PEEK)
            if begun and begun[0]:
                super().handle(listener, client, addr)  # type: ignore[misc]
            elif begun:
                response = Response(Request(client, begun, self.environ))
                self.answer_request(response)
                response.request.complete()
        except MalformedRequestError:
            self.log.warning("Rejected a malformed request.")
        except ClientGoneError as error:
            self.log.debug("The client has gone. %s", error)
        except BaseException as error:
            if response and response.headers_sent:
                self.log.exception(
                    "Error handling request %s %s", response.request.method, response.request.uri
                )
            else:
                self.handle_error(response and response.request, client, addr, error)
                if response:
                    response.request.complete()
        finally:
            client.close()

    def answer_request(self, response: Response) -> None:
        """Answer a request of nginx."""
        request, begun = response.request, time.monotonic()
        pre_request, post_request = self.hooks
        try:
            pre_request(self, request)
            self.nr += 1
            if self.nr >= self.max_requests and self.alive:
                self.log.info("Autorestarting worker after current request.")
                self.alive = False
            answer: Iterable[bytes] | None = None
            try:
                answer = self.wsgi(request.environ, response.start_response)
                response.is_whole = isinstance(answer, (list, tuple))
                if response.status:
                    response.admit()
                for part in answer:
                    response.write(part)
                    self.note_part()
                response.close()
            except StreamsFullError:
                answer = answer or ()
                response.refuse()
            finally:
                if answer is not None:
                    took = timedelta(seconds=time.monotonic() - begun)
                    self.log.access(response, request, request.environ, took)
                    if hasattr(answer, "close"):
                        answer.close()
        finally:
            if response.place is not None:
                places.free(response.place)
            try:
                post_request(self, request, request.environ, response)
            except Exception:
                self.log.exception("Exception in post_request hook")


class PlainWorker(UwsgiWorker, SyncWorker):
    """gunicorn's `sync`: one request at a time."""

    def note_part(self) -> None:
        """Tell gunicorn that this worker is alive."""
        self.notify()


def __getattr__(name: str) -> type:
    """Return gunicorn's `gevent` that takes uwsgi, or its worker for ASGI; each is there only if it is wanted."""
    if name == "GeventWorker":
        from gunicorn.workers.ggevent import GeventWorker

        return type(name, (UwsgiWorker, GeventWorker), {"is_multithreaded": True})
    if name == "AsgiWorker":
        from gunicorn.workers.gasgi import ASGIWorker

        return type(name, (GuardingWorker, ASGIWorker), {})
    raise AttributeError(name)


def is_asgi(app: Any) -> bool:
    """Tell whether an app is an asynchronous one: a coroutine function, or an object that is called as one."""
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(
        getattr(app, "__call__", None)  # noqa: B004 (not whether it can be called, but how)
    )


def is_wsgi(app: Any) -> bool:
    """Tell whether an app is surely a WSGI app: it takes `start_response`."""
    try:
        return not is_asgi(app) and "start_response" in inspect.signature(app).parameters
    except (TypeError, ValueError):
        return False


class GuardingWorker:
    """What gunicorn's worker for ASGI does for its requests as the role's other workers do."""

    cfg: Any
    log: Any
    asgi: Any

    def load_wsgi(self) -> None:
        """Load the app, behind the guard."""
        super().load_wsgi()  # type: ignore[misc]
        if is_wsgi(self.asgi):
            raise AppImportError(
                "The app is a WSGI app, such as those of Flask are, and the workers speak ASGI. "
                "Set api_endpoint_worker_class: threads."
            )
        app, queue = self.asgi, Queue(self.cfg.workers)

        async def guard(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                await AsgiFlight(self, queue, scope, send).run(app, receive)
            else:
                await app(scope, receive, send)

        self.asgi = guard


Message = dict[str, Any]


def answer_of(status: int, headers: list[tuple[str, str]], body: bytes) -> list[Message]:
    """Return the messages of a whole answer."""
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers]
    return [
        {"type": "http.response.start", "status": status, "headers": pairs},
        {"type": "http.response.body", "body": body},
    ]


class AsgiFlight:
    """A request of an ASGI app: shed when it is late, ended when it is silent, one of the streams or none."""

    def __init__(self, worker: GuardingWorker, queue: Queue, scope: Any, send: Any) -> None:
        self.worker, self.queue, self.scope, self.deliver = worker, queue, scope, send
        self.timeout = worker.cfg.timeout or None
        self.begun = time.monotonic()
        self.bucket = ""
        self.is_learned = self.has_begun = self.is_refused = self.is_stream = False
        self.place: int | None = None
        self.counts_from = math.inf  # as a stream
        self.limit: Any = None

    async def run(self, app: Callable[..., Awaitable[None]], receive: Any) -> None:
        """Have the app answer."""
        if self.is_late():
            await self.answer(503, shed_headers(BUSY), BUSY)
            return
        try:
            async with asyncio.timeout(self.timeout) as self.limit:
                await app(self.scope, receive, self.send)
        except TimeoutError:
            if not self.limit.expired():
                raise
            await self.time_out()
        except BaseException:
            if not self.is_refused:
                raise
        finally:
            self.learn()
            if self.place is not None:
                places.free(self.place)

    def is_late(self) -> bool:
        """Tell whether the request has waited too long; what nginx says of that, the app does not see."""
        scope = self.scope
        known = dict(scope["headers"])
        start = known.get(b"x-request-start", b"").decode("latin-1")
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"x-request-start"]
        # nginx has set both; gunicorn trusts no header that comes through a unix socket, whose path it takes for a name.
        scope["scheme"] = known.get(b"x-forwarded-proto", b"http").decode("latin-1")
        name, _, port = known.get(b"host", b"").decode("latin-1").partition(":")
        scope["server"] = (
            name,
            int(port) if port.isdecimal() else 443 if scope["scheme"] == "https" else 80,
        )
        sent, self.bucket, concurrency = parse_request_start(start)
        waited = time.time() - sent
        return 0 < waited < CLOCK_JUMP_SECONDS and self.queue.should_shed(
            self.bucket, waited, concurrency, 0.0
        )

    def learn(self) -> None:
        """Note how long the app took to begin its answer."""
        if not self.is_learned:
            self.is_learned = True
            self.queue.learn(self.bucket, time.monotonic() - self.begun)

    async def send(self, message: Message) -> None:
        """Send a part of the answer: a sign of life."""
        if self.is_refused:
            return
        if message["type"] == "http.response.start":
            self.learn()
            if not self.admit(message):
                self.is_refused = True
                await self.answer(503, shed_headers(STREAMS_FULL), STREAMS_FULL)
                raise StreamsFullError
        self.has_begun = True
        self.limit.reschedule(None)  # how slowly its client may read, nginx decides
        await self.deliver(message)
        now = time.monotonic()
        if self.timeout:
            self.limit.reschedule(asyncio.get_running_loop().time() + self.timeout)
        if self.place is None and now > self.counts_from:
            self.place, self.counts_from = places.take(), now + 1

    def admit(self, message: Message) -> bool:
        """Tell whether there is a place for an answer: one of unknown length may be a stream."""
        headers = {name.lower(): value for name, value in message.get("headers", ())}
        is_bare = self.scope["method"] == "HEAD" or message["status"] in (204, 304)
        if b"content-length" in headers or is_bare:
            return True
        message["headers"] = [*message.get("headers", ()), (b"x-accel-buffering", b"no")]
        place = places.take()
        if place is None:
            return False
        if headers.get(b"content-type", b"").strip().lower().startswith(b"text/event-stream"):
            self.place = place
        else:
            places.free(place)
            self.counts_from = time.monotonic() + STREAM_SECONDS
        return True

    async def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Send a whole answer, in place of the app's."""
        for message in answer_of(status, headers, body):
            await self.deliver(message)

    async def time_out(self) -> None:
        """End a request that is silent: with an answer, or in the middle of one, which gunicorn then cuts off."""
        path = self.scope["path"]
        if self.has_begun:
            self.worker.log.error(
                "%s sent nothing for %s s. Its stream is cut off.", path, self.timeout
            )
            return
        self.worker.log.error("%s took longer than %s s.", path, self.timeout)
        await self.answer(504, shed_headers(LATE)[:2], LATE)


class ThreadedWorker(UwsgiWorker, SyncWorker):
    """gunicorn's plainest worker, several times over in one process.

    Its thread sleeps until the kernel gives it a connection. With gunicorn's own worker of threads
    (`gthread`) all idle workers wake up for each connection, and one thread hands it to another
    and gets it back: that costs a third more.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.queue = Queue(self.cfg.workers, self.cfg.threads)
        self.in_flight: dict[int, Flight] = {}  # by thread
        self.cutting = threading.Lock()  # held while a connection is cut, or given up by its thread
        self.this_thread = threading.local()  # `.accepted_at`: when it accepted its connection

    def load_wsgi(self) -> None:
        """Load the app, behind the queue."""
        super().load_wsgi()
        app = self.wsgi

        def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            environ["wsgi.multithread"] = self.cfg.threads > 1
            sent, bucket, concurrency = parse_request_start(environ.pop("HTTP_X_REQUEST_START", ""))
            waited = time.time() - sent
            begun = time.monotonic()
            reading = begun - self.this_thread.accepted_at
            if 0 < waited < CLOCK_JUMP_SECONDS and self.queue.should_shed(
                bucket, waited, concurrency, reading
            ):
                start_response("503 Service Unavailable", shed_headers(BUSY))
                return [BUSY]
            try:
                parts = app(environ, start_response)
            finally:
                self.queue.learn(bucket, time.monotonic() - begun)
            flight = self.in_flight.get(threading.get_ident())
            return (
                flight.watch(parts) if type(flight) is Flight else parts
            )  # of gunicorn's own HTTP

        self.wsgi = answer

    def run(self) -> None:
        """Let threads answer until it is time to end."""
        acceptors = [Acceptor(listener) for listener in self.sockets]
        threads = [
            threading.Thread(target=self.serve, args=[acceptor], daemon=True)
            for acceptor in acceptors
            for _ in range(self.cfg.threads)
        ]
        for acceptor in acceptors:
            acceptor.listener.setblocking(True)
            limit_waiting(
                acceptor.listener, seconds=1
            )  # then a thread looks whether the worker is to end
        for thread in threads:
            thread.start()
        while self.alive and self.is_parent_alive() and not self.overdue():
            self.notify()
            self.end_slow_leases(acceptors, seconds=min(1, self.cfg.timeout / 4 or 1))
        if overdue := self.overdue():
            self.log.critical(
                "%s took longer than %s s. This worker is replaced.", overdue[0], self.cfg.timeout
            )
        # From here on it accepts nothing, and gives the requests that are not overdue their time.
        self.alive = False
        self.wait_for_requests(threads, acceptors, is_replaced=bool(overdue))
        if self.overdue():
            os._exit(1)  # whatever its threads are at

    def wait_for_requests(
        self, threads: list[threading.Thread], acceptors: list[Acceptor], is_replaced: bool
    ) -> None:
        """Give requests their time to end: streams more of it, unless the worker is to be replaced soon."""
        begun = time.monotonic()
        graceful = begun + min(self.cfg.graceful_timeout, places.graceful_seconds)
        # gunicorn kills the worker at its time-out; the streams' cut is to be in the log before.
        end = graceful if is_replaced else max(graceful, begun + self.cfg.graceful_timeout - 1)
        while sum(thread.is_alive() for thread in threads) > len(self.overdue()):
            self.notify()
            self.end_slow_leases(acceptors, seconds=0.05)
            now = time.monotonic()
            streams = self.streams()
            if now > (end if streams else graceful):
                if streams:
                    self.log.warning(
                        "Cut off %s streams that had not ended %.0f s after the stop of their worker.",
                        streams,
                        now - begun,
                    )
                return

    def streams(self) -> int:
        """Return how many streams are in flight and show life."""
        return sum(its.is_stream and not its.is_cut for its in list(self.in_flight.values()))

    def end_slow_leases(self, acceptors: list[Acceptor], seconds: float) -> None:
        """For some seconds, let another thread accept when the one that does is slow."""
        end = time.monotonic() + seconds
        answered = -1
        while (now := time.monotonic()) < end:
            for acceptor in acceptors:
                lease = acceptor.lease
                if lease and lease.busy_since and now - lease.busy_since > LEASE_SECONDS:
                    acceptor.release(lease)
            is_idle = answered == self.nr and not self.in_flight
            answered = self.nr
            if self.sleep(min(seconds, 10 * LEASE_SECONDS if is_idle else LEASE_SECONDS)):
                return

    def sleep(self, seconds: float) -> bool:
        """Sleep until a signal comes, at most for some seconds; tell whether one came."""
        came = bool(select.select([self.PIPE[0]], [], [], seconds)[0])
        if came:
            os.read(self.PIPE[0], 512)
        return came

    def overdue(self) -> list[str]:
        """Return the paths of the requests that take longer than they may; cut off streams that are silent.

        gunicorn's time-out finds workers that do not react. A worker of threads reacts, whatever
        its requests do. A stream that is cut off has its thread as long as the app keeps it, which
        the others can spare; a worker is replaced when half of its threads are gone like that.
        """
        oldest = time.monotonic() - (self.cfg.timeout or math.inf)
        silent = [
            (ident, its) for ident, its in list(self.in_flight.items()) if its.alive_at < oldest
        ]
        if not silent:
            return []
        for ident, its in silent:
            if isinstance(its, Response) and its.headers_sent and not its.is_cut:
                self.cut(ident, its)
        hung = [its.path for _, its in silent if not its.is_cut]
        lost = [its.path for _, its in silent if its.is_cut]
        return hung + lost if hung or 2 * len(lost) >= self.cfg.threads else []

    def cut(self, ident: int, response: Response) -> None:
        """End the connection of a silent stream, whose thread is in the app.

        Its descriptor stays and leads to a dead end, which the thread notices with the next part. What
        it led to is closed with the request unread in it: nginx takes that for an error (`complete`).
        """
        with self.cutting:
            if self.in_flight.get(ident) is not response or response.alive_at == math.inf:
                return
            here, there = socket.socketpair()
            there.close()
            os.dup2(here.fileno(), response.client.fileno(), inheritable=False)
            here.close()
            response.is_cut = True
        self.log.error(
            "%s sent nothing for %s s. Its stream is cut off.", response.path, self.cfg.timeout
        )

    def serve(self, acceptor: Acceptor) -> None:
        """Answer one request after the other, in a thread."""
        while self.alive:
            lease = acceptor.acquire()
            while self.alive and acceptor.lease is lease:
                self.answer_one(acceptor.listener, lease)
            acceptor.release(lease)

    def answer_one(self, listener: socket.socket, lease: AcceptLease) -> None:
        """Accept a connection, if one comes, and answer its request."""
        try:
            client, address = listener.accept()
        except BlockingIOError:
            return  # none came
        except OSError as error:
            self.log.warning("Cannot accept a connection: %s", error)
            time.sleep(0.1)
            return
        lease.busy_since = self.this_thread.accepted_at = time.monotonic()
        client.setblocking(True)
        limit_waiting(client, seconds=30)  # nginx sends a request when it has all of it
        self.handle(listener, client, address)
        lease.busy_since = None

    def answer_request(self, response: Response) -> None:
        """Answer a request of nginx, whose time counts from now."""
        self.in_flight[threading.get_ident()] = response
        try:
            super().answer_request(response)
        finally:
            with self.cutting:
                self.in_flight.pop(threading.get_ident(), None)

    def handle_request(self, listener: Any, req: Any, client: Any, addr: Any) -> None:
        """Answer a request in HTTP, whose time counts from now."""
        self.in_flight[threading.get_ident()] = Flight(req.path)
        try:
            super().handle_request(listener, req, client, addr)
        finally:
            self.in_flight.pop(threading.get_ident(), None)


def parse_request_start(header: str) -> tuple[float, str, int]:
    """Return when nginx sent a request, the client's bucket, and how many may be in flight."""
    said = dict(word.partition("=")[::2] for word in header.split())
    return float(said.get("t", "inf")), said.get("bucket", ""), int(said.get("concurrency", 0))


def limit_waiting(its: socket.socket, seconds: int) -> None:
    """Let calls that wait for a socket end with BlockingIOError.

    With Python's own time-outs each call would be two.
    """
    its.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, 0))


def freeze_heap(_server: Any) -> None:
    """Keep what the app has loaded one copy for all workers.

    Python's collector writes to each object that it looks at, and it does not look at these.
    """
    gc.collect()
    gc.freeze()


class AccessLog(Logger):
    """gunicorn's logs, with a shorter way to a line of the access log.

    gunicorn fills a table with all headers and variables of the request first, which is a fifth of
    what the answer of a small model costs.
    """

    def setup(self, cfg: Any) -> None:
        """Open the logs, and find out which parts of a line are wanted."""
        super().setup(cfg)
        self.has_query = "%(r)s" in cfg.access_log_format
        self.has_referrer = "%(f)s" in cfg.access_log_format
        self.time_of_line = (0, "")

    def now(self) -> str:
        """Return the time as it stands in a line; it is the same for a second."""
        second = int(time.time())
        if second != self.time_of_line[0]:
            self.time_of_line = second, super().now()
        return self.time_of_line[1]

    def access(
        self, resp: Any, _req: Any, environ: dict[str, Any], request_time: timedelta
    ) -> None:
        """Write time, request, status, bytes, referrer and microseconds: no address, no user agent."""
        path = environ.get("RAW_URI" if self.has_query else "PATH_INFO", "-")
        request = f"{environ['REQUEST_METHOD']} {path} {environ['SERVER_PROTOCOL']}".replace(
            '"', '\\"'
        )
        referrer = (
            environ.get("HTTP_REFERER", "-").replace('"', '\\"') if self.has_referrer else "-"
        )
        status = str(resp.status).partition(" ")[0]
        microseconds = request_time.seconds * 1_000_000 + request_time.microseconds
        line = f'{self.now()} "{request}" {status} {resp.sent} "{referrer}" {microseconds}\n'
        write_to(self.access_log.handlers, line)


def write_to(handlers: list[Any], text: str) -> None:
    """Write to logs. None of them ends the service."""
    for handler in handlers:
        with handler.lock:
            try:
                if handler.stream or open_log(handler):
                    handler.stream.write(text)
                    handler.stream.flush()
            except (OSError, ValueError):
                handler.handleError(None)


def protect_logs(query_strings: bool) -> None:
    """Let no log end the service, or print what a client sent.

    This holds for all logs of the process, whichever classes the user or the app chose for them.
    """
    logging.Handler.handleError = drop_line  # type: ignore[assignment,method-assign]
    logging.FileHandler.emit = write_or_drop  # type: ignore[assignment,method-assign]
    logging.FileHandler.__init__ = open_where_it_lies  # type: ignore[assignment,method-assign]
    Logger.reopen_files = reopen_files
    errors = logging.getLogger("gunicorn.error")
    errors.addFilter(hide_malformed_request)
    if not query_strings:
        errors.addFilter(hide_query_string)


def check_names(names: list[str]) -> None:
    """End the start when gunicorn does not know a setting, which it would leave out without a word."""
    known = [setting.name for setting in KNOWN_SETTINGS]
    for name in names:
        if name not in known:
            near = "".join(difflib.get_close_matches(name, known, n=1))
            hint = f"Did you mean {near}?" if near else "Its documentation lists them."
            sys.exit(
                f"api_endpoint_gunicorn_settings has {name!r}, which gunicorn {__version__} does not know. {hint}"
            )


def report(text: str) -> None:
    """Print a line to standard error, for the journal."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def drop_line(_handler: logging.Handler, _record: logging.LogRecord | None) -> None:
    """Report that a line could not be written, on a full disk for example.

    Python would print the line with all that it was made of, every header of the request included.
    """
    report(f"Dropped a log line: {reason(sys.exc_info()[1])}")


def reason(error: BaseException | None) -> str:
    """Return why something failed, without the line that it failed with."""
    return getattr(error, "strerror", None) or type(error).__name__


make_handler = logging.FileHandler.__init__


def open_where_it_lies(
    handler: logging.FileHandler, filename: Any, *args: Any, **kwargs: Any
) -> None:
    """Open a log of the app's where it lies. The release has a link to it, in a folder in which it cannot be rotated."""
    if os.path.islink(filename) and "/state/app/" in os.readlink(filename):
        filename = os.path.realpath(filename)
    make_handler(handler, filename, *args, **kwargs)


write_line = logging.FileHandler.emit


def write_or_drop(handler: logging.FileHandler, record: logging.LogRecord) -> None:
    """Write a line to a log file. Python opens a closed one for it, and raises if that fails."""
    try:
        write_line(handler, record)
    except OSError as error:
        report_unopened(handler.baseFilename, error)


def open_log(handler: logging.FileHandler) -> bool:
    """Open a log file; tell whether that was possible."""
    try:
        handler.stream = handler._open()
    except OSError as error:
        report_unopened(handler.baseFilename, error)
    return bool(handler.stream)


unopened: set[str] = set()  # logs that were reported since the last rotation


def report_unopened(path: str, error: Exception) -> None:
    """Report that a log cannot be opened: once in each process, until the next rotation."""
    if path not in unopened:
        unopened.add(path)
        report(
            f"Cannot open the log {path}: {reason(error)}. Its lines are dropped until it can be opened."
        )


def reopen_files(logger: Logger) -> None:
    """Open all log files again, since they were rotated.

    gunicorn's own function raises when it cannot open one, and the service ends. Here the next line
    tries again.
    """
    unopened.clear()
    if logger.cfg.capture_output and logger.cfg.errorlog != "-":
        redirect_output(logger)
    handlers = {
        handler
        for log in loggers()
        for handler in log.handlers
        if isinstance(handler, logging.FileHandler)
    }
    for handler in handlers:
        handler.acquire()
        try:
            if handler.stream:
                with contextlib.suppress(
                    OSError, ValueError
                ):  # the rest of a line that found no room
                    handler.close()
                open_log(handler)
        finally:
            handler.release()


def redirect_output(logger: Logger) -> None:
    """Let standard output and standard error go to the error log (gunicorn's `capture_output`)."""
    try:
        with open(logger.cfg.errorlog, "a", encoding="utf-8") as file:
            for stream in sys.stdout, sys.stderr:
                stream.flush()
                os.dup2(file.fileno(), stream.fileno())
    except (OSError, ValueError) as error:
        report_unopened(os.path.abspath(logger.cfg.errorlog), error)
        return
    if logger.logfile:  # gunicorn's first one
        logger.logfile.close()
        logger.logfile = None


def hide_malformed_request(record: logging.LogRecord) -> bool:
    """Take out of gunicorn's message what it quotes: that might be anything, even an address."""
    if str(record.msg).startswith("Invalid request from"):
        record.msg, record.args = "Rejected a malformed request.", ()
    return True


def hide_query_string(record: logging.LogRecord) -> bool:
    """Take the query string out of a request that the app has failed on."""
    if str(record.msg).startswith("Error handling request"):
        record.args = tuple(str(part).partition("?")[0] for part in record.args or ())
    return True
