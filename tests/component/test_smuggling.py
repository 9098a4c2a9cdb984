"""Requests that two programs might cut differently: nginx refuses each, or the app gets one whole request."""

import concurrent.futures
import contextlib
import http.client
import itertools
import json
import re
from dataclasses import dataclass, field

import pytest
from ansible.module_utils.api_endpoint.privacy.corpus import ADDRESS_HEADERS, AGENT_HEADERS
from endpoint import running
from outcomes import wait_until

REFUSED = (400, 405, 413, 414, 431, 501, 505)
HOST = b"Host: api.wmcloud.org\r\n"
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
    "TE.CL": POST
    + CHUNKED
    + b"Content-Length: 4\r\n\r\n%x\r\n" % len(HIDDEN)
    + HIDDEN
    + b"\r\n"
    + END,
    "two lengths": POST + b"Content-Length: 0\r\n" + length(HIDDEN) + b"\r\n" + HIDDEN,
    "the same length twice": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\nab",
    "length with a sign": POST + b"Content-Length: +2\r\n\r\nab",
    "negative length": POST + b"Content-Length: -1\r\n\r\nab",
    "hexadecimal length": POST + b"Content-Length: 0x2\r\n\r\nab",
    "length with an underscore": POST + b"Content-Length: 1_0\r\n\r\nab",
    "length beyond 64 bits": POST + b"Content-Length: 18446744073709551618\r\n\r\nab",
    "space before a length's colon": POST + b"Content-Length : 2\r\n\r\nab",
    "space before TE's colon": POST
    + length(END + HIDDEN)
    + b"Transfer-Encoding : chunked\r\n\r\n"
    + END
    + HIDDEN,
    "TE xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + END + HIDDEN,
    "TE chunked, identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + END + HIDDEN,
    "TE identity": POST + b"Transfer-Encoding: identity\r\n" + length(HIDDEN) + b"\r\n" + HIDDEN,
    "TE after a tab": POST + b"Transfer-Encoding:\tchunked\r\n\r\n" + END + HIDDEN,
    "TE after a vertical tab": POST
    + b"Transfer-Encoding: \x0bchunked\r\n"
    + length(END + HIDDEN)
    + b"\r\n"
    + END
    + HIDDEN,
    "TE in quotes": POST + b'Transfer-Encoding: "chunked"\r\n\r\n' + END + HIDDEN,
    "TE twice": POST + CHUNKED + CHUNKED + b"\r\n" + END + HIDDEN,
    "TE chunked and identity": POST
    + CHUNKED
    + b"Transfer-Encoding: identity\r\n\r\n"
    + END
    + HIDDEN,
    "TE on a folded line": POST
    + b"Transfer-Encoding:\r\n chunked\r\n"
    + length(END + HIDDEN)
    + b"\r\n"
    + END
    + HIDDEN,
    "TE in HTTP/1.0": POST.replace(b"1.1", b"1.0")
    + CHUNKED
    + b"Connection: keep-alive\r\n\r\n"
    + END
    + HIDDEN,
    "a folded line": GET + b"Accept: a\r\n b\r\n\r\n",
    "a fold before the first header": b"GET /environ HTTP/1.1\r\n " + HOST + HOST + b"\r\n",
    "a bare CR in a header": GET + b"Accept: a\rContent-Length: 5\r\n\r\n",
    "a NUL in a header": GET + b"Accept: a\x00b\r\n\r\n",
    "a NUL in the request line": b"GET /environ\x00 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a space in the request line": b"GET /environ HTTP/1.1 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a method in small letters": b"get /environ HTTP/1.1\r\n" + HOST + b"\r\n",
    "an upgrade to WebSocket": POST
    + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    + length(HIDDEN)
    + b"\r\n"
    + HIDDEN,
    "two hosts": GET + b"Host: evil.example\r\n\r\n",
    "no host": b"GET /environ HTTP/1.1\r\n\r\n",
    "a path in the host": b"GET /environ HTTP/1.1\r\nHost: api.wmcloud.org/evil\r\n\r\n",
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
    "Connection names the length": (
        b"Connection: Content-Length\r\nContent-Length: 2\r\n\r\nab",
        b"ab",
    ),
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
}


@pytest.fixture(scope="module")
def api():
    with running() as api:
        yield api


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
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        size = int(headers.get("content-length", 0))
        answers.append(Received(int(first.split()[1]), headers, stream[:size]))
        stream = stream[size:]
    return answers


def send(api, raw: bytes, mark: str = "behind") -> list[Received]:
    """Send a request, and behind it, over the same connection, an honest one; return all answers."""
    honest = b"GET /headers?X-Answer=%b HTTP/1.1\r\n%bConnection: close\r\n\r\n" % (
        mark.encode(),
        HOST,
    )
    return cut(api.send(raw + honest))


