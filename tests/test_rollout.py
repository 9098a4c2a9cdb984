"""What happens on the host, in which order, and what is said when it does not work out."""

import fcntl
import itertools
import json
import os
import subprocess
from types import SimpleNamespace

import pytest
from ansible.module_utils.api_endpoint import systemd
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.release import rollout
from helpers import Stub, make_virtualenv

OLD, NEW = "a" * 12, "b" * 12
BLUE, GREEN, WAITING = "api@blue.service", "api@green.service", "api-waiting.socket"
FALLBACK = "api-fallback.service"


class Host:
    """Stands for systemd: units that start and stop, and what was done in order."""

    def __init__(self) -> None:
        self.active = {BLUE}
        self.enabled = {BLUE}
        self.done: list[str] = []
        self.refused: dict[str, Exception] = {}
        self.failed: set[str] = set()
        self.unread: set[str] = set()  # units of which systemd has not read the latest files
        self.masked: set[str] = set()
        self.streams: dict[str, int] = {}  # by unit, which they keep from ending when it is stopped

    def systemctl(self, *arguments: str):
        verb, units = arguments[0], [word for word in arguments[1:] if not word.startswith("-")]
        if verb in ("start", "restart", "stop", "enable", "disable"):
            self.done += [f"{verb} {unit}" for unit in units]
        if verb == "daemon-reload":
            self.unread.clear()
        for unit in units:
            if verb in ("start", "restart"):
                self.active.add(unit)
            if verb == "reset-failed":
                self.failed.discard(unit)
            if verb == "kill":
                self.done.append(f"kill {unit}")
                self.streams.pop(unit, None)
            if verb == "stop" or (verb == "disable" and "--now" in arguments):
                self.active.discard(unit)
            if verb in ("enable", "disable"):
                (self.enabled.add if verb == "enable" else self.enabled.discard)(unit)
        good = verb != "is-active" or units[0] in self.active
        state = self.state(units[0]) if verb == "show" else ""
        if verb == "list-units":
            state = "\n".join(
                f"{unit} loaded active running A command" for unit in units if unit in self.active
            )
        return SimpleNamespace(returncode=0 if good else 3, stdout=f"{state}\n", stderr="")

    def state(self, unit: str) -> str:
        if unit in self.active:
            return "active"
        if unit in self.streams:
            return "deactivating"
        return "failed" if unit in self.failed else "inactive"

    def properties(self, slot: str, *_names: str) -> dict[str, str]:
        unit = f"api@{slot}.service"
        return {
            "ActiveState": self.state(unit),
            "NeedDaemonReload": "yes" if unit in self.unread else "no",
            "UnitFileState": "masked"
            if unit in self.masked
            else "enabled"
            if unit in self.enabled
            else "disabled",
            "NRestarts": "0",
        }


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host on which release OLD is live in the slot blue, and NEW is built."""
    host = Host()
    host.root = tmp_path / "root"
    for number, release in enumerate((OLD, NEW)):
        folder = host.root / "releases" / release
        folder.mkdir(parents=True)
        plan = {
            "server_name": "a.example", "health": {"path": "/", "status": [], "timeout": 1}, "start_timeout": 1,
            "workers": 1, "smoke": [], "warm_up": "", "strategy": "auto", "drain": 0, "graceful_timeout": 1,
            "environment": {}, "mounts": [], "command_timeout": 5,
        }  # fmt: skip
        (folder / "rollout.json").write_text(json.dumps(plan))
        (folder / "service.conf").write_text(f"# {release}\n")
        components = {"code": str(number) * 64, "virtualenv": "e" * 16, "artifacts": []}
        (folder / "release.json").write_text(json.dumps({"id": release, "components": components}))
    (host.root / "slots" / "blue").mkdir(parents=True)
    (host.root / "slots" / "blue" / "release").symlink_to(f"../../releases/{OLD}")
    (host.root / "slots" / "blue" / "gunicorn.sock").symlink_to("/run/api/blue/gunicorn.sock")
    (host.root / "live").symlink_to("slots/blue")
    history = rollout.History(host.root)
    history.went_live(OLD, "", by_rollback=False)
    monkeypatch.setattr(rollout, "systemctl", host.systemctl)
    monkeypatch.setattr(rollout, "must", host.systemctl)
    monkeypatch.setattr(
        rollout.Endpoint, "properties", lambda _self, slot, *names: host.properties(slot, *names)
    )
    monkeypatch.setattr(rollout.Endpoint, "log_tail", lambda *_args, **_more: "--- its log")
    monkeypatch.setattr(rollout.Endpoint, "memory", lambda *_: 1000)
    monkeypatch.setattr(
        rollout.Endpoint, "drop_in_of", lambda _self, slot: tmp_path / f"{slot}.d" / "release.conf"
    )
    monkeypatch.setattr(
        rollout.Rollout, "links", lambda _self: {host.root / "current": "live/release"}
    )
    host.resume_flag = tmp_path / "run" / "resume"
    monkeypatch.setattr(rollout.Endpoint, "resume_flag", host.resume_flag)
    monkeypatch.setattr(rollout.Endpoint, "rollout_lock", tmp_path / "run" / "deploying")
    for name in ("streams", "streams_left"):
        monkeypatch.setattr(
            rollout.Endpoint, name, lambda _self, slot: host.streams.get(f"api@{slot}.service", 0)
        )
    monkeypatch.setattr(rollout, "available_memory", lambda: 10**12)
    monkeypatch.setattr(rollout, "main_process", lambda _unit: os.getpid())
    monkeypatch.setattr(
        rollout.Endpoint, "wait_until_accepted", lambda *_: host.done.append("wait for the queue")
    )
    monkeypatch.setattr(rollout, "queued", lambda *_: 0)
    monkeypatch.setattr(rollout.time, "sleep", lambda *_: None)
    real_point = rollout.replace_symlink

    def point(link, target):
        if real_point(link, target):
            host.done.append(f"{os.path.relpath(link, host.root)} -> {target}")
            return True
        return False

    class ReadinessCheck:
        way = "through nginx"

        def __init__(self, _plan, socket, *_functions) -> None:
            self.slot = socket.split("/")[-2]

        def wait_until_healthy(self) -> None:
            host.done.append(f"prove {self.slot}")
            if self.slot in host.refused:
                raise host.refused[self.slot]

        def every_worker_answers(self) -> None:
            host.done.append(f"ask every worker of {self.slot}")

        def final_check(self) -> None:
            host.done.append("last look")

    monkeypatch.setattr(rollout, "replace_symlink", point)
    monkeypatch.setattr(rollout, "ReadinessCheck", ReadinessCheck)
    return host


def run(host, release=NEW, check_mode=False, **more):
    given = {
        "name": "api", "root": str(host.root), "data_dir": str(host.root / "data"), "release": release, "rollback": False,
        "keep": 3, "user": "any", "error_log": str(host.root / "error.log"), "audit_log": str(host.root / "deploys.log"),
        "run": "", "requirements": "app/requirements.txt", **more,
    }  # fmt: skip
    told = rollout.Rollout(Stub(check_mode, **given))
    try:
        return told.run()
    finally:
        # On a host the process ends.
        if told.rollout_lock >= 0:
            os.close(told.rollout_lock)


def live(host):
    return os.readlink(host.root / "live").split("/")[-1]


def test_the_new_version_is_proven_before_the_old_one_is_touched(host):
    result = run(host)
    assert (result["strategy"], result["slot"], result["previous"]) == ("blue_green", "green", OLD)
    steps = host.done
    order = [
        "prove green", "ask every worker of green", "last look", f"enable {GREEN}", "live -> slots/green",
        f"disable {BLUE}", "wait for the queue", f"disable {BLUE}",
    ]  # fmt: skip
    assert [step for step in steps if step in order] == order
    assert (host.active, host.enabled) == ({GREEN}, {GREEN})
    assert WAITING not in " ".join(steps)


def test_a_refused_version_is_stopped_and_marked(host):
    host.refused["green"] = rollout.ReleaseRejectedError("health", "status 500")
    with pytest.raises(DeployError) as told:
        run(host)
    assert str(told.value) == (
        f'Release {NEW} was not brought live. It failed at the step "health": status 500. '
        f"Release {OLD} is still live.\n--- its log"
    )
    assert (live(host), host.active, host.enabled) == ("blue", {BLUE}, {BLUE})
    assert rollout.History(host.root).state(NEW, OLD) == "failed"
    assert "result=failed" in (host.root / "deploys.log").read_text()


def test_a_version_that_does_not_stop_is_killed(host, monkeypatch):
    """An app can have systemd extend its time to stop without end."""
    clock = itertools.count(0, 0.2)
    monkeypatch.setattr(rollout.time, "monotonic", lambda: next(clock))
    systemctl = host.systemctl

    def stubborn(*arguments):
        if arguments[0] == "kill":
            host.done.append(" ".join(arguments))
            host.active.discard(BLUE)
        if arguments[:2] == ("stop", "--no-block") and BLUE in arguments:
            return SimpleNamespace(returncode=0, stdout="", stderr="")
        return systemctl(*arguments)

    monkeypatch.setattr(rollout, "systemctl", stubborn)
    monkeypatch.setattr(rollout, "must", stubborn)
    run(host)
    assert f"kill --signal=KILL {BLUE}" in host.done
    assert host.active == {GREEN}


def grant(host, release, **plan):
    """Change how a release is rolled out."""
    path = host.root / "releases" / release / "rollout.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | plan))


def test_streams_go_on_beside_the_new_version_and_the_run_does_not_wait(host):
    grant(host, OLD, stream_grace=300)
    host.streams[BLUE] = 2
    result = run(host)
    assert host.done.index("live -> slots/green") < host.done.index(f"stop {BLUE}")
    assert f"kill {BLUE}" not in host.done
    assert f"disable {BLUE}" in host.done, "it would start with the host"
    assert result["notes"] == [
        f"2 streams of release {OLD} may go on for 300 s (api_endpoint_stream_grace). A release within that time waits for "
        "them, and a rollback cuts them off."
    ]
    # Nor does the next run take them for something that was left.
    again = run(host)
    assert (again["changed"], again["repaired"], host.streams) == (False, [], {BLUE: 2})


@pytest.mark.parametrize(
    ("strategy", "grace", "told"),
    [
        (
            "blue_green",
            0,
            "Cut off 1 stream of release aaaaaaaaaaaa: api_endpoint_stream_grace is 0.",
        ),
        ("restart", 300, "they get api_endpoint_graceful_timeout, 1 s."),
    ],
)
def test_streams_that_get_no_time_are_cut_off_and_counted(host, strategy, grace, told):
    grant(host, NEW, strategy=strategy)
    grant(host, OLD, stream_grace=grace)
    host.streams[BLUE] = 1
    assert run(host)["notes"][0].endswith(told)
    assert f"kill {BLUE}" in host.done
    assert host.streams == {}


@pytest.mark.parametrize("is_rollback", [False, True])
def test_the_next_release_waits_for_streams_in_its_slot_and_a_rollback_does_not(
    host, monkeypatch, is_rollback
):
    grant(host, NEW, stream_grace=300)
    (host.root / "slots" / "green").mkdir(parents=True)
    (host.root / "slots" / "green" / "release").symlink_to(f"../../releases/{NEW}")
    host.streams[GREEN] = 3
    now = itertools.count(step=10)
    monkeypatch.setattr(rollout.time, "monotonic", lambda: next(now))

    def sleep(_seconds):
        if next(now) > 200:
            host.streams.pop(GREEN, None)

    monkeypatch.setattr(rollout.time, "sleep", sleep)
    note = run(host, rollback=is_rollback)["notes"][0]
    assert note.startswith("Waited ")
    assert f"for 3 streams of release {NEW}, which still had the slot" in note
    assert note.endswith(f", and cut off {3 if is_rollback else 0}.")
    assert (f"kill {GREEN}" in host.done) is is_rollback


def test_a_refused_version_that_cannot_be_stopped_keeps_nobody_waiting(host, monkeypatch):
    """The old version serves again first of all, with the strategy `restart` too."""
    monkeypatch.setattr(rollout, "available_memory", lambda: 1)
    host.refused["green"] = rollout.ReleaseRejectedError("health", "status 500")
    stop = rollout.Rollout.stop

    def stop_but_green(self, slot):
        if slot == "green":
            raise DeployError("systemctl failed")
        stop(self, slot)

    monkeypatch.setattr(rollout.Rollout, "stop", stop_but_green)
    with pytest.raises(DeployError, match=f"Release {OLD} is still live"):
        run(host)
    assert BLUE in host.active
    assert WAITING not in host.active


def test_nginx_does_not_speak_uwsgi_to_a_version_because_the_last_one_in_its_slot_took_it(host):
    left = host.root / "slots" / "green" / "uwsgi"
    left.mkdir(parents=True)
    (left / "gunicorn.sock").symlink_to("../gunicorn.sock")
    run(host)
    assert not left.exists()


def test_a_version_that_was_started_by_an_earlier_roles_unit_gets_its_link_for_uwsgi(
    host, monkeypatch, tmp_path
):
    monkeypatch.setattr(
        rollout.Endpoint,
        "socket_of",
        lambda _self, slot: str(tmp_path / "run" / slot / "gunicorn.sock"),
    )
    run(host)
    word = tmp_path / "run" / "green" / "uwsgi"
    word.parent.mkdir(parents=True)
    assert run(host)["repaired"] == [], "it takes HTTP alone"
    word.touch()
    assert run(host)["repaired"] == ["links"]
    assert os.readlink(host.root / "live" / "uwsgi" / "gunicorn.sock") == "../gunicorn.sock"
    assert run(host)["repaired"] == []


def test_with_restart_requests_wait_before_the_old_one_stops_and_until_the_new_one_is_proven(
    host, monkeypatch
):
    monkeypatch.setattr(rollout, "available_memory", lambda: 1)
    result = run(host)
    assert result["strategy"] == "restart"
    assert "needs about 67 MB of memory, 0 MB are available" in result["why"]
    steps = host.done
    order = [
        f"restart {FALLBACK}", f"start {WAITING}", "slots/blue/gunicorn.sock -> /run/api/waiting.sock", f"stop {BLUE}",
        f"start {GREEN}",
        "prove green", "live -> slots/green", f"stop {BLUE}", f"stop {WAITING}", f"stop {FALLBACK}",
    ]  # fmt: skip
    assert [step for step in steps if step in order] == order
    assert (host.active, host.enabled) == ({GREEN}, {GREEN})
    assert not host.resume_flag.exists()


@pytest.mark.parametrize("strategy", ["blue_green", "restart"])
def test_the_failure_of_the_old_slot_is_forgotten(host, monkeypatch, strategy):
    monkeypatch.setattr(rollout, "available_memory", lambda: 1 if strategy == "restart" else 10**12)
    host.failed = {BLUE}
    assert run(host)["strategy"] == strategy
    assert host.failed == set()


class KilledError(BaseException):
    """Stands for kill -9: nothing in the process sees it."""


def killed_at(host, monkeypatch, number):
    """Run with the strategy restart, killed before the step of a number; return whether it got there."""
    steps = iter(range(1000))

    def step(function):
        def wrapped(*arguments):
            if next(steps) == number:
                raise KilledError
            return function(*arguments)

        return wrapped

    with monkeypatch.context() as patch:
        for name in ("systemctl", "must", "replace_symlink"):
            patch.setattr(rollout, name, step(getattr(rollout, name)))
        try:
            run(host)
        except KilledError:
            return True
    return False


def test_wherever_a_restart_is_killed_something_is_left_that_resumes_the_requests(
    host, monkeypatch
):
    """The fallback is there while requests are held or nothing runs; the next run leaves one slot on, and no fallback."""
    monkeypatch.setattr(rollout, "available_memory", lambda: 1)
    for number in range(100):
        host.done.clear()
        was_killed = killed_at(host, monkeypatch, number)
        way = os.readlink(host.root / "live" / "gunicorn.sock")
        if (
            WAITING in host.active
            or way.endswith("waiting.sock")
            or not host.active & {BLUE, GREEN}
        ):
            assert FALLBACK in host.active, (number, host.done)
        run(host)
        assert len(host.active) == len(host.enabled) == 1, (number, host.active, host.enabled)
        assert not run(host)["changed"], number
        run(host, release=OLD)  # for the next round
        if not was_killed:
            break
    assert number > 20, "no step was left out"


@pytest.mark.parametrize("release", [OLD, NEW])
@pytest.mark.parametrize("state", ["active", "failed"])
def test_a_fallback_that_was_left_is_ended_before_anything_starts(host, release, state):
    run(host)
    run(host, release=OLD)
    host.done.clear()
    getattr(host, state).add(FALLBACK)
    result = run(host, release=release)
    assert result["changed"]
    assert result.get("repaired", ["the fallback was left on"]) == ["the fallback was left on"]
    assert host.state(FALLBACK) == "inactive"
    started = [step for step in host.done if step.startswith("start")]
    assert not started or host.done.index(f"stop {FALLBACK}") < host.done.index(started[0])
    assert not run(host, release=release)["changed"]


def test_without_its_fallback_no_request_is_held(host, monkeypatch):
    monkeypatch.setattr(rollout, "available_memory", lambda: 1)

    def systemctl(*arguments):
        if arguments[0] == "restart":
            return SimpleNamespace(
                returncode=5, stdout="", stderr="Unit api-fallback.service not found.\n"
            )
        return host.systemctl(*arguments)

    monkeypatch.setattr(rollout, "systemctl", systemctl)
    with pytest.raises(
        DeployError, match=r"Unit api-fallback.service not found\. Run site.yml without tags"
    ):
        run(host)
    assert host.active == {BLUE}
    assert f"start {WAITING}" not in host.done


def test_with_restart_a_full_disk_after_the_switch_keeps_no_request_waiting(host, monkeypatch):
    monkeypatch.setattr(rollout, "available_memory", lambda: 1)
    monkeypatch.setattr(
        rollout.History,
        "save",
        lambda _self: (_ for _ in ()).throw(OSError(28, "No space left on device")),
    )
    with pytest.raises(
        DeployError,
        match=rf"Release {NEW} is live, but what follows the switch failed: .*No space left",
    ):
        run(host)
    assert WAITING not in host.active
    assert FALLBACK not in host.active
    assert GREEN in host.active


def test_the_lock_of_a_roll_out_ends_with_its_process_and_not_with_its_children(host, monkeypatch):
    told = rollout.Rollout(Stub(name="api", root=str(host.root), release=NEW))
    told.hold_rollout_lock()
    path = told.endpoint.rollout_lock

    def is_free():
        with open(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    assert not is_free()
    with subprocess.Popen(["sleep", "600"], close_fds=False) as child:
        os.close(told.rollout_lock)
        try:
            assert is_free()
        finally:
            child.kill()


def test_with_restart_a_refused_version_gives_way_to_the_old_one(host, monkeypatch):
    monkeypatch.setattr(rollout, "available_memory", lambda: 1)
    host.refused["green"] = TypeError("anything at all")
    with pytest.raises(
        DeployError, match=rf"TypeError: anything at all. Release {OLD} is still live"
    ):
        run(host)
    steps = host.done
    order = ["prove green", f"disable {GREEN}", f"start {BLUE}", "prove blue", f"stop {WAITING}"]
    assert [step for step in steps if step in order] == order
    assert (
        os.readlink(host.root / "slots" / "blue" / "gunicorn.sock") == "/run/api/blue/gunicorn.sock"
    )
    assert (live(host), host.active) == ("blue", {BLUE})


def test_the_version_that_serves_people_is_not_held_still(host, monkeypatch):
    monkeypatch.setattr(rollout, "available_memory", lambda: 1)
    host.refused["green"] = rollout.ReleaseRejectedError("start", "no")
    with pytest.raises(DeployError):
        run(host)
    assert "ask every worker of blue" not in host.done


def test_an_old_one_that_does_not_say_how_it_is_asked_comes_back_too(host, monkeypatch):
    (host.root / "releases" / OLD / "rollout.json").unlink()
    monkeypatch.setattr(rollout, "available_memory", lambda: 1)
    host.refused["green"] = rollout.ReleaseRejectedError("start", "no")
    with pytest.raises(DeployError, match="is still live"):
        run(host)
    assert host.active == {BLUE}


def test_when_the_old_one_does_not_come_back_either_it_is_said(host, monkeypatch):
    monkeypatch.setattr(rollout, "available_memory", lambda: 1)
    host.refused = {
        slot: rollout.ReleaseRejectedError("start", f"{slot} is out of luck")
        for slot in ("blue", "green")
    }
    with pytest.raises(
        DeployError,
        match=rf"Release {OLD}, which is live, does not serve either: blue is out of luck",
    ):
        run(host)
    assert WAITING not in host.active, "requests still wait"


def test_a_failure_after_the_switch_does_not_claim_that_the_old_one_serves(host, monkeypatch):
    monkeypatch.setattr(
        rollout.Rollout,
        "collect",
        lambda _self: (_ for _ in ()).throw(OSError(28, "No space left on device")),
    )
    with pytest.raises(
        DeployError,
        match=rf"Release {NEW} is live, but what follows the switch failed: .*No space left",
    ):
        run(host)
    assert (live(host), host.active) == ("green", {GREEN})


def test_a_full_disk_does_not_hide_why_a_version_was_refused(host, monkeypatch):
    host.refused["green"] = rollout.ReleaseRejectedError("start", "it stopped with status 1")
    monkeypatch.setattr(
        rollout.History,
        "save",
        lambda _self: (_ for _ in ()).throw(OSError(28, "No space left on device")),
    )
    with pytest.raises(DeployError, match="it stopped with status 1"):
        run(host)


def test_a_run_that_was_killed_after_the_switch_is_made_up_for(host):
    run(host)
    host.active.add(BLUE)
    host.enabled.add(BLUE)
    (host.root / "history.json").unlink()
    assert run(host, check_mode=True)["changed"]
    assert host.active == {BLUE, GREEN}
    result = run(host)
    assert result["repaired"] == ["the other slot was left on", "not in the history"]
    assert (host.active, host.enabled) == ({GREEN}, {GREEN})
    assert run(host) == {
        "release": NEW,
        "previous": NEW,
        "changed": False,
        "slot": "green",
        "repaired": [],
    }


def test_a_restart_that_was_killed_while_requests_wait_is_made_up_for(host):
    host.active = {WAITING}
    (host.root / "slots" / "blue" / "gunicorn.sock").unlink()
    (host.root / "slots" / "blue" / "gunicorn.sock").symlink_to("/run/api/waiting.sock")
    result = run(host, release=OLD)
    assert {"requests were left waiting", "not running", "links"} <= set(result["repaired"])
    assert (
        os.readlink(host.root / "slots" / "blue" / "gunicorn.sock") == "/run/api/blue/gunicorn.sock"
    )
    assert host.active == {BLUE}


def test_rolling_back_needs_no_id_and_removes_nothing(host):
    run(host)
    result = run(host, release="", rollback=True, keep=1)
    assert (result["release"], result["removed"]) == (OLD, [])
    assert live(host) == "blue"
    assert "rollback" in (host.root / "deploys.log").read_text()
    with pytest.raises(DeployError, match=f"no good release to go back to: {OLD} is the oldest"):
        run(host, release="", rollback=True)


@pytest.mark.parametrize("check_mode", [False, True])
@pytest.mark.parametrize("release", ["", OLD])
def test_there_is_no_way_back_to_a_release_that_has_lost_its_python(host, release, check_mode):
    run(host)
    host.done.clear()
    lost = make_virtualenv(host.root / "venvs/lost", "/nowhere/python3.11", "3.11")
    (host.root / "releases" / OLD / "p3env").symlink_to(lost)
    with pytest.raises(
        DeployError, match=rf"^Nothing was touched: release {OLD} .*/nowhere/python3\.11, is gone"
    ) as told:
        run(host, release=release, rollback=True, check_mode=check_mode)
    assert "No older release on this host can. Run site.yml without tags" in str(told.value)
    assert host.done == []
    other = "c" * 12
    (host.root / "releases" / other).mkdir()
    rollout.History(host.root).went_live(other, "", by_rollback=False)
    with pytest.raises(
        DeployError, match=f"Go back to one of these with -e api_endpoint_release=<id>: {other}"
    ):
        run(host, release=OLD, rollback=True, check_mode=check_mode)


@pytest.mark.parametrize("release", ["c" * 12, "../releases", "current"])
def test_rolling_back_to_what_is_not_there_lists_what_is(host, release):
    with pytest.raises(
        DeployError,
        match=rf"There is no release '{release}' on this host. There are: {OLD} \(live\), {NEW} \(built\)",
    ):
        run(host, release=release, rollback=True)
    assert host.done == []


def test_a_dry_run_does_nothing(host):
    result = run(host, check_mode=True)
    assert result["changed"]
    assert result["diff"] == {"before": f"live: {OLD}\n", "after": f"live: {NEW}\n"}
    assert host.done == []


def test_a_live_version_that_does_not_run_is_no_reason_to_wait(host):
    host.active.clear()
    result = run(host)
    assert (result["strategy"], result["why"]) == ("blue_green", "no version is running")


def test_when_live_was_removed_the_slot_that_runs_gets_it_back_and_no_other_is_on(host):
    run(host)
    (host.root / "live").unlink()
    assert run(host, check_mode=True)["repaired"] == ["the link live"]
    assert not (host.root / "live").is_symlink()
    assert run(host)["repaired"] == ["the link live"]
    assert (live(host), host.active, host.enabled) == ("green", {GREEN}, {GREEN})
    assert not run(host)["changed"]


def test_when_live_was_removed_another_release_takes_the_other_slot(host):
    run(host)
    (host.root / "live").unlink()
    host.done.clear()
    result = run(host, release=OLD)
    assert (result["slot"], result["previous"]) == ("blue", NEW)
    assert host.done[0] == "live -> slots/green", "requests wait for the new version"
    assert (live(host), host.active, host.enabled) == ("blue", {BLUE}, {BLUE})


@pytest.mark.parametrize("memory", [1, 10**12], ids=["restart", "blue_green"])
def test_when_live_is_removed_meanwhile_and_the_version_is_refused_the_old_one_gets_it_back(
    host, monkeypatch, memory
):
    monkeypatch.setattr(rollout, "available_memory", lambda: memory)
    every_worker_answers = rollout.ReadinessCheck.every_worker_answers

    def remove_and_refuse(proof):
        every_worker_answers(proof)
        (host.root / "live").unlink()
        raise DeployError("worker 1 hangs")

    monkeypatch.setattr(rollout.ReadinessCheck, "every_worker_answers", remove_and_refuse)
    with pytest.raises(DeployError, match=f"Release {OLD} is still live"):
        run(host)
    assert (live(host), host.active, host.enabled) == ("blue", {BLUE}, {BLUE})
    assert sorted(path.name for path in (host.root / "slots").iterdir()) == ["blue", "green"]
    assert (
        os.readlink(host.root / "slots" / "blue" / "gunicorn.sock") == "/run/api/blue/gunicorn.sock"
    )


def test_a_version_that_was_never_proven_does_not_get_the_link(host):
    (host.root / "live").unlink()
    host.enabled.clear()
    assert run(host, release=OLD)["previous"] == ""


def test_settings_that_systemd_has_not_read_are_read(host):
    run(host)
    host.unread = {GREEN}
    assert run(host)["repaired"] == ["settings of the unit"]
    assert not run(host)["changed"]


def test_commands_that_outlived_their_run_are_ended(host):
    """Those that make data are not: they go on by themselves, and the next run joins them."""
    run(host)
    commands = {"api-virtualenv.service", "api-warm-up.service", "api-make-data.service"}
    host.active |= commands
    for check_mode in (True, False):
        assert run(host, check_mode=check_mode)["repaired"] == ["commands of an interrupted run"]
    assert host.active & commands == {"api-make-data.service"}
    assert not run(host)["changed"]
    host.active |= commands
    run(host, release=OLD)
    assert host.active & commands == {"api-make-data.service"}


def test_files_of_an_interrupted_run_are_removed_by_a_run_that_starts_nothing(host):
    run(host)
    run(host, release=OLD)
    half = host.root / "releases" / ".building-x"
    half.mkdir()
    assert run(host, release=OLD, check_mode=True)["repaired"] == ["files of an interrupted run"]
    assert not run(host, release=OLD, rollback=True)["changed"]
    assert half.is_dir()
    assert run(host, release=OLD) == {
        "release": OLD, "previous": OLD, "changed": True, "slot": "blue", "repaired": ["files of an interrupted run"],
    }  # fmt: skip
    assert not half.exists()
    assert not run(host, release=OLD)["changed"]


def test_a_live_link_to_a_slot_without_a_release_is_repaired(host):
    (host.root / "slots" / "blue" / "release").unlink()
    assert run(host)["previous"] == ""
    assert live(host) == "green"


@pytest.mark.parametrize("check_mode", [True, False])
def test_a_masked_unit_is_named_with_what_allows_it(host, check_mode):
    host.masked.add("api@blue.service")
    with pytest.raises(DeployError, match=r"api@blue.service is masked.*systemctl unmask api@blue"):
        run(host, release=OLD, check_mode=check_mode)
    assert "start" not in " ".join(host.done)


def test_systemctls_refusal_to_start_a_masked_unit_says_what_allows_it(monkeypatch):
    failed = SimpleNamespace(returncode=1, stdout="", stderr="Unit a.service is masked.")
    monkeypatch.setattr(systemd, "systemctl", lambda *_: failed)
    with pytest.raises(DeployError, match=r"`sudo systemctl unmask a.service`"):
        systemd.must("start", "--no-block", "a.service")


def test_the_warm_up_comes_after_the_proof_and_before_the_switch(host, monkeypatch):
    plan = json.loads((host.root / "releases" / NEW / "rollout.json").read_text())
    (host.root / "releases" / NEW / "rollout.json").write_text(
        json.dumps({**plan, "warm_up": "curl $API_ENDPOINT_SOCKET"})
    )

    def run_command(command, sandbox):
        host.done.append(f"{command} with {sandbox.environment['API_ENDPOINT_SOCKET']}")
        raise DeployError("the command ended with status 4")

    monkeypatch.setattr(rollout, "run_command", run_command)
    with pytest.raises(DeployError, match='at the step "warm-up": the command ended with status 4'):
        run(host)
    asked = host.done.index("curl $API_ENDPOINT_SOCKET with /run/api/green/gunicorn.sock")
    assert host.done.index("prove green") < asked
    assert f"enable {GREEN}" not in host.done


def test_a_slot_gets_the_secrets_of_its_release(host, tmp_path):
    folder = host.root / "releases" / NEW
    components = {"code": "c", "virtualenv": "v", "artifacts": [], "secrets": "0" * 16}
    (folder / "release.json").write_text(json.dumps({"components": components}))
    run(host)
    drop_in = (tmp_path / "green.d" / "release.conf").read_text()
    assert drop_in.endswith(f"[Service]\nEnvironmentFile={host.root}/secrets/{'0' * 16}\n")


# --- beside a service of the old template


def first_take_over(host, **more):
    """Bring NEW live on a host on which nothing of ours is, and the old template's service runs."""
    for path in ("live", "slots/blue/release", "slots/blue/gunicorn.sock"):
        (host.root / path).unlink()
    host.active, host.enabled = {"model.service"}, {"model.service"}
    return run(host, old_unit="model.service", **more)


