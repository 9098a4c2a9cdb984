"""Another apt at work is waited for and named; what apt says is followed by what to do about it."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from ansible.module_utils.api_endpoint.controller import packages
from ansible.module_utils.api_endpoint.controller.look import BEGIN
from ansible.module_utils.api_endpoint.controller.packages import (
    INTERRUPTED,
    PackagesAction,
    explained,
)
from ansible.module_utils.api_endpoint.controller.processes import processes
from helpers import Clock

HOLDER = "/var/lib/dpkg/lock-frontend\t412\tapt-daily.service\t/usr/bin/unattended-upgrade \n"
NAMED = "/usr/bin/unattended-upgrade (process 412, apt-daily.service)"


@pytest.fixture
def host(monkeypatch):
    """Return a function that installs on a host whose looks and whose apt give these answers, and what it showed."""
    clock = Clock()
    monkeypatch.setattr(
        packages,
        "time",
        SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep, strftime=lambda _: "12:00"),
    )
    monkeypatch.setattr(packages.ActionBase, "run", lambda *_: {})

    def run(looks, results=(), check_mode=False, **arguments):
        action = object.__new__(PackagesAction)
        action._task = SimpleNamespace(args={"name": ["nginx"], **arguments}, check_mode=check_mode)
        action._display = SimpleNamespace(display=shown.append)
        looks, results = list(looks), list(results)

        def shell(command):
            begin, _, command = command.partition("\n")
            assert begin == f"echo '{BEGIN}'"
            answer = "Tue Dec  1\nE: asked again\n" if command.startswith("date") else ""
            if command == packages.LOOK:
                answer = looks.pop(0) if len(looks) > 1 else looks[0]
            return {"stdout": f"sudo: unable to resolve host one\n{BEGIN}\n{answer}"}

        action._low_level_execute_command = shell

        def execute(module_name, **_):
            run.modules.append(module_name)
            return results.pop(0) if results else {"changed": True}

        action._execute_module = execute
        return action.run(None, {"inventory_hostname": "one"})

    shown = run.shown = []
    run.modules = []
    run.clock = clock
    return run


def test_another_apt_is_waited_for_with_a_line_every_half_minute(host):
    assert host([HOLDER] * 13 + [""])["changed"]
    assert host.shown == [f"  12:00 one: waiting for apt, which {NAMED} is using"] * 3
    assert host.clock.now == 1000 + 13 * packages.LOOK_SECONDS


def test_patience_ends_with_the_name_of_the_holder(host):
    assert host([HOLDER], lock_timeout="60") == {
        "failed": True,
        "changed": False,
        "missing": ["nginx"],
        "msg": f"Packages were not installed: for 60 s {NAMED} had apt's lock /var/lib/dpkg/lock-frontend. Run this again "
        "when that is done, or end it when it hangs.",
    }
    assert host.clock.now == 1060


@pytest.mark.parametrize(
    "words",
    [
        "E:Could not get lock /var/lib/apt/lists/lock. It is held by process 97 (apt-get)",
        "Failed to lock apt for exclusive operation: Failed to lock directory /var/lib/apt/lists/",
        "E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?",
        "E: Unable to lock directory /var/lib/apt/lists/",
    ],
)
def test_a_lock_that_is_taken_between_look_and_apt_is_waited_for(host, words):
    assert host(
        ["", HOLDER, ""], [{"failed": True, "msg": "failed", "stderr": words}, {"changed": True}]
    )["changed"]


def test_a_dry_run_waits_for_nobody(host):
    assert host([HOLDER], check_mode=True)["changed"]
    assert host.shown == []


def test_a_dry_run_names_what_is_missing_where_apt_has_no_python_binding(host):
    told = host([""], [{"failed": True, "msg": "python3-apt must be installed"}], check_mode=True)
    assert (told["failed"], told["changed"], told["missing"]) == (True, False, ["nginx"])


def test_an_interrupted_dpkg_is_named_with_its_command(host):
    told = host([f"{INTERRUPTED}\n"])
    assert told["failed"]
    assert "Run `sudo dpkg --configure -a` there. Then run this again." in told["msg"]
    # A dpkg that is at work has left the same mark.
    assert host([f"{HOLDER}{INTERRUPTED}\n", ""])["changed"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "E: dpkg was interrupted, you must manually run 'dpkg --configure -a'",
            "sudo dpkg --configure -a",
        ),
        (
            "E: Release file for http://x/InRelease is not valid yet (invalid for another 3h)",
            "clock is behind (Tue Dec  1)",
        ),
        (
            "E: Release file for http://x/InRelease is expired (invalid since 9d)",
            "clock may be ahead (Tue Dec  1)",
        ),
        (
            "W: Failed to fetch http://x/InRelease  Temporary failure resolving 'x'",
            "/etc/resolv.conf",
        ),
        (
            "W: Failed to fetch http://x/InRelease  Could not connect to x:80 (10.0.0.1), connection timed out",
            "does not reach",
        ),
        (
            "Err:1 http://x Cannot initiate the connection to x:80. - connect (101: Network is unreachable)",
            "does not reach",
        ),
        (
            "E: Failed to fetch http://x/a.deb  404  Not Found [IP: 10.0.0.1 80]",
            "does not exist. Correct /etc/apt/sources.list",
        ),
        (
            "E: The repository 'http://x trixie Release' does not have a Release file.",
            "does not exist. Correct",
        ),
        ("W: GPG error: http://x InRelease: NO_PUBKEY 0123", "Install its key"),
        ("The following packages have unmet dependencies:", "sudo apt-get --fix-broken install"),
    ],
)
def test_what_apt_says_comes_with_what_to_do(host, words, said):
    told = host([""], [{"failed": True, "msg": "apt failed", "stderr": words}])["msg"]
    assert said in told
    assert told.endswith("Then run this again. apt says:\napt failed\nE: asked again")


def test_an_error_of_another_kind_is_left_as_it_is():
    assert explained({"failed": True, "msg": "No package matching 'x' is available"})[
        "msg"
    ].startswith("No package")


HOLD = """
import fcntl, sys, time
f = open(sys.argv[1], "w")
fcntl.lockf(f, fcntl.LOCK_EX)
print(flush=True)
time.sleep(60)
"""


def test_the_look_finds_the_process_that_has_a_lock(tmp_path):
    lock = tmp_path / "lock"
    free = tmp_path / "free"
    free.touch()
    look = packages.LOOK.replace(" ".join(packages.LOCKS), f"{lock} {free} {tmp_path}/missing")
    look = look.replace("/var/lib/dpkg/updates", str(tmp_path / "updates"))

    def ask():
        return subprocess.run(["sh", "-c", look], capture_output=True, text=True, check=True).stdout

    with subprocess.Popen([sys.executable, "-c", HOLD, lock], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        found = processes(ask(), str(tmp_path))
        holder.kill()
    assert [(process.has, process.pid) for process in found] == [(str(lock), str(holder.pid))]
    assert str(found[0]).startswith(sys.executable[:50])
    assert ask() == ""
    (tmp_path / "updates").mkdir()
    (tmp_path / "updates" / "0001").touch()
    assert ask() == f"{INTERRUPTED}\n"


# --- all in one go, without apt's module


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Return a function that runs the script with an apt-get that fails these times, and returns what it was asked for."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "lists").mkdir()
    monkeypatch.setattr(packages, "POLICY", str(tmp_path / "policy-rc.d"))
    monkeypatch.setattr(packages, "LISTS", str(tmp_path / "lists"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    asked = tmp_path / "asked"

    def run(failures=0):
        apt = tmp_path / "bin" / "apt-get"
        apt.write_text(
            f"""#!/bin/sh
            for word; do case $word in update|install) echo $word $(sh {tmp_path}/policy-rc.d; echo $?) >>{asked}; esac; done
            case " $* " in *" update "*) ;; *) [ $(grep -c install {asked}) -gt {failures} ];; esac
            """
        )
        apt.chmod(0o755)
        given = {"name": ["a", "b"], "policy_rc_d": 101, "cache_valid_time": 86400}
        command = packages.in_one_go(given)["_raw_params"]
        done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=False)
        return done.returncode == 0, asked.read_text().splitlines() if asked.exists() else []

    return run


UPDATE, INSTALL = "update 101", "install 101"  # with what services are told that would start


@pytest.mark.parametrize(
    ("lists", "age", "failures", "expected"),
    [
        (False, 0, 0, (True, [UPDATE, INSTALL])),
        (True, 0, 0, (True, [INSTALL])),
        (True, 90000, 0, (True, [UPDATE, INSTALL])),
        (True, 0, 1, (True, [INSTALL, UPDATE, INSTALL])),
        (True, 0, 2, (False, [INSTALL, UPDATE, INSTALL])),
        (False, 0, 1, (False, [UPDATE, INSTALL])),
    ],
)
def test_lists_are_read_anew_when_they_are_old_or_lack_a_package(
    script, tmp_path, lists, age, failures, expected
):
    if lists:
        (tmp_path / "lists" / "x_main_binary-amd64_Packages").touch()
    os.utime(tmp_path / "lists", (time.time() - age, time.time() - age))
    assert script(failures) == expected
    assert not (tmp_path / "policy-rc.d").exists()


def test_a_host_with_a_policy_of_its_own_is_the_modules(script, tmp_path):
    (tmp_path / "policy-rc.d").write_text("its own")
    assert script() == (False, [])
    assert (tmp_path / "policy-rc.d").read_text() == "its own"


@pytest.mark.parametrize(
    ("name", "check_mode", "results", "modules"),
    [
        ("nginx", False, [{}], ["command"]),
        ("nginx", False, [{"failed": True}, {}], ["command", "apt"]),
        ("nginx=1", False, [{}], ["apt"]),
        ("nginx", True, [{}], ["apt"]),
    ],
)
def test_what_is_not_plain_or_does_not_work_is_the_modules(
    host, name, check_mode, results, modules
):
    host([""], results, check_mode=check_mode, name=[name], policy_rc_d=101)
    assert host.modules == [f"ansible.legacy.{module}" for module in modules]
