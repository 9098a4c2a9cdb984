"""HAProxy with the role's own configuration on this machine, in front of hosts that do what a test tells them."""

import contextlib
import csv
import http.client
import http.server
import io
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from outcomes import PROJECT, Answer, wait_until

ROLE = PROJECT / "roles" / "load_balancer"
NAME = "my-api.example"
# Stand in the rendered configuration for what each HAProxy has of its own.
PORTS = {"public": 64001, "metrics": 64002, "one": 64003, "two": 64004}
PLACES = "/placeholder"
BASE = {
    "load_balancer_servers": [
        {"name": name, "address": "127.0.0.1", "port": PORTS[name]} for name in ("one", "two")
    ],
    "load_balancer_server_name": NAME,
    "load_balancer_port": PORTS["public"],
    "load_balancer_metrics_listen": f"0.0.0.0:{PORTS['metrics']}",
    "load_balancer_health_path": "/readyz",
    # Two places at each of two hosts, as many in the queue, half of the places for one client.
    "load_balancer_max_concurrency": 2,
    # Nothing of a test waits that long.
    "load_balancer_queue_timeout": 600,
    "load_balancer_client_rate": 0,
    "__load_balancer_log_socket": f"{PLACES}/log.sock",
    "__load_balancer_found": {"addresses": {}, "has_ipv6": True},
}


def render(**variables: object) -> str:
    """Return the role's configuration with these variables, as Ansible renders it."""
    loader = DataLoader()
    given: dict = {}
    for part in ("defaults", "vars"):
        given |= loader.load_from_file(str(ROLE / part / "main.yml"), trusted_as_template=True)
    template = (ROLE / "templates" / "haproxy.cfg.j2").read_text()
    templar = Templar(loader, variables={**given, **BASE, **variables})
    return templar.template(trust_as_template(template))


