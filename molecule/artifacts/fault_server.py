#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A web server for large files that fails in the ways in which web servers and networks fail.

    GET  /bytes/<size>/<seed>    the file: <size> bytes that depend on <seed> alone; Range, If-Range, ETag, Last-Modified
    GET  /sha256/<size>/<seed>   its SHA-256 and a line feed
    GET  /stats                  JSON: for each path, and for "total", the requests and the bytes of bodies sent
    POST /reset                  forget the statistics and the counters
    POST /go/bytes/<size>/<seed> let the file go on behind its next hold

Faults are chosen in the query of /bytes, for example /bytes/1000000/7?cut=300000&times=2:

    status=503       answer with this status and a small page; retry_after=2 adds the header
    redirect=URL     answer 302 to URL (quoted)
    cut=n            close every connection after n bytes of the body
    stall=n          say no more after n bytes of the body, and keep the connection open
    throttle=n       send n bytes a second
    hold=n,m         from byte n on send a few bytes a second, until POST /go; then the same from byte m on
    length=n         promise n bytes instead of the true size (and send no more than promised)
    size=n           be a truncated file: n bytes, with the right length for them
    flip=n           invert the byte at offset n
    seed=s           be another file under the same URL: the content of seed s; same_etag=1 keeps the first one's ETag
    norange=1        ignore Range
    badrange=1       answer 206 with the bytes from 0 on, whatever was asked for
    noifrange=1      ignore If-Range, but not Range
    novalidator=1    send neither ETag nor Last-Modified;  noetag=1 no ETag, weak=1 a weak one
    chunked=1        send no length, the body in chunks
    close=1          send no length, the body ends where the connection does
    times=k          be faulty for the first k requests only
    after=k          be faulty only after the first k requests
    key=name         count requests for `times` and `after` under this name instead of the whole URL

Only the standard library, so that it runs in any container with Python: fault_server.py [--port 8080] [--address 0.0.0.0]
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

BLOCK = 1024 * 1024  # bytes of content made at a time
DRIP = 500  # bytes that are sent twice a second while a file is held: more than a client takes for a broken connection
MODIFIED = "Wed, 01 Jan 2025 00:00:00 GMT"


@functools.lru_cache(maxsize=16)
def noise(seed: str) -> bytes:
    """Return the block that all blocks of a file are made of."""
    return random.Random(seed).randbytes(BLOCK)


def content(size: int, seed: str, start: int = 0) -> Iterator[list[memoryview]]:
    """Yield the bytes of a file from `start` on, as pieces to be sent together.

    Each block begins with its own number, so that a block in the wrong place is noticed.
    """
    body = memoryview(noise(seed))
    while start < size:
        number, skip = divmod(start, BLOCK)
        stop = min(BLOCK, skip + size - start)
        head = memoryview(number.to_bytes(8, "big"))
        yield (
            [head[skip : min(8, stop)], body[max(8, skip) : stop]]
            if skip < 8
            else [body[skip:stop]]
        )
        start += stop - skip


@functools.lru_cache(maxsize=64)
def digest(size: int, seed: str) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    found = hashlib.sha256()
    for pieces in content(size, seed):
        for piece in pieces:
            found.update(piece)
    return found.hexdigest()


class Faults(dict[str, str]):
    """The faults of one request."""

    def number(self, name: str) -> int | None:
        """Return a fault's number, or None when the request does not have the fault."""
        return int(self[name]) if name in self else None


