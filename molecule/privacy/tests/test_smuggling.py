"""Requests that two programs might cut differently: each is refused, or arrives at the app as one whole request."""

import concurrent.futures
import http.client
import itertools
import json
import re
import socket
from dataclasses import dataclass, field

import pytest

REFUSED = (400, 405, 413, 414, 431, 501, 505)
HOST = b"Host: privacy.wmcloud.org\r\n"
GET = b"GET /environ HTTP/1.1\r\n" + HOST
POST = b"POST /echo HTTP/1.1\r\n" + HOST
# What must never be taken for a request: it hides in the bodies below.
HIDDEN = b"GET /headers?X-Answer=smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
END = b"0\r\n\r\n"
TWO = b"\r\n2\r\nab\r\n"


def length(of: bytes) -> bytes:
    return b"Content-Length: %d\r\n" % len(of)


# Nothing of these may arrive at the app.
BAD = {
    "CL.TE": POST + length(END + HIDDEN) + CHUNKED + b"\r\n" + END + HIDDEN,
    "TE.CL": POST + CHUNKED + b"Content-Length: 4\r\n\r\n%x\r\n" % len(HIDDEN) + HIDDEN + b"\r\n" + END,
    "two lengths": POST + b"Content-Length: 0\r\n" + length(HIDDEN) + b"\r\n" + HIDDEN,
    "the same length twice": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\nab",
    "length with a sign": POST + b"Content-Length: +2\r\n\r\nab",
    "negative length": POST + b"Content-Length: -1\r\n\r\nab",
    "hexadecimal length": POST + b"Content-Length: 0x2\r\n\r\nab",
    "length with an underscore": POST + b"Content-Length: 1_0\r\n\r\nab",
    "length beyond 64 bits": POST + b"Content-Length: 18446744073709551618\r\n\r\nab",
    "space before a length's colon": POST + b"Content-Length : 2\r\n\r\nab",
    "space before TE's colon": POST + length(END + HIDDEN) + b"Transfer-Encoding : chunked\r\n\r\n" + END + HIDDEN,
    "TE xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + END + HIDDEN,
    "TE chunked, identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + END + HIDDEN,
    "TE identity": POST + b"Transfer-Encoding: identity\r\n" + length(HIDDEN) + b"\r\n" + HIDDEN,
    "TE after a tab": POST + b"Transfer-Encoding:\tchunked\r\n\r\n" + END + HIDDEN,
    "TE after a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n" + length(END + HIDDEN) + b"\r\n" + END + HIDDEN,
    "TE in quotes": POST + b'Transfer-Encoding: "chunked"\r\n\r\n' + END + HIDDEN,
    "TE twice": POST + CHUNKED + CHUNKED + b"\r\n" + END + HIDDEN,
    "TE chunked and identity": POST + CHUNKED + b"Transfer-Encoding: identity\r\n\r\n" + END + HIDDEN,
    "TE on a folded line": POST + b"Transfer-Encoding:\r\n chunked\r\n" + length(END + HIDDEN) + b"\r\n" + END + HIDDEN,
    "TE in HTTP/1.0": POST.replace(b"1.1", b"1.0") + CHUNKED + b"Connection: keep-alive\r\n\r\n" + END + HIDDEN,
    "a folded line": GET + b"Accept: a\r\n b\r\n\r\n",
    "a fold before the first header": b"GET /environ HTTP/1.1\r\n " + HOST + HOST + b"\r\n",
    "a bare CR in a header": GET + b"Accept: a\rContent-Length: 5\r\n\r\n",
    "a NUL in a header": GET + b"Accept: a\x00b\r\n\r\n",
    "a NUL in the request line": b"GET /environ\x00 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a space in the request line": b"GET /environ HTTP/1.1 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a method in small letters": b"get /environ HTTP/1.1\r\n" + HOST + b"\r\n",
    "two hosts": GET + b"Host: evil.example\r\n\r\n",
    "no host": b"GET /environ HTTP/1.1\r\n\r\n",
    "a path in the host": b"GET /environ HTTP/1.1\r\nHost: privacy.wmcloud.org/evil\r\n\r\n",
    "HTTP/2.0": b"GET /environ HTTP/2.0\r\n" + HOST + b"\r\n",
    "the start of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "CONNECT": b"CONNECT evil.example:80 HTTP/1.1\r\n" + HOST + b"\r\n",
    "TRACE": b"TRACE /environ HTTP/1.1\r\n" + HOST + b"\r\n",
    "a chunk with 0x": POST + CHUNKED + b"\r\n0x2\r\nab\r\n" + END + HIDDEN,
    "a chunk with an underscore": POST + CHUNKED + b"\r\n0_2\r\nab\r\n" + END + HIDDEN,
    "a negative chunk": POST + CHUNKED + b"\r\n-2\r\nab\r\n" + END + HIDDEN,
    "a chunk beyond 64 bits": POST + CHUNKED + b"\r\n100000000000000002\r\nab\r\n" + END + HIDDEN,
    "a chunk without an end": POST + CHUNKED + b"\r\n2\r\nabXX" + END + HIDDEN,
    "a bare CR in a chunk's extension": POST + CHUNKED + b"\r\n2;\rxx\r\nab\r\n" + END + HIDDEN,
}

