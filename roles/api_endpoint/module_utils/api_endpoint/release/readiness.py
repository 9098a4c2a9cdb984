# SPDX-License-Identifier: GPL-3.0-or-later
"""Find out whether a version works before it gets a request: as the public will reach it, and each of its workers.

The requests take the public's way, through nginx, over the socket that leads to the version that is being proven. Where
nginx has no such socket (a configuration of an earlier version of the role, or none yet) they go to the version's own.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.http import Answer, ask, healthy
from ansible.module_utils.api_endpoint.release.failures import Failure
from ansible.module_utils.api_endpoint.release.slots import accepted

POLL = 0.1  # seconds between two looks
TOLD_CHARACTERS = 160  # of an answer, in a line about progress
LOOK_SECONDS = 1.0  # between two looks into the log of a version that answers 500
SAME_TIMES = 3  # looks with the same exception, of a kind that no waiting changes, after which a version is refused
SETTLE = 10.0  # seconds at least that workers get to be all there once the first one answers

# What nginx logs when it answers 502 or 504 in the app's place: what that means, and what to do about it.
CAUSES = {
    "upstream sent too big header": "the headers of the answer are larger, all together, than nginx takes (4 KB). Send "
    "fewer or shorter ones; large values are often in Set-Cookie, Link and Content-Security-Policy",
    "upstream sent invalid header": "a header of the answer has a name or a value that HTTP does not allow. Correct it",
    "upstream sent duplicate header line": "the answer has a header twice that may be there once. Set it once",
    'upstream sent "Content-Length" and "Transfer-Encoding"': "the answer has both headers. Leave both to the server",
    'upstream sent unknown "Transfer-Encoding"': "nginx knows chunked alone. Leave that header to the server",
    'upstream sent invalid "Content-Length"': "that header is no number. Leave it to the server",
    "upstream prematurely closed connection": "the worker ended, or dropped the connection, before it answered. See its log",
    "Connection reset by peer": "the worker ended, or dropped the connection, before it had answered. See its log",
    "Resource temporarily unavailable": "the version takes no connections: its queue is full. See its log",
    "upstream timed out": "the app takes longer than api_endpoint_proxy_timeout. Make it faster, or allow more",
    "connect() to": "nothing takes connections on the version's socket. See its log",
}
# What nginx refuses by itself: its words (nginx.conf.j2), and what to do about it.
REFUSALS = {
    "That method is not allowed here.": "nginx refuses the method: add it to api_endpoint_methods",
    "The request's body is too large.": "nginx refuses the body: allow more with api_endpoint_max_body_size",
    "The request's URL is too long.": "nginx refuses the URL: it is too long",
    "The request's headers are too large.": "nginx refuses the request's headers: they are too large",
}
# Headers of a request that a failed answer has nothing to do with.
USUAL = {"accept", "authorization", "content-type", "cookie", "host"}


class ReleaseRejectedError(DeployError):
    """A release that must not get requests; `step` is the one that it failed at."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(reason)
        self.step = step


@dataclass(frozen=True)
class Request:
    """A request with the answer that is expected."""

    path: str
    method: str
    body: bytes | None
    headers: dict[str, str]
    status: list[int]
    text: str

    @classmethod
    def from_plan(cls, given: dict[str, Any]) -> Request:
        """Make one of an entry of api_endpoint_smoke_requests."""
        body, headers = (
            given.get("body"),
            {str(name): str(value) for name, value in (given.get("headers") or {}).items()},
        )
        if body is None:
            content = None
        elif isinstance(body, str):
            content = body.encode()
        else:
            content = json.dumps(body, ensure_ascii=False).encode()
            if not any(name.lower() == "content-type" for name in headers):
                headers["Content-Type"] = "application/json"
        return cls(
            path=str(given["path"]),
            method=str(given.get("method") or "GET").upper(),
            body=content,
            headers=headers,
            status=[int(status) for status in given.get("status") or [200]],
            text=str(given.get("text") or ""),
        )

    def mismatch(self, answer: Answer) -> str:
        """Say what is wrong with an answer; empty when nothing is."""
        if answer.status is None or not healthy(answer, self.status):
            return (
                f"{answer}; expected: status {' or '.join(map(str, self.status))}{self._dropped()}"
            )
        # JSON may have letters beyond ASCII as \\uXXXX.
        plain = re.sub(
            r"(?:\\u[0-9a-fA-F]{4})+",
            lambda escaped: str(json.loads(f'"{escaped[0]}"')),
            answer.text,
        )
        if self.text not in answer.text and self.text not in plain:
            return f"{answer}; expected: a text with {self.text!r}{self._dropped()}"
        return ""

    def _dropped(self) -> str:
        """Say which headers nginx may not have passed on."""
        own = [name for name in self.headers if name.lower() not in USUAL]
        return (
            f" (nginx passes on {', '.join(own)} only if api_endpoint_request_headers has it)"
            if own
            else ""
        )


