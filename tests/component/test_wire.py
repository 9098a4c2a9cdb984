"""What passes between nginx and the workers: uwsgi, and a WSGI server behind it. wire_app.py does what is asked."""

import concurrent.futures
import http.client
import json
import socket
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from endpoint import running
from outcomes import wait_until
from uwsgi import packet

WIRE = {
    "api_endpoint_wsgi": "wire_app:app",
    "api_endpoint_health_path": "/empty",
    "api_endpoint_request_headers": ["X-Mine"],
}
CLASSES = ["threads", "sync"]


@pytest.fixture(scope="module")
def api():
    with running(**WIRE) as api:
        yield api


@pytest.fixture(scope="module", params=CLASSES)
def any_class(request):
    with running(**WIRE, api_endpoint_worker_class=request.param) as api:
        yield api


@contextmanager
def over_http(api):
    """Let nginx speak HTTP in the block, as to a version that an earlier role has built."""
    mark = api.root / "live" / "uwsgi"
    away = mark.rename(mark.with_name("unknown"))
    try:
        yield
    finally:
        away.rename(mark)


# --- the environ


HOST = "Host: api.wmcloud.org"
REQUESTS = {
    "plain": ("GET /a/b HTTP/1.1", HOST),
    "a query": ("GET /a?b=c&d=e HTTP/1.1", HOST),
    "an empty query": ("GET /a? HTTP/1.1", HOST),
    "two question marks": ("GET /a?b?c HTTP/1.1", HOST),
    "an encoded slash": ("GET /a%2Fb%2fc HTTP/1.1", HOST),
    "encoded twice": ("GET /a%252Fb?c=%252F HTTP/1.1", HOST),
    "encoded UTF-8": ("GET /%C3%BC?%C3%BC=%C3%BC HTTP/1.1", HOST),
    "encoded bytes that are no UTF-8": ("GET /%FF%FE?%FF HTTP/1.1", HOST),
    "an encoded line": ("GET /a%0Ab?c%0Ad HTTP/1.1", HOST),
    "an encoded question mark": ("GET /a%3Fb?c HTTP/1.1", HOST),
    "a plus sign": ("GET /a+b?c+d=e%2Bf HTTP/1.1", HOST),
    "two slashes": ("GET //a//b HTTP/1.1", HOST),
    "a host for a path": ("GET //evil.example/a HTTP/1.1", HOST),
    "dots": ("GET /a/./b/../c HTTP/1.1", HOST),
    "encoded dots": ("GET /a/%2e%2e/c HTTP/1.1", HOST),
    "parameters": ("GET /a;b=c/d;e?f;g HTTP/1.1", HOST),
    "brackets": ('GET /a[b]{c}|d^e`f"<g> HTTP/1.1', HOST),
    "a backslash": ("GET /a\\b HTTP/1.1", HOST),
    "a colon": ("GET /a:b@c HTTP/1.1", HOST),
    "a URL for a path": ("GET /http://x.example/?a=http://y.example/ HTTP/1.1", HOST),
    "a broken escape": ("GET /a?b=%zz&c=% HTTP/1.1", HOST),
    "the absolute form": ("GET http://api.wmcloud.org/a?b HTTP/1.1", HOST),
    "the absolute form without a path": ("GET http://api.wmcloud.org HTTP/1.1", HOST),
    "a long URL": (f"GET /{'a%20' * 900}?{'b' * 3000} HTTP/1.1", HOST),
    "an encoding of ASCII": ("GET /%61%2E%7e HTTP/1.1", HOST),
    "a port": ("GET /a HTTP/1.1", f"{HOST}:8080"),
    "HTTP/1.0": ("GET /a HTTP/1.0", HOST),
    "from https": ("GET /a HTTP/1.1", HOST, "X-Forwarded-Proto: https"),
    "from https, with a port": ("GET /a HTTP/1.1", f"{HOST}:1", "X-Forwarded-Proto: https"),
    "an unknown scheme": ("GET /a HTTP/1.1", HOST, "X-Forwarded-Proto: ftp"),
    "usual headers": (
        "GET /a HTTP/1.1",
        HOST,
        "Accept: */*",
        "Referer: http://x/",
        "Range: bytes=1-",
        "X-Mine: y",
    ),
    "headers in other letters": ("GET /a HTTP/1.1", HOST, "aCCEPT: text/html", "x-MINE: Y"),
    "empty headers": ("GET /a HTTP/1.1", HOST, "Accept:", "Cookie: ", "X-Mine:"),
    "repeated headers": (
        "GET /a HTTP/1.1",
        HOST,
        "X-Mine: a",
        "X-Mine: b",
        "Accept: c",
        "Accept: d",
    ),
    "repeated cookies": ("GET /a HTTP/1.1", HOST, "Cookie: a=1", "Cookie: b=2"),
    "spaces around a value": ("GET /a HTTP/1.1", HOST, "X-Mine:   a b  "),
    "bytes in a header": ("GET /a HTTP/1.1", HOST, "X-Mine: \xff\xc3\xbc"),
    "a long header": ("GET /a HTTP/1.1", HOST, f"Cookie: {'c' * 7000}"),
    "many long headers": (
        "GET /a HTTP/1.1",
        HOST,
        *(f"{name}: {name * 900}" for name in ("Cookie", "Accept", "X-Mine")),
    ),
    "underscores": (
        "GET /a HTTP/1.1",
        HOST,
        "X_Mine: a",
        "Script_Name: /a",
        "HTTP_HOST: evil.example",
    ),
    "names of variables": (
        "GET /a HTTP/1.1",
        HOST,
        "Path-Info: /x",
        "Script-Name: /a",
        "wsgi.url_scheme: x",
        "Https: on",
    ),
    "who called": (
        "GET /a HTTP/1.1",
        HOST,
        "User-Agent: x",
        "X-Forwarded-For: 1.2.3.4",
        "Forwarded: for=1.2.3.4",
    ),
    "no body": ("POST /a HTTP/1.1", HOST, "Content-Length: 0"),
    "a body": ("POST /a HTTP/1.1", HOST, "Content-Length: 3", "Content-Type: text/x", "", "abc"),
    "a body without a type": ("PUT /a HTTP/1.1", HOST, "Content-Length: 3", "", "a\nc"),
    "a body in chunks": (
        "POST /a HTTP/1.1",
        HOST,
        "Transfer-Encoding: chunked",
        "",
        "2",
        "ab",
        "1",
        "c",
        "0",
        "",
        "",
    ),
    "an empty body in chunks": (
        "POST /a HTTP/1.1",
        HOST,
        "Transfer-Encoding: chunked",
        "",
        "0",
        "",
        "",
    ),
    "a body of a GET": ("GET /a HTTP/1.1", HOST, "Content-Length: 3", "", "abc"),
    "a body that is expected": (
        "POST /a HTTP/1.1",
        HOST,
        "Expect: 100-continue",
        "Content-Length: 3",
        "",
        "abc",
    ),
    "another method": ("DELETE /a HTTP/1.1", HOST),
}


