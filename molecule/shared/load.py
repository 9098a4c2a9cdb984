"""A client that asks a test host's API at a constant rate, in a process of its own, and says how that went.

    with load(api) as result:
        ...  # what must not be noticed
    assert_nothing_failed(result)

Requests are sent when they are due, whether earlier ones have been answered or not, so that a host that lets requests wait
sees them pile up as it would on the internet. They take turns: one with a connection of its own, one over a connection
that was used before. A process of its own, because a run of Ansible on the same computer would hold up a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import resource
import select
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

NEW = "new"  # a new connection for each request
KEEP_ALIVE = "keep-alive"  # a connection that was used before
POOL = 20  # connections that are kept for further requests
NEVER = float("inf")
RATE = 100.0  # requests a second, unless a plan says otherwise

# What was measured in this session: the reports of all steps, in order.
REPORTS: list[Result] = []


@dataclass(frozen=True)
class Plan:
    """What is sent."""

    port: int
    name: str  # the Host header
    path: str = "/"
    named_in: str = "release"  # the field of the answers, which says which version has answered
    rate: float = field(default_factory=lambda: RATE)  # requests a second, of all modes together
    modes: tuple[str, ...] = (NEW, KEEP_ALIVE)
    # Browsers and proxies send a request again, once, when the connection that they reused turns out to be closed.
    retry_once: bool = False
    timeout: float = 60  # seconds for a request, from connecting to the answer's last byte
    client: str = ""  # the address for which a proxy would ask

    @property
    def request(self) -> bytes:
        """The request, but for its Connection header and the empty line."""
        client = f"X-Forwarded-For: {self.client}\r\n" if self.client else ""
        return f"GET {self.path} HTTP/1.1\r\nHost: {self.name}\r\nAccept: application/json\r\n{client}".encode()


@dataclass
class Request:
    """What became of one request; times in seconds since the first one."""

    sent: float
    done: float = NEVER
    release: str = ""
    failure: str = ""  # kind of failure; empty for an answer of a release
    detail: str = ""
    retried: bool = False


@dataclass
class Result:
    """How a step went for the clients."""

    step: str = ""
    host: str = ""
    requests: int = 0
    seconds: float = 0.0
    failed: int = 0
    failures: list[dict[str, Any]] = field(
        default_factory=list
    )  # kind, count, example, and when the first one was sent
    retries: int = 0
    slowest_ms: float = 0.0
    gap_ms: float = 0.0  # the longest time without a successful answer
    late_ms: float = (
        0.0  # the longest that a request was sent after it was due: how constant the rate was
    )
    releases: list[str] = field(default_factory=list)  # in the order in which they took over
    first_answer: dict[str, float] = field(
        default_factory=dict
    )  # by release: seconds until its first answer arrived
    # When each failed request was sent and when it ended, by this computer's monotonic clock.
    failed_between: list[tuple[float, float]] = field(default_factory=list)

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{self.host}  {self.step}: {self.requests:,} requests in {self.seconds:.0f} s, {self.failed:,} failed, "
            f"{self.retries:,} sent again, slowest {self.slowest_ms:,.0f} ms, longest gap {self.gap_ms:,.0f} ms, "
            f"{' -> '.join(self.releases) or 'no release seen'}"
        )


# --- judging


def took_over(answers: list[Request]) -> list[str]:
    """Return the releases in the order in which they took over; `answers` are in the order of sending.

    Requests that are in flight together may overtake each other. So an answer of an earlier release means that the switch
    went back only if its request was sent after an answer of the later release had arrived.
    """
    found: list[str] = []
    arrived = 0.0
    for index, answer in enumerate(answers):
        if found and answer.release == found[-1]:
            continue
        if answer.release in found and answer.sent < arrived:
            continue
        found.append(answer.release)
        arrived = min(other.done for other in answers[index:] if other.release == answer.release)
    return found


def longest_gap(requests: list[Request]) -> float:
    """Return the longest time without a success, from the first request to the last answer, in seconds."""
    ends = [request.done for request in requests if request.done != NEVER]
    times = sorted(request.done for request in requests if not request.failure)
    times = [0.0, *times, max(ends, default=0.0)]
    return max(later - earlier for earlier, later in itertools.pairwise(times))


def summarise(requests: list[Request], late: float = 0.0, begun: float = 0.0) -> Result:
    """Judge what became of the requests; `requests` are in the order of sending, and `begun` is when the first was sent."""
    answers = [request for request in requests if not request.failure]
    failures: dict[str, dict[str, Any]] = {}
    for request in requests:
        if request.failure:
            first = {
                "kind": request.failure,
                "count": 0,
                "example": request.detail,
                "sent_after": round(request.sent, 2),
            }
            failures.setdefault(request.failure, first)["count"] += 1
    first_answer: dict[str, float] = {}
    for answer in answers:
        first_answer[answer.release] = min(first_answer.get(answer.release, NEVER), answer.done)
    return Result(
        requests=len(requests),
        seconds=round(max((request.sent for request in requests), default=0.0), 1),
        failed=len(requests) - len(answers),
        failures=list(failures.values()),
        retries=Counter(request.retried for request in requests)[True],
        slowest_ms=round(
            max((answer.done - answer.sent for answer in answers), default=0.0) * 1000, 1
        ),
        gap_ms=round(longest_gap(requests) * 1000, 1),
        late_ms=round(late * 1000, 1),
        releases=took_over(answers),
        first_answer={release: round(seconds, 2) for release, seconds in first_answer.items()},
        failed_between=[
            (begun + request.sent, begun + request.done) for request in requests if request.failure
        ],
    )


# --- sending


class NotAnsweredError(Exception):
    """A request that got no usable answer; `kind` says in which way."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(detail)
        self.kind = kind


