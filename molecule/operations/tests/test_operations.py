"""What the playbooks say, against traffic that is known."""

import json
import os
import re
import subprocess

import pytest
from conftest import FAILED, LOG, NOT_FOUND, PLAIN, REQUESTS, SCENARIO, SLOW
from outcomes import PROJECT, Run

BARE = "operations-bare"
GONE = "operations-gone"


def row_of(run: Run, host: str) -> list[str]:
    """Return the cells of a host's line in the table."""
    assert run.status == 0, run.output
    lines = [line.strip() for line in run.output.partition("PLAY RECAP")[0].splitlines() if re.match(rf"\s*{host}  ", line)]
    assert len(lines) == 1, run.output
    return re.split(r" {2,}", lines[0])


@pytest.fixture(scope="module")
def bare():
    """A host of the same image that was never set up."""
    docker = ["docker", "run", "--detach", "--rm", "--name", BARE, "api-endpoint-testhost:debian12", "sleep", "600"]
    subprocess.run(["docker", "rm", "--force", BARE], capture_output=True, check=False)
    subprocess.run(docker, capture_output=True, check=True)
    yield
    subprocess.run(["docker", "rm", "--force", BARE], capture_output=True, check=True)


# --- status


def test_the_figures_are_exact(operator, api, traffic):
    before = api.host.check_output(
        "find /var/lib/api-endpoint /etc/nginx /var/log/api-endpoint -printf '%p %T@ %m\n' | sort"
    )
    for options in ([], ["--check"]):
        run = operator("status", *options)
        host, release, since, healthy, memory, free, *figures = row_of(run, api.container)
        assert (host, release, healthy) == (api.container, api.release, "yes")
        assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d", since)
        assert 20 < int(re.fullmatch(r"(\d+) MB", memory)[1]) < 500
        assert re.fullmatch(r"[\d,.]+ GB", free)
        assert figures[:3] == [str(REQUESTS), str(FAILED), str(NOT_FOUND)]
        assert re.fullmatch(r"\d+ ms", figures[3])
        assert re.fullmatch(SLOW, figures[4])
        assert figures[5:] == []
        assert run.changed == [0]
    assert (
        api.host.check_output("find /var/lib/api-endpoint /etc/nginx /var/log/api-endpoint -printf '%p %T@ %m\n' | sort")
        == before
    )


def test_all_hosts_are_in_one_table(api, traffic, bare, on_one_host, tmp_path):
    others = {
        BARE: {"ansible_connection": "community.docker.docker"},
        GONE: {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1},
    }
    (tmp_path / "others.json").write_text(json.dumps({"api_endpoints": {"hosts": others}}))
    command = [
        "ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], "-i", str(tmp_path / "others.json"),
        "-e", f"@{SCENARIO / 'vars.yml'}", str(PROJECT / "playbooks" / "status.yml"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=PROJECT, env={**os.environ, **PLAIN}, capture_output=True, text=True, check=False)
    run = Run(done.returncode, done.stdout)
    assert row_of(run, BARE)[-1] == "never set up"
    assert row_of(run, GONE)[-1].startswith("cannot be reached: ")
    assert "refused" in row_of(run, GONE)[-1]
    assert row_of(run, "operations-debian12")[3] == row_of(run, "operations-debian13")[3] == "yes"
    assert run.output.count("since (UTC)") == 1


def test_a_host_that_is_down_is_not_healthy(operator, api, traffic, on_one_host):
    api.host.check_output(f"systemctl stop {api.unit}")
    try:
        row = row_of(operator("status"), api.container)
    finally:
        api.host.check_output(f"systemctl start {api.unit}")
        api.wait_until_it_answers("/readyz")
    assert row[3:5] == ["NO", "0 MB"]
    assert "status 502" in row[-1]
    assert row[6:9] == [str(REQUESTS), str(FAILED), str(NOT_FOUND)]


# --- logs


def test_the_logs_show_their_last_lines(operator, api, traffic):
    api.get("/first")
    for _ in range(4):
        api.get("/status/418")
    api.get("/traceback")
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
    assert re.search(r"T[\d:]+\+\S+ systemd\[1\]: Started ", parts["journal of api-endpoint@*.service"])
    assert run.changed == [0]
    longer = operator("logs", log_lines=6)
    assert "/first" in longer.output
    assert "api_endpoint_log_lines is 0" in operator("logs", log_lines=0).said
