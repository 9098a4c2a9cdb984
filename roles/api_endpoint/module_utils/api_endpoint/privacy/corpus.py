# SPDX-License-Identifier: GPL-3.0-or-later
"""Marked requests for the audit of a live host: good and bad ones, each with a chance of its own to leave a trace.

The tests have many more kinds: molecule/shared/request_corpus.py.
"""

from __future__ import annotations

import base64
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

# Where proxies, content networks and load balancers put the client's address.
ADDRESS_HEADERS = (
    "X-Forwarded-For", "X-Real-IP", "Forwarded", "True-Client-IP", "CF-Connecting-IP", "CF-Connecting-IPv6",
    "CF-Pseudo-IPv4", "Client-IP", "X-Client-IP", "X-Cluster-Client-IP", "Via", "X-Azure-ClientIP",
    "X-Azure-SocketIP", "Fly-Client-IP", "Fastly-Client-IP", "X-Original-Forwarded-For", "X-Forwarded",
    "Forwarded-For", "X-Originating-IP", "X-Remote-IP", "X-Remote-Addr", "Remote-Addr", "X-ProxyUser-IP",
    "X-Envoy-External-Address", "X-Appengine-User-IP", "X-Nf-Client-Connection-IP", "X-Vercel-Forwarded-For",
    "Do-Connecting-IP", "Ali-CDN-Real-IP", "CDN-SRC-IP", "WL-Proxy-Client-IP", "Proxy-Client-IP", "X-Host",
    "X-Forwarded-Host", "X-Forwarded-Server", "X-Forwarded-By", "X-Client", "X-Sourceip", "X-Original-Remote-Addr",
    "X-Coming-From", "X-Backend-Host", "X-HTTP-Host-Override", "From", "Proxy-Connection", "X-Varnish-Client-IP",
)  # fmt: skip

# Where the client's program tells what it is.
AGENT_HEADERS = (
    "Api-User-Agent", "X-Device-User-Agent", "X-Original-User-Agent", "X-OperaMini-Phone-UA", "X-Requested-With",
    "Sec-CH-UA", "Sec-CH-UA-Full-Version-List", "Sec-CH-UA-Model", "Sec-CH-UA-Platform", "Sec-CH-UA-Platform-Version",
    "Sec-CH-UA-Arch", "X-Skyfire-Phone", "Device-Stock-UA", "X-UCBrowser-Device-UA", "X-Bolt-Phone-UA",
    "X-Wap-Profile", "Cookie", "Authorization", "X-Amzn-Trace-Id",
)  # fmt: skip


MORE_SECONDS = 0.3  # to wait for more of an answer that has begun


@dataclass(frozen=True)
class Marks:
    """What requests are marked with; each place in a request has marks of its own, so that a find tells where from."""

    agent: str  # the user agent
    ipv4: str  # in headers that carry addresses
    ipv6: str
    query: str  # in query strings
    query_ipv4: str
    query_ipv6: str
    referrer: str  # in referrers
    referrer_ipv4: str
    referrer_ipv6: str
    path: str  # in paths, which access logs always keep

    @classmethod
    def new(cls, rng: random.Random) -> Marks:
        """Make marks that were never there before.

        Addresses are of the networks for documentation and for benchmarks. Each place in a request has a network of its own,
        so that what a log rightly keeps of an earlier audit is never taken for a leak of this one.
        """
        word = [f"{rng.getrandbits(64):016x}" for _ in range(4)]
        six = [":".join(f"{rng.randint(0x1000, 0xFFFF):x}" for _ in range(6)) for _ in range(3)]
        return cls(
            agent=f"audit-{word[0]}/1.0",
            ipv4=f"203.0.113.{rng.randint(10, 254)}",
            ipv6=f"2001:db8:{six[0]}",
            query=f"query-{word[1]}",
            query_ipv4=f"198.18.{rng.randint(10, 254)}.{rng.randint(10, 254)}",
            query_ipv6=f"2001:db8:{six[1]}",
            referrer=f"page-{word[2]}",
            referrer_ipv4=f"198.19.{rng.randint(10, 254)}.{rng.randint(10, 254)}",
            referrer_ipv6=f"2001:db8:{six[2]}",
            path=f"audit-path-{word[3]}",
        )