def explain(log: str, answer: Answer) -> str:
    """Say why nginx gave an answer in the app's place, by what it logged meanwhile; empty when it did not."""
    for words, meaning in REFUSALS.items():
        if f'"message": "{words}"' in answer.text:
            return meaning
    if answer.status not in (502, 504):
        return ""
    logged = re.findall(
        r"(?m)\[(?:error|crit|alert|emerg)\] [^:]*: (?:\*\d+ )?(.*?)(?:, client: .*)?$", log
    )
    found = [
        f"{line}. That means: {meaning}"
        for line in logged
        for sign, meaning in CAUSES.items()
        if sign in line
    ]
    return f"nginx's reason: {(found or logged)[-1]}" if logged else ""


def _state(pid: int) -> str:
    """Return the state of a process: R, S, T ...; empty when it is gone."""
    try:
        return (
            Path(f"/proc/{pid}/stat")
            .read_text(encoding="utf-8", errors="replace")
            .rpartition(")")[2]
            .split()[0]
        )
    except (OSError, IndexError):
        return ""


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def suspend(pids: list[int]) -> None:
    """Hold processes still."""
    for pid in pids:
        _signal(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 2
    while any(_state(pid) not in ("T", "t", "") for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.005)


def resume(pids: list[int]) -> None:
    """Let processes that were held still run on."""
    for pid in pids:
        _signal(pid, signal.SIGCONT)


class ReadinessCheck:
    """The proof of the version in one slot, according to the release's plan (`rollout.json`)."""

    def __init__(
        self,
        plan: dict[str, Any],
        socket: str,
        workers: Callable[[], list[int]],
        died: Callable[[], str],
        nginx: str = "",
        nginx_log: Path = Path(os.devnull),
        failure: Callable[[], Failure | None] = lambda: None,
        say: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.say = say  # takes how far it is
        self.failure = failure  # what the version's log says of its last failure
        self.same, self.looked = ("", 0), 0.0
        self.plan = plan
        self.socket = socket
        self.workers = workers
        self.died = died  # says how the version stopped by itself; empty while it runs
        self.nginx = (
            nginx  # the socket by which nginx leads to the version; empty when there is none
        )
        self.nginx_log = nginx_log
        self.smoke = [Request.from_plan(given) for given in plan.get("smoke", [])]

    def health(self, timeout: float | None = None) -> Answer:
        """Send one health request."""
        return self.ask(Request(self.plan["health"]["path"], "GET", None, {}, [], ""), timeout)

    @property
    def way(self) -> str:
        """How the requests go, for a message."""
        return "through nginx" if self.nginx else "over its socket"

    def ask(
        self,
        request: Request,
        timeout: float | None = None,
        when_sent: Callable[[socket.socket], None] | None = None,
    ) -> Answer:
        """Send one request to the version, as the public will."""
        begin = self.nginx_log.stat().st_size if self.nginx_log.is_file() else 0
        answer = ask(
            request.path,
            self.plan["server_name"],
            unix_socket=self.nginx or self.socket,
            timeout=timeout or self.plan["health"]["timeout"],
            method=request.method,
            body=request.body,
            headers=request.headers,
            when_sent=when_sent,
        )
        if not self.nginx or answer.status is None or answer.status < 400:
            return answer
        log = (
            self.nginx_log.read_bytes()[begin:].decode(errors="replace")
            if self.nginx_log.is_file()
            else ""
        )
        return replace(answer, cause=explain(log, answer))

    def ask_worker(self, pid: int, workers: list[int], request: Request) -> Answer:
        """Send one request that a certain worker answers: the others are held still until it has taken the connection."""
        others = [other for other in workers if other != pid]
        # gunicorn replaces a worker that holds still for longer than its time-out.
        patience = min(self.plan["health"]["timeout"], self.plan.get("timeout", 30) / 2)

        def taken(connection: socket.socket) -> None:
            # Through nginx, the connection to the version comes some time after the request was sent.
            deadline = time.monotonic() + patience
            while not (
                select.select([connection], [], [], 0.01)[0] or accepted(self.socket, pid) - before
            ):
                if time.monotonic() > deadline:
                    raise TimeoutError("timed out")
            resume(others)

        try:
            suspend(others)
            before = accepted(self.socket, pid)
            return self.ask(request, when_sent=taken)
        finally:
            resume(others)

    def wait_until_healthy(self) -> None:
        """Ask the health path until it answers as expected; raise ReleaseRejectedError when it does not in time."""
        health = self.plan["health"]
        begun = time.monotonic()
        deadline = begun + self.plan["start_timeout"]
        answer = Answer(None, "it has made no socket yet")
        while True:
            if died := self.died():
                raise ReleaseRejectedError("start", died)
            if os.path.exists(self.socket):
                answer = self.health(min(health["timeout"], max(0.5, deadline - time.monotonic())))
            if healthy(answer, health["status"]):
                return
            told = str(answer) if os.path.exists(self.socket) else "no answer yet: importing"
            self.say(
                f"not ready after {time.monotonic() - begun:.0f} of {self.plan['start_timeout']} s "
                f"(api_endpoint_start_timeout): {told[:TOLD_CHARACTERS]}"
            )
            self.refuse_hopeless(answer)
            if time.monotonic() > deadline:
                expected = " or ".join(map(str, health["status"])) or "any below 500"
                if answer.status == 404:
                    expected += ". Correct api_endpoint_health_path, or add this route to the app"
                raise ReleaseRejectedError(
                    "start" if answer.status is None else "health",
                    f"it was not healthy within api_endpoint_start_timeout = {self.plan['start_timeout']} s. "
                    f"GET {health['path']} {self.way}: {answer}; expected: status {expected}",
                )
            time.sleep(POLL)

    def refuse_hopeless(self, answer: Answer) -> None:
        """Raise ReleaseRejectedError when a version answers 500 with the same exception that no waiting changes.

        The same is: type, words, file and line, in SAME_TIMES looks in a row, one a second. No waiting helps with a
        module that is missing, a setting that is not there, a refusal of the sandbox (`is_lasting`). Whatever else there is
        may pass: a thread that still loads the model, a database that comes back. Such an app has all of its time.
        """
        if answer.status != 500:
            self.same = ("", 0)
            return
        if time.monotonic() - self.looked < LOOK_SECONDS:
            return
        self.looked = time.monotonic()
        failure = self.failure()
        line = failure.line if failure and failure.is_lasting else ""
        self.same = (line, self.same[1] + 1 if line == self.same[0] else 1)
        if line and self.same[1] >= SAME_TIMES:
            raise ReleaseRejectedError(
                "health",
                f"GET {self.plan['health']['path']} {self.way}: status 500, with the same exception {SAME_TIMES} times in a "
                "row, which waiting does not change",
            )

    def every_worker_answers(self) -> None:
        """Put the health request and the smoke requests to each worker; raise an error at the first wrong answer."""
        deadline = time.monotonic() + max(SETTLE, self.plan["start_timeout"])
        asked: set[int] = set()
        self.say("ready; each worker is checked")
        while True:
            there = self.workers()
            left = [pid for pid in there if pid not in asked]
            if len(there) >= self.plan["workers"]:
                if not left:
                    return
                # Who answers is certain only when the workers were the same all the time.
                if self.put_to(left[0], there, deadline) and self.workers() == there:
                    asked.add(left[0])
                    continue
            if died := self.died():
                raise ReleaseRejectedError("smoke", died)
            if time.monotonic() > deadline:
                raise ReleaseRejectedError(
                    "start",
                    f"{len(there)} of {self.plan['workers']} workers were running when it was asked, or others came and "
                    "went: workers are crash-looping",
                )
            time.sleep(POLL)

    def put_to(self, pid: int, workers: list[int], deadline: float) -> bool:
        """Ask one worker; without preload it may still be loading, and has until the deadline. False when it is gone."""
        health = self.plan["health"]
        while True:
            answer = self.ask_worker(pid, workers, Request(health["path"], "GET", None, {}, [], ""))
            if not _state(pid):
                return False
            if healthy(answer, health["status"]):
                break
            if died := self.died():
                raise ReleaseRejectedError("health", died)
            if time.monotonic() > deadline:
                raise ReleaseRejectedError(
                    "health", f"GET {health['path']} put to worker {pid} {self.way}: {answer}"
                )
            time.sleep(POLL)
        for request in self.smoke:
            answer = self.ask_worker(pid, workers, request)
            mismatch = request.mismatch(answer)
            if mismatch and not _state(pid):
                return False
            if mismatch:
                limit = (
                    f" within api_endpoint_health_timeout = {health['timeout']} s"
                    if answer.status is None
                    else ""
                )
                raise ReleaseRejectedError(
                    "smoke",
                    f"{request.method} {request.path} put to worker {pid} {self.way}: {mismatch}{limit}",
                )
        return True

    def final_check(self) -> None:
        """Look once more, just before the switch: what came after the proof may have broken it."""
        answer = self.health()
        if died := self.died():
            raise ReleaseRejectedError("switch", died)
        if not healthy(answer, self.plan["health"]["status"]):
            raise ReleaseRejectedError(
                "switch",
                f"GET {self.plan['health']['path']} {self.way}, just before the switch: {answer}",
            )
