"""nginx and gunicorn on this machine, with the role's own configuration, in folders of their own.

    with running() as api, api.beside(api_endpoint_cors_origins=["http://page.example"]) as other:
        assert api.get("/readyz").status == other.get("/readyz").status == 200

The app is stub.py. Nothing needs root, and nothing outside of the folder is read or written.
"""

import contextlib
import grp
import http.client
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.api_endpoint.host.nginx import new_name
from outcomes import PROJECT, Answer, wait_until
from rendering import render, write_gunicorn_settings

# An ordinary user's PATH may lack the folder of the host's daemons.
PATH = f"{os.environ['PATH']}:/usr/sbin"
ETC = Path("/etc/nginx")
PORT = 8080  # stands in the rendered configuration for the port that nginx gets
BASE = {
    "api_endpoint_port": PORT,
    "api_endpoint_wsgi": "stub:app",
    "api_endpoint_health_path": "/readyz",
    "api_endpoint_workers": 2,
    "api_endpoint_threads": 8,
    "api_endpoint_max_concurrency": 16,  # as many as the threads, so that the app sees each
    # A test that counts asks as a client with an address; all others are never limited.
    "api_endpoint_client_rate": 1,
    # Nothing of a test takes that long.
    "api_endpoint_timeout": 300,
    "api_endpoint_proxy_timeout": 310,
    "api_endpoint_client_timeout": 300,
    "api_endpoint_graceful_timeout": 1,
}


class Held:
    """Requests that the app holds until the test releases them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = f"/hold?in={folder}"

    def wait_for(self, count: int) -> None:
        """Wait until the app holds so many requests."""
        wait_until(lambda: self.count >= count, f"the app holds {count} requests")

    @property
    def count(self) -> int:
        """How many requests have reached the app."""
        return len(list(self.folder.glob("held-*")))

    def release(self) -> None:
        """Let the app answer."""
        (self.folder / "release").touch()


@dataclass
class Endpoint:
    """A running nginx; `root` is where the app's slots are, and the app's own folder."""

    name: str
    folder: Path
    root: Path
    port: int
    process: subprocess.Popen

    # --- requests

    def connect(self) -> socket.socket:
        """Return a connection to nginx."""
        return socket.create_connection(("127.0.0.1", self.port), 60)

    def ask(
        self, method: str, path: str, body=None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send one request, as a page of another origin does, and return the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = {"Host": self.name, "Origin": "http://page.example", **(headers or {})}
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=sent)
            answer = connection.getresponse()
            return Answer(answer.status, answer.getheaders(), answer.read())

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        """GET a path."""
        return self.ask("GET", path, headers=headers)

    def send(self, raw: bytes) -> bytes:
        """Send bytes and return what comes until nginx closes the connection."""
        received = b""
        with self.connect() as client:
            client.sendall(raw)
            with contextlib.suppress(ConnectionResetError):  # nginx has refused it half-read
                while more := client.recv(65536):
                    received += more
        return received

    def answer_to(self, line: str, *headers: str, host: str = "") -> Answer:
        """Return the answer to a request as it stands here, which a library might not send."""
        head = "\r\n".join([line, f"Host: {host or self.name}", "Connection: close", *headers])
        with self.connect() as client:
            client.sendall(head.encode() + b"\r\n\r\n")
            with contextlib.closing(
                http.client.HTTPResponse(client, method=line.split()[0])
            ) as answer:
                answer.begin()
                return Answer(answer.status, answer.getheaders(), answer.read())

    # --- logs

    def lines(self) -> list[str]:
        """Return the lines of nginx's access log."""
        return (self.folder / "access.log").read_text().splitlines()

    def errors(self) -> str:
        """Return nginx's error log."""
        return (self.folder / "error.log").read_text()

    def app_lines(self) -> list[str]:
        """Return the lines of gunicorn's access log. The last ones may follow the answer."""
        return (self.root / "access.log").read_text().splitlines()

    def app_errors(self) -> str:
        """Return gunicorn's error log."""
        return (self.root / "error.log").read_text()

    def asked(self, url: str) -> int:
        """Return how often the app has answered a URL."""
        return sum(f" {url} " in line for line in self.app_lines())

    # --- states

    @contextlib.contextmanager
    def held(self) -> Iterator[Held]:
        """Have the app hold requests; at the end of the block it answers all of them."""
        held = Held(Path(tempfile.mkdtemp(dir=self.root)))
        try:
            yield held
        finally:
            held.release()

    @contextlib.contextmanager
    def stopped_app(self) -> Iterator[None]:
        """Let nothing listen for nginx in the block."""
        path = self.root / "slots" / "blue" / "gunicorn.sock"
        away = path.rename(path.with_name("away"))
        try:
            yield
        finally:
            away.rename(path)

    @contextlib.contextmanager
    def live_slot(self, slot: str) -> Iterator[None]:
        """Let another slot be the live one in the block, as a release does: by one link."""

        def turn(target: str) -> None:
            new = self.root / "new"
            new.symlink_to(f"slots/{target}")
            new.rename(self.root / "live")

        turn(slot)
        try:
            yield
        finally:
            turn("blue")

    @contextlib.contextmanager
    def beside(self, name: str = "other.wmcloud.org", **variables) -> Iterator["Endpoint"]:
        """Run another nginx, with other settings, before the same app."""
        with _nginx(name, self.root, variables) as other:
            yield other