@dataclass(frozen=True)
class Request:
    """What is sent over one connection, and how."""

    name: str  # its kind
    data: bytes
    behaviour: str = ""  # pause: half of it, a moment, the rest; half_close: says that no more comes; abort: resets
    answer_seconds: float = 3  # to wait for an answer


class RequestFactory:
    """Makes requests, each different from the others; `paths` get only GET, HEAD and OPTIONS."""

    def __init__(self, marks: Marks, host: str, seed: int, paths: tuple[str, ...] = ("/",)) -> None:
        self.marks = marks
        self.host = host
        self.paths = paths
        self.rng = random.Random(seed)  # noqa: S311 - the same requests for the same seed, no secret

    # --- parts

    def ipv6(self) -> str:
        """Return the marked IPv6 address; its network varies, its last four groups are what is searched for."""
        groups = self.marks.ipv6.split(":")
        groups[2:4] = [f"{self.rng.randint(0x1000, 0xFFFF):x}" for _ in range(2)]
        return ":".join(groups)

    def address(self) -> str:
        """Return a marked address as headers have it."""
        four, six = self.marks.ipv4, self.ipv6()
        return self.rng.choice(
            (
                four, four, six, six, f"{four}, 10.0.0.1", f"unknown, {six}", f"10.0.0.1,{four}", f"{four}:4711",
                f"[{six}]:4711", f"::ffff:{four}", f'"{six}"', f"\t{four} ", six.upper(), f"{four}\xe9\xff",
            )
        )  # fmt: skip

    def address_header(self, name: str) -> tuple[str, str]:
        """Return a header that carries an address."""
        if name == "Forwarded":
            node = self.rng.choice(
                (
                    f"for={self.marks.ipv4}",
                    f'for="[{self.ipv6()}]:4711"',
                    f'For="{self.marks.ipv4}:99"',
                )
            )
            return name, f"{node};proto=http;by=10.0.0.1"
        if name == "Via":
            return name, f"1.1 {self.marks.ipv4} (squid), 1.0 [{self.ipv6()}]"
        return name, self.address()

    def agent_header(self, name: str) -> tuple[str, str]:
        """Return a header that tells what the client is."""
        agent = self.marks.agent
        if name == "Authorization":
            return name, "Basic " + base64.b64encode(f"{agent}:x".encode()).decode()
        if name.startswith("Sec-CH-UA"):
            return name, f'"{agent}";v="{self.rng.randint(1, 200)}", "Not;A=Brand";v="8"'
        return name, self.rng.choice(
            (agent, agent, f"Mozilla/5.0 (X11; Linux) {agent}", agent.upper(), f"{agent} \xfc\xfe")
        )

    def spelt(self, name: str) -> str:
        """Return a header's name as some client spells it."""
        way = self.rng.randrange(10)
        if way < 4:
            return name
        if way < 6:
            return name.lower()
        if way < 7:
            return name.upper()
        if way < 8:
            return name.replace("-", "_")
        return "".join(self.rng.choice((letter.lower(), letter.upper())) for letter in name)

    def headers(self, referrer: bool = True) -> list[str]:
        """Return marked headers, mutated."""
        some = self.rng.sample(ADDRESS_HEADERS, self.rng.randint(4, 12))
        pairs = [self.address_header(name) for name in some]
        pairs += [
            self.agent_header(name)
            for name in self.rng.sample(AGENT_HEADERS, self.rng.randint(1, 5))
        ]
        pairs.append(
            self.agent_header(
                self.rng.choice(("User-Agent", "User-Agent", "user-agent", "USER-AGENT"))
            )
        )
        # Some come twice, but for one that nginx refuses then.
        several = [pair for pair in pairs if pair[0] != "Authorization"]
        pairs += self.rng.sample(several, self.rng.choice((0, 0, 1, 3)))
        lines = [
            f"{self.spelt(name)}:{self.rng.choice((' ', ' ', '', chr(9)))}{value}"
            for name, value in pairs
        ]
        if referrer:
            lines.append(f"Referer: {self.referrer()}")
        self.rng.shuffle(lines)
        return lines

    def referrer(self) -> str:
        """Return a marked referrer."""
        marks = self.marks
        four = self.rng.choice((marks.referrer_ipv4, marks.referrer_ipv4.replace(".", "%2E")))
        return self.rng.choice(
            (
                f"http://{marks.referrer_ipv4}/{marks.referrer}?six={marks.referrer_ipv6}",
                f"https://[{marks.referrer_ipv6}]:444/{marks.referrer}?four={four}",
            )
        )

    def query(self) -> str:
        """Return a marked query string."""
        marks = self.marks
        four = self.rng.choice((marks.query_ipv4, marks.query_ipv4.replace(".", "%2e")))
        six = self.rng.choice(
            (marks.query_ipv6, marks.query_ipv6.replace(":", "%3A"), f"[{marks.query_ipv6}]")
        )
        return f"?q={marks.query}&four={four}&six={six}&n={self.rng.getrandbits(32):x}"

    def path(self) -> str:
        """Return a path that the app answers."""
        return self.rng.choice(self.paths)

    def nowhere(self) -> str:
        """Return a path that no app has, so that no method does any harm."""
        return f"/{self.marks.path}/{self.rng.getrandbits(32):x}"

    def build(
        self, line: str, *more: str, host: str | None = "", body: bytes = b"", end: str = "\r\n"
    ) -> bytes:
        """Return a request; `more` are headers that it has besides the marked ones, `host` None leaves that out."""
        lines = [line]
        if host is not None:
            lines.append(f"Host: {host or self.host}")
        marked = self.headers()
        at = self.rng.randint(0, len(marked))
        lines += [*marked[:at], *more, *marked[at:]]
        if not any(header.startswith("Connection:") for header in more):
            lines.append("Connection: close")
        return (end.join(lines) + end * 2).encode("latin-1") + body

    def junk(self, most: int) -> bytes:
        """Return some random bytes."""
        return self.rng.randbytes(self.rng.randint(1, most))


