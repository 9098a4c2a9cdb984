"""Every kind of request that the tests send, good, bad and hostile: those of the role's live audit, and forty more."""

import struct
from collections.abc import Iterable, Iterator
from functools import partial

from ansible.module_utils.api_endpoint.privacy import corpus
from ansible.module_utils.api_endpoint.privacy.corpus import Marks, Request, RequestFactory

KINDS = dict(corpus.KINDS)
kind = partial(corpus.register, KINDS)


def requests(
    marks: Marks,
    host: str,
    count: int,
    seed: int,
    paths: tuple[str, ...] = ("/",),
    kinds: Iterable[str] = (),
) -> Iterator[Request]:
    """Return so many requests, of all kinds in turn or of some."""
    chosen = {name: KINDS[name] for name in kinds or KINDS}
    return corpus.requests(marks, host, count, seed, paths, chosen)


# --- good


@kind("head")
def _head(factory: RequestFactory) -> bytes:
    return factory.build(
        f"HEAD {factory.path()}{factory.query()} HTTP/1.{factory.rng.choice('01')}"
    )


@kind("post")
def _post(factory: RequestFactory) -> bytes:
    body = b'{"text": "' + b"x" * factory.rng.randint(1, 2000) + b'"}'
    return factory.build(
        f"POST {factory.nowhere()} HTTP/1.1",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        body=body,
    )


@kind("post in chunks")
def _chunks(factory: RequestFactory) -> bytes:
    parts = [b"x" * factory.rng.randint(1, 300) for _ in range(3)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    return factory.build(
        f"POST {factory.nowhere()} HTTP/1.1", "Transfer-Encoding: chunked", body=body
    )


@kind("preflight")
def _preflight(factory: RequestFactory) -> bytes:
    return factory.build(
        f"OPTIONS {factory.path()} HTTP/1.1",
        "Origin: https://page.example",
        "Access-Control-Request-Method: POST",
    )


@kind("pipelined")
def _pipelined(factory: RequestFactory) -> bytes:
    count = factory.rng.randint(2, 6)
    asked = [
        factory.build(f"GET {factory.path()}{factory.query()} HTTP/1.1", "Connection: keep-alive")
        for _ in range(count)
    ]
    return b"".join([*asked, factory.build(f"GET {factory.nowhere()} HTTP/1.1")])


# --- bad


@kind("strange path")
def _strange(factory: RequestFactory) -> bytes:
    path = factory.rng.choice(
        ("/%00", "/%zz", "/../../etc/passwd", "//x//..", "/%2e%2e/%2e%2e/", "/a b", "*", "x")
    )
    return factory.build(f"GET {path}{factory.query()} HTTP/1.1")


@kind("bytes beyond ASCII in the path")
def _bytes(factory: RequestFactory) -> bytes:
    odd = factory.rng.choice(("\xff\xfe", "caf\xe9", "\x80"))
    return factory.build(f"GET {factory.nowhere()}/{odd}{factory.query()} HTTP/1.1")


@kind("no host")
def _no_host(factory: RequestFactory) -> bytes:
    return factory.build(
        f"GET {factory.path()}{factory.query()} HTTP/1.{factory.rng.choice('01')}", host=None
    )


@kind("two hosts")
def _two_hosts(factory: RequestFactory) -> bytes:
    return factory.build(f"GET {factory.path()} HTTP/1.1", f"Host: {factory.marks.ipv4}")


@kind("connect")
def _connect(factory: RequestFactory) -> bytes:
    return factory.build(f"CONNECT {factory.marks.query_ipv4}:443 HTTP/1.1")


@kind("absolute URL")
def _absolute(factory: RequestFactory) -> bytes:
    host = factory.rng.choice(
        (factory.host, factory.marks.query_ipv4, f"[{factory.marks.query_ipv6}]")
    )
    return factory.build(f"GET http://{host}{factory.nowhere()}{factory.query()} HTTP/1.1")


@kind("strange version")
def _version(factory: RequestFactory) -> bytes:
    version = factory.rng.choice(
        (
            "HTTP/0.9",
            "HTTP/1.2",
            "HTTP/2.0",
            "HTTP/9.9",
            "HTTP/1.1x",
            "HTTPS/1.1",
            "http/1.1",
            "HTTP/1",
        )
    )
    return factory.build(f"GET {factory.nowhere()}{factory.query()} {version}")


@kind("no version")
def _nine(factory: RequestFactory) -> bytes:
    return factory.build(f"GET {factory.path()}{factory.query()}")


@kind("header flood")
def _flood(factory: RequestFactory) -> bytes:
    names = [f"X-{factory.rng.getrandbits(40):x}" for _ in range(factory.rng.randint(100, 1500))]
    flood = [
        f"{name}: {factory.rng.choice((factory.marks.agent, factory.marks.ipv4))}" for name in names
    ]
    return factory.build(f"GET {factory.path()} HTTP/1.1", *flood)


@kind("expectation")
def _expect(factory: RequestFactory) -> bytes:
    expected = factory.rng.choice(("100-continue", "200-ok", factory.marks.agent))
    return factory.build(
        f"POST {factory.nowhere()} HTTP/1.1",
        f"Expect: {expected}",
        "Content-Length: 3",
        body=b"abc",
    )


@kind("upgrade")
def _upgrade(factory: RequestFactory) -> bytes:
    to = factory.rng.choice(("h2c", "websocket", "TLS/1.0"))
    return factory.build(
        f"GET {factory.path()} HTTP/1.1",
        f"Upgrade: {to}",
        "Connection: Upgrade, HTTP2-Settings",
        "HTTP2-Settings: AAMAAABk",
    )


@kind("ranges")
def _ranges(factory: RequestFactory) -> bytes:
    ranges = ",".join(f"{n}-{n + 9}" for n in range(factory.rng.randint(10, 400)))
    return factory.build(
        f"GET {factory.path()} HTTP/1.1",
        f"Range: bytes={ranges}",
        "If-Range: x",
        "If-Modified-Since: never",
    )


# --- hostile


@kind("random bytes")
def _random(factory: RequestFactory) -> bytes:
    return (
        factory.junk(400) + b"\r\n" + "\r\n".join(factory.headers()).encode("latin-1") + b"\r\n\r\n"
    )


@kind("binary in headers")
def _binary(factory: RequestFactory) -> bytes:
    junk = factory.junk(100).replace(b"\r", b"").replace(b"\n", b"").decode("latin-1")
    return factory.build(
        f"GET {factory.path()} HTTP/1.1",
        f"X-Forwarded-For: {factory.marks.ipv4}{junk}",
        f"{junk}: x",
    )


@kind("TLS to the plain port")
def _tls(factory: RequestFactory) -> bytes:
    name = factory.host.encode()
    server = struct.pack("!HHHBH", 0, len(name) + 5, len(name) + 3, 0, len(name)) + name
    extensions = struct.pack("!H", len(server)) + server
    hello = (
        b"\x03\x03"
        + factory.rng.randbytes(32)
        + b"\x00"
        + b"\x00\x04\x13\x01\x13\x02"
        + b"\x01\x00"
        + extensions
    )
    message = b"\x01" + struct.pack("!I", len(hello))[1:] + hello
    return (
        b"\x16\x03\x01"
        + struct.pack("!H", len(message))
        + message
        + factory.rng.randbytes(factory.rng.randint(0, 20))
    )


@kind("HTTP/2 to the plain port")
def _two(factory: RequestFactory) -> bytes:
    settings = struct.pack("!HI", 3, factory.rng.randint(1, 1000))
    frame = struct.pack("!I", len(settings))[1:] + b"\x04\x00" + b"\x00" * 4 + settings
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame
        + "\r\n".join(factory.headers()).encode("latin-1")
        + b"\r\n\r\n"
    )