@contextlib.contextmanager
def running(name: str = "api.wmcloud.org", **variables) -> Iterator[Endpoint]:
    """Run gunicorn with the app, and nginx before it, while the block runs."""
    # Not pytest's folder: the path of a socket has 107 characters at the most.
    with tempfile.TemporaryDirectory(prefix="app-") as folder:
        root = Path(folder)
        for slot in ("blue", "green"):
            (root / "releases" / slot).mkdir(parents=True)
            (root / "slots" / slot).mkdir(parents=True)
            (root / "slots" / slot / "release").symlink_to(root / "releases" / slot)
        # One process stands for the releases of both slots.
        for name_of_way in ("gunicorn.sock", "uwsgi"):
            (root / "slots" / "green" / name_of_way).symlink_to(
                root / "slots" / "blue" / name_of_way
            )
        (root / "live").symlink_to("slots/blue")
        with _gunicorn(root, variables), _nginx(name, root, variables) as api:
            yield api


@contextlib.contextmanager
def silent_app() -> Iterator[Endpoint]:
    """Run nginx before an app that takes connections and never answers."""
    with tempfile.TemporaryDirectory(prefix="app-") as folder, socket.socket(socket.AF_UNIX) as app:
        (Path(folder) / "live" / "uwsgi").mkdir(parents=True)
        app.bind(f"{folder}/live/uwsgi/gunicorn.sock")
        app.listen()
        with _nginx("silent.wmcloud.org", Path(folder), {"api_endpoint_proxy_timeout": 1}) as api:
            yield api


