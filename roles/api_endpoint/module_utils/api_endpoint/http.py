# SPDX-License-Identifier: GPL-3.0-or-later
"""The one prober: requests as the web proxy sends them, over a unix socket or to a port; and which answer is healthy."""

from __future__ import annotations

import http.client
import re
import socket
import subprocess
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

MOST_BYTES = 1024 * 1024  # bytes of an answer that are looked at
LOADED = "loaded.invalid"  # the host name under which nginx says, over its proof socket, which configuration it has loaded
STOP_IT = "where nginx belongs. Stop it, or give the endpoint another api_endpoint_port"
LOOPBACK = ("127.0.0.1", "::1")
http.client.__dict__["_MAXHEADERS"] = 2000  # instead of 100; nginx limits their size


@dataclass(frozen=True)
class Answer:
    """What came back: a status with the beginning of the body, or the reason why nothing did."""

    status: int | None
    text: str
    cause: str = ""  # why nginx gave this answer in the app's place, where it did
    location: str = ""  # where a redirect leads to

    def __str__(self) -> str:
        """Say it in words for a message."""
        if self.cause:
            return f"status {self.status} from nginx, not from the app. {self.cause}"
        if self.status is None:
            return f"no answer ({self.text})"
        to = f", a redirect to {self.location!r}" if self.location else ""
        # Of a page its words, which say more than its tags.
        is_page = self.text.lstrip().startswith("<")
        text = " ".join(re.sub(r"<[^>]*>", " ", self.text).split()) if is_page else self.text
        return f"status {self.status}{to}: {text[:300]!r}"


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


def _read(answer: http.client.HTTPResponse, late: threading.Event) -> bytes:
    """Return the beginning of an answer's body, without gzip; when it is late, what has come of it."""
    content = bytearray()
    try:
        while len(content) < MOST_BYTES and (part := answer.read1(MOST_BYTES - len(content))):
            content += part
    except (OSError, http.client.IncompleteRead):
        if not late.is_set():
            raise
    if answer.getheader("Content-Encoding", "").lower() == "gzip":
        with suppress(zlib.error):
            return zlib.decompressobj(wbits=31).decompress(content, MOST_BYTES)
    return bytes(content)


def ask(
    path: str,
    host: str,
    *,
    unix_socket: str = "",
    port: int = 80,
    address: str = LOOPBACK[0],
    timeout: float = 5.0,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    when_sent: Callable[[socket.socket], None] | None = None,
) -> Answer:
    """Send one request over a unix socket, or to `address`:`port`, with `host` as Host header, as one that came by HTTPS.

    `timeout` is the seconds for all of it, however slowly the answer comes. `when_sent` is called between request and
    answer, with the connection.
    """
    connection = (
        _UnixConnection(unix_socket, timeout)
        if unix_socket
        else http.client.HTTPConnection(address, port, timeout=timeout)
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
        given = {name.lower() for name in headers or {}}
        usual = {"Host": host, "Connection": "close", "X-Forwarded-Proto": "https", "Accept": "*/*"}
        sent = {name: value for name, value in usual.items() if name.lower() not in given} | (
            headers or {}
        )
        connection.request(method, path, body=body, headers=sent)
        if when_sent:
            when_sent(connection.sock)
        answer = connection.getresponse()
        content = _read(answer, late)
        is_stream = (
            answer.headers.get_content_type() == "text/event-stream" and content
        )  # which need not end
        if late.is_set() and not is_stream:
            return Answer(None, f"timed out: status {answer.status}, but its body did not end")
        location = answer.getheader("Location", "") if 300 <= answer.status < 400 else ""
        return Answer(answer.status, content.decode(errors="replace"), location=location)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(None, "timed out" if late.is_set() else str(error) or type(error).__name__)
    finally:
        if timer:
            timer.cancel()
        connection.close()


def healthy(answer: Answer, expected: list[int]) -> bool:
    """Tell whether an answer is one of the expected statuses or, when none is expected, any of the app's below 500."""
    if answer.status is None:
        return False
    return (
        answer.status in expected if expected else 200 <= answer.status < 500 and not answer.cause
    )


def loaded_configuration(proof_socket: str) -> str:
    """Return the name of the configuration that nginx has loaded; empty when it does not run, or runs one without a name."""
    answer = ask("/", LOADED, unix_socket=proof_socket, timeout=2)
    return answer.text if answer.status == 200 and re.fullmatch("[0-9a-f]{32}", answer.text) else ""


def listeners(port: int) -> list[str]:
    """Return the command that shows who listens on a TCP port."""
    return [
        "ss",
        "--no-header",
        "--listening",
        "--tcp",
        "--numeric",
        "--processes",
        f"sport = :{port}",
    ]


def programs_in(shown: str) -> list[str]:
    """Return the programs that `listeners` has shown, with their process ids; root alone learns them all."""
    return sorted(
        {f"{name} (process {pid})" for name, pid in re.findall(r'"([^"]+)",pid=(\d+)', shown)}
    )


def programs_on(port: int) -> list[str]:
    """Return the programs that listen on a TCP port."""
    try:
        return programs_in(
            subprocess.run(listeners(port), capture_output=True, text=True, check=False).stdout
        )
    except FileNotFoundError:
        return []


def stranger_on(port: int, host: str, loaded: str) -> str:
    """Say that something else than the endpoint's site of nginx answers a host name on a port; empty when it is not so.

    Where nginx does not run, or does not say what it has loaded (`loaded` is empty), the programs on the port tell. Nothing
    is said of an address on which nobody answers: a request to it says that better.
    """
    programs = programs_on(port)
    others = [program for program in programs if not program.startswith("nginx ")]
    for address in LOOPBACK if loaded else ():
        answer = ask(f"/{loaded}", host, port=port, address=address, timeout=2)
        is_closed = answer.status is None and not answer.text.startswith("timed out")
        if is_closed or answer.text == loaded:
            continue
        if programs and not others:
            return (
                f"another site of nginx answers for {host} on port {port} of {address}. Run site.yml without tags, "
                "which configures the endpoint's site. If it is that way again, remove the other site that has this name"
            )
        return f"{', '.join(others) or 'another program'} answers on port {port} of {address}, {STOP_IT}"
    if not loaded and others:
        return f"{', '.join(others)} listens on port {port}, {STOP_IT}"
    return ""


def ask_through_port(
    path: str, host: str, *, proof_socket: str, port: int, timeout: float
) -> Answer:
    """Send a health request as clients do. It has no answer when another than this endpoint's nginx would give it."""
    if stranger := stranger_on(port, host, loaded_configuration(proof_socket)):
        return Answer(None, stranger)
    return ask(path, host, port=port, timeout=timeout)