def exchange(api, *lines: str) -> tuple[int, bytes]:
    """Send a request as it stands here; return the last answer's status and its body."""
    raw = "\r\n".join(lines).encode("latin-1") + (b"" if "" in lines else b"\r\n\r\n")
    with api.connect() as client:
        client.sendall(raw)
        answer = http.client.HTTPResponse(client, method=lines[0].split()[0])
        with closing(answer):
            answer.begin()
            return answer.status, answer.read()


def told(api, request) -> dict:
    """Return what the app learns of a request."""
    status, body = exchange(api, *request)
    assert status == 200, body
    known = json.loads(body)
    assert known.pop("HTTP_X_REQUEST_START", "t=").startswith("t="), (
        "workers of the class `threads` keep it to themselves"
    )
    return known


@pytest.mark.parametrize("name", REQUESTS)
def test_the_app_learns_the_same_as_by_gunicorns_own_http(any_class, name):
    by_uwsgi = told(any_class, REQUESTS[name])
    with over_http(any_class):
        by_http = told(any_class, REQUESTS[name])
    assert by_uwsgi == by_http


@pytest.mark.parametrize(
    ("sent", "path", "query"),
    [
        ("/ü/é", "/ü/é", ""),
        ("/x?ü=é", "/x", "ü=é"),
        ("/%C3%BC/ü", "/ü/ü", ""),
        ("/日本?q=日本", "/日本", "q=日本"),
    ],
)
def test_urls_in_utf_8_arrive(any_class, sent, path, query):
    sent, path, query = (text.encode().decode("latin-1") for text in (sent, path, query))
    known = told(any_class, (f"GET {sent} HTTP/1.1", HOST))
    assert (known["PATH_INFO"], known["QUERY_STRING"], known["RAW_URI"]) == (path, query, sent)


