"""The worker without gunicorn: which requests it sheds, in simulated time. See also tests/component."""

import heapq
import itertools
import threading
from collections import Counter
from types import SimpleNamespace

import api_endpoint_worker
import pytest
from helpers import Clock


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The worker's time."""
    clock = Clock()
    times = SimpleNamespace(monotonic=clock.monotonic, time=clock.monotonic, sleep=clock.sleep)
    monkeypatch.setattr(api_endpoint_worker, "time", times)
    return clock


class Simulation:
    """Clients that ask again and again, and a worker whose threads answer in the order of arrival."""

    READING = 0.0002

    def __init__(self, clock, threads=2, concurrency=128) -> None:
        self.queue = api_endpoint_worker.Queue(1, threads)
        self.clock = clock
        self.threads = threads
        self.concurrency = concurrency
        self.answers = []  # (when it was sent, bucket, status, seconds that it took)
        self.order = itertools.count()
        self.coming = []  # (when, order, bucket, seconds of an answer, pause of the client)

    def add(self, buckets, takes, pause) -> None:
        """Add a client for each bucket that is listed; it asks again after a pause, or once if None."""
        for number, bucket in enumerate(buckets):
            self.come(self.clock.now + number * 0.0001, bucket, takes, pause)

    def come(self, when, *client) -> None:
        heapq.heappush(self.coming, (when, next(self.order), *client))

    def run(self, seconds, held_up=()) -> Counter:
        """Let time go by; count statuses. `held_up`: spans (begin, end) in which no thread gets on."""
        begun, first = self.clock.now, len(self.answers)
        free = [begun] * self.threads
        while self.coming and self.coming[0][0] < begun + seconds:
            came, _, bucket, takes, pause = heapq.heappop(self.coming)
            at = max(came, heapq.heappop(free))
            for begin, end in held_up:
                if begun + begin <= at < begun + end:
                    at = begun + end
            self.clock.now = at
            if self.queue.should_shed(str(bucket), at - came, self.concurrency, self.READING):
                status, done = 503, at + self.READING
            else:
                status, done = 200, at + takes
                self.queue.learn(str(bucket), takes)
            self.answers.append((came - begun, bucket, status, done - came))
            heapq.heappush(free, done)
            if pause is not None:
                self.come(done + pause, bucket, takes, pause)
        self.clock.now = max(begun + seconds, *free)
        return Counter(status for _, _, status, _ in self.answers[first:])


@pytest.fixture
def simulation(clock):
    return lambda **settings: Simulation(clock, **settings)


def test_a_burst_may_wait(simulation):
    """Sixty at once, each of which takes its thread 50 ms."""
    host = simulation(threads=4)
    host.add([1] * 60, 0.05, None)
    assert host.run(10) == {200: 60}


def test_while_a_host_is_held_up_for_seconds_no_request_is_shed(simulation):
    """As by a disk that has to write: for three seconds every request waits."""
    host = simulation()
    host.add([0] * 24, 0.002, 0.1)  # more than reading takes, so that shedding would be worth it
    assert host.run(6, [(1 + 0.32 * number, 1.3 + 0.32 * number) for number in range(10)])[503] == 0
    assert max(seconds for *_, seconds in host.answers) > 0.2, "was anything held up?"


@pytest.mark.parametrize("buckets", [[0] * 24, range(24)], ids=["of one bucket", "each of its own"])
def test_requests_are_shed_for_which_there_is_no_time(simulation, buckets):
    host = simulation()
    host.add(buckets, 0.05, 0.02)
    host.run(8)
    assert {status for sent, _, status, _ in host.answers if sent < 4} == {200}, "a burst may last"
    steady = [answer for answer in host.answers if answer[0] > 6]
    statuses = Counter(status for _, _, status, _ in steady)
    assert set(statuses) == {200, 503}
    done = [seconds for _, _, status, seconds in steady if status == 200]
    assert len(done) > 40, "too many were shed"
    assert sorted(done)[len(done) * 9 // 10] < 0.25, (
        "those that are answered have waited with the others"
    )
    host.coming.clear()
    host.clock.now += 0.1
    host.add([0], 0.0005, 0.01)
    assert host.run(0.2).keys() == {200}, "later ones pay for it"
    host.coming.clear()
    host.clock.now += 2
    host.add(buckets, 0.05, None)
    assert host.run(3) == {200: 24}, "a burst after an overload may wait"


def test_where_answers_take_long_requests_may_wait_for_long(simulation):
    host = simulation()
    host.add(range(4), 1, 0)  # each waits for one other
    assert host.run(40).keys() == {200}
    host.add(range(4), 1, 0)
    assert host.run(40)[503] > 4
    assert min(sent for sent, _, status, _ in host.answers if status == 503) > 8


def test_a_queue_that_nears_the_limit_of_nginx_is_shed_sooner(simulation):
    host = simulation(concurrency=26)
    host.add([0] * 24, 0.05, 0.02)
    assert host.run(3.5)[503] > 40
    assert min(sent for sent, _, status, _ in host.answers if status == 503) > 0.4


def test_a_few_that_wait_for_each_other_for_a_moment_are_not_too_many(simulation):
    host = simulation(threads=1)
    host.add(range(6), 0.004, 0.0002)
    statuses = host.run(8)
    assert statuses.keys() == {200}
    assert statuses[200] > 1500


