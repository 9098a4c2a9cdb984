"""The workers, run by gunicorn itself with the role's settings; each test has its own server."""

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from outcomes import wait_until
from rendering import write_gunicorn_settings
from uwsgi import packet

APP = """
import json, os, pathlib, threading, time, uuid
from urllib.parse import parse_qs

def app(environ, start_response):
    asked = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
    if "age" in asked:  # as if the request had begun so many seconds ago
        WORKER.in_flight[threading.get_ident()].alive_at -= float(asked["age"])
    if "hold" in asked:
        pathlib.Path(f"held-{asked['hold']}-{uuid.uuid4().hex}").touch()
        while not pathlib.Path(f"release-{asked['hold']}").exists():
            time.sleep(0.01)
    if "parts" in asked:
        return parts(asked, start_response)
    if "sleep" in asked:
        time.sleep(float(asked["sleep"]))
    if "leave" in asked:
        raise SystemExit
    told = {
        "pid": os.getpid(), "thread": threading.get_ident(), "multithread": environ["wsgi.multithread"],
        "start": environ.get("HTTP_X_REQUEST_START"), "body": environ["wsgi.input"].read().decode(),
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]

def parts(asked, start_response):
    start_response("200 OK", [("Content-Type", asked["type"])])
    for number in range(int(asked["parts"])):
        yield b"part %d\\n" % number
        WORKER.in_flight[threading.get_ident()].alive_at -= float(asked.get("silence", 0))
        if "until" in asked:
            name = f"{asked['until']}-{uuid.uuid4().hex}"
            pathlib.Path(f"held-{name}").touch()
            while not (pathlib.Path(f"release-{asked['until']}").exists() or pathlib.Path(f"release-{name}").exists()):
                time.sleep(0.01)
        time.sleep(0.2)
"""
# The app gets at its worker; a burst is an overload after a moment.
SETTINGS = """
def post_worker_init(worker):
    import its
    its.WORKER = worker

def pre_request(worker, req):
    worker.log.info("before %s %s %s", req.method, req.uri, ("HOST", "x") in req.headers)

def post_request(worker, req, environ, resp):
    worker.log.info("after %s %s %s", req.path, environ.get("RAW_URI"), resp.status)

import api_endpoint_worker
api_endpoint_worker.BURST_SECONDS = api_endpoint_worker.FILLING_BURST_SECONDS = 0.2
"""


@dataclass
class Gunicorn:
    """A running server."""

    process: subprocess.Popen
    folder: Path

    @property
    def errors(self) -> str:
        return (self.folder / "error.log").read_text()

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(300)
        client.connect(str(self.folder / "socket"))
        return client

    def exchange(self, path="/", waited=None, body=b"") -> bytes:
        """Send a request as nginx does, which got it `waited` seconds ago; return the answer, empty when there is none."""
        start = {}
        if waited is not None:
            start = {
                "HTTP_X_REQUEST_START": f"t={time.time() - waited:.3f} bucket=0 concurrency=128"
            }
        with contextlib.suppress(OSError), self.connect() as client:
            client.sendall(
                packet(path, REQUEST_METHOD="POST", CONTENT_LENGTH=str(len(body)), **start) + body
            )
            return b"".join(iter(lambda: client.recv(65536), b""))
        return b""

    def ask(self, path="/", waited=None, body=b"") -> tuple[int, dict]:
        """Return status (0: no answer) and JSON."""
        answer = self.exchange(path, waited, body)
        if not answer:
            return 0, {}
        text = answer.partition(b"\r\n\r\n")[2]
        return int(answer.split()[1]), json.loads(text) if text.startswith(b"{") else {}

    def held(self, name: str) -> int:
        """Return how many requests for ?hold=name the app has."""
        return len(list(self.folder.glob(f"held-{name}-*")))

    def release(self, name: str) -> None:
        """Let the app answer the requests for ?hold=name."""
        (self.folder / f"release-{name}").touch()

    def workers(self) -> set[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return {int(pid) for pid in children.split()}


@pytest.fixture
def gunicorn(tmp_path):
    """Return a function that starts gunicorn with options; it is stopped after the test."""
    started = []

    def start(*options: str, **variables) -> Gunicorn:
        write_gunicorn_settings(tmp_path, SETTINGS, api_endpoint_server_names=["x"], **variables)
        (tmp_path / "its.py").write_text(APP)
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "--config", "gunicorn.conf.py"),
                *(
                    "--bind",
                    f"unix:{tmp_path}/socket",
                    "--timeout",
                    "300",
                    "--graceful-timeout",
                    "300",
                ),
                *(
                    "--access-logfile",
                    "access.log",
                    "--error-logfile",
                    "error.log",
                    *options,
                    "its:app",
                ),
            ],
            cwd=tmp_path, stderr=(tmp_path / "stderr").open("w"),
            env={**os.environ, "RUNTIME_DIRECTORY": str(tmp_path)},
        )  # fmt: skip
        started.append(process)
        server = Gunicorn(process, tmp_path)
        wait_until(lambda: server.ask()[0] == 200, "gunicorn answers")
        return server

    yield start
    for process in started:
        # Its workers end with it, whatever they are at; the tests below tell.
        process.kill()
        process.wait()
        for held in tmp_path.glob("held-*"):
            (tmp_path / f"release-{held.name.split('-')[1]}").touch()


