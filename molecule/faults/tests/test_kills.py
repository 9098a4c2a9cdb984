"""What is killed comes back, and nobody else goes with it."""

import subprocess

import pytest
from breaking import fault, kinds
from outcomes import wait_until

NOBODY = {"connection refused", "closed before the answer"}  # what a client sees when no nginx is there
SLOW = "/sleep?seconds=0.1"  # so that some requests are under way when their worker dies


def test_a_worker_of_gunicorn(api):
    main, before = api.processes
    with fault(api, "kill -9 of a gunicorn worker", within=2, path=SLOW) as found:
        api.kill(before[0])
    wait_until(lambda: len(api.workers()) == len(before), "there is a new worker", 5)
    assert api.main_pid() == main
    assert before[0] not in api.workers()
    assert before[1] in api.workers(), "the other worker went too"
    assert kinds(found) <= {"status 502"}, str(found)


def test_the_master_of_gunicorn(api):
    main, workers = api.processes
    nginx = api.main_pid("nginx.service")
    with fault(api, "kill -9 of gunicorn's master", within=10) as found:
        api.kill(main)
    assert api.main_pid() not in (0, main)
    assert api.main_pid("nginx.service") == nginx
    # systemd kills the workers too, each perhaps between an answer's head and its body.
    assert kinds(found) <= {"status 502", "status 504", "closed within the answer"}, str(found)
    cut_off = [failure["count"] for failure in found.load.failures if failure["kind"] == "closed within the answer"]
    assert sum(cut_off) <= len(workers), str(found)
    assert found.errors, "nobody saw an error: was it killed?"


def test_a_worker_of_nginx(api):
    main, workers = api.main_pid("nginx.service"), api.workers("nginx.service")
    with fault(api, "kill -9 of an nginx worker", within=2, path=SLOW) as found:
        api.kill(workers[0])
    assert api.main_pid("nginx.service") == main
    assert len(api.workers("nginx.service")) == len(workers)
    assert workers[0] not in api.workers("nginx.service")
    assert kinds(found) <= {"closed before the answer", "closed within the answer"}, str(found)


def test_the_master_of_nginx(api):
    main, app = api.main_pid("nginx.service"), api.processes
    with fault(api, "kill -9 of nginx's master", within=10) as found:
        api.kill(main)
    assert api.main_pid("nginx.service") not in (0, main)
    assert api.processes == app
    assert kinds(found) <= NOBODY | {"closed within the answer"}, str(found)


def test_rsyslog(api):
    log = "/var/log/nginx/error.log"
    main = api.main_pid("rsyslog.service")
    with fault(api, "kill -9 of rsyslog", within=1) as found:
        api.kill(main)
        # While nobody listens, nothing may be written with an address either.
        api.ask("POST", "/during", b"x" * 2_000_000)
        wait_until(lambda: api.main_pid("rsyslog.service") not in (0, main), "rsyslog is back", 10)
    assert kinds(found) == set(), str(found)

    def is_logged():
        api.ask("POST", "/afterwards", b"x" * 2_000_000)
        return "/afterwards" in api.host.check_output(f"cat {log}")

    wait_until(is_logged, "nginx's errors are logged again", 15)
    written = api.host.check_output(f"cat {log}")
    assert "client: 0.0.0.0" in written
    caller = api.host.check_output("ip route show default").split()[2]
    for address in (caller, "203.0.113.77"):
        assert address not in written


@pytest.mark.parametrize("how", ["in order", "by a power cut"])
def test_the_host(api, how):
    with fault(api, f"restart of the host, {how}", within=30, rate=0) as found:
        command = ["docker", "restart", "--time", "20"] if how == "in order" else ["docker", "restart", "--time", "0"]
        subprocess.run([*command, api.container], check=True, capture_output=True)
    assert found.load.failed
    assert api.host.run("systemctl is-active rsyslog").stdout.strip() == "active"
    assert api.host.check_output("systemctl list-units --failed --plain --no-legend") == ""
