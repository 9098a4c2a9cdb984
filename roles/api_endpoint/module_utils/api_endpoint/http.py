# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask a running app, over its own socket or through nginx, whether it works."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

MOST = 1024 * 1024  # bytes of an answer that are looked at


@dataclass(frozen=True)
class Answer:
    """What came back: a status with the beginning of the body, or the reason why nothing did."""

    status: int | None
    text: str

    def __str__(self) -> str:
        """Say it in words for a message."""
        return f"no answer ({self.text})" if self.status is None else f"status {self.status}: {self.text[:300]!r}"


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(
    path: str,
    host: str,
    *,
    unix_socket: str = "",
    port: int = 80,
    timeout: float = 5.0,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    when_sent: Callable[[], None] | None = None,
) -> Answer:
    """Send one request over a unix socket, or to 127.0.0.1:`port`, with `host` as Host header.

    `timeout` is the seconds for all of it, however slowly the answer comes. `when_sent` is called between request and
    answer.
    """
    connection = (
        _UnixConnection(unix_socket, timeout)
        if unix_socket
        else http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    )
    late = threading.Event()

    def give_up(used: socket.socket) -> None:
        late.set()
        with suppress(OSError):
            used.shutdown(socket.SHUT_RDWR)

    timer = None
    try:
        connection.connect()
        timer = threading.Timer(timeout, give_up, [connection.sock])
        timer.start()
        connection.request(method, path, body=body, headers={"Host": host, "Connection": "close", **(headers or {})})
        if when_sent:
            when_sent()
        answer = connection.getresponse()
        text = answer.read(MOST).decode(errors="replace")
        return Answer(None, "timed out") if late.is_set() else Answer(answer.status, text)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(None, "timed out" if late.is_set() else str(error) or type(error).__name__)
    finally:
        if timer:
            timer.cancel()
        connection.close()


def healthy(answer: Answer, expected: list[int]) -> bool:
    """Tell whether an answer is one of the expected statuses or, when none is expected, any below 500."""
    if answer.status is None:
        return False
    return answer.status in expected if expected else answer.status < 500