def test_a_body_is_as_long_as_nginx_says(any_class):
    for size in (1, 32_000, 40_000, 65_536, 700_000):
        body = b"x" * (size - 1) + b"y"
        assert any_class.ask("POST", "/in_pieces", body).body == body
        chunks = iter([body[: size // 2], body[size // 2 :]])
        assert any_class.ask("POST", "/in_pieces", chunks).body == body, "in chunks"


def test_where_the_app_is_mounted(tmp_path):
    with running(**WIRE, api_endpoint_gunicorn_settings={"raw_env": ["SCRIPT_NAME=/v1"]}) as api:
        known = api.get("/v1/a%20b").json
        assert (known["SCRIPT_NAME"], known["PATH_INFO"]) == ("/v1", "/a b")
        assert api.get("/v2").status == 500


# --- answers


def test_answers(api):
    answer = api.get("/with_length")
    assert (answer.status, answer.all("Content-Length"), answer.body) == (200, ["5"], b"hello")
    answer = api.get("/without_length")
    assert (answer.status, answer.all("Transfer-Encoding"), answer.body) == (
        202,
        ["chunked"],
        b"hello",
    )
    for path, body in {
        "/by_write": b"hello",
        "/empty": b"",
        "/large": b"x" * 3_000_000 + b"y" * 100,
    }.items():
        answer = api.get(path)
        assert (answer.status, answer.body) == (200, body), path
    assert api.get("/a_file").body == (Path(__file__).parent / "wire_app.py").read_bytes()
    assert [api.get(path).status for path in ("/no_content", "/not_modified")] == [204, 304]
    assert api.get("/own_date").all("Server") == ["nginx"]


def test_answers_without_a_body(api):
    for path in ("/with_length", "/without_length", "/by_write", "/large"):
        answer = api.ask("HEAD", path)
        assert (answer.status // 100, answer.body) == (2, b""), path
    assert api.ask("HEAD", "/with_length").all("Content-Length") == ["5"]
    for status in ("204+No+Content", "304+Not+Modified"):
        # Whatever came after it would be taken for the next answer.
        raw = f"GET /body_of_none?status={status} HTTP/1.1\r\n{HOST}\r\n\r\n" * 2
        received = api.send(raw.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").encode())
        assert received.startswith(b"HTTP/1.1 " + status[:3].encode())
        assert b"body" not in received


def test_headers(api):
    answer = api.get("/two_cookies")
    assert answer.all("Set-Cookie") == ["a=1", "b=2"]
    assert answer.all("X-Bytes") == ["\xe9!"]
    answer = api.get("/hop_by_hop")
    assert (answer.status, answer.all("Upgrade"), answer.all("Keep-Alive")) == (200, [], [])
    answer = api.get("/change_of_mind")
    assert (answer.status, answer.all("X-First"), answer.all("X-Second")) == (418, [], ["2"])


def test_parts_are_sent_as_they_come(api):
    until = api.root / "until"
    with api.connect() as client:
        client.sendall(
            f"GET /as_it_comes?until={until} HTTP/1.1\r\n{HOST}\r\nConnection: close\r\n\r\n".encode()
        )
        received = b""
        while b"first" not in received:
            received += client.recv(65536)
        assert b"second" not in received
        until.touch()
        while more := client.recv(65536):
            received += more
    assert b"second" in received


def test_bodies_are_read_in_any_way(api):
    lines = b"one\ntwo two\n" + b"x" * 100_000 + b"\nlast"
    assert api.ask("POST", "/in_lines", lines).body == lines.replace(
        b"one\ntwo", b"one\n|two|"
    ).replace(b" two\n", b" two\n|").replace(b"x\n", b"x\n|")
    for size in (10, 900_000):
        assert api.ask("POST", "/unread", b"x" * size).body == b"never read"
        assert len(api.ask("POST", "/large", b"x" * size).body) == 3_000_100, (
            "neither waits for the other"
        )


def test_an_app_can_write_to_the_log(api):
    assert api.get("/to_the_log").status == 200
    assert "a word to wsgi.errors\n" in api.app_errors()


BAD = {
    "a line in a value": "headers?status=200+OK&name=X-A&value=b%0D%0AX-B:+c",
    "a line feed in a value": "headers?status=200+OK&name=X-A&value=b%0AX-B:+c",
    "a carriage return in a value": "headers?status=200+OK&name=X-A&value=b%0Dc",
    "a NUL in a value": "headers?status=200+OK&name=X-A&value=b%00c",
    "beyond Latin-1 in a value": "headers?status=200+OK&name=X-A&value=%E6%97%A5",
    "a line in a name": "headers?status=200+OK&name=X-A:+b%0D%0AX-B&value=c",
    "a space in a name": "headers?status=200+OK&name=X+A&value=c",
    "a colon in a name": "headers?status=200+OK&name=X:A&value=c",
    "a line in a status": "headers?status=200+OK%0D%0AX-B:+c&name=X-A&value=c",
    "a NUL in a status": "headers?status=200+O%00K&name=X-A&value=c",
    "a status of two digits": "headers?status=20+OK&name=X-A&value=c",
    "a status that is no end": "headers?status=101+Switching&name=X-A&value=c",
    "a length that is none": "headers?status=200+OK&name=Content-Length&value=1_0",
    "a negative length": "headers?status=200+OK&name=Content-Length&value=-1",
    "header of bytes": "header_of_bytes",
    "text": "text",
    "no start": "no_start",
    "two starts": "two_starts",
    "an error of the system": "failing",
}


@pytest.mark.parametrize("name", BAD)
def test_an_app_that_breaks_the_rules_gets_a_500(api, name):
    answer = api.get(f"/{BAD[name]}")
    assert answer.status == 500
    assert not {"x-a", "x-b"} & {header.lower() for header, _ in answer.headers}
    wait_until(
        lambda: f"Error handling request GET /{BAD[name]}\n" in api.app_errors(),
        "the error is in the log",
    )


def test_no_more_is_sent_than_announced(api):
    assert api.get("/too_much").body == b"four"


@pytest.mark.parametrize("how", ["fail", "exc_info", "leave", "kill"])
@pytest.mark.parametrize("length", ["none", "50000"])
@pytest.mark.parametrize("size", [10, 30_000])
@pytest.mark.parametrize("body", [0, 3, 300_000])
def test_half_an_answer_is_not_taken_for_a_whole_one(api, how, length, size, body):
    if length != "none" and body > 3:
        length = str(int(length) + body)
    for kept in ("keep-alive", "close"):
        with pytest.raises(
            (http.client.IncompleteRead, ConnectionResetError, http.client.RemoteDisconnected)
        ):
            api.ask(
                "POST",
                f"/cut_off?how={how}&bytes={size}&length={length}",
                b"z" * body,
                {"Connection": kept},
            )


def test_every_iterable_is_closed(api):
    def closed():
        file = api.root / "closed"
        return file.read_text().count("closed") if file.exists() else 0

    before = closed()
    for path in ("/without_length", "/text"):
        api.get(path)
    api.ask("HEAD", "/without_length")
    wait_until(lambda: closed() == before + 3, "three iterables are closed")


def test_a_client_that_leaves_costs_nothing_and_says_nothing(api):
    errors = api.app_errors()
    for path in ("/large", "/in_pieces"):
        for _ in range(20):
            with api.connect() as client:
                client.sendall(
                    f"POST {path} HTTP/1.1\r\n{HOST}\r\nContent-Length: 100000\r\n\r\n".encode()
                    + b"x" * 50_000
                )
    assert api.get("/with_length").body == b"hello"
    assert "Error handling" not in api.app_errors()[len(errors) :]


# --- the wire


def direct(api, *pieces: bytes) -> bytes:
    """Send bytes to the workers, piece by piece; return what comes."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(api.root / "live" / "gunicorn.sock"))
        for piece in pieces:
            client.sendall(piece)
            time.sleep(0.05 * (len(pieces) > 1))
        client.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while more := client.recv(65536):
                received += more
        except ConnectionResetError:
            return received
        return received


def test_a_packet_in_pieces_is_one_request(api):
    whole = packet(
        "/in_pieces", REQUEST_METHOD="POST", CONTENT_LENGTH="10", HTTP_COOKIE="c" * 60_000
    )
    for pieces in (
        [whole + b"0123456789"],
        [whole, b"0123456789"],
        [whole[:2], whole[2:100], whole[100:] + b"01234", b"56789"],
        [whole[:-1], whole[-1:], *(b"%d" % number for number in range(10))],
    ):
        assert direct(api, *pieces).partition(b"\r\n\r\n")[2] == b"0123456789", [
            len(piece) for piece in pieces
        ]


NONSENSE = {
    "a length beyond the end": packet(CONTENT_LENGTH="5").replace(b"\x01\x005", b"\xff\xff5"),
    "a block that ends in a length": packet()[:1]
    + (len(packet()) - 3).to_bytes(2, "little")
    + packet()[3:]
    + b"\1",
    "an empty block": packet(size=0)[:4],
    "no method": packet(REQUEST_METHOD=None),
    "no host": packet(HTTP_HOST=None),
    "a length that is none": packet(CONTENT_LENGTH="1_0"),
    "a negative length": packet(CONTENT_LENGTH="-1"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_rejected_and_not_quoted(api, name):
    before, lines = api.app_errors(), len(api.app_lines())
    assert b"200 OK" not in direct(api, NONSENSE[name].replace(b"with_length", b"quoted-word"))
    wait_until(
        lambda: "Rejected a malformed request." in api.app_errors()[len(before) :],
        "the log says so",
    )
    assert "quoted-word" not in api.app_errors()
    assert len(api.app_lines()) == lines


CUT_OFF = [b"", b"\0", packet()[:3], packet()[:-1], packet(size=0xFFFF)]


@pytest.mark.parametrize("sent", CUT_OFF)
def test_a_request_that_is_cut_off_is_none(api, sent):
    before = api.app_errors()
    assert b"200 OK" not in direct(api, sent)
    assert api.get("/with_length").body == b"hello"
    assert api.app_errors() == before


def test_half_a_body_is_not_taken_for_a_whole_one(api):
    head = packet("/in_pieces", REQUEST_METHOD="POST", CONTENT_LENGTH="9")
    assert b"200 OK" not in direct(api, head + b"abc")


@pytest.mark.parametrize("worker_class", CLASSES)
def test_people_may_use_http(worker_class):
    with running(**WIRE, api_endpoint_worker_class=worker_class) as api:
        asked = f"GET /without_length HTTP/1.1\r\n{HOST}\r\nConnection: close\r\n\r\n"
        assert b"he" in direct(api, asked.encode())
        assert direct(api, b"\x16\x03\x01\0nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert "nonsense" not in api.app_errors()


# --- from one to the other


def test_the_versions_word_has_the_permissions_of_its_socket(api):
    """The role's permissions of the folder are the same for all in it; a run would repair others."""
    assert (
        (api.root / "uwsgi").stat().st_mode & 0o777
        == 0o770
        == (api.root / "live/gunicorn.sock").stat().st_mode & 0o777
    )


def test_a_version_without_uwsgi_is_served_over_http(api):
    with over_http(api):
        assert api.get("/with_length").body == b"hello"
        assert api.ask("POST", "/in_pieces", b"x" * 100_000).body == b"x" * 100_000
        assert api.get("/%C3%BC").json["PATH_INFO"] == "/Ã¼"
        with api.stopped_app():
            answer = api.get("/with_length")
            assert (answer.status, answer.json["error"]["status"]) == (502, 502)
        assert (
            api.answer_to("POST / HTTP/1.1", "Content-Length: 1048577").json["error"]["status"]
            == 413
        )


def test_a_request_that_was_sent_is_not_sent_again_when_the_link_is_turned(api):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        answer = pool.submit(api.get, f"/die?until={api.root}/time-to-die")
        wait_until((api.root / "called").exists, "the app is called")
        with over_http(api):
            (api.root / "time-to-die").touch()
            assert answer.result().status == 502
    assert not (api.root / "called-twice").exists()


@pytest.mark.parametrize("to_http", [True, False])
def test_a_request_goes_on_when_the_link_is_turned_before_nginx_connects(api, to_http):
    """nginx looks for the language, waits for the body, then connects."""
    mark, away = api.root / "live" / "uwsgi", api.root / "live" / "unknown"
    if not to_http:
        mark.rename(away)
    try:
        with api.connect() as client:
            head = f"POST /in_pieces HTTP/1.1\r\n{HOST}\r\nConnection: close\r\nContent-Length: 4\r\n\r\n"
            client.sendall(head.encode() + b"ab")
            time.sleep(0.3)
            mark.rename(away) if to_http else away.rename(mark)
            client.sendall(b"cd")
            received = b"".join(iter(lambda: client.recv(65536), b""))
    finally:
        if to_http:
            away.rename(mark)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nabcd" in received
