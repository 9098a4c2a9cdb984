"""Asking a test host's API from outside, and judging the answers."""

import contextlib
import http.client
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from load import Result, assert_nothing_failed

ROOT = "/var/lib/api-endpoint"
PROJECT = Path(__file__).resolve().parents[2]

# Marks that no log may show: what a caller sends along with every request of these tests.
MARKED_AGENT = "marked-user-agent/7.7"
MARKED_ADDRESS = "203.0.113.77"


@dataclass
class Answer:
    """An HTTP answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Return every value of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def json(self):
        """The body as JSON."""
        return json.loads(self.body)


class Api:
    """The API on one test host, asked from outside of it."""

    _port = 0  # where it was when it was asked last

    def __init__(self, host, name: str) -> None:
        self.host = host
        self.container = host.backend.get_hostname()
        self.name = name

    @property
    def port(self) -> int:
        """The port of this machine that leads to the host's port 80; a restart of the container changes it."""
        shown = subprocess.run(
            ["docker", "port", self.container, "80"], capture_output=True, text=True, check=True
        )
        return int(shown.stdout.split()[0].rsplit(":", 1)[1])

    def ask(self, method: str, path: str, body=None, headers=None, timeout: float = 60) -> Answer:
        """Send one request, with the marks that no log may show."""
        self._port = self._port or self.port
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout)
        sent = {
            "Host": self.name,
            "Origin": "https://page.example",
            "User-Agent": MARKED_AGENT,
            "X-Forwarded-For": MARKED_ADDRESS,
            "X-Real-IP": MARKED_ADDRESS,
            "Forwarded": f"for={MARKED_ADDRESS}",
            **(headers or {}),
        }
        try:
            try:
                connection.connect()
            except ConnectionRefusedError:
                self._port = connection.port = self.port
            connection.request(method, path, body=body, headers=sent)
            answer = connection.getresponse()
            return Answer(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def get(self, path: str, **more) -> Answer:
        """GET a path."""
        return self.ask("GET", path, **more)

    def wait_until_it_answers(self, path: str, seconds: float = 300) -> float:
        """Ask until the answer is below 500; return the seconds that it took."""
        begun = time.monotonic()
        while time.monotonic() - begun < seconds:
            try:
                if self.get(path).status < 500:
                    return time.monotonic() - begun
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.1)
        state = self.host.run(
            "systemctl status nginx 'api-endpoint@*' --no-pager; tail -n 30 /var/log/gunicorn/error.log; "
            "tail -n 10 /var/log/nginx/error.log; journalctl -n 40 --no-pager"
        ).stdout
        pytest.fail(f"{path} did not answer within {seconds} s.\n{state}")

    @property
    def slot(self) -> str:
        """The live slot."""
        return self.host.run(f"basename $(readlink {ROOT}/live)").stdout.strip()

    @property
    def idle_slot(self) -> str:
        """The slot that is not live."""
        return "green" if self.slot == "blue" else "blue"

    @property
    def unit(self) -> str:
        """The unit of the live slot."""
        return f"api-endpoint@{self.slot}.service"

    def main_pid(self, unit: str | None = None) -> int:
        """Return the process id of a unit's main process."""
        return int(
            self.host.check_output(f"systemctl show --property=MainPID --value {unit or self.unit}")
        )

    def workers(self, unit: str | None = None) -> list[int]:
        """Return the process ids of the children of a unit's main process: the workers."""
        return sorted(
            int(pid)
            for pid in self.host.check_output(f"pgrep --parent {self.main_pid(unit)}").split()
        )

    @contextlib.contextmanager
    def held_still(self) -> Iterator[None]:
        """Hold all processes of the live version still, for a while: nobody answers, and nobody ends for that."""
        unit = self.unit
        self.host.check_output(f"systemctl kill --signal=STOP {unit}")
        try:
            yield
        finally:
            self.host.check_output(f"systemctl kill --signal=CONT {unit}")
            self.wait_until_it_answers("/readyz")

    def kill(self, pid: int) -> None:
        """Kill a process of the host's as the kernel does when memory runs out."""
        self.host.check_output(f"kill -9 {pid}")

    @property
    def processes(self) -> tuple[int, list[int]]:
        """The process ids of the live version: the main one, and the workers."""
        return self.main_pid(), self.workers()

    @property
    def running(self) -> list[str]:
        """The units of the slots that run, or begin or end to."""
        return self._slots_that("is-active", ("active", "activating", "deactivating", "reloading"))

    @property
    def enabled(self) -> list[str]:
        """The units of the slots that will run after the next boot."""
        return self._slots_that("is-enabled", ("enabled",))

    def _slots_that(self, question: str, yes: tuple[str, ...]) -> list[str]:
        units = ["api-endpoint@blue.service", "api-endpoint@green.service"]
        answers = self.host.run(f"systemctl {question} {' '.join(units)}").stdout.split()
        return [unit for unit, answer in zip(units, answers, strict=True) if answer in yes]

    @property
    def release(self) -> str:
        """The id of the live release."""
        return self.host.check_output(f"basename $(readlink -f {ROOT}/current)")

    @property
    def releases(self) -> list[str]:
        """The ids of the releases on the disk."""
        return self.host.check_output(f"ls {ROOT}/releases").split()

    @property
    def deploys(self) -> list[str]:
        """The lines of the log of deployments."""
        return self.host.check_output("cat /var/log/api-endpoint/deploys.log").splitlines()

    def as_service(self, command: str):
        """Run a command as the app would: its user, its view of the files."""
        return self.host.run(
            f"nsenter --target {self.main_pid()} --mount setpriv --reuid www-data --regid www-data --clear-groups "
            f"sh -c '{command}'"
        )