class ClosedError(NotAnsweredError):
    """The connection was closed before the first byte of the answer."""


class Connection:
    """A connection to the API."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.may_be_reused = True

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect."""
        try:
            return cls(*await asyncio.open_connection("127.0.0.1", port))
        except OSError as error:
            raise NotAnsweredError("connection refused", str(error)) from error

    @property
    def is_known_to_be_closed(self) -> bool:
        """Whether the other side has closed it and we know."""
        return (
            self.reader.at_eof()
            or self.reader.exception() is not None
            or self.writer.transport.is_closing()
        )

    def close(self) -> None:
        """Close it."""
        self.writer.close()

    async def read(self, received: bytes) -> bytes:
        """Return what comes next, empty at the end; `received` is what came before."""
        try:
            return await self.reader.read(65536)
        except OSError as error:
            raise self._closed(received, str(error)) from error

    @staticmethod
    def _closed(received: bytes, why: str) -> NotAnsweredError:
        if received:
            return NotAnsweredError("closed within the answer", f"{why}: {received[:200]!r}")
        return ClosedError("closed before the answer", why)

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request and return the answer's status and body."""
        self.writer.write(request)
        received = b""
        while b"\r\n\r\n" not in received:
            more = await self.read(received)
            if not more:
                raise self._closed(received, "end of the stream")
            received += more
        head, _, body = received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:])
        }
        if "content-length" not in headers:
            raise NotAnsweredError("an answer without a length", f"{head[:200]!r}")
        while len(body) < int(headers["content-length"]):
            more = await self.read(received)
            if not more:
                raise self._closed(received, "end of the stream")
            body += more
        self.may_be_reused = headers.get("connection", "").lower() != "close"
        return int(lines[0].split()[1]), body


class Client:
    """Sends requests according to a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.requests: list[Request] = []
        self.late = 0.0
        self.begun = time.monotonic()
        self.stopped = False
        self.idle: deque[Connection] = deque()
        self.kept = 0  # connections that are idle or in use in the mode KEEP_ALIVE

    def now(self) -> float:
        """Return the seconds since the first request."""
        return time.monotonic() - self.begun

    async def run(self) -> None:
        """Send requests until `stopped`, and wait for the outstanding answers."""
        under_way: set[asyncio.Task[None]] = set()
        self.begun = time.monotonic()
        number = 0
        while not self.stopped:
            due = number / self.plan.rate
            # A nap is short, so that a slow rate stops soon too.
            if (wait := due - self.now()) > 0:
                await asyncio.sleep(min(wait, 0.1))
                continue
            self.late = max(self.late, self.now() - due)
            task = asyncio.create_task(self.send(self.plan.modes[number % len(self.plan.modes)]))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            number += 1
            await asyncio.sleep(0)
        await asyncio.gather(*under_way)
        for connection in self.idle:
            connection.close()

    async def send(self, mode: str) -> None:
        """Send one request and note what became of it."""
        request = Request(self.now())
        self.requests.append(request)
        try:
            async with asyncio.timeout(self.plan.timeout):
                status, body = await (
                    self.over_a_new_one() if mode == NEW else self.over_a_kept_one(request)
                )
            request.release = self.release_of(status, body)
        except TimeoutError:
            request.failure, request.detail = "time-out", f"no answer within {self.plan.timeout} s"
        except NotAnsweredError as error:
            request.failure, request.detail = error.kind, str(error)
        except Exception as error:  # whatever it is, this request had no answer
            request.failure, request.detail = type(error).__name__, str(error)
        request.done = self.now()

    def release_of(self, status: int, body: bytes) -> str:
        """Return the release that an answer names; anything else is a failure, a 404 of nginx's included."""
        if status != 200:
            raise NotAnsweredError(f"status {status}", body[:200].decode(errors="replace"))
        try:
            return str(json.loads(body)[self.plan.named_in])
        except (ValueError, KeyError, TypeError) as error:
            raise NotAnsweredError("an answer that names no release", f"{body[:200]!r}") from error

    async def over_a_new_one(self) -> tuple[int, bytes]:
        """Send a request over a connection of its own."""
        connection = await Connection.open(self.plan.port)
        try:
            return await connection.ask(self.plan.request + b"Connection: close\r\n\r\n")
        finally:
            connection.close()

    async def over_a_kept_one(self, request: Request) -> tuple[int, bytes]:
        """Send a request over a connection that was used before, or over one that will be used again."""
        connection = self.take()
        if connection:
            try:
                return await self.over(connection)
            except ClosedError:
                if not self.plan.retry_once:
                    raise
                request.retried = True
        return await self.over(None)

    async def over(self, connection: Connection | None) -> tuple[int, bytes]:
        """Send a request over a connection, a new one when None, and keep the connection if it is good for more."""
        self.kept += 1
        answered = False
        try:
            connection = connection or await Connection.open(self.plan.port)
            answer = await connection.ask(self.plan.request + b"\r\n")
            answered = True
            return answer
        finally:
            if connection and answered and connection.may_be_reused and self.kept <= POOL:
                self.idle.append(connection)
            else:
                self.kept -= 1
                if connection:
                    connection.close()

    def take(self) -> Connection | None:
        """Return the connection that has been idle for longest, once there are POOL of them."""
        while self.idle and self.kept >= POOL:
            connection = self.idle.popleft()
            self.kept -= 1
            if not connection.is_known_to_be_closed:
                return connection
            connection.close()
        return None


