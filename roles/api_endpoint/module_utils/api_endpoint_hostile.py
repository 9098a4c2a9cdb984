# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests as they come from the internet, good, bad and hostile, with marks where a caller leaves traces."""

from __future__ import annotations

import base64
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

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


PATIENCE = 0.3  # seconds to wait for more of an answer that has begun


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
    answer_seconds: float = 3  # for how long to wait for an answer


class Maker:
    """Makes requests, each different from the others; `paths` are asked with GET."""

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
            node = self.rng.choice((f"for={self.marks.ipv4}", f'for="[{self.ipv6()}]:4711"', f'For="{self.marks.ipv4}:99"'))
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
        return name, self.rng.choice((agent, agent, f"Mozilla/5.0 (X11; Linux) {agent}", agent.upper(), f"{agent} \xfc\xfe"))

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
        pairs += [self.agent_header(name) for name in self.rng.sample(AGENT_HEADERS, self.rng.randint(1, 5))]
        pairs.append(self.agent_header(self.rng.choice(("User-Agent", "User-Agent", "user-agent", "USER-AGENT"))))
        # Some come twice, but for one that nginx refuses then.
        several = [pair for pair in pairs if pair[0] != "Authorization"]
        pairs += self.rng.sample(several, self.rng.choice((0, 0, 1, 3)))
        lines = [f"{self.spelt(name)}:{self.rng.choice((' ', ' ', '', chr(9)))}{value}" for name, value in pairs]
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
        six = self.rng.choice((marks.query_ipv6, marks.query_ipv6.replace(":", "%3A"), f"[{marks.query_ipv6}]"))
        return f"?q={marks.query}&four={four}&six={six}&n={self.rng.getrandbits(32):x}"

    def path(self) -> str:
        """Return a path that the app answers."""
        return self.rng.choice(self.paths)

    def nowhere(self) -> str:
        """Return a path that no app has, so that no method does any harm."""
        return f"/{self.marks.path}/{self.rng.getrandbits(32):x}"

    def build(self, line: str, *more: str, host: str | None = "", body: bytes = b"", end: str = "\r\n") -> bytes:
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


_Kind = Callable[[Maker], Request]
KINDS: dict[str, _Kind] = {}


def _kind(name: str, behaviour: str = "", answer_seconds: float = 3) -> Callable[[Callable[[Maker], bytes]], _Kind]:
    """Register a kind of request under a name."""

    def register(make: Callable[[Maker], bytes]) -> _Kind:
        def kind(maker: Maker) -> Request:
            return Request(name, make(maker), behaviour, answer_seconds)

        KINDS[name] = kind
        return kind

    return register


# --- good


@_kind("get")
def _get(maker: Maker) -> bytes:
    return maker.build(f"GET {maker.path()} HTTP/1.1")


@_kind("get with a query")
def _query(maker: Maker) -> bytes:
    return maker.build(f"GET {maker.path()}{maker.query()} HTTP/1.1")


@_kind("head")
def _head(maker: Maker) -> bytes:
    return maker.build(f"HEAD {maker.path()}{maker.query()} HTTP/1.{maker.rng.choice('01')}")


@_kind("post")
def _post(maker: Maker) -> bytes:
    body = b'{"text": "' + b"x" * maker.rng.randint(1, 2000) + b'"}'
    return maker.build(
        f"POST {maker.nowhere()} HTTP/1.1", "Content-Type: application/json", f"Content-Length: {len(body)}", body=body
    )


