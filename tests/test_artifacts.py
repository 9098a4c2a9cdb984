"""Model data is verified before it has a name in the store. Downloads come from a real server with real faults."""

import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible.module_utils.api_endpoint_store import StoreError
from conftest import Stub, load

artifacts = load("api_endpoint_artifacts")

CONTENT = b"model" * 10_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def server():
    """Serve the file at /good, and in several broken ways elsewhere; count the requests."""

    class Handler(BaseHTTPRequestHandler):
        requests = 0

        def do_GET(self):
            Handler.requests += 1
            if self.path == "/missing":
                self.send_error(404)
                return
            body = {"/flipped": CONTENT[:-1] + b"x", "/page": b"<html>Not now</html>"}.get(self.path, CONTENT)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:30_000] if self.path == "/cut" else body)

        def log_message(self, *_arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        running.url = f"http://127.0.0.1:{running.server_address[1]}"
        running.counter = Handler
        yield running
        running.shutdown()


def ensure(tmp_path, *wanted, check_mode=False):
    entries = [
        {"dest": "model.bin", "src": None, "url": None, "sha256": None, "writable": False, "upload": None, **entry}
        for entry in wanted
    ]
    return artifacts.ensure(Stub(check_mode, data_dir=str(tmp_path), group="any", timeout=5, artifacts=entries))


def test_a_download_is_stored_under_its_digest_and_not_fetched_again(tmp_path, server):
    result = ensure(tmp_path, {"url": f"{server.url}/good", "sha256": DIGEST.upper(), "dest": "./a/model.bin"})
    assert result["changed"]
    assert result["artifacts"] == [{"dest": "a/model.bin", "digest": DIGEST, "writable": False}]
    assert (tmp_path / DIGEST / "artifact").read_bytes() == CONTENT
    asked = server.counter.requests
    assert not ensure(tmp_path, {"url": f"{server.url}/good", "sha256": DIGEST})["changed"]
    assert server.counter.requests == asked


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/flipped", f"expected {DIGEST}"),
        ("/page", "not the expected file"),
        ("/cut", "promised 50,000 bytes and sent 30,000|IncompleteRead"),
        ("/missing", "the server answered 404"),
    ],
)
def test_what_is_damaged_never_gets_into_the_store(tmp_path, server, path, words):
    with pytest.raises(StoreError, match=words):
        ensure(tmp_path, {"url": server.url + path, "sha256": DIGEST})
    assert os.listdir(tmp_path) == []


def test_a_server_that_is_not_there(tmp_path):
    with pytest.raises(StoreError, match=r"'model\.bin' could not be taken from http://127.0.0.1:9/x"):
        ensure(tmp_path, {"url": "http://127.0.0.1:9/x", "sha256": DIGEST})


def test_an_unverified_download_is_fetched_once_for_its_url(tmp_path, server):
    first = ensure(tmp_path, {"url": f"{server.url}/good"})
    asked = server.counter.requests
    second = ensure(tmp_path, {"url": f"{server.url}/good"})
    assert first["artifacts"] == second["artifacts"]
    assert not second["changed"]
    assert server.counter.requests == asked
    assert ensure(tmp_path, {"url": f"{server.url}/flipped"})["changed"]


def test_a_file_of_the_laptop_is_asked_for_and_taken(tmp_path):
    wanted = {"src": "model.bin", "sha256": DIGEST}
    assert ensure(tmp_path, wanted)["missing"] == [DIGEST]
    sent = tmp_path / "sent"
    sent.write_bytes(CONTENT)
    assert ensure(tmp_path, {**wanted, "upload": str(sent)})["changed"]
    assert ensure(tmp_path, wanted) == {
        "changed": False,
        "missing": [],
        "artifacts": [{"dest": "model.bin", "digest": DIGEST, "writable": False}],
    }


def test_a_truncated_file_in_the_store_is_replaced(tmp_path, server):
    wanted = {"url": f"{server.url}/good", "sha256": DIGEST}
    ensure(tmp_path, wanted)
    os.truncate(tmp_path / DIGEST / "artifact", 10)
    assert ensure(tmp_path, wanted)["changed"]
    assert (tmp_path / DIGEST / "artifact").read_bytes() == CONTENT


def test_check_mode_downloads_nothing(tmp_path, server):
    asked = server.counter.requests
    result = ensure(
        tmp_path, {"url": f"{server.url}/good", "sha256": DIGEST}, {"url": f"{server.url}/page"}, check_mode=True
    )
    assert result == {"changed": True, "missing": []}
    assert server.counter.requests == asked
    assert os.listdir(tmp_path) == []