@kind("a load balancer's PROXY line")
def _proxy(factory: RequestFactory) -> bytes:
    line = factory.rng.choice(
        (
            f"PROXY TCP4 {factory.marks.ipv4} 10.0.0.1 4711 80",
            f"PROXY TCP6 {factory.ipv6()} ::1 4711 80",
            "PROXY UNKNOWN",
        )
    )
    return f"{line}\r\n".encode() + factory.build(f"GET {factory.path()} HTTP/1.1")


@kind("length and chunks")
def _conflict(factory: RequestFactory) -> bytes:
    hidden = factory.build(f"GET {factory.nowhere()}{factory.query()} HTTP/1.1")
    length = factory.rng.choice((4, len(hidden) + 5))
    chunked = factory.rng.choice(
        ("chunked", "Chunked", "x, chunked", "chunked, identity", " chunked", "\x0bchunked")
    )
    return factory.build(
        f"POST {factory.nowhere()} HTTP/1.1", f"Content-Length: {length}", f"Transfer-Encoding: {chunked}",
        body=b"0\r\n\r\n" + hidden,
    )  # fmt: skip


@kind("two lengths")
def _lengths(factory: RequestFactory) -> bytes:
    hidden = factory.build(f"GET {factory.nowhere()} HTTP/1.1")
    lengths = ("Content-Length: 3", f"Content-Length: {3 + len(hidden)}")
    return factory.build(f"POST {factory.nowhere()} HTTP/1.1", *lengths, body=b"abc" + hidden)


