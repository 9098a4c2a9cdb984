"""A killed process comes back, and no other one goes with it. The other masters: molecule/default/tests/test_faults.py."""

import subprocess

import pytest
from faults import THREADS, fault
from load import POOL
from outcomes import MARKED_ADDRESS, wait_until

NO_NGINX = {"connection refused", "closed before the answer", "closed within the answer"}
SLOW = "/sleep?seconds=0.1"  # so that some requests are in flight when their worker dies


def test_a_worker_of_gunicorn(api):
    main, before = api.processes
    with fault(api, "kill -9 of a gunicorn worker", path=SLOW) as found:
        api.kill(before[0])
        wait_until(
            lambda: len(api.workers()) == 2 and before[0] not in api.workers(),
            "there is a new worker",
        )
    assert api.main_pid() == main
    assert before[1] in api.workers(), "the other worker went too"
    assert found.kinds <= {"status 502"}, str(found)
    assert found.load.failed <= THREADS, f"more requests failed than the worker had: {found}"


def test_the_master_of_gunicorn(api):
    main, _workers = api.processes
    nginx = api.main_pid("nginx.service")
    with fault(api, "kill -9 of gunicorn's master") as found:
        api.kill(main)
        wait_until(lambda: api.main_pid() not in (0, main), "there is a new master")
    assert api.main_pid("nginx.service") == nginx
    # systemd kills the workers too, each perhaps between an answer's head and its body.
    assert found.kinds <= {"status 502", "status 504", "closed within the answer"}, str(found)
    assert found.count("closed within the answer") <= 2 * THREADS, str(found)


@pytest.mark.full
def test_a_worker_of_nginx(api):
    main, workers = api.main_pid("nginx.service"), api.workers("nginx.service")
    with fault(api, "kill -9 of an nginx worker", path=SLOW) as found:
        api.kill(workers[0])
        wait_until(
            lambda: len(set(api.workers("nginx.service")) - {workers[0]}) == len(workers),
            "a new worker",
        )
    assert api.main_pid("nginx.service") == main
    assert found.kinds <= NO_NGINX - {"connection refused"}, str(found)
    assert found.load.failed <= POOL + 2 * THREADS, (
        f"more requests failed than the worker had connections: {found}"
    )


def test_the_master_of_nginx(api):
    main, app = api.main_pid("nginx.service"), api.processes
    with fault(api, "kill -9 of nginx's master") as found:
        api.kill(main)
        wait_until(lambda: api.main_pid("nginx.service") not in (0, main), "there is a new master")
    assert api.processes == app
    assert found.kinds <= NO_NGINX, str(found)


def test_rsyslog(api):
    log = "/var/log/nginx/error.log"
    main = api.main_pid("rsyslog.service")
    with fault(api, "kill -9 of rsyslog") as found:
        api.kill(main)
        # Nothing may be written with an address while rsyslog is away, either.
        api.ask("POST", "/during", b"x" * 2_000_000)
        wait_until(lambda: api.main_pid("rsyslog.service") not in (0, main), "rsyslog is back")
    assert not found.load.failed, str(found)

    def is_logged():
        api.ask("POST", "/afterwards", b"x" * 2_000_000)
        return "/afterwards" in api.host.check_output(f"cat {log}")

    wait_until(is_logged, "nginx's errors are logged again")
    written = api.host.check_output(f"cat {log}")
    assert "client: 0.0.0.0" in written
    caller = api.host.check_output("ip route show default").split()[2]
    for address in (caller, MARKED_ADDRESS):
        assert address not in written


@pytest.mark.full
@pytest.mark.parametrize("seconds", [20, 0], ids=["in order", "by a power cut"])
def test_the_host(api, seconds):
    with fault(api, f"restart of the host, {seconds} s to stop", rate=0) as found:
        subprocess.run(
            ["docker", "restart", "--time", str(seconds), api.container],
            check=True,
            capture_output=True,
        )
    assert found.load.failed
    assert api.host.run("systemctl is-active rsyslog").stdout.strip() == "active"
    assert api.host.check_output("systemctl list-units --failed --plain --no-legend") == ""