Kind = Callable[[RequestFactory], Request]


def register(
    kinds: dict[str, Kind], name: str, behaviour: str = "", answer_seconds: float = 3
) -> Callable[[Callable[[RequestFactory], bytes]], None]:
    """Add a function to a corpus, as a kind of request."""

    def add(make: Callable[[RequestFactory], bytes]) -> None:
        kinds[name] = lambda factory: Request(name, make(factory), behaviour, answer_seconds)

    return add


KINDS: dict[str, Kind] = {}
kind = partial(register, KINDS)


# --- logged by nginx and by the app


@kind("get")
def _get(factory: RequestFactory) -> bytes:
    return factory.build(f"GET {factory.path()} HTTP/1.1")


@kind("get with a query")
def _query(factory: RequestFactory) -> bytes:
    return factory.build(f"GET {factory.path()}{factory.query()} HTTP/1.1")


@kind("unknown path")
def _unknown(factory: RequestFactory) -> bytes:
    return factory.build(f"GET {factory.nowhere()}{factory.query()} HTTP/1.1")


@kind("wrong method")
def _method(factory: RequestFactory) -> bytes:
    method = factory.rng.choice(
        (
            "TRACE",
            "TRACK",
            "PROPFIND",
            "DELETE",
            "PUT",
            "PATCH",
            "QUERY",
            "get",
            "G-T",
            "X" * 60,
            "DEBUG",
        )
    )
    return factory.build(f"{method} {factory.nowhere()}{factory.query()} HTTP/1.1")


# --- answered by the catch-all server, which has logs of its own


@kind("wrong host")
def _wrong_host(factory: RequestFactory) -> bytes:
    host = factory.rng.choice(
        (
            "unknown.example",
            factory.marks.ipv4,
            f"[{factory.ipv6()}]:80",
            "a" * 300,
            "..",
            "a b",
            f"{factory.host}, b",
            "\xff",
            "localhost",
        )
    )
    return factory.build(
        f"{factory.rng.choice(('GET', 'POST'))} {factory.nowhere()}{factory.query()} HTTP/1.1",
        host=host,
    )


# --- nginx and HAProxy complain, and may quote the client


@kind("a header as request line")
def _no_line(factory: RequestFactory) -> bytes:
    name, value = factory.rng.choice(
        (factory.agent_header("User-Agent"), factory.address_header("X-Forwarded-For"))
    )
    return factory.build(f"{name}: {value}")


