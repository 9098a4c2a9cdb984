"""What the service may do on the host, and what each variable changes about that."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from outcomes import PROJECT, ROOT

SCENARIO = Path(__file__).resolve().parents[1]
FAULT_APP = {
    "api_endpoint_app_dir": "molecule/shared/fault_app", "api_endpoint_artifacts": [], "api_endpoint_smoke_requests": [],
}  # fmt: skip
METADATA = "169.254.169.254"  # where clouds tell an instance about itself


@pytest.fixture(scope="module")
def with_settings(playbook):
    """Return a function that brings settings live, and no others; after all tests the repository's own are live again."""

    def run(*options, **settings):
        given = {f"api_endpoint_{name}": value for name, value in settings.items()}
        done = playbook("--tags", "app,model", "-e", json.dumps({**FAULT_APP, **given}), *options)
        assert done.status == 0, done.output
        return done

    yield run
    assert playbook("--tags", "app,model").status == 0


def exposure(api):
    """What systemd thinks of the live slot's unit: 0 is safe, 10 is not."""
    said = api.host.run(f"systemd-analyze security --no-pager {api.unit}").stdout
    return float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)[1])


def connects(api, host, port):
    return api.get(f"/connect?host={host}&port={port}").json["connected"]


@pytest.fixture
def listener(api):
    """A server at the address of a cloud's metadata, and at one of the host's own."""
    own = api.host.check_output("hostname -i").split()[0]
    api.host.check_output(
        f"ip address add {METADATA}/32 dev lo && "
        "systemd-run --quiet --unit=listener python3 -m http.server 8169 --bind 0.0.0.0"
    )
    yield own
    api.host.check_output(f"systemctl stop listener && ip address del {METADATA}/32 dev lo")


def test_the_app_reaches_the_network_but_not_what_the_cloud_tells_its_instances(api, with_settings, listener):
    with_settings()
    assert exposure(api) <= 1.2
    assert connects(api, listener, 8169)
    assert not connects(api, METADATA, 8169)


def test_an_app_that_needs_no_network_gets_none(api, with_settings, listener):
    with_settings(outbound_network=False, jit=False)
    assert exposure(api) <= 0.8
    assert not connects(api, listener, 8169)
    assert api.get("/readyz").status == 200
    limits = api.host.check_output(f"systemctl show --property=MemoryDenyWriteExecute,PrivateNetwork --value {api.unit}")
    assert limits.split() == ["yes", "yes"]


def test_limits_are_set_and_can_be_changed(api, on_one_host, with_settings):
    with_settings(memory_limit="3G", service_settings={"LimitNOFILE": 5000, "TasksMax": 300, "CPUWeight": 50})
    shown = api.host.check_output(
        "systemctl show --property=MemoryMax,TasksMax,LimitNOFILE,LimitCORE,OOMPolicy,CPUWeight " + api.unit
    )
    assert set(shown.splitlines()) == {
        f"MemoryMax={3 * 2**30}", "TasksMax=300", "LimitNOFILE=5000", "LimitCORE=0", "OOMPolicy=continue", "CPUWeight=50",
    }  # fmt: skip


def test_secrets_reach_the_app_and_nobody_else(api, on_one_host, with_settings):
    secrets = {"API_KEY": 'a "secret" of $HOME \\ `x` ü', "LINES": "first-line\nsecond-line"}
    run = with_settings("--diff", "-vvv", secrets=secrets)
    for name, value in secrets.items():
        assert api.get(f"/secret?name={name}").json["value"] == value
    words = ("of $HOME", "second-line")
    for word in words:
        assert word not in run.output
        where = f"/var/log /etc {ROOT}/releases {ROOT}/history.json /tmp /var/tmp /run"
        assert api.host.run(f"grep -rlF '{word}' {where} 2>/dev/null").stdout == ""
        assert api.host.run(f"journalctl --no-pager --output=export | grep --text -F '{word}'").stdout == ""
        assert api.host.run(f"ps -eww -o args | grep -v grep | grep -F '{word}'").stdout == ""
    file = api.host.run(f"find {ROOT}/secrets -type f").stdout.split()
    assert len(file) == 1
    assert api.host.file(file[0]).mode == 0o600
    assert api.as_service(f"cat {file[0]}").rc != 0


def test_core_dumps_are_off(api):
    for unit in (api.unit, "nginx.service"):
        for pid in api.workers(unit):
            limits = api.host.file(f"/proc/{pid}/limits").content_string
            assert re.search(r"Max core file size\s+0\s", limits), unit


def test_pytorch_runs_under_the_defaults(api, on_one_host, with_settings, tmp_path):
    """The build of PyTorch for the CPU; what pip would fetch by itself is several gigabytes larger."""
    app = SCENARIO / "pytorch_app"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--dest", tmp_path, "--only-binary=:all:",
         "--python-version=3.11", "--requirement", app / "requirements.txt", "gunicorn==27.0.1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0 and os.environ.get("CI") != "true":
        pytest.skip("no build of PyTorch for the CPU is to be had here")
    assert done.returncode == 0, done.stderr
    subprocess.run(["docker", "cp", "--quiet", f"{tmp_path}/.", f"{api.container}:/srv/wheels"], check=True)
    api.host.check_output("chmod -R a+rX /srv/wheels")
    with_settings(
        app_dir=str(app.relative_to(PROJECT)), pip_options=["--no-index", "--find-links=/srv/wheels"],
        profile="pytorch", workers=1,
    )  # fmt: skip
    answer = api.get("/")
    assert answer.status == 200, answer.body
    assert len(answer.json["scores"]) == 2
    assert exposure(api) <= 1.3  # /proc/cpuinfo
