"""The one prober reads what servers send as clients do, and asks as clients do."""

import contextlib
import gzip
import socket
import threading

import pytest
from ansible.module_utils.api_endpoint.http import Answer, ask, healthy
from ansible.module_utils.api_endpoint.release.readiness import Request

JSON = b"Content-Type: application/json\r\n"
COOKIES = b"".join(b"Set-Cookie: c%d=1\r\n" % number for number in range(150))


@contextlib.contextmanager
def server(path, answer, *, stays=False):
    """Answer one request with these bytes, and yield the list of requests."""
    seen, done = [], threading.Event()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve():
            connection, _ = listening.accept()
            with connection:
                seen.append(connection.recv(65536).decode())
                connection.sendall(answer)
                if stays:
                    done.wait(10)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield seen
        finally:
            done.set()
            thread.join()


def one(tmp_path, answer, *, stays=False, timeout=10.0, **given):
    with server(tmp_path / "socket", answer, stays=stays) as seen:
        return ask(
            "/", "api.example", unix_socket=str(tmp_path / "socket"), timeout=timeout, **given
        ), seen[0]


def body(content, headers=b""):
    return b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (headers, len(content), content)


def test_of_a_page_the_words_are_said():
    page = "<!doctype html>\n<title>500 Internal</title>\n<p class='a'>The model\nis loading.</p>"
    assert str(Answer(500, page)) == "status 500: '500 Internal The model is loading.'"
    assert str(Answer(500, "1 < 2 > 0")) == "status 500: '1 < 2 > 0'"


@pytest.mark.parametrize(
    ("sent", "status", "text"),
    [
        (body(b"ok", COOKIES), 200, "ok"),
        (body(gzip.compress(b"ok", mtime=0), b"Content-Encoding: gzip\r\n"), 200, "ok"),
        (body(b"no gzip", b"Content-Encoding: gzip\r\n"), 200, "no gzip"),
        (body(b"caf\xe9"), 200, "caf\N{REPLACEMENT CHARACTER}"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, "ok"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok",
            None,
            "IncompleteRead(0 bytes read)",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", 200, "to the end"),
    ],
)
def test_an_answer_is_read_as_clients_read_it(tmp_path, sent, status, text):
    answer, _request = one(tmp_path, sent)
    assert (answer.status, answer.text) == (status, text)


def test_a_stream_of_events_need_not_end_and_another_body_must(tmp_path):
    begun = b"HTTP/1.1 200 OK\r\nContent-Type: text/%s\r\n\r\ndata: 1\n\n"
    stream, _request = one(tmp_path, begun % b"event-stream", stays=True, timeout=5.0)
    assert stream == Answer(200, "data: 1\n\n")
    (tmp_path / "socket").unlink()
    other, _request = one(tmp_path, begun % b"plain", stays=True, timeout=5.0)
    assert other == Answer(None, "timed out: status 200, but its body did not end")


def test_a_redirect_says_where_to(tmp_path):
    answer, _request = one(
        tmp_path, b"HTTP/1.1 301 Moved\r\nLocation: /slash/\r\nContent-Length: 0\r\n\r\n"
    )
    assert str(answer) == "status 301, a redirect to '/slash/': ''"


@pytest.mark.parametrize("name", ["Host", "host", "ACCEPT", "x-forwarded-proto"])
def test_a_header_that_is_given_is_sent_once(tmp_path, name):
    _answer, request = one(tmp_path, body(b""), headers={name: "mine"})
    lines = [line.partition(": ") for line in request.lower().splitlines()]
    assert [value for header, _, value in lines if header == name.lower()] == ["mine"]
    sent = {header for header, _, _value in lines}
    assert sent >= {"host", "accept", "x-forwarded-proto"}


@pytest.mark.parametrize(
    ("status", "is_healthy"), [(103, False), (200, True), (308, True), (404, True), (500, False)]
)
def test_statuses_of_a_healthy_app(status, is_healthy):
    assert healthy(Answer(status, ""), []) is is_healthy
    assert healthy(Answer(status, ""), [status])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("größer", r'{"word": "gr\u00f6\u00dfer"}'),
        ("größer", r'{"word": "gr\u00F6\u00DFer"}'),
        ("größer", '{"word": "größer"}'),
        ("\N{GRINNING FACE}", r'["\ud83d\ude00"]'),
        (r"\u00f6", r'{"word": "\u00f6"}'),
    ],
)
def test_the_text_of_a_smoke_request_is_found_in_json_however_its_letters_are_written(text, answer):
    request = Request.from_plan({"path": "/", "text": text})
    assert request.mismatch(Answer(200, answer)) == ""
    assert "expected: a text with" in request.mismatch(Answer(200, r'{"word": "\u00e4"}'))
