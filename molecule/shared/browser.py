"""A browser that asks an API from a page of another origin, and says what the page's script could read.

    with Browser({"api.example": 8080}) as browser:
        browser.open("http://page.example")
        seen = browser.fetch("GET", "http://api.example/")

The browser is Debian's Chromium, without a driver: it shows a page of a small server of ours, whose script asks that server
again and again what to fetch next, and tells it what came of it.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAGE = """<!doctype html>
<html lang="en">
<title>A page of another origin</title>
<pre id="log"></pre>
<script>
async function ask(task) {
  try {
    const answer = await fetch(task.url, task.options);
    return {status: answer.status, headers: [...answer.headers], body: await answer.text()};
  } catch (error) {
    return {error: String(error)};
  }
}
async function work() {
  for (;;) {
    const given = await fetch("/next", {cache: "no-store"});
    if (given.status !== 200) continue;
    const task = await given.json();
    if (task.open) {
      location.href = task.open;
      return;
    }
    const seen = await ask(task);
    document.getElementById("log").append(`${task.options.method} ${task.url} -> ${JSON.stringify(seen)}\\n`);
    await fetch("/seen", {method: "POST", body: JSON.stringify({number: task.number, origin: location.origin, ...seen})});
  }
}
work();
</script>
"""

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip


@dataclass
class Seen:
    """What a page's script could read of an answer."""

    origin: str  # the page's
    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)  # names in lower case
    body: str = ""
    error: str = ""  # why there was nothing to read

    def header(self, name: str) -> str:
        """Return a header, empty if there is none."""
        return dict(self.headers).get(name.lower(), "")

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Server(http.server.ThreadingHTTPServer):
    """Serves the page, hands out what to fetch, and takes what came of it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.tasks: queue.Queue[dict[str, Any]] = queue.Queue()
        self.seen: queue.Queue[dict[str, Any]] = queue.Queue()
        self.shown: queue.Queue[str] = queue.Queue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the page."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        """Give the page, or its next task once there is one."""
        if self.path != "/next":
            self.server.shown.put(f"http://{self.headers['Host']}")
            self.answer(200, "text/html; charset=utf-8", PAGE)
            return
        try:
            self.answer(200, "application/json", json.dumps(self.server.tasks.get(timeout=5)))
        except queue.Empty:
            self.answer(204)

    def do_POST(self) -> None:
        """Take what came of a task."""
        self.server.seen.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.answer(204)

    def answer(self, status: int, kind: str = "", body: str = "") -> None:
        """Send an answer."""
        content = body.encode()
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
        with contextlib.suppress(ConnectionError):  # the browser has been ended meanwhile
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


class Browser:
    """Headless Chromium; `names` are host names and the port of this computer that each leads to."""

    def __init__(
        self, names: dict[str, int], pages: tuple[str, ...] = ("page.example", "other.example")
    ) -> None:
        self._server = Server()
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._log = Path(self._folder.name, "log")
        self._names = {**names, **dict.fromkeys(pages, self._server.server_address[1])}
        self._process: subprocess.Popen[bytes] | None = None
        self._number = 0
        self._page = f"http://{pages[0]}"

    def __enter__(self) -> Browser:
        """Start the browser on the first page."""
        self._thread.start()
        rules = ",".join(f"MAP {name} 127.0.0.1:{port}" for name, port in self._names.items())
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "chromium", *FLAGS, f"--user-data-dir={self._folder.name}/profile",
                    f"--host-resolver-rules={rules}", self._page,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            self._wait_for_page()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        """End the browser, with all its processes, and the server."""
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._server.shutdown()
        self._server.server_close()
        self._folder.cleanup()

    def open(self, page: str) -> None:
        """Go to another page, such as http://other.example; what follows is asked from there."""
        self._server.tasks.put({"open": page})
        self._page = page
        self._wait_for_page()

    def fetch(
        self, method: str, url: str, headers: dict[str, str] | None = None, body: str | None = None, *,
        credentials: str = "omit", timeout: float = 60,
    ) -> Seen:  # fmt: skip
        """Have the page's script fetch something; return what it could read."""
        self._number += 1
        options = {
            "method": method,
            "headers": headers or {},
            "credentials": credentials,
            "cache": "no-store",
        }
        if body is not None:
            options["body"] = body
        self._server.tasks.put({"number": self._number, "url": url, "options": options})
        seen = self._get(self._server.seen, timeout, f"what came of {method} {url}")
        if seen.pop("number") != self._number:
            raise RuntimeError(f"The page answered another question: {seen}")
        return Seen(**{**seen, "headers": [tuple(pair) for pair in seen.get("headers", [])]})

    def _wait_for_page(self) -> None:
        """Wait until the page was asked for; icons and the like are asked for too."""
        while self._get(self._server.shown, 60, f"the page {self._page}") != self._page:
            pass

    def _get(self, source: queue.Queue[Any], timeout: float, what: str) -> Any:
        try:
            return source.get(timeout=timeout)
        except queue.Empty:
            said = self._log.read_text(errors="replace")[-2000:]
            raise RuntimeError(
                f"The browser did not bring {what} within {timeout} s. It said:\n{said}"
            ) from None


def opened(page: Path) -> tuple[str, list[str]]:
    """Open a file in the browser; return the page as it is afterwards, and what the console said or the page asked for."""
    asked: list[str] = []

    class Outside(http.server.BaseHTTPRequestHandler):
        """Stands for every host there is."""

        def do_GET(self) -> None:
            asked.append(f"asked for {self.headers['Host']}{self.path}")
            self.send_error(404)

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Outside) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = subprocess.run(
            [
                "chromium", *FLAGS, f"--user-data-dir={folder}/profile", "--enable-logging=stderr", "--dump-dom",
                "--disable-features=NetworkTimeServiceQuerying",
                f"--host-resolver-rules=MAP * 127.0.0.1:{server.server_address[1]}", page.resolve().as_uri(),
            ],
            stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60,
        )  # fmt: skip
        server.shutdown()
    said = [line for line in done.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line]
    return done.stdout.decode(), said + asked
