"""The workers, run by gunicorn itself with the role's settings, each test with a server of its own."""

import concurrent.futures
import contextlib
import importlib.util
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROLE
from test_templates import render  # noqa: F401

APP = """
import json, os, threading, time
from urllib.parse import parse_qs

def app(environ, start_response):
    asked = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
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
"""


@dataclass
class Gunicorn:
    """A running server."""

    process: subprocess.Popen
    folder: Path

    @property
    def errors(self) -> str:
        return (self.folder / "error.log").read_text()

    def lines(self) -> list[str]:
        return (self.folder / "access.log").read_text().splitlines()

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(20)
        client.connect(str(self.folder / "socket"))
        return client

    def ask(self, path="/", waited=None, head="", body=b"", crowd=0, places=128) -> tuple[int, dict]:
        """Ask as nginx does; `waited` tells how many seconds ago that was. Status 0: no answer."""
        if waited is not None:
            head += f"X-Request-Start: t={time.time() - waited:.3f} crowd={crowd} places={places}\r\n"
        if body:
            head += f"Content-Length: {len(body)}\r\n"
        with contextlib.suppress(OSError), self.connect() as client:
            client.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n".encode() + body)
            answer = b"".join(iter(lambda: client.recv(65536), b""))
            if answer:
                head, _, text = answer.partition(b"\r\n\r\n")
                if b"chunked" in head:
                    assert answer.split()[1] != b"503", "an answer without a length"
                    text = text.split(b"\r\n")[1]
                return int(answer.split()[1]), json.loads(text) if text.startswith(b"{") else {}
        return 0, {}

    def workers(self) -> set[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return {int(pid) for pid in children.split()}


@pytest.fixture(scope="module")
def settings(render):  # noqa: F811
    return render("gunicorn.conf.py.j2")


@pytest.fixture
def gunicorn(settings, tmp_path):
    """Return a function that starts gunicorn with some of its options; it is stopped after the test."""
    started = []

    def start(*options: str) -> Gunicorn:
        (tmp_path / "gunicorn.conf.py").write_text(settings)
        (tmp_path / "its.py").write_text(APP)
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "--config", "gunicorn.conf.py", "--bind", f"unix:{tmp_path}/socket"),
                *("--access-logfile", "access.log", "--error-logfile", "error.log", *options, "its:app"),
            ],
            cwd=tmp_path,
        )
        started.append(process)
        server = Gunicorn(process, tmp_path)
        wait_until(lambda: (tmp_path / "socket").exists() and server.ask()[0] == 200)
        return server

    yield start
    for process in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.terminate()
            process.wait(10)
        process.kill()
        process.wait()


def wait_until(true, seconds=15):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.02)


def crowd(server, count, path, *, workers=32, **how):
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda _: server.ask(path, **how), range(count)))


def test_an_answer(gunicorn):
    server = gunicorn("--workers", "1", "--threads", "3")
    status, told = server.ask(body="ü".encode() * 300_000, waited=0.1)
    assert status == 200
    assert told["body"] == "ü" * 300_000
    assert told["multithread"] is True
    assert told["start"] is None
    assert len({answer["thread"] for _, answer in crowd(server, 6, "/?sleep=0.2", workers=6)}) == 3


def test_with_one_thread_the_app_hears_that_it_is_alone(gunicorn):
    assert gunicorn("--workers", "1", "--threads", "1").ask()[1]["multithread"] is False


def test_as_many_wait_at_a_time_as_there_are_threads(gunicorn):
    server = gunicorn("--workers", "2", "--threads", "8")
    begun = time.monotonic()
    assert {status for status, _ in crowd(server, 16, "/?sleep=1")} == {200}
    assert time.monotonic() - begun < 1.9


def test_what_hangs_costs_its_worker_and_nobody_else(gunicorn):
    server = gunicorn("--workers", "2", "--threads", "2", "--timeout", "1", "--graceful-timeout", "4")
    wait_until(lambda: len(server.workers()) == 2)
    before = server.workers()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(server.ask, "/?sleep=600")
        time.sleep(0.1)
        others = [server.ask()[0] for _ in range(400) if not time.sleep(0.01)]
        assert hanging.result()[0] == 0
    assert set(others) == {200}
    wait_until(lambda: len(server.workers()) == 2 and len(before & server.workers()) == 1)
    assert "/ took longer than 1 s. This worker is replaced." in server.errors