@dataclass
class Heard:
    """A request as a host got it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Host:
    """A host behind HAProxy; `check` is its answer to the health check, `does` what it does on a path."""

    def __init__(self) -> None:
        self.check = 200
        self.next_check: int | None = None  # the answer to the next one alone
        self.checks = 0
        self.does: dict[str, Callable[[http.server.BaseHTTPRequestHandler], None]] = {}
        self.heard: list[Heard] = []
        self.held = 0  # requests for /hold that wait for `release`
        self.released = threading.Event()
        self.server = self._server(0)
        self.port = self.server.server_port

    def _server(self, port: int) -> http.server.ThreadingHTTPServer:
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle_one_request()

            def log_message(self, *_arguments: object) -> None:
                pass

            def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body)

            def do(self) -> None:
                host.handle(self)

            do_GET = do_HEAD = do_POST = do_OPTIONS = do  # noqa: N815 - names of the library

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128

        server = Server(("127.0.0.1", port), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def handle(self, handler) -> None:
        """Answer one request."""
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        if handler.headers.get("X-Balancer-Check") == "1":
            self.checks += 1
            status, self.next_check = self.next_check or self.check, None
            handler.answer(status)
            return
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.heard.append(Heard(handler.command, handler.path, headers, body))
        self.does.get(handler.path, self.usual)(handler)

    def usual(self, handler) -> None:
        """Answer as an API does."""
        if handler.path == "/hold":
            self.held += 1
            self.released.wait()
            self.held -= 1
        handler.answer(200, b"{}", Access_Control_Allow_Origin="*")

    def stop(self) -> None:
        """Refuse connections."""
        self.server.shutdown()
        self.server.server_close()

    def start(self) -> None:
        """Listen again where it listened before."""
        self.server = self._server(self.port)


def cut(handler) -> None:
    """End the connection without an answer."""
    handler.close_connection = True


def junk(handler) -> None:
    """Answer with what is no HTTP."""
    handler.wfile.write(b"junk\r\n\r\n")
    handler.close_connection = True


class Pending:
    """A request that was sent and whose answer is read later."""

    def __init__(
        self, port: int, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.connection.request(method, path, body, headers)

    def answer(self) -> Answer:
        """Wait for the answer and return it."""
        try:
            answer = self.connection.getresponse()
            return Answer(answer.status, answer.getheaders(), answer.read())
        finally:
            self.connection.close()


@dataclass
class Balancer:
    """A running HAProxy, its hosts, and its log."""

    folder: Path
    port: int
    metrics_port: int
    process: subprocess.Popen
    hosts: dict[str, Host]
    log_socket: socket.socket
    _lines: list[str] = field(default_factory=list)

    def send(
        self, path: str = "/", method: str = "GET", body=None, client: str = "", **headers: str
    ) -> Pending:
        """Send a request for a client with this address, as a proxy does; do not wait for the answer."""
        given = {"Host": NAME, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if client:
            given["X-Forwarded-For"] = client
        return Pending(self.port, method, path, body, given)

    def ask(self, *words, **more) -> Answer:
        """Send a request and return the answer."""
        return self.send(*words, **more).answer()

    def raw(self, sent: bytes) -> bytes:
        """Send bytes and return what comes until the connection ends."""
        with socket.create_connection(("127.0.0.1", self.port), 60) as client:
            client.sendall(sent)
            return b"".join(iter(lambda: client.recv(65536), b""))

    def rows(self) -> dict[str, dict[str, str]]:
        """Return what HAProxy says of its hosts and of all of them (BACKEND)."""
        shown = command(self.folder / "admin.sock", "show stat")
        rows = csv.DictReader(io.StringIO(shown.removeprefix("# ")))
        return {row["svname"]: row for row in rows if row["pxname"] == "api"}

    def wait_for_state(self, name: str, state: str) -> None:
        """Wait until HAProxy sees a host in a state; the checks need 2 s at the most."""
        wait_until(lambda: self.rows()[name]["status"] == state, f"{name} is {state}", 60)

    def wait_for_queue(self, count: int) -> None:
        """Wait until so many requests are in the queue."""
        wait_until(lambda: self.rows()["BACKEND"]["qcur"] == str(count), f"{count} are queued")

    def wait_for_requests(self, count: int) -> None:
        """Wait until so many requests are at the hosts: HAProxy counts one until it has passed on the end of the answer."""
        wait_until(
            lambda: self.rows()["BACKEND"]["scur"] == str(count), f"{count} are at the hosts"
        )

    def wait_for_held(self, count: int) -> None:
        """Wait until the hosts hold so many requests."""
        wait_until(
            lambda: sum(host.held for host in self.hosts.values()) == count, f"{count} are held"
        )

    def release(self) -> None:
        """Let the hosts answer what they hold."""
        for host in self.hosts.values():
            host.released.set()

    @property
    def heard(self) -> list[Heard]:
        """What all hosts got."""
        return [heard for host in self.hosts.values() for heard in host.heard]

    def lines(self) -> list[str]:
        """Return the lines of its log of requests so far, without what syslog puts in front."""
        with contextlib.suppress(BlockingIOError):
            while line := self.log_socket.recv(65536).decode():
                self._lines.append(line)
        # <134> is local0.info: rsyslog writes those, and nothing else, into the log of requests.
        return [
            line.partition("]: ")[2].strip() for line in self._lines if line.startswith("<134>")
        ]

    def wait_for_lines(self, count: int) -> list[str]:
        """Wait until its log of requests has so many lines."""
        wait_until(lambda: len(self.lines()) >= count, f"the log has {count} lines")
        return self.lines()


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(config: str) -> Iterator[Balancer]:
    """Run HAProxy with a rendered configuration while the block runs."""
    # Not pytest's folder: the path of a socket has 107 characters at the most.
    with tempfile.TemporaryDirectory() as folder:
        yield from _running(config, Path(folder))


def _running(config: str, folder: Path) -> Iterator[Balancer]:
    hosts = {"one": Host(), "two": Host()}
    config = config.replace("/run/haproxy", str(folder)).replace(PLACES, str(folder))
    for name, host in hosts.items():
        config = config.replace(str(PORTS[name]), str(host.port))
    log_socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    log_socket.bind(str(folder / "log.sock"))
    log_socket.setblocking(False)
    process = None
    try:
        # Another program may have taken the port by the time that HAProxy wants it.
        for _attempt in range(5):
            ports = {name: free_port() for name in ("public", "metrics")}
            mine = config
            for name, port in ports.items():
                mine = mine.replace(str(PORTS[name]), str(port))
            process = start(mine, folder)
            if process.poll() is None:
                break
        else:
            raise AssertionError((folder / "output").read_text())
        yield Balancer(folder, ports["public"], ports["metrics"], process, hosts, log_socket)
    finally:
        for host in hosts.values():
            host.released.set()
        if process:
            end(process)
        for host in hosts.values():
            host.stop()
        log_socket.close()


def start(config: str, folder: Path) -> subprocess.Popen:
    """Start HAProxy; return when it takes requests or has ended."""
    (folder / "haproxy.cfg").write_text(config)
    (folder / "admin.sock").unlink(missing_ok=True)
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            ["haproxy", "-W", "-S", str(folder / "master.sock"), "-f", str(folder / "haproxy.cfg")],
            stdout=output, stderr=output,
        )  # fmt: skip
    deadline = time.monotonic() + 60
    # The master takes signals from when it answers.
    while process.poll() is None and not all(
        command(folder / name, word)
        for name, word in (("admin.sock", "show info"), ("master.sock", "show proc"))
    ):
        assert time.monotonic() < deadline, (folder / "output").read_text()
        time.sleep(0.01)
    return process


def end(process: subprocess.Popen) -> None:
    """End HAProxy: the master ends its workers."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def command(path: Path, words: str) -> str:
    """Return what HAProxy says to a command on a socket; nothing when nobody listens."""
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
        # A master that is still starting loses what it is sent.
        client.settimeout(5)
        client.connect(str(path))
        client.sendall(f"{words}\n".encode())
        shown = b""
        while not shown.endswith(b"\n\n") and (more := client.recv(65536)):
            shown += more
        return shown.decode()
    return ""