def ask_all(server, count, path, workers=32):
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda _: server.ask(path), range(count)))


@contextlib.contextmanager
def asked(server, path, count=1):
    """Ask, in threads, while the block lasts; yield what will be the answers."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        yield [pool.submit(server.ask, path) for _ in range(count)]


def test_an_answer(gunicorn):
    server = gunicorn("--workers", "1", "--threads", "3")
    status, told = server.ask(body="ü".encode() * 300_000, waited=0.1)
    assert status == 200
    assert told["body"] == "ü" * 300_000
    assert told["multithread"] is True
    assert told["start"] is None


def test_gunicorns_hooks_are_called(gunicorn):
    server = gunicorn("--workers", "1")
    assert server.ask("/a%20b?c=d")[0] == 200
    assert "before POST /a%20b?c=d True\n" in server.errors
    wait_until(lambda: "after /a%20b /a%20b?c=d 200 OK\n" in server.errors, "the second hook")


def test_gunicorns_own_log_knows_of_requests(gunicorn):
    words = "%(m)s %(U)s %(q)s %(s)s %(B)s %({host}i)s %({content-type}o)s %({wsgi.url_scheme}e)s|"
    server = gunicorn("--workers", "1", api_endpoint_gunicorn_settings={"access_log_format": words})
    assert server.ask("/a%20b?c=d")[0] == 200
    log = server.folder / "access.log"
    wait_until(lambda: "c=d" in log.read_text(), "a line in the log")
    line = log.read_text().splitlines()[-1]
    assert line.startswith("POST /a b c=d 200 ")
    assert line.endswith(" x application/json http|")


def test_with_one_thread_the_app_hears_that_it_is_alone(gunicorn):
    assert gunicorn("--workers", "1", "--threads", "1").ask()[1]["multithread"] is False


def test_as_many_wait_at_a_time_as_there_are_threads(gunicorn):
    server = gunicorn("--workers", "2", "--threads", "8")
    with asked(server, "/?hold=a", 17) as answers:
        wait_until(lambda: server.held("a") == 16, "16 requests are in the app")
        assert not any(answer.done() for answer in answers)
        server.release("a")
        told = [answer.result() for answer in answers]
    assert {status for status, _ in told} == {200}
    assert len({(answer["pid"], answer["thread"]) for _, answer in told}) == 16


def test_a_request_that_hangs_costs_its_worker_and_no_other_request(gunicorn):
    server = gunicorn("--workers", "2", "--threads", "2")
    wait_until(lambda: len(server.workers()) == 2, "two workers")
    before, statuses = server.workers(), []

    def is_replaced():
        statuses.append(server.ask()[0])
        return len(server.workers()) == 2 and len(before & server.workers()) == 1

    with asked(server, "/?hold=a&age=600") as hanging:
        wait_until(is_replaced, "the worker is replaced")
        assert hanging[0].result()[0] == 0
    assert set(statuses) == {200}
    assert "/ took longer than 300 s. This worker is replaced." in server.errors


EVENTS = "/?type=text/event-stream&parts"


def test_a_stream_may_take_longer_than_the_time_out_as_long_as_it_sends(gunicorn):
    server = gunicorn("--workers", "1", "--threads", "2")
    before = server.workers()
    answer = server.exchange(f"{EVENTS}=16&silence=50")  # of 300 s, each time
    assert answer.endswith(b"".join(b"part %d\n" % number for number in range(16)))
    assert server.workers() == before


@contextlib.contextmanager
def begun(server, path):
    """Ask for a stream, and yield its connection once the first part is there."""
    with server.connect() as client:
        client.sendall(packet(path))
        received = b""
        while b"part 0" not in received:
            more = client.recv(65536)
            assert more, received
            received += more
        yield client


def test_a_silent_stream_is_cut_off_and_costs_no_worker(gunicorn):
    server = gunicorn("--workers", "1", "--threads", "4")
    before = server.workers()
    with asked(server, "/?hold=b") as other:
        with begun(server, f"{EVENTS}=2&until=a&silence=600") as client:
            with pytest.raises(ConnectionResetError):  # nginx takes a mere end for the whole answer
                client.recv(65536)
            assert server.ask()[0] == 200
            server.release("a")
        server.release("b")
        assert other[0].result()[0] == 200
    assert server.errors.count("/ sent nothing for 300 s. Its stream is cut off.") == 1
    assert server.workers() == before
    # Its thread is free again: as many requests as threads are answered at a time.
    with asked(server, "/?hold=d", 4):
        wait_until(lambda: server.held("d") == 4, "four requests are in the app")
        server.release("d")


def test_a_worker_is_replaced_when_silent_streams_have_half_of_its_threads(gunicorn):
    server = gunicorn("--workers", "1", "--threads", "2")
    before = server.workers()
    with begun(server, f"{EVENTS}=2&until=a&silence=600"):
        wait_until(lambda: server.workers() and server.workers() != before, "it is replaced")
    assert server.ask()[0] == 200


def test_streams_have_a_share_of_the_places_of_all_workers(gunicorn):
    # Half of 2 x 4.
    server = gunicorn(
        "--workers", "2", "--threads", "4", api_endpoint_workers=2, api_endpoint_threads=4
    )
    with contextlib.ExitStack() as streams:
        for name in "abcd":
            streams.enter_context(begun(server, f"{EVENTS}=2&until={name}"))
        for kind in ("text/event-stream", "application/x-ndjson"):
            head, _, body = server.exchange(f"/?type={kind}&parts=1").partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 "), kind
            assert b"X-Load-Shed: yes" in head
            assert json.loads(body)["error"]["message"].startswith("Too many streams")
        assert server.ask()[0] == 200, "requests that are none are answered"
        server.release("a")
        wait_until(lambda: server.exchange(f"{EVENTS}=1").startswith(b"HTTP/1.1 200 "), "a place")
        for name in "bcd":
            server.release(name)


def test_short_answers_of_unknown_length_take_no_place(gunicorn):
    server = gunicorn("--workers", "1", "--threads", "4", api_endpoint_stream_share=1)
    with begun(server, "/?type=text/csv&parts=2&until=a"), begun(server, f"{EVENTS}=2&until=a"):
        assert server.exchange("/?type=text/csv&parts=1").startswith(b"HTTP/1.1 503 ")
        server.release("a")
    wait_until(lambda: server.exchange(f"{EVENTS}=1").startswith(b"HTTP/1.1 200 "), "a place")


def test_without_a_share_there_are_no_streams(gunicorn):
    server = gunicorn("--workers", "1", api_endpoint_stream_share=0)
    assert server.exchange(f"{EVENTS}=1").startswith(b"HTTP/1.1 503 ")
    assert server.ask()[0] == 200


def test_a_version_that_stops_gives_streams_more_time_than_others(gunicorn):
    server = gunicorn("--workers", "1", "--threads", "4", api_endpoint_graceful_timeout=1)
    with asked(server, "/?hold=b") as other:
        wait_until(lambda: server.held("b") == 1, "a request is in the app")
        with begun(server, f"{EVENTS}=2&until=a") as client:
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: not (server.folder / "socket").exists(), "it takes no connections")
            server.release("a")
            assert client.recv(65536) == b"part 1\n"
            assert client.recv(65536) == b""
        assert server.process.wait(300) == 0
        assert other[0].result()[0] == 0


def test_the_log_tells_how_many_streams_a_stop_has_cut_off(gunicorn):
    server = gunicorn(
        *("--workers", "1", "--threads", "4", "--graceful-timeout", "4"),
        api_endpoint_graceful_timeout=1,
    )
    with (
        begun(server, f"{EVENTS}=2&until=a") as one,
        begun(server, f"{EVENTS}=2&until=a") as two,
    ):
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(300)
        for client in (one, two):
            with pytest.raises(ConnectionResetError):
                client.recv(65536)
    assert "Cut off 2 streams that had not ended" in server.errors


def test_a_worker_that_is_replaced_gives_the_others_their_time(gunicorn):
    server = gunicorn("--workers", "1", "--threads", "2")
    with asked(server, "/?hold=b") as other:
        wait_until(lambda: server.held("b") == 1, "the other request is in the app")
        with asked(server, "/?hold=a&age=600") as hanging:
            wait_until(lambda: "took longer" in server.errors, "the worker is to be replaced")
            server.release("b")
            assert other[0].result()[0] == 200, "it was cut off with the one that hung"
            assert hanging[0].result()[0] == 0


def test_no_request_is_lost_when_workers_are_replaced_by_number(gunicorn):
    server = gunicorn(
        "--workers", "2", "--threads", "4", "--max-requests", "50", "--max-requests-jitter", "10"
    )
    answers = ask_all(server, 600, "/?sleep=0.002")
    assert Counter(status for status, _ in answers) == {200: 600}
    assert len({told["pid"] for _, told in answers}) > 3


def test_requests_in_flight_are_finished_when_it_stops(gunicorn):
    server = gunicorn("--workers", "2", "--threads", "4")
    with asked(server, "/?hold=a", 8) as answers:
        wait_until(lambda: server.held("a") == 8, "all requests are in the app")
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not (server.folder / "socket").exists(), "it takes no more connections")
        server.release("a")
        assert [answer.result()[0] for answer in answers] == [200] * 8
    assert server.process.wait(300) == 0


def test_a_stop_takes_no_longer_than_it_may(gunicorn):
    server = gunicorn("--workers", "1", "--threads", "2", "--graceful-timeout", "1")
    with asked(server, "/?hold=a") as hanging:
        wait_until(lambda: server.held("a") == 1, "the request is in the app")
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60)
        assert hanging[0].result()[0] == 0


def test_workers_end_when_gunicorn_is_killed(gunicorn):
    server = gunicorn("--workers", "2", "--threads", "2")
    workers = server.workers()
    server.process.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in workers), "the workers end")


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_clients_that_leave_or_send_nonsense_harm_no_other(gunicorn):
    server = gunicorn("--workers", "1", "--threads", "2")
    for sent in (
        b"",
        packet()[:9],
        packet("/", CONTENT_LENGTH="9") + b"abc",
        b"GET / HT",
        b"\x16\x03\x01\x00",
        b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc",
    ):
        with server.connect() as client:
            client.sendall(sent)
    assert server.ask("/?leave=1")[0] == 500
    with contextlib.suppress(OSError), server.connect() as client:
        client.sendall(packet("/?sleep=0.2"))
    assert {status for status, _ in ask_all(server, 20, "/")} == {200}
    assert len(server.workers()) == 1
    assert server.errors.count("Traceback") == server.errors.count("\nSystemExit\n") == 1


def test_requests_are_shed_while_more_come_than_can_be_answered(gunicorn):
    """tests/test_worker_queue.py asks which ones; here, how that looks from outside."""
    server = gunicorn("--workers", "1", "--threads", "1")
    answers = []

    def is_shed():
        answers.append(server.exchange("/?sleep=0.1", waited=9))
        return b" 503 " in answers[-1].partition(b"\r\n")[0]

    wait_until(is_shed, "a request is shed", seconds=60)
    head, _, body = answers[-1].partition(b"\r\n\r\n")
    assert b"X-Load-Shed: yes" in head
    assert b"Content-Length: %d" % len(body) in head
    assert json.loads(body)["error"]["status"] == 503
    assert answers[0].startswith(b"HTTP/1.1 200 "), "the first that is late may wait"
    # Those that nginx did not send, and those whose clock was set.
    for waited in (None, -9, 3 * 86400):
        assert server.ask("/", waited=waited)[0] == 200, waited


def test_the_access_log_moves_on_when_it_is_rotated(gunicorn):
    server = gunicorn("--workers", "1", "--threads", "2")
    log = server.folder / "access.log"
    log.rename(server.folder / "access.log.1")
    server.process.send_signal(signal.SIGUSR1)

    def is_used():
        return server.ask("/after")[0] == 200 and log.exists() and "/after" in log.read_text()

    wait_until(is_used, "a line in the new log")


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {
            "api_endpoint_worker_class": "sync",
            "api_endpoint_gunicorn_settings": {"access_log_format": "%(U)s"},
        },
    ],
    ids=["the role's classes", "gunicorn's own"],
)
def test_a_log_that_cannot_be_opened_ends_nothing(gunicorn, variables):
    server = gunicorn("--workers", "1", **variables)
    log, stderr, workers = server.folder / "access.log", server.folder / "stderr", server.workers()
    log.rename(server.folder / "access.log.1")
    log.mkdir()  # in its place
    server.process.send_signal(signal.SIGUSR1)
    told = (
        f"Cannot open the log {log}: Is a directory. Its lines are dropped until it can be opened."
    )
    wait_until(lambda: stderr.read_text().count(told) == 2, "gunicorn and its worker have said so")
    assert {status for status, _ in ask_all(server, 20, "/lost")} == {200}
    assert stderr.read_text().splitlines() == [told, told], "once each"
    log.rmdir()
    assert server.ask("/kept")[0] == 200
    wait_until(log.exists, "a line in the log")
    assert "/lost" not in log.read_text()
    assert server.workers() == workers, "somebody was replaced"