@pytest.mark.parametrize(
    ("light", "takes"),
    [(3, 0.05), (3, 0.0003), (10, 0.05)],
    ids=["a few", "quick answers", "half of the load"],
)
def test_light_clients_are_not_shed_because_of_a_heavy_one(simulation, light, takes):
    host = simulation()
    host.add([0] * 24, 0.05, 0.02)
    for number in range(light * 40):  # each asks twice a second
        host.come(host.clock.now + number / (2 * light), 1 + number % light, takes, None)
    host.run(20)
    statuses = Counter((bucket == 0, status) for _, bucket, status, _ in host.answers)
    assert statuses[True, 503] > 40, "was it too much?"
    assert statuses[False, 503] == 0
    assert statuses[False, 200] == light * 40


@pytest.mark.parametrize(("takes", "is_shed"), [(0.0008, False), (0.0012, True)])
def test_no_request_is_shed_where_an_answer_takes_no_longer(simulation, takes, is_shed):
    """A host that is held up for long enough would shed all, and gain no time by it."""
    host = simulation(threads=1)
    host.add([0] * 24, takes, 0)
    statuses = host.run(20, [(0.1 * number, 0.1 * number + 0.098) for number in range(200)])
    assert (503 in statuses) == is_shed, statuses
    assert statuses[200] > 100


def test_a_client_that_was_heavy_a_minute_ago_is_as_good_as_any(clock):
    queue = api_endpoint_worker.Queue()

    def is_shed(bucket, waited=0.5):
        is_shed = queue.should_shed(bucket, waited, concurrency=8, reading=0.0002)
        if not is_shed:
            queue.learn(bucket, 0.05)
        return is_shed

    def shed_of_a_flood(bucket, beside=None):
        counts = Counter()
        for request in range(400):
            clock.now += 0.01
            finds_a_thread = queue.is_overloaded and request % 5 == 0
            counts[bucket] += is_shed(bucket, 0.0 if finds_a_thread else 0.5)
            if beside and request % 50 == 25:
                counts[beside] += is_shed(beside)
        return counts

    assert shed_of_a_flood("1")["1"] > 200
    clock.now += 60
    found = shed_of_a_flood("2", beside="1")
    assert found["2"] > 200
    assert found["1"] == 0


class FakeQueue:
    """Notes what it is asked, and sheds every request."""

    def __init__(self) -> None:
        self.asked, self.learned = [], []

    def should_shed(self, bucket, waited, concurrency, reading):
        self.asked.append((bucket, round(waited, 3), concurrency, round(reading, 3)))
        return True

    def learn(self, bucket, seconds):
        self.learned.append((bucket, round(seconds, 3)))


@pytest.fixture
def worker(clock, monkeypatch):
    """A worker whose app takes 5 ms, and whose connections need 3 ms until all is read."""

    def app(environ, _start_response):
        clock.sleep(0.005)
        return [b"answered"]

    def handle(self, _listener, client, environ):
        clock.sleep(0.003)
        self.said.append(
            b"".join(
                self.wsgi(
                    environ, lambda status, headers: self.said.append((status, dict(headers)))
                )
            )
        )

    monkeypatch.setattr(
        api_endpoint_worker.SyncWorker, "load_wsgi", lambda self: setattr(self, "wsgi", app)
    )
    monkeypatch.setattr(api_endpoint_worker.ThreadedWorker, "handle", handle)
    made = object.__new__(api_endpoint_worker.ThreadedWorker)
    made.cfg = SimpleNamespace(threads=2, workers=1, timeout=0)
    made.queue, made.this_thread, made.in_flight, made.environ, made.said = (
        FakeQueue(),
        threading.local(),
        {},
        {},
        [],
    )
    made.load_wsgi()
    return made


def answer(worker, **environ):
    client = SimpleNamespace(setblocking=lambda _flag: None, setsockopt=lambda *_: None)
    worker.answer_one(
        SimpleNamespace(accept=lambda: (client, environ)), api_endpoint_worker.AcceptLease()
    )


def test_a_request_that_is_shed_never_reaches_the_app(worker, clock):
    answer(worker, HTTP_X_REQUEST_START=f"t={clock.now - 9:.3f} bucket=7 concurrency=128")
    (status, headers), body = worker.said
    assert status == "503 Service Unavailable"
    assert headers["X-Load-Shed"] == "yes"
    assert int(headers["Content-Length"]) == len(body) > 10
    # The 3 ms of reading count from when the connection was accepted.
    assert worker.queue.asked == [("7", 9.003, 128, 0.003)]
    assert worker.queue.learned == []


@pytest.mark.parametrize("waited", [None, -9, 3 * 86400])
def test_a_request_past_nginx_or_with_a_clock_that_was_set_is_never_shed(worker, clock, waited):
    head = (
        {}
        if waited is None
        else {"HTTP_X_REQUEST_START": f"t={clock.now - waited:.3f} bucket=7 concurrency=128"}
    )
    answer(worker, **head)
    assert worker.said == [b"answered"]
    assert worker.queue.asked == []
    assert worker.queue.learned == [("7" if head else "", 0.005)]


def test_the_header_of_an_nginx_that_was_not_upgraded_yet_is_understood():
    assert api_endpoint_worker.parse_request_start("t=1764.5 crowd=7 places=128") == (1764.5, "", 0)


def test_a_request_is_overdue_when_it_takes_longer_than_the_timeout(worker, clock):
    worker.in_flight = {1: api_endpoint_worker.Flight("/late")}
    clock.sleep(2)
    worker.in_flight[2] = api_endpoint_worker.Flight("/other")
    clock.sleep(29)
    assert worker.overdue() == []
    worker.cfg.timeout = 30
    assert worker.overdue() == ["/late"]
