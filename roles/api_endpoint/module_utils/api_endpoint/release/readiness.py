# SPDX-License-Identifier: GPL-3.0-or-later
"""Find out whether a version works before it gets a request: every worker of it is asked, one by one."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.http import Answer, ask, healthy
from ansible.module_utils.api_endpoint.release.slots import queued

POLL = 0.1  # seconds between two looks
SETTLE = 10.0  # seconds at least that workers get to be all there once the first one answers


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
        body, headers = given.get("body"), {str(name): str(value) for name, value in (given.get("headers") or {}).items()}
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
            return f"{answer}; expected: status {' or '.join(map(str, self.status))}"
        if self.text not in answer.text:
            return f"{answer}; expected: a text with {self.text!r}"
        return ""


def _state(pid: int) -> str:
    """Return the state of a process: R, S, T ...; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
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
    ) -> None:
        self.plan = plan
        self.socket = socket
        self.workers = workers
        self.died = died  # says how the version stopped by itself; empty while it runs
        self.smoke = [Request.from_plan(given) for given in plan.get("smoke", [])]

    def health(self, timeout: float | None = None) -> Answer:
        """Send one health request."""
        return self.ask(Request(self.plan["health"]["path"], "GET", None, {}, [], ""), timeout)

    def ask(self, request: Request, timeout: float | None = None, when_sent: Callable[[], None] | None = None) -> Answer:
        """Send one request to the version's own socket, as nginx would."""
        return ask(
            request.path,
            self.plan["server_name"],
            unix_socket=self.socket,
            timeout=timeout or self.plan["health"]["timeout"],
            method=request.method,
            body=request.body,
            headers={"X-Forwarded-Proto": "https", **request.headers},
            when_sent=when_sent,
        )

    def ask_worker(self, pid: int, workers: list[int], request: Request) -> Answer:
        """Send one request that a certain worker answers: the others are held still until it has taken the connection."""
        others = [other for other in workers if other != pid]
        # gunicorn replaces a worker that holds still for longer than its time-out.
        patience = min(self.plan["health"]["timeout"], self.plan.get("timeout", 30) / 2)

        def taken() -> None:
            deadline = time.monotonic() + patience
            while queued(self.socket, pid):
                if time.monotonic() > deadline:
                    raise TimeoutError("timed out")
                time.sleep(0.01)
            resume(others)

        try:
            suspend(others)
            return self.ask(request, when_sent=taken)
        finally:
            resume(others)

    def wait_until_healthy(self) -> None:
        """Ask the health path until it answers as expected; raise ReleaseRejectedError when it does not in time."""
        health = self.plan["health"]
        deadline = time.monotonic() + self.plan["start_timeout"]
        answer = Answer(None, "not asked yet")
        while True:
            if died := self.died():
                raise ReleaseRejectedError("start", died)
            answer = self.health(min(health["timeout"], max(0.5, deadline - time.monotonic())))
            if healthy(answer, health["status"]):
                return
            if time.monotonic() > deadline:
                expected = " or ".join(map(str, health["status"])) or "any below 500"
                raise ReleaseRejectedError(
                    "start" if answer.status is None else "health",
                    f"it was not healthy within api_endpoint_start_timeout = {self.plan['start_timeout']} s. "
                    f"GET {health['path']} over its socket: {answer}; expected: status {expected}",
                )
            time.sleep(POLL)

    def every_worker_answers(self) -> None:
        """Put the health request and the smoke requests to each worker; raise an error at the first wrong answer."""
        deadline = time.monotonic() + max(SETTLE, self.plan["start_timeout"])
        asked: set[int] = set()
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
                raise ReleaseRejectedError("health", f"GET {health['path']} put to worker {pid}: {answer}")
            time.sleep(POLL)
        for request in self.smoke:
            answer = self.ask_worker(pid, workers, request)
            mismatch = request.mismatch(answer)
            if mismatch and not _state(pid):
                return False
            if mismatch:
                limit = f" within api_endpoint_health_timeout = {health['timeout']} s" if answer.status is None else ""
                raise ReleaseRejectedError(
                    "smoke", f"{request.method} {request.path} put to worker {pid}: {mismatch}{limit}"
                )
        return True

    def final_check(self) -> None:
        """Look once more, just before the switch: what came after the proof may have broken it."""
        answer = self.health()
        if died := self.died():
            raise ReleaseRejectedError("switch", died)
        if not healthy(answer, self.plan["health"]["status"]):
            raise ReleaseRejectedError("switch", f"GET {self.plan['health']['path']} just before the switch: {answer}")