@contextlib.contextmanager
def reaches_the_app(api, *expected: str):
    """In the block just these requests reach the app, whatever their order."""
    before, errors = len(api.app_lines()), api.app_errors()
    yield
    # What came before it is in the log no later than this one.
    assert api.get("/headers?X-Answer=last").status == 200
    wanted = sorted([*expected, "GET /headers?X-Answer=last"])

    def logged():
        return sorted(re.findall(r'"(\w+ \S+) HTTP', "\n".join(api.app_lines()[before:])))

    wait_until(lambda: len(logged()) >= len(wanted), f"{len(wanted)} lines in gunicorn's log")
    assert logged() == wanted
    assert api.app_errors() == errors, "gunicorn refused a request that nginx had let through"


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_request_is_refused_with_all_that_follows_it(api, name):
    with reaches_the_app(api):
        answers = send(api, BAD[name])
    assert len(answers) == 1, answers
    assert answers[0].status in REFUSED, answers
    assert json.loads(answers[0].body)["error"]["status"] == answers[0].status, answers
    assert answers[0].headers["connection"] == "close", answers


@pytest.mark.parametrize("name", WHOLE)
def test_a_strange_request_is_one_request(api, name):
    raw, body = WHOLE[name]
    with reaches_the_app(api, "POST /echo", "GET /headers?X-Answer=behind"):
        first, behind = send(api, POST + raw)
    assert (first.status, first.body) == (200, body)
    assert (behind.status, behind.headers["x-answer"]) == (200, "behind")


def test_no_client_gets_the_answer_to_the_request_of_another(api):
    """Honest clients, some over connections that they keep, while others send all of the above."""

    def honest(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=60)
        for turn in range(20):
            mark = f"honest-{number}-{turn}"
            path = f"/headers?X-Answer={mark}" if turn % 2 else "/echo"
            connection.request("POST", path, mark, {"Host": api.name})
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == (405 if turn % 2 else 200), (answer.status, body)
            assert turn % 2 or body == mark.encode()
        connection.close()

    def dishonest(number: int, raw: bytes) -> None:
        for answer in send(api, raw, f"behind-{number}"):
            assert answer.headers.get("x-answer", f"behind-{number}") == f"behind-{number}"

    requests = [*BAD.values(), *(POST + raw for raw, _body in WHOLE.values())]
    # Fewer threads than the endpoint takes requests at a time.
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        work = [
            pool.submit(dishonest, *pair) for pair in enumerate(itertools.chain(*[requests] * 3))
        ]
        work += [pool.submit(honest, number) for number in range(20)]
        for done in concurrent.futures.as_completed(work):
            done.result()


@pytest.mark.parametrize(
    "request_head",
    [
        "GET http://api.wmcloud.org/environ HTTP/1.1\r\nHost: evil.example",
        "GET /environ HTTP/1.1\r\nHost: api.wmcloud.org:evil.example",
        "GET /environ HTTP/1.1\r\nHost: api.wmcloud.org\r\nX-Forwarded-Host: evil.example",
        "GET /environ HTTP/1.1\r\nHost: api.wmcloud.org\r\nForwarded: host=evil.example",
        "GET /environ HTTP/1.1\r\nHost: api.wmcloud.org\r\nScript-Name: /evil.example\r\nPath-Info: /evil.example",
        "GET /environ HTTP/1.1\r\nHost: api.wmcloud.org\r\nSCRIPT_NAME: /evil.example",
    ],
    ids=["absolute form", "port", "X-Forwarded-Host", "Forwarded", "Script-Name", "underscore"],
)
def test_the_app_learns_no_other_host_name(api, request_head):
    answers = send(api, request_head.encode() + b"\r\n\r\n")
    # nginx may refuse it.
    if answers[0].status == 200:
        assert "evil.example" not in answers[0].body.decode()
        assert json.loads(answers[0].body)["HTTP_HOST"] == api.name
    else:
        assert answers[0].status in (*REFUSED, 404)


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_the_app_learns_nothing_of_the_caller(api, scheme):
    address, agent = "203.0.113.77", "marked-user-agent/7.7"
    chosen = (
        "Cookie",
        "Authorization",
        "X-Requested-With",
    )  # what a client tells the app on purpose
    headers = dict.fromkeys(ADDRESS_HEADERS, address)
    headers |= {name: agent for name in (*AGENT_HEADERS, "User-Agent") if name not in chosen}
    headers |= {name.replace("-", "_"): value for name, value in headers.items()}
    known = api.get("/environ", {**headers, "X-Forwarded-Proto": scheme}).json
    told = {name for name, value in known.items() if address in str(value) or agent in str(value)}
    assert told == set()
    assert "127.0.0.1" not in json.dumps(known)
    assert known["HTTP_X_FORWARDED_PROTO"] == known["wsgi.url_scheme"] == scheme
