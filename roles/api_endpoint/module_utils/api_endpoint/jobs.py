# SPDX-License-Identifier: GPL-3.0-or-later
"""Work on the host that outlives the connection: waited for at once (`detached`), or found again (`Background`)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.errors import DeployError, describe_error
from ansible.module_utils.api_endpoint.files import read_json, write_json
from ansible.module_utils.api_endpoint.lock import is_locked

FOLDER = "/run"


def detached(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run `work` in a process of its own session and return its result, which must be JSON; wait for it.

    When the connection drops, the process that waits is gone, and the one that works is not. An exception of `work`
    is raised here as DeployError with the same words.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            os.setsid()
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
                signal.signal(number, signal.SIG_IGN)
            nothing = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(nothing, standard)
            try:
                answer: dict[str, Any] = {"result": work()}
            except Exception as error:
                answer = {"error": describe_error(error)}
            with os.fdopen(writing, "w", encoding="utf-8") as pipe:
                json.dump(answer, pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    if not text:
        raise DeployError(
            "The process that did the work on the host was killed. Run again: the next run repairs what it left."
        )
    answer = json.loads(text)
    if "error" in answer:
        raise DeployError(answer["error"])
    return dict(answer["result"])


class Background:
    """One piece of work at a time, in a process of its own, under a name.

    `<name>.alive` is locked by the process as long as it lives; `<name>.json` says what it does: `task` (what it was asked
    for), `pid`, `text` (how far it is), and at the end `result` or `error`. A reboot clears both.
    """

    def __init__(self, name: str, folder: str = FOLDER, does: str = "brings the data") -> None:
        self.does = does
        self.alive = Path(folder, f"{name}.alive")
        self.file = Path(folder, f"{name}.json")

    def state(self) -> dict[str, Any]:
        """Return what the process last said; empty when there was none."""
        try:
            return read_json(self.file) or {}
        except DeployError:
            return {}

    def is_alive(self) -> bool:
        """Tell whether a process works."""
        return is_locked(self.alive)

    def begin(
        self,
        task: str,
        work: Callable[[Callable[[str], None]], dict[str, Any]],
        *,
        keeps_lock: bool = False,
    ) -> bool:
        """Start `work`, which gets a function to say how far it is; or, when it is at the same task already, let it go on.

        A process that is at another task is ended first: what it has fetched so far stays. With `keeps_lock` it has the lock
        of the run that starts it for as long as it works. Return whether it was started.
        """
        if self.is_alive():
            if self.state().get("task") == task:
                return False
            self.end()
        handle = os.open(self.alive, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        write_json(self.file, {"task": task, "text": "starting"}, 0o600)
        if os.fork() == 0:
            try:
                self._work(task, work, handle, keeps_lock)
            finally:
                os._exit(0)
        os.close(handle)
        return True

    def _work(
        self,
        task: str,
        work: Callable[[Callable[[str], None]], dict[str, Any]],
        alive: int,
        keeps_lock: bool,
    ) -> None:
        """Do the work, in the child process."""
        os.setsid()
        # What the parent holds open, the lock of its run above all, must not be held any longer by the child.
        for name in [] if keeps_lock else os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) != alive:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        known = {"task": task, "pid": os.getpid()}
        last = 0.0

        def say(text: str) -> None:
            nonlocal last
            if time.monotonic() - last >= 1:
                last = time.monotonic()
                write_json(self.file, {**known, "text": text}, 0o600)

        try:
            answer: dict[str, Any] = {"result": work(say)}
        except Exception as error:
            answer = {"error": describe_error(error)}
        write_json(self.file, {**known, **answer}, 0o600)

    def end(self, seconds: float = 10) -> None:
        """End the process and what it has started."""
        pid = self.state().get("pid")
        deadline = time.monotonic() + seconds
        while pid and self.is_alive():
            number = signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL
            try:
                os.killpg(int(pid), number)
            except ProcessLookupError:
                break
            time.sleep(0.2)

    def wait(self, task: str, seconds: float) -> dict[str, Any]:
        """Wait `seconds` at most for the end of a task; return {"text": ...}, or {"result": ...} when it is done.

        Raise DeployError with its words when it failed, and when its process is gone without a word.
        """
        deadline = time.monotonic() + seconds
        while True:
            alive = self.is_alive()
            state = self.state()
            if state.get("task") != task:
                raise DeployError(
                    "Another run has started other work on this host meanwhile. Run again."
                )
            if "error" in state:
                raise DeployError(state["error"])
            if "result" in state:
                return {"result": state["result"]}
            if not alive:
                raise DeployError(
                    f"The process that {self.does} was killed, or the host was restarted. Run again: what was fetched "
                    "is still there."
                )
            if time.monotonic() >= deadline:
                return {"text": state.get("text", "")}
            time.sleep(0.2)
