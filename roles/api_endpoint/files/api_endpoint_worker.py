# SPDX-License-Identifier: GPL-3.0-or-later
"""The role's part of gunicorn: a worker of threads that sheds load, an access log, and safe logs.

Each release has a copy of this file beside its gunicorn.conf.py, which names what it uses.
Decisions 13, 16 and 17 (docs/adr) say why.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import select
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from gunicorn.glogging import Logger, loggers
from gunicorn.workers.sync import SyncWorker

LEASE_SECONDS = 0.005  # an answer may keep the next request waiting for so long
UNNOTICED_SECONDS = 0.05  # every request may wait for so long
BURST_SECONDS = 5  # a queue that lasts longer is an overload
FILLING_BURST_SECONDS = 1  # the same, when nginx soon has to refuse the requests of others
SHEDDING_GAIN = 5  # shedding pays where answering takes so many times as long as reading
CLOCK_JUMP_SECONDS = 3600  # a longer wait means that somebody has set the clock

# nginx says the same when it sheds a request itself.
MESSAGE = "The API is busy. Please try again in a moment."
BUSY = json.dumps({"error": {"status": 503, "message": MESSAGE}}).encode() + b"\n"


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
        self.taken: deque[float] = deque(maxlen=1000)  # when a thread took each of the last requests
        self.typical_latency = 0.0  # seconds within which most answers are made
        self.standing_since: float | None = None
        self.is_overloaded = False
        self.late_at = 0.0
        # Seconds of the last moments; those of a second ago count half.
        self.answering = 0.0
        self.reading = 0.0
        self.demand: dict[str, float] = {}  # of answering, by bucket; shed requests count as typical ones
        self.aged_at = time.monotonic()

    def learn(self, bucket: str, seconds: float) -> None:
        """Note how long an answer took. A slow answer moves the typical latency most."""
        self.typical_latency += (seconds - self.typical_latency) / (4 if seconds > self.typical_latency else 64)
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
            burst = max(FILLING_BURST_SECONDS if fills else BURST_SECONDS, 10 * self.typical_latency)
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


class ThreadedWorker(SyncWorker):
    """gunicorn's plainest worker, several times over in one process.

    Its thread sleeps until the kernel gives it a connection. With gunicorn's own worker of threads
    (`gthread`) all idle workers wake up for each connection, and one thread hands it to another
    and gets it back: that costs a third more.
    """

    alive: bool
    wsgi: Callable[..., Iterable[bytes]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.queue = Queue(self.cfg.workers, self.cfg.threads)
        # By thread: when its request began, and the path.
        self.in_flight: dict[int, tuple[float, str]] = {}
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
            if 0 < waited < CLOCK_JUMP_SECONDS and self.queue.should_shed(bucket, waited, concurrency, reading):
                start_response(
                    "503 Service Unavailable",
                    [("Content-Type", "application/json"), ("Content-Length", str(len(BUSY))), ("X-Load-Shed", "yes")],
                )
                return [BUSY]
            try:
                return app(environ, start_response)
            finally:
                self.queue.learn(bucket, time.monotonic() - begun)

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
            limit_waiting(acceptor.listener, seconds=1)  # then a thread looks whether the worker is to end
        for thread in threads:
            thread.start()
        while self.alive and self.is_parent_alive() and not self.overdue():
            self.notify()
            self.end_slow_leases(acceptors, seconds=min(1, self.cfg.timeout / 4 or 1))
        if overdue := self.overdue():
            self.log.critical("%s took longer than %s s. This worker is replaced.", overdue[0], self.cfg.timeout)
        # From here on it accepts nothing, and gives the requests that are not overdue their time.
        self.alive = False
        end = time.monotonic() + self.cfg.graceful_timeout
        while sum(thread.is_alive() for thread in threads) > len(self.overdue()) and time.monotonic() < end:
            self.notify()
            self.end_slow_leases(acceptors, seconds=0.05)
        if self.overdue():
            os._exit(1)  # whatever its threads are at

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
        """Return the paths of the requests that take longer than they may.

        gunicorn's time-out finds workers that do not react. A worker of threads reacts, whatever
        its requests do.
        """
        now = time.monotonic()
        return [path for begun, path in list(self.in_flight.values()) if 0 < self.cfg.timeout < now - begun]

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

    def handle_request(self, listener: Any, req: Any, client: Any, addr: Any) -> None:
        """Answer a request, whose time counts from now."""
        self.in_flight[threading.get_ident()] = time.monotonic(), req.path
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

    def access(self, resp: Any, _req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        """Write time, request, status, bytes, referrer and microseconds: no address, no user agent."""
        path = environ.get("RAW_URI" if self.has_query else "PATH_INFO", "-")
        request = f"{environ['REQUEST_METHOD']} {path} {environ['SERVER_PROTOCOL']}".replace('"', '\\"')
        referrer = environ.get("HTTP_REFERER", "-").replace('"', '\\"') if self.has_referrer else "-"
        status = str(resp.status).partition(" ")[0]
        microseconds = request_time.seconds * 1_000_000 + request_time.microseconds
        line = f'{self.now()} "{request}" {status} {resp.sent} "{referrer}" {microseconds}\n'
        for handler in self.access_log.handlers:
            with handler.lock:
                try:
                    if handler.stream or open_log(handler):
                        handler.stream.write(line)
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


def open_where_it_lies(handler: logging.FileHandler, filename: Any, *args: Any, **kwargs: Any) -> None:
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
        report(f"Cannot open the log {path}: {reason(error)}. Its lines are dropped until it can be opened.")


def reopen_files(logger: Logger) -> None:
    """Open all log files again, since they were rotated.

    gunicorn's own function raises when it cannot open one, and the service ends. Here the next line
    tries again.
    """
    unopened.clear()
    if logger.cfg.capture_output and logger.cfg.errorlog != "-":
        redirect_output(logger)
    handlers = {handler for log in loggers() for handler in log.handlers if isinstance(handler, logging.FileHandler)}
    for handler in handlers:
        handler.acquire()
        try:
            if handler.stream:
                with contextlib.suppress(OSError, ValueError):  # the rest of a line that found no room
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