@kind("strange length")
def _length(factory: RequestFactory) -> bytes:
    length = factory.rng.choice(
        ("-1", "+3", "0x3", "3, 3", "1e3", "9" * 40, "", factory.marks.ipv4)
    )
    return factory.build(
        f"POST {factory.nowhere()} HTTP/1.1", f"Content-Length: {length}", body=b"abc"
    )


@kind("broken chunks")
def _broken(factory: RequestFactory) -> bytes:
    size = factory.rng.choice(("zz", "-1", "ffffffffffffffffff", "5;x=" + factory.marks.agent, ""))
    body = f"{size}\r\nabc\r\n0\r\nUser-Agent: {factory.marks.agent}\r\nX-Real-IP: {factory.marks.ipv4}\r\n\r\n".encode()
    return factory.build(
        f"POST {factory.nowhere()} HTTP/1.1", "Transfer-Encoding: chunked", body=body
    )


@kind("smuggled in a body")
def _smuggled(factory: RequestFactory) -> bytes:
    hidden = factory.build(f"GET {factory.nowhere()} HTTP/1.1")
    return factory.build(
        f"GET {factory.path()} HTTP/1.1", f"Content-Length: {len(hidden)}", body=hidden
    )


@kind("bare line feeds")
def _feeds(factory: RequestFactory) -> bytes:
    return factory.build(f"GET {factory.path()}{factory.query()} HTTP/1.1", end="\n")


@kind("bare carriage returns", "half_close")
def _returns(factory: RequestFactory) -> bytes:
    return factory.build(f"GET {factory.path()}{factory.query()} HTTP/1.1", end="\r")


@kind("no request line")
def _agent_line(factory: RequestFactory) -> bytes:
    return f"{factory.rng.choice((factory.marks.agent, factory.marks.ipv4, factory.ipv6()))}\r\n\r\n".encode()


@kind("more after the version")
def _after(factory: RequestFactory) -> bytes:
    gap = factory.rng.choice((" ", "\t", "\0", "\x0b", "  "))
    name, value = factory.rng.choice(
        (factory.agent_header("User-Agent"), factory.address_header("X-Real-IP"))
    )
    return factory.build(f"GET {factory.nowhere()} HTTP/1.1{gap}{name}: {value}")


@kind("folded headers")
def _folded(factory: RequestFactory) -> bytes:
    return factory.build(
        f"GET {factory.path()} HTTP/1.1",
        f"User-Agent: a\r\n {factory.marks.agent}",
        f"X-Real-IP:\r\n\t{factory.marks.ipv4}",
    )


@kind("malformed headers")
def _malformed(factory: RequestFactory) -> bytes:
    agent, four = factory.marks.agent, factory.marks.ipv4
    lines = (
        f"User-Agent : {agent}", f"X-Forwarded-For\t: {four}", f": {agent}", agent, f"{agent}: {four}", f"X-\xff-IP: {four}",
        f"User-Agent: {agent}\0{four}", f"User-Agent: {agent}\r{four}", f" X-Real-IP: {four}", f"{four}: x",
        f"X_Forwarded_For: {four}", f"X.Real.IP: {four}",
    )  # fmt: skip
    return factory.build(
        f"GET {factory.path()} HTTP/1.1", *factory.rng.sample(lines, factory.rng.randint(1, 3))
    )


@kind("half-closed", "half_close")
def _half(factory: RequestFactory) -> bytes:
    return factory.build(f"GET {factory.path()}{factory.query()} HTTP/1.1")


@kind("half-closed within the headers", "half_close")
def _half_head(factory: RequestFactory) -> bytes:
    data = factory.build(f"GET {factory.path()}{factory.query()} HTTP/1.1")
    return data[: factory.rng.randint(1, len(data) - 3)]


@kind("aborted", "abort")
def _aborted(factory: RequestFactory) -> bytes:
    return factory.build(f"GET {factory.path()}{factory.query()} HTTP/1.1")


@kind("aborted within the headers", "abort")
def _aborted_head(factory: RequestFactory) -> bytes:
    data = factory.build(f"GET {factory.path()}{factory.query()} HTTP/1.1")
    return data[: factory.rng.randint(1, len(data) - 3)]


@kind("slow headers", "pause")
def _slow(factory: RequestFactory) -> bytes:
    return factory.build(f"GET {factory.path()}{factory.query()} HTTP/1.1")


@kind("slow body", "pause")
def _slow_body(factory: RequestFactory) -> bytes:
    return factory.build(
        f"POST {factory.nowhere()} HTTP/1.1", "Content-Length: 2000", body=b"x" * 2000
    )


@kind("a body that never comes", answer_seconds=0.3)
def _never(factory: RequestFactory) -> bytes:
    return factory.build(
        f"POST {factory.nowhere()}{factory.query()} HTTP/1.1", "Content-Length: 1000"
    )
