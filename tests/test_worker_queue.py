"""The worker without gunicorn: which requests it sheds, in simulated time. See also tests/component."""

import contextlib
import heapq
import importlib.util
import itertools
import logging
import threading
from collections import Counter
from datetime import timedelta
from types import SimpleNamespace

import pytest
from helpers import ROLE, Clock
from rendering import render

SETTINGS = render("gunicorn.conf.py.j2", api_endpoint_server_names=["x"])


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def loaded(clock, monkeypatch):
    """What the settings define when gunicorn runs them; its time is the clock's."""
    monkeypatch.setattr(logging.Handler, "handleError", logging.Handler.handleError)
    loaded = {}
    exec(compile(SETTINGS, "gunicorn.conf.py", "exec"), loaded)
    loaded["time"] = SimpleNamespace(monotonic=clock.monotonic, time=clock.monotonic, sleep=clock.sleep)
    yield loaded
    logging.getLogger("gunicorn.error").filters.clear()


class Simulation:
    """Clients that ask again and again, and a worker whose threads answer in the order of arrival."""

    READING = 0.0002

    def __init__(self, loaded, clock, threads=2, places=128) -> None:
        self.queue = loaded["Queue"](1, threads)
        self.clock = clock
        self.threads = threads
        self.places = places
        self.answers = []  # (when it was sent, crowd, status, seconds that it took)
        self.order = itertools.count()
        self.coming = []  # (when, order, crowd, seconds of an answer, pause of the client)

    def add(self, crowds, takes, pause) -> None:
        """Add a client for each number of a crowd; it asks again after a pause, or once if None."""
        for number, crowd in enumerate(crowds):
            self.come(self.clock.now + number * 0.0001, crowd, takes, pause)

    def come(self, when, *client) -> None:
        heapq.heappush(self.coming, (when, next(self.order), *client))

    def run(self, seconds, held_up=()) -> Counter:
        """Let time go by; count statuses. `held_up`: spans (begin, end) in which no thread gets on."""
        begun, first = self.clock.now, len(self.answers)
        free = [begun] * self.threads
        while self.coming and self.coming[0][0] < begun + seconds:
            came, _, crowd, takes, pause = heapq.heappop(self.coming)
            at = max(came, heapq.heappop(free))
            for begin, end in held_up:
                if begun + begin <= at < begun + end:
                    at = begun + end
            self.clock.now = at
            if self.queue.is_too_long(str(crowd), at - came, self.places, self.READING):
                status, done = 503, at + self.READING
            else:
                status, done = 200, at + takes
                self.queue.learn(str(crowd), takes)
            self.answers.append((came - begun, crowd, status, done - came))
            heapq.heappush(free, done)
            if pause is not None:
                self.come(done + pause, crowd, takes, pause)
        self.clock.now = max(begun + seconds, *free)
        return Counter(status for _, _, status, _ in self.answers[first:])


@pytest.fixture
def simulation(loaded, clock):
    return lambda **settings: Simulation(loaded, clock, **settings)


def test_a_rush_may_wait(simulation):
    """Sixty at once, each of which takes its thread 50 ms."""
    rush = simulation(threads=4)
    rush.add([1] * 60, 0.05, None)
    assert rush.run(10) == {200: 60}


def test_while_a_host_is_held_up_for_seconds_no_request_is_shed(simulation):
    """As by a disk that has to write: for three seconds every request waits."""
    host = simulation()
    host.add([0] * 24, 0.002, 0.1)  # more than reading takes, so that shedding would be worth it
    assert host.run(6, [(1 + 0.32 * number, 1.3 + 0.32 * number) for number in range(10)])[503] == 0
    assert max(seconds for *_, seconds in host.answers) > 0.2, "was anything held up?"