def test_beside_the_old_templates_service(host):
    told = first_take_over(host)
    assert told["strategy"] == "blue_green"
    assert "MB are available" in told["why"]
    assert "model.service" in host.active
    assert not any("model.service" in done for done in host.done)


def test_where_there_is_no_memory_for_both_the_old_templates_service_goes_first(host, monkeypatch):
    monkeypatch.setattr(rollout, "available_memory", lambda: 1)
    assert first_take_over(host)["strategy"] == "restart"
    assert host.done.index("stop model.service") < host.done.index("prove blue")
    assert "model.service" not in host.active


def test_the_old_templates_service_is_started_again_when_the_new_version_is_refused(
    host, monkeypatch
):
    monkeypatch.setattr(rollout, "available_memory", lambda: 1)
    host.refused["blue"] = rollout.ReleaseRejectedError("health", "it is broken")
    with pytest.raises(DeployError, match=r"model.service of the old template still serves"):
        first_take_over(host)
    assert "model.service" in host.active


def test_the_things_of_the_old_templates_service_stay_until_it_is_stopped(host, monkeypatch):
    monkeypatch.undo()
    (host.root / "p3env").mkdir()
    given = {"name": "api", "root": str(host.root), "release": NEW, "rollback": False}
    links = rollout.Rollout(Stub(**given, old_unit="model.service")).links()
    assert host.root / "p3env" not in links
    assert host.root / "current" in links
    assert host.root / "p3env" in rollout.Rollout(Stub(**given)).links()