def test_a_worker_that_is_replaced_gives_the_others_their_time(gunicorn):
    server = gunicorn("--workers", "1", "--threads", "2", "--timeout", "2", "--graceful-timeout", "5")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(server.ask, "/?sleep=600")
        time.sleep(1.6)
        assert server.ask("/?sleep=1.5")[0] == 200, "it was cut off with the one that hung"
        assert hanging.result()[0] == 0


def test_without_a_time_out_nothing_is_late(gunicorn):
    server = gunicorn("--workers", "1", "--threads", "2", "--timeout", "0")
    assert server.ask("/?sleep=2.5")[0] == 200
    assert "took longer" not in server.errors


def test_no_request_is_lost_when_workers_are_replaced_by_number(gunicorn):
    server = gunicorn("--workers", "2", "--threads", "4", "--max-requests", "50", "--max-requests-jitter", "10")
    answers = crowd(server, 600, "/?sleep=0.01")
    assert Counter(status for status, _ in answers) == {200: 600}
    assert len({told["pid"] for _, told in answers}) > 3


def test_requests_in_flight_are_finished_when_it_stops(gunicorn):
    server = gunicorn("--workers", "2", "--threads", "4")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        under_way = [pool.submit(server.ask, "/?sleep=1") for _ in range(8)]
        time.sleep(0.4)
        server.process.send_signal(signal.SIGTERM)
        assert [one.result()[0] for one in under_way] == [200] * 8
    assert server.process.wait(5) == 0


def test_a_stop_takes_no_longer_than_it_may(gunicorn):
    server = gunicorn("--workers", "1", "--threads", "2", "--graceful-timeout", "1")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(server.ask, "/?sleep=600")
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(5)
        assert hanging.result()[0] == 0


def test_workers_end_when_gunicorn_is_killed(gunicorn):
    server = gunicorn("--workers", "2", "--threads", "2")
    workers = server.workers()
    server.process.kill()
    wait_until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() and alive(pid) for pid in workers))