@contextlib.contextmanager
def _gunicorn(root: Path, variables: dict) -> Iterator[None]:
    """Run gunicorn as the role's unit does."""
    given = {**BASE, **variables, "__api_endpoint_log_dir": str(root)}
    write_gunicorn_settings(root, **given)
    apps = f"{Path(__file__).parent},{PROJECT / 'molecule' / 'shared' / 'fault_app'}"
    way = root / "slots" / "blue" / "gunicorn.sock"
    with (root / "output").open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "--config", "gunicorn.conf.py"),
                *("--bind", f"unix:{way}", "--pythonpath", apps),
            ],
            cwd=root, stdout=output, stderr=output, start_new_session=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "RUNTIME_DIRECTORY": str(root)},
        )  # fmt: skip
    try:
        wait_until(lambda: way.exists() or process.poll() is not None, "gunicorn listens")
        assert process.poll() is None, _texts(root, "output", "error.log")
        if (root / "uwsgi").exists():
            (way.parent / "uwsgi").mkdir()
            (way.parent / "uwsgi" / "gunicorn.sock").symlink_to("../gunicorn.sock")
        yield
    finally:
        # All of it at once: nothing that it still does matters.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def _nginx(name: str, root: Path, variables: dict) -> Iterator[Endpoint]:
    """Run nginx with the role's configuration on a free port."""
    with tempfile.TemporaryDirectory(prefix="nginx-") as place:
        folder = Path(place)
        given = {
            **BASE,
            "api_endpoint_server_names": [name],
            **variables,
            "api_endpoint_root": str(root),
            "__api_endpoint_cache_dir": f"{folder}/cache",
        }
        names = ("nginx.conf", "site.conf", "catch_all.conf")
        main, *sites = render(*(f"{name}.j2" for name in names), **given)
        for inner in ("api-endpoint", "cache", "conf.d", "run", "sites-enabled", "temp"):
            (folder / inner).mkdir()
        for loaded, text in new_name("api-endpoint/api-endpoint.loaded").items():
            (folder / loaded).write_text(text)
        shutil.copy(ETC / "mime.types", folder)
        (folder / "conf.d" / "temp.conf").write_text(
            "".join(
                f"{kind}_temp_path {folder}/temp/{kind};\n"
                for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
        )
        (folder / "nginx.conf").write_text(_here(main, folder, _MAIN))
        process = None
        try:
            # Another program may have taken the port by the time that nginx wants it.
            for _attempt in range(5):
                port = _free_port()
                for site_name, site in zip(names[1:], sites, strict=True):
                    text = _here(site, folder, _SITE, port)
                    (folder / "sites-enabled" / site_name).write_text(text)
                process = _start(folder, port)
                if process.poll() is None:
                    break
            else:
                raise AssertionError(_texts(folder, "output", "error.log"))
            yield Endpoint(name, folder, root, port, process)
        finally:
            if process:
                process.terminate()
                process.wait(60)


# What the role's templates have for a whole host, and what stands in its place here.
_ME = f"{pwd.getpwuid(os.getuid()).pw_name} {grp.getgrgid(os.getgid()).gr_name}"
_MAIN = {
    "user nginx;": f"user {_ME};",
    "pid /run/nginx.pid;": "pid {folder}/nginx.pid;",
    # Not through rsyslog, which blanks out addresses: that is the scenarios' to test.
    "syslog:server=unix:/run/nginx-log/error.sock,nohostname,tag=nginx ": "{folder}/error.log ",
    "/var/log/nginx/": "{folder}/",
}
_SITE = {
    f"    listen [::]:{PORT}": "    # no IPv6: listen [::]:{port}",
    f"    listen {PORT}": "    listen 127.0.0.1:{port}",
    "/var/log/nginx/": "{folder}/",
}
_RUN = {
    "/run/api-endpoint/": "{folder}/run/",
    "/run/nginx-proof/": "{folder}/run/",
    "/run/nginx-log/": "{folder}/",
}


def _here(text: str, folder: Path, changes: dict[str, str], port: int = 0) -> str:
    """Return a rendered configuration with this folder's paths; each that is replaced must be there."""
    if "upstream " in text:
        changes = changes | _RUN
    for old, new in changes.items():
        assert old in text, f"The template has no {old!r} any more; endpoint.py replaces it."
        text = text.replace(old, new.format(folder=folder, port=port))
    ours = text.replace(f"{folder}/", "")
    left = re.findall(r"(?m)^\s*[^#\s].*?((?:/run|/var|/etc|/srv)/\S+)", ours)
    assert left == [], (
        f"The template has paths of the host that endpoint.py does not replace: {left}"
    )
    return text


def program(name: str) -> str:
    """Return the path of a program."""
    found = shutil.which(name, path=PATH)
    assert found, f"{name} is not installed: tools/needs.sh {name}"
    return found


def _texts(folder: Path, *names: str) -> str:
    """Return the files of these names, as far as they are there."""
    return "".join((folder / name).read_text() for name in names if (folder / name).exists())


def _free_port() -> int:
    """Return a port on which nothing listens, below those that connections get of themselves."""
    while True:
        port = random.randint(15_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _start(folder: Path, port: int) -> subprocess.Popen:
    """Start nginx; return when it takes connections or has ended."""
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log"),
             "-g", "daemon off;"],
            stdout=output, stderr=output,
        )  # fmt: skip

    def is_there() -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            # Not somebody else's: nginx writes it when it listens.
            return (folder / "nginx.pid").exists()
        return process.poll() is not None

    wait_until(is_there, f"nginx listens on port {port}")
    return process