# These are one request each, with this body.
WHOLE = {
    "a hidden request as body": (length(HIDDEN) + b"\r\n" + HIDDEN, HIDDEN),
    "an underscore for a dash": (
        b"Transfer_Encoding: chunked\r\n" + length(END + HIDDEN) + b"\r\n" + END + HIDDEN,
        END + HIDDEN,
    ),
    "Connection names the length": (b"Connection: Content-Length\r\nContent-Length: 2\r\n\r\nab", b"ab"),
    "chunks": (CHUNKED + TWO + END, b"ab"),
    "a chunk with an extension": (CHUNKED + b"\r\n2;a=b\r\nab\r\n" + END, b"ab"),
    "trailer fields": (
        CHUNKED + b"Trailer: X-Evil\r\n" + TWO + b"0\r\nX-Evil: 1\r\nContent-Length: 50\r\n\r\n",
        b"ab",
    ),
    "a strange expectation": (b"Expect: y 100-continue\r\nContent-Length: 2\r\n\r\nab", b"ab"),
    "an upgrade to HTTP/2": (
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\nContent-Length: 2\r\n\r\nab",
        b"ab",
    ),
    "an upgrade to WebSocket": (b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nab", b"ab"),
}


@dataclass
class Received:
    """One of the answers on a connection."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def cut(stream: bytes) -> list[Received]:
    """Cut what came over a connection into answers."""
    answers = []
    while stream:
        head, end, stream = stream.partition(b"\r\n\r\n")
        assert end, head
        first, *lines = head.decode("latin-1").split("\r\n")
        assert re.match(r"HTTP/1\.1 \d{3} ", first), first
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = int(headers.get("content-length", 0))
        answers.append(Received(int(first.split()[1]), headers, stream[:size]))
        stream = stream[size:]
    return answers


def send(port: int, raw: bytes, mark: str) -> list[Received]:
    """Send a request, and behind it, over the same connection, an honest one; return all answers."""
    honest = f"GET /headers?X-Answer={mark} HTTP/1.1\r\nHost: privacy.wmcloud.org\r\nConnection: close\r\n\r\n".encode()
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=15) as client:
        client.sendall(raw + honest)
        try:
            while more := client.recv(65536):
                received += more
        except ConnectionResetError:
            pass  # it was refused while there was more to read
    return cut(received)


def assert_one_whole_request(answers: list[Received], body: bytes, mark: str) -> None:
    """The app answered one request with this body, and then the one behind it."""
    assert [answer.status for answer in answers] == [200, 200], answers
    assert answers[0].body == body
    assert answers[1].headers["x-answer"] == mark


@pytest.fixture
def seen_by_the_app(api):
    """Return a function that returns the app's access log since the start of the test."""
    size = int(api.host.check_output("stat --format=%s /var/log/gunicorn/access.log"))
    return lambda: api.host.check_output(f"tail --bytes=+{size + 1} /var/log/gunicorn/access.log")


def test_none_is_cut_in_two(api, seen_by_the_app):
    port = api.port
    for name, raw in BAD.items():
        answers = send(port, raw, "behind")
        assert len(answers) == 1, f"{name}: {answers}"
        assert answers[0].status in REFUSED, f"{name}: {answers}"
        assert json.loads(answers[0].body)["error"]["status"] == answers[0].status, f"{name}: {answers}"
        assert answers[0].headers["connection"] == "close", f"{name}: {answers}"
    assert seen_by_the_app() == "", "nothing of a refused request, nor of what follows it, arrives at the app"

    for name, (raw, body) in WHOLE.items():
        print(name)
        assert_one_whole_request(send(port, POST + raw, "behind"), body, "behind")
    lines = re.findall(r'"(\w+ \S+) HTTP', seen_by_the_app())
    assert sorted(lines) == ["GET /headers?X-Answer=behind"] * len(WHOLE) + ["POST /echo"] * len(WHOLE)


def test_nobody_gets_the_answer_to_another_request(api):
    """Honest clients, some over connections that they keep, while others send all of the above."""
    port = api.port

    def honest(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for turn in range(20):
            mark = f"honest-{number}-{turn}"
            connection.request("POST", f"/headers?X-Answer={mark}" if turn % 2 else "/echo", mark, {"Host": api.name})
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == (405 if turn % 2 else 200), (answer.status, body)
            assert turn % 2 or body == mark.encode()
        connection.close()

    def dishonest(number: int, raw: bytes) -> None:
        for answer in send(port, raw, f"behind-{number}"):
            assert answer.headers.get("x-answer", f"behind-{number}") == f"behind-{number}"

    requests = [*BAD.values(), *(POST + raw for raw, _body in WHOLE.values())]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        work = [pool.submit(dishonest, *pair) for pair in enumerate(itertools.chain(*[requests] * 3))]
        work += [pool.submit(honest, number) for number in range(20)]
        for done in concurrent.futures.as_completed(work):
            done.result()


@pytest.mark.parametrize(
    "request_head",
    [
        "GET http://privacy.wmcloud.org/environ HTTP/1.1\r\nHost: evil.example",
        "GET /environ HTTP/1.1\r\nHost: privacy.wmcloud.org:evil.example",
        "GET /environ HTTP/1.1\r\nHost: privacy.wmcloud.org\r\nX-Forwarded-Host: evil.example",
        "GET /environ HTTP/1.1\r\nHost: privacy.wmcloud.org\r\nForwarded: host=evil.example",
        "GET /environ HTTP/1.1\r\nHost: privacy.wmcloud.org\r\nScript-Name: /evil.example\r\nPath-Info: /evil.example",
        "GET /environ HTTP/1.1\r\nHost: privacy.wmcloud.org\r\nSCRIPT_NAME: /evil.example",
    ],
    ids=["absolute form", "port", "X-Forwarded-Host", "Forwarded", "Script-Name", "underscore"],
)
def test_the_app_hears_of_no_other_name(api, request_head):
    answers = send(api.port, request_head.encode() + b"\r\n\r\n", "behind")
    # nginx may refuse it.
    if answers[0].status == 200:
        assert "evil.example" not in answers[0].body.decode()
        assert json.loads(answers[0].body)["HTTP_HOST"] == api.name
    else:
        assert answers[0].status in (*REFUSED, 404)
