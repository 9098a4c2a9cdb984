"""What a page of another origin can read, in a real browser: status and body of every kind of answer."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from browser import Browser, Seen
from endpoint import running, silent_app
from outcomes import wait_until

UNKNOWN = "unknown.example"
PAGE = "http://page.example"
OTHER_PAGE = "http://other.example"
JSON = {"Content-Type": "application/json"}
API, SILENT, RESTRICTED = (f"http://{name}.wmcloud.org" for name in ("api", "silent", "restricted"))


@pytest.fixture(scope="module")
def api():
    with running("api.wmcloud.org") as api:
        yield api


@pytest.fixture(scope="module")
def restricted(api):
    """Pages of one origin may read, with cookies; with cookies, browsers want each header by its name."""
    with api.beside(
        "restricted.wmcloud.org",
        api_endpoint_cors_origins=[PAGE],
        api_endpoint_cors_credentials=True,
        api_endpoint_methods=["GET", "HEAD"],
        api_endpoint_request_headers=["X-Custom"],
    ) as restricted:
        yield restricted


@pytest.fixture(scope="module")
def browser(api, restricted):
    """Return a browser that shows a page of another origin."""
    with silent_app() as silent:
        names = {endpoint.name: endpoint.port for endpoint in (api, silent, restricted)}
        with Browser({**names, UNKNOWN: api.port}) as browser:
            yield browser


def assert_read(seen: Seen, status: int, message: str = "") -> None:
    """The page could read an answer; `message` is a part of what nginx says in its own errors."""
    assert not seen.error, seen
    assert seen.status == status, seen
    assert seen.body, seen
    if message:
        assert seen.header("Content-Type") == "application/json"
        assert seen.json["error"]["status"] == status
        assert message in seen.json["error"]["message"]


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


def test_an_app_that_takes_too_long(browser):
    assert_read(browser.fetch("GET", f"{SILENT}/readyz"), 504, "too long")


def test_the_app_is_down(browser, api):
    with api.stopped_app():
        assert_read(browser.fetch("GET", f"{API}/readyz"), 502, "not running")
        seen = browser.fetch("POST", f"{API}/echo?down", {**JSON, "X-Custom": "1"}, "{}")
    assert_read(seen, 502, "not running")


def test_the_api_is_busy(browser, api):
    with api.held() as held, ThreadPoolExecutor(16) as pool:
        # All places that the endpoint has.
        answers = [pool.submit(api.get, held.path) for _ in range(16)]
        held.wait_for(16)
        seen = browser.fetch("GET", f"{API}/readyz")
        held.release()
        assert {answer.result().status for answer in answers} == {200}
    assert_read(seen, 503, "busy")
    assert int(seen.header("Retry-After")) > 0
    wait_until(lambda: api.get("/readyz").status == 200, "there is a place again")


def test_a_client_asks_too_often(browser):
    client = {"X-Forwarded-For": "198.51.100.29"}
    # Three at once and one a second are let through.
    for _ in range(60):
        seen = browser.fetch("GET", f"{API}/readyz", client)
        if seen.status == 429:
            break
    assert_read(seen, 429, "Too many requests.")
    assert int(seen.header("Retry-After")) > 0
    # Another client is not limited by that.
    assert_read(browser.fetch("GET", f"{API}/readyz", {"X-Forwarded-For": "198.51.100.30"}), 200)


@pytest.mark.parametrize(
    "headers", [JSON, {**JSON, "X-Custom": "1"}, {**JSON, "Authorization": "Bearer x"}], ids=list
)
def test_a_request_that_needs_a_preflight(browser, api, headers):
    path = f"/echo?{'-'.join(headers)}"
    seen = browser.fetch("POST", f"{API}{path}", headers, '{"text": "hello"}')
    assert_read(seen, 200)
    assert seen.json == {"text": "hello"}
    # The browser asked before it sent.
    asked = re.compile(f"OPTIONS {re.escape(path)} HTTP")
    wait_until(lambda: asked.search("\n".join(api.lines())), "the preflight is in nginx's log")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_other_methods(browser, method):
    assert_read(browser.fetch(method, f"{API}/environ", JSON, "{}"), 200)


def test_no_page_may_send_cookies(browser):
    assert "Failed to fetch" in browser.fetch("GET", f"{API}/readyz", credentials="include").error


def test_a_page_of_an_allowed_origin_reads_and_no_other(browser):
    # Of the app, and of nginx. Not among them: what is too broken for nginx to know of which API it is an answer.
    questions = [
        ("GET", f"{RESTRICTED}/readyz", 200),
        ("GET", f"{RESTRICTED}/status/503", 503),
        ("POST", f"{RESTRICTED}/echo", 405),
    ]
    custom = {"X-Custom": "1"}
    for credentials in ("omit", "include"):
        for method, url, status in questions:
            assert_read(browser.fetch(method, url, credentials=credentials), status)
        seen = browser.fetch(
            "GET", f"{RESTRICTED}/readyz?asked", {**custom, **JSON}, credentials=credentials
        )
        assert_read(seen, 200)
    browser.open(OTHER_PAGE)
    try:
        for method, url, _status in questions:
            assert "Failed to fetch" in browser.fetch(method, url).error
        assert "Failed to fetch" in browser.fetch("GET", f"{RESTRICTED}/readyz?asked", custom).error
    finally:
        browser.open(PAGE)


def test_a_method_that_nginx_refuses(browser):
    # text/plain, as a form sends it, needs no preflight.
    seen = browser.fetch("POST", f"{RESTRICTED}/echo", {"Content-Type": "text/plain"}, "x")
    assert_read(seen, 405, "not allowed")
    # Other methods need one, and are refused by it.
    assert "Failed to fetch" in browser.fetch("DELETE", f"{RESTRICTED}/environ").error