@_kind("post in chunks")
def _chunks(maker: Maker) -> bytes:
    parts = [b"x" * maker.rng.randint(1, 300) for _ in range(3)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    return maker.build(f"POST {maker.nowhere()} HTTP/1.1", "Transfer-Encoding: chunked", body=body)


@_kind("preflight")
def _preflight(maker: Maker) -> bytes:
    return maker.build(
        f"OPTIONS {maker.path()} HTTP/1.1", "Origin: https://page.example", "Access-Control-Request-Method: POST"
    )


@_kind("pipelined")
def _pipelined(maker: Maker) -> bytes:
    count = maker.rng.randint(2, 6)
    asked = [maker.build(f"GET {maker.path()}{maker.query()} HTTP/1.1", "Connection: keep-alive") for _ in range(count)]
    return b"".join([*asked, maker.build(f"GET {maker.nowhere()} HTTP/1.1")])


# --- bad


@_kind("unknown path")
def _unknown(maker: Maker) -> bytes:
    return maker.build(f"GET {maker.nowhere()}{maker.query()} HTTP/1.1")


@_kind("strange path")
def _strange(maker: Maker) -> bytes:
    path = maker.rng.choice(("/%00", "/%zz", "/../../etc/passwd", "//x//..", "/%2e%2e/%2e%2e/", "/a b", "*", "x"))
    return maker.build(f"GET {path}{maker.query()} HTTP/1.1")


@_kind("bytes beyond ASCII in the path")
def _bytes(maker: Maker) -> bytes:
    odd = maker.rng.choice(("\xff\xfe", "caf\xe9", "\x80"))
    return maker.build(f"GET {maker.nowhere()}/{odd}{maker.query()} HTTP/1.1")


@_kind("wrong host")
def _wrong_host(maker: Maker) -> bytes:
    host = maker.rng.choice(
        (
            "unknown.example",
            maker.marks.ipv4,
            f"[{maker.ipv6()}]:80",
            "a" * 300,
            "..",
            "a b",
            f"{maker.host}, b",
            "\xff",
            "localhost",
        )
    )
    return maker.build(f"{maker.rng.choice(('GET', 'POST'))} {maker.nowhere()}{maker.query()} HTTP/1.1", host=host)


@_kind("no host")
def _no_host(maker: Maker) -> bytes:
    return maker.build(f"GET {maker.path()}{maker.query()} HTTP/1.{maker.rng.choice('01')}", host=None)


@_kind("two hosts")
def _two_hosts(maker: Maker) -> bytes:
    return maker.build(f"GET {maker.path()} HTTP/1.1", f"Host: {maker.marks.ipv4}")


@_kind("wrong method")
def _method(maker: Maker) -> bytes:
    method = maker.rng.choice(
        ("TRACE", "TRACK", "PROPFIND", "DELETE", "PUT", "PATCH", "QUERY", "get", "G-T", "X" * 60, "DEBUG")
    )
    return maker.build(f"{method} {maker.nowhere()}{maker.query()} HTTP/1.1")


@_kind("connect")
def _connect(maker: Maker) -> bytes:
    return maker.build(f"CONNECT {maker.marks.query_ipv4}:443 HTTP/1.1")


@_kind("absolute URL")
def _absolute(maker: Maker) -> bytes:
    host = maker.rng.choice((maker.host, maker.marks.query_ipv4, f"[{maker.marks.query_ipv6}]"))
    return maker.build(f"GET http://{host}{maker.nowhere()}{maker.query()} HTTP/1.1")


@_kind("strange version")
def _version(maker: Maker) -> bytes:
    version = maker.rng.choice(
        ("HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/9.9", "HTTP/1.1x", "HTTPS/1.1", "http/1.1", "HTTP/1")
    )
    return maker.build(f"GET {maker.nowhere()}{maker.query()} {version}")


@_kind("no version")
def _nine(maker: Maker) -> bytes:
    return maker.build(f"GET {maker.path()}{maker.query()}")


@_kind("oversized body")
def _body(maker: Maker) -> bytes:
    length = maker.rng.randint(50_000_000, 2_000_000_000)
    return maker.build(f"POST {maker.nowhere()}{maker.query()} HTTP/1.1", f"Content-Length: {length}", body=b"x" * 5000)


@_kind("oversized URL")
def _url(maker: Maker) -> bytes:
    return maker.build(f"GET {maker.nowhere()}{maker.query()}&x={'x' * maker.rng.randint(8_000, 60_000)} HTTP/1.1")


@_kind("oversized header")
def _header(maker: Maker) -> bytes:
    name = maker.rng.choice(("User-Agent", "X-Forwarded-For", "Cookie"))
    filler = f"{maker.marks.agent} {maker.marks.ipv4}, " * maker.rng.randint(200, 1000)
    return maker.build(f"GET {maker.path()} HTTP/1.1", f"{name}: {filler}")


@_kind("header flood")
def _flood(maker: Maker) -> bytes:
    names = [f"X-{maker.rng.getrandbits(40):x}" for _ in range(maker.rng.randint(100, 1500))]
    flood = [f"{name}: {maker.rng.choice((maker.marks.agent, maker.marks.ipv4))}" for name in names]
    return maker.build(f"GET {maker.path()} HTTP/1.1", *flood)


@_kind("expectation")
def _expect(maker: Maker) -> bytes:
    expected = maker.rng.choice(("100-continue", "200-ok", maker.marks.agent))
    return maker.build(f"POST {maker.nowhere()} HTTP/1.1", f"Expect: {expected}", "Content-Length: 3", body=b"abc")


@_kind("upgrade")
def _upgrade(maker: Maker) -> bytes:
    to = maker.rng.choice(("h2c", "websocket", "TLS/1.0"))
    return maker.build(
        f"GET {maker.path()} HTTP/1.1", f"Upgrade: {to}", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk"
    )


@_kind("ranges")
def _ranges(maker: Maker) -> bytes:
    ranges = ",".join(f"{n}-{n + 9}" for n in range(maker.rng.randint(10, 400)))
    return maker.build(f"GET {maker.path()} HTTP/1.1", f"Range: bytes={ranges}", "If-Range: x", "If-Modified-Since: never")


# --- hostile


@_kind("random bytes")
def _random(maker: Maker) -> bytes:
    return maker.junk(400) + b"\r\n" + "\r\n".join(maker.headers()).encode("latin-1") + b"\r\n\r\n"


@_kind("binary in headers")
def _binary(maker: Maker) -> bytes:
    junk = maker.junk(100).replace(b"\r", b"").replace(b"\n", b"").decode("latin-1")
    return maker.build(f"GET {maker.path()} HTTP/1.1", f"X-Forwarded-For: {maker.marks.ipv4}{junk}", f"{junk}: x")


@_kind("TLS to the plain port")
def _tls(maker: Maker) -> bytes:
    name = maker.host.encode()
    server = struct.pack("!HHHBH", 0, len(name) + 5, len(name) + 3, 0, len(name)) + name
    extensions = struct.pack("!H", len(server)) + server
    hello = b"\x03\x03" + maker.rng.randbytes(32) + b"\x00" + b"\x00\x04\x13\x01\x13\x02" + b"\x01\x00" + extensions
    message = b"\x01" + struct.pack("!I", len(hello))[1:] + hello
    return b"\x16\x03\x01" + struct.pack("!H", len(message)) + message + maker.rng.randbytes(maker.rng.randint(0, 20))


@_kind("HTTP/2 to the plain port")
def _two(maker: Maker) -> bytes:
    settings = struct.pack("!HI", 3, maker.rng.randint(1, 1000))
    frame = struct.pack("!I", len(settings))[1:] + b"\x04\x00" + b"\x00" * 4 + settings
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame + "\r\n".join(maker.headers()).encode("latin-1") + b"\r\n\r\n"


@_kind("a load balancer's PROXY line")
def _proxy(maker: Maker) -> bytes:
    line = maker.rng.choice(
        (f"PROXY TCP4 {maker.marks.ipv4} 10.0.0.1 4711 80", f"PROXY TCP6 {maker.ipv6()} ::1 4711 80", "PROXY UNKNOWN")
    )
    return f"{line}\r\n".encode() + maker.build(f"GET {maker.path()} HTTP/1.1")


@_kind("length and chunks")
def _conflict(maker: Maker) -> bytes:
    hidden = maker.build(f"GET {maker.nowhere()}{maker.query()} HTTP/1.1")
    length = maker.rng.choice((4, len(hidden) + 5))
    chunked = maker.rng.choice(("chunked", "Chunked", "x, chunked", "chunked, identity", " chunked", "\x0bchunked"))
    return maker.build(
        f"POST {maker.nowhere()} HTTP/1.1", f"Content-Length: {length}", f"Transfer-Encoding: {chunked}",
        body=b"0\r\n\r\n" + hidden,
    )  # fmt: skip


@_kind("two lengths")
def _lengths(maker: Maker) -> bytes:
    hidden = maker.build(f"GET {maker.nowhere()} HTTP/1.1")
    lengths = ("Content-Length: 3", f"Content-Length: {3 + len(hidden)}")
    return maker.build(f"POST {maker.nowhere()} HTTP/1.1", *lengths, body=b"abc" + hidden)


@_kind("strange length")
def _length(maker: Maker) -> bytes:
    length = maker.rng.choice(("-1", "+3", "0x3", "3, 3", "1e3", "9" * 40, "", maker.marks.ipv4))
    return maker.build(f"POST {maker.nowhere()} HTTP/1.1", f"Content-Length: {length}", body=b"abc")


@_kind("broken chunks")
def _broken(maker: Maker) -> bytes:
    size = maker.rng.choice(("zz", "-1", "ffffffffffffffffff", "5;x=" + maker.marks.agent, ""))
    body = f"{size}\r\nabc\r\n0\r\nUser-Agent: {maker.marks.agent}\r\nX-Real-IP: {maker.marks.ipv4}\r\n\r\n".encode()
    return maker.build(f"POST {maker.nowhere()} HTTP/1.1", "Transfer-Encoding: chunked", body=body)


@_kind("smuggled in a body")
def _smuggled(maker: Maker) -> bytes:
    hidden = maker.build(f"GET {maker.nowhere()} HTTP/1.1")
    return maker.build(f"GET {maker.path()} HTTP/1.1", f"Content-Length: {len(hidden)}", body=hidden)


@_kind("bare line feeds")
def _feeds(maker: Maker) -> bytes:
    return maker.build(f"GET {maker.path()}{maker.query()} HTTP/1.1", end="\n")


@_kind("bare carriage returns", "half_close")
def _returns(maker: Maker) -> bytes:
    return maker.build(f"GET {maker.path()}{maker.query()} HTTP/1.1", end="\r")


@_kind("a header as request line")
def _no_line(maker: Maker) -> bytes:
    name, value = maker.rng.choice((maker.agent_header("User-Agent"), maker.address_header("X-Forwarded-For")))
    return maker.build(f"{name}: {value}")


@_kind("no request line")
def _agent_line(maker: Maker) -> bytes:
    return f"{maker.rng.choice((maker.marks.agent, maker.marks.ipv4, maker.ipv6()))}\r\n\r\n".encode()


@_kind("more after the version")
def _after(maker: Maker) -> bytes:
    gap = maker.rng.choice((" ", "\t", "\0", "\x0b", "  "))
    name, value = maker.rng.choice((maker.agent_header("User-Agent"), maker.address_header("X-Real-IP")))
    return maker.build(f"GET {maker.nowhere()} HTTP/1.1{gap}{name}: {value}")


@_kind("folded headers")
def _folded(maker: Maker) -> bytes:
    return maker.build(
        f"GET {maker.path()} HTTP/1.1", f"User-Agent: a\r\n {maker.marks.agent}", f"X-Real-IP:\r\n\t{maker.marks.ipv4}"
    )


@_kind("malformed headers")
def _malformed(maker: Maker) -> bytes:
    agent, four = maker.marks.agent, maker.marks.ipv4
    lines = (
        f"User-Agent : {agent}", f"X-Forwarded-For\t: {four}", f": {agent}", agent, f"{agent}: {four}", f"X-\xff-IP: {four}",
        f"User-Agent: {agent}\0{four}", f"User-Agent: {agent}\r{four}", f" X-Real-IP: {four}", f"{four}: x",
        f"X_Forwarded_For: {four}", f"X.Real.IP: {four}",
    )  # fmt: skip
    return maker.build(f"GET {maker.path()} HTTP/1.1", *maker.rng.sample(lines, maker.rng.randint(1, 3)))


@_kind("half-closed", "half_close")
def _half(maker: Maker) -> bytes:
    return maker.build(f"GET {maker.path()}{maker.query()} HTTP/1.1")


@_kind("half-closed within the headers", "half_close")
def _half_head(maker: Maker) -> bytes:
    data = maker.build(f"GET {maker.path()}{maker.query()} HTTP/1.1")
    return data[: maker.rng.randint(1, len(data) - 3)]


@_kind("aborted", "abort")
def _aborted(maker: Maker) -> bytes:
    return maker.build(f"GET {maker.path()}{maker.query()} HTTP/1.1")


@_kind("aborted within the headers", "abort")
def _aborted_head(maker: Maker) -> bytes:
    data = maker.build(f"GET {maker.path()}{maker.query()} HTTP/1.1")
    return data[: maker.rng.randint(1, len(data) - 3)]


@_kind("aborted within the body", "abort")
def _aborted_body(maker: Maker) -> bytes:
    return maker.build(f"POST {maker.nowhere()}{maker.query()} HTTP/1.1", "Content-Length: 100000", body=maker.junk(50_000))


@_kind("slow headers", "pause")
def _slow(maker: Maker) -> bytes:
    return maker.build(f"GET {maker.path()}{maker.query()} HTTP/1.1")


@_kind("slow body", "pause")
def _slow_body(maker: Maker) -> bytes:
    return maker.build(f"POST {maker.nowhere()} HTTP/1.1", "Content-Length: 2000", body=b"x" * 2000)


@_kind("a body that never comes", answer_seconds=0.3)
def _never(maker: Maker) -> bytes:
    return maker.build(f"POST {maker.nowhere()}{maker.query()} HTTP/1.1", "Content-Length: 1000")


def requests(
    marks: Marks, host: str, count: int, seed: int, paths: tuple[str, ...] = ("/",), kinds: Iterable[str] = ()
) -> Iterator[Request]:
    """Return so many requests, of all kinds in turn or of some, always the same ones for a seed."""
    maker = Maker(marks, host, seed, paths)
    names = list(kinds) or list(KINDS)
    for number in range(count):
        if number % len(names) == 0:
            maker.rng.shuffle(names)
        yield KINDS[names[number % len(names)]](maker)


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
        deadline = min(deadline, time.monotonic() + PATIENCE)
    status = re.match(rb"HTTP/1\.[01] (\d{3})", received)
    if status:
        return status[1].decode()
    return "an answer without a status" if received else ended


def send_all(
    given: Iterable[Request], connect: Callable[[], socket.socket], *, rate: float, seconds: float, workers: int = 4
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
