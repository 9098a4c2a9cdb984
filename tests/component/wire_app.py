"""The app of test_wire.py: each route is one thing that a WSGI app may do, or must not."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs
from wsgiref.validate import validator

TEXT = [("Content-Type", "text/plain")]
CALLED = Path("called")
CLOSED = Path("closed")  # a line for each iterable that was closed


class Closing:
    """An iterable of parts, which notes that it was closed."""

    def __init__(self, *parts):
        self.parts = iter(parts)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.parts)

    def close(self):
        with CLOSED.open("a") as file:
            file.write("closed\n")


def asked(environ, name):
    return parse_qs(environ["QUERY_STRING"])[name][0]


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)


def fail():
    raise RuntimeError("as asked")


# --- what an app may do


def environ(environ, start_response):
    start_response("200 OK", TEXT)
    told = {name: value for name, value in environ.items() if isinstance(value, (str, int, tuple))}
    return [json.dumps({**told, "body": environ["wsgi.input"].read(-1).decode("latin-1")}).encode()]


def with_length(environ, start_response):
    start_response("200 OK", [*TEXT, ("Content-Length", "5")])
    return [b"", b"he", b"llo"]


def without_length(environ, start_response):
    start_response("202 Accepted and more", TEXT)
    return Closing(b"he", b"", b"llo")


def empty(environ, start_response):
    start_response("200 OK", TEXT)
    return []


def no_content(environ, start_response):
    start_response("204 No Content", [])
    return []


def not_modified(environ, start_response):
    start_response("304 Not Modified", [("ETag", '"x"')])
    return []


def by_write(environ, start_response):
    write = start_response("200 OK", TEXT)
    write(b"he")
    write(b"l")
    return [b"lo"]


def as_it_comes(environ, start_response):
    start_response("200 OK", [*TEXT, ("X-Accel-Buffering", "no")])
    yield b"first"
    wait_for(asked(environ, "until"))
    yield b"second"


def in_pieces(environ, start_response):
    body, sizes = environ["wsgi.input"], [1, 2, 1000, 70_000]
    parts = [body.read(size) for size in sizes]
    parts += iter(lambda: body.read(100_000), b"")
    start_response("200 OK", TEXT)
    return [b"".join(parts)]


def in_lines(environ, start_response):
    body = environ["wsgi.input"]
    lines = [body.readline(), body.readline(3), *body, *body.readlines()]
    start_response("200 OK", TEXT)
    return [b"|".join(lines)]


def unread(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"never read"]


def change_of_mind(environ, start_response):
    start_response("200 OK", [*TEXT, ("X-First", "1")])
    try:
        fail()
    except RuntimeError:
        start_response("418 Teapot", [*TEXT, ("X-Second", "2")], sys.exc_info())
    return [b"second"]


def two_cookies(environ, start_response):
    start_response(
        "200 OK", [*TEXT, ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Bytes", "\xe9!")]
    )
    return [b"x"]


def own_date(environ, start_response):
    start_response("200 OK", [*TEXT, ("Server", "mine"), ("Date", "never")])
    return [b"x"]


def a_file(environ, start_response):
    start_response("200 OK", TEXT)
    return environ["wsgi.file_wrapper"](Path(__file__).open("rb"), 1000)


def large(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"x" * 3_000_000, b"y" * 100]


def to_the_log(environ, start_response):
    environ["wsgi.errors"].write("a word to wsgi.errors\n")
    environ["wsgi.errors"].flush()
    return empty(environ, start_response)


# --- what it must not do


def body_of_none(environ, start_response):
    start_response(asked(environ, "status"), [*TEXT, ("Content-Length", "4")])
    return [b"body"]


def hop_by_hop(environ, start_response):
    names = ("Connection", "Transfer-Encoding", "Keep-Alive", "Upgrade")
    start_response("200 OK", [*TEXT, *((name, "x") for name in names)])
    return [b"x"]


def headers(environ, start_response):
    start_response(asked(environ, "status"), [(asked(environ, "name"), asked(environ, "value"))])
    return [b"x"]


def header_of_bytes(environ, start_response):
    start_response("200 OK", [(b"X-A", b"b")])
    return [b"x"]


def text(environ, start_response):
    start_response("200 OK", TEXT)
    return Closing("text")


def no_start(environ, start_response):
    return [b"x"]


def two_starts(environ, start_response):
    start_response("200 OK", TEXT)
    start_response("200 OK", TEXT)
    return [b"x"]


def too_much(environ, start_response):
    start_response("200 OK", [*TEXT, ("Content-Length", "4")])
    return [b"fo", b"ur and more"]


def failing(environ, start_response):
    raise OSError("a fault of the app, not of the connection")


def die(environ, start_response):
    """Note that it was called, and die when it is time, without an answer."""
    (CALLED.with_name("called-twice") if CALLED.exists() else CALLED).touch()
    wait_for(asked(environ, "until"))
    os.kill(os.getpid(), signal.SIGKILL)


def cut_off(environ, start_response):
    """Fail in the middle: after ?bytes, with a ?length or none, by ?how."""
    length = asked(environ, "length")
    size = len(environ["wsgi.input"].read())
    start_response("200 OK", [*TEXT, *([("Content-Length", length)] if length != "none" else [])])
    yield b"x" * (int(asked(environ, "bytes")) + size)
    how = asked(environ, "how")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "leave":
        raise SystemExit
    elif how == "exc_info":
        try:
            fail()
        except RuntimeError:
            start_response("500 Too Late", TEXT, sys.exc_info())
    elif how == "fail":
        fail()


GOOD = (
    with_length, without_length, empty, no_content, not_modified, by_write, as_it_comes, in_pieces, unread, change_of_mind,
    two_cookies, own_date, a_file, large, to_the_log,
)  # fmt: skip
# The validator has readline() without a size.
OTHERS = (
    in_lines, body_of_none, hop_by_hop, headers, header_of_bytes, text, no_start, two_starts, too_much, failing,
    cut_off, die,
)  # fmt: skip
ROUTES = {f"/{route.__name__}": route for route in OTHERS} | {
    f"/{route.__name__}": validator(route) for route in GOOD
}


def app(environ_, start_response):
    return ROUTES.get(environ_["PATH_INFO"], environ)(environ_, start_response)