def test_hints_are_of_this_start_and_not_of_the_other_slot(tmp_path, monkeypatch):
    """The other slot goes on answering, and logging, while a version starts."""
    log = tmp_path / "error.log"
    stamp = "[2026-12-01 10:00:07 +0000]"
    log.write_text(
        f"{stamp} [30] [INFO] Starting\n{stamp} [21] [ERROR] a request\n"
        "OSError: [Errno 30] Read-only file system: '/etc/a'\n"
    )
    monkeypatch.setattr(
        rollout.Endpoint, "_processes", lambda _self, slot: [21] if slot == "green" else []
    )
    monkeypatch.setattr(rollout, "read_journal", lambda *_given: "")
    monkeypatch.setattr(rollout.Rollout, "settings", lambda *_given: "")
    one = object.__new__(rollout.Rollout)
    one.endpoint, one.slot, one.offset = rollout.Endpoint("api", str(tmp_path)), "blue", 0
    one.started = one.prepared = 0.0
    one.given, one.release = {"error_log": str(log)}, ""
    assert one.notes() == []
    one.slot = "green"
    monkeypatch.setattr(rollout.Endpoint, "_processes", lambda *_given: [])
    assert any("read-only" in note.lower() for note in one.notes())
    # What the app has put in the log's place is not read.
    log.rename(tmp_path / "moved")
    log.symlink_to(tmp_path / "moved")
    assert one.notes() == []