@kind("oversized URL")
def _url(factory: RequestFactory) -> bytes:
    return factory.build(
        f"GET {factory.nowhere()}{factory.query()}&x={'x' * factory.rng.randint(8_000, 60_000)} HTTP/1.1"
    )


@kind("oversized header")
def _header(factory: RequestFactory) -> bytes:
    name = factory.rng.choice(("User-Agent", "X-Forwarded-For", "Cookie"))
    filler = f"{factory.marks.agent} {factory.marks.ipv4}, " * factory.rng.randint(200, 1000)
    return factory.build(f"GET {factory.path()} HTTP/1.1", f"{name}: {filler}")


@kind("oversized body")
def _body(factory: RequestFactory) -> bytes:
    length = factory.rng.randint(50_000_000, 2_000_000_000)
    return factory.build(
        f"POST {factory.nowhere()}{factory.query()} HTTP/1.1",
        f"Content-Length: {length}",
        body=b"x" * 5000,
    )


@kind("aborted within the body", "abort")
def _aborted_body(factory: RequestFactory) -> bytes:
    return factory.build(
        f"POST {factory.nowhere()}{factory.query()} HTTP/1.1",
        "Content-Length: 100000",
        body=factory.junk(50_000),
    )


def requests(
    marks: Marks,
    host: str,
    count: int,
    seed: int,
    paths: tuple[str, ...] = ("/",),
    kinds: Mapping[str, Kind] = KINDS,
) -> Iterator[Request]:
    """Return so many requests, of all these kinds in turn, always the same ones for a seed."""
    factory = RequestFactory(marks, host, seed, paths)
    names = list(kinds)
    for number in range(count):
        if number % len(names) == 0:
            factory.rng.shuffle(names)
        yield kinds[names[number % len(names)]](factory)


# --- sending


def send(request: Request, connect: Callable[[], socket.socket]) -> str:
    """Send a request over a connection of its own; return the status of the answer, or what became of it in words."""
    try:
        client = connect()
    except OSError:
        return "no connection"
    with client:
        if request.behaviour == "abort":
            with suppress(OSError):
                client.sendall(request.data)
            # Closed with a reset at once, not in good order.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return "aborted by us"
        # nginx may answer and close before all is sent.
        with suppress(OSError):
            if request.behaviour == "pause":
                half = len(request.data) // 2
                client.sendall(request.data[:half])
                time.sleep(0.2)
                client.sendall(request.data[half:])
            else:
                client.sendall(request.data)
            if request.behaviour == "half_close":
                client.shutdown(socket.SHUT_WR)
        return _outcome(client, time.monotonic() + request.answer_seconds)


def _outcome(client: socket.socket, deadline: float) -> str:
    """Read until the other side closes, within bounds; return the first answer's status or what happened instead."""
    received = b""
    ended = "closed without an answer"
    while len(received) < 1_000_000:
        left = deadline - time.monotonic()
        if left <= 0:
            ended = "no answer in time"
            break
        client.settimeout(left)
        try:
            more = client.recv(65536)
        except TimeoutError:
            continue
        except OSError:
            break
        if not more:
            break
        received += more
        # Not everybody closes after an answer.
        deadline = min(deadline, time.monotonic() + MORE_SECONDS)
    status = re.match(rb"HTTP/1\.[01] (\d{3})", received)
    if status:
        return status[1].decode()
    return "an answer without a status" if received else ended


def send_all(
    given: Iterable[Request],
    connect: Callable[[], socket.socket],
    *,
    rate: float,
    seconds: float,
    workers: int = 4,
) -> Counter[tuple[str, str]]:
    """Send requests, at most `rate` a second and until `seconds` have gone by; count kinds with their outcomes."""
    counted: Counter[tuple[str, str]] = Counter()
    begun = time.monotonic()
    waiting = enumerate(given)
    lock = threading.Lock()

    def work() -> None:
        while time.monotonic() - begun < seconds:
            with lock:
                number, request = next(waiting, (0, None))
            if request is None:
                return
            if (early := begun + number / rate - time.monotonic()) > 0:
                time.sleep(early)
            outcome = send(request, connect)
            with lock:
                counted[request.name, outcome] += 1

    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work) for _ in range(workers)]:
            done.result()
    return counted
