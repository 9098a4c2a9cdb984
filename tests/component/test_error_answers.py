"""Errors and CORS as any client sees them; test_browser.py asks what a page can read."""

import pytest
from endpoint import running
from outcomes import assert_json_error, assert_readable_by_a_browser

PREFLIGHT = (
    "Access-Control-Allow-Methods",
    "Access-Control-Allow-Headers",
    "Access-Control-Max-Age",
)


@pytest.fixture(scope="module")
def api():
    with running() as api:
        yield api


@pytest.mark.parametrize(
    ("line", "header", "status", "message"),
    [
        ("GET / HTTP/1.1", "Content-Length: x", 400, "malformed"),
        ("TRACE / HTTP/1.1", "Accept: */*", 405, "not allowed"),
        ("BREW / HTTP/1.1", "Accept: */*", 405, "not allowed"),
        ("POST / HTTP/1.1", "Content-Length: 1048577", 413, "too large"),
        (f"GET /{'a' * 20_000} HTTP/1.1", "Accept: */*", 414, "too long"),
        ("GET / HTTP/1.1", f"X-Long: {'a' * 20_000}", 431, "too large"),
        ("POST / HTTP/1.1", "Transfer-Encoding: gzip", 501, "could not be answered"),
        ("GET / HTTP/2.0", "Accept: */*", 505, "could not be answered"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else None,
)
def test_errors_of_nginx_are_json(api, line, header, status, message):
    answer = api.answer_to(line, header)
    assert_json_error(answer, status)
    assert message in answer.json["error"]["message"]
    assert answer.all("Allow") == (
        ["GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"] if status == 405 else []
    )


@pytest.mark.parametrize("host", ["unknown.example", "127.0.0.1", "api.wmcloud.org.evil.example"])
def test_an_unknown_name_is_refused(api, host):
    answer = api.get("/readyz", {"Host": host})
    assert_json_error(answer, 404)
    assert "no API of that name" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    "status", [400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 500, 502, 503, 504]
)
def test_errors_of_the_app_pass_as_they_are(api, status):
    answer = api.get(f"/status/{status}")
    assert_json_error(answer, status)
    assert answer.json["error"]["message"] == "as asked"
    assert answer.all("Retry-After") == {429: ["1"], 503: ["2"]}.get(status, [])


def test_a_stopped_app_leaves_preflights_and_json_errors(api):
    with api.stopped_app():
        preflight = api.ask("OPTIONS", "/echo", headers={"Access-Control-Request-Method": "POST"})
        assert (preflight.status, preflight.body) == (204, b"")
        assert_readable_by_a_browser(preflight)
        assert preflight.all("Access-Control-Allow-Methods") == [
            "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
        ]
        assert preflight.all("Access-Control-Allow-Headers") == ["Authorization, Content-Type, *"]
        assert preflight.all("Access-Control-Max-Age") == ["86400"]
        answer = api.get("/readyz")
    assert_json_error(answer, 502)
    assert "not running" in answer.json["error"]["message"]


def test_only_preflights_carry_the_headers_of_preflights(api):
    for path in ("/readyz", "/status/404", "/%00"):
        answer = api.get(path)
        assert not any(answer.all(name) for name in PREFLIGHT), path


def test_the_apps_own_cors_headers_do_not_reach_the_client(api):
    own = (
        *PREFLIGHT,
        "Access-Control-Allow-Origin",
        "Access-Control-Allow-Credentials",
        "Access-Control-Expose-Headers",
    )
    answer = api.get("/headers?" + "&".join(f"{name}=app" for name in own))
    assert answer.status == 200
    assert_readable_by_a_browser(answer)
    assert answer.all("Access-Control-Expose-Headers") == ["*"]
    assert "app" not in [value for name, value in answer.headers]


def test_the_apps_own_security_headers_win(api):
    usual = {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "SAMEORIGIN",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "cross-origin",
    }
    for name, value in usual.items():
        assert api.get("/readyz").all(name) == [value]
        assert api.get("/%00").all(name) == [value]
        assert api.get(f"/headers?{name}=app").all(name) == ["app"]


def test_the_server_header_names_no_version(api):
    assert api.get("/readyz").all("Server") == ["nginx"]
    assert api.get("/%00").all("Server") == ["nginx"]