def test_a_refusal_begins_with_the_apps_own_line(host, monkeypatch):
    """Place, exception, remedy; then the step; the traceback once, folded; hints that the line has are not said again."""
    host.refused["green"] = rollout.ReleaseRejectedError("start", "it stopped with status 1")
    folder = host.root / "releases" / NEW
    error = f"OSError: [Errno 30] Read-only file system: '{folder}/cache.txt'"
    log = (
        'Traceback (most recent call last):\n  File "/usr/lib/python3.13/importlib/x.py", line 1, in y\n    z()\n'
        f"  File \"{folder}/model.py\", line 7, in <module>\n    open('cache.txt', 'w')\n{error}\n"
    )
    monkeypatch.setattr(rollout.Endpoint, "logs", lambda *_args, **_more: ("", log))
    monkeypatch.setattr(rollout, "read_journal", lambda *_: log)
    with pytest.raises(DeployError) as told:
        run(host)
    lines = str(told.value).splitlines()
    assert lines[0].startswith(
        "model.py line 7: OSError: [Errno 30] Read-only file system: 'cache.txt'. The app writes into its own folder"
    )
    assert lines[1].startswith(f'Release {NEW} was not brought live. It failed at the step "start"')
    assert lines[2:] == [
        "Traceback (most recent call last):", "  … 1 frame of Python", '  File "model.py", line 7, in <module>',
        "    open('cache.txt', 'w')", "OSError: [Errno 30] Read-only file system: 'cache.txt'", "--- its log",
    ]  # fmt: skip
    failed = rollout.History(host.root).entries[NEW]["failed"]
    assert failed["reason"] == lines[0][:300]


def test_an_answer_below_500_has_its_reason_in_no_traceback(host, monkeypatch):
    host.refused["green"] = rollout.ReleaseRejectedError(
        "smoke", "GET /a: status 404: ''; expected: status 200"
    )
    log = 'Traceback (most recent call last):\n  File "/x/current/model.py", line 7, in a\nKeyError: 1\n'
    monkeypatch.setattr(rollout.Endpoint, "logs", lambda *_args, **_more: ("", log))
    with pytest.raises(DeployError, match=rf"^Release {NEW} was not brought live"):
        run(host)


@pytest.mark.parametrize("work", ["data", "virtualenv"])
def test_work_that_goes_on_without_a_lock_keeps_the_collector_away(monkeypatch, work):
    """The collector would take the half-made files of that work for left-overs."""
    busy = {f"api-{work}"}
    monkeypatch.setattr(
        rollout, "Background", lambda name: SimpleNamespace(is_alive=lambda: name in busy)
    )
    subject = SimpleNamespace(endpoint=SimpleNamespace(name="api"))
    assert rollout.Rollout.is_busy(subject)
    busy.clear()
    assert not rollout.Rollout.is_busy(subject)
