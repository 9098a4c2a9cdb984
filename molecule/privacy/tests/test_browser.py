"""What a page of another origin can read, in a real browser: status and body of every kind of answer."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import Browser, Seen

SCENARIO = Path(__file__).resolve().parents[1]
API = "http://privacy.wmcloud.org"
UNKNOWN = "unknown.example"
PAGE = "http://page.example"
OTHER_PAGE = "http://other.example"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def browser(api) -> Iterator[Browser]:
    """Return a browser that shows a page of another origin."""
    with Browser({api.name: api.port, UNKNOWN: api.port}) as browser:
        yield browser


@pytest.fixture
def stopped(api) -> Iterator[None]:
    """Stop the app."""
    api.host.check_output(f"systemctl stop {api.unit}")
    yield
    api.host.check_output(f"systemctl start {api.unit}")
    api.wait_until_it_answers("/readyz")


@pytest.fixture(scope="module")
def restricted(api, playbook, on_one_host) -> Iterator[None]:
    """Let pages of one origin read, with cookies, and let nothing be changed; then have it as it was."""

    def run(**variables):
        given = {f"api_endpoint_{name}": value for name, value in variables.items()}
        run = playbook("-e", f"@{SCENARIO / 'vars.yml'}", "-e", json.dumps(given), "--tags", "nginx")
        assert run.status == 0, run.output

    # With cookies, browsers want each header by its name.
    run(cors_origins=[PAGE], cors_credentials=True, methods=["GET", "HEAD"], request_headers=["X-Custom"])
    yield
    run()


@contextlib.contextmanager
def meanwhile(action: Callable[[int], None], *, first: int, most: int) -> Iterator[None]:
    """Do something again and again, `first` times before the block and `most` times in all at the most."""
    stopped, ready = threading.Event(), threading.Event()

    def work() -> None:
        for number in range(most):
            if stopped.is_set():
                break
            action(number)
            if number == first:
                ready.set()
            if number > first:
                stopped.wait(0.002)
        ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert ready.wait(60)
        yield
    finally:
        stopped.set()
        thread.join()


def assert_read(seen: Seen, status: int, message: str = "") -> None:
    """The page could read an answer; `message` is a part of what nginx says in its own errors."""
    assert not seen.error, seen
    assert seen.status == status, seen
    assert seen.body, seen
    if message:
        assert seen.header("Content-Type") == "application/json"
        assert seen.json["error"]["status"] == status
        assert message in seen.json["error"]["message"]


def asked_until(browser: Browser, status: int, path: str, headers: dict[str, str] | None = None) -> Seen:
    """Ask until the status is this one, since some requests of many get through; not often."""
    for number in range(20):
        seen = browser.fetch("GET", f"{API}{path}?{number}", headers)
        if seen.status == status:
            break
    return seen


def test_an_answer(browser):
    seen = browser.fetch("GET", f"{API}/readyz")
    assert_read(seen, 200)
    assert seen.json["status"] == "ready"


def test_headers_of_the_app(browser):
    assert browser.fetch("GET", f"{API}/headers?X-Model=7").header("X-Model") == "7"


@pytest.mark.parametrize("status", [400, 404, 405, 413, 429, 500, 502, 503, 504])
def test_errors_of_the_app(browser, status):
    seen = browser.fetch("GET", f"{API}/status/{status}")
    assert_read(seen, status)
    assert seen.json["error"] == {"status": status, "message": "as asked"}


def test_a_bug(browser):
    assert_read(browser.fetch("GET", f"{API}/traceback"), 500)


def test_a_method_that_the_app_does_not_know(browser):
    seen = browser.fetch("PUT", f"{API}/readyz", JSON, "{}")
    assert_read(seen, 405)
    assert "GET" in seen.header("Allow")


@pytest.mark.parametrize(
    ("method", "url", "headers", "size", "status", "message"),
    [
        ("GET", f"{API}/%00", {}, 0, 400, "malformed"),
        ("GET", f"http://{UNKNOWN}/", {}, 0, 404, "no API of that name"),
        ("POST", f"{API}/echo", {}, 1_100_000, 413, "too large"),
        ("POST", f"{API}/echo", JSON, 30_000_000, 413, "too large"),
        ("GET", f"{API}/?{'a' * 10_000}", {}, 0, 414, "too long"),
        ("GET", f"{API}/", {"X-Long": "a" * 10_000}, 0, 431, "too large"),
    ],
    ids=["400", "404", "413", "413 much", "414", "431"],
)
def test_errors_of_nginx(browser, method, url, headers, size, status, message):
    assert_read(browser.fetch(method, url, headers, "x" * size if size else None), status, message)


def test_an_app_that_takes_too_long(api, browser):
    with api.held_still():
        seen = browser.fetch("GET", f"{API}/readyz")
    assert_read(seen, 504, "too long")


def test_the_app_is_down(browser, stopped):
    assert_read(browser.fetch("GET", f"{API}/readyz"), 502, "not running")
    assert_read(browser.fetch("POST", f"{API}/echo?down", {**JSON, "X-Custom": "1"}, "{}"), 502, "not running")


def test_the_api_is_busy(browser, api):
    crowd: list[socket.socket] = []

    def join(_number: int) -> None:
        crowd.append(socket.create_connection(("127.0.0.1", api.port), timeout=5))
        crowd[-1].sendall(f"GET /sleep?seconds=1 HTTP/1.1\r\nHost: {api.name}\r\n\r\n".encode())

    try:
        with meanwhile(join, first=150, most=1000):
            seen = asked_until(browser, 503, "/readyz")
    finally:
        for client in crowd:
            client.close()
    api.wait_until_it_answers("/readyz")
    assert_read(seen, 503, "busy")
    assert int(seen.header("Retry-After")) > 0


def test_a_client_asks_too_often(browser, api):
    client = {"X-Forwarded-For": "198.51.100.29"}
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=15)

    def ask(_number: int) -> None:
        connection.request("GET", "/readyz", headers={"Host": api.name, **client})
        connection.getresponse().read()

    with contextlib.closing(connection), meanwhile(ask, first=500, most=4000):
        seen = asked_until(browser, 429, "/readyz", client)
    assert_read(seen, 429, "too")
    assert int(seen.header("Retry-After")) > 0
    # Another client is another client.
    assert_read(browser.fetch("GET", f"{API}/readyz?seldom", {"X-Forwarded-For": "198.51.100.30"}), 200)


@pytest.mark.parametrize("headers", [JSON, {**JSON, "X-Custom": "1"}, {**JSON, "Authorization": "Bearer x"}])
def test_a_request_that_needs_a_preflight(browser, api, headers):
    path = f"/echo?{len(headers)}{'Authorization' in headers}"
    seen = browser.fetch("POST", f"{API}{path}", headers, '{"text": "hello"}')
    assert_read(seen, 200)
    assert seen.json == {"text": "hello"}
    # There was one: this browser asks before it sends.
    assert api.host.run(f"grep -F 'OPTIONS {path} HTTP' /var/log/nginx/access.log").rc == 0


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_other_methods(browser, method):
    assert_read(browser.fetch(method, f"{API}/environ", JSON, "{}"), 200)


def test_no_page_may_send_cookies(browser):
    assert "Failed to fetch" in browser.fetch("GET", f"{API}/readyz", credentials="include").error


def test_the_page_of_a_chosen_origin_reads_and_no_other(browser, restricted):
    # Of the app, and of nginx. Not among them: what is too broken for nginx to know of which API it is an answer.
    questions = [("GET", f"{API}/readyz", 200), ("GET", f"{API}/status/503", 503), ("POST", f"{API}/echo", 405)]
    for credentials in ("omit", "include"):
        for method, url, status in questions:
            assert_read(browser.fetch(method, url, credentials=credentials), status)
        assert_read(browser.fetch("GET", f"{API}/readyz?asked", {"X-Custom": "1", **JSON}, credentials=credentials), 200)
    browser.open(OTHER_PAGE)
    try:
        for method, url, _status in questions:
            assert "Failed to fetch" in browser.fetch(method, url).error
        assert "Failed to fetch" in browser.fetch("GET", f"{API}/readyz?asked", {"X-Custom": "1"}).error
    finally:
        browser.open(PAGE)


def test_a_method_that_nginx_refuses(browser, restricted):
    # text/plain, as a form sends it, needs no preflight.
    assert_read(browser.fetch("POST", f"{API}/echo", {"Content-Type": "text/plain"}, "x"), 405, "not allowed")
    # Other methods need one, and are refused by it.
    assert "Failed to fetch" in browser.fetch("DELETE", f"{API}/environ").error
