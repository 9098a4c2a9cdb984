"""What happens on the host, in which order, and what is said when it does not work out."""

import json
import os
from types import SimpleNamespace

import pytest
from ansible.module_utils.api_endpoint_store import StoreError
from helpers import Stub, load

rollout = load("api_endpoint_rollout")

OLD, NEW = "a" * 12, "b" * 12
BLUE, GREEN, WAITING = "api@blue.service", "api@green.service", "api-waiting.socket"


class Host:
    """Stands for systemd: units that start and stop, and what was done in order."""

    def __init__(self) -> None:
        self.active = {BLUE}
        self.enabled = {BLUE}
        self.done: list[str] = []
        self.refused: dict[str, Exception] = {}

    def systemctl(self, *arguments: str):
        verb, units = arguments[0], [word for word in arguments[1:] if not word.startswith("-")]
        if verb in ("start", "stop", "enable", "disable"):
            self.done += [f"{verb} {unit}" for unit in units]
        for unit in units:
            if verb == "start":
                self.active.add(unit)
            if verb == "stop" or (verb == "disable" and "--now" in arguments):
                self.active.discard(unit)
            if verb in ("enable", "disable"):
                (self.enabled.add if verb == "enable" else self.enabled.discard)(unit)
        good = verb != "is-active" or units[0] in self.active
        return SimpleNamespace(returncode=0 if good else 3, stdout="inactive\n", stderr="")

    def properties(self, slot: str, *_names: str) -> dict[str, str]:
        unit = f"api@{slot}.service"
        return {
            "ActiveState": "active" if unit in self.active else "inactive",
            "UnitFileState": "enabled" if unit in self.enabled else "disabled",
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
    monkeypatch.setattr(rollout.Endpoint, "properties", lambda _self, slot, *names: host.properties(slot, *names))
    monkeypatch.setattr(rollout.Endpoint, "last_words", lambda *_: "--- its last words")
    monkeypatch.setattr(rollout.Endpoint, "memory", lambda *_: 1000)
    monkeypatch.setattr(rollout.Endpoint, "drop_in_of", lambda _self, slot: tmp_path / f"{slot}.d" / "release.conf")
    monkeypatch.setattr(rollout.Rollout, "links", lambda _self: {host.root / "current": "live/release"})
    monkeypatch.setattr(rollout.Rollout, "may_go", lambda _self: tmp_path / "let-go")
    monkeypatch.setattr(rollout, "available_memory", lambda: 10**12)
    monkeypatch.setattr(rollout, "main_process", lambda _unit: os.getpid())
    monkeypatch.setattr(rollout.Rollout, "set_rescue", lambda *_: host.done.append("set the rescue"))
    monkeypatch.setattr(rollout.Endpoint, "wait_until_accepted", lambda *_: host.done.append("wait for the queue"))
    monkeypatch.setattr(rollout, "queued", lambda *_: 0)
    monkeypatch.setattr(rollout.time, "sleep", lambda *_: None)
    real_point = rollout.point

    def point(link, target):
        if real_point(link, target):
            host.done.append(f"{os.path.relpath(link, host.root)} -> {target}")
            return True
        return False

    class Proof:
        def __init__(self, _plan, socket, *_functions) -> None:
            self.slot = socket.split("/")[-2]

        def wait_until_healthy(self) -> None:
            host.done.append(f"prove {self.slot}")
            if self.slot in host.refused:
                raise host.refused[self.slot]

        def every_worker_answers(self) -> None:
            host.done.append(f"ask every worker of {self.slot}")

        def last_look(self) -> None:
            host.done.append("last look")

    monkeypatch.setattr(rollout, "point", point)
    monkeypatch.setattr(rollout, "Proof", Proof)
    return host


def run(host, release=NEW, check_mode=False, **more):
    given = {
        "name": "api", "root": str(host.root), "data_dir": str(host.root / "data"), "release": release, "rollback": False,
        "keep": 3, "user": "any", "error_log": str(host.root / "error.log"), "audit_log": str(host.root / "deploys.log"),
        "run": "", **more,
    }  # fmt: skip
    return rollout.Rollout(Stub(check_mode, **given)).run()


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
    host.refused["green"] = rollout.RefusedError("health", "status 500")
    with pytest.raises(StoreError) as told:
        run(host)
    assert str(told.value) == (
        f'Release {NEW} was not brought live. It failed at the step "health": status 500. '
        f"Release {OLD} goes on serving.\n--- its last words"
    )
    assert (live(host), host.active, host.enabled) == ("blue", {BLUE}, {BLUE})
    assert rollout.History(host.root).state(NEW, OLD) == "failed"
    assert "result=failed" in (host.root / "deploys.log").read_text()


def test_with_restart_requests_wait_before_the_old_one_stops_and_until_the_new_one_is_proven(host, monkeypatch):
    monkeypatch.setattr(rollout, "available_memory", lambda: 1)
    result = run(host)
    assert result["strategy"] == "restart"
    assert "needs about 67 MB of memory, 0 MB are available" in result["why"]
    steps = host.done
    order = [
        "set the rescue", f"start {WAITING}", "slots/blue/gunicorn.sock -> /run/api/waiting.sock", f"stop {BLUE}",
        f"start {GREEN}",
        "prove green", "live -> slots/green", f"stop {WAITING}",
    ]  # fmt: skip
    assert [step for step in steps if step in order] == order
    assert (host.active, host.enabled) == ({GREEN}, {GREEN})


def test_with_restart_a_refused_version_gives_way_to_the_old_one(host, monkeypatch):
    monkeypatch.setattr(rollout, "available_memory", lambda: 1)
    host.refused["green"] = TypeError("anything at all")
    with pytest.raises(StoreError, match=rf"TypeError: anything at all. Release {OLD} goes on serving"):
        run(host)
    steps = host.done
    order = ["prove green", f"disable {GREEN}", f"start {BLUE}", "prove blue", f"stop {WAITING}"]
    assert [step for step in steps if step in order] == order
    assert os.readlink(host.root / "slots" / "blue" / "gunicorn.sock") == "/run/api/blue/gunicorn.sock"
    assert (live(host), host.active) == ("blue", {BLUE})


def test_the_version_that_serves_people_is_not_held_still(host, monkeypatch):
    monkeypatch.setattr(rollout, "available_memory", lambda: 1)
    host.refused["green"] = rollout.RefusedError("start", "no")
    with pytest.raises(StoreError):
        run(host)
    assert "ask every worker of blue" not in host.done


def test_an_old_one_that_does_not_say_how_it_is_asked_comes_back_too(host, monkeypatch):
    (host.root / "releases" / OLD / "rollout.json").unlink()
    monkeypatch.setattr(rollout, "available_memory", lambda: 1)
    host.refused["green"] = rollout.RefusedError("start", "no")
    with pytest.raises(StoreError, match="goes on serving"):
        run(host)
    assert host.active == {BLUE}


def test_when_the_old_one_does_not_come_back_either_it_is_said(host, monkeypatch):
    monkeypatch.setattr(rollout, "available_memory", lambda: 1)
    host.refused = {slot: rollout.RefusedError("start", f"{slot} is out of luck") for slot in ("blue", "green")}
    with pytest.raises(StoreError, match=rf"Release {OLD}, which is live, does not serve either: blue is out of luck"):
        run(host)
    assert WAITING not in host.active, "who waits is not let go"


def test_a_failure_after_the_switch_does_not_claim_that_the_old_one_serves(host, monkeypatch):
    monkeypatch.setattr(
        rollout.Rollout, "collect", lambda _self: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(StoreError, match=rf"Release {NEW} is live, but what follows the switch failed: .*No space left"):
        run(host)
    assert (live(host), host.active) == ("green", {GREEN})


def test_a_full_disk_does_not_hide_why_a_version_was_refused(host, monkeypatch):
    host.refused["green"] = rollout.RefusedError("start", "it stopped with status 1")
    monkeypatch.setattr(rollout.History, "save", lambda _self: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StoreError, match="it stopped with status 1"):
        run(host)


def test_a_run_that_was_killed_after_the_switch_is_made_up_for(host):
    run(host)
    host.active.add(BLUE)
    host.enabled.add(BLUE)
    (host.root / "history.json").unlink()
    assert run(host, check_mode=True)["changed"]
    assert host.active == {BLUE, GREEN}
    result = run(host)
    assert result["mended"] == ["the other slot was left on", "not in the history"]
    assert (host.active, host.enabled) == ({GREEN}, {GREEN})
    assert run(host) == {"release": NEW, "previous": NEW, "changed": False, "slot": "green", "mended": []}


def test_a_restart_that_was_killed_while_requests_wait_is_made_up_for(host):
    host.active = {WAITING}
    (host.root / "slots" / "blue" / "gunicorn.sock").unlink()
    (host.root / "slots" / "blue" / "gunicorn.sock").symlink_to("/run/api/waiting.sock")
    result = run(host, release=OLD)
    assert {"requests were left waiting", "not running", "links"} <= set(result["mended"])
    assert os.readlink(host.root / "slots" / "blue" / "gunicorn.sock") == "/run/api/blue/gunicorn.sock"
    assert host.active == {BLUE}


def test_rolling_back_needs_no_id_and_removes_nothing(host):
    run(host)
    result = run(host, release="", rollback=True, keep=1)
    assert (result["release"], result["removed"]) == (OLD, [])
    assert live(host) == "blue"
    assert "rollback" in (host.root / "deploys.log").read_text()
    with pytest.raises(StoreError, match=f"no good release to go back to: {OLD} is the oldest"):
        run(host, release="", rollback=True)


@pytest.mark.parametrize("release", ["c" * 12, "../releases", "current"])
def test_rolling_back_to_what_is_not_there_lists_what_is(host, release):
    with pytest.raises(
        StoreError, match=rf"There is no release '{release}' on this host. There are: {OLD} \(live\), {NEW} \(built\)"
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


def test_a_live_link_to_a_slot_without_a_release_is_mended(host):
    (host.root / "slots" / "blue" / "release").unlink()
    assert run(host)["previous"] == ""
    assert live(host) == "green"


def test_the_warm_up_comes_after_the_proof_and_before_the_switch(host, monkeypatch):
    plan = json.loads((host.root / "releases" / NEW / "rollout.json").read_text())
    (host.root / "releases" / NEW / "rollout.json").write_text(json.dumps({**plan, "warm_up": "curl $API_ENDPOINT_SOCKET"}))

    def run_command(command, sandbox):
        host.done.append(f"{command} with {sandbox.environment['API_ENDPOINT_SOCKET']}")
        raise StoreError("the command ended with status 4")

    monkeypatch.setattr(rollout, "run_command", run_command)
    with pytest.raises(StoreError, match='at the step "warm-up": the command ended with status 4'):
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


def test_the_old_templates_service_is_started_again_when_the_new_version_is_refused(host, monkeypatch):
    monkeypatch.setattr(rollout, "available_memory", lambda: 1)
    host.refused["blue"] = rollout.RefusedError("health", "it is broken")
    with pytest.raises(StoreError, match=r"model.service of the old template goes on serving"):
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
