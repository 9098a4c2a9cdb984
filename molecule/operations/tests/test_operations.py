"""The playbooks status and logs, against traffic that is known."""

import json
import re
import subprocess

import pytest
from conftest import FAILED, LOG, NOT_FOUND, PLAIN, REQUESTS, SCENARIO, SLOW, seconds
from outcomes import Run

BARE = "operations-bare"
GONE = "operations-gone"
STATE = "find /var/lib/api-endpoint /etc/nginx /var/log/api-endpoint -printf '%p %T@ %m\n' | sort"


def row_of(run: Run, host: str) -> list[str]:
    """Return the cells of a host's line in the table."""
    assert run.status == 0, run.output
    lines = [
        line.strip()
        for line in run.output.partition("PLAY RECAP")[0].splitlines()
        if re.match(rf"\s*{host}  ", line)
    ]
    assert len(lines) == 1, run.output
    return re.split(r" {2,}", lines[0])


@pytest.fixture(scope="module")
def others(api, tmp_path_factory):
    """An inventory with a host of the same image that was never set up, and one that cannot be reached."""
    hosts = {
        BARE: {"ansible_connection": "community.docker.docker"},
        GONE: {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1},
    }
    path = tmp_path_factory.mktemp("inventory") / "others.json"
    path.write_text(json.dumps({"api_endpoints": {"hosts": hosts}}))
    subprocess.run(["docker", "rm", "--force", BARE], capture_output=True, check=False)
    docker = ["docker", "run", "--detach", "--rm", "--name", BARE, api.image, "sleep", "infinity"]
    subprocess.run(docker, capture_output=True, check=True)
    yield str(path)
    subprocess.run(["docker", "rm", "--force", BARE], capture_output=True, check=True)


def assert_figures(api, row: list[str]) -> None:
    """A healthy host's line: its release, its memory, its requests."""
    host, release, since, healthy, memory, free, *figures = row
    assert (host, release, healthy) == (api.container, api.release, "yes")
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d", since)
    assert 20 < int(re.fullmatch(r"(\d+) MB", memory)[1]) < 500
    assert re.fullmatch(r"[\d,.]+ GB", free)
    assert figures[:3] == [str(REQUESTS), str(FAILED), str(NOT_FOUND)]
    assert seconds(figures[3]) < seconds(figures[4])
    assert seconds(figures[4]) >= SLOW
    assert figures[5:] == []


# --- status


def test_all_hosts_are_in_one_table_with_exact_figures(everywhere, api, traffic, others):
    before = api.host.check_output(STATE)
    run = everywhere(
        "-i", others, "-e", f"@{SCENARIO / 'vars.yml'}", name="playbooks/status.yml", environment=PLAIN,
    )  # fmt: skip
    assert_figures(api, row_of(run, api.container))
    assert row_of(run, BARE)[-1] == "never set up"
    assert row_of(run, GONE)[-1].startswith("cannot be reached: ")
    assert "refused" in row_of(run, GONE)[-1]
    assert run.output.count("since (UTC)") == 1
    assert set(run.changed) == {0}
    assert api.host.check_output(STATE) == before


@pytest.mark.full
def test_a_dry_run_tells_the_same(operator, api, traffic):
    run = operator("status", "--check")
    assert_figures(api, row_of(run, api.container))
    assert run.changed == [0]


# --- logs


def test_the_logs_show_their_last_lines(operator, api, traffic):
    api.get("/first")
    for _ in range(4):
        api.get("/status/418")
    api.get("/traceback")
    assert "GET /first" in api.host.check_output(f"tail -n 6 {LOG} | head -n 1")
    run = operator("logs", log_lines=5)
    assert run.status == 0, run.output
    parts = dict(re.findall(r"^ *--- (.*)\n((?:(?! *---|\n).*\n)*)", run.output, re.MULTILINE))
    assert list(parts) == [
        LOG, "/var/log/nginx/error.log", "/var/log/gunicorn/access.log", "/var/log/gunicorn/error.log",
        "/var/log/api-endpoint/deploys.log", "journal of api-endpoint@*.service",
    ]  # fmt: skip
    shown = parts[LOG].splitlines()
    assert len(shown) == 5
    assert sum("/status/418" in line for line in shown) == 4
    assert "GET /traceback" in shown[-1]
    assert "/first" not in run.output
    assert len(parts["/var/log/gunicorn/access.log"].splitlines()) == 5
    assert "a bug, as asked" in parts["/var/log/gunicorn/error.log"]
    assert f"release={api.release}" in parts["/var/log/api-endpoint/deploys.log"]
    assert re.search(
        r"T[\d:]+\+\S+ systemd\[1\]: Started ", parts["journal of api-endpoint@*.service"]
    )
    assert run.changed == [0]
