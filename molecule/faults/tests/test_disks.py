"""Full disks: each is a tmpfs of some hundred kilobytes, mounted over the folder in question."""

import contextlib
import time

import pytest
from faults import fault
from outcomes import MARKED_ADDRESS, MARKED_AGENT, ROOT, assert_json_error, wait_until

NGINX, GUNICORN = "/var/log/nginx", "/var/log/gunicorn"
DATA = "/srv/api-endpoint/data"


@contextlib.contextmanager
def tiny(api, folder: str, kilobytes: int):
    """Mount a tiny disk over a folder, with what is in it."""
    host = api.host
    copy = "/root/below"
    rights = host.check_output(f"stat --format uid=%u,gid=%g,mode=%a {folder}")
    host.check_output(
        f"rm -rf {copy} && cp -a {folder} {copy} && mount -t tmpfs -o size={kilobytes}k,{rights} tmpfs {folder} "
        f"&& cp -a {copy}/. {folder}/"
    )
    try:
        yield
    finally:
        host.check_output(f"umount --lazy {folder}")


def reopen(api):
    """Have everybody open the logs anew, as logrotate does."""
    api.host.check_output(
        "systemctl kill --signal=USR1 --kill-whom=main nginx.service 'api-endpoint@*.service'"
    )
    api.host.check_output("systemctl kill --signal=HUP --kill-whom=main rsyslog.service")


def fill(api, folder: str) -> None:
    """Leave no byte free."""
    api.host.run(f"cat /dev/zero > {folder}/filler 2>/dev/null")
    assert api.host.check_output(f"df --output=avail {folder} | tail -1").strip() == "0"


def logs(api) -> dict[str, str]:
    """The logs, by the end of their paths."""
    names = ("nginx/access.log", "nginx/error.log", "gunicorn/access.log", "gunicorn/error.log")
    return {name: api.host.check_output(f"cat /var/log/{name}") for name in names}


def write_to_all(api, mark: str) -> None:
    """Ask what each log gets a line about."""
    api.get(f"/traceback?{mark}")
    api.get(f"/status/500?{mark}")
    assert_json_error(api.ask("POST", f"/{mark}", b"x" * 2_000_000), 413)


def written(api, mark: str) -> dict[str, bool]:
    """Return whether each log gets the lines about requests that are sent now."""
    write_to_all(api, mark)
    wanted = {"gunicorn/error.log": "RuntimeError"}
    return {
        name: wanted.get(name, mark) in text.rpartition("page")[2]
        for name, text in logs(api).items()
    }


def test_the_disk_of_the_logs_is_full(api):
    host, before = api.host, api.processes
    nginx, rsyslog = api.main_pid("nginx.service"), api.main_pid("rsyslog.service")
    host.check_output(
        "logrotate --force /etc/logrotate.d/nginx && logrotate --force /etc/logrotate.d/api-endpoint"
    )
    host.check_output(f"rm -f {NGINX}/*.log.* {GUNICORN}/*.log.*")
    since = host.check_output("date +%s")
    with tiny(api, NGINX, 300), tiny(api, GUNICORN, 300):
        reopen(api)
        wait_until(lambda: all(written(api, "early").values()), "all logs are on the tiny disks")
        with fault(api, "the disk of the logs is full") as found:
            for folder in (NGINX, GUNICORN):
                fill(api, folder)
            # The last page of each file has some room left.
            for _ in range(40):
                write_to_all(api, "page")
            write_to_all(api, "lost")
        assert not found.load.failed, str(found)
        for name, text in logs(api).items():
            assert "lost" not in text, f"{name} was written: was its disk full?"
        # The lines that could not be written are nowhere else, least of all the client's address.
        journal = host.check_output(f"journalctl --no-pager --since=@{since} --output=cat")
        for mark in (MARKED_AGENT, MARKED_ADDRESS, "page.example"):
            assert mark not in journal
        host.check_output(f"rm {NGINX}/filler {GUNICORN}/filler")
        begun = time.monotonic()
        wait_until(
            lambda: all(written(api, "found").values()),
            "each log goes on once there is room, without a restart",
        )
        found.note = (
            f"with room again, each log goes on by itself within {time.monotonic() - begun:.1f} s"
        )
        errors = logs(api)["nginx/error.log"]
        assert "client: 0.0.0.0" in errors
        assert MARKED_ADDRESS not in errors
    reopen(api)
    assert api.processes == before
    assert (api.main_pid("nginx.service"), api.main_pid("rsyslog.service")) == (nginx, rsyslog)


@pytest.mark.full
def test_the_disk_of_the_data_is_full(api, deploy, tmp_path):
    before, processes = api.release, api.processes
    large = tmp_path / "large.bin"
    large.write_bytes(b"x" * 5_000_000)
    new = [{"dest": "words.txt", "src": str(large)}]
    with tiny(api, DATA, 1000):
        fill(api, DATA)
        with fault(api, "the disk of the data is full, and new data is deployed") as found:
            run = deploy("--tags", "model", artifacts=new)
        assert run.status != 0
        assert f"The disk of {DATA} has 0 bytes free, and 5.0 MB are needed" in run.said, run.output
        assert not found.load.failed, str(found)
        assert (api.release, api.processes) == (before, processes)
    with fault(api, "there is room again: the next deployment") as found:
        run = deploy("--tags", "model", artifacts=new)
    assert run.status == 0, run.output
    assert not found.load.failed, str(found)
    assert api.release != before
    assert api.as_service(f"head -c 3 {ROOT}/current/words.txt").stdout == "xxx"
    assert deploy("--tags", "model").status == 0
    assert api.release == before
