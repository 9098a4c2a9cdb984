"""An ASGI app behind nginx and gunicorn, with the role's own configuration: asgi_app.py does what is asked."""

import contextlib
import http.client
import subprocess
import sys

import pytest
from endpoint import running
from outcomes import assert_json_error, wait_until
from rendering import write_gunicorn_settings

ASGI = {
    "api_endpoint_wsgi": "asgi_app:app",
    "api_endpoint_worker_class": "asgi",
    "api_endpoint_request_headers": ["X-Mine"],
    "api_endpoint_workers": 1,
}


@pytest.fixture(scope="module")
def api():
    with running(**ASGI, api_endpoint_timeout=5, api_endpoint_stream_share=25) as api:
        yield api


def test_an_answer(api):
    answer = api.get("/readyz")
    assert answer.status == 200
    assert answer.json["started"] == [answer.json["pid"]], "by the lifespan protocol, once"
    assert answer.all("Access-Control-Allow-Origin") == ["*"]


def test_the_app_learns_what_was_asked_and_not_by_whom(api):
    sent = {
        "X-Mine": "a",
        "User-Agent": "x",
        "X-Forwarded-For": "203.0.113.7",
        "Forwarded": "for=x",
    }
    known = api.ask(
        "POST", "/told?a=b", b"c" * 100_000, {**sent, "X-Forwarded-Proto": "https"}
    ).json
    assert (known["method"], known["scheme"], known["client"]) == ("POST", "https", None)
    assert known["server"] == ["api.wmcloud.org", 443]
    assert known["body"] == "c" * 100_000
    names = set(known["headers"]) - {"connection", "content-length", "origin", "accept-encoding"}
    assert names == {"host", "x-forwarded-proto", "x-mine"}


def test_the_log_has_the_apps_exceptions_and_what_was_asked(api):
    assert api.get("/fail?a=b").status == 500
    wait_until(lambda: "RuntimeError: as asked" in api.app_errors(), "a traceback")
    wait_until(lambda: "/fail?a=b HTTP/1.1" in "".join(api.app_lines()), "a line in the log")


def test_logs_keep_the_query_string_out():
    with running(**ASGI, api_endpoint_log_query_string=False) as api:
        assert api.get("/readyz?a=secret").status == 200
        assert api.get("/fail?a=secret").status == 500
        wait_until(lambda: "GET /fail HTTP/1.1" in "".join(api.app_lines()), "a line in the log")
        assert "secret" not in "".join(api.app_lines()) + api.app_errors()


@contextlib.contextmanager
def begun(api, path):
    """Ask for a stream, and yield its answer once the first part is there."""
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Host": api.name})
        answer = connection.getresponse()
        assert (answer.status, answer.read(5)) == (200, b"first")
        yield answer


def test_a_stream_may_take_longer_than_the_time_out_as_long_as_it_sends(api):
    with begun(api, "/parts?n=70") as answer:
        assert answer.read() == b"".join(b"%d," % number for number in range(70)) + b"last"


def test_a_silent_stream_is_cut_off_and_a_request_that_hangs_gets_an_answer(api, tmp_path):
    worker = api.get("/readyz").json["pid"]
    with begun(api, f"/parts?in={tmp_path}") as answer, pytest.raises(http.client.IncompleteRead):
        answer.read()
    assert api.app_errors().count("/parts sent nothing for 5 s. Its stream is cut off.") == 1
    assert_json_error(api.get("/hang"), 504)
    assert "/hang took longer than 5 s." in api.app_errors()
    assert api.get("/readyz").json["pid"] == worker


def test_streams_have_a_share_of_the_places(api, tmp_path):
    # A quarter of the 16 requests that may be in flight.
    with api.beside(api_endpoint_timeout=300), contextlib.ExitStack() as streams:
        for _ in range(4):
            streams.enter_context(begun(api, "/parts?n=3000"))
        for kind in ("text/event-stream", "text/csv"):
            refused = api.get(f"/parts?type={kind}")
            assert_json_error(refused, 503)
            assert refused.all("Retry-After") == ["2"]
        assert api.get("/readyz").status == 200
    wait_until(lambda: api.get("/parts").status == 200, "a place")


def test_websockets_are_refused_with_a_sentence(api):
    sent = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    answer = api.get("/readyz", sent)
    assert_json_error(answer, 501)
    assert answer.json["error"]["message"].startswith("WebSockets are not supported")


@pytest.mark.parametrize(
    ("module", "worker_class", "told"),
    [
        ("asgi_app", "threads", "Set api_endpoint_worker_class: asgi."),
        ("asgi_app", "sync", "Set api_endpoint_worker_class: asgi."),
        ("wire_app", "asgi", "Set api_endpoint_worker_class: threads."),
    ],
)
@pytest.mark.parametrize("preload", ["true", "false"])
def test_an_app_of_the_other_kind_is_refused_in_one_sentence(
    tmp_path, request, module, worker_class, told, preload
):
    given = {"api_endpoint_wsgi": f"{module}:app", "api_endpoint_worker_class": worker_class}
    write_gunicorn_settings(
        tmp_path, **given, api_endpoint_preload=preload, __api_endpoint_log_dir=str(tmp_path)
    )
    run = subprocess.run(
        [
            *(sys.executable, "-m", "gunicorn", "--config", "gunicorn.conf.py"),
            *("--bind", f"unix:{tmp_path}/socket", "--pythonpath", str(request.path.parent)),
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert run.returncode != 0
    assert told in run.stderr
