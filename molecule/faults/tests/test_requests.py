"""A request that ruins the worker it meets, and what others notice of it."""

import threading
import time

import pytest
from breaking import fault, kinds
from outcomes import Answer, assert_json_error, wait_until

TIMEOUT, GRACEFUL_TIMEOUT = 4, 3  # as in vars.yml
THREADS = 8  # of all workers


class Asked(threading.Thread):
    """A request of its own thread."""

    def __init__(self, api, path: str) -> None:
        super().__init__(daemon=True)
        self.api, self.path = api, path
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.answer = self.api.get(self.path, timeout=60)
        except Exception as error:
            self.error = error

    def wait(self, seconds: float):
        """Return the answer."""
        self.join(seconds)
        assert not self.is_alive(), f"{self.path} has no answer after {seconds} s"
        return self.answer or self.error


def test_one_eats_memory_past_the_limit(api):
    """Where cgroups have no controllers, the limit is that of a process (LimitAS): Python raises MemoryError."""
    main, _workers = api.processes
    with fault(api, "a request that needs more memory than there is", within=2) as found:
        answer = api.get("/eat?mb=1200")
    assert answer.status in (500, 502)
    assert api.main_pid() == main
    assert kinds(found) <= {"status 502"}, str(found)
    found.note = f"the request itself: {answer.status}"


def test_many_eat_memory_until_there_is_none(api):
    main = api.main_pid()
    with fault(api, "requests that keep 200 MB each, until there is no more", within=2) as found:
        statuses = [api.get("/eat?mb=200").status for _ in range(16)]
    found.note = f"the requests themselves: {statuses.count(200)} x 200, {16 - statuses.count(200)} x 500 or 502"
    assert set(statuses) <= {200, 500, 502}
    assert {500, 502} & set(statuses), "there is no limit"
    assert statuses.count(200) * 200 <= 4000
    assert kinds(found) <= {"status 502"}, str(found)
    # What they keep goes with the worker.
    with fault(api, "the workers that kept it are replaced, one after the other", within=2, rate=30) as found:
        before = api.workers()
        for worker in before:
            api.host.check_output(f"kill -TERM {worker}")
            wait_until(lambda gone=worker: gone not in api.workers() and len(api.workers()) == 2, "a new worker", 10)
    assert api.main_pid() == main
    assert set(api.workers()).isdisjoint(before)
    assert not found.load.failed, str(found)


def test_one_hangs(api):
    main, before = api.processes
    with fault(api, "a request that hangs", within=2) as found:
        hung = Asked(api, "/hang")
        answer = hung.wait(TIMEOUT + GRACEFUL_TIMEOUT + 5)
        wait_until(lambda: len(api.workers()) == 2 and api.workers() != before, "the worker is replaced", 10)
    assert_json_error(answer, 502)
    assert api.main_pid() == main
    assert len(set(api.workers()) & set(before)) == 1, "the other worker went too"
    assert not found.load.failed, str(found)


def test_all_threads_hang(api):
    main, before = api.processes
    with fault(api, f"{2 * THREADS} requests that hang, twice as many as threads", within=40) as found:
        begun = time.monotonic()
        hung = [Asked(api, "/hang") for _ in range(2 * THREADS)]
        answers = [one.wait(60) for one in hung]
        seconds = time.monotonic() - begun
    found.note = f"the last of the hanging ones was given up after {seconds:.1f} s"
    for answer in answers:
        assert isinstance(answer, Answer), answer
        assert answer.status in (502, 503, 504)
        assert_json_error(answer, answer.status)
    assert found.load.failed, "nobody noticed: did they hang?"
    assert api.main_pid() == main
    assert set(api.workers()).isdisjoint(before)
    assert kinds(found) <= {"status 502", "status 503", "status 504"}, str(found)


def test_one_crashes_the_interpreter(api):
    main, before = api.processes
    with fault(api, "a request that crashes the interpreter", within=2, path="/sleep?seconds=0.1") as found:
        assert_json_error(api.get("/crash"), 502)
        wait_until(lambda: len(api.workers()) == 2 and api.workers() != before, "the worker is replaced", 10)
    assert api.main_pid() == main
    assert len(set(api.workers()) & set(before)) == 1, "the other worker went too"
    assert kinds(found) <= {"status 502"}, str(found)
    assert api.host.run("find / -xdev -type f -name core -o -name 'core.[0-9]*'").stdout == ""


def test_one_dies_in_the_middle_of_its_answer(api):
    main, before = api.processes
    with fault(api, "a request that dies in the middle of its answer", within=2) as found:
        one = Asked(api, "/half")
        ended = one.wait(10)
        wait_until(lambda: len(api.workers()) == 2 and api.workers() != before, "the worker is replaced", 10)
    # The status was sent; all that is left is to break off, so that nobody takes it for whole.
    assert "IncompleteRead" in type(ended).__name__, ended
    assert api.main_pid() == main
    assert kinds(found) <= {"status 502"}, str(found)


def test_one_forks_without_end(api, deploy):
    """Where cgroups have no controllers, the limit is that of an account (LimitNPROC)."""
    seconds = 12
    with fault(api, "an app that forks without end", within=5) as found:
        asked = Asked(api, f"/fork?most=2000&seconds={seconds}")
        answer = asked.wait(30)
        # The rest of the host stays usable, and nginx too, whose account the app's is.
        assert api.host.run("setpriv --reuid nobody --regid nogroup --clear-groups id -u").rc == 0
        nginx = set(api.workers("nginx.service"))
        assert api.host.run("systemctl reload nginx").rc == 0
        wait_until(lambda: set(api.workers("nginx.service")) - nginx, "nginx has new workers", 5)
    assert isinstance(answer, Answer), answer
    assert answer.status == 200
    assert answer.json["started"] < 1400, "nothing stopped it"
    found.note = f"{answer.json['started']} processes, then: {answer.json['error']}"
    # A dead worker cannot be replaced now, a new version would have no processes beside the old one: the old one goes first.
    with fault(api, "the next deployment, in place of the app that forks", within=15) as found:
        run = deploy("--tags", "app", strategy="restart", environment={"AFTER": "the forks"})
    assert run.status == 0, run.output
    assert not found.load.failed, str(found)
    found.note = "requests wait"
    assert api.host.run("pgrep --uid www-data sleep").stdout == "", "its processes are still there"
    assert deploy("--tags", "app").status == 0


@pytest.mark.parametrize("path", ["/traceback", "/status/503"])
def test_errors_of_the_app_harm_nobody(api, path):
    before = api.processes
    with fault(api, f"a request that the app answers with an error, {path}", within=1) as found:
        for _ in range(20):
            assert api.get(path).status in (500, 503)
    assert not found.load.failed, str(found)
    assert api.processes == before