@pytest.mark.parametrize("crowds", [[0] * 24, range(24)], ids=["of one crowd", "each of its own"])
def test_requests_are_shed_for_which_there_is_no_time(simulation, crowds):
    host = simulation()
    host.add(crowds, 0.05, 0.02)
    host.run(8)
    assert {status for sent, _, status, _ in host.answers if sent < 4} == {200}, "a rush may last"
    steady = [answer for answer in host.answers if answer[0] > 6]
    statuses = Counter(status for _, _, status, _ in steady)
    assert set(statuses) == {200, 503}
    done = [seconds for _, _, status, seconds in steady if status == 200]
    assert len(done) > 40, "too many were shed"
    assert sorted(done)[len(done) * 9 // 10] < 0.25, "those that are answered have waited with the others"
    host.coming.clear()
    host.clock.now += 0.1
    host.add([0], 0.0005, 0.01)
    assert host.run(0.2).keys() == {200}, "later ones pay for it"


def test_requests_that_take_the_places_of_others_are_shed_sooner(simulation):
    host = simulation(places=26)
    host.add([0] * 24, 0.05, 0.02)
    assert host.run(3.5)[503] > 40
    assert min(sent for sent, _, status, _ in host.answers if status == 503) > 0.4


def test_a_few_that_wait_for_each_other_for_a_moment_are_not_too_many(simulation):
    host = simulation(threads=1)
    host.add(range(6), 0.004, 0.0002)
    statuses = host.run(8)
    assert statuses.keys() == {200}
    assert statuses[200] > 1500


@pytest.mark.parametrize("takes", [0.05, 0.0003])
def test_light_clients_are_not_shed_because_of_a_heavy_one(simulation, takes):
    host = simulation()
    host.add([0] * 24, 0.05, 0.02)
    host.add(range(1, 4), takes, 0.5)
    host.run(20)
    statuses = Counter((crowd == 0, status) for _, crowd, status, _ in host.answers)
    assert statuses[True, 503] > 40, "was it too much?"
    assert statuses[False, 503] == 0
    assert statuses[False, 200] > 30


@pytest.mark.parametrize(("takes", "is_shed"), [(0.0008, False), (0.0012, True)])
def test_no_request_is_shed_where_an_answer_takes_no_longer(simulation, takes, is_shed):
    """A host that is held up for long enough would shed all, and gain no time by it."""
    host = simulation(threads=1)
    host.add([0] * 24, takes, 0)
    statuses = host.run(20, [(0.1 * number, 0.1 * number + 0.098) for number in range(200)])
    assert (503 in statuses) == is_shed, statuses
    assert statuses[200] > 100


def test_a_client_that_was_heavy_a_minute_ago_is_as_good_as_any(loaded, clock):
    queue = loaded["Queue"]()

    def is_shed(number, waited=0.5):
        is_too_long = queue.is_too_long(number, waited, places=8, reading=0.0002)
        if not is_too_long:
            queue.learn(number, 0.05)
        return is_too_long

    def shed_of_a_flood(number, beside=None):
        counts = Counter()
        for request in range(400):
            clock.now += 0.01
            finds_a_thread = queue.is_overloaded and request % 5 == 0
            counts[number] += is_shed(number, 0.0 if finds_a_thread else 0.5)
            if beside and request % 50 == 25:
                counts[beside] += is_shed(beside)
        return counts

    assert shed_of_a_flood("1")["1"] > 200
    clock.now += 60
    found = shed_of_a_flood("2", beside="1")
    assert found["2"] > 200
    assert found["1"] == 0


class Told:
    """Stands for the queue: notes what it is asked, and sheds all."""

    def __init__(self) -> None:
        self.asked, self.learned = [], []

    def is_too_long(self, number, waited, places, reading):
        self.asked.append((number, round(waited, 3), places, round(reading, 3)))
        return True

    def learn(self, number, seconds):
        self.learned.append((number, round(seconds, 3)))


@pytest.fixture
def worker(loaded, clock, monkeypatch):
    """A worker whose app takes 5 ms, and whose connections need 3 ms until all is read."""
    from gunicorn.workers.sync import SyncWorker

    def app(environ, _start_response):
        clock.sleep(0.005)
        return [b"answered"]

    def handle(self, _listener, client, environ):
        clock.sleep(0.003)
        self.said.append(b"".join(self.wsgi(environ, lambda status, headers: self.said.append((status, dict(headers))))))

    monkeypatch.setattr(SyncWorker, "load_wsgi", lambda self: setattr(self, "wsgi", app))
    monkeypatch.setattr(loaded["ThreadedWorker"], "handle", handle)
    made = object.__new__(loaded["ThreadedWorker"])
    made.cfg = SimpleNamespace(threads=2, workers=1, timeout=0)
    made.queue, made.this_thread, made.under_way, made.said = Told(), threading.local(), {}, []
    made.load_wsgi()
    return made


def answer(loaded, worker, **environ):
    client = SimpleNamespace(setblocking=lambda _flag: None, setsockopt=lambda *_: None)
    worker.answer_one(SimpleNamespace(accept=lambda: (client, environ)), loaded["Turn"]())


def test_a_request_that_is_shed_never_reaches_the_app(loaded, worker, clock):
    answer(loaded, worker, HTTP_X_REQUEST_START=f"t={clock.now - 9:.3f} crowd=7 places=128")
    (status, headers), body = worker.said
    assert status == "503 Service Unavailable"
    assert headers["X-Sent-Away"] == "yes"
    assert int(headers["Content-Length"]) == len(body) > 10
    # The 3 ms of reading count from when the connection was taken.
    assert worker.queue.asked == [("7", 9.003, 128, 0.003)]
    assert worker.queue.learned == []


@pytest.mark.parametrize("waited", [None, -9, 3 * 86400])
def test_a_request_past_nginx_or_with_a_clock_that_was_set_is_never_shed(loaded, worker, clock, waited):
    head = {} if waited is None else {"HTTP_X_REQUEST_START": f"t={clock.now - waited:.3f} crowd=7 places=128"}
    answer(loaded, worker, **head)
    assert worker.said == [b"answered"]
    assert worker.queue.asked == []
    assert worker.queue.learned == [("7" if head else "", 0.005)]


def test_a_request_is_late_when_it_takes_longer_than_the_timeout(worker, clock):
    worker.under_way = {1: (clock.now - 31, "/late"), 2: (clock.now - 29, "/other")}
    assert worker.late() == []
    worker.cfg.timeout = 30
    assert worker.late() == ["/late"]


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


def test_a_line_that_finds_no_room_is_not_printed(loaded, capsys):
    with open("/dev/full", "w") as full:
        handler = logging.StreamHandler(full)
        log = SimpleNamespace(access_log=SimpleNamespace(handlers=[handler]), now=lambda: "[now]")
        environ = {"REQUEST_METHOD": "GET", "RAW_URI": "/marked", "SERVER_PROTOCOL": "HTTP/1.1"}
        loaded["AccessLog"].access(log, SimpleNamespace(status="200 OK", sent=1), None, environ, timedelta())
        said = capsys.readouterr().err
        assert said == "a line of the log is lost: No space left on device\n"
        with contextlib.suppress(OSError):
            full.close()