class Asked(threading.Thread):
    """A GET request that is sent at once and waits for its answer in a thread of its own."""

    def __init__(self, api: Api, path: str) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=300)
        self._connection.request("GET", path, headers={"Host": api.name})
        self._answer: Answer | Exception | None = None
        self.start()

    def run(self) -> None:
        """Wait for the answer."""
        try:
            answer = self._connection.getresponse()
            self._answer = Answer(answer.status, answer.getheaders(), answer.read())
        except Exception as error:
            self._answer = error
        finally:
            self._connection.close()

    def wait(self) -> Answer | Exception:
        """Return the answer, or what came instead of one."""
        self.join()
        assert self._answer is not None, self._path
        return self._answer


@dataclass
class Run:
    """How a run of a playbook ended."""

    status: int
    output: str

    @property
    def changed(self) -> list[int]:
        """The number of changes, for each host."""
        return [int(number) for number in re.findall(r"changed=(\d+)", self.output)]

    @property
    def said(self) -> str:
        """The output as running text: without colours, line breaks, indentation and YAML's escapes of quotes."""
        plain = re.sub(r"\x1b\[[0-9;]*m", "", self.output)
        return " ".join(plain.replace('\\"', '"').replace("\\n", " ").replace("''", "'").split())


def wait_until(condition, what: str, seconds: float = 300) -> None:
    """Wait until a condition is true; the end is one that only a broken product reaches."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"Not within {seconds} s: {what}")
        time.sleep(0.25)  # a command on a host costs a busy machine a lot


def assert_switched(api: Api, run: Run, result: Result, before: str) -> None:
    """A run succeeded, nothing failed meanwhile, and clients saw one switch, from `before` to what is live now."""
    assert run.status == 0, run.output
    assert_nothing_failed(result)
    assert api.release != before, run.output
    assert result.releases == [before, api.release], str(result)
    assert api.running == api.enabled == [api.unit], (
        f"running: {api.running}, enabled: {api.enabled}, live: {api.unit}"
    )


def assert_readable_by_a_browser(answer: Answer) -> None:
    """A page of another origin can read this answer: exactly one header allows it."""
    assert answer.all("Access-Control-Allow-Origin") == ["*"]


def assert_json_error(answer: Answer, status: int) -> None:
    """An error that a program on another origin can read and understand."""
    assert answer.status == status
    assert_readable_by_a_browser(answer)
    assert answer.all("Content-Type") == ["application/json"]
    assert answer.json["error"]["status"] == status
    assert answer.json["error"]["message"]
