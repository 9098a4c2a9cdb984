"""The unit that serves the live release again when a rollout dies, run command by command on this machine."""

import fcntl
import os
import re
import shlex
import subprocess

import pytest
from outcomes import wait_until
from rendering import render


@pytest.fixture
def fallback(tmp_path, monkeypatch):
    """Return a function that runs the unit's commands against a host in a folder, and returns what systemctl was told."""
    root, run, log = tmp_path / "root", tmp_path / "run", tmp_path / "systemctl.log"
    for folder in (root / "slots" / "blue", root / "slots" / "green", run, tmp_path / "bin"):
        folder.mkdir(parents=True)
    for slot in ("blue", "green"):
        (root / "slots" / slot / "gunicorn.sock").symlink_to(f"{run}/waiting.sock")
    (root / "live").symlink_to("slots/green")
    unit = render(
        "api-endpoint-fallback.service.j2", api_endpoint_name="api", api_endpoint_root=str(root)
    )
    for name in ("systemctl", "sleep"):
        words = (
            f'echo "$*" >> {log}; [ "$1" != show ] || echo inactive' if name == "systemctl" else ":"
        )
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{words}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    # As systemd reads them: two dollars are one, and a minus lets a command fail.
    lines = re.findall(r"^ExecStart=(-?)(.*)$", unit, re.M)
    moved = {"$$": "$", "/run/api/": f"{run}/", "/bin/systemctl": "systemctl"}
    commands = []
    for may_fail, line in lines:
        for old, new in moved.items():
            line = line.replace(old, new)
        commands.append((may_fail, shlex.split(line)))

    def act():
        for may_fail, command in commands:
            subprocess.run(command, check=not may_fail, capture_output=True, timeout=60)
        return log.read_text().splitlines()

    act.commands, act.root, act.run = commands, root, run
    return act


def test_the_live_slot_alone_runs_and_gets_the_requests(fallback):
    assert fallback() == [
        "disable --now api@blue.service", "start api@green.service",
        "show --property=ActiveState --value api-waiting.service", "stop api-waiting.socket api-waiting.service",
    ]  # fmt: skip
    assert (
        os.readlink(fallback.root / "slots" / "green" / "gunicorn.sock")
        == f"{fallback.run}/green/gunicorn.sock"
    )
    assert not (fallback.run / "resume").exists()


def test_without_the_link_live_no_slot_is_stopped_and_no_request_kept(fallback):
    (fallback.root / "live").unlink()
    done = fallback()
    assert not [line for line in done if line.startswith(("disable", "start"))]
    assert done[-1] == "stop api-waiting.socket api-waiting.service"


def test_it_begins_when_the_roll_out_has_ended(fallback):
    with open(fallback.run / "deploying", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        first = subprocess.Popen(fallback.commands[0][1])
        with pytest.raises(subprocess.TimeoutExpired):
            first.wait(0.3)
    wait_until(lambda: first.poll() == 0, "it begins", seconds=20)