def alive(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"


def test_clients_that_leave_or_send_nonsense_harm_nobody(gunicorn):
    server = gunicorn("--workers", "1", "--threads", "2")
    for sent in (b"", b"GET / HT", b"\x16\x03\x01\x00", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"):
        with server.connect() as client:
            client.sendall(sent)
    assert server.ask("/?leave=1")[0] == 500
    with contextlib.suppress(OSError), server.connect() as client:
        client.sendall(b"POST /?sleep=0.2 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert {status for status, _ in crowd(server, 20, "/")} == {200}
    assert len(server.workers()) == 1
    assert "Traceback" not in server.errors.replace("SystemExit", "") or "SystemExit" in server.errors


def test_a_rush_may_wait(gunicorn):
    """A hundred at once, each of which takes its thread 50 ms, and says that it waits since they came."""
    server = gunicorn("--workers", "1", "--threads", "4")
    begun = time.time()
    head = f"X-Request-Start: t={begun:.3f} crowd=1\r\n"
    assert Counter(status for status, _ in crowd(server, 60, "/?sleep=0.05", workers=60, head=head)) == {200: 60}


def test_a_host_that_is_held_up_for_seconds_sends_nobody_away(gunicorn):
    """As by a disk that has to write: for three seconds everybody waits."""
    server = gunicorn("--workers", "1", "--threads", "2")
    with clients_that_come_again(server, [0] * 24, "/", pause=0.1) as answers:
        time.sleep(1)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            for signum in (signal.SIGSTOP, signal.SIGCONT):
                for worker in server.workers():
                    os.kill(worker, signum)
                time.sleep(0.3 if signum == signal.SIGSTOP else 0.02)
        time.sleep(1)
    assert Counter(status for _, _, status, _, _ in answers) == {200: len(answers)}
    assert max(seconds for _, _, _, seconds, _ in answers) > 0.2, "was anything held up?"


@contextlib.contextmanager
def clients_that_come_again(server, crowds, path, pause, places=128):
    """Let clients ask all the time, one for each number of a crowd; return (when, crowd, status, seconds, what was told)."""
    answers, stop = [], threading.Event()

    def come(crowd):
        while not stop.is_set():
            begun = time.monotonic()
            status, told = server.ask(path, waited=0, crowd=crowd, places=places)
            answers.append((begun, crowd, status, time.monotonic() - begun, told))
            stop.wait(pause)

    clients = [threading.Thread(target=come, args=[crowd]) for crowd in crowds]
    for client in clients:
        client.start()
    yield answers
    stop.set()
    for client in clients:
        client.join()


@pytest.mark.parametrize("crowds", [[0] * 24, range(24)], ids=["of one crowd", "each of its own"])
def test_those_are_sent_away_for_whom_there_is_no_time(gunicorn, crowds):
    server = gunicorn("--workers", "1", "--threads", "2")
    begun = time.monotonic()
    with clients_that_come_again(server, crowds, "/?sleep=0.05", pause=0.02) as answers:
        time.sleep(8)
    steady = [answer for answer in answers if answer[0] > begun + 6]
    statuses = Counter(status for _, _, status, _, _ in steady)
    assert set(statuses) == {200, 503}
    assert statuses[200] > 40, "too many were sent away"
    served = sorted(seconds for _, _, status, seconds, _ in steady if status == 200)
    assert served[len(served) * 9 // 10] < 0.25, "those who are served have waited with the others"
    busy = next(told for _, _, status, _, told in steady if status == 503)
    assert busy["error"]["status"] == 503
    time.sleep(0.1)
    assert [server.ask("/", waited=0)[0] for _ in range(20)] == [200] * 20


def test_those_who_take_the_places_of_others_are_sent_away_sooner(gunicorn):
    server = gunicorn("--workers", "1", "--threads", "2")
    with clients_that_come_again(server, [0] * 24, "/?sleep=0.05", pause=0.02, places=26) as answers:
        time.sleep(3.5)
    assert Counter(status for _, _, status, _, _ in answers)[503] > 40


def test_a_few_who_wait_for_each_other_for_a_moment_are_not_too_many(gunicorn):
    server = gunicorn("--workers", "1", "--threads", "1")
    with clients_that_come_again(server, range(6), "/?sleep=0.004", pause=0) as answers:
        time.sleep(8)
    assert Counter(status for _, _, status, _, _ in answers) == {200: len(answers)}


@pytest.mark.parametrize("path", ["/?sleep=0.05", "/"])
def test_who_asks_for_little_is_not_sent_away_with_who_asks_for_much(gunicorn, path):
    server = gunicorn("--workers", "1", "--threads", "2")
    with (
        clients_that_come_again(server, [0] * 24, "/?sleep=0.05", pause=0.02) as greedy,
        clients_that_come_again(server, range(1, 4), path, pause=0.5) as modest,
    ):
        time.sleep(10)
    assert Counter(status for _, _, status, _, _ in greedy)[503] > 40, "was it too much?"
    assert Counter(status for _, _, status, _, _ in modest) == {200: len(modest)}
    assert len(modest) > 15


def test_who_asked_for_much_a_minute_ago_is_as_good_as_anybody(settings):
    now = 1000.0
    loaded = {}
    exec(compile(settings, "gunicorn.conf.py", "exec"), loaded)
    loaded["time"] = SimpleNamespace(monotonic=lambda: now)
    queue = loaded["Queue"]()

    def is_sent_away(number, waited=0.5):
        is_too_long = queue.is_too_long(number, waited, places=8, reading=0.0002)
        if not is_too_long:
            queue.learn(number, 0.05)
        return is_too_long

    def sent_away_of_a_flood(number, beside=None):
        nonlocal now
        counts = Counter()
        for request in range(400):
            now += 0.01
            finds_a_thread = queue.is_overloaded and request % 5 == 0
            counts[number] += is_sent_away(number, 0.0 if finds_a_thread else 0.5)
            if beside and request % 50 == 25:
                counts[beside] += is_sent_away(beside)
        return counts

    assert sent_away_of_a_flood("1")["1"] > 200
    now += 60
    found = sent_away_of_a_flood("2", beside="1")
    assert found["2"] > 200
    assert found["1"] == 0


def test_who_comes_past_nginx_is_never_sent_away(gunicorn):
    server = gunicorn("--workers", "1", "--threads", "1")
    end = time.monotonic() + 6
    while time.monotonic() < end:
        server.ask("/?sleep=0.05", waited=9)
        time.sleep(0.02)
    assert server.ask("/", waited=9)[0] == 503
    assert server.ask("/", waited=-9)[0] == 200, "a clock was set back"
    assert server.ask("/", waited=3 * 86400)[0] == 200, "a clock was set forward"
    assert server.ask("/")[0] == 200
    assert server.ask("/", waited=9)[0] == 503, "one that did not wait for its turn was taken for one that did"


def test_where_an_answer_takes_no_longer_than_sending_away_nobody_is_sent_away(gunicorn):
    """A host that is held up for long enough would send everybody away, and gain no time by it."""
    server = gunicorn("--workers", "1", "--threads", "1")
    end = time.monotonic() + 7
    statuses = Counter()
    while time.monotonic() < end:
        statuses[server.ask("/", waited=9)[0]] += 1
    assert set(statuses) == {200}, statuses
    assert statuses[200] > 500, "it was hardly asked"


def access_logs(logger_class, path, cfg):
    from gunicorn.config import Config

    config = Config()
    for name, value in {**cfg, "accesslog": str(path)}.items():
        config.set(name, value)
    return logger_class(config)


@pytest.mark.parametrize(
    ("query", "referrer", "form"),
    [
        (True, True, '%(t)s "%(r)s" %(s)s %(B)s "%(f)s" %(D)s'),
        (False, False, '%(t)s "%(m)s %(U)s %(H)s" %(s)s %(B)s "-" %(D)s'),
    ],
)
@pytest.mark.parametrize(
    "environ",
    [
        {"RAW_URI": "/a?b=c", "PATH_INFO": "/a"},
        {"RAW_URI": '/"?b="', "PATH_INFO": '/"', "HTTP_REFERER": 'https://x/"y"'},
        {"RAW_URI": "/%C3%BC", "PATH_INFO": "/Ã¼", "HTTP_REFERER": "https://x/Ã¼"},
    ],
)
def test_lines_of_the_access_log_are_those_that_gunicorn_would_write(tmp_path, query, referrer, form, environ):
    from gunicorn.glogging import Logger

    spec = importlib.util.spec_from_file_location("access_log", ROLE / "templates" / "gunicorn" / "access_log.py")
    ours = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ours)
    ours.LOG_QUERY_STRING, ours.LOG_REFERRER = query, referrer
    environ = {"REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1", **environ}
    response = SimpleNamespace(status="404 NOT FOUND", sent=17, headers=[("A", "b")])
    request = SimpleNamespace(headers=[("HOST", "x")])
    lines = []
    try:
        for logger_class in (Logger, ours.AccessLog):
            path = tmp_path / logger_class.__name__
            log = access_logs(logger_class, path, {"access_log_format": form})
            log.now = lambda: "[25/Nov/2026:10:00:00 +0000]"
            log.access(response, request, environ, timedelta(seconds=2, microseconds=5))
            lines.append(path.read_text())
    finally:
        logging.getLogger("gunicorn.access").handlers.clear()
    assert lines[0] == lines[1]
    assert lines[0].endswith(" 2000005\n")


def test_the_access_log_moves_on_when_it_is_rotated(gunicorn):
    server = gunicorn("--workers", "1", "--threads", "2")
    (server.folder / "access.log").rename(server.folder / "access.log.1")
    server.process.send_signal(signal.SIGUSR1)
    wait_until((server.folder / "access.log").exists)
    time.sleep(0.3)
    server.ask("/after")
    assert any("/after" in line for line in server.lines())


def test_a_line_that_finds_no_room_is_not_printed(settings, capsys, monkeypatch):
    monkeypatch.setattr(logging.Handler, "handleError", logging.Handler.handleError)
    loaded = {}
    exec(compile(settings, "gunicorn.conf.py", "exec"), loaded)
    with open("/dev/full", "w") as full:
        handler = logging.StreamHandler(full)
        log = SimpleNamespace(access_log=SimpleNamespace(handlers=[handler]), now=lambda: "[now]")
        environ = {"REQUEST_METHOD": "GET", "RAW_URI": "/marked", "SERVER_PROTOCOL": "HTTP/1.1"}
        loaded["AccessLog"].access(log, SimpleNamespace(status="200 OK", sent=1), None, environ, timedelta())
        said = capsys.readouterr().err
        assert said == "a line of the log is lost: No space left on device\n"
        with contextlib.suppress(OSError):
            full.close()
    logging.getLogger("gunicorn.error").filters.clear()
