"""Killed masters and restarted hosts come back; a rotation loses no log line. More: scenario faults."""

import subprocess
import time

import pytest
from outcomes import wait_until


def assert_serves(api):
    api.wait_until_it_answers("/readyz")
    assert api.running == api.enabled == [api.unit]
    for unit in ("nginx", "rsyslog"):
        assert api.host.run(f"systemctl is-active {unit}").stdout.strip() == "active"


@pytest.mark.parametrize("which", ["gunicorn", "nginx"])
def test_a_master_is_killed(api, which):
    unit = api.unit if which == "gunicorn" else "nginx.service"
    before = api.main_pid(unit)
    api.kill(before)
    wait_until(lambda: api.main_pid(unit) not in (0, before), f"there is a new master of {which}")
    assert_serves(api)


def test_the_host_restarts(api):
    subprocess.run(
        ["docker", "restart", "--time", "20", api.container], check=True, capture_output=True
    )
    assert_serves(api)


def test_rotation_loses_no_line(api):
    """Requests go on while the logs are rotated, twice; what was renamed first is compressed then."""
    host, mark = api.host, f"/counted-{time.time_ns()}"
    rotate = "logrotate --force /etc/logrotate.d/nginx && logrotate --force /etc/logrotate.d/api-endpoint"
    sent = 0

    def send(count):
        nonlocal sent
        for _ in range(count):
            assert api.get(f"{mark}?n={sent}").status == 404
            sent += 1
            time.sleep(0.02)  # no client may send more than 100 a second

    send(50)
    for _ in range(2):
        rotation = subprocess.Popen(["docker", "exec", api.container, "sh", "-c", rotate])
        while rotation.poll() is None:
            send(1)
        assert rotation.returncode == 0
        send(50)

    for log in ("/var/log/nginx/access.log", "/var/log/gunicorn/access.log"):

        def written(option, log=log):
            return set(
                host.run(f"zgrep {option} --fixed-strings {mark} {log}*").stdout.splitlines()
            )

        wait_until(lambda: len(written("--no-filename")) == sent, f"{sent} lines are in {log}")
        assert len(written("--files-with-matches")) == 3, (
            "a log file got no line between or after the rotations"
        )
    api.ask("POST", f"{mark}-error", b"x" * 2_000_000)
    errors = "/var/log/nginx/error.log"
    wait_until(
        lambda: f"{mark}-error" in host.check_output(f"cat {errors}"),
        "the new error log is written",
    )
    assert host.file("/var/log/gunicorn/access.log").mode == 0o640
