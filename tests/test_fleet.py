"""Several hosts: one release, one way back, a balancer that is understood, and a table that says where each host stands."""

import importlib.util
import re
import socket
import subprocess
import threading

import pytest
import yaml
from ansible.executor.playbook_executor import PlaybookExecutor
from ansible.module_utils.api_endpoint.balancing import drain
from ansible.module_utils.api_endpoint.balancing import haproxy_wait as balancer
from ansible.module_utils.api_endpoint.controller.fleet import alike, one_release, summary, target
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.playbook.play import Play
from ansible.template import Templar, trust_as_template
from helpers import PROJECT, ROLE
from rendering import variables_of

A, B, C = (letter * 12 for letter in "abc")
HEADS = "# pxname,svname,qcur,scur,status,check_status,\n"


def built(release, **components):
    return {"release": release, "components": {"code": "1", "virtualenv": "2", **components}}


def test_the_same_release_everywhere():
    assert one_release({"one": built(A), "two": built(A)}) == A
    assert one_release({"one": {}, "two": built(A)}) == A, "one has built none"
    assert one_release({"one": {}}) == ""


def test_different_releases_are_refused_with_the_component():
    with pytest.raises(DeployError) as told:
        one_release({"one": built(A), "two": built(B, virtualenv="3"), "three": built(A)})
    said = str(told.value)
    assert f"  {A}: one, three\n  {B}: two\nThey differ in: virtualenv." in said
    assert "the same Debian version" in said
    with pytest.raises(DeployError, match=r"They differ in: settings\. Give all"):
        one_release({"one": built(A), "two": built(B, settings={"a": "b"})})


def test_different_data_is_refused_with_its_name():
    artifacts = [{"dest": "model.bin", "digest": "1"}, {"dest": "words.txt", "digest": "2"}]
    other = [{"dest": "model.bin", "digest": "3"}, {"dest": "words.txt", "digest": "2"}]
    with pytest.raises(
        DeployError, match=r"They differ in: data model\.bin\. Without sha256 each host took"
    ):
        one_release({"one": built(A, artifacts=artifacts), "two": built(B, artifacts=other)})


def host(live, previous="", *others):
    return {
        "live": live,
        "previous": previous,
        "releases": [{"id": name} for name in (live, previous, *others) if name],
    }


@pytest.mark.parametrize(
    ("hosts", "wanted", "found"),
    [
        ([host(B, A), host(B, A)], "", A),
        ([host(C, B), host(B, A), host(B, A)], "", B),  # a roll that stopped halfway
        ([host(C, B), host(C, B), host(B, "")], "", B),
        ([host(B, A, C), host(A, C)], C, C),
        ([host(B, A), host(A)], A, A),
    ],
)
def test_all_go_back_to_one_release(hosts, wanted, found):
    assert target(dict(enumerate(hosts)), wanted) == found


@pytest.mark.parametrize("wanted", ["", A])
def test_no_host_is_drained_for_a_release_that_cannot_start_on_one_of_them(wanted):
    upgraded = host(B, A)
    upgraded["releases"][1]["unable"] = "its virtualenv was made for Python 3.11"
    with pytest.raises(
        DeployError,
        match=rf"^Nothing was touched: release {A} .* on two: its virtualenv was made for",
    ):
        target({"one": host(B, A), "two": upgraded}, wanted)
    upgraded["releases"][0]["unable"] = upgraded["releases"][1].pop(
        "unable"
    )  # the live one: the way leads away from it
    assert target({"one": host(B, A), "two": upgraded}, wanted) == A


@pytest.mark.parametrize(
    "hosts",
    [
        [host(C, B), host(C, A)],
        [host(C, B), host(A, "")],
        [host(A), host(A)],
        [host(B, A), host(A, B)],  # either would do
        [host(C, B), host("", "")],
    ],
)
def test_where_there_is_no_common_release_a_name_is_asked_for(hosts):
    with pytest.raises(DeployError) as told:
        target({f"host{number}": one for number, one in enumerate(hosts)}, "")
    said = str(told.value)
    assert said.startswith("Nothing was touched: the hosts do not have the same good release")
    assert "playbooks/rollback.yml -e api_endpoint_release=<id>`" in said
    assert len([line for line in said.splitlines() if line.startswith("host")]) == 3, said


