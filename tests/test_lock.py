"""One deployment at a time, and none that is gone stands in the way."""

import fcntl
import json
import os
import re
import subprocess
import sys

import pytest
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.jobs import detached
from ansible.module_utils.api_endpoint.lock import LEASE_SECONDS, ConflictError, Lock
from outcomes import wait_until

ANNA = {
    "token": "a",
    "who": "anna",
    "computer": "desk",
    "machine": "1",
    "pid": 7,
    "since": "2026-01-01 00:00:00 UTC",
}
BEN = {**ANNA, "token": "b", "who": "ben", "computer": "lap"}


@pytest.fixture
def lock(tmp_path):
    return Lock("api-endpoint", str(tmp_path))


def give_back(lock, token):
    subprocess.run(lock.giving_back(token), shell=True, check=True)


def test_the_second_is_told_who_since_when_and_from_where(lock):
    lock.take(ANNA)
    with pytest.raises(
        ConflictError,
        match=r"anna on desk has been deploying to this host since 2026-01-01 00:00:00 UTC",
    ) as told:
        lock.take(BEN)
    assert told.value.holder["pid"] == 7
    assert not told.value.busy


def test_it_is_free_when_given_back_and_only_its_holder_can(lock):
    lock.take(ANNA)
    give_back(lock, "b")
    assert lock.holder()["who"] == "anna"
    give_back(lock, "a")
    lock.take(BEN)
    assert lock.signature() == "ben@lap"


def take_by_shell(lock, record):
    """Take the lock as a run does that needs no Python for it; return what the command prints."""
    command = lock.taking({name: value for name, value in record.items() if name != "since"})
    return subprocess.run(
        ["/bin/sh", "-c", command], capture_output=True, text=True, check=False
    ).stdout.strip()


def test_a_free_lock_is_taken_by_a_shell_command(lock):
    who = 'anna\'s "desk" %s \\'
    assert take_by_shell(lock, {**ANNA, "computer": who}) == "a"
    holder = lock.holder()
    assert {**holder, "since": "", "touched": 0} == {
        **ANNA,
        "computer": who,
        "since": "",
        "touched": 0,
    }
    assert re.fullmatch(r"[0-9-]{10} [0-9:]{8} UTC", holder["since"])
    assert lock.record.stat().st_mode & 0o777 == 0o600
    with lock.held("a"):
        pass
    give_back(lock, "a")
    assert take_by_shell(lock, BEN) == "b"


@pytest.mark.parametrize("how", ["held", "silent", "unreadable", "busy"])
def test_a_lock_that_may_not_be_free_is_for_the_module(lock, how):
    if how == "busy":
        with lock._working(0):
            assert not take_by_shell(lock, BEN)
        return
    lock.take(ANNA)
    if how == "silent":
        record = json.loads(lock.record.read_text())
        lock.record.write_text(json.dumps({**record, "touched": 0}))
    if how == "unreadable":
        lock.record.write_text("{")
    before = lock.record.read_text()
    assert not take_by_shell(lock, BEN)
    assert lock.record.read_text() == before


def test_a_run_that_was_not_heard_of_for_long_is_gone(lock):
    lock.take(ANNA)
    record = json.loads(lock.record.read_text())
    lock.record.write_text(json.dumps({**record, "touched": record["touched"] - LEASE_SECONDS - 1}))
    lock.take(BEN)


def test_a_run_that_is_known_to_be_gone_is_replaced(lock):
    lock.take(ANNA)
    lock.take(BEN, instead_of="a")
    with (
        pytest.raises(DeployError, match="no longer has the lock of this host: ben on lap took it"),
        lock.held("a"),
    ):
        pass


def test_work_renews_the_lock(lock):
    lock.take(ANNA)
    record = json.loads(lock.record.read_text())
    lock.record.write_text(json.dumps({**record, "touched": record["touched"] - 500}))
    with lock.held("a"):
        pass
    assert json.loads(lock.record.read_text())["touched"] >= record["touched"]


def renew_by_shell(lock, token):
    done = subprocess.run(["/bin/sh", "-c", lock.renewing(token)], capture_output=True, text=True)
    return done.stdout.strip()


def test_a_run_whose_turn_comes_renews_its_lock_even_after_the_lease(lock):
    lock.take(ANNA)
    for renew in (lambda: renew_by_shell(lock, "a"), lambda: lock.renew("a")):
        record = json.loads(lock.record.read_text())
        lock.record.write_text(json.dumps({**record, "touched": 5.5}))
        renew()
        renewed = json.loads(lock.record.read_text())
        assert renewed.pop("touched") > record["touched"] - 60
        assert renewed == ANNA
        assert lock.record.stat().st_mode & 0o777 == 0o600
    assert renew_by_shell(lock, "a") == "a"


