"""What dies comes back, on both Debians. How long it takes and what clients see is measured by the scenario faults."""

import subprocess
import time

import pytest
from outcomes import wait_until


def kill_and_wait(api, pid):
    api.kill(pid)
    time.sleep(0.3)
    api.wait_until_it_answers("/readyz", 30)


def test_a_worker_is_killed(api):
    before = api.workers()
    kill_and_wait(api, before[0])
    wait_until(lambda: len(api.workers()) == len(before), "there is a new worker", 30)
    assert before[0] not in api.workers()


@pytest.mark.parametrize("which", ["gunicorn", "nginx"])
def test_a_master_is_killed(api, which):
    unit = api.unit if which == "gunicorn" else "nginx.service"
    before = api.main_pid(unit)
    kill_and_wait(api, before)
    assert api.main_pid(unit) not in (0, before)


def test_a_worker_of_nginx_is_killed(api):
    kill_and_wait(api, api.workers("nginx.service")[0])


def test_the_host_restarts(api):
    subprocess.run(["docker", "restart", "--time", "20", api.container], check=True, capture_output=True)
    api.wait_until_it_answers("/readyz")
    assert api.running == [api.unit]
    assert api.host.run("systemctl is-active rsyslog").stdout.strip() == "active"


def test_rotation_leaves_nobody_writing_to_an_old_file(api):
    host = api.host
    api.ask("POST", "/before", b"x" * 2_000_000)
    time.sleep(1)
    host.check_output("logrotate --force /etc/logrotate.d/nginx && logrotate --force /etc/logrotate.d/api-endpoint")
    time.sleep(1)
    api.get("/rotated")
    api.ask("POST", "/rotated", b"x" * 2_000_000)
    time.sleep(1)
    for log in ("nginx/access", "nginx/error", "gunicorn/access"):
        assert "/rotated" in host.check_output(f"cat /var/log/{log}.log"), f"{log}.log is not written after a rotation"
        assert "/rotated" not in host.check_output(f"cat /var/log/{log}.log.1"), f"{log}.log.1 is still written"
    assert host.file("/var/log/gunicorn/access.log").mode == 0o640


def test_rotation_loses_no_line(api):
    """Requests go on while the logs are rotated, twice; what was pushed aside first is packed then."""
    rotate = "logrotate --force /etc/logrotate.d/nginx && logrotate --force /etc/logrotate.d/api-endpoint"
    mark = f"/counted-{time.time_ns()}"
    for number in range(400):
        if number in (100, 250):
            api.host.check_output(f"systemd-run --quiet --unit=rotate-{number} sh -c '{rotate}'")
        assert api.get(f"{mark}?n={number}").status == 404
        time.sleep(0.02)  # no client may ask for more than 100 a second
    time.sleep(1)
    for log in ("nginx/access", "gunicorn/access"):
        written = api.host.check_output(f"zgrep --no-filename --fixed-strings {mark} /var/log/{log}.log*")
        assert len(set(written.splitlines())) == 400, f"{log}: lines are lost"
    packed = api.host.check_output(f"zgrep --files-with-matches --fixed-strings {mark} /var/log/nginx/access.log*").split()
    assert len(packed) == 3, f"it was not rotated meanwhile: {packed}"
