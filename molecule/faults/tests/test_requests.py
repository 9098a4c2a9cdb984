"""A request that ruins its worker, and what other clients notice of it."""

import pytest
from faults import THREADS, fault
from outcomes import Answer, Asked, assert_json_error, wait_until


@pytest.mark.full
def test_one_eats_memory_past_the_limit(api):
    """Where cgroups have no controllers, the limit is that of a process (LimitAS): Python raises MemoryError."""
    main, _workers = api.processes
    with fault(api, "a request that needs more memory than there is") as found:
        answer = api.get("/eat?mb=1200")
    assert answer.status in (500, 502)
    assert api.main_pid() == main
    assert found.kinds <= {"status 502"}, str(found)
    found.note = f"the request itself: {answer.status}"


@pytest.mark.full
def test_many_eat_memory_until_there_is_none(api):
    main = api.main_pid()
    with fault(api, "requests that keep 200 MB each, until there is no more") as found:
        statuses = [api.get("/eat?mb=200").status for _ in range(16)]
    found.note = f"the requests themselves: {statuses.count(200)} x 200, {16 - statuses.count(200)} x 500 or 502"
    assert set(statuses) <= {200, 500, 502}
    assert {500, 502} & set(statuses), "there is no limit"
    assert statuses.count(200) * 200 <= 4000
    assert found.kinds <= {"status 502"}, str(found)
    # What they keep goes with the worker.
    with fault(api, "the workers that kept it are replaced, one after the other", rate=30) as found:
        before = api.workers()
        for worker in before:
            api.host.check_output(f"kill -TERM {worker}")
            wait_until(
                lambda gone=worker: gone not in api.workers() and len(api.workers()) == 2,
                "a new worker",
            )
    assert api.main_pid() == main
    assert set(api.workers()).isdisjoint(before)
    assert not found.load.failed, str(found)


def test_one_hangs(api):
    main, before = api.processes
    with fault(api, "a request that hangs") as found:
        answer = Asked(api, "/hang").wait()
        wait_until(
            lambda: len(api.workers()) == 2 and api.workers() != before, "the worker is replaced"
        )
    assert_json_error(answer, 502)
    assert api.main_pid() == main
    assert len(set(api.workers()) & set(before)) == 1, "the other worker went too"
    assert not found.load.failed, str(found)


def test_all_threads_hang(api):
    main, before = api.processes
    with fault(api, "16 requests that hang, twice as many as threads") as found:
        answers = [one.wait() for one in [Asked(api, "/hang") for _ in range(4 * THREADS)]]
    for answer in answers:
        assert isinstance(answer, Answer), answer
        assert answer.status in (502, 503, 504)
        assert_json_error(answer, answer.status)
    assert found.load.failed, "nobody noticed: did they hang?"
    assert api.main_pid() == main
    assert set(api.workers()).isdisjoint(before)
    assert found.kinds <= {"status 502", "status 503", "status 504"}, str(found)


@pytest.mark.full
def test_one_crashes_the_interpreter(api):
    main, before = api.processes
    with fault(api, "a request that crashes the interpreter", path="/sleep?seconds=0.1") as found:
        assert_json_error(api.get("/crash"), 502)
        wait_until(
            lambda: len(api.workers()) == 2 and api.workers() != before, "the worker is replaced"
        )
    assert api.main_pid() == main
    assert len(set(api.workers()) & set(before)) == 1, "the other worker went too"
    assert found.kinds <= {"status 502"}, str(found)
    assert api.host.run("find / -xdev -type f -name core -o -name 'core.[0-9]*'").stdout == ""


@pytest.mark.full
def test_one_dies_in_the_middle_of_its_answer(api):
    main, before = api.processes
    with fault(api, "a request that dies in the middle of its answer") as found:
        ended = Asked(api, "/half").wait()
        wait_until(
            lambda: len(api.workers()) == 2 and api.workers() != before, "the worker is replaced"
        )
    # The status was sent; all that is left is to break off, so that nobody takes it for whole.
    assert "IncompleteRead" in type(ended).__name__, ended
    assert api.main_pid() == main
    assert found.kinds <= {"status 502"}, str(found)


@pytest.mark.full
def test_one_forks_without_end(api, deploy):
    """Where cgroups have no controllers, the limit is that of an account (LimitNPROC)."""
    with fault(api, "an app that forks without end") as found:
        answer = Asked(api, "/fork?most=2000&seconds=12").wait()
        # The rest of the host stays usable, and nginx too, whose account the app's is.
        assert api.host.run("setpriv --reuid nobody --regid nogroup --clear-groups id -u").rc == 0
        nginx = set(api.workers("nginx.service"))
        assert api.host.run("systemctl reload nginx").rc == 0
        wait_until(lambda: set(api.workers("nginx.service")) - nginx, "nginx has new workers")
    assert isinstance(answer, Answer), answer
    assert answer.status == 200
    assert answer.json["started"] < 1400, "nothing stopped it"
    found.note = f"{answer.json['started']} processes, then: {answer.json['error']}"
    # A dead worker cannot be replaced now, a new version would have no processes beside the old one: the old one goes first.
    with fault(api, "the next deployment, in place of the app that forks") as found:
        run = deploy("--tags", "app", strategy="restart", environment={"AFTER": "the forks"})
    assert run.status == 0, run.output
    assert not found.load.failed, str(found)
    found.note = "requests wait"
    assert api.host.run("pgrep --uid www-data sleep").stdout == "", "its processes are still there"
    assert deploy("--tags", "app").status == 0


@pytest.mark.full
@pytest.mark.parametrize("path", ["/traceback", "/status/503"])
def test_errors_of_the_app_harm_nobody(api, path):
    before = api.processes
    with fault(api, f"a request that the app answers with an error, {path}") as found:
        for _ in range(20):
            assert api.get(path).status in (500, 503)
    assert not found.load.failed, str(found)
    assert api.processes == before