def test_hosts_that_do_not_have_the_release_are_named():
    with pytest.raises(DeployError, match=rf"there is no release '{C}' on two, three\.\nhost"):
        target({"one": host(C, B), "two": host(B, A), "three": host(B)}, C)


def test_a_difference_is_seen_at_a_glance():
    assert alike({"one": A, "two": A, "three": ""}) == "All 2 hosts have the same release live."
    assert alike({"one": A}) == alike({}) == ""
    assert (
        alike({"one": A, "two": B})
        == f"NOT ALL HOSTS HAVE THE SAME RELEASE LIVE:\n  {A}: one\n  {B}: two"
    )


def done(before, after):
    return {"state": "done", "before": before, "after": after}


def test_how_the_hosts_ended():
    ok, text = summary({"one": done(A, B), "two": done(B, B), "new": done("", B)})
    assert ok
    assert text.splitlines() == [
        "host  release",
        f"one   {B}  until now {A}",
        f"two   {B}",
        f"new   {B}",
    ]


def test_a_dry_run_says_what_would_be():
    assert f"one   {B}  would be; now {A}" in summary({"one": done(A, B)}, dry=True)[1]


def test_a_failure_says_which_host_has_which_release_and_what_to_do():
    ok, text = summary(
        {
            "one": {"state": "failed", "before": A, "after": A, "reason": "it broke\nlog line"},
            "two": {"state": "waiting", "before": A},
            "gone": {"state": "unreachable"},
        }
    )
    assert not ok
    lines = text.splitlines()
    assert lines[1:4] == [
        f"one   {A}  FAILED, still serves the release before: it broke",
        f"two   {A}  not touched",
        "gone  ?             cannot be reached; left out",
    ]
    assert (
        "two not touched. Correct what failed (see above), and run "
        "`ansible-playbook -i inventory site.yml` again. Hosts that have the release" in lines[4]
    )
    assert (
        "When gone can be reached again, run `ansible-playbook -i inventory site.yml` once more"
        in lines[5]
    )


def test_a_failure_after_the_switch_names_the_release_that_is_live():
    ok, text = summary(
        {"one": {"state": "failed", "before": A, "after": B, "reason": "no requests came back"}}
    )
    assert not ok
    assert text.splitlines()[1] == f"one   {B}  FAILED, until now {A}: no requests came back"


@pytest.mark.parametrize("state", ["preparing", "activating"])
def test_a_host_that_was_lost_on_the_way_has_failed(state):
    ok, text = summary(
        {"one": {"state": state, "before": A}, "two": {"state": "waiting", "before": A}}
    )
    assert not ok
    assert text.splitlines()[1].split(maxsplit=2) == ["one", "?", f"LOST while it was {state}"]
    assert "two not touched" in text


def test_a_host_whose_releases_could_not_be_read_is_named():
    with pytest.raises(DeployError, match="the releases of two could not be read"):
        target({"one": host(B, A), "two": {"msg": "broken"}}, "")


def test_a_single_host_that_failed_is_told_nothing_of_others():
    ok, text = summary({"one": {"state": "failed", "reason": "it broke"}})
    assert not ok
    assert text.splitlines()[1].split() == ["one", "-", "FAILED:", "it", "broke"]
    assert "Hosts" not in text
    assert not summary({"one": {"state": "unchecked"}})[0]


def test_a_host_that_cannot_be_reached_is_no_failure():
    assert summary({"one": done(A, A), "gone": {"state": "unreachable"}})[0]


