# SPDX-License-Identifier: GPL-3.0-or-later
"""Work that ends on the host, whatever becomes of the connection over which it was asked for."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

from ansible.module_utils.api_endpoint_store import StoreError, in_words


def detached(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run `work` in a process of its own session and return its result, which must be JSON; wait for it.

    When the connection drops, the process that waits is gone, and the one that works is not. An exception of `work`
    is raised here as StoreError with the same words.
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
                answer = {"error": in_words(error)}
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
        raise StoreError("The process that did the work on the host was killed. Run again: what it left is put right.")
    answer = json.loads(text)
    if "error" in answer:
        raise StoreError(answer["error"])
    return dict(answer["result"])