@pytest.mark.parametrize(
    ("meanwhile", "said"),
    [
        (lambda lock: lock.take(BEN, instead_of="a"), "ben on lap took it at 2026-01-01"),
        (lambda lock: give_back(lock, "a"), "another deployment came and went while"),
    ],
    ids=["taken", "taken and given back"],
)
def test_a_run_whose_turn_comes_too_late_is_refused(lock, meanwhile, said):
    lock.take(ANNA)
    with lock.held("a"):
        pass  # the busy file names it
    meanwhile(lock)
    before = lock.record.exists() and lock.record.read_text()
    assert renew_by_shell(lock, "a") == ""
    with pytest.raises(DeployError, match=said):
        lock.renew("a")
    with pytest.raises(DeployError, match=said), lock.held("a"):
        pass
    assert (lock.record.exists() and lock.record.read_text()) == before


def test_work_that_goes_on_is_waited_for(lock):
    lock.take(ANNA)
    with lock.held("a"):
        with pytest.raises(ConflictError, match="A process of that run is at work") as told:
            lock.take(BEN, instead_of="a", wait=0.3)
        assert told.value.busy


def test_a_process_that_is_killed_does_not_keep_the_lock(lock):
    lock.take(ANNA)
    program = (
        f"import fcntl, os; fcntl.flock(os.open({str(lock.busy)!r}, os.O_RDWR), fcntl.LOCK_EX); "
        "print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        with pytest.raises(ConflictError):
            lock.take(BEN, instead_of="a")
        process.kill()
    lock.take(BEN, instead_of="a")


def test_work_whose_run_has_given_its_lock_back_is_still_somebodys(lock):
    """Killed was only the process that waits for the work; its run fails, and ends in good order."""
    lock.take(ANNA)
    with lock.held("a"):
        give_back(lock, "a")
        assert lock.signature() == "anna@desk"
        with pytest.raises(
            ConflictError, match=r"anna on desk .*A process of that run is at work"
        ) as told:
            lock.take(BEN)
        # By these the next run on the same computer finds out that it may wait.
        assert {name: told.value.holder[name] for name in ("machine", "pid", "token")} == {
            "machine": "1", "pid": 7, "token": "a",
        }  # fmt: skip
        lock.busy.write_text("half")
        assert lock.signature() == "unknown@unknown"
    give_back(lock, "a")  # the block has renewed it, which a killed process does not
    lock.take(BEN)
    assert lock.signature() == "ben@lap"


def test_a_dry_run_needs_none(lock):
    lock.take(ANNA)
    with lock.held("", is_dry_run=True):
        pass


def test_work_without_the_lock_is_refused(lock):
    with pytest.raises(DeployError, match="has not taken the lock"), lock.held(""):
        pass


def test_work_that_takes_longer_than_the_lease_is_still_somebodys(lock):
    lock.take(ANNA)
    with lock.held("a"):
        record = json.loads(lock.record.read_text())
        lock.record.write_text(
            json.dumps({**record, "touched": record["touched"] - LEASE_SECONDS - 1})
        )
        assert lock.signature() == "anna@desk"
        with pytest.raises(ConflictError, match="anna on desk"):
            lock.take(BEN)


def test_a_clock_that_was_set_back_does_not_prolong_it(lock):
    lock.take(ANNA)
    record = json.loads(lock.record.read_text())
    lock.record.write_text(json.dumps({**record, "touched": record["touched"] + 10_000}))
    lock.take(BEN)


def test_detached_work_returns_its_result_and_its_errors():
    assert detached(lambda: {"pid_is_another": os.getpid() != os.getppid()}) == {
        "pid_is_another": True
    }

    def fail():
        raise DeployError("in these words")

    with pytest.raises(DeployError, match=r"^in these words$"):
        detached(fail)
    with pytest.raises(DeployError, match="ZeroDivisionError"):
        detached(lambda: {"x": 1 // 0})
    with pytest.raises(DeployError, match="was killed"):
        detached(lambda: os.kill(os.getpid(), 9))


def test_detached_work_ends_although_whoever_asked_for_it_is_gone(tmp_path):
    code = (
        "import sys, time, pathlib; sys.path[:] = {path!r}\n"
        "import ansible.module_utils; ansible.module_utils.__path__.append({utils!r})\n"
        "from ansible.module_utils.api_endpoint.jobs import detached\n"
        "def work():\n"
        "    pathlib.Path({begun!r}).touch()\n"
        "    while not pathlib.Path({go!r}).exists(): time.sleep(0.02)\n"
        "    pathlib.Path({done!r}).touch(); return {{}}\n"
        "detached(work)\n"
    ).format(
        path=sys.path,
        utils=str(
            next(
                path
                for path in sys.modules["ansible.module_utils"].__path__
                if "api_endpoint" in path
            )
        ),
        begun=str(tmp_path / "begun"),
        go=str(tmp_path / "go"),
        done=str(tmp_path / "done"),
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    wait_until((tmp_path / "begun").exists, "the work has begun")
    os.killpg(process.pid, 9)
    process.wait()
    (tmp_path / "go").touch()
    wait_until((tmp_path / "done").exists, "the work has ended", seconds=60)


def test_detached_work_keeps_the_lock(lock):
    lock.take(ANNA)

    def probe():
        handle = os.open(lock.busy, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return {"is_locked": True}
        return {"is_locked": False}

    with lock.held("a"):
        assert detached(probe) == {"is_locked": True}
