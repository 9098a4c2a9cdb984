# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask a running app, over its own socket or through nginx, whether it works."""

from __future__ import annotations

import http.client
import socket
from dataclasses import dataclass


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


def ask(path: str, host: str, *, unix_socket: str = "", port: int = 80, timeout: float = 5.0) -> Answer:
    """Send one GET over a unix socket, or to 127.0.0.1:`port`, with `host` as Host header; `timeout` in seconds."""
    connection = (
        _UnixConnection(unix_socket, timeout)
        if unix_socket
        else http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    )
    try:
        connection.request("GET", path, headers={"Host": host, "Connection": "close"})
        answer = connection.getresponse()
        return Answer(answer.status, answer.read(2000).decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        return Answer(None, str(error) or type(error).__name__)
    finally:
        connection.close()


def healthy(answer: Answer, expected: list[int]) -> bool:
    """Tell whether an answer is one of the expected statuses or, when none is expected, any below 500."""
    if answer.status is None:
        return False
    return answer.status in expected if expected else answer.status < 500