class Server(ThreadingHTTPServer):
    """The server with its counters."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, Handler)
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.reset()

    def reset(self) -> None:
        """Forget what was counted."""
        with self.lock:
            self.requests: Counter[str] = Counter()
            self.sent: Counter[str] = Counter()
            self.seen: Counter[str] = Counter()
            self.passed: Counter[str] = Counter()

    def stats(self) -> dict[str, dict[str, int]]:
        """Return what was counted."""
        with self.lock:
            paths = {
                path: {"requests": self.requests[path], "bytes": self.sent[path]}
                for path in self.requests
            }
            total = {"requests": self.requests.total(), "bytes": self.sent.total()}
            return {**paths, "total": total}

    def server_close(self) -> None:
        """Let go of those that stall."""
        self.stopping.set()
        super().server_close()

    def handle_error(self, *_arguments: object) -> None:
        """Say nothing when a client goes away."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer a request."""
        parts = urlsplit(self.path)
        if parts.path == "/stats":
            self.text(200, json.dumps(self.server.stats(), indent=1) + "\n", "application/json")
        elif found := re.fullmatch(r"/(bytes|sha256)/(\d+)/([^/]+)", parts.path):
            kind, size, seed = found[1], int(found[2]), found[3]
            if kind == "sha256":
                self.text(200, digest(size, seed) + "\n")
            else:
                self.file(parts.path, size, seed, self.faults(parts.path, parts.query))
        else:
            self.text(404, "There is no such file.\n")

    def do_HEAD(self) -> None:
        """Say how large a file is, unless it is one whose answers do not say it; no fault, and not counted."""
        parts = urlsplit(self.path)
        found = re.fullmatch(r"/bytes/(\d+)/[^/]+", parts.path)
        says_its_length = found and not {"chunked", "close"} & {
            name for name, _ in parse_qsl(parts.query)
        }
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", found[1] if found and says_its_length else "0")
        self.end_headers()

    def do_POST(self) -> None:
        """Reset the counters, or let a file that is held go on."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/reset":
            self.server.reset()
            self.text(200, "Done.\n")
        elif self.path.startswith("/go/"):
            with self.server.lock:
                self.server.passed[self.path.removeprefix("/go")] += 1
            self.text(200, "Done.\n")
        else:
            self.text(404, "There is no such action.\n")

    def faults(self, path: str, query: str) -> Faults:
        """Count the request, and return the faults that it meets."""
        found = Faults(parse_qsl(query))
        with self.server.lock:
            key = found.get("key", self.path)
            self.server.seen[key] += 1
            self.server.requests[path] += 1
            number = self.server.seen[key]
        first = int(found.get("after", 0)) + 1
        last = first - 1 + int(found["times"]) if "times" in found else number
        return found if first <= number <= last else Faults()

    def text(
        self, status: int, text: str, kind: str = "text/plain; charset=utf-8", **headers: str
    ) -> None:
        """Send a short answer."""
        body = text.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def file(self, path: str, size: int, seed: str, faults: Faults) -> None:
        """Send a file, or what the faults make of it."""
        if status := faults.number("status"):
            retry = {"Retry_After": faults["retry_after"]} if "retry_after" in faults else {}
            page = f"<html><head><title>{status}</title><style>p {{}}</style></head><body><h1>Fault {status}</h1>\n"
            self.text(
                status,
                f"{page}<p>As &quot;ordered&quot;.</p></body></html>\n",
                "text/html",
                **retry,
            )
            return
        if "redirect" in faults:
            self.text(302, "Elsewhere.\n", Location=faults["redirect"])
            return
        size = faults.number("size") if "size" in faults else size  # type: ignore[assignment]
        shown, seed = seed, faults.get("seed", seed)
        etag = f'"{size}-{shown if "same_etag" in faults else seed}"'
        etag = f"W/{etag}" if "weak" in faults else etag
        start = self.wanted_start(etag, faults)
        if start is not None and start >= size and "badrange" not in faults:
            self.text(416, "There are no such bytes.\n", Content_Range=f"bytes */{size}")
            return
        ranged, first = start is not None, 0 if "badrange" in faults else start or 0
        promised = max(0, (faults.number("length") if "length" in faults else size) - first)  # type: ignore[operator]
        self.send_response(206 if ranged else 200)
        if ranged:
            self.send_header(
                "Content-Range", f"bytes {first}-{first + promised - 1}/{first + promised}"
            )
        if "novalidator" not in faults:
            self.send_header("Last-Modified", MODIFIED)
            if "noetag" not in faults:
                self.send_header("ETag", etag)
        if "chunked" in faults:
            self.send_header("Transfer-Encoding", "chunked")
        elif "close" in faults:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(promised))
        self.send_header("Accept-Ranges", "none" if "norange" in faults else "bytes")
        self.send_header("Content-Type", "application/octet-stream")
        self.end_headers()
        self.body(path, min(size, first + promised), seed, first, faults)
        if size - first < promised:
            self.close_connection = True

    def wanted_start(self, etag: str, faults: Faults) -> int | None:
        """Return where the part begins that is asked for; None when the whole file is to be sent."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        condition = self.headers.get("If-Range")
        if not found or "norange" in faults:
            return None
        same = condition in (None, MODIFIED) or (condition == etag and not etag.startswith("W/"))
        return int(found[1]) if same or "noifrange" in faults else None

    def body(self, path: str, size: int, seed: str, start: int, faults: Faults) -> None:
        """Send the bytes from `start` on, as fast and as far as the faults allow."""
        limits = [
            limit for limit in (faults.number("cut"), faults.number("stall")) if limit is not None
        ]
        left = min([size - start, *limits])
        ends_early = left < size - start
        rate, flip, began, position, chunked = (
            faults.number("throttle"), faults.number("flip"), time.monotonic(), start, "chunked" in faults,
        )  # fmt: skip
        holds = [int(hold) for hold in faults.get("hold", "").split(",") if hold]
        for pieces in content(min(size, start + left), seed, start):
            for piece in pieces:
                if flip is not None and position <= flip < position + len(piece):
                    changed = bytearray(piece)
                    changed[flip - position] ^= 0xFF
                    piece = memoryview(changed)
                step = max(1, min(len(piece), rate // 20)) if rate else len(piece)
                for offset in range(0, len(piece), step or 1):
                    part = piece[offset : offset + step]
                    while len(part) > DRIP and self.is_held(path, position, holds):
                        self.send(path, part[:DRIP], chunked)
                        position, part = position + DRIP, part[DRIP:]
                        self.server.stopping.wait(0.5)
                    if rate:
                        ahead = (position + len(part) - start) / rate - (time.monotonic() - began)
                        self.server.stopping.wait(max(0.0, ahead))
                    self.send(path, part, chunked)
                    position += len(part)
        if not ends_early:
            if chunked:
                self.connection.sendall(b"0\r\n\r\n")
            return
        self.close_connection = True
        if "stall" in faults and faults.number("stall") == left:
            self.wait_until_the_client_goes()

    def is_held(self, path: str, position: int, holds: list[int]) -> bool:
        """Tell whether a file has come to a hold that nobody has lifted."""
        return sum(position >= hold for hold in holds) > self.server.passed[path]

    def send(self, path: str, part: memoryview, chunked: bool) -> None:
        """Send bytes of a body and count what the network took."""
        if chunked and len(part):
            self.connection.sendall(f"{len(part):x}\r\n".encode())
        while len(part):
            count = self.connection.send(part)
            with self.server.lock:
                self.server.sent[path] += count
            part = part[count:]
        if chunked:
            self.connection.sendall(b"\r\n")

    def wait_until_the_client_goes(self) -> None:
        """Keep the connection open and silent until the other side closes it."""
        self.connection.settimeout(0.2)
        while not self.server.stopping.is_set():
            try:
                if not self.connection.recv(1000):
                    return
            except TimeoutError:
                continue
            except OSError:
                return

    def log_message(self, *_arguments: object) -> None:
        """Write no log."""


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(
        description="A web server for large files that fails on demand."
    )
    parser.add_argument("--address", default="0.0.0.0", help="address to listen on (default: all)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (default: 8080)")
    arguments = parser.parse_args()
    with Server((arguments.address, arguments.port)) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