def haproxy(path, text):
    """A HAProxy that answers once."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def answer():
        connection, _ = listener.accept()
        assert connection.recv(100) == b"show stat\n"
        connection.sendall(text.encode())
        connection.close()

    threading.Thread(target=answer, daemon=True).start()
    return listener


def test_haproxy_is_asked_over_its_socket(tmp_path):
    listener = haproxy(
        tmp_path / "s",
        f"{HEADS}api,one,0,3,UP,L7OK,\napi,BACKEND,0,3,UP,,\nother,one,0,0,DOWN,,\n\n",
    )
    servers = balancer.servers_of(balancer.ask(str(tmp_path / "s")))
    listener.close()
    assert list(servers) == ["one"]
    assert balancer.ask(str(tmp_path / "not there")) is None


@pytest.mark.parametrize(
    ("status", "requests", "usable", "has_left", "is_back"),
    [
        ("UP", 0, True, False, True),
        ("UP 1/2", 0, True, False, True),
        ("no check", 0, True, False, True),
        ("NOLB", 2, False, False, False),
        ("NOLB", 0, False, True, False),
        ("NOLB 1/2", 0, False, True, False),
        ("DOWN", 0, False, True, False),
        ("DOWN 1/2", 0, False, True, False),
        ("MAINT", 0, False, True, True),
        ("DRAIN", 0, False, True, True),
    ],
)
def test_what_a_state_means(status, requests, usable, has_left, is_back):
    servers = balancer.servers_of(f"{HEADS}api,one,0,{requests},{status},L7OK,\n")
    found = balancer.judged(servers, "one", "drained", [])
    assert (found["usable"], found["as_wanted"]) == (usable, has_left)
    assert balancer.judged(servers, "one", "rejoined", [])["as_wanted"] == is_back
    assert found["status"] == f"{status} L7OK"


def test_the_last_usable_host_is_not_drained():
    servers = balancer.servers_of(
        f"{HEADS}api,one,0,0,UP,,\napi,two,0,0,UP,,\napi,three,0,0,DOWN,,\n"
    )
    assert balancer.judged(servers, "one", "", ["one"])["may_drain"]
    assert not balancer.judged(servers, "one", "", ["one", "two"])["may_drain"], (
        "two is drained at the same time"
    )
    assert balancer.judged(servers, "three", "", ["three", "one", "two"])["may_drain"], (
        "it gets no requests anyway"
    )
    assert balancer.judged(servers, "new", "drained", [])["as_wanted"], (
        "unknown: nothing to wait for"
    )


def test_no_host_is_drained_while_the_one_before_has_just_rejoined():
    heads = HEADS.replace(",\n", ",throttle,\n")

    def may_go(throttle):
        servers = balancer.servers_of(
            f"{heads}api,one,0,0,UP,,,\napi,two,0,0,UP,,{throttle},\napi,gone,0,0,DOWN,,1%,\n"
        )
        return balancer.judged(servers, "one", "others", ["one"])["as_wanted"]

    assert [may_go(throttle) for throttle in ("10%", "49%", "50%", "100%", "")] == [
        False,
        False,
        True,
        True,
        True,
    ]


def test_the_timer_is_set_before_the_flag_and_ended_after_it(tmp_path, monkeypatch):
    flag, done = tmp_path / "api" / "draining", []

    def note(command, **_more):
        done.append((command[0], flag.exists()))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(drain.subprocess, "run", note)
    monkeypatch.setattr(
        drain, "systemctl", lambda verb, *_units: done.append((verb, flag.exists()))
    )
    drain.drain(flag, "api-rejoin", 9)
    assert done == [("stop", False), ("reset-failed", False), ("systemd-run", False)]
    assert flag.exists()
    done.clear()
    drain.rejoin(flag, "api-rejoin")
    assert done == [("stop", False), ("reset-failed", False)]
    monkeypatch.setattr(
        drain.subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, 1, "", "no bus"),
    )
    with pytest.raises(DeployError, match="no bus"):
        drain.drain(flag, "api-rejoin", 9)
    assert not flag.exists(), "nothing would remove it"


def test_what_playbooks_assume_of_the_serial_is_the_roles_default():
    default = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())["api_endpoint_serial"]
    for name in ("deploy", "rollback"):
        assert f"default={default}" in (PROJECT / "playbooks" / f"{name}.yml").read_text()


@pytest.mark.parametrize(
    ("given", "batches"),
    [
        (None, [1, 2, 2, 2, 1]),
        ([3], [3, 3, 2]),
        ("50%", [4, 4]),
        (2, [2, 2, 2, 2]),
        ([1, "100%"], [1, 7]),
        ("nonsense", [1] * 8),  # the preflight has refused it by then
    ],
)
def test_how_many_hosts_have_their_turn_together(tmp_path, given, batches):
    settings = {} if given is None else {"api_endpoint_serial": given}
    inventory = {
        "api_endpoints": {"hosts": {f"host{number}": {} for number in range(8)}, "vars": settings}
    }
    (tmp_path / "inventory.yml").write_text(yaml.safe_dump(inventory))
    variables = variables_of(tmp_path / "inventory.yml", tmp_path)
    play = yaml.safe_load((PROJECT / "playbooks" / "deploy.yml").read_text())[1]
    play = Play.load(
        {"hosts": play["hosts"], "serial": trust_as_template(play["serial"])},
        variables,
        variables._loader,
    )
    play.post_validate(Templar(variables._loader, variables.get_vars(play)))
    executor = object.__new__(PlaybookExecutor)
    executor._inventory = variables._inventory
    assert [len(batch) for batch in executor._get_serialized_batches(play)] == batches


def test_a_run_takes_the_lock_of_an_earlier_one_of_this_computer_that_has_died(monkeypatch):
    spec = importlib.util.spec_from_file_location(
        "lock", ROLE / "action_plugins" / "api_endpoint_lock.py"
    )
    lock = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lock)
    asked = []

    def answers(holder, **arguments):
        asked.clear()

        def execute(module_args, task_vars):
            asked.append(dict(module_args))
            return (
                {"failed": True, "holder": holder}
                if len(asked) == 1
                else {"token": module_args["token"]}
            )

        action = object.__new__(lock.ActionModule)
        action._task = type("Task", (), {"args": {"name": "api", **arguments}})
        action._execute_module = execute
        action._low_level_execute_command = lambda _command: {"rc": 1, "stdout": ""}
        monkeypatch.setattr(lock.ActionBase, "run", lambda *_: {})
        return action.run(None, {})

    with subprocess.Popen(["true"]) as ended:
        pass
    dead = {"token": "its", "machine": lock.this_computer(), "pid": ended.pid}
    assert not answers(dead).get("failed")
    assert asked[1]["instead_of"] == "its"
    assert answers({**dead, "pid": lock.os.getpid()})["failed"], "that one runs"
    assert answers({**dead, "machine": "another"})["failed"]
    # Where it had the lock already, it takes nobody's.
    assert answers(dead, run="own")["failed"]
    assert asked == [{"name": "api", "run": "own"}]


def lock_tasks(name):
    """Return the files and modules by which the tasks of a file take and release the lock, in order."""
    text = (ROLE / "tasks" / f"{name}.yml").read_text()
    return re.findall(
        r"import_tasks: ((?:un)?lock)\.yml|\b(api_endpoint_lock|refuse(?=\.yml))\b", text
    )


def test_no_other_deployment_comes_between_the_build_and_the_activation():
    """Before activate.yml only a run that ends for all hosts releases the lock (refuse.yml); a turn renews it."""
    assert lock_tasks("build") == [("lock", ""), ("", "refuse")]
    assert lock_tasks("select_release") == [("lock", "")]
    assert lock_tasks("refuse") == [("unlock", "")]
    assert lock_tasks("activate") == [("", "api_endpoint_lock"), ("unlock", ""), ("unlock", "")]
    tasks = yaml.safe_load((ROLE / "tasks" / "activate.yml").read_text())
    block = next(task for task in tasks if "block" in task)
    assert "unlock.yml" in str(block["always"])
    (left_out,) = [task for task in tasks if "unlock.yml" in str(task) and "block" not in task]
    assert f"not {block['when']}" in left_out["when"]


def test_a_rollback_changes_the_release_and_nothing_else_of_the_host():
    tasks = yaml.safe_load((ROLE / "tasks" / "activate.yml").read_text())
    (block,) = [task["block"] for task in tasks if "block" in task]
    included = {}
    for task in block:
        file = task.get("ansible.builtin.include_tasks", task.get("ansible.builtin.import_tasks"))
        if file:
            included[str(task["name"])] = (
                file if isinstance(file, str) else file["file"],
                str(task.get("when")),
            )
    always = {"drain.yml", "release.yml", "health.yml", "rejoin.yml"}
    others = {file: when for file, when in included.values() if file not in always}
    assert {"nginx.yml", "hardening.yml", "legacy_takeover.yml"} <= set(others)
    assert [
        name
        for name, (file, when) in included.items()
        if file not in always and "not __api_endpoint_is_rollback" not in when
    ] == []