# --- the process that sends, and the one that waits for it


def raise_limit() -> None:
    """Let this process have as many open connections as the system allows it."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 16384 if hard == resource.RLIM_INFINITY else min(16384, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def work(plan: Plan) -> Client:
    """Send requests until standard input ends; say `running` when the first one is on its way."""
    client = Client(plan)
    sending = asyncio.create_task(client.run())
    while not client.requests:
        await asyncio.sleep(0.01)
    print("running", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        await asyncio.sleep(0.05)
    client.stopped = True
    await sending
    return client


def main() -> None:
    """Do what the plan in the first argument says."""
    raise_limit()
    # A client on a computer of its own would not be held up by what the tests do on this one.
    with contextlib.suppress(OSError):
        os.nice(-5)
    given = json.loads(sys.argv[1])
    client = asyncio.run(work(Plan(**{**given, "modes": tuple(given["modes"])})))
    print(json.dumps(asdict(summarise(client.requests, client.late, client.begun))))


def name_of_the_test() -> str:
    """Return the name of the test that runs, as a sentence."""
    current = os.environ.get("PYTEST_CURRENT_TEST", "::load").rpartition("::")[2]
    return re.sub(r"^test_|[\[ (].*$", "", current).replace("_", " ")


@contextlib.contextmanager
def load(api: Any, step: str = "", **plan: Any) -> Iterator[Result]:
    """Put an API under load while the block runs; the result is filled in when the block has ended.

    `api` has the attributes `port` and `name`, `step` names what is measured (the name of the test, unless given), and
    `plan` is what Plan takes: rate, modes, retry_once, path, named_in, timeout.
    """
    given = Plan(port=api.port, name=api.name, **plan)
    result = Result(step=step or name_of_the_test(), host=getattr(api, "container", ""))
    child = subprocess.Popen(
        [sys.executable, __file__, json.dumps(asdict(given))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        if child.stdout.readline() != "running\n":
            raise RuntimeError("The load did not start.")
        yield result
    finally:
        child.stdin.close()
        said = child.stdout.read()
        child.stdout.close()
        if child.wait() == 0:
            vars(result).update({**json.loads(said), "step": result.step, "host": result.host})
            report(result)
    if child.returncode != 0:
        raise RuntimeError(f"The load ended with status {child.returncode}.")


def report(result: Result) -> None:
    """Print a result, remember it, and append it to the file that API_ENDPOINT_FIGURES names, if it names one."""
    print(result)
    REPORTS.append(result)
    if figures := os.environ.get("API_ENDPOINT_FIGURES"):
        with open(figures, "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")


def assert_nothing_failed(result: Result) -> None:
    """Every request was answered by a release, and there were requests at all."""
    lines = [
        f"  {failure['count']:,} x {failure['kind']}, first sent after {failure['sent_after']} s: {failure['example']}"
        for failure in result.failures
    ]
    assert not lines, "\n".join([str(result), *lines])
    assert result.requests > 0, str(result)


if __name__ == "__main__":
    main()
