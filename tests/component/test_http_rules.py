"""Tools of others judge what nginx answers (httplint) and how it is configured (gixy)."""

import json
import socket
import subprocess

import pytest
from endpoint import program, running, silent_app
from httplint import HttpResponseLinter, levels
from outcomes import Answer

# docs/guides/security.md says why each of these stands.
GIXY_EXPLAINED: set[str] = set()
HTTPLINT_EXPLAINED = (
    "CORS headers are only allowed in preflight responses.",  # it is not told that this answers a preflight
    "The server won't accept a URI this long .",  # the status means that
    "The request HTTP version isn't supported.",  # the status means that
)


@pytest.fixture(scope="module")
def api():
    with running() as api:
        yield api


def offences(answer: Answer) -> list[str]:
    """Return the rules of HTTP that an answer breaks."""
    linter = HttpResponseLinter()
    linter.process_response_topline(b"1.1", str(answer.status).encode(), b"")
    linter.process_headers([(name.encode(), value.encode()) for name, value in answer.headers])
    linter.feed_content(answer.body)
    linter.finish_content(True)
    assert linter.notes, "httplint has looked at nothing"
    notes = [*linter.notes, *(inner for note in linter.notes for inner in note.subnotes)]
    bad = [str(note.summary) for note in notes if note.level is levels.BAD]
    return [said for said in bad if not said.startswith(HTTPLINT_EXPLAINED)]


@pytest.mark.parametrize(
    ("line", "header", "status"),
    [
        ("GET /readyz HTTP/1.1", "Accept: */*", 200),
        ("POST /echo HTTP/1.1", "Content-Length: 0", 200),
        ("OPTIONS /echo HTTP/1.1", "Access-Control-Request-Method: POST", 204),
        ("GET /status/400 HTTP/1.1", "Accept: */*", 400),
        ("GET /status/404 HTTP/1.1", "Accept: */*", 404),
        ("GET /%00 HTTP/1.1", "Accept: */*", 400),
        ("GET /traceback HTTP/1.1", "Accept: */*", 500),
        ("TRACE / HTTP/1.1", "Accept: */*", 405),
        ("BREW / HTTP/1.1", "Accept: */*", 405),
        ("POST /echo HTTP/1.1", "Content-Length: 99999999", 413),
        (f"GET /{'a' * 10_000} HTTP/1.1", "Accept: */*", 414),
        ("GET / HTTP/1.1", f"X-Long: {'a' * 10_000}", 431),
        ("GET / HTTP/1.1", "Transfer-Encoding: gzip", 501),
        ("GET / HTTP/2.0", "Accept: */*", 505),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_answers_keep_to_the_rules_of_http(api, line, header, status):
    answer = api.answer_to(line, header)
    assert (answer.status, offences(answer)) == (status, [])


def test_answers_without_an_app_keep_to_the_rules_of_http(api):
    unknown = api.get("/", {"Host": "unknown.example"})
    assert (unknown.status, offences(unknown)) == (404, [])
    with api.stopped_app():
        down = api.get("/")
    assert (down.status, offences(down)) == (502, [])
    with silent_app() as silent:
        late = silent.get("/")
    assert (late.status, offences(late)) == (504, [])


def test_the_parts_of_a_stream_arrive_as_they_are_made(api, tmp_path):
    with socket.create_connection(("127.0.0.1", api.port), timeout=20) as connection:
        connection.sendall(
            f"GET /parts?in={tmp_path} HTTP/1.1\r\nHost: {api.name}\r\nConnection: close\r\n\r\n".encode()
        )
        with connection.makefile("rb") as answer:
            begun = (
                b"".join(iter(answer.readline, b"5\r\n")) + answer.readline()
            )  # up to the first part
            (tmp_path / "release").touch()
            rest = answer.read()
    assert begun.endswith(b"\r\n\r\nfirst\r\n")
    assert b"last" in rest
    assert b"x-accel" not in begun.lower()


def test_httplint_finds_a_broken_rule(api):
    assert offences(api.get("/headers?Cache-Control=max-age=1,max-age=x"))


@pytest.fixture(scope="module")
def effective(api) -> str:
    """Return nginx's whole configuration, as nginx reads it."""
    shown = subprocess.run(
        [program("nginx"), "-T", "-p", str(api.folder), "-c", f"{api.folder}/nginx.conf", "-e", "stderr"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return shown.stdout


def gixy(configuration: str, path) -> list[dict]:
    """Return gixy's findings in a configuration."""
    path.write_text(configuration)
    # Not told nginx's version: it knows which versions have which holes, and not what Debian has repaired.
    run = subprocess.run(
        ["gixy", "--format", "json", str(path)], capture_output=True, text=True, check=False
    )
    return json.loads(run.stdout)


def test_gixy_finds_nothing_in_the_configuration(effective, tmp_path):
    findings = gixy(effective, tmp_path / "nginx.conf")
    assert {finding["plugin"] for finding in findings} <= GIXY_EXPLAINED, json.dumps(
        findings, indent=1
    )


def test_gixy_finds_a_planted_fault(effective, tmp_path):
    planted = effective.replace("return 404;", "return 302 http://$host$uri;")
    assert "http_splitting" in {
        finding["plugin"] for finding in gixy(planted, tmp_path / "nginx.conf")
    }
